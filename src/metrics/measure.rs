//! What a measure is: one trait. A measure sees features, or the pictures' files, and nothing else; which
//! images it is given, and by which extractor, is what it says it needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use super::Estimate;
use crate::Result;

/// Something that can be measured of images.
pub trait Measure: Send + Sync {
    /// What TOML files and data call it, such as `text-alignment`.
    fn name(&self) -> &str;

    /// What tables call it.
    fn title(&self) -> &str;

    /// How it is defined, in words. Part of every protocol: other words are other numbers.
    fn definition(&self) -> &str;

    /// Which values are the better ones.
    fn better(&self) -> Better;

    /// How a value is printed.
    fn shown(&self) -> Shown<'_> {
        Shown { scale: 1.0, unit: "", digits: 3 }
    }

    /// A difference that nobody minds, however sure it is.
    fn tolerance(&self) -> f64;

    /// The images that it measures, and what it compares them with.
    fn need(&self) -> Need;

    /// Whether it has a value of each image or one of the whole set.
    fn gives(&self) -> Gives;

    /// What it is given of the images.
    fn sees(&self) -> Sees {
        Sees::Features
    }

    /// What makes its features unless the experiment names another extractor.
    fn extractor(&self) -> &'static str {
        "clip"
    }

    /// Metrics of one family are drawn as the bars of one figure.
    fn family(&self) -> Option<&'static str> {
        None
    }

    /// Whether its title always says whose features it is of: where the same name is known with
    /// others, so that a bare name would mislead.
    fn titled_by_extractor(&self) -> bool {
        self.extractor() != "clip"
    }

    /// Measures; nothing where the images are too few.
    ///
    /// # Errors
    /// Features that cannot be compared.
    fn measure(&self, given: &Given) -> Result<Option<Outcome>>;
}

/// Which values are the better ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Large ones.
    More,
    /// Small ones.
    Less,
}

impl Better {
    /// 1 where more is better, −1 where less is.
    pub fn sign(self) -> f64 {
        match self {
            Better::More => 1.0,
            Better::Less => -1.0,
        }
    }
}

/// How a value is printed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shown<'a> {
    /// What it is multiplied with.
    pub scale: f64,
    /// What stands behind the title for that, such as `×10³`.
    pub unit: &'a str,
    /// Digits behind the point.
    pub digits: usize,
}

/// What a measure is given of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// Features by an extractor.
    Features,
    /// The pictures, as files.
    Files,
}

/// The images that a measure is of, and what they are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// The images of the evaluation prompts, with the features of each one's prompt.
    Prompts,
    /// The images of the evaluation prompts alone.
    Images,
    /// The images of the evaluation prompts, with the targets of each concept in turn. The value
    /// of an image is the mean over the concepts.
    Targets,
    /// The images of the evaluation prompts, with the targets of all concepts together.
    AllTargets,
    /// Images of the captions of real images of the category, with those real images.
    RealImages,
    /// The same of captions and real images of everything that the corpus shows.
    GeneralImages,
    /// Images of evaluation prompts with the bare category in the concept's place, with the targets
    /// of each concept in turn.
    ClassWords,
    /// Images of captions that have nothing to do with the concept, each with the pretrained model's
    /// of the same prompt and noise.
    Unrelated,
    /// How far each weight of the UNet is from the pretrained model's; no images at all.
    Weights,
    /// Where the images of the evaluation prompts attend to the words of several concepts.
    Attention,
}

impl Need {
    /// Whether it is the images of the evaluation prompts, or where they attend.
    pub fn of_prompts(self) -> bool {
        match self {
            Need::Prompts | Need::Images | Need::Targets | Need::AllTargets | Need::Attention => {
                true
            }
            Need::RealImages
            | Need::GeneralImages
            | Need::ClassWords
            | Need::Unrelated
            | Need::Weights => false,
        }
    }

    /// Whether images are compared with each concept in turn: a set would have several values then.
    pub fn in_turn(self) -> bool {
        matches!(self, Need::Targets | Need::ClassWords)
    }

    /// Whether only a model has it, and no folder of images.
    pub fn of_a_model(self) -> bool {
        match self {
            Need::GeneralImages
            | Need::ClassWords
            | Need::Unrelated
            | Need::Weights
            | Need::Attention => true,
            Need::Prompts | Need::Images | Need::Targets | Need::AllTargets | Need::RealImages => {
                false
            }
        }
    }
}

/// Whether a measure has a value of each image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gives {
    /// A value of each image.
    Images,
    /// A value of the whole set, which brings its own error.
    Set,
}

/// What a measure is given: features as rows, not normalised, or [files](Given::files).
pub struct Given<'a> {
    /// Of the images [n, d].
    pub images: ArrayView2<'a, f32>,
    /// The number of each one's prompt.
    pub groups: &'a [usize],
    /// What they are compared with: a row for each image where it is prompts, else a set. There are
    /// no rows where nothing is asked for.
    pub against: ArrayView2<'a, f32>,
    /// The images are compared with themselves, as real images are: no image counts as its own twin.
    pub itself: bool,
    /// How far each weight moved, where that is asked for.
    pub weights: &'a [WeightChange],
    /// Of each image a map [h, w] for each concept's word, where that is asked for.
    pub maps: &'a [Vec<Array2<f32>>],
    /// The pictures, for a measure that sees these; there are no features then.
    pub files: Option<&'a Files<'a>>,
}

/// The pictures that a measure is given, by absolute paths.
pub struct Files<'a> {
    /// The images.
    pub images: Vec<PathBuf>,
    /// The prompt of each image, without modifier tokens, where prompts are asked for; else none.
    pub prompts: Vec<String>,
    /// The pictures that they are compared with.
    pub against: Vec<PathBuf>,
    /// A folder for what the measure writes.
    pub desk: &'a Path,
    /// Where values may be kept for pictures that come again; nowhere if not given.
    pub cache: Option<&'a Path>,
    /// Set when the measure is to end.
    pub stop: &'a AtomicBool,
}

/// How far a weight of the UNet is from the pretrained model's.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightChange {
    /// Its name, as diffusers has it.
    pub name: String,
    /// `‖θ' − θ‖ / ‖θ‖`.
    pub change: f64,
}

/// What a measure gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A value of each image.
    Images(Vec<f64>),
    /// A value of the whole set.
    Set(SetValue),
}

/// A value that a set of images has as a whole, with its own error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetValue {
    /// The value.
    pub value: f64,
    /// Its standard error; none where nothing tells, such as sets that are too small.
    pub se: Option<f64>,
    /// The part of the error that comes from the images measured. Two methods that are compared with
    /// the same others differ by this noise and not by that of the others.
    pub se_images: Option<f64>,
    /// Images measured; 0 for what is not of images.
    pub n: usize,
    /// What else was counted, by its name in tables, such as `real images`.
    pub counts: BTreeMap<String, usize>,
}

impl SetValue {
    /// The value with its whole error.
    pub fn estimate(&self) -> Estimate {
        Estimate::normal(self.value, self.se.unwrap_or(f64::INFINITY), self.n)
    }

    /// Whether every number in it is one.
    pub fn is_finite(&self) -> bool {
        [Some(self.value), self.se, self.se_images].into_iter().flatten().all(f64::is_finite)
    }
}
