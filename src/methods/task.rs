//! What a training sees at each step: target images of all concepts and their class images, as latents,
//! with captions.
//!
//! Target and class images are half of a batch each, and concepts take turns, so that few target images
//! are seen as often as many class images; of each set every image comes once before one comes again.
//! The loss of target and class images counts alike, as in the authors' code (diffusers' script, which
//! sums target errors over the latent channels and averages those of class images, weighs targets four
//! times as much).

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use image::RgbImage;

use super::{ClassPicture, Instance, Settings, instance_prompt};
use crate::data::{augment, fit};
use crate::diffusion::model::Posterior;
use crate::diffusion::scheduler::NoiseSchedule;
use crate::diffusion::{Backbone, from_rgb};
use crate::nn::{Var, no_grad, parallel};
use crate::rng::Rng;
use crate::train::{BatchSize, FixedTexts, Noised, Part, Streams, Task, loss};
use crate::{Error, Result};

/// A training's images.
pub(super) struct ImageTask<'a> {
    backbone: &'a Backbone,
    settings: &'a Settings,
    subjects: Vec<Subject<'a>>,
    schedule: NoiseSchedule,
    /// Of the images, in pixels.
    side: usize,
    /// Of the latents.
    latent: usize,
    /// Means and logarithms of variances of latents [1, channels, h, w], of images that are seen as they
    /// are.
    encoded: HashMap<Source, (Tensor, Tensor)>,
    texts: FixedTexts,
}

/// A concept: its images and what they are called.
struct Subject<'a> {
    caption: String,
    pictures: &'a [RgbImage],
    class: &'a [ClassPicture],
}

/// An image, mirrored or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Source {
    subject: usize,
    class: bool,
    index: usize,
    mirrored: bool,
}

/// What a batch shows at one place.
enum Shown {
    /// An image as it is.
    Whole(Source),
    /// An image of this step alone.
    Fresh(RgbImage),
}

impl<'a> ImageTask<'a> {
    /// The images of `instances`, called `phrases`.
    ///
    /// # Errors
    /// [`Error::Input`] for a concept without images, or without class images where there should be
    /// some.
    pub fn new(
        backbone: &'a Backbone,
        settings: &'a Settings,
        instances: &'a [Instance],
        phrases: &[String],
    ) -> Result<Self> {
        let mut subjects = vec![];
        for (instance, phrase) in instances.iter().zip(phrases) {
            let missing = |what: &str| {
                Err(Error::input(format!("the concept `{}` has no {what}", instance.name)))
            };
            if instance.pictures.is_empty() {
                return missing("images");
            }
            if settings.class_batch() > 0 && instance.class.is_empty() {
                return missing("class images, but the settings ask for regularisation");
            }
            subjects.push(Subject {
                caption: instance_prompt(phrase),
                pictures: &instance.pictures,
                class: &instance.class[..instance.class.len().min(settings.class_images)],
            });
        }
        let (width, height) = backbone.default_size();
        let side = width.min(height);
        let (latent, _) = backbone.latent_size(side, side)?;
        let schedule = NoiseSchedule::new(&backbone.scheduler);
        let (encoded, texts) = (HashMap::new(), FixedTexts::default());
        Ok(ImageTask { backbone, settings, subjects, schedule, side, latent, encoded, texts })
    }

    fn picture(&self, source: Source) -> RgbImage {
        let subject = &self.subjects[source.subject];
        let image = match source.class {
            true => &subject.class[source.index].image,
            false => &subject.pictures[source.index],
        };
        let square = fit(image, self.side);
        if source.mirrored { image::imageops::flip_horizontal(&square) } else { square }
    }

    /// Which image comes at `position`, counted over the whole training, of the target or class images:
    /// subjects in turn, and each one's images in an order drawn again each time round.
    fn source(&self, seed: u64, class: bool, position: u64) -> Source {
        let subject = (position % self.subjects.len() as u64) as usize;
        let position = position / self.subjects.len() as u64;
        let s = &self.subjects[subject];
        let count = if class { s.class.len() } else { s.pictures.len() } as u64;
        let (round, place) = (position / count, (position % count) as usize);
        let kind = if class { "class" } else { "target" };
        let mut rng = Rng::new(seed, &format!("order of {kind} images {subject} {round}"));
        let mut order: Vec<usize> = (0..count as usize).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, rng.below(i + 1));
        }
        Source { subject, class, index: order[place], mirrored: false }
    }

    /// Means and logarithms of variances of the latents of `shown`, in order.
    fn encode(&mut self, shown: &[Shown]) -> Result<Vec<(Tensor, Tensor)>> {
        let mut new: Vec<Source> = vec![];
        for shown in shown {
            if let Shown::Whole(source) = shown
                && !self.encoded.contains_key(source)
                && !new.contains(source)
            {
                new.push(*source);
            }
        }
        let fresh: Vec<&RgbImage> = shown
            .iter()
            .filter_map(|s| if let Shown::Fresh(image) = s { Some(image) } else { None })
            .collect();
        // Those of this step alone go together. An image that is kept is encoded alone, so that a training
        // that goes on, and meets it in other company, has the same bits.
        let together = self.backbone.encoded_together((self.latent, self.latent));
        let fresh: Vec<&[&RgbImage]> = fresh.chunks(together).collect();
        let batch = |i: usize| match new.get(i) {
            Some(source) => self.encode_together(&[&self.picture(*source)]),
            None => self.encode_together(fresh[i - new.len()]),
        };
        let count = new.len() + fresh.len();
        let done: Vec<Vec<_>> = if self.backbone.device().is_cpu() {
            parallel::parts(count, batch)?
        } else {
            (0..count).map(batch).collect::<Result<_>>()?
        };
        let mut done = done.into_iter().flatten();
        self.encoded.extend(new.into_iter().zip(done.by_ref()));
        let latents = shown.iter().map(|shown| match shown {
            Shown::Whole(source) => self.encoded[source].clone(),
            Shown::Fresh(_) => done.next().expect("one for each"),
        });
        Ok(latents.collect())
    }

    /// Means and logarithms of variances of the latents of images that go through the network together.
    fn encode_together(&self, images: &[&RgbImage]) -> Result<Vec<(Tensor, Tensor)>> {
        no_grad(|| {
            let pixels: Result<Vec<_>> = images.iter().map(|image| from_rgb(image)).collect();
            let pixels = Tensor::stack(&pixels?, 0)?.to_device(self.backbone.device())?;
            let Posterior { mean, logvar } = self.backbone.vae.encode(&Var::constant(pixels))?;
            let one = |i| Ok((mean.value().narrow(0, i, 1)?, logvar.value().narrow(0, i, 1)?));
            (0..images.len()).map(one).collect()
        })
    }

    /// Weights of the loss: the mean squared error over what the masks show of target images, plus that
    /// of class images times the prior's weight.
    fn weights(&self, masks: Vec<f32>, targets: usize, classes: usize) -> Result<Tensor> {
        let device = self.backbone.device();
        let channels = self.backbone.unet.config().in_channels as f64;
        let shape = |n| (n, 1, self.latent, self.latent);
        let masks = Tensor::from_vec(masks, shape(targets), &Device::Cpu)?;
        let mut weights = loss::masked_weights(&masks)?;
        if classes > 0 {
            let whole = Tensor::ones(shape(classes), masks.dtype(), &Device::Cpu)?;
            let class = loss::masked_weights(&whole)?;
            weights = loss::with_prior(&weights, &class, self.settings.prior_weight)?;
        }
        Ok((weights / channels)?.to_device(device)?)
    }
}

impl Task for ImageTask<'_> {
    type Batch = Noised;

    fn next_batch(&mut self, step: u64, streams: &mut Streams) -> Result<Noised> {
        let classes = self.settings.class_batch();
        let targets = self.settings.batch - classes;
        let mut captions = vec![];
        let mut masks: Vec<f32> = vec![];
        let mut shown = vec![];
        for i in 0..targets + classes {
            let class = i >= targets;
            let position = match class {
                true => step * classes as u64 + (i - targets) as u64,
                false => step * targets as u64 + i as u64,
            };
            let mut source = self.source(streams.seed(), class, position);
            source.mirrored = self.settings.hflip && streams.stream("hflip").chance(0.5);
            let subject = &self.subjects[source.subject];
            if !class && self.settings.augmentation {
                let rng = streams.stream("augmentation");
                let sizes = self.settings.augmentation_sizes;
                let augmented = augment(&self.picture(source), self.side, sizes, rng);
                captions.push(augmented.caption(&subject.caption));
                masks.extend(augmented.mask(self.latent));
                shown.push(Shown::Fresh(augmented.image));
                continue;
            }
            if class {
                captions.push(subject.class[source.index].caption.clone());
            } else {
                captions.push(subject.caption.clone());
                masks.extend(std::iter::repeat_n(1.0, self.latent * self.latent));
            }
            shown.push(Shown::Whole(source));
        }
        let encoded = self.encode(&shown)?;
        let (means, logvars): (Vec<_>, Vec<_>) = encoded.into_iter().unzip();
        let (mean, logvar) = (Tensor::cat(&means, 0)?, Tensor::cat(&logvars, 0)?);
        let device = self.backbone.device();
        // sampled, as diffusers' scripts do, not the means
        let draw = streams.stream("posterior").normal(mean.shape(), device)?;
        let posterior = Posterior { mean: Var::constant(mean), logvar: Var::constant(logvar) };
        let latents = self.backbone.vae.scale(&posterior.sample(&draw)?)?.value().clone();
        let weights = self.weights(masks, targets, classes)?;
        let (backbone, texts) = (self.backbone, &mut self.texts);
        let weights = |_: &[usize]| Ok(weights);
        Noised::draw(backbone, &self.schedule, &latents, captions, weights, texts, streams)
    }

    fn size(&self, batch: &Noised) -> BatchSize {
        batch.size()
    }

    fn loss(&self, batch: &Noised, part: &Part) -> Result<Var> {
        batch.loss(self.backbone, part)
    }

    fn describe(&self, batch: &Noised) -> Vec<String> {
        batch.captions.clone()
    }
}

#[cfg(test)]
mod tests;
