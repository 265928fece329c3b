//! The schedule itself, as training uses it.

use candle_core::{Device, Tensor};

use super::combine;
use crate::Result;
use crate::diffusion::config::{BetaSchedule, PredictionType, SchedulerConfig};

/// How much of the sample and how much noise there is at each timestep.
#[derive(Clone, Debug)]
pub struct NoiseSchedule {
    alphas_cumprod: Vec<f64>,
    prediction_type: PredictionType,
}

impl NoiseSchedule {
    /// The schedule of a checked configuration, whatever its scheduler class.
    pub fn new(config: &SchedulerConfig) -> Self {
        let n = config.num_train_timesteps;
        let linspace = |start: f64, end: f64, i: usize| {
            start + (end - start) * i as f64 / (n.max(2) - 1) as f64
        };
        let beta = |i: usize| match (&config.trained_betas, config.beta_schedule) {
            (Some(betas), _) => betas[i],
            (None, BetaSchedule::Linear) => linspace(config.beta_start, config.beta_end, i),
            (None, BetaSchedule::ScaledLinear) => {
                linspace(config.beta_start.sqrt(), config.beta_end.sqrt(), i).powi(2)
            }
            (None, BetaSchedule::SquaredcosCapV2) => {
                let alpha_bar =
                    |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
                let (from, to) = (i as f64 / n as f64, (i + 1) as f64 / n as f64);
                (1.0 - alpha_bar(to) / alpha_bar(from)).min(0.999)
            }
        };
        let alphas_cumprod = (0..n)
            .scan(1.0, |product, i| {
                *product *= 1.0 - beta(i);
                Some(*product)
            })
            .collect();
        NoiseSchedule { alphas_cumprod, prediction_type: config.prediction_type }
    }

    /// The number of training timesteps.
    pub fn len(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// Whether there are no timesteps; never, for a checked configuration.
    pub fn is_empty(&self) -> bool {
        self.alphas_cumprod.is_empty()
    }

    /// ᾱ at every timestep: the share of the variance that is the sample's.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// What the UNet predicts.
    pub fn prediction_type(&self) -> PredictionType {
        self.prediction_type
    }

    /// The signal-to-noise ratio ᾱ / (1 − ᾱ) at timestep `t`.
    pub fn snr(&self, t: usize) -> f64 {
        self.alphas_cumprod[t] / (1.0 - self.alphas_cumprod[t])
    }

    /// `√ᾱ·x0 + √(1−ᾱ)·noise` (Ho et al. 2020, equation 4). `x0` and `noise` are `[batch, ..]`,
    /// `timesteps` has one entry a sample.
    pub fn add_noise(&self, x0: &Tensor, noise: &Tensor, timesteps: &[usize]) -> Result<Tensor> {
        self.mix(timesteps, (x0, f64::sqrt), (noise, |a| (1.0 - a).sqrt()))
    }

    /// `√ᾱ·noise − √(1−ᾱ)·x0` (Salimans and Ho 2022), shapes as in
    /// [`NoiseSchedule::add_noise`].
    pub fn velocity(&self, x0: &Tensor, noise: &Tensor, timesteps: &[usize]) -> Result<Tensor> {
        self.mix(timesteps, (noise, f64::sqrt), (x0, |a| -(1.0 - a).sqrt()))
    }

    /// What the UNet should have predicted, shapes as in [`NoiseSchedule::add_noise`].
    pub fn target(&self, x0: &Tensor, noise: &Tensor, timesteps: &[usize]) -> Result<Tensor> {
        match self.prediction_type {
            PredictionType::Epsilon => Ok(noise.clone()),
            PredictionType::Sample => Ok(x0.clone()),
            PredictionType::VPrediction => self.velocity(x0, noise, timesteps),
        }
    }

    /// Sum of two batches, each sample scaled by a function of its ᾱ.
    fn mix(
        &self,
        timesteps: &[usize],
        a: (&Tensor, fn(f64) -> f64),
        b: (&Tensor, fn(f64) -> f64),
    ) -> Result<Tensor> {
        let mut shape = vec![1; a.0.rank()];
        if let Some(batch) = shape.first_mut() {
            *batch = timesteps.len();
        }
        let scaled = |(tensor, scale): (&Tensor, fn(f64) -> f64)| {
            let values: Vec<f32> =
                timesteps.iter().map(|&t| scale(self.alphas_cumprod[t]) as f32).collect();
            let scales = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?
                .to_device(tensor.device())?
                .to_dtype(tensor.dtype())?;
            tensor.broadcast_mul(&scales)
        };
        Ok((scaled(a)? + scaled(b)?)?)
    }

    /// The clean sample that a prediction at ᾱ implies, and the noise.
    pub(super) fn x0_and_noise(
        &self,
        alpha_cumprod: f64,
        model_output: &Tensor,
        sample: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (a, s) = (alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt());
        Ok(match self.prediction_type {
            PredictionType::Epsilon => {
                (combine(&[(1.0 / a, sample), (-s / a, model_output)])?, model_output.clone())
            }
            PredictionType::Sample => {
                (model_output.clone(), combine(&[(1.0 / s, sample), (-a / s, model_output)])?)
            }
            PredictionType::VPrediction => (
                combine(&[(a, sample), (-s, model_output)])?,
                combine(&[(a, model_output), (s, sample)])?,
            ),
        })
    }
}
