//! Denoising diffusion implicit models (Song et al. 2021).

use candle_core::Tensor;

use super::{NoiseSchedule, Scheduler, combine, noise_for, timesteps};
use crate::diffusion::config::SchedulerConfig;
use crate::{Error, Result};

pub(super) struct Ddim {
    schedule: NoiseSchedule,
    timesteps: Vec<usize>,
    stride: usize,
    final_alpha_cumprod: f64,
    clip: Option<f64>,
    eta: f64,
}

impl Ddim {
    pub(super) fn new(config: &SchedulerConfig, steps: usize, eta: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&eta) {
            return Err(Error::input(format!("η is {eta}, but it must be from 0 to 1")));
        }
        let schedule = NoiseSchedule::new(config);
        let final_alpha_cumprod = match config.set_alpha_to_one.unwrap_or(true) {
            true => 1.0,
            false => schedule.alphas_cumprod()[0],
        };
        Ok(Ddim {
            timesteps: timesteps::ancestral(config, steps)?,
            stride: config.num_train_timesteps / steps,
            final_alpha_cumprod,
            clip: config.clip_sample.unwrap_or(true).then_some(config.clip_sample_range),
            eta,
            schedule,
        })
    }
}

impl Scheduler for Ddim {
    fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    fn needs_noise(&self, _: usize) -> bool {
        self.eta > 0.0
    }

    fn step(
        &mut self,
        model_output: &Tensor,
        i: usize,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<Tensor> {
        let alphas = self.schedule.alphas_cumprod();
        let t = self.timesteps[i];
        let alpha_bar = alphas[t];
        // diffusers goes back by a fixed stride, which is not always the next timestep
        let alpha_bar_prev =
            t.checked_sub(self.stride).map_or(self.final_alpha_cumprod, |prev| alphas[prev]);

        let (x0, predicted_noise) = self.schedule.x0_and_noise(alpha_bar, model_output, sample)?;
        let x0 = match self.clip {
            Some(range) => x0.clamp(-range, range)?,
            None => x0,
        };
        // equations 12 and 16
        let variance =
            (1.0 - alpha_bar_prev) / (1.0 - alpha_bar) * (1.0 - alpha_bar / alpha_bar_prev);
        let sigma = self.eta * variance.sqrt();
        let direction = (1.0 - alpha_bar_prev - sigma * sigma).max(0.0).sqrt();
        let terms = [(alpha_bar_prev.sqrt(), &x0), (direction, &predicted_noise)];
        match self.needs_noise(i) {
            false => combine(&terms),
            true => combine(&[terms[0], terms[1], (sigma, noise_for(i, noise)?)]),
        }
    }
}
