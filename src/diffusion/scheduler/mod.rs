//! Noise schedules: how training adds noise, and how sampling takes it away again.
//!
//! The samplers follow diffusers' `DDPMScheduler`, `DDIMScheduler` and
//! `DPMSolverMultistepScheduler` (order 2, midpoint). Coefficients are computed in f64, tensors are
//! combined in f32.

mod ddim;
mod ddpm;
mod dpm_solver;
mod noise;
mod timesteps;

use candle_core::{DType, Tensor};
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Serialize};

use super::config::SchedulerConfig;
use crate::{Error, Result};

pub use noise::NoiseSchedule;

/// A sampler over a fixed number of steps.
pub trait Scheduler {
    /// The training timesteps that are visited, from the noisiest to the cleanest.
    fn timesteps(&self) -> &[usize];

    /// Whether step `i` adds noise, so that [`Scheduler::step`] must be given some.
    fn needs_noise(&self, i: usize) -> bool;

    /// One step, from `timesteps()[i]` to the next timestep (to the clean sample after the last).
    ///
    /// `model_output` is the UNet's prediction at `sample`, with guidance applied; both, and
    /// `noise` where [`Scheduler::needs_noise`], have the same shape, whatever it is. Steps must be
    /// taken in order from 0: a multistep sampler remembers; step 0 starts afresh.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the shapes differ, the noise is missing or `i` is out of order.
    fn step(
        &mut self,
        model_output: &Tensor,
        i: usize,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<Tensor>;

    /// Standard deviation of the noise that sampling starts from.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }
}

/// Which sampler runs; in files and on the command line `ddpm`, `ddim` and `dpm++`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SchedulerKind {
    /// Ancestral sampling (Ho et al. 2020).
    #[serde(rename = "ddpm")]
    Ddpm,
    /// Song et al. 2021; deterministic for η = 0.
    #[serde(rename = "ddim")]
    Ddim,
    /// DPM-Solver++(2M) (Lu et al. 2022).
    #[serde(rename = "dpm++")]
    DpmSolver,
}

impl SchedulerKind {
    /// The model's own sampler. Classes without a counterpart here (SD 1.5 ships
    /// `PNDMScheduler`) get DDIM; those that nobody here has heard of what their name comes nearest to,
    /// with a warning.
    pub fn of(config: &SchedulerConfig) -> Self {
        let class = config._class_name.as_str();
        let kind = match class {
            "DDPMScheduler" => SchedulerKind::Ddpm,
            "DPMSolverMultistepScheduler" => SchedulerKind::DpmSolver,
            _ if config.is_known() => SchedulerKind::Ddim,
            _ if class.starts_with("DPM") => SchedulerKind::DpmSolver,
            _ if class.starts_with("DDPM") => SchedulerKind::Ddpm,
            _ => SchedulerKind::Ddim,
        };
        if !config.is_known() {
            tracing::warn!("the model's scheduler `{class}` is not known: {kind} samples instead");
        }
        kind
    }

    /// Prepares `steps` steps.
    ///
    /// `eta` scales DDIM's noise (0: none, 1: as much as DDPM's); the others ignore it.
    ///
    /// # Errors
    /// [`Error::Input`] if `steps` is 0 or more than the schedule allows, `eta` is negative, or
    /// the configuration asks for a variant that is not implemented.
    pub fn scheduler(
        self,
        config: &SchedulerConfig,
        steps: usize,
        eta: f64,
    ) -> Result<Box<dyn Scheduler + Send>> {
        Ok(match self {
            SchedulerKind::Ddpm => Box::new(ddpm::Ddpm::new(config, steps)?),
            SchedulerKind::Ddim => Box::new(ddim::Ddim::new(config, steps, eta)?),
            SchedulerKind::DpmSolver => Box::new(dpm_solver::DpmSolver::new(config, steps)?),
        })
    }
}

impl std::str::FromStr for SchedulerKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let named: StrDeserializer<serde::de::value::Error> = name.into_deserializer();
        SchedulerKind::deserialize(named).map_err(|_| {
            Error::input_hint(format!("there is no scheduler `{name}`"), "use ddim, ddpm or dpm++")
        })
    }
}

impl std::fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

/// `Σ coefficient · tensor` in f32, cast to the first tensor's type.
fn combine(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let dtype = terms[0].1.dtype();
    let mut sum: Option<Tensor> = None;
    for (coefficient, tensor) in terms {
        let term = tensor.to_dtype(DType::F32)?.affine(*coefficient, 0.0)?;
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    let sum = sum.expect("every caller gives terms");
    Ok(sum.to_dtype(dtype)?)
}

fn noise_for(i: usize, noise: Option<&Tensor>) -> Result<&Tensor> {
    noise.ok_or_else(|| candle_core::Error::msg(format!("step {i} needs noise")).into())
}

#[cfg(test)]
mod tests;
