//! From an experiment to its cells, and to the stages that they need.

use std::collections::HashMap;
use std::path::PathBuf;

use super::cell::{Cell, CellKind};
use super::external;
use super::filter::{Filter, Named};
use super::foresee::foresee;
use super::key::Key;
use super::resources::Resources;
use super::stage::{
    ClassImages, GENERATED_SEEDS, Images, ScoreWork, Side, Stage, Told, Work, image_seed, truth,
    truth_phrases,
};
use crate::data::{Concept, Corpus, Prompt};
use crate::methods::{
    self, External, Known, Method, Recipe, Regularization, Settings, class_prompt, modifier_of_row,
};
use crate::metrics::Need;
use crate::spec::{Experiment, GroupName, Point, SamplingSpec, Scale};
use crate::{Error, Result};

/// Everything that a run will have, in the order in which it can be made.
pub struct Plan {
    /// Each after all it is made from.
    pub stages: Vec<Stage>,
    /// The rows of `results.csv`.
    pub cells: Vec<Cell>,
    index: HashMap<Key, usize>,
}

/// A concept, or several together.
pub(super) struct Subject {
    pub name: String,
    pub group: GroupName,
    pub concepts: Vec<String>,
    pub prompts: Vec<Prompt>,
}

/// A row, as far as it is the same for all subjects.
struct RowPlan {
    label: String,
    paper: Option<String>,
    kind: CellKind,
    method: Option<&'static dyn Method>,
    point: Option<Point>,
    /// The programs of others that it runs.
    external: Option<External>,
}

/// What samples: the backbone, or a checkpoint, or a program of others.
#[derive(Clone, Default)]
struct Sampler {
    checkpoint: Option<usize>,
    by: Option<Told>,
}

impl Sampler {
    /// It samples otherwise than the backbone as it is.
    fn is_own(&self) -> bool {
        self.checkpoint.is_some() || self.by.is_some()
    }
}

/// Plans `experiment` at `scale`: one concept under all methods before the next, so that the first lines
/// of the table are complete long before the last.
///
/// # Errors
/// A concept, pair or option that does not exist; what reading concepts gives; what can be known now of
/// what the stages would refuse.
pub fn plan(
    experiment: &Experiment,
    scale: &Scale,
    filter: &Filter,
    resources: &Resources,
) -> Result<Plan> {
    let mut planner = Planner::new(experiment, scale, resources);
    let (subjects, rows) = (subjects(scale, resources)?, planner.rows()?);
    let mut drawn = vec![];
    for subject in &subjects {
        drawn.push(planner.can_be_drawn(subject)?);
    }
    let keys = rows.iter().flat_map(|row| row.point.iter().flat_map(|p| p.place.keys()));
    filter.check(keys)?;
    let mut wanted = vec![];
    for seed in 0..scale.seeds {
        for (subject, drawn) in subjects.iter().zip(&drawn) {
            for row in rows.iter().filter(|row| row.takes(subject, seed)) {
                if row.kind == CellKind::Truth && !drawn {
                    continue;
                }
                let cell = Named {
                    kind: &row.kind,
                    label: &row.label,
                    series: row.point.as_ref().map(|p| p.series.as_str()),
                    place: row.point.as_ref().map(|p| &p.place),
                    subject: &subject.name,
                    concepts: &subject.concepts,
                    group: subject.group,
                    seed,
                };
                if filter.lets(&cell) {
                    wanted.push((row, subject, seed));
                }
            }
        }
    }
    if wanted.len() > MOST_CELLS {
        return Err(Error::input_hint(
            format!("the experiment has {} cells, more than {MOST_CELLS}", wanted.len()),
            "run a part of it: --filter label=…, concept=…, seed=…, or KEY=VALUE of a sweep",
        ));
    }
    for (row, subject, seed) in wanted {
        planner.cell(row, subject, seed)?;
    }
    if planner.plan.cells.is_empty() {
        return Err(Error::input_hint(
            "no cell is left to run",
            "see the experiment's rows and scales, and --filter",
        ));
    }
    foresee(&planner.plan, resources)?;
    Ok(planner.plan)
}

/// A checkpoint, planned.
pub struct CheckpointPlan {
    /// The stages that it needs, and its own.
    pub plan: Plan,
    /// The number of its stage.
    pub at: usize,
    /// What it is made of.
    pub recipe: Recipe,
}

/// Plans what the experiment's first row trains on `concepts` together, and nothing else.
///
/// # Errors
/// As [`plan`]; a method that trains nothing, or does not take so many concepts.
pub fn plan_checkpoint(
    experiment: &Experiment,
    scale: &Scale,
    concepts: &[String],
    seed: u64,
    resources: &Resources,
) -> Result<CheckpointPlan> {
    let mut planner = Planner::new(experiment, scale, resources);
    let row = planner.rows()?.remove(0);
    let method = methods::find(row.kind.as_str())?;
    let (name, takes) = (method.name(), method.concepts());
    if !takes.contains(&concepts.len()) {
        return Err(Error::input(format!(
            "`{name}` learns {} to {} concepts together, not {}",
            takes.start(),
            takes.end(),
            concepts.len()
        )));
    }
    let settings = planner.settings(method, &row, concepts.len())?;
    let recipe = method.recipe(concepts, &settings, seed).after(resources.taken_tokens());
    let at = planner.checkpoint(&row.label, &recipe)?;
    let at = at.ok_or_else(|| Error::input(format!("`{name}` trains nothing")))?;
    foresee(&planner.plan, resources)?;
    Ok(CheckpointPlan { plan: planner.plan, at, recipe })
}

/// What programs of others are told, where a recipe is of theirs.
fn told(recipe: &Recipe) -> Option<Told> {
    let Recipe::External { concepts, external, seed, tokens } = recipe else { return None };
    let (external, concepts) = ((**external).clone(), concepts.clone());
    Some(Told { external, concepts, tokens: tokens.clone(), seed: *seed })
}

/// Training steps at a scale.
pub(super) fn scaled(steps: u64, scale: &Scale) -> u64 {
    ((steps as f64 * scale.train_steps).round() as u64).max(1)
}

impl RowPlan {
    /// What the row makes of its method's checkpoint.
    fn derived(&self, recipe: Recipe, scale: &Scale) -> Recipe {
        let Some(point) = &self.point else { return recipe };
        let recipe = match point.state {
            Some(step) => recipe.at(scaled(step, scale)),
            None => recipe,
        };
        match point.row.compress {
            Some(to) => Recipe::Compressed { of: Box::new(recipe), to },
            None => recipe,
        }
    }

    /// Whether there is a cell of it; real images and copies are the same for all seeds.
    fn takes(&self, subject: &Subject, seed: u64) -> bool {
        let Some(method) = self.method else {
            return seed == 0 || matches!(self.kind, CellKind::Pretrained | CellKind::Truth);
        };
        let asked = self.point.as_ref().and_then(|p| p.row.groups.as_ref());
        method.concepts().contains(&subject.concepts.len())
            && asked.is_none_or(|groups| groups.contains(&subject.group))
    }
}

struct Planner<'a> {
    experiment: &'a Experiment,
    scale: &'a Scale,
    resources: &'a Resources,
    plan: Plan,
    /// The files of checkpoints that were read.
    files: HashMap<PathBuf, Known>,
}

impl<'a> Planner<'a> {
    fn new(experiment: &'a Experiment, scale: &'a Scale, resources: &'a Resources) -> Self {
        let plan = Plan { stages: vec![], cells: vec![], index: HashMap::new() };
        Planner { experiment, scale, resources, plan, files: HashMap::new() }
    }

    fn rows(&self) -> Result<Vec<RowPlan>> {
        let mut rows = vec![];
        for row in &self.experiment.rows {
            let method = methods::find(&row.method)?;
            for point in row.points()? {
                let label = point.row.title()?;
                let paper = point.row.paper.clone().or(Some(label.clone()));
                let kind = CellKind::Method(method.name());
                let external =
                    external::find(&point.row, self.experiment, self.scale, self.resources);
                let external = external.map_err(|e| e.of(&format!("row `{label}`")))?;
                let (method, point) = (Some(method), Some(point));
                rows.push(RowPlan { label, paper, kind, method, point, external });
            }
        }
        let anchors = [
            ("Pretrained", CellKind::Pretrained),
            ("Real images", CellKind::Real),
            ("Copies of the training images", CellKind::Copies),
            ("Rendered truth", CellKind::Truth),
        ];
        for (label, kind) in anchors {
            rows.push(RowPlan {
                label: label.into(),
                paper: None,
                kind,
                method: None,
                point: None,
                external: None,
            });
        }
        Ok(rows)
    }

    /// Whether the renderer can draw the prompts with the concepts in them.
    fn can_be_drawn(&self, subject: &Subject) -> Result<bool> {
        let mut categories = vec![];
        for name in &subject.concepts {
            categories.push(self.resources.concept(name)?.category.clone());
        }
        let phrases = truth_phrases(&categories);
        let drawn = |prompt: &Prompt| {
            truth(self.resources, &subject.concepts, &prompt.fill(&phrases), 0).is_ok()
        };
        Ok(subject.prompts.iter().all(drawn))
    }

    /// Adds a stage, unless it is there, and says its number.
    fn add(&mut self, name: String, work: Work) -> Result<usize> {
        let stage = Stage::new(name, work, &self.plan.stages, self.resources)?;
        if let Some(&at) = self.plan.index.get(&stage.key) {
            return Ok(at);
        }
        let at = self.plan.stages.len();
        self.plan.index.insert(stage.key.clone(), at);
        self.plan.stages.push(stage);
        Ok(at)
    }

    fn samples(
        &mut self,
        name: String,
        sampler: &Sampler,
        images: &Images,
        sampling: &SamplingSpec,
    ) -> Result<usize> {
        let Sampler { checkpoint, by } = sampler.clone();
        let (images, sampling) = (images.clone(), sampling.clone());
        self.add(name, Work::Sample { checkpoint, images, sampling, by: by.map(Box::new) })
    }

    fn retrieval(
        &mut self,
        corpus: &str,
        category: &str,
        count: usize,
        threshold: f32,
    ) -> Result<usize> {
        let queries = vec![class_prompt(category)];
        let name = format!("retrieve {count} of {corpus} · {category}");
        self.add(name, Work::Retrieve { corpus: corpus.to_owned(), queries, count, threshold })
    }

    /// The stage that makes what `recipe` says; none for the backbone as it is.
    fn checkpoint(&mut self, label: &str, recipe: &Recipe) -> Result<Option<usize>> {
        match recipe {
            Recipe::Pretrained => Ok(None),
            Recipe::Train { from, concepts, settings, seed, tokens } => {
                let from = self.checkpoint(label, from)?;
                let mut class = vec![];
                for name in concepts {
                    let category = self.resources.concept(name)?.category.clone();
                    class.push(self.class_images(&category, settings)?);
                }
                let name = format!("train {label} · {} · seed {seed}", concepts.join(" + "));
                let work = Work::Train {
                    from,
                    concepts: concepts.clone(),
                    class,
                    settings: settings.clone(),
                    tokens: tokens.clone(),
                    seed: *seed,
                };
                Ok(Some(self.add(name, work)?))
            }
            Recipe::External { external, concepts, .. } => {
                let (Some(told), true) = (told(recipe), external.train.is_some()) else {
                    return Ok(None);
                };
                let name = format!("train {label} · {} · seed {}", concepts.join(" + "), told.seed);
                Ok(Some(self.add(name, Work::TrainBy(told))?))
            }
            Recipe::Merge { parts: recipes, settings } => {
                let mut parts = vec![];
                let mut concepts = vec![];
                for part in recipes {
                    parts.extend(self.checkpoint(label, part)?);
                    concepts.extend(part.concepts().into_iter().map(str::to_owned));
                }
                let corpus = self.experiment.regularization.corpus.clone();
                let modifiers = recipe.modifiers().into_iter().map(|(m, _)| m).collect();
                let name = format!("merge {label} · {}", concepts.join(" + "));
                let settings = settings.clone();
                let work = Work::Merge { parts, concepts, modifiers, settings, corpus };
                Ok(Some(self.add(name, work)?))
            }
            Recipe::State { of, step } => {
                let concepts = of.concepts().join(" + ");
                let Some(at) = self.checkpoint(label, of)? else { return Ok(None) };
                let name = format!("state {label} · {concepts} · step {step}");
                Ok(Some(self.add(name, Work::State { of: at, step: *step })?))
            }
            Recipe::Compressed { of, to } => {
                let concepts = of.concepts().join(" + ");
                let Some(at) = self.checkpoint(label, of)? else { return Ok(None) };
                let name = format!("compress {label} · {concepts} · {to}");
                Ok(Some(self.add(name, Work::Compress { of: at, to: *to })?))
            }
            Recipe::File { file, concepts, phrases } => {
                let called = concepts.iter().zip(phrases).map(|(c, p)| format!("{c} as {p}"));
                let called: Vec<String> = called.collect();
                let name = format!("take {label} · {}", called.join(" + "));
                Ok(Some(self.add(name, Work::Take(file.clone()))?))
            }
        }
    }

    /// What a row that names a checkpoint's file is for a subject; none for other rows.
    fn of_file(
        &mut self,
        row: &RowPlan,
        subject: &Subject,
        concepts: &[&Concept],
        seed: u64,
    ) -> Result<Option<Recipe>> {
        let Some((own, path)) =
            row.point.as_ref().and_then(|p| Some((&p.row, p.row.path.as_ref()?)))
        else {
            return Ok(None);
        };
        let path = path.replace("{concept}", &subject.name).replace("{seed}", &seed.to_string());
        let path = self.resources.path(&path);
        if !self.files.contains_key(&path) {
            self.files.insert(path.clone(), Known::read(&path)?);
        }
        let file = self.files[&path].clone();
        let named: Vec<(&str, &str)> =
            concepts.iter().map(|c| (c.name.as_str(), c.category.as_str())).collect();
        let phrases = file.phrases(&named, modifier_of_row(&own.settings)?)?;
        Ok(Some(Recipe::File { file, concepts: subject.concepts.clone(), phrases }))
    }

    fn class_images(&mut self, category: &str, settings: &Settings) -> Result<ClassImages> {
        let count = settings.class_images;
        Ok(match settings.regularization {
            Regularization::None => ClassImages::None,
            Regularization::Real => {
                let corpus = self.experiment.regularization.corpus.clone();
                let threshold = self.resources.threshold();
                ClassImages::Real(self.retrieval(&corpus, category, count, threshold)?)
            }
            Regularization::Generated => {
                let prompt = class_prompt(category);
                // seeds of their own: evaluation images must not be among the training images
                let seeds = (0..count).map(|i| (prompt.clone(), GENERATED_SEEDS + i as u64));
                let images = Images::Listed(seeds.collect());
                let name = format!("sample {count} × {prompt}");
                let sampling = self.scale.sampling(&self.experiment.sampling, GroupName::Single);
                let backbone = Sampler::default();
                ClassImages::Generated(self.samples(name, &backbone, &images, &sampling)?, images)
            }
        })
    }

    fn cell(&mut self, row: &RowPlan, subject: &Subject, seed: u64) -> Result<()> {
        let concepts: Vec<&Concept> =
            subject.concepts.iter().map(|n| self.resources.concept(n)).collect::<Result<_>>()?;
        let words: Vec<String> = concepts.iter().map(|c| c.category.clone()).collect();
        let mut phrases = words.clone();
        let mut recipe = Recipe::Pretrained;
        if let Some(method) = row.method {
            let of_row = |e: Error| e.of(&format!("row `{}`", row.label));
            let of_file = self.of_file(row, subject, &concepts, seed).map_err(of_row)?;
            recipe = match (&row.external, of_file) {
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
            recipe = row.derived(recipe, self.scale).after(self.resources.taken_tokens());
            phrases = recipe.phrases(&words);
        }
        if row.kind == CellKind::Truth {
            phrases = truth_phrases(&words);
        }
        let checkpoint = self.checkpoint(&row.label, &recipe)?;
        let by = told(&recipe).filter(|told| told.external.sample.is_some());
        let sampler = Sampler { checkpoint, by };
        // what has no modifier token in it samples the same where no weight moved
        let moved = if recipe.moves_weights() { sampler.clone() } else { Sampler::default() };

        let title = format!("{} · {} · seed {seed}", row.label, subject.name);
        let mut sampling = self.scale.sampling(&self.experiment.sampling, subject.group);
        if let Some(point) = &row.point {
            sampling = point.row.sampling.over(&sampling);
        }
        let per_prompt = match subject.group {
            GroupName::Single => self.scale.images,
            GroupName::Multi => self.scale.pair_images,
        };
        let metrics = self.resources.metrics();
        let needs = |need: Need| metrics.iter().any(|m| m.measure.need() == need);
        let has_images = !matches!(row.kind, CellKind::Real | CellKind::Copies)
            && metrics.iter().any(|m| m.measure.need().of_prompts());
        let texts: Vec<String> = subject.prompts.iter().map(|p| p.fill(&words)).collect();
        let mut groups = vec![];
        let mut samples = None;
        if has_images {
            let mut list = vec![];
            for (i, prompt) in subject.prompts.iter().enumerate() {
                for j in 0..per_prompt {
                    list.push((prompt.fill(&phrases), image_seed(seed, i, j)));
                    groups.push(i);
                }
            }
            let images = Images::Listed(list.clone());
            let at = match row.kind {
                CellKind::Truth => {
                    let concepts = subject.concepts.clone();
                    self.add(format!("draw {title}"), Work::Render { concepts, list })?
                }
                _ => self.samples(format!("sample {title}"), &sampler, &images, &sampling)?,
            };
            samples = Some((at, images));
        }

        let mut compared = None;
        // real images are also the anchor of what is measured of prompts
        let real = needs(Need::RealImages)
            || row.kind == CellKind::Real && (needs(Need::Prompts) || needs(Need::Images));
        if real && subject.group == GroupName::Single && self.scale.real_images >= 2 {
            let count = self.scale.real_images;
            let spec = &self.experiment.regularization;
            let (corpus, validation) = (spec.corpus.clone(), spec.validation.clone());
            let real = self.retrieval(&validation, &words[0], count, ANY)?;
            let side = match row.kind {
                CellKind::Real | CellKind::Truth => {
                    Side::Real(self.retrieval(&corpus, &words[0], count, ANY)?)
                }
                CellKind::Copies => Side::Targets,
                _ => {
                    let images = Images::CaptionsOf { stage: real, count, seed };
                    let whose = if moved.is_own() { &row.label } else { "Pretrained" };
                    let name = format!("sample {whose} · {} · {count} captions", subject.name);
                    Side::Samples(self.samples(name, &moved, &images, &sampling)?, images)
                }
            };
            compared = Some((side, real));
        }

        // what only a model has: the others are pictures that nobody was asked for
        let model = matches!(row.kind, CellKind::Method(_) | CellKind::Pretrained);
        let spec = &self.experiment.regularization;
        let mut class_words = None;
        if needs(Need::ClassWords) && model {
            // the seeds of the first images of the evaluation prompts
            let texts = texts.iter().take(self.scale.drift_images).enumerate();
            let list = texts.map(|(i, text)| (text.clone(), image_seed(seed, i, 0))).collect();
            let images = Images::Listed(list);
            let name = format!("sample {title} · class words");
            class_words = Some((self.samples(name, &sampler, &images, &sampling)?, images));
        }
        let mut unrelated = None;
        if needs(Need::Unrelated) && model {
            let corpus = self.resources.corpus(&spec.validation)?;
            let captions = unrelated_captions(&*corpus, &words, self.scale.drift_images);
            let list = captions.into_iter().enumerate();
            let list = list.map(|(i, text)| (text, image_seed(seed, i, 0))).collect();
            let images = Images::Listed(list);
            let name = format!("sample {title} · unrelated captions");
            let own = self.samples(name, &moved, &images, &sampling)?;
            let plain = format!("sample Pretrained · {} · unrelated captions", subject.name);
            let plain = self.samples(plain, &Sampler::default(), &images, &sampling)?;
            unrelated = Some([(own, images.clone()), (plain, images)]);
        }
        let mut attention = None;
        // into programs of others nobody sees
        if needs(Need::Attention)
            && model
            && sampler.by.is_none()
            && let (Some((_, Images::Listed(list))), Some(words)) =
                (&samples, words_in(&subject.prompts, &words, &phrases))
        {
            let (list, sampling) = (list.clone(), sampling.clone());
            let work = Work::Attend { checkpoint, list, words, sampling };
            attention = Some(self.add(format!("attend {title}"), work)?);
        }
        let mut general = None;
        if needs(Need::GeneralImages) && self.scale.general_images >= 2 && !drawn(&row.kind) {
            let count = self.scale.general_images;
            let real = Work::Spread { corpus: spec.validation.clone(), count };
            let real = self.add(format!("{count} of all of {}", spec.validation), real)?;
            let side = if model {
                let images = Images::CaptionsOf { stage: real, count, seed };
                let whose = if moved.is_own() { row.label.as_str() } else { "Pretrained" };
                let name = format!("sample {whose} · {} · {count} general captions", subject.name);
                Side::Samples(self.samples(name, &moved, &images, &sampling)?, images)
            } else {
                let other = Work::Spread { corpus: spec.corpus.clone(), count };
                Side::Real(self.add(format!("{count} of all of {}", spec.corpus), other)?)
            };
            general = Some((side, real));
        }
        let concepts = subject.concepts.clone();
        let (metrics, kind) = (self.resources.metrics().to_vec(), row.kind.clone());
        let work = ScoreWork {
            metrics,
            kind,
            concepts,
            samples,
            texts,
            groups,
            real: compared,
            general,
            class_words,
            unrelated,
            checkpoint: checkpoint.filter(|_| needs(Need::Weights) && sampler.by.is_none()),
            attention,
        };
        let name = format!("score {title}");
        let scores = self.add(name, Work::Score(work))?;
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

    fn settings(&self, method: &dyn Method, row: &RowPlan, concepts: usize) -> Result<Settings> {
        let none = toml::Table::new();
        let given = row.point.as_ref().map_or(&none, |p| &p.row.settings);
        let mut settings = method.defaults(self.resources.profile(), concepts).with(given)?;
        settings.steps = scaled(settings.steps, self.scale);
        Ok(settings)
    }
}

/// The concepts and pairs of a scale, with the prompts that they are evaluated with.
pub(super) fn subjects(scale: &Scale, resources: &Resources) -> Result<Vec<Subject>> {
    let most = scale.prompts.unwrap_or(usize::MAX);
    let mut subjects = vec![];
    for name in &scale.concepts {
        let mut prompts = resources.concept(name)?.prompts.clone();
        if prompts.is_empty() {
            return Err(Error::input_hint(
                format!("the concept `{name}` has no prompts to be evaluated with"),
                "add `prompts` to its [[concepts]]: [\"photo of a {} on the beach\"], or a text file",
            ));
        }
        prompts.truncate(most);
        let concepts = vec![name.clone()];
        subjects.push(Subject { name: name.clone(), group: GroupName::Single, concepts, prompts });
    }
    for name in &scale.pairs {
        let (concepts, mut prompts) = resources.pair(name)?;
        concepts.iter().try_for_each(|c| resources.concept(c).map(|_| ()))?;
        prompts.truncate(most);
        subjects.push(Subject { name: name.clone(), group: GroupName::Multi, concepts, prompts });
    }
    Ok(subjects)
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

/// Whether a cell's images are none of a model's, and none of a corpus.
fn drawn(kind: &CellKind) -> bool {
    matches!(kind, CellKind::Copies | CellKind::Truth)
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

/// More cells in one run are taken for a mistake.
const MOST_CELLS: usize = 10_000;

/// No least similarity: the nearest, however near.
const ANY: f32 = -1.0;
