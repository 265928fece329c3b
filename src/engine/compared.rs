//! Which images of a cell are compared with what, by what a measure needs.

use std::fs;

use ndarray::{Array2, Axis};

use super::cell::CellKind;
use super::images::Side;
use super::scores::{Bench, Pictures, Source};
use super::stage::ScoreWork;
use crate::clip::together;
use crate::metrics::{Chosen, Files, Given, Need, Outcome, WeightChange};
use crate::{Error, Result};

/// Images and what they are compared with.
pub struct Compared<'a> {
    images: Vec<(Pictures<'a>, Groups<'a>)>,
    against: Against<'a>,
    itself: bool,
    maps: Option<usize>,
}

/// The groups of images, such as those of one prompt.
enum Groups<'a> {
    /// Each is one of its own.
    Each,
    /// All are of this one.
    One(usize),
    /// The number of each one's.
    Listed(&'a [usize]),
}

/// What images are compared with.
enum Against<'a> {
    Nothing,
    Pictures(Vec<Pictures<'a>>),
    /// The prompt of each group.
    Prompts(Vec<String>),
}

/// What a cell has for a need: a comparison with each concept, or one; none where it has no such
/// images. The anchors stand in with real images and with copies of the targets.
///
/// # Errors
/// The source's.
pub fn compared<'a>(
    work: &'a ScoreWork,
    need: Need,
    source: &dyn Source,
) -> Result<Vec<Compared<'a>>> {
    let all_targets =
        || work.concepts.iter().map(|concept| Pictures::Targets(concept)).collect::<Vec<_>>();
    // the images of a prompt are compared with targets: those sampled, or those that stand for them
    let with_targets = |targets: Vec<Pictures<'a>>| match (&work.samples, &work.kind) {
        (Some((at, list)), _) => {
            let images = vec![(Pictures::Samples(*at, list), Groups::Listed(&work.groups))];
            Compared { images, ..Compared::each(vec![], targets) }
        }
        (None, CellKind::Real) => {
            Compared { itself: true, ..Compared::each(targets.clone(), targets) }
        }
        (None, _) => Compared::each(all_targets(), targets),
    };
    let each_with_targets = || work.concepts.iter().map(|concept| vec![Pictures::Targets(concept)]);
    Ok(match need {
        Need::Targets => each_with_targets().map(with_targets).collect(),
        Need::AllTargets => vec![with_targets(all_targets())],
        Need::Prompts => prompted(work, source, true)?.into_iter().collect(),
        Need::Images => prompted(work, source, false)?.into_iter().collect(),
        Need::RealImages | Need::GeneralImages => {
            let sides = if need == Need::RealImages { &work.real } else { &work.general };
            let Some((side, real)) = sides else { return Ok(vec![]) };
            let images = match side {
                Side::Samples(at, list) => vec![Pictures::Samples(*at, list)],
                Side::Real(at) => vec![Pictures::Retrieved(*at)],
                Side::Targets => all_targets(),
            };
            vec![Compared::each(images, vec![Pictures::Retrieved(*real)])]
        }
        Need::ClassWords => {
            let Some((at, list)) = &work.class_words else { return Ok(vec![]) };
            let images = || vec![Pictures::Samples(*at, list)];
            each_with_targets().map(|targets| Compared::each(images(), targets)).collect()
        }
        Need::Unrelated => {
            let Some([own, plain]) = &work.unrelated else { return Ok(vec![]) };
            let [own, plain] = [own, plain].map(|(at, list)| vec![Pictures::Samples(*at, list)]);
            vec![Compared::each(own, plain)]
        }
        Need::Attention => {
            let Some(at) = work.attention else { return Ok(vec![]) };
            let (samples, all) = (&work.samples, Groups::Listed(&work.groups));
            let images = samples.iter().map(|(at, list)| Pictures::Samples(*at, list)).zip([all]);
            vec![Compared {
                images: images.collect(),
                maps: Some(at),
                ..Compared::each(vec![], vec![])
            }]
        }
        Need::Weights => work.checkpoint.iter().map(|_| Compared::each(vec![], vec![])).collect(),
    })
}

/// The images of the evaluation prompts, with each one's prompt if they are asked for.
fn prompted<'a>(
    work: &'a ScoreWork,
    source: &dyn Source,
    with_texts: bool,
) -> Result<Option<Compared<'a>>> {
    let texts = |texts: &[String]| match with_texts {
        true => Against::Prompts(texts.to_vec()),
        false => Against::Nothing,
    };
    let (images, against) = match (&work.samples, &work.kind) {
        (Some((at, list)), _) => {
            let images = vec![(Pictures::Samples(*at, list), Groups::Listed(&work.groups[..]))];
            (images, texts(&work.texts))
        }
        // real images are of their own captions
        (None, CellKind::Real) => {
            let Some((_, real)) = &work.real else { return Ok(None) };
            let captions = if with_texts { source.captions(*real)? } else { vec![] };
            (vec![(Pictures::Retrieved(*real), Groups::Each)], texts(&captions))
        }
        // every prompt is answered with every copy
        (None, _) => {
            let copies = |prompt| {
                work.concepts.iter().map(move |c| (Pictures::Targets(c), Groups::One(prompt)))
            };
            ((0..work.texts.len()).flat_map(copies).collect(), texts(&work.texts))
        }
    };
    Ok(Some(Compared { images, against, itself: false, maps: None }))
}

impl<'a> Compared<'a> {
    /// Every image is a group of its own.
    fn each(images: Vec<Pictures<'a>>, against: Vec<Pictures<'a>>) -> Self {
        Compared {
            images: images.into_iter().map(|pictures| (pictures, Groups::Each)).collect(),
            against: Against::Pictures(against),
            itself: false,
            maps: None,
        }
    }

    /// The group of each image.
    ///
    /// # Errors
    /// The source's.
    pub fn groups(&self, source: &dyn Source) -> Result<Vec<usize>> {
        let mut all = vec![];
        for (pictures, groups) in &self.images {
            match groups {
                Groups::Listed(listed) => all.extend_from_slice(listed),
                Groups::One(group) => {
                    all.extend(std::iter::repeat_n(*group, source.count(*pictures)?));
                }
                Groups::Each => all.extend(all.len()..all.len() + source.count(*pictures)?),
            }
        }
        Ok(all)
    }

    /// What a metric's measure says of them; `groups` are [those of the images](Self::groups).
    ///
    /// # Errors
    /// The source's and the measure's.
    pub fn measured(
        &self,
        chosen: &Chosen,
        groups: &[usize],
        weights: &[WeightChange],
        source: &dyn Source,
        bench: &Bench,
    ) -> Result<Option<Outcome>> {
        let none = || Array2::zeros((0, 0));
        let maps = match self.maps {
            Some(at) => source.attention(at)?,
            None => vec![],
        };
        let given = |images: &Array2<f32>, against: &Array2<f32>, files| {
            chosen.measure.measure(&Given {
                images: images.view(),
                groups,
                against: against.view(),
                itself: self.itself,
                weights,
                maps: &maps,
                files,
            })
        };
        match &chosen.metric.extractor {
            // neither of maps nor of weights are there features
            Some(_) if self.maps.is_some() || self.images.is_empty() => {
                given(&none(), &none(), None)
            }
            Some(by) => {
                let of = |pictures: &Pictures<'a>| source.pictures(*pictures, by);
                let images = together(self.images.iter().map(|(pictures, _)| of(pictures)))?;
                let against = match &self.against {
                    Against::Nothing => Array2::zeros((0, images.ncols())),
                    Against::Pictures(pictures) => together(pictures.iter().map(of))?,
                    Against::Prompts(texts) => source.texts(texts, by)?.select(Axis(0), groups),
                };
                given(&images, &against, None)
            }
            None => given(&none(), &none(), Some(&self.files(groups, source, bench)?)),
        }
    }

    fn files<'b>(
        &self,
        groups: &[usize],
        source: &dyn Source,
        bench: &Bench<'b>,
    ) -> Result<Files<'b>> {
        let desk = bench.folder;
        if desk.exists() {
            fs::remove_dir_all(desk).map_err(Error::io(desk))?;
        }
        fs::create_dir_all(desk).map_err(Error::io(desk))?;
        let into = std::path::absolute(desk).map_err(Error::io(desk))?;
        let of = |pictures: &Pictures<'a>| source.files(*pictures, &into);
        let all = |pictures: &mut dyn Iterator<Item = &Pictures<'a>>| -> Result<Vec<_>> {
            Ok(pictures.map(of).collect::<Result<Vec<_>>>()?.concat())
        };
        Ok(Files {
            images: all(&mut self.images.iter().map(|(pictures, _)| pictures))?,
            prompts: match &self.against {
                Against::Prompts(texts) => groups.iter().map(|g| texts[*g].clone()).collect(),
                _ => vec![],
            },
            against: match &self.against {
                Against::Pictures(pictures) => all(&mut pictures.iter())?,
                _ => vec![],
            },
            desk,
            cache: bench.cache,
            stop: bench.stop,
        })
    }
}
