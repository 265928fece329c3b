//! DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", algorithm 2), midpoint variant.

use candle_core::Tensor;
use serde_json::json;

use super::{NoiseSchedule, Scheduler, combine, timesteps};
use crate::diffusion::config::SchedulerConfig;
use crate::{Error, Result};

pub(super) struct DpmSolver {
    schedule: NoiseSchedule,
    timesteps: Vec<usize>,
    /// The prediction of the step before, with that step's number.
    last: Option<(usize, Tensor)>,
}

/// Signal, noise and half their log ratio at a noise level.
#[derive(Clone, Copy)]
struct Level {
    alpha: f64,
    sigma: f64,
    lambda: f64,
}

impl Level {
    fn new(alpha_cumprod: f64) -> Self {
        let (alpha, sigma) = (alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt());
        // infinite at the clean end, which the formulas below take as they should
        Level { alpha, sigma, lambda: alpha.ln() - sigma.ln() }
    }
}

impl DpmSolver {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        for (key, supported) in [
            ("algorithm_type", json!("dpmsolver++")),
            ("solver_type", json!("midpoint")),
            ("solver_order", json!(2)),
            ("final_sigmas_type", json!("zero")),
            ("use_karras_sigmas", json!(false)),
            ("use_exponential_sigmas", json!(false)),
            ("use_beta_sigmas", json!(false)),
            ("use_lu_lambdas", json!(false)),
        ] {
            // other schedulers may use the same words for other things
            let own = config._class_name == "DPMSolverMultistepScheduler";
            if let Some(found) = config.extra.get(key).filter(|v| own && **v != supported) {
                return Err(Error::input_hint(
                    format!(
                        "scheduler_config.json: `{key}` is {found}, but only {supported} is supported"
                    ),
                    "use another scheduler, such as ddim",
                ));
            }
        }
        let schedule = NoiseSchedule::new(config);
        let limit = config.lambda_min_clipped.unwrap_or(f64::NEG_INFINITY);
        let usable = schedule
            .alphas_cumprod()
            .iter()
            .filter(|alpha_cumprod| Level::new(**alpha_cumprod).lambda >= limit)
            .count();
        Ok(DpmSolver {
            timesteps: timesteps::dpm_solver(config, usable, steps)?,
            schedule,
            last: None,
        })
    }

    fn level(&self, i: usize) -> Level {
        Level::new(self.timesteps.get(i).map_or(1.0, |t| self.schedule.alphas_cumprod()[*t]))
    }
}

impl Scheduler for DpmSolver {
    fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    fn needs_noise(&self, _: usize) -> bool {
        false
    }

    fn step(
        &mut self,
        model_output: &Tensor,
        i: usize,
        sample: &Tensor,
        _: Option<&Tensor>,
    ) -> Result<Tensor> {
        let alpha_bar = self.schedule.alphas_cumprod()[self.timesteps[i]];
        let (x0, _) = self.schedule.x0_and_noise(alpha_bar, model_output, sample)?;
        let before = self.last.replace((i, x0.clone()));

        let (from, to) = (self.level(i), self.level(i + 1));
        let h = to.lambda - from.lambda;
        let of_sample = to.sigma / from.sigma;
        let of_x0 = -to.alpha * (-h).exp_m1();
        // the last step ends at the clean sample, where only the first order is defined
        if i == 0 || i + 1 == self.timesteps.len() {
            return combine(&[(of_sample, sample), (of_x0, &x0)]);
        }
        let Some((_, x0_before)) = before.filter(|(step, _)| step + 1 == i) else {
            let message = format!("step {i} must follow step {}", i - 1);
            return Err(candle_core::Error::msg(message).into());
        };
        let r = (from.lambda - self.level(i - 1).lambda) / h;
        let half = 0.5 / r;
        combine(&[(of_sample, sample), (of_x0 * (1.0 + half), &x0), (-of_x0 * half, &x0_before)])
    }
}
