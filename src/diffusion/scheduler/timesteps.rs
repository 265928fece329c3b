//! Which training timesteps a sampler visits: numpy's rounding and ranges, as diffusers uses them.

use crate::diffusion::config::{SchedulerConfig, TimestepSpacing};
use crate::{Error, Result};

/// The timesteps of DDPM and DDIM, noisiest first.
pub(super) fn ancestral(config: &SchedulerConfig, steps: usize) -> Result<Vec<usize>> {
    in_range(config, steps)?;
    let last = config.num_train_timesteps - 1;
    let found = match config.timestep_spacing.unwrap_or(TimestepSpacing::Leading) {
        TimestepSpacing::Linspace => linspace(last, steps).rev().collect(),
        TimestepSpacing::Leading => {
            let ratio = config.num_train_timesteps / steps;
            (0..steps).rev().map(|i| i * ratio + config.steps_offset).collect()
        }
        TimestepSpacing::Trailing => trailing(config, config.num_train_timesteps, steps),
    };
    checked(config, steps, found)
}

/// The timesteps of DPM-Solver, noisiest first. It leaves out the cleanest, which its last step
/// jumps over; `usable` is the number of training timesteps that are not clipped.
pub(super) fn dpm_solver(
    config: &SchedulerConfig,
    usable: usize,
    steps: usize,
) -> Result<Vec<usize>> {
    in_range(config, steps)?;
    let found = match config.timestep_spacing.unwrap_or(TimestepSpacing::Linspace) {
        TimestepSpacing::Linspace => {
            linspace(usable.saturating_sub(1), steps + 1).skip(1).rev().collect()
        }
        TimestepSpacing::Leading => {
            let ratio = usable / (steps + 1);
            (1..=steps).rev().map(|i| i * ratio + config.steps_offset).collect()
        }
        TimestepSpacing::Trailing => trailing(config, usable, steps),
    };
    checked(config, steps, found)
}

/// `np.linspace(0, last, n).round()`
fn linspace(last: usize, n: usize) -> impl DoubleEndedIterator<Item = usize> + ExactSizeIterator {
    let step = last as f64 / (n.max(2) - 1) as f64;
    (0..n).map(move |i| {
        // numpy sets the last one exactly
        if i > 0 && i + 1 == n { last } else { (i as f64 * step).round_ties_even() as usize }
    })
}

/// `np.arange(usable, 0, -ratio).round() - 1`
fn trailing(config: &SchedulerConfig, usable: usize, steps: usize) -> Vec<usize> {
    let (start, ratio) = (usable as f64, config.num_train_timesteps as f64 / steps as f64);
    // numpy's step is the difference of the first two values, with its rounding
    let step = (start - ratio) - start;
    (0..steps)
        .map(|i| start + i as f64 * step)
        .take_while(|t| *t > 0.0)
        .map(|t| (t.round_ties_even() as usize).saturating_sub(1))
        .collect()
}

fn in_range(config: &SchedulerConfig, steps: usize) -> Result<()> {
    if !(1..=config.num_train_timesteps).contains(&steps) {
        return Err(Error::input(format!(
            "{steps} sampling steps: this model allows from 1 to {}",
            config.num_train_timesteps
        )));
    }
    Ok(())
}

fn checked(config: &SchedulerConfig, steps: usize, found: Vec<usize>) -> Result<Vec<usize>> {
    let falling = found.windows(2).all(|pair| pair[0] > pair[1]);
    let inside = found.first().is_some_and(|t| *t < config.num_train_timesteps);
    if !falling || !inside {
        return Err(Error::input_hint(
            format!(
                "{steps} sampling steps do not fit the model's {} timesteps, spaced as its \
                 scheduler_config.json says with `steps_offset` {}",
                config.num_train_timesteps, config.steps_offset
            ),
            "use fewer steps",
        ));
    }
    Ok(found)
}
