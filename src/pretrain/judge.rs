//! What the judge says of pictures: which category, background, style and colour it sees, and which of
//! many captions it finds nearest.

use std::path::Path;

use candle_core::{D, DType, Device, Tensor};

use super::report::place;
use super::scenes::{pictures, pictures_of_bytes};
use crate::Result;
use crate::clip::Clip;
use crate::diffusion::tokenizer::Tokenizer;
use crate::nn::{Var, no_grad, parallel};
use crate::world::{Background, Category, ColorWord, Scene, Style};

/// The judge, ready to be asked.
pub(super) struct Judge {
    pub clip: Clip,
    pub tokenizer: Tokenizer,
    device: Device,
}

/// Hits, and of how many.
pub(super) type Count = (usize, usize);

/// What was seen as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Right {
    pub category: Count,
    pub background: Count,
    pub style: Count,
}

/// What a picture should show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Truth {
    pub category: Category,
    pub background: Background,
    pub style: Style,
}

impl Judge {
    pub fn new(clip: Clip, tokenizer: Tokenizer, device: &Device) -> Result<Self> {
        Ok(Judge { clip, tokenizer, device: device.clone() })
    }

    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        Judge::new(Clip::load(dir, device)?, Tokenizer::load(dir)?, device)
    }

    /// Unit features of pictures [3, 64, 64] in [−1, 1], a row each.
    pub fn images(&self, pictures: &Tensor) -> Result<Tensor> {
        let count = pictures.dim(0)?;
        let parts = parallel::parts(count.div_ceil(TOGETHER), |i| {
            no_grad(|| -> Result<Tensor> {
                let first = i * TOGETHER;
                let some = pictures.narrow(0, first, TOGETHER.min(count - first))?.contiguous()?;
                Ok(self.clip.encode_images(&Var::constant(some))?.value().clone())
            })
        })?;
        unit(&Tensor::cat(&parts, 0)?)
    }

    /// Unit features of texts, a row each.
    pub fn texts<S: AsRef<str>>(&self, texts: &[S]) -> Result<Tensor> {
        let ids = texts.iter().map(|t| Ok(self.tokenizer.encode(t.as_ref())?.ids));
        let ids: Vec<Vec<u32>> = ids.collect::<Result<_>>()?;
        unit(no_grad(|| self.clip.encode_texts(&ids))?.value())
    }

    /// For each picture, which of `classes` is nearest; a class is the mean of its prompts.
    fn nearest(&self, images: &Tensor, classes: &[Vec<String>]) -> Result<Vec<usize>> {
        let each: Result<Vec<Tensor>> = classes
            .iter()
            .map(|prompts| Ok(unit(&self.texts(prompts)?.mean_keepdim(0)?)?.squeeze(0)?))
            .collect();
        let scores = images.matmul(&Tensor::stack(&each?, 0)?.t()?)?;
        let best = scores.argmax(D::Minus1)?.to_vec1::<u32>()?;
        Ok(best.into_iter().map(|i| i as usize).collect())
    }

    pub fn categories(&self, images: &Tensor) -> Result<Vec<Category>> {
        self.ask(images, Category::ALL, |c| {
            ["photo of a {}", "a {}", "a {} in the snow", "pixel art of a {}", "watercolor of a {}"]
                .map(|p| p.replace("{}", c.word()))
                .into()
        })
    }

    pub fn backgrounds(&self, images: &Tensor) -> Result<Vec<Background>> {
        self.ask(images, Background::ALL, |b| {
            let place = place(b);
            Category::ALL.iter().map(|c| format!("a {} {place}", c.word())).collect()
        })
    }

    pub fn styles(&self, images: &Tensor) -> Result<Vec<Style>> {
        self.ask(images, Style::ALL, |s| {
            let style = match s {
                Style::Watercolor => "watercolor painting",
                other => other.word(),
            };
            Category::ALL.iter().map(|c| format!("{style} of a {}", c.word())).collect()
        })
    }

    /// The colour word of the objects, whose category is known.
    pub fn colors(&self, images: &Tensor, category: Category) -> Result<Vec<ColorWord>> {
        self.ask(images, ColorWord::ALL, |c| {
            ["photo of a", "a"].map(|p| format!("{p} {} {}", c.word(), category.word())).into()
        })
    }

    /// How often the two categories that are nearest, of all pairs, are those wanted, in any order.
    pub fn pairs(&self, images: &Tensor, wanted: &[[Category; 2]]) -> Result<Count> {
        let mut pairs = vec![];
        for (i, &a) in Category::ALL.iter().enumerate() {
            pairs.extend(Category::ALL[i + 1..].iter().map(|&b| [a, b]));
        }
        let found = self.ask(images, &pairs, |[a, b]| {
            let orders = [(a, b), (b, a)];
            let phrases = orders.iter().flat_map(|(a, b)| {
                ["next to", "on top of"].map(|r| format!("a {} {r} a {}", a.word(), b.word()))
            });
            phrases.collect()
        })?;
        let same = |a: &[Category; 2], b: &[Category; 2]| a == b || *a == [b[1], b[0]];
        Ok((found.iter().zip(wanted).filter(|(a, b)| same(a, b)).count(), wanted.len()))
    }

    fn ask<T: Copy>(
        &self,
        images: &Tensor,
        all: &[T],
        prompts: impl Fn(T) -> Vec<String>,
    ) -> Result<Vec<T>> {
        let classes: Vec<Vec<String>> = all.iter().map(|&t| prompts(t)).collect();
        Ok(self.nearest(images, &classes)?.into_iter().map(|i| all[i]).collect())
    }

    /// How often pictures are seen as what they should be.
    pub fn right(&self, images: &Tensor, truths: &[Truth]) -> Result<Right> {
        let count = |hits: usize| (hits, truths.len());
        let hits =
            |same: &dyn Fn(usize) -> bool| count((0..truths.len()).filter(|&i| same(i)).count());
        let (c, b, s) = (self.categories(images)?, self.backgrounds(images)?, self.styles(images)?);
        Ok(Right {
            category: hits(&|i| c[i] == truths[i].category),
            background: hits(&|i| b[i] == truths[i].background),
            style: hits(&|i| s[i] == truths[i].style),
        })
    }

    /// How often real scenes are seen as what they are; categories where there is one object.
    pub fn zero_shot(&self, scenes: &[Scene]) -> Result<Right> {
        let images = self.images(&pictures(scenes, &self.device)?)?;
        let truths: Vec<Truth> = scenes.iter().map(Truth::of).collect();
        let mut right = self.right(&images, &truths)?;
        let single: Vec<u32> = (0..scenes.len())
            .filter(|&i| scenes[i].spec.objects.len() == 1)
            .map(|i| i as u32)
            .collect();
        let truths: Vec<Truth> = single.iter().map(|&i| truths[i as usize]).collect();
        let rows = Tensor::from_vec(single, truths.len(), images.device())?;
        right.category = self.right(&images.index_select(&rows, 0)?, &truths)?.category;
        Ok(right)
    }

    /// How often a scene's own caption is the nearest of 100, the others from other scenes. Captions of
    /// the same words count as the same.
    pub fn retrieval(&self, scenes: &[Scene]) -> Result<Count> {
        let images = self.images(&pictures(scenes, &self.device)?)?;
        let captions: Vec<&str> = scenes.iter().map(|s| s.caption.as_str()).collect();
        let texts = self.texts(&captions)?;
        let mut hits = 0;
        let mut asked = 0;
        for first in (0..scenes.len()).step_by(100) {
            let count = 100.min(scenes.len() - first);
            if count < 100 {
                break;
            }
            let scores =
                images.narrow(0, first, count)?.matmul(&texts.narrow(0, first, count)?.t()?)?;
            for (i, best) in scores.argmax(D::Minus1)?.to_vec1::<u32>()?.into_iter().enumerate() {
                asked += 1;
                hits += usize::from(captions[first + i] == captions[first + best as usize]);
            }
        }
        Ok((hits, asked))
    }

    /// Unit features of 64 × 64 pictures given as bytes.
    pub fn images_of_bytes(&self, bytes: &[Vec<u8>]) -> Result<Tensor> {
        self.images(&pictures_of_bytes(bytes, &self.device)?)
    }
}

impl Truth {
    /// Of a scene's first object.
    pub fn of(scene: &Scene) -> Self {
        let spec = &scene.spec;
        Truth { category: spec.objects[0].category, background: spec.background, style: spec.style }
    }
}

/// Pictures that go together on a thread.
const TOGETHER: usize = 16;

fn unit(x: &Tensor) -> Result<Tensor> {
    let x = x.to_dtype(DType::F32)?;
    Ok(x.broadcast_div(&(x.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()?)?)
}
