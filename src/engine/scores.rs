//! What a cell's images are worth: its metrics, each of the images that its measure asks for.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{Array2, Axis, concatenate};
use serde::{Deserialize, Serialize};

use super::cell::CellKind;
use super::stage::{Asked, Images, ScoreWork, Side};
use crate::metrics::{Given, Need, Outcome, SetValue, WeightChange};
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

/// Pictures that have features.
pub enum Pictures<'a> {
    /// Sampled by a stage.
    Samples(usize, &'a Images),
    /// Found by a retrieval.
    Retrieved(usize),
    /// The targets of a concept.
    Targets(&'a str),
}

/// Where features come from.
pub trait Source {
    /// Of pictures, by the extractor of a name.
    ///
    /// # Errors
    /// What cannot be read or embedded.
    fn pictures(&self, pictures: Pictures, by: &str) -> Result<Array2<f32>>;

    /// Of texts.
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

/// Measures the metrics that `work` names; `weights` say how far the checkpoint's moved, where that is asked
/// for. The images' files are left to the caller.
///
/// # Errors
/// The source's; features that cannot be compared.
pub fn score(work: &ScoreWork, weights: &[WeightChange], source: &dyn Source) -> Result<Scores> {
    let mut values = BTreeMap::new();
    for chosen in &work.metrics {
        let (need, by) = (chosen.measure.need(), chosen.metric.extractor.as_str());
        let (mut parts, mut groups) = (vec![], vec![]);
        for compared in compared(work, need, by, source)? {
            let given = Given {
                images: compared.images.view(),
                groups: &compared.groups,
                against: compared.against.view(),
                itself: compared.itself,
                weights,
                maps: &compared.maps,
            };
            match chosen.measure.measure(&given)? {
                None => {}
                Some(Outcome::Set(set)) => {
                    values.insert(chosen.metric.name.clone(), Measured::Set(set));
                }
                Some(Outcome::Images(found)) => {
                    parts.push(found);
                    if compared.groups.len() > groups.len() {
                        groups = compared.groups;
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

/// Images and what they are compared with.
struct Compared {
    images: Array2<f32>,
    groups: Vec<usize>,
    against: Array2<f32>,
    itself: bool,
    maps: Vec<Vec<Array2<f32>>>,
}

impl Compared {
    /// Every image is a group of its own.
    fn each(images: Array2<f32>, against: Array2<f32>, itself: bool) -> Self {
        let groups = (0..images.nrows()).collect();
        Compared { images, groups, against, itself, maps: vec![] }
    }
}

/// What a cell has for a need: a comparison with each concept, or one; none where it has no such
/// images. The anchors stand in with real images and with copies of the targets.
fn compared(work: &ScoreWork, need: Need, by: &str, source: &dyn Source) -> Result<Vec<Compared>> {
    let targets = |concept: &String| source.pictures(Pictures::Targets(concept), by);
    let all_targets = || {
        let each: Vec<_> = work.concepts.iter().map(targets).collect::<Result<_>>()?;
        let views: Vec<_> = each.iter().map(|t| t.view()).collect();
        concatenate(Axis(0), &views).map_err(|e| Error::input(e.to_string()))
    };
    // the images of a prompt are compared with targets: those sampled, or those that stand for them
    let with_targets = |targets: Array2<f32>| {
        Ok::<_, Error>(match (&work.samples, &work.kind) {
            (Some((at, list)), _) => {
                let images = source.pictures(Pictures::Samples(*at, list), by)?;
                let groups = work.groups.clone();
                Compared { groups, ..Compared::each(images, targets, false) }
            }
            (None, CellKind::Real) => Compared::each(targets.clone(), targets, true),
            (None, _) => Compared::each(all_targets()?, targets, false),
        })
    };
    match need {
        Need::Targets => work.concepts.iter().map(|c| with_targets(targets(c)?)).collect(),
        Need::AllTargets => Ok(vec![with_targets(all_targets()?)?]),
        Need::Prompts => prompted(work, by, source, true),
        Need::Images => prompted(work, by, source, false),
        Need::RealImages | Need::GeneralImages => {
            let sides = if need == Need::RealImages { &work.real } else { &work.general };
            let Some((side, real)) = sides else { return Ok(vec![]) };
            let images = match side {
                Side::Samples(at, list) => source.pictures(Pictures::Samples(*at, list), by)?,
                Side::Real(at) => source.pictures(Pictures::Retrieved(*at), by)?,
                Side::Targets => all_targets()?,
            };
            let real = source.pictures(Pictures::Retrieved(*real), by)?;
            Ok(vec![Compared::each(images, real, false)])
        }
        Need::ClassWords => {
            let Some((at, list)) = &work.class_words else { return Ok(vec![]) };
            let images = source.pictures(Pictures::Samples(*at, list), by)?;
            let each = |c| Ok(Compared::each(images.clone(), targets(c)?, false));
            work.concepts.iter().map(each).collect()
        }
        Need::Unrelated => {
            let Some([own, plain]) = &work.unrelated else { return Ok(vec![]) };
            let of =
                |(at, list): &(usize, Images)| source.pictures(Pictures::Samples(*at, list), by);
            Ok(vec![Compared::each(of(own)?, of(plain)?, false)])
        }
        Need::Attention => {
            let Some(at) = work.attention else { return Ok(vec![]) };
            let maps = source.attention(at)?;
            let (groups, none) = (work.groups.clone(), || Array2::zeros((0, 0)));
            Ok(vec![Compared { groups, maps, ..Compared::each(none(), none(), false) }])
        }
        Need::Weights => {
            let none = || Array2::zeros((0, 0));
            let moved = work.checkpoint.map(|_| Compared::each(none(), none(), false));
            Ok(moved.into_iter().collect())
        }
    }
}

/// The images of the evaluation prompts, and the features of each one's prompt if they are asked for.
fn prompted(
    work: &ScoreWork,
    by: &str,
    source: &dyn Source,
    with_texts: bool,
) -> Result<Vec<Compared>> {
    let (images, groups, texts) = match (&work.samples, &work.kind) {
        (Some((at, list)), _) => {
            let images = source.pictures(Pictures::Samples(*at, list), by)?;
            (images, work.groups.clone(), work.texts.clone())
        }
        // real images are of their own captions
        (None, CellKind::Real) => {
            let Some((_, real)) = &work.real else { return Ok(vec![]) };
            let images = source.pictures(Pictures::Retrieved(*real), by)?;
            let groups = (0..images.nrows()).collect();
            (images, groups, source.captions(*real)?)
        }
        // every prompt is answered with every copy
        (None, _) => {
            let each: Vec<Array2<f32>> = work
                .concepts
                .iter()
                .map(|c| source.pictures(Pictures::Targets(c), by))
                .collect::<Result<_>>()?;
            let prompts = 0..work.texts.len();
            let views: Vec<_> = prompts.flat_map(|_| each.iter().map(|t| t.view())).collect();
            let images = concatenate(Axis(0), &views).map_err(|e| Error::input(e.to_string()))?;
            let copies = images.nrows() / work.texts.len().max(1);
            let groups = (0..images.nrows()).map(|i| i / copies.max(1)).collect();
            (images, groups, work.texts.clone())
        }
    };
    let against = match with_texts {
        true => source.texts(&texts, by)?.select(Axis(0), &groups),
        false => Array2::zeros((0, images.ncols())),
    };
    Ok(vec![Compared { groups, ..Compared::each(images, against, false) }])
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
