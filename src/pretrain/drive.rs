//! What the runs have in common: states, a log, looks at the model, the end.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::config::Recipe;
use super::curves;
use crate::nn::Param;
use crate::train::{Checkpoints, Group, Progress, Task, Trainer};
use crate::{Error, Result, safefile};

/// A state is saved when so much time has passed since the last.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// Steps that one row of the log averages.
const ROW: u64 = 20;

/// One run: its trainer, and its folder.
pub(super) struct Drive {
    name: &'static str,
    dir: PathBuf,
    recipe: Recipe,
    trainer: Trainer,
    log: Log,
}

/// Whether `out` has states of the run `name`.
pub(super) fn started(name: &str, out: &Path) -> Result<bool> {
    Ok(!Checkpoints::new(out.join(name), "").list()?.is_empty())
}

/// What a look at the model found: names and values.
pub(super) type Findings = Vec<(&'static str, f64)>;

impl Drive {
    /// A run of `params`, at its latest state if there is one. `identity` tells states of this model
    /// from those of another.
    pub fn new(
        name: &'static str,
        out: &Path,
        recipe: &Recipe,
        params: Vec<Param>,
        identity: &str,
        seed: u64,
    ) -> Result<Self> {
        for param in &params {
            param.set_trainable(true)?;
        }
        let group = Group { params, lr: recipe.lr, weight_decay: recipe.weight_decay };
        let dir = out.join(name);
        let checkpoints = Checkpoints {
            every: Some(SAVE_EVERY),
            ..Checkpoints::new(&dir, format!("pretrain {name} {identity}"))
        };
        let trainer =
            Trainer::new(recipe.train, vec![group], seed)?.with_checkpoints(checkpoints)?;
        let log = Log::open(&dir, trainer.step())?;
        Ok(Drive { name, dir, recipe: recipe.clone(), trainer, log })
    }

    /// Whether there are steps left.
    pub fn unfinished(&self) -> bool {
        self.trainer.step() < self.recipe.train.steps
    }

    /// Trains to the last step. `look` is called now and then and at the end, with the averaged
    /// parameters in place.
    pub fn run<T: Task>(
        mut self,
        mut task: T,
        mut look: impl FnMut(&T, u64, &Path) -> Result<Findings>,
    ) -> Result<()> {
        let every = Duration::from_secs_f64(self.recipe.look_minutes * 60.0);
        let steps = self.recipe.train.steps;
        eprintln!("{}: step {} of {steps}", self.name, self.trainer.step());
        loop {
            let (start, stop) = (Instant::now(), AtomicBool::new(false));
            let (log, name, batch) = (&mut self.log, self.name, self.recipe.batch);
            let mut saved = Ok(());
            let outcome = self.trainer.run(&mut task, &stop, |progress| {
                if let Some(line) = log.add(progress, batch) {
                    eprintln!("{name}: {line}");
                    if saved.is_ok() {
                        saved = log.save();
                    }
                }
                stop.store(start.elapsed() >= every, Ordering::Relaxed);
            });
            match outcome {
                // the trainer's word for `stop`: nobody but this loop sets it
                Ok(()) | Err(Error::Interrupted) => {}
                Err(e) => return Err(e),
            }
            saved?;
            let step = self.trainer.step();
            let found = match self.trainer.ema() {
                Some(ema) => ema.with_averages(|| look(&task, step, &self.dir))?,
                None => look(&task, step, &self.dir)?,
            };
            let text: Vec<String> = found.iter().map(|(n, v)| format!("{n} {v:.4}")).collect();
            eprintln!("{}: step {step}: {}", self.name, text.join(", "));
            self.log.found(step, &found);
            self.log.save()?;
            curves::draw(self.name, &self.log.rows, &self.log.found, &self.dir.join("curves.png"))?;
            if step >= steps {
                return Ok(());
            }
        }
    }
}

/// The course of a run, kept as CSV: what a killed run wrote behind its last state is cut off.
struct Log {
    dir: PathBuf,
    rows: Vec<Row>,
    found: Vec<(u64, String, f64)>,
    sum: Row,
    count: u64,
}

/// Means over some steps.
#[derive(Clone, Copy, Default)]
pub(super) struct Row {
    /// The last of the steps.
    pub step: u64,
    /// Of the batches.
    pub loss: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// Scenes a second.
    pub speed: f64,
    /// The learning rate.
    pub lr: f64,
}

impl Log {
    fn open(dir: &Path, step: u64) -> Result<Self> {
        let lines = |name: &str| -> Vec<Vec<String>> {
            let text = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
            text.lines().skip(1).map(|l| l.split(',').map(str::to_owned).collect()).collect()
        };
        let mut log =
            Log { dir: dir.to_owned(), rows: vec![], found: vec![], sum: Row::default(), count: 0 };
        for line in lines("log.csv") {
            let number = |i: usize| line.get(i).and_then(|v| v.parse().ok()).unwrap_or(f64::NAN);
            let row = Row {
                step: number(0) as u64,
                loss: number(1),
                grad_norm: number(2),
                speed: number(3),
                lr: number(4),
            };
            if row.step > 0 && row.step <= step {
                log.rows.push(row);
            }
        }
        for line in lines("found.csv") {
            if let [at, name, value] = line.as_slice()
                && let (Ok(at), Ok(value)) = (at.parse::<u64>(), value.parse::<f64>())
                && at <= step
            {
                log.found.push((at, name.clone(), value));
            }
        }
        Ok(log)
    }

    fn add(&mut self, p: &Progress, batch: usize) -> Option<String> {
        self.sum.loss += p.loss;
        self.sum.grad_norm += p.grad_norm;
        self.sum.speed += p.seconds;
        self.count += 1;
        if self.count < ROW && p.step < p.steps {
            return None;
        }
        let n = self.count as f64;
        let row = Row {
            step: p.step,
            loss: self.sum.loss / n,
            grad_norm: self.sum.grad_norm / n,
            speed: n * batch as f64 / self.sum.speed,
            lr: p.lr,
        };
        self.rows.push(row);
        (self.sum, self.count) = (Row::default(), 0);
        Some(format!(
            "step {}/{}, loss {:.4}, gradient {:.2}, {:.1} scenes/s, lr {:.1e}",
            row.step, p.steps, row.loss, row.grad_norm, row.speed, row.lr
        ))
    }

    fn found(&mut self, step: u64, found: &Findings) {
        self.found.extend(found.iter().map(|(name, value)| (step, (*name).to_owned(), *value)));
    }

    fn save(&self) -> Result<()> {
        let mut text = String::from("step,loss,grad_norm,scenes_per_second,lr\n");
        for Row { step, loss, grad_norm, speed, lr } in &self.rows {
            text += &format!("{step},{loss:.6},{grad_norm:.4},{speed:.2},{lr:.3e}\n");
        }
        safefile::write(&self.dir.join("log.csv"), text)?;
        let mut text = String::from("step,what,value\n");
        for (step, what, value) in &self.found {
            text += &format!("{step},{what},{value:.6}\n");
        }
        safefile::write(&self.dir.join("found.csv"), text)
    }
}
