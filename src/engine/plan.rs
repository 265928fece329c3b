//! From an experiment to its cells, and to the stages that they need.

mod cell;
mod checkpoint;

use std::collections::HashMap;
use std::path::PathBuf;

use super::cell::{Cell, CellKind};
use super::external;
use super::external::Told;
use super::filter::{Filter, Named};
use super::foresee::foresee;
use super::images::Images;
use super::key::Key;
use super::resources::Resources;
use super::stage::{Stage, Work};
use super::truth::{truth, truth_phrases};
use crate::data::Prompt;
use crate::methods::{self, External, Known, Method, Recipe, class_prompt};
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

/// More cells in one run are taken for a mistake.
const MOST_CELLS: usize = 10_000;
