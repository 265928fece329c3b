//! Doing what is missing, in order, several stages at a time if asked.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::curve::Point;
use super::key::differences;
use super::plan::Plan;
use super::presence::Presence;
use super::resources::Resources;
use super::stage::{Kind, Stage, Work};
use super::store::{Provenance, Store};
use super::work::{Missing, Worker, is_there};
use crate::{Error, Result, process};

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

/// What happens while a plan runs.
pub enum Event<'a> {
    /// A stage begins.
    Start {
        /// Its number.
        at: usize,
        /// Why it is run.
        reason: &'a str,
    },
    /// Another process is at the same stage.
    Waiting(usize),
    /// Units done, and in all.
    Progress(usize, u64, u64),
    /// A training has done a step.
    Step(usize, Point),
    /// It is done, after so many seconds.
    Done(usize, f64),
    /// It failed.
    Failed(usize, &'a Error),
    /// Something it needs failed.
    Skipped(usize),
}

/// Hears what happens; from several threads.
pub type Watch<'a> = dyn Fn(Event) + Sync + 'a;

/// What became of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Stages that failed, and why.
    pub failed: Vec<(usize, Error)>,
    /// Stages that could not run because of those.
    pub skipped: BTreeSet<usize>,
    /// Stages that were run.
    pub done: usize,
    /// The user stopped it.
    pub interrupted: bool,
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
fn rate_name(stage: &Stage, resources: &Resources) -> String {
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    Running,
    Finished,
    Failed,
}

/// What the workers share, under one lock.
struct Board {
    states: Vec<State>,
    outcome: Outcome,
}

/// Runs what `todo` says, `jobs` stages at a time. A stage that fails takes only those with it that
/// need it: its error is in the outcome.
///
/// # Errors
/// A store that cannot be written.
pub fn run(
    plan: &Plan,
    store: &Store,
    resources: &Resources,
    todo: &[Todo],
    jobs: usize,
    stop: &AtomicBool,
    watch: &Watch,
) -> Result<Outcome> {
    let alone = Alone { presence: Presence::enter(store)?, jobs };
    let states: Vec<State> = todo
        .iter()
        .map(|t| if *t == Todo::Nothing { State::Finished } else { State::Pending })
        .collect();
    for stage in plan.stages.iter().filter(|s| store.work_dir(&s.key).exists()) {
        // of a run that was killed when the stage was finished
        if let Ok(Some(_)) = store.provenance(stage.kind.folder(), &stage.key) {
            store.forget_work(&stage.key);
        }
    }
    let board = Mutex::new(Board { states, outcome: Outcome::default() });
    let changed = Condvar::new();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                let mut worker = Worker::new(plan, store, resources, stop);
                while let Some(at) = next(plan, &board, &changed, stop, watch) {
                    let Todo::Run { reason, .. } = &todo[at] else { continue };
                    watch(Event::Start { at, reason });
                    // a bug that ends a stage must not leave the others waiting for it
                    let done =
                        catch_unwind(AssertUnwindSafe(|| one(&mut worker, at, &alone, watch)));
                    let done = done.unwrap_or_else(|_| {
                        worker = Worker::new(plan, store, resources, stop);
                        Err(candle_core::Error::msg("panicked, as said above").into())
                    });
                    let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
                    let Board { states, outcome } = &mut *board;
                    states[at] = match done {
                        Ok(seconds) => {
                            watch(Event::Done(at, seconds));
                            outcome.done += 1;
                            State::Finished
                        }
                        Err(Error::Interrupted) => {
                            outcome.interrupted = true;
                            State::Failed
                        }
                        Err(error) => {
                            watch(Event::Failed(at, &error));
                            outcome.failed.push((at, error));
                            State::Failed
                        }
                    };
                    changed.notify_all();
                }
            });
        }
    });
    let mut outcome = board.into_inner().unwrap_or_else(PoisonError::into_inner).outcome;
    outcome.interrupted |= stop.load(Ordering::Relaxed);
    Ok(outcome)
}

/// Whether a stage has the machine for itself.
struct Alone {
    presence: Presence,
    jobs: usize,
}

impl Alone {
    /// How many stages may be running: those of this run, and one for each other run on the store.
    fn jobs(&self) -> usize {
        self.jobs.max(1) + self.presence.others()
    }
}

/// The first stage that can run; waits for one; none when there will be none.
fn next(
    plan: &Plan,
    board: &Mutex<Board>,
    changed: &Condvar,
    stop: &AtomicBool,
    watch: &Watch,
) -> Option<usize> {
    let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let Board { states, outcome } = &mut *board;
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let mut ready = None;
        for (at, stage) in plan.stages.iter().enumerate() {
            if states[at] != State::Pending {
                continue;
            }
            if stage.inputs.iter().any(|&i| states[i] == State::Failed) {
                states[at] = State::Failed;
                watch(Event::Skipped(at));
                outcome.skipped.insert(at);
            } else if stage.inputs.iter().all(|&i| states[i] == State::Finished) && ready.is_none()
            {
                ready = Some(at);
            }
        }
        if let Some(at) = ready {
            states[at] = State::Running;
            return Some(at);
        }
        if !states.contains(&State::Running) {
            return None;
        }
        board = changed.wait(board).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Runs a stage and says how long it took.
fn one(worker: &mut Worker, at: usize, alone: &Alone, watch: &Watch) -> Result<f64> {
    let (plan, store) = (worker.plan, worker.store);
    let stage = &plan.stages[at];
    let mut said = false;
    let _lock = store.lock(&stage.folder, || {
        if !std::mem::replace(&mut said, true) {
            watch(Event::Waiting(at));
        }
        match worker.stop.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    })?;
    let (start, jobs) = (Instant::now(), alone.jobs());
    process::forget_peak_memory();
    // another process may have done it while this one waited
    if is_there(plan, store, worker.resources, at)?.missing > 0 {
        let progress = |done, of| watch(Event::Progress(at, done, of));
        let done = worker.run(stage, &progress, &|point| watch(Event::Step(at, point)))?;
        let seconds = start.elapsed().as_secs_f64();
        let peak = done.peak.or_else(process::peak_memory).unwrap_or(0);
        finish(worker, stage, done.earlier + seconds, peak, jobs.max(alone.jobs()))?;
        store.forget_work(&stage.key);
        if done.units > 0.0 {
            store.set_rate(&rate_name(stage, worker.resources), seconds / done.units)?;
        }
    }
    store.remember(&stage.name, &stage.key, &stage.meaning)?;
    Ok(start.elapsed().as_secs_f64())
}

fn finish(worker: &Worker, stage: &Stage, seconds: f64, peak: u64, jobs: usize) -> Result<()> {
    let kind = stage.kind.folder();
    // samples share a folder that grows: its time is that of all that made it
    let earlier = worker.store.provenance(kind, &stage.folder)?;
    let earlier = earlier.filter(|_| stage.kind == Kind::Samples);
    let (before, jobs) = earlier.map_or((0.0, jobs), |p| (p.seconds, jobs.max(p.jobs)));
    worker.store.finish(&Provenance {
        kind: kind.into(),
        name: stage.name.clone(),
        key: stage.folder.clone(),
        meaning: stage.folder_meaning(),
        inputs: stage.inputs.iter().map(|&i| worker.plan.stages[i].key.clone()).collect(),
        software: process::software(),
        machine: process::machine(),
        finished: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        seconds: before + seconds,
        peak_mb: peak as f64 / 1e6,
        bytes: 0,
        jobs,
    })
}
