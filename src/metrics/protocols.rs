//! How benchmarks measure a method's images: one table of their conventions.

use ndarray::{ArrayView2, Axis};

use super::unit;
use crate::error::nearest;
use crate::{Error, Result};

/// A benchmark's way to measure.
#[derive(Debug)]
pub struct Protocol {
    /// What the command line calls it, and `[dataset]` its data set.
    pub name: &'static str,
    /// Whose conventions they are.
    pub source: &'static str,
    /// How a method's images lie in folders.
    pub layout: Layout,
    /// Whether modifier tokens are taken out of prompts before CLIP sees them.
    pub removes_tokens: bool,
    /// Over what the mean is.
    pub over: Over,
    /// Its numbers.
    pub columns: &'static [Column],
}

/// How a method's images lie in folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `samples/` and `prompts.json` of a concept or a set, or a folder with such a folder for each.
    Samples,
    /// `tgt_image/NAME/…`, with a picture that it was made from in `src_image/` and its prompt in `text/`
    /// under the same name.
    Pairs,
}

/// Over what a mean is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// All images alike.
    Images,
    /// The means of concepts or sets alike.
    Sets,
}

/// A number of a benchmark: a mean of cosines.
#[derive(Debug)]
pub struct Column {
    /// What it is called there.
    pub title: &'static str,
    /// What `--extractor` calls the network; `clip` is given with `--clip`.
    pub extractor: &'static str,
    /// The network that the benchmark has.
    pub network: &'static str,
    /// What an image is compared with.
    pub with: With,
    /// What each cosine is multiplied with.
    pub factor: f64,
    /// Whether negative cosines count as zero.
    pub floor: bool,
}

/// What an image is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// Its prompt.
    Prompt,
    /// All targets of each concept in turn.
    Targets,
    /// The picture that it was made from.
    Own,
}

const CLIP: &str = "openai/clip-vit-base-patch32";
const DINO16: &str = "facebook/dino-vits16";
const DINO8: &str = "facebook/dino-vits8";
const DINOV2: &str = "facebook/dinov2-small";

const fn column(
    title: &'static str,
    (extractor, network): (&'static str, &'static str),
    with: With,
    factor: f64,
    floor: bool,
) -> Column {
    Column { title, extractor, network, with, factor, floor }
}

/// All of them.
const PROTOCOLS: [Protocol; 3] = [
    Protocol {
        name: "customconcept101",
        source: "CustomConcept101's evaluate.py, prompts without modifier tokens as in the paper",
        layout: Layout::Samples,
        removes_tokens: true,
        over: Over::Sets,
        columns: &[
            column("CLIP text alignment", ("clip", CLIP), With::Prompt, 2.5, true),
            column("CLIP image alignment", ("clip", CLIP), With::Targets, 1.0, false),
            column("DINO image alignment", ("dino", DINO16), With::Targets, 1.0, false),
        ],
    },
    Protocol {
        name: "dreambench",
        source: "the DreamBooth paper's definitions: mean cosines, over subjects",
        layout: Layout::Samples,
        removes_tokens: true,
        over: Over::Sets,
        columns: &[
            column("DINO", ("dino", DINO16), With::Targets, 1.0, false),
            column("CLIP-I", ("clip", CLIP), With::Targets, 1.0, false),
            column("CLIP-T", ("clip", CLIP), With::Prompt, 1.0, false),
        ],
    },
    Protocol {
        name: "dreambench++",
        source: "DreamBench++'s eval_clip_and_dino.py: 100 times the mean cosine, over images",
        layout: Layout::Pairs,
        removes_tokens: false,
        over: Over::Images,
        columns: &[
            column("DINOv1", ("dino", DINO8), With::Own, 100.0, false),
            column("DINOv2", ("dinov2", DINOV2), With::Own, 100.0, false),
            column("CLIP-I", ("clip", CLIP), With::Own, 100.0, false),
            column("CLIP-T", ("clip", CLIP), With::Prompt, 100.0, false),
        ],
    },
];

impl Protocol {
    /// The protocol of this name.
    ///
    /// # Errors
    /// [`Error::Input`] with the names that come nearest.
    pub fn find(name: &str) -> Result<&'static Protocol> {
        PROTOCOLS.iter().find(|protocol| protocol.name == name).ok_or_else(|| {
            let hint = nearest(name, PROTOCOLS.iter().map(|protocol| protocol.name));
            Error::input_hint(format!("no protocol is called `{name}`"), hint)
        })
    }
}

impl Column {
    /// The value of each image, by the features of what it is compared with: a row for each image, or
    /// targets of any number.
    ///
    /// # Panics
    /// Where the shapes do not fit.
    pub fn values(&self, images: ArrayView2<f32>, with: ArrayView2<f32>) -> Vec<f64> {
        let (images, with) = (unit(images), unit(with));
        let scored = |cosine: f64| {
            let negative = self.floor && cosine < 0.0;
            self.factor * if negative { 0.0 } else { cosine }
        };
        match self.with {
            With::Targets => {
                let means = images.dot(&with.t()).mapv(scored).mean_axis(Axis(1));
                means.expect("there is a target").to_vec()
            }
            With::Prompt | With::Own => {
                assert_eq!(images.dim(), with.dim(), "a row for each image");
                let rows = images.outer_iter().zip(with.outer_iter());
                rows.map(|(image, with)| scored(image.dot(&with))).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn conventions_are_data() {
        let images = array![[2f32, 0.0], [0.0, 3.0]];
        let with = array![[-1f32, 0.0], [0.0, 1.0]];
        let of = |protocol: &str, column: usize| {
            let column = &Protocol::find(protocol).unwrap().columns[column];
            column.values(images.view(), with.view())
        };
        assert_eq!(of("customconcept101", 0), [0.0, 2.5], "2.5 times, never negative");
        assert_eq!(of("dreambench", 2), [-1.0, 1.0], "plain");
        assert_eq!(of("dreambench++", 0), [-100.0, 100.0], "each with its own");
        assert_eq!(of("dreambench", 0), [-0.5, 0.5], "each with all");
        assert!(Protocol::find("dreambench+").unwrap_err().hint().unwrap().contains("dreambench"));
    }

    #[test]
    fn titles_and_extractors_tell_columns_apart() {
        for protocol in &PROTOCOLS {
            for (i, a) in protocol.columns.iter().enumerate() {
                assert!(protocol.columns[..i].iter().all(|b| a.title != b.title));
                assert!((a.with == With::Own) <= (protocol.layout == Layout::Pairs));
            }
        }
    }
}
