//! What is to be done: what is missing, why, and about how long it takes.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use super::images::{Images, image_file};
use super::key::differences;
use super::plan::Plan;
use super::resources::Resources;
use super::stage::{Kind, Stage, Work};
use super::states;
use super::store::Store;
use super::work::Worker;
use crate::Result;
use crate::diffusion::png::Png;

/// What is to be done with a stage, and why.
#[derive(Clone, Debug, PartialEq)]
pub enum Todo {
    /// Its result is there, or nobody needs it.
    Nothing,
    /// It is run.
    Run {
        /// For people.
        reason: String,
        /// Seconds, where something like it has been measured in this store.
        estimate: Option<f64>,
    },
}

/// What is to be done, stage by stage, for the results of the stages `wanted`: those of them that are
/// missing, and all that they need.
///
/// # Errors
/// A store that cannot be read.
pub fn survey(
    plan: &Plan,
    store: &Store,
    resources: &Resources,
    wanted: &[usize],
) -> Result<Vec<Todo>> {
    let mut todo = vec![Todo::Nothing; plan.stages.len()];
    let mut open = wanted.to_vec();
    let rates = store.rates();
    let mut seen = BTreeSet::new();
    while let Some(at) = open.pop() {
        if !seen.insert(at) {
            continue;
        }
        let missing = is_there(plan, store, resources, at)?;
        if missing.missing == 0 {
            continue;
        }
        let stage = &plan.stages[at];
        let seconds = rates.get(&rate_name(stage, resources)).copied();
        let estimate = seconds.map(|s| s * units(stage, missing));
        todo[at] = Todo::Run { reason: reason(stage, missing, store), estimate };
        open.extend(&stage.inputs);
    }
    Ok(todo)
}

fn reason(stage: &Stage, missing: Missing, store: &Store) -> String {
    if missing.missing < missing.of {
        let what = if stage.kind == Kind::Samples { "images" } else { "states" };
        return format!("{} of {} {what} are missing", missing.missing, missing.of);
    }
    match store.last_meaning(&stage.name) {
        Some((key, _)) if key == stage.key => "its result was deleted or cut".into(),
        Some((_, old)) => {
            let changed = differences(&old, &stage.meaning);
            let more = changed.len().saturating_sub(3);
            let mut text = changed.into_iter().take(3).collect::<Vec<_>>().join(", ");
            if more > 0 {
                text += &format!(" and {more} more");
            }
            format!("changed: {text}")
        }
        None => "not in the store".into(),
    }
}

/// Under which a stage's speed is remembered.
pub(super) fn rate_name(stage: &Stage, resources: &Resources) -> String {
    let device = if resources.machine().device.is_cpu() { "cpu" } else { "gpu" };
    let backbone = resources.backbone_name();
    match &stage.work {
        Work::Train { settings, .. } => format!("train {} {backbone} {device}", settings.train),
        Work::TrainBy(told) => format!("train by {}", told.program(&told.external.train)),
        Work::Sample { by: Some(told), .. } => {
            format!("sample by {}", told.program(&told.external.sample))
        }
        Work::Sample { .. } => format!("sample {backbone} {device}"),
        Work::Attend { .. } => format!("attend {backbone} {device}"),
        Work::Merge { .. } => format!("merge {backbone} {device}"),
        Work::State { .. } => "state".into(),
        Work::Compress { .. } => format!("compress {backbone}"),
        Work::Take(_) => "take".into(),
        Work::Retrieve { .. } => format!("retrieve {device}"),
        Work::Spread { .. } => "spread".into(),
        Work::Render { .. } => "render".into(),
        Work::Score(_) => format!("score {device}"),
    }
}

/// How much work is left: images × steps, or 1.
fn units(stage: &Stage, missing: Missing) -> f64 {
    match &stage.work {
        Work::Train { settings, .. } => settings.steps as f64 * settings.batch as f64,
        Work::Sample { sampling, .. } => (missing.missing * sampling.steps) as f64,
        Work::Attend { sampling, list, .. } => (list.len() * sampling.steps) as f64,
        _ => 1.0,
    }
}

/// Whether the result of a stage is there, as a whole.
///
/// # Errors
/// A store that cannot be read.
pub fn is_done(plan: &Plan, store: &Store, resources: &Resources, at: usize) -> Result<bool> {
    Ok(is_there(plan, store, resources, at)?.missing == 0)
}

/// How many missing stages must be done one after another before each that is missing can be.
pub fn levels(plan: &Plan, todo: &[Todo]) -> Vec<Option<usize>> {
    let mut levels: Vec<Option<usize>> = vec![];
    for (stage, todo) in plan.stages.iter().zip(todo) {
        let before = stage.inputs.iter().filter_map(|&i| levels[i]).map(|level| level + 1).max();
        levels.push((*todo != Todo::Nothing).then_some(before.unwrap_or(0)));
    }
    levels
}

/// What a stage finds when it looks for its result.
pub fn is_there(plan: &Plan, store: &Store, resources: &Resources, at: usize) -> Result<Missing> {
    let stage = &plan.stages[at];
    let dir = store.dir(stage.kind.folder(), &stage.folder);
    if let Work::Sample { images, .. } = &stage.work {
        // a folder that others share: what counts is every single image
        if let Images::CaptionsOf { stage: from, .. } = images
            && !store.is_whole(Kind::Retrieval.folder(), &plan.stages[*from].key)?
        {
            return Ok(Missing { missing: images.count(), of: images.count() });
        }
        let stop = AtomicBool::new(false);
        let all = Worker::new(plan, store, resources, &stop).listed(images)?;
        let is_whole = |(p, s): &&(String, u64)| Png::is_whole(&dir.join(image_file(p, *s)));
        let missing = all.len() - all.iter().filter(is_whole).count();
        return Ok(Missing { missing, of: all.len() });
    }
    if !store.is_whole(stage.kind.folder(), &stage.key)? {
        return Ok(Missing { missing: 1, of: 1 });
    }
    let missing = states::missing(plan, store, stage)?.len();
    Ok(Missing { missing, of: 1 + missing })
}

/// How much of a result is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Images, or 1 for the whole result.
    pub missing: usize,
    /// Of how many.
    pub of: usize,
}
