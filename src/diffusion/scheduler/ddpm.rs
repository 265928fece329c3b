//! Ancestral sampling (Ho et al. 2020), variance `fixed_small`.

use candle_core::Tensor;

use super::{NoiseSchedule, Scheduler, combine, noise_for, timesteps};
use crate::diffusion::config::SchedulerConfig;
use crate::{Error, Result};

pub(super) struct Ddpm {
    schedule: NoiseSchedule,
    timesteps: Vec<usize>,
    clip: Option<f64>,
}

impl Ddpm {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        if let Some(found) = config.extra.get("variance_type").filter(|v| *v != "fixed_small") {
            return Err(Error::input_hint(
                format!(
                    "scheduler_config.json: `variance_type` is {found}, but only \"fixed_small\" is supported"
                ),
                "use another scheduler, such as ddim",
            ));
        }
        Ok(Ddpm {
            schedule: NoiseSchedule::new(config),
            timesteps: timesteps::ancestral(config, steps)?,
            clip: config.clip_sample.unwrap_or(true).then_some(config.clip_sample_range),
        })
    }
}

impl Scheduler for Ddpm {
    fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    fn needs_noise(&self, i: usize) -> bool {
        self.timesteps[i] > 0
    }

    fn step(
        &mut self,
        model_output: &Tensor,
        i: usize,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<Tensor> {
        let alphas = self.schedule.alphas_cumprod();
        let alpha_bar = alphas[self.timesteps[i]];
        let alpha_bar_prev = self.timesteps.get(i + 1).map_or(1.0, |t| alphas[*t]);
        let alpha = alpha_bar / alpha_bar_prev;
        let beta = 1.0 - alpha;

        let (x0, _) = self.schedule.x0_and_noise(alpha_bar, model_output, sample)?;
        let x0 = match self.clip {
            Some(range) => x0.clamp(-range, range)?,
            None => x0,
        };
        // equation 7
        let of_x0 = alpha_bar_prev.sqrt() * beta / (1.0 - alpha_bar);
        let of_sample = alpha.sqrt() * (1.0 - alpha_bar_prev) / (1.0 - alpha_bar);
        if !self.needs_noise(i) {
            return combine(&[(of_x0, &x0), (of_sample, sample)]);
        }
        let variance = (1.0 - alpha_bar_prev) / (1.0 - alpha_bar) * beta;
        let sigma = variance.max(1e-20).sqrt();
        combine(&[(of_x0, &x0), (of_sample, sample), (sigma, noise_for(i, noise)?)])
    }
}
