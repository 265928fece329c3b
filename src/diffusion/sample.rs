//! Sampling: noise to images, guided by text.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use image::RgbImage;

use super::Backbone;
use super::attention::{AttentionMaps, WordMap};
use super::batches::Together;
use super::model::{CrossAttention, OnCrossAttention};
use super::scheduler::SchedulerKind;
use crate::nn::{Var, all_finite, no_grad, parallel};
use crate::rng::Rng;
use crate::{Error, Result};

/// How images are sampled; part of the protocol of every number measured on them.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance scale (Ho & Salimans 2022); 1 and below: none, at half the work.
    pub guidance: f64,
    /// The sampler.
    pub scheduler: SchedulerKind,
    /// DDIM's share of fresh noise.
    pub eta: f64,
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
    /// What the images should not show; empty for none.
    pub negative_prompt: String,
}

/// Guidance scales that are taken: with larger ones numbers leave what f32 can hold.
pub const GUIDANCE: RangeInclusive<f64> = 0.0..=1000.0;

/// One image to sample.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it shows.
    pub prompt: String,
    /// Decides all its noise: an image is the same in whichever batch it is sampled, but for its last bits.
    pub seed: u64,
    /// Initial noise [latent channels, h, w] in place of the seed's.
    pub latents: Option<Tensor>,
    /// Words of the prompt, or several in a row, of which to keep where they are attended to. The image is
    /// the same with and without them.
    pub words: Vec<String>,
}

impl Request {
    /// Of the seed's noise, without maps.
    pub fn new(prompt: impl Into<String>, seed: u64) -> Self {
        Request { prompt: prompt.into(), seed, latents: None, words: vec![] }
    }
}

/// Sampled latents and what they decode to.
pub struct Sample {
    /// As the VAE has them, unscaled: [latent channels, h, w].
    pub latents: Tensor,
    /// The image.
    pub image: RgbImage,
    /// Of each of the request's words.
    pub maps: Vec<WordMap>,
}

/// The positions of a word's tokens.
type Place = RangeInclusive<usize>;

impl Backbone {
    /// Samples one image for each request, in order; see [`Backbone::sample_each`].
    ///
    /// # Errors
    /// As there.
    pub fn sample(
        &self,
        requests: &[Request],
        sampling: &Sampling,
        on_step: &(dyn Fn(usize) -> Result<()> + Sync),
    ) -> Result<Vec<Sample>> {
        let done = Mutex::new(vec![]);
        self.sample_each(requests, sampling, on_step, &|i, sample| {
            done.lock().unwrap_or_else(PoisonError::into_inner).push((i, sample));
            Ok(())
        })?;
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(i, _)| *i);
        Ok(done.into_iter().map(|(_, sample)| sample).collect())
    }

    /// Samples one image for each request, and gives each with the request's number to `on_sample` once
    /// it is made. `on_step` is called behind each step with the number of images that took it. Both are
    /// called from several threads, and an error of theirs ends the sampling.
    ///
    /// # Errors
    /// [`Error::Input`] if the size does not fit the VAE, the latents given do not fit the size or are not
    /// finite, the guidance is none of [`GUIDANCE`], the scheduler does not take the settings, or words are
    /// not in their prompt;
    /// [`Error::Diverged`] with the prompt and the step after which latents are not finite; what `on_step`
    /// and `on_sample` return.
    pub fn sample_each(
        &self,
        requests: &[Request],
        sampling: &Sampling,
        on_step: &(dyn Fn(usize) -> Result<()> + Sync),
        on_sample: &(dyn Fn(usize, Sample) -> Result<()> + Sync),
    ) -> Result<()> {
        let together = self.together(self.latent_size(sampling.height, sampling.width)?);
        self.sample_together(together, requests, sampling, on_step, on_sample)
    }

    fn sample_together(
        &self,
        together: Together,
        requests: &[Request],
        sampling: &Sampling,
        on_step: &(dyn Fn(usize) -> Result<()> + Sync),
        on_sample: &(dyn Fn(usize, Sample) -> Result<()> + Sync),
    ) -> Result<()> {
        if !GUIDANCE.contains(&sampling.guidance) {
            let (least, most) = (GUIDANCE.start(), GUIDANCE.end());
            return Err(Error::input_hint(
                format!("a guidance of {}", sampling.guidance),
                format!("use a number from {least} to {most}; 1 and below is none"),
            ));
        }
        let (height, width) = self.latent_size(sampling.height, sampling.width)?;
        let shape = [self.unet.config().in_channels, height, width];
        for request in requests {
            if let Some(latents) = &request.latents
                && latents.dims() != shape
            {
                return Err(Error::input(format!(
                    "latents of shape {:?}, but an image of {}x{} starts from {shape:?}",
                    latents.dims(),
                    sampling.width,
                    sampling.height
                )));
            }
        }
        for latents in requests.iter().filter_map(|request| request.latents.as_ref()) {
            if !all_finite(latents)? {
                return Err(Error::input("the latents given have values that are not finite"));
            }
        }
        sampling.scheduler.scheduler(&self.scheduler, sampling.steps, sampling.eta)?;
        let words = requests.iter().map(|r| self.places(r)).collect::<Result<Vec<_>>>()?;
        let prompts: BTreeSet<&str> = requests.iter().map(|r| r.prompt.as_str()).collect();
        prompts.into_iter().for_each(|prompt| self.tokenizer.warn(prompt));

        let Together { denoised: size, decoded } = together;
        let parts: Vec<_> = requests.chunks(size).zip(words.chunks(size)).collect();
        let part = |i: usize| {
            let samples =
                no_grad(|| self.sample_part(parts[i], decoded, sampling, shape, on_step))?;
            samples.into_iter().enumerate().try_for_each(|(j, s)| on_sample(i * size + j, s))
        };
        // Threads inside the operations where an image is large, one for each part where it is not.
        if size == 1 || !self.device().is_cpu() {
            (0..parts.len()).try_for_each(part)
        } else {
            parallel::parts(parts.len(), part).map(|_: Vec<()>| ())
        }
    }

    fn sample_part(
        &self,
        (requests, words): (&[Request], &[Vec<Place>]),
        decoded: usize,
        sampling: &Sampling,
        shape: [usize; 3],
        on_step: &(dyn Fn(usize) -> Result<()> + Sync),
    ) -> Result<Vec<Sample>> {
        let mut noise: Vec<Rng> = requests.iter().map(|r| Rng::new(r.seed, "sampling")).collect();
        let mut draw = |device: &Device| -> TensorResult<Tensor> {
            let each: TensorResult<Vec<_>> =
                noise.iter_mut().map(|rng| rng.normal(shape.to_vec(), device)).collect();
            Tensor::stack(&each?, 0)
        };
        let device = self.device();
        let mut scheduler =
            sampling.scheduler.scheduler(&self.scheduler, sampling.steps, sampling.eta)?;

        let own = draw(device)?;
        let initial: TensorResult<Vec<Tensor>> = requests
            .iter()
            .enumerate()
            .map(|(i, request)| match &request.latents {
                Some(latents) => latents.to_device(device)?.to_dtype(DType::F32),
                None => own.get(i),
            })
            .collect();
        let mut latents = (Tensor::stack(&initial?, 0)? * scheduler.init_noise_sigma())?;

        let guided = sampling.guidance > 1.0;
        let mut prompts: Vec<&str> = requests.iter().map(|r| r.prompt.as_str()).collect();
        if guided {
            prompts.splice(0..0, requests.iter().map(|_| sampling.negative_prompt.as_str()));
        }
        let text = self.unet.keys_values(&self.encode_text(&prompts)?)?;
        let maps = RefCell::new(AttentionMaps::new(prompts.len() - requests.len()));
        let add = |attention: &CrossAttention| maps.borrow_mut().add(attention);
        let see = words.iter().any(|words| !words.is_empty()).then_some(&add as OnCrossAttention);

        for (i, t) in scheduler.timesteps().to_vec().into_iter().enumerate() {
            let input =
                if guided { Tensor::cat(&[&latents, &latents], 0)? } else { latents.clone() };
            let timesteps = vec![t as f64; prompts.len()];
            let prediction = self.unet.denoise(&input, &timesteps, &text, see)?;
            let prediction = if guided {
                let halves = prediction.chunk(2, 0)?;
                let (without, with) = (&halves[0], &halves[1]);
                (without + ((with - without)? * sampling.guidance)?)?
            } else {
                prediction
            };
            let fresh = scheduler.needs_noise(i).then(|| draw(device)).transpose()?;
            latents = scheduler.step(&prediction, i, &latents, fresh.as_ref())?;
            check(&latents, requests, || format!("step {} of {}", i + 1, sampling.steps))?;
            on_step(requests.len())?;
        }

        let latents = self.vae.unscale(&Var::constant(latents))?.value().clone();
        let mut images = vec![];
        for (i, requests) in requests.chunks(decoded).enumerate() {
            let some = latents.narrow(0, i * decoded, requests.len())?;
            let some = self.vae.decode(&Var::constant(some))?.value().clone();
            check(&some, requests, || "decoding".into())?;
            for i in 0..requests.len() {
                images.push(to_rgb(&some.get(i)?)?);
            }
        }
        let (maps, [_, height, width]) = (maps.into_inner(), shape);
        let map = |i: usize, (word, positions): (&String, &Place)| -> Result<WordMap> {
            let map = maps.map(i, positions.clone(), (height, width))?;
            Ok(WordMap { word: word.clone(), map })
        };
        let sample = |(i, image): (usize, RgbImage)| {
            let words = requests[i].words.iter().zip(&words[i]);
            Ok(Sample {
                latents: latents.get(i)?,
                image,
                maps: words.map(|word| map(i, word)).collect::<Result<_>>()?,
            })
        };
        images.into_iter().enumerate().map(sample).collect()
    }

    /// Where the request's words stand in its prompt.
    fn places(&self, request: &Request) -> Result<Vec<Place>> {
        let place = |word: &String| {
            let found = self.tokenizer.positions(&request.prompt, word)?;
            found.filter(|_| self.tokenizer.knows(word)).ok_or_else(|| {
                Error::input_hint(
                    format!(
                        "`{word}` is not in what the model reads of the prompt `{}`",
                        request.prompt
                    ),
                    "name words as they stand there, several in a row as one: `wooden pot`",
                )
            })
        };
        request.words.iter().map(place).collect()
    }

    /// The hidden states of prompts [batch, length, features]; warns of one that is too long.
    ///
    /// # Errors
    /// The tokenizer's.
    pub fn encode_text(&self, prompts: &[&str]) -> Result<Var> {
        let encode = |prompt: &&str| -> Result<Vec<u32>> {
            let encoded = self.tokenizer.encode(prompt)?;
            if encoded.truncated {
                self.tokenizer.warn_if_too_long(prompt);
            }
            Ok(encoded.ids)
        };
        let ids: Result<Vec<Vec<u32>>> = prompts.iter().map(encode).collect();
        Ok(self.text_encoder.forward(&ids?)?)
    }

    /// How many images are sampled together, from the first of a list: the last bits of an image depend on
    /// how many.
    ///
    /// # Errors
    /// As [`Backbone::latent_size`].
    pub fn images_together(&self, sampling: &Sampling) -> Result<usize> {
        Ok(self.together(self.latent_size(sampling.height, sampling.width)?).denoised)
    }

    /// The latents' height and width for an image of this size in pixels.
    ///
    /// # Errors
    /// [`Error::Input`] if the VAE cannot represent it.
    pub fn latent_size(&self, height: usize, width: usize) -> Result<(usize, usize)> {
        let unit = self.vae.config().downscale();
        let fits = |pixels: usize| pixels > 0 && pixels.is_multiple_of(unit) && pixels <= MAX_SIDE;
        if !fits(height) || !fits(width) {
            return Err(Error::input_hint(
                format!("an image of {width}x{height} pixels cannot be sampled"),
                format!("this backbone makes sides that are multiples of {unit}, up to {MAX_SIDE}"),
            ));
        }
        Ok((height / unit, width / unit))
    }
}

/// Refuses images in the making, one for each of `requests`, of which a value is not finite.
fn check(images: &Tensor, requests: &[Request], when: impl Fn() -> String) -> Result<()> {
    if all_finite(images)? {
        return Ok(());
    }
    for (i, request) in requests.iter().enumerate() {
        if !all_finite(&images.get(i)?)? {
            return Err(Error::Diverged(format!(
                "sampling: the latents are not finite after {}, of the prompt `{}`, seed {}",
                when(),
                request.prompt,
                request.seed
            )));
        }
    }
    Ok(())
}

/// Pixels; larger images are taken for mistakes.
const MAX_SIDE: usize = 4096;

/// An image [3, height, width] in [−1, 1] as bytes.
pub fn to_rgb(image: &Tensor) -> Result<RgbImage> {
    let (_, height, width) = image.dims3()?;
    let bytes = ((image.to_dtype(DType::F32)? + 1.0)? * 127.5)?.clamp(0f32, 255f32)?.round()?;
    let bytes = bytes.permute((1, 2, 0))?.to_dtype(DType::U8)?.flatten_all()?.to_vec1::<u8>()?;
    Ok(RgbImage::from_raw(width as u32, height as u32, bytes).expect("3 bytes a pixel"))
}

/// Bytes as an image [3, height, width] in [−1, 1], on the CPU.
pub fn from_rgb(image: &RgbImage) -> Result<Tensor> {
    let (width, height) = image.dimensions();
    let values: Vec<f32> = image.as_raw().iter().map(|&b| f32::from(b) / 127.5 - 1.0).collect();
    let tensor = Tensor::from_vec(values, (height as usize, width as usize, 3), &Device::Cpu)?;
    Ok(tensor.permute((2, 0, 1))?.contiguous()?)
}

#[cfg(test)]
mod tests;
