//! What a cell's images are worth: its metrics, each of the images that its measure asks for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::compared::compared;
use super::images::{Asked, Images};
use super::stage::ScoreWork;
use crate::metrics::{Need, Outcome, SetValue, WeightChange};
use crate::{Error, Result};

/// A cell's metrics.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scores {
    /// The cell's own images, those of one kind after those of another; none for anchors of real images.
    pub images: Vec<Scored>,
    /// What was measured, by the names of metrics; what could not be has no entry.
    pub values: BTreeMap<String, Measured>,
}

/// An image of a cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scored {
    /// What it was asked for by.
    pub of: Asked,
    /// The number of its prompt, over all kinds.
    pub prompt: usize,
    /// The prompt without modifier tokens.
    pub text: String,
    /// Its file, relative to the store.
    pub file: String,
    /// Its seed.
    pub seed: u64,
    /// The file of where it attends to the concepts' words, if that was kept.
    pub maps: Option<String>,
}

/// What a measure found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measured {
    /// A value of each of the cell's images of a kind, by concept where each is compared with.
    Images {
        /// Which images.
        of: Asked,
        /// `[part][image]`.
        parts: Vec<Vec<f64>>,
    },
    /// The same of other images, such as real ones.
    Others {
        /// As above.
        parts: Vec<Vec<f64>>,
        /// The group of each image.
        groups: Vec<usize>,
    },
    /// A value of a set.
    Set(SetValue),
}

/// Pictures of one origin.
#[derive(Clone, Copy)]
pub enum Pictures<'a> {
    /// Sampled by a stage.
    Samples(usize, &'a Images),
    /// Found by a retrieval.
    Retrieved(usize),
    /// The targets of a concept.
    Targets(&'a str),
}

/// Where pictures are, and where features come from.
pub trait Source {
    /// How many pictures there are.
    ///
    /// # Errors
    /// What cannot be read.
    fn count(&self, pictures: Pictures) -> Result<usize>;

    /// The features of pictures, by the extractor of a name.
    ///
    /// # Errors
    /// What cannot be read or embedded.
    fn pictures(&self, pictures: Pictures, by: &str) -> Result<Array2<f32>>;

    /// Pictures as files, by absolute paths. What has no file is written into the folder given.
    ///
    /// # Errors
    /// What cannot be read or written.
    fn files(&self, pictures: Pictures, into: &Path) -> Result<Vec<PathBuf>>;

    /// Features of texts.
    ///
    /// # Errors
    /// An extractor that reads no texts; its own.
    fn texts(&self, texts: &[String], by: &str) -> Result<Array2<f32>>;

    /// The captions of a retrieval's pictures.
    ///
    /// # Errors
    /// What cannot be read.
    fn captions(&self, retrieval: usize) -> Result<Vec<String>>;

    /// Where images attend to words: of each a map for each word.
    ///
    /// # Errors
    /// What cannot be read.
    fn attention(&self, stage: usize) -> Result<Vec<Vec<Array2<f32>>>>;
}

/// Where a measure of files works.
pub struct Bench<'a> {
    /// A folder below which it may write. What is there already is of a run that has ended.
    pub folder: &'a Path,
    /// Where values may be kept for pictures that come again.
    pub cache: Option<&'a Path>,
    /// Set when it is to end.
    pub stop: &'a AtomicBool,
}

/// Measures the metrics that `work` names; `weights` say how far the checkpoint's moved, where that is asked
/// for. The images' files are left to the caller.
///
/// # Errors
/// The source's; features that cannot be compared.
pub fn score(
    work: &ScoreWork,
    weights: &[WeightChange],
    source: &dyn Source,
    bench: &Bench,
) -> Result<Scores> {
    let mut values = BTreeMap::new();
    for chosen in &work.metrics {
        let need = chosen.measure.need();
        let (mut parts, mut groups) = (vec![], vec![]);
        for (i, compared) in compared(work, need, source)?.iter().enumerate() {
            let numbers = compared.groups(source)?;
            let folder = bench.folder.join(&chosen.metric.name).join(i.to_string());
            let bench = Bench { folder: &folder, ..*bench };
            match compared.measured(chosen, &numbers, weights, source, &bench)? {
                None => {}
                Some(Outcome::Set(set)) => {
                    values.insert(chosen.metric.name.clone(), Measured::Set(set));
                }
                Some(Outcome::Images(found)) => {
                    parts.push(found);
                    if numbers.len() > groups.len() {
                        groups = numbers;
                    }
                }
            }
        }
        if !parts.is_empty() {
            let found = match own_images(work, need) {
                Some(of) => Measured::Images { of, parts },
                None => Measured::Others { parts, groups },
            };
            values.insert(chosen.metric.name.clone(), found);
        }
    }
    Ok(Scores { images: vec![], values })
}

/// Which of the cell's own images have values by a need; none where they are others.
fn own_images(work: &ScoreWork, need: Need) -> Option<Asked> {
    match need {
        Need::ClassWords => Some(Asked::ClassWords),
        Need::Unrelated => Some(Asked::Unrelated),
        Need::RealImages | Need::GeneralImages | Need::Weights => None,
        Need::Attention | Need::Prompts | Need::Images | Need::Targets | Need::AllTargets => {
            work.samples.as_ref().map(|_| Asked::Prompts)
        }
    }
}

impl Scores {
    /// Reads `scores.json`.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let bad = |what: String| {
            Error::input_hint(
                format!("{}: damaged: {what}", path.display()),
                "delete its folder; it is made again when it is needed",
            )
        };
        let scores: Scores = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        let count = |of: Asked| scores.images.iter().filter(|image| image.of == of).count();
        let whole = |measured: &Measured| match measured {
            Measured::Images { of, parts } => parts.iter().all(|part| part.len() == count(*of)),
            Measured::Others { parts, groups } => {
                parts.iter().all(|part| part.len() <= groups.len())
            }
            Measured::Set(_) => true,
        };
        if !scores.values.values().all(whole) {
            return Err(bad("its lists are of different lengths".into()));
        }
        Ok(scores)
    }
}
