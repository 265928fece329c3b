//! The training loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoints, Meta};
use super::scale::LossScale;
use super::step::scaled_gradients;
use super::{
    AdamW, AdamWConfig, Ema, EmaConfig, Group, Part, Schedule, Streams, clip_factor, gradient_norm,
    images_per_part,
};
use crate::nn::{Param, Var};
use crate::{Error, Result};

/// What is trained on: makes batches and says what their loss is.
///
/// A task keeps nothing that a batch depends on between batches: `step` and the streams are all that a
/// resumed run has.
pub trait Task: Sync {
    /// What one step works on.
    type Batch: Sync;

    /// The batch of `step`, counted from 0. All that is random comes from `streams`.
    fn next_batch(&mut self, step: u64, streams: &mut Streams) -> Result<Self::Batch>;

    /// The batch's size, by which it is cut into parts.
    fn size(&self, batch: &Self::Batch) -> BatchSize;

    /// A part's share of the batch's loss: the loss is the sum over the parts. See
    /// [`gradients`](super::gradients).
    fn loss(&self, batch: &Self::Batch, part: &Part) -> Result<Var>;

    /// The batch for a person who asks what broke the run: its captions.
    fn describe(&self, batch: &Self::Batch) -> Vec<String>;
}

/// The size of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSize {
    /// How many images.
    pub images: usize,
    /// How many pixels the model sees of each: height · width, of the latents where those are.
    pub pixels: usize,
}

/// How a run goes, but for its learning rates, which stand with the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// How many steps.
    pub steps: u64,
    /// What multiplies the learning rates.
    pub schedule: Schedule,
    /// The optimiser.
    pub adamw: AdamWConfig,
    /// Gradients of a larger norm are scaled down to it; 0 for no clipping.
    pub max_grad_norm: f64,
    /// Whether averages of the parameters are kept.
    pub ema: Option<EmaConfig>,
    /// How many images of a batch run together; by default as [`images_per_part`] says.
    pub images_per_part: Option<usize>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            steps: 250,
            schedule: Schedule::default(),
            adamw: AdamWConfig::default(),
            max_grad_norm: 1.0,
            ema: None,
            images_per_part: None,
        }
    }
}

/// How far a run has come, after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// The loss of the step's batch.
    pub loss: f64,
    /// The first group's learning rate.
    pub lr: f64,
    /// The norm of the gradients before clipping; not finite if the step was skipped, in f16.
    pub grad_norm: f64,
    /// How long the step took.
    pub seconds: f64,
    /// How long all steps so far took, over all interruptions.
    pub total_seconds: f64,
}

/// A run: everything that changes while it trains.
pub struct Trainer {
    config: TrainConfig,
    adamw: AdamW,
    ema: Option<Ema>,
    params: Vec<Param>,
    loss_scale: Option<LossScale>,
    streams: Streams,
    step: u64,
    seconds: f64,
    checkpoints: Option<Checkpoints>,
}

impl Trainer {
    /// A run of `groups` at its first step.
    ///
    /// # Errors
    /// As [`AdamW::new`].
    pub fn new(config: TrainConfig, groups: Vec<Group>, seed: u64) -> Result<Self> {
        let max_norm = config.max_grad_norm;
        if max_norm.is_nan() || max_norm < 0.0 {
            return Err(Error::input(format!("a max_grad_norm of {max_norm}")));
        }
        let adamw = AdamW::new(config.adamw, groups)?;
        let params = adamw.params();
        let ema = config.ema.map(|ema| Ema::new(ema, params.clone())).transpose()?;
        let streams = Streams::new(seed);
        let (loss_scale, step, seconds, checkpoints) = (None, 0, 0.0, None);
        Ok(Trainer { config, adamw, ema, params, loss_scale, streams, step, seconds, checkpoints })
    }

    /// The same run, through a model that computes in `dtype`: the loss is scaled if that is f16.
    pub fn computing_in(self, dtype: DType) -> Self {
        Trainer { loss_scale: LossScale::of(dtype), ..self }
    }

    /// Keeps states on disk, and goes on from the latest of them if there is one.
    ///
    /// # Errors
    /// A state that is damaged or another run's; the run has not changed then.
    pub fn with_checkpoints(mut self, checkpoints: Checkpoints) -> Result<Self> {
        if let Some(latest) = checkpoints.list()?.last() {
            let wanted: Vec<(String, Vec<usize>)> =
                self.names().map(|(name, param)| (name, param.shape().to_vec())).collect();
            let (meta, mut tensors) = checkpoints.load(latest, &wanted)?;
            let mut take = |kind: &str, param: &Param| -> candle_core::Result<Tensor> {
                let tensor = tensors.remove(&name(kind, param)).expect("checked by load");
                let device = param.with_value(|v| v.device().clone());
                param.kept_order(&tensor.to_device(&device)?)
            };
            for param in &self.params {
                param.set_value(take(VALUE, param)?);
            }
            let skipped = meta.loss_scale.map_or(0, |scale| scale.skipped());
            self.adamw.set_state(meta.step - skipped, |kind, param| take(kind, param))?;
            if let Some(ema) = &mut self.ema {
                let averages = self.params.iter().map(|p| take(EMA, p));
                let averages = averages.collect::<candle_core::Result<_>>()?;
                ema.set_state(meta.ema_updates.unwrap_or(meta.step), averages);
            }
            (self.streams, self.step) = (meta.streams, meta.step);
            self.loss_scale = meta.loss_scale.or(self.loss_scale);
            self.seconds = meta.milliseconds as f64 / 1e3;
        }
        self.checkpoints = Some(checkpoints);
        Ok(self)
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The averages, if they are kept.
    pub fn ema(&self) -> Option<&Ema> {
        self.ema.as_ref()
    }

    /// Trains until the last step, calling `progress` after each. Saves a state at the end.
    ///
    /// # Errors
    /// [`Error::Interrupted`], with the state saved, once `stop` is true; [`Error::Diverged`], with
    /// parameters and states as they were before the step; the task's.
    pub fn run<T: Task>(
        &mut self,
        task: &mut T,
        stop: &AtomicBool,
        mut progress: impl FnMut(&Progress),
    ) -> Result<()> {
        let mut saved = (self.step, Instant::now());
        while self.step < self.config.steps {
            if stop.load(Ordering::Relaxed) {
                if saved.0 != self.step {
                    self.save()?;
                }
                return Err(Error::Interrupted);
            }
            progress(&self.one_step(task)?);
            let Some(checkpoints) = &self.checkpoints else { continue };
            let due = checkpoints.every_steps.is_some_and(|n| self.step.is_multiple_of(n.max(1)))
                || checkpoints.every.is_some_and(|time| saved.1.elapsed() >= time)
                || self.step == self.config.steps;
            if due {
                self.save()?;
                saved = (self.step, Instant::now());
            }
        }
        Ok(())
    }

    fn one_step<T: Task>(&mut self, task: &mut T) -> Result<Progress> {
        let start = Instant::now();
        let batch = task.next_batch(self.step, &mut self.streams)?;
        let BatchSize { images, pixels } = task.size(&batch);
        let device: Device = self.params[0].with_value(|v| v.device().clone());
        let per_part =
            self.config.images_per_part.unwrap_or_else(|| images_per_part(&device, pixels));
        let shared = &*task;
        let scale = self.loss_scale.as_ref().map_or(1.0, LossScale::factor);
        let (loss, gradients) =
            scaled_gradients(images, per_part, &device, scale, |part| shared.loss(&batch, part))?;
        let grad_norm = gradient_norm(&self.params, &gradients)? / scale;
        let factor = self.config.schedule.factor(self.step, self.config.steps);
        let rates: Vec<f64> = self.adamw.learning_rates().iter().map(|lr| lr * factor).collect();
        let finite = loss.is_finite() && grad_norm.is_finite();
        let next_scale = self.loss_scale.map(|scale| scale.after(finite));
        if !finite && next_scale.is_none_or(|scale| scale.is_exhausted()) {
            let batch = task.describe(&batch);
            return Err(diverged(self.step, loss, grad_norm, &rates, &batch, next_scale.is_some()));
        }
        if finite {
            let clip = match self.config.max_grad_norm {
                0.0 => 1.0,
                max_norm => clip_factor(grad_norm, max_norm),
            };
            self.adamw.step(&gradients, factor, clip / scale)?;
            if let Some(ema) = &mut self.ema {
                ema.update()?;
            }
        }
        self.step += 1;
        self.loss_scale = next_scale;
        if let Some(scale) = next_scale.filter(|_| !finite) {
            tracing::warn!(
                "step {} is skipped: loss {loss}, gradient norm {grad_norm} in f16; the loss's scale is {} now",
                self.step,
                scale.factor()
            );
        }
        let seconds = start.elapsed().as_secs_f64();
        self.seconds += seconds;
        Ok(Progress {
            step: self.step,
            steps: self.config.steps,
            loss,
            lr: rates[0],
            grad_norm,
            seconds,
            total_seconds: self.seconds,
        })
    }

    /// Saves the state now, if the run keeps states.
    pub fn save(&self) -> Result<()> {
        let Some(checkpoints) = &self.checkpoints else { return Ok(()) };
        let mut tensors = vec![];
        for param in &self.params {
            tensors.push((name(VALUE, param), param.to_file()?));
        }
        for (kind, param, tensor) in self.adamw.state() {
            tensors.push((name(kind, param), param.file_order(tensor)?));
        }
        for (param, tensor) in self.ema.iter().flat_map(Ema::state) {
            tensors.push((name(EMA, param), param.file_order(tensor)?));
        }
        let meta = Meta {
            run: checkpoints.run.clone(),
            step: self.step,
            streams: self.streams.clone(),
            ema_updates: self.ema.as_ref().map(Ema::updates),
            loss_scale: self.loss_scale,
            milliseconds: (1e3 * self.seconds) as u64,
        };
        checkpoints.save(&meta, &tensors)?;
        Ok(())
    }

    /// The tensors of a state, each with its parameter.
    fn names(&self) -> impl Iterator<Item = (String, &Param)> {
        let kinds = [VALUE, "m", "v"].into_iter().chain(self.ema.as_ref().map(|_| EMA));
        kinds.flat_map(|kind| self.params.iter().map(move |p| (name(kind, p), p)))
    }
}

const VALUE: &str = "value";
const EMA: &str = "ema";

/// The name of a tensor in a state.
fn name(kind: &str, param: &Param) -> String {
    format!("{kind}.{}", param.name())
}

fn diverged(step: u64, loss: f64, norm: f64, rates: &[f64], batch: &[String], f16: bool) -> Error {
    let rates: Vec<String> = rates.iter().map(|lr| format!("{lr:e}")).collect();
    let batch: Vec<String> = batch.iter().map(|caption| format!("\n  {caption}")).collect();
    let hint = match f16 {
        true => {
            "\nf16 ends at 65504, and the loss's scale has fallen below 1: --dtype bf16 has f32's range"
        }
        false => "",
    };
    Error::Diverged(format!(
        "training diverged at step {}: loss {loss}, gradient norm {norm}, learning rate {}; the batch:{}{hint}",
        step + 1,
        rates.join(" and "),
        batch.concat()
    ))
}

#[cfg(test)]
mod tests;
