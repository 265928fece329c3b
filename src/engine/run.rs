//! Doing what is missing, in order, several stages at a time if asked, and beside other runs of the store.
//!
//! A stage that another run is at is passed over, and asked for again later: whoever has nothing else to do
//! waits. So any number of runs share a plan, and each does what is ready and not taken.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::curve::Point;
use super::failure::Failure;
use super::lease::{Lease, Leases};
use super::plan::Plan;
use super::presence::Presence;
use super::resources::Resources;
use super::stage::{Kind, Stage};
use super::store::{Provenance, Store};
use super::survey::is_there;
use super::survey::{Todo, rate_name};
use super::work::Worker;
use crate::{Error, Result, process};

/// Between two looks at what other runs are at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks at whether to stop.
const TICK: Duration = Duration::from_millis(50);

/// What happens while a plan runs.
pub enum Event<'a> {
    /// A stage begins.
    Start {
        /// Its number.
        at: usize,
        /// Why it is run.
        reason: &'a str,
    },
    /// Another run is at the same stage: it is left for later.
    Elsewhere(usize),
    /// Units done, and in all.
    Progress(usize, u64, u64),
    /// A training has done a step.
    Step(usize, Point),
    /// It is done, after so many seconds.
    Done(usize, f64),
    /// Another run has done it.
    DoneElsewhere(usize),
    /// It failed.
    Failed(usize, &'a Error),
    /// It is not run: something it needs failed, or it failed itself in another run of the team, as that
    /// said.
    Skipped(usize, Option<&'a str>),
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
    /// The machine failed, not the stage, and the rest is left to the others of the team.
    pub left: bool,
}

/// Who does a plan's stages.
#[derive(Clone, Debug)]
pub struct Crew {
    /// Stages at a time.
    pub jobs: usize,
    /// The name of a team: the runs of a store that have it work on one plan together. What failed in one
    /// of them is not tried by the others, and one whose machine fails leaves the rest to them.
    pub team: Option<String>,
}

impl From<usize> for Crew {
    fn from(jobs: usize) -> Self {
        Crew { jobs, team: None }
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
    /// Which stages other runs were seen at.
    elsewhere: BTreeSet<usize>,
    outcome: Outcome,
}

/// A plan that is being run.
struct Runner<'a> {
    plan: &'a Plan,
    store: &'a Store,
    resources: &'a Resources,
    todo: &'a [Todo],
    crew: &'a Crew,
    leases: Leases,
    presence: Presence,
    stop: &'a AtomicBool,
    watch: &'a Watch<'a>,
    board: Mutex<Board>,
    changed: Condvar,
}

/// What a worker is told, and by what it is told.
#[derive(Default)]
struct Desk {
    /// It stops at the next step: the user says so, or another run has its stage.
    stop: AtomicBool,
    /// Whether it still has the lease of its stage.
    lost: Mutex<Option<Arc<AtomicBool>>>,
    /// It does no more stages.
    ended: AtomicBool,
}

impl Desk {
    fn sit_down(&self, lost: Option<Arc<AtomicBool>>) {
        let mut own = lock(&self.lost);
        *own = lost;
        self.stop.store(false, Ordering::Relaxed);
    }

    fn tell(&self, all_stop: bool) {
        let own = lock(&self.lost);
        let lost = own.as_ref().is_some_and(|lost| lost.load(Ordering::Relaxed));
        self.stop.store(all_stop || lost, Ordering::Relaxed);
    }
}

/// Runs what `todo` says. A stage that fails takes only those with it that need it: its error is in the
/// outcome.
///
/// # Errors
/// A store that cannot be written, or that a run of an older version uses.
pub fn run(
    plan: &Plan,
    store: &Store,
    resources: &Resources,
    todo: &[Todo],
    crew: &Crew,
    stop: &AtomicBool,
    watch: &Watch,
) -> Result<Outcome> {
    store.upgrade()?;
    let states = todo
        .iter()
        .map(|t| if *t == Todo::Nothing { State::Finished } else { State::Pending })
        .collect();
    let board = Board { states, elsewhere: BTreeSet::new(), outcome: Outcome::default() };
    let runner = Runner {
        plan,
        store,
        resources,
        todo,
        crew,
        leases: Leases::enter(&store.leases_dir())?,
        presence: Presence::enter(store)?,
        stop,
        watch,
        board: Mutex::new(board),
        changed: Condvar::new(),
    };
    runner.clear_up()?;
    let desks: Vec<Desk> = (0..crew.jobs.max(1)).map(|_| Desk::default()).collect();
    std::thread::scope(|scope| {
        for desk in &desks {
            scope.spawn(|| runner.work(desk));
        }
        while !desks.iter().all(|desk| desk.ended.load(Ordering::Relaxed)) {
            std::thread::sleep(TICK);
            let all = runner.is_stopped();
            desks.iter().for_each(|desk| desk.tell(all));
            if all {
                runner.changed.notify_all();
            }
        }
    });
    let mut outcome = runner.board.into_inner().unwrap_or_else(PoisonError::into_inner).outcome;
    outcome.interrupted |= stop.load(Ordering::Relaxed);
    Ok(outcome)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runner<'_> {
    /// Removes states of what is finished: of a run that was killed at that moment.
    fn clear_up(&self) -> Result<()> {
        for stage in self.plan.stages.iter().filter(|s| self.store.work_dir(&s.key).exists()) {
            let is_there = self.store.provenance(stage.kind.folder(), &stage.key);
            if matches!(is_there, Ok(Some(_)))
                // a training is run again for the states that it passed
                && let Some(_lease) = self.leases.take(&stage.folder)?
            {
                self.store.forget_work(&stage.key);
            }
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || lock(&self.board).outcome.left
    }

    /// Does stages until there are none left.
    fn work(&self, desk: &Desk) {
        let worker = || Worker::new(self.plan, self.store, self.resources, &desk.stop);
        let mut own = worker();
        while let Some((at, lease)) = self.next() {
            desk.sit_down(Some(lease.told()));
            // a bug that ends a stage must not leave the others waiting for it
            let done = catch_unwind(AssertUnwindSafe(|| self.one(&mut own, at)));
            let done = done.unwrap_or_else(|_| {
                own = worker();
                Err(candle_core::Error::msg("panicked, as said above").into())
            });
            desk.sit_down(None);
            self.note(at, done, &lease);
            drop(lease);
            self.changed.notify_all();
        }
        desk.ended.store(true, Ordering::Relaxed);
    }

    /// The first stage that can run and that nobody is at; waits for one; none when there will be none.
    fn next(&self) -> Option<(usize, Lease)> {
        loop {
            if self.is_stopped() {
                return None;
            }
            for at in self.ready() {
                if !self.claim(at) {
                    continue;
                }
                match self.leases.take(&self.plan.stages[at].folder) {
                    Ok(Some(lease)) => return Some((at, lease)),
                    Ok(None) => {
                        let mut board = lock(&self.board);
                        board.states[at] = State::Pending;
                        if board.elsewhere.insert(at) {
                            (self.watch)(Event::Elsewhere(at));
                        }
                    }
                    Err(error) => self.fail(at, error),
                }
            }
            let board = lock(&self.board);
            let open = [State::Pending, State::Running];
            if !board.states.iter().any(|state| open.contains(state)) {
                return None;
            }
            drop(self.changed.wait_timeout(board, LOOK_AGAIN));
        }
    }

    /// The stages that could be run now; what a failed one takes with it is marked.
    fn ready(&self) -> Vec<usize> {
        let mut board = lock(&self.board);
        let Board { states, outcome, .. } = &mut *board;
        let mut ready = vec![];
        for (at, stage) in self.plan.stages.iter().enumerate() {
            if states[at] != State::Pending {
                continue;
            }
            if stage.inputs.iter().any(|&i| states[i] == State::Failed) {
                states[at] = State::Failed;
                (self.watch)(Event::Skipped(at, None));
                outcome.skipped.insert(at);
            } else if stage.inputs.iter().all(|&i| states[i] == State::Finished) {
                ready.push(at);
            }
        }
        ready
    }

    /// Marks a stage as this worker's, unless another was faster.
    fn claim(&self, at: usize) -> bool {
        let state = &mut lock(&self.board).states[at];
        let free = *state == State::Pending;
        if free {
            *state = State::Running;
        }
        free
    }

    fn fail(&self, at: usize, error: Error) {
        (self.watch)(Event::Failed(at, &error));
        let mut board = lock(&self.board);
        board.states[at] = State::Failed;
        board.outcome.failed.push((at, error));
    }

    /// Writes down what became of a stage.
    fn note(&self, at: usize, done: Result<Done>, lease: &Lease) {
        let stage = &self.plan.stages[at];
        let set = |state| lock(&self.board).states[at] = state;
        match done {
            Ok(Done::Here(seconds)) => {
                (self.watch)(Event::Done(at, seconds));
                self.store.forget_failure(&stage.key);
                lock(&self.board).outcome.done += 1;
                set(State::Finished);
            }
            Ok(Done::Elsewhere) => {
                (self.watch)(Event::DoneElsewhere(at));
                set(State::Finished);
            }
            Ok(Done::FailedElsewhere(error)) => {
                (self.watch)(Event::Skipped(at, Some(&error)));
                lock(&self.board).outcome.skipped.insert(at);
                set(State::Failed);
            }
            Err(_) if lease.is_lost() => set(State::Pending),
            Err(Error::Interrupted) => {
                set(State::Failed);
                let mut board = lock(&self.board);
                board.outcome.interrupted |= !board.outcome.left;
            }
            Err(error) => {
                let team = self.crew.team.as_deref();
                let leaves = team.is_some() && error.is_of_machine();
                // before the lease is given back: whoever has it next has read it
                let failure = Failure::new(&stage.name, &error, team.filter(|_| !leaves));
                if let Err(e) = self.store.remember_failure(&stage.key, &failure) {
                    tracing::warn!("{e}");
                }
                let is_device = matches!(error, Error::Device { .. });
                self.fail(at, error);
                lock(&self.board).outcome.left |= leaves;
                if is_device && !leaves {
                    self.give_up();
                }
            }
        }
    }

    /// Skips all that has not begun: nothing else would find the device there.
    fn give_up(&self) {
        let mut board = lock(&self.board);
        let Board { states, outcome, .. } = &mut *board;
        for (at, state) in states.iter_mut().enumerate().filter(|(_, s)| **s == State::Pending) {
            *state = State::Failed;
            (self.watch)(Event::Skipped(at, None));
            outcome.skipped.insert(at);
        }
    }

    /// Runs a stage, unless it is there by now.
    fn one(&self, worker: &mut Worker, at: usize) -> Result<Done> {
        let (plan, store) = (self.plan, self.store);
        let stage = &plan.stages[at];
        store.look_again(stage.kind.folder(), &stage.folder);
        if is_there(plan, store, self.resources, at)?.missing == 0 {
            return Ok(Done::Elsewhere);
        }
        let team = self.crew.team.as_ref();
        let failure =
            store.failure(&stage.key).filter(|f| team.is_some() && f.team.as_ref() == team);
        if let Some(failure) = failure {
            return Ok(Done::FailedElsewhere(failure.error));
        }
        let Todo::Run { reason, .. } = &self.todo[at] else { return Ok(Done::Elsewhere) };
        (self.watch)(Event::Start { at, reason });
        let (start, jobs) = (Instant::now(), self.jobs());
        process::forget_peak_memory();
        let progress = |done, of| (self.watch)(Event::Progress(at, done, of));
        let done = worker.run(stage, &progress, &|point| (self.watch)(Event::Step(at, point)))?;
        let seconds = start.elapsed().as_secs_f64();
        let peak = done.peak.or_else(process::peak_memory).unwrap_or(0);
        finish(worker, stage, done.earlier + seconds, peak, jobs.max(self.jobs()))?;
        store.forget_work(&stage.key);
        if done.units > 0.0 {
            store.set_rate(&rate_name(stage, self.resources), seconds / done.units)?;
        }
        store.remember(&stage.name, &stage.key, &stage.meaning)?;
        Ok(Done::Here(start.elapsed().as_secs_f64()))
    }

    /// How many stages may be running on this machine: those of this run, and one for each other run.
    fn jobs(&self) -> usize {
        self.crew.jobs.max(1) + self.presence.others()
    }
}

/// Who did a stage.
enum Done {
    /// This run, in so many seconds.
    Here(f64),
    /// Another.
    Elsewhere,
    /// Another run of the team could not, as it says.
    FailedElsewhere(String),
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
        finished: process::since_1970().as_secs(),
        seconds: before + seconds,
        peak_mb: peak as f64 / 1e6,
        bytes: 0,
        jobs,
    })
}
