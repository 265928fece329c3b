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
use crate::world::{Background, Category, ColorWord, PatternKind, Scene, SizeWord, Style};

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
        unit_features(pictures, |pictures| self.clip.encode_images(pictures))
    }

    /// Unit features of texts, a row each.
    pub fn texts<S: AsRef<str>>(&self, texts: &[S]) -> Result<Tensor> {
        let ids = texts.iter().map(|t| Ok(self.tokenizer.encode(t.as_ref())?.ids));
        let ids: Vec<Vec<u32>> = ids.collect::<Result<_>>()?;
        unit(no_grad(|| self.clip.encode_texts(&ids))?.value())
    }

    /// For each picture and each caption, the logits of the softmax that the judge was trained with.
    fn logits<T>(&self, images: &Tensor, captions: &[(T, String)]) -> Result<Vec<Vec<f32>>> {
        let texts: Vec<&str> = captions.iter().map(|(_, text)| text.as_str()).collect();
        let logits = (images.matmul(&self.texts(&texts)?.t()?)? * self.clip.logit_scale()?)?;
        Ok(logits.to_vec2()?)
    }

    /// The colour word of the objects, whose category is known.
    pub fn colors(&self, images: &Tensor, category: Category) -> Result<Vec<ColorWord>> {
        let mut captions = vec![];
        for &color in ColorWord::ALL {
            for &background in Background::ALL {
                let (color_word, noun, place) = (color.word(), category.word(), place(background));
                captions.push((color, format!("photo of a {color_word} {noun} {place}")));
            }
        }
        let logits = self.logits(images, &captions)?;
        Ok(likeliest(&logits, captions.iter().map(|(color, _)| *color)))
    }

    /// How often the likeliest look, of all kinds of pattern and pairs of colours that there are, is that
    /// of the object, for photos of one object with a pattern whose colours have words. What else a
    /// scene shows is said as it is.
    pub fn looks(&self, scenes: &[Scene]) -> Result<Count> {
        let look = |scene: &Scene| {
            let [object] = &scene.spec.objects[..] else { return None };
            let photo = scene.spec.style == Style::Photo && scene.spec.size_word.is_none();
            let kind = object.pattern.filter(|_| photo)?.kind;
            Some((kind, object.color_word()?, object.ink_word()?))
        };
        let (mut hits, mut asked) = (0, 0);
        for scene in scenes {
            let Some(wanted) = look(scene) else { continue };
            let noun = scene.spec.objects[0].category.word();
            let place = place(scene.spec.background);
            let mut captions = vec![];
            for &kind in PatternKind::ALL {
                for &color in ColorWord::ALL {
                    for &ink in ColorWord::ALL.iter().filter(|ink| **ink != color) {
                        let (k, c, i) = (kind.word(), color.word(), ink.word());
                        let text = format!("photo of a {k} {c} and {i} {noun} {place}");
                        captions.push(((kind, color, ink), text));
                    }
                }
            }
            let image = self.images(&pictures(std::slice::from_ref(scene), &self.device)?)?;
            let logits = self.logits(&image, &captions)?;
            let found = likeliest(&logits, captions.iter().map(|(look, _)| *look));
            asked += 1;
            hits += usize::from(found[0] == wanted);
        }
        Ok((hits, asked))
    }

    /// How often the two categories that are likeliest, of all pairs, are those wanted, in any order.
    pub fn pairs(&self, images: &Tensor, wanted: &[[Category; 2]]) -> Result<Count> {
        let mut captions = vec![];
        for (i, &a) in Category::ALL.iter().enumerate() {
            for &b in &Category::ALL[i + 1..] {
                for (first, second) in [(a, b), (b, a)] {
                    for relation in ["next to", "on top of"] {
                        let objects = format!("{} {relation} a {}", first.word(), second.word());
                        for &background in Background::ALL {
                            for &style in Style::ALL {
                                let (style, place) = (in_front(style), place(background));
                                captions.push(([a, b], format!("{style} of a {objects} {place}")));
                            }
                        }
                    }
                }
            }
        }
        let logits = self.logits(images, &captions)?;
        let found = likeliest(&logits, captions.iter().map(|(pair, _)| *pair));
        let same = |a: &[Category; 2], b: &[Category; 2]| a == b || *a == [b[1], b[0]];
        Ok((found.iter().zip(wanted).filter(|(a, b)| same(a, b)).count(), wanted.len()))
    }

    /// How often pictures are seen as what they should be.
    pub fn right(&self, images: &Tensor, truths: &[Truth]) -> Result<Right> {
        let count = |hits: usize| (hits, truths.len());
        let hits =
            |same: &dyn Fn(usize) -> bool| count((0..truths.len()).filter(|&i| same(i)).count());
        let captions = Truth::captions();
        let logits = self.logits(images, &captions)?;
        let c = likeliest(&logits, captions.iter().map(|(t, _)| t.category));
        let b = likeliest(&logits, captions.iter().map(|(t, _)| t.background));
        let s = likeliest(&logits, captions.iter().map(|(t, _)| t.style));
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

    /// Every caption of one object, as the world's grammar says it: each category, background and style,
    /// with no other word, with each colour, pattern and size.
    fn captions() -> Vec<(Truth, String)> {
        let looks = ColorWord::ALL.iter().map(|c| c.word());
        let looks = looks.chain(PatternKind::ALL.iter().map(|p| p.word()));
        let mut words: Vec<[&str; 2]> = vec![["", ""]];
        words.extend(looks.map(|look| ["", look]));
        words.extend(SizeWord::ALL.iter().map(|size| [size.word(), ""]));
        let mut captions = vec![];
        for &category in Category::ALL {
            for &background in Background::ALL {
                for &style in Style::ALL {
                    let truth = Truth { category, background, style };
                    captions.extend(words.iter().map(|&words| (truth, truth.caption(words))));
                }
            }
        }
        captions
    }

    fn caption(self, [size, look]: [&str; 2]) -> String {
        let style = in_front(self.style);
        let (noun, place) = (self.category.word(), place(self.background));
        let words = [size, style, "of a", look, noun, place];
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// The words for a style in front of "of".
fn in_front(style: Style) -> &'static str {
    match style {
        Style::Watercolor => "watercolor painting",
        other => other.word(),
    }
}

/// For each picture, the class whose captions are together the likeliest, among all captions given.
fn likeliest<T: Copy + PartialEq>(logits: &[Vec<f32>], of: impl Iterator<Item = T>) -> Vec<T> {
    let mut classes: Vec<T> = vec![];
    let mut class_of = vec![];
    for class in of {
        let known = classes.iter().position(|c| *c == class);
        class_of.push(known.unwrap_or(classes.len()));
        if known.is_none() {
            classes.push(class);
        }
    }
    let likeliest = |row: &Vec<f32>| {
        let most = row.iter().copied().fold(f32::MIN, f32::max);
        let mut sums = vec![0f32; classes.len()];
        row.iter().zip(&class_of).for_each(|(x, &class)| sums[class] += (x - most).exp());
        let best = (0..sums.len()).max_by(|&a, &b| sums[a].total_cmp(&sums[b]));
        classes[best.unwrap_or(0)]
    };
    logits.iter().map(likeliest).collect()
}

/// Pictures that go together on a thread.
const TOGETHER: usize = 16;

/// Unit features of pictures [n, 3, 64, 64] in [−1, 1] by `network`, a row each.
pub(super) fn unit_features(
    pictures: &Tensor,
    network: impl Fn(&Var) -> candle_core::Result<Var> + Sync,
) -> Result<Tensor> {
    let count = pictures.dim(0)?;
    let parts = parallel::parts(count.div_ceil(TOGETHER), |i| {
        no_grad(|| -> Result<Tensor> {
            let first = i * TOGETHER;
            let some = pictures.narrow(0, first, TOGETHER.min(count - first))?.contiguous()?;
            Ok(network(&Var::constant(some))?.value().clone())
        })
    })?;
    unit(&Tensor::cat(&parts, 0)?)
}

fn unit(x: &Tensor) -> Result<Tensor> {
    let x = x.to_dtype(DType::F32)?;
    Ok(x.broadcast_div(&(x.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()?)?)
}
