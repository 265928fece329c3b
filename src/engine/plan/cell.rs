//! A cell's stages: the images of everything that its metrics need, and the scoring of them.

use super::checkpoint::told;
use super::{Planner, RowPlan, Sampler, Subject};
use crate::data::{Concept, Corpus, Prompt};
use crate::engine::cell::{Cell, CellKind};
use crate::engine::images::{Images, Side, image_seed};
use crate::engine::stage::{ScoreWork, Work};
use crate::engine::truth::truth_phrases;
use crate::methods::Recipe;
use crate::metrics::Need;
use crate::spec::{GroupName, SamplingSpec};
use crate::{Error, Result};

/// Pictures of a cell with the stage that samples them.
type Sampled = (usize, Images);

/// A cell in the making.
struct CellPlan<'p, 'a> {
    planner: &'p mut Planner<'a>,
    row: &'p RowPlan,
    subject: &'p Subject,
    seed: u64,
    /// Its name in stages.
    title: String,
    /// The concepts' categories.
    words: Vec<String>,
    /// What the concepts are called in its prompts.
    phrases: Vec<String>,
    recipe: Recipe,
    checkpoint: Option<usize>,
    sampler: Sampler,
    /// The same, or the backbone where no weight moved: prompts without modifier tokens sample alike.
    moved: Sampler,
    sampling: SamplingSpec,
}

impl Planner<'_> {
    /// Adds a cell with all its stages.
    pub(super) fn cell(&mut self, row: &RowPlan, subject: &Subject, seed: u64) -> Result<()> {
        let mut cell = CellPlan::new(self, row, subject, seed)?;
        let (samples, groups) = cell.evaluated()?;
        let real = cell.real()?;
        let class_words = cell.class_words()?;
        let unrelated = cell.unrelated()?;
        let attention = cell.attention(&samples)?;
        let general = cell.general()?;
        let weights = cell.needs(Need::Weights) && cell.sampler.by.is_none();
        let work = ScoreWork {
            metrics: cell.planner.resources.metrics().to_vec(),
            kind: row.kind.clone(),
            concepts: subject.concepts.clone(),
            samples,
            texts: cell.texts(),
            groups,
            real,
            general,
            class_words,
            unrelated,
            checkpoint: cell.checkpoint.filter(|_| weights),
            attention,
        };
        let CellPlan { title, recipe, checkpoint, .. } = cell;
        let scores = self.add(format!("score {title}"), Work::Score(work))?;
        self.plan.cells.push(Cell {
            group: subject.group,
            subject: subject.name.clone(),
            concepts: subject.concepts.clone(),
            label: row.label.clone(),
            series: row.point.as_ref().map_or(&row.label, |p| &p.series).clone(),
            place: row.point.as_ref().map(|p| p.place.clone()).unwrap_or_default(),
            paper: row.paper.clone(),
            kind: row.kind.clone(),
            seed,
            scores,
            checkpoint,
            steps: recipe.steps(),
        });
        Ok(())
    }

    /// What a row's checkpoint for a subject is made of.
    fn recipe(&mut self, row: &RowPlan, subject: &Subject, seed: u64) -> Result<Recipe> {
        let Some(method) = row.method else { return Ok(Recipe::Pretrained) };
        let of_row = |e: Error| e.of(&format!("row `{}`", row.label));
        let resources = self.resources;
        let concepts: Vec<&Concept> =
            subject.concepts.iter().map(|n| resources.concept(n)).collect::<Result<_>>()?;
        let of_file = self.of_file(row, subject, &concepts, seed).map_err(of_row)?;
        let recipe = match (&row.external, of_file) {
            (Some(external), _) => Recipe::External {
                concepts: subject.concepts.clone(),
                external: Box::new(external.clone()),
                seed,
                tokens: (1..=subject.concepts.len()).collect(),
            },
            (None, Some(recipe)) => recipe,
            (None, None) => {
                let settings = self.settings(method, row, subject.concepts.len());
                method.recipe(&subject.concepts, &settings.map_err(of_row)?, seed)
            }
        };
        Ok(row.derived(recipe, self.scale).after(resources.taken_tokens()))
    }
}

impl<'p, 'a> CellPlan<'p, 'a> {
    fn new(
        planner: &'p mut Planner<'a>,
        row: &'p RowPlan,
        subject: &'p Subject,
        seed: u64,
    ) -> Result<Self> {
        let resources = planner.resources;
        let category = |name: &String| Ok(resources.concept(name)?.category.clone());
        let words: Vec<String> = subject.concepts.iter().map(category).collect::<Result<_>>()?;
        let recipe = planner.recipe(row, subject, seed)?;
        let phrases = match row.kind {
            CellKind::Truth => truth_phrases(&words),
            _ if row.method.is_none() => words.clone(),
            _ => recipe.phrases(&words),
        };
        let checkpoint = planner.checkpoint(&row.label, &recipe)?;
        let by = told(&recipe).filter(|told| told.external.sample.is_some());
        let sampler = Sampler { checkpoint, by };
        let moved = if recipe.moves_weights() { sampler.clone() } else { Sampler::default() };
        let mut sampling = planner.scale.sampling(&planner.experiment.sampling, subject.group);
        if let Some(point) = &row.point {
            sampling = point.row.sampling.over(&sampling);
        }
        let title = format!("{} · {} · seed {seed}", row.label, subject.name);
        Ok(CellPlan {
            planner,
            row,
            subject,
            seed,
            title,
            words,
            phrases,
            recipe,
            checkpoint,
            sampler,
            moved,
            sampling,
        })
    }

    fn needs(&self, need: Need) -> bool {
        self.planner.resources.metrics().iter().any(|m| m.measure.need() == need)
    }

    /// What only a model has: the others are pictures that nobody was asked for.
    fn is_model(&self) -> bool {
        matches!(self.row.kind, CellKind::Method(_) | CellKind::Pretrained)
    }

    /// The evaluation prompts with the categories in them.
    fn texts(&self) -> Vec<String> {
        self.subject.prompts.iter().map(|p| p.fill(&self.words)).collect()
    }

    fn sample(&mut self, name: String, sampler: &Sampler, images: Images) -> Result<Sampled> {
        let at = self.planner.samples(name, sampler, &images, &self.sampling)?;
        Ok((at, images))
    }

    /// The images of the evaluation prompts, and the number of each one's prompt.
    fn evaluated(&mut self) -> Result<(Option<Sampled>, Vec<usize>)> {
        let metrics = self.planner.resources.metrics();
        if matches!(self.row.kind, CellKind::Real | CellKind::Copies)
            || !metrics.iter().any(|m| m.measure.need().of_prompts())
        {
            return Ok((None, vec![]));
        }
        let per_prompt = match self.subject.group {
            GroupName::Single => self.planner.scale.images,
            GroupName::Multi => self.planner.scale.pair_images,
        };
        let (mut list, mut groups) = (vec![], vec![]);
        for (i, prompt) in self.subject.prompts.iter().enumerate() {
            for j in 0..per_prompt {
                list.push((prompt.fill(&self.phrases), image_seed(self.seed, i, j)));
                groups.push(i);
            }
        }
        let sampled = match self.row.kind {
            CellKind::Truth => {
                let images = Images::Listed(list.clone());
                let concepts = self.subject.concepts.clone();
                let work = Work::Render { concepts, list };
                (self.planner.add(format!("draw {}", self.title), work)?, images)
            }
            _ => {
                let (name, sampler) = (format!("sample {}", self.title), self.sampler.clone());
                self.sample(name, &sampler, Images::Listed(list))?
            }
        };
        Ok((Some(sampled), groups))
    }

    /// Images of the captions of a stage's real images.
    fn of_captions(&mut self, stage: usize, count: usize, what: &str) -> Result<Side> {
        let images = Images::CaptionsOf { stage, count, seed: self.seed };
        let whose = if self.moved.is_own() { &self.row.label } else { "Pretrained" };
        let name = format!("sample {whose} · {} · {count} {what}", self.subject.name);
        let (at, images) = self.sample(name, &self.moved.clone(), images)?;
        Ok(Side::Samples(at, images))
    }

    /// What is compared with real images of the category, and those.
    fn real(&mut self) -> Result<Option<(Side, usize)>> {
        let kind = &self.row.kind;
        // real images are also the anchor of what is measured of prompts
        let anchor = *kind == CellKind::Real;
        let needed = self.needs(Need::RealImages)
            || anchor && (self.needs(Need::Prompts) || self.needs(Need::Images));
        let count = self.planner.scale.real_images;
        if !needed || self.subject.group != GroupName::Single || count < 2 {
            return Ok(None);
        }
        let spec = &self.planner.experiment.regularization;
        let real = self.planner.retrieval(&spec.validation, &self.words[0], count, ANY)?;
        let side = match kind {
            CellKind::Real | CellKind::Truth => {
                Side::Real(self.planner.retrieval(&spec.corpus, &self.words[0], count, ANY)?)
            }
            CellKind::Copies => Side::Targets,
            _ => self.of_captions(real, count, "captions")?,
        };
        Ok(Some((side, real)))
    }

    /// What is compared with real images of everything, and those.
    fn general(&mut self) -> Result<Option<(Side, usize)>> {
        let count = self.planner.scale.general_images;
        // copies and drawn pictures are none of a model's, and none of a corpus
        let drawn = matches!(self.row.kind, CellKind::Copies | CellKind::Truth);
        if !self.needs(Need::GeneralImages) || count < 2 || drawn {
            return Ok(None);
        }
        let spec = &self.planner.experiment.regularization;
        let mut spread = |corpus: &String| {
            let work = Work::Spread { corpus: corpus.clone(), count };
            self.planner.add(format!("{count} of all of {corpus}"), work)
        };
        let real = spread(&spec.validation)?;
        let side = match self.row.kind {
            CellKind::Real => Side::Real(spread(&spec.corpus)?),
            _ => self.of_captions(real, count, "general captions")?,
        };
        Ok(Some((side, real)))
    }

    /// Images of the bare category, with the seeds of the first images of the evaluation prompts.
    fn class_words(&mut self) -> Result<Option<Sampled>> {
        if !self.needs(Need::ClassWords) || !self.is_model() {
            return Ok(None);
        }
        let list = self.first_of_each(self.texts());
        let name = format!("sample {} · class words", self.title);
        self.sample(name, &self.sampler.clone(), list).map(Some)
    }

    /// Images of what has nothing to do with the concepts, and the backbone's of the same.
    fn unrelated(&mut self) -> Result<Option<[Sampled; 2]>> {
        if !self.needs(Need::Unrelated) || !self.is_model() {
            return Ok(None);
        }
        let corpus = &self.planner.experiment.regularization.validation;
        let corpus = self.planner.resources.corpus(corpus)?;
        let captions = unrelated_captions(&*corpus, &self.words, self.planner.scale.drift_images);
        let list = self.first_of_each(captions);
        let name = format!("sample {} · unrelated captions", self.title);
        let own = self.sample(name, &self.moved.clone(), list.clone())?;
        let name = format!("sample Pretrained · {} · unrelated captions", self.subject.name);
        Ok(Some([own, self.sample(name, &Sampler::default(), list)?]))
    }

    /// An image of each text, as far as the scale asks for drift.
    fn first_of_each(&self, texts: Vec<String>) -> Images {
        let texts = texts.into_iter().take(self.planner.scale.drift_images).enumerate();
        Images::Listed(texts.map(|(i, text)| (text, image_seed(self.seed, i, 0))).collect())
    }

    /// Where the images of the evaluation prompts attend to; into programs of others nobody sees.
    fn attention(&mut self, samples: &Option<Sampled>) -> Result<Option<usize>> {
        if !self.needs(Need::Attention) || !self.is_model() || self.sampler.by.is_some() {
            return Ok(None);
        }
        let words = words_in(&self.subject.prompts, &self.words, &self.phrases);
        let (Some((_, Images::Listed(list))), Some(words)) = (samples, words) else {
            return Ok(None);
        };
        let (checkpoint, sampling) = (self.checkpoint, self.sampling.clone());
        let work = Work::Attend { checkpoint, list: list.clone(), words, sampling };
        self.planner.add(format!("attend {}", self.title), work).map(Some)
    }
}

/// How the concepts are called in the prompts, a word each to attend to: the category where it is said and
/// no other concept's, or else the phrase. None for a single concept, or where a prompt lacks one.
fn words_in(prompts: &[Prompt], categories: &[String], phrases: &[String]) -> Option<Vec<String>> {
    let own = |category: &String| categories.iter().filter(|c| *c == category).count() == 1;
    let word = |(category, phrase): (&String, &String)| {
        let said = own(category) && phrase.split(' ').any(|w| category.split(' ').any(|c| c == w));
        if said { category.clone() } else { phrase.clone() }
    };
    let words: Vec<String> = categories.iter().zip(phrases).map(word).collect();
    let in_all = |prompt: &Prompt| {
        let text = prompt.fill(phrases);
        words.iter().all(|word| text.contains(word.as_str()))
    };
    (words.len() > 1 && prompts.iter().all(in_all)).then_some(words)
}

/// Captions from all over a corpus in which no word of the categories is.
fn unrelated_captions(corpus: &dyn Corpus, categories: &[String], count: usize) -> Vec<String> {
    /// Captions looked at for one that is kept.
    const LOOKED_AT: usize = 8;
    let own: Vec<String> =
        categories.iter().flat_map(|c| c.split_whitespace()).map(str::to_lowercase).collect();
    let says = |caption: &String| {
        let words = caption.split(|c: char| !c.is_alphanumeric());
        words.map(str::to_lowercase).any(|word| own.contains(&word))
    };
    let all = corpus.spread_captions(LOOKED_AT * count);
    let mut seen = std::collections::HashSet::new();
    all.into_iter().filter(|c| !says(c) && seen.insert(c.clone())).take(count).collect()
}

/// No least similarity: the nearest, however near.
const ANY: f32 = -1.0;
