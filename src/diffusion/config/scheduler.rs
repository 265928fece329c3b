//! `scheduler/scheduler_config.json`: the noise schedule a model was trained with, and how its
//! authors sample from it.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Config, DIFFUSERS_VERSION, Extra, Problem, bounded, only};

/// How the noise grows with the timestep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// β linear in t.
    Linear,
    /// √β linear in t: Stable Diffusion.
    ScaledLinear,
    /// Cosine ᾱ (Nichol and Dhariwal 2021), β at most 0.999.
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredcosCapV2,
}

/// What the UNet predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    Epsilon,
    /// `√ᾱ·noise − √(1−ᾱ)·x₀` (Salimans and Ho 2022).
    VPrediction,
    /// The clean sample.
    Sample,
}

impl PredictionType {
    /// In words.
    pub fn what(self) -> &'static str {
        match self {
            PredictionType::Epsilon => "noise",
            PredictionType::VPrediction => "velocity",
            PredictionType::Sample => "the clean sample",
        }
    }
}

/// Which of the training timesteps a sampler visits (Lin et al. 2024, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Multiples of a step from 0 up, plus `steps_offset`.
    Leading,
    /// Multiples of a step from the last timestep down.
    Trailing,
    /// Evenly from the first to the last.
    Linspace,
}

/// The noise schedule and the samplers' settings. Settings that are `None` have the default of the
/// sampler that runs, as in diffusers' `from_config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct SchedulerConfig {
    pub _class_name: String,
    pub _diffusers_version: String,
    pub num_train_timesteps: usize,
    pub beta_start: f64,
    pub beta_end: f64,
    pub beta_schedule: BetaSchedule,
    /// Overrides the three fields above where given.
    pub trained_betas: Option<Vec<f64>>,
    pub prediction_type: PredictionType,
    pub steps_offset: usize,
    /// How far the clean sample may lie from 0 where `clip_sample` is on.
    pub clip_sample_range: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_sample: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_alpha_to_one: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestep_spacing: Option<TimestepSpacing>,
    /// DPM-Solver only: timesteps with a smaller log signal-to-noise ratio are not visited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda_min_clipped: Option<f64>,
    /// Everything else in the file.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        SchedulerConfig {
            _class_name: "DDIMScheduler".into(),
            _diffusers_version: DIFFUSERS_VERSION.into(),
            num_train_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            prediction_type: PredictionType::Epsilon,
            steps_offset: 0,
            clip_sample_range: 1.0,
            clip_sample: None,
            set_alpha_to_one: None,
            timestep_spacing: None,
            lambda_min_clipped: None,
            extra: Extra::new(),
        }
    }
}

/// Classes whose noise schedule is known to be the variance-preserving one of this crate.
const CLASSES: &[&str] = &[
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
];

/// How names of classes start whose schedule is another one.
const OTHER_SCHEDULES: [&str; 7] =
    ["FlowMatch", "EDM", "ScoreSde", "KarrasVe", "CMStochastic", "VQDiffusion", "Amused"];

impl SchedulerConfig {
    /// Whether the class is one of those whose schedule is known.
    pub fn is_known(&self) -> bool {
        CLASSES.contains(&self._class_name.as_str())
    }
}

impl Config for SchedulerConfig {
    const FILE: &'static str = "scheduler/scheduler_config.json";

    /// Limit: 100 000 training timesteps.
    fn check(&self) -> Result<(), Problem> {
        // of a class that is not known, betas and prediction type say what matters
        if OTHER_SCHEDULES.iter().any(|start| self._class_name.starts_with(start)) {
            let want = format!("the noise schedules of {} are known", CLASSES.join(", "));
            return Err(Problem::new("_class_name", &self._class_name, want));
        }
        only(
            &self.extra,
            &[
                ("thresholding", &[json!(false)]),
                ("rescale_betas_zero_snr", &[json!(false)]),
                ("use_flow_sigmas", &[json!(false)]),
            ],
        )?;
        bounded("num_train_timesteps", &[self.num_train_timesteps], 100_000)?;
        if self.steps_offset >= self.num_train_timesteps {
            let want = "it must be below `num_train_timesteps`";
            return Err(Problem::new("steps_offset", self.steps_offset, want));
        }
        // comparisons are written so that NaN is refused
        let beta = |b: f64| b > 0.0 && b < 1.0;
        if let Some(betas) = &self.trained_betas {
            if betas.len() != self.num_train_timesteps {
                let want = format!("it must have {} entries", self.num_train_timesteps);
                return Err(Problem::new("trained_betas", betas, want));
            }
            if let Some(b) = betas.iter().find(|b| !beta(**b)) {
                return Err(Problem::new("trained_betas", b, "each must be between 0 and 1"));
            }
        }
        for (key, value) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
            if !beta(value) {
                return Err(Problem::new(key, value, "it must be between 0 and 1"));
            }
        }
        if !(self.clip_sample_range.is_finite() && self.clip_sample_range > 0.0) {
            let want = "it must be positive";
            return Err(Problem::new("clip_sample_range", self.clip_sample_range, want));
        }
        Ok(())
    }
}
