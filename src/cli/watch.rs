//! Progress of a run: bars with the time left on a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::engine::{Event, Plan, Todo};

/// Shows what a run does.
pub struct Watcher<'a> {
    plan: &'a Plan,
    todo: &'a [Todo],
    bars: MultiProgress,
    whole: ProgressBar,
    terminal: bool,
    state: Mutex<State>,
}

struct State {
    running: HashMap<usize, (ProgressBar, Instant)>,
    last_line: Instant,
    done: usize,
    of: usize,
    start: Instant,
    /// Estimated seconds: of what is done, and of everything.
    estimated: (f64, f64),
}

/// Between two lines of progress of a running stage.
const LINE_EVERY: Duration = Duration::from_secs(15);

impl<'a> Watcher<'a> {
    pub fn new(plan: &'a Plan, todo: &'a [Todo]) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target =
            if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bars = MultiProgress::with_draw_target(target);
        let of = todo.iter().filter(|t| **t != Todo::Nothing).count();
        let whole = bars.add(ProgressBar::new(of as u64));
        let style = "{wide_bar} {pos}/{len} stages  {elapsed}  {msg}";
        whole.set_style(ProgressStyle::with_template(style).expect("a valid template"));
        let all = todo.iter().map(|t| estimate(t).unwrap_or(1.0)).sum();
        let now = Instant::now();
        let state = State {
            running: HashMap::new(),
            last_line: now,
            done: 0,
            of,
            start: now,
            estimated: (0.0, all),
        };
        Watcher { plan, todo, bars, whole, terminal, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, line: &str) {
        if self.terminal {
            let _ = self.bars.println(line);
        } else {
            eprintln!("{line}");
        }
    }

    /// Shows what happened.
    pub fn event(&self, event: Event) {
        let name = |at: usize| self.plan.stages[at].name.as_str();
        let mut state = self.state();
        match event {
            Event::Start { at, reason } => {
                let bar = self.bars.add(ProgressBar::new(0));
                let style = "  {msg} {bar:24} {pos}/{len}  {eta} left";
                bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
                bar.set_message(name(at).to_owned());
                state.running.insert(at, (bar, Instant::now()));
                if !self.terminal {
                    self.say(&format!("[{}/{}] {} ({reason})", state.done + 1, state.of, name(at)));
                }
            }
            Event::Elsewhere(at) => {
                self.say(&format!("  {}: another run is at it; left for later", name(at)));
            }
            Event::Progress(at, done, of) => {
                let line = state.last_line.elapsed() >= LINE_EVERY;
                let Some((bar, start)) = state.running.get(&at) else { return };
                bar.set_length(of);
                bar.set_position(done);
                if line && !self.terminal {
                    let left = start.elapsed().as_secs_f64() / done.max(1) as f64
                        * of.saturating_sub(done) as f64;
                    self.say(&format!("  {}: {done}/{of}, about {left:.0} s left", name(at)));
                    state.last_line = Instant::now();
                }
            }
            // a bar says how far, and files how well
            Event::Step(..) => {}
            Event::Done(at, seconds) => {
                self.end(&mut state, at);
                self.say(&format!("  {} done in {seconds:.1} s{}", name(at), self.left(&state)));
            }
            Event::DoneElsewhere(at) => {
                self.end(&mut state, at);
                self.say(&format!("  {} done by another run", name(at)));
            }
            Event::Failed(at, error) => {
                self.end(&mut state, at);
                self.say(&format!("  {} FAILED: {error}", name(at)));
            }
            Event::Skipped(at, why) => {
                self.end(&mut state, at);
                let why = match why {
                    None => "something it needs failed".to_owned(),
                    Some(why) => format!("it failed in another run of the team: {why}"),
                };
                self.say(&format!("  {} skipped: {why}", name(at)));
            }
        }
    }

    fn end(&self, state: &mut State, at: usize) {
        if let Some((bar, _)) = state.running.remove(&at) {
            bar.finish_and_clear();
        }
        state.done += 1;
        state.estimated.0 += estimate(&self.todo[at]).unwrap_or(1.0);
        self.whole.set_position(state.done as u64);
        self.whole.set_message(self.left(state).trim_start_matches(", ").to_owned());
    }

    /// How long the rest takes, once enough is done to tell.
    fn left(&self, state: &State) -> String {
        let (done, all) = state.estimated;
        if state.done >= state.of || done <= 0.0 {
            return String::new();
        }
        let seconds = state.start.elapsed().as_secs_f64() / done * (all - done);
        format!(", about {} left in all", human(seconds))
    }

    /// Removes the bars.
    pub fn finish(&self) {
        self.whole.finish_and_clear();
    }
}

fn estimate(todo: &Todo) -> Option<f64> {
    match todo {
        Todo::Nothing => Some(0.0),
        Todo::Run { estimate, .. } => *estimate,
    }
}

/// Seconds as people say them.
pub fn human(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
