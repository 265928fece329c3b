//! Exponential moving average of parameters.

use candle_core::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::slices;
use crate::Result;
use crate::nn::Param;

/// How slowly an average follows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmaConfig {
    /// The share of the old average that each update keeps.
    pub decay: f64,
    /// Keep less at first: none at the first update, then at most `(1 + n) / (10 + n)` after n
    /// updates, as diffusers' `EMAModel` does.
    #[serde(default)]
    pub warmup: bool,
}

/// Averages of some parameters.
pub struct Ema {
    config: EmaConfig,
    updates: u64,
    params: Vec<Param>,
    // Laid out as the parameters' values are kept; never shared.
    averages: Vec<Tensor>,
}

impl Ema {
    /// Averages that start at the present values.
    pub fn new(config: EmaConfig, params: Vec<Param>) -> Result<Self> {
        let averages =
            params.iter().map(|p| p.value().copy()).collect::<candle_core::Result<_>>()?;
        Ok(Ema { config, updates: 0, params, averages })
    }

    /// Moves the averages towards the present values.
    pub fn update(&mut self) -> Result<()> {
        let n = self.updates as f64;
        let decay = match (self.config.warmup, self.updates) {
            (false, _) => self.config.decay,
            (true, 0) => 0.0,
            (true, _) => self.config.decay.min((1.0 + n) / (10.0 + n)),
        };
        self.updates += 1;
        self.params.par_iter().zip(&mut self.averages).try_for_each(|(param, average)| {
            // not `value`, which would make the optimiser's next step copy the parameter
            param.with_value(|value| {
                if value.device().is_cpu() {
                    let rest = (1.0 - decay) as f32;
                    slices::read(value, |p| slices::write(average, |a| follow(a, p, rest)))?
                } else {
                    *average = ((&*average * decay)? + (value * (1.0 - decay))?)?;
                    Ok(())
                }
            })
        })?;
        Ok(())
    }

    /// Runs `f` with the averages in place of the parameters' values, which come back however `f`
    /// ends.
    pub fn with_averages<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        struct Restore(Vec<(Param, Tensor)>);
        impl Drop for Restore {
            fn drop(&mut self) {
                for (param, value) in self.0.drain(..) {
                    param.set_value(value);
                }
            }
        }
        let mut restore = Restore(vec![]);
        for (param, average) in self.params.iter().zip(&self.averages) {
            restore.0.push((param.clone(), param.value()));
            param.set_value(average.copy()?);
        }
        f()
    }

    /// How many updates there have been.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The averages, as the parameters are kept.
    pub(super) fn state(&self) -> impl Iterator<Item = (&Param, &Tensor)> {
        self.params.iter().zip(&self.averages)
    }

    /// Replaces the averages, by tensors that nothing else holds.
    pub(super) fn set_state(&mut self, updates: u64, averages: Vec<Tensor>) {
        self.updates = updates;
        self.averages = averages;
    }
}

fn follow(average: &mut [f32], value: &[f32], rest: f32) {
    pulp::Arch::new().dispatch(|| {
        for (a, &p) in average.iter_mut().zip(value) {
            *a += (p - *a) * rest;
        }
    });
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::Error;

    fn set(param: &Param, x: f32) {
        param.set_value(Tensor::new(&[x], &Device::Cpu).unwrap());
    }

    fn get(param: &Param) -> f32 {
        param.value().to_vec1().unwrap()[0]
    }

    fn param(x: f32) -> Param {
        Param::new("w", &Tensor::new(&[x], &Device::Cpu).unwrap(), DType::F32).unwrap()
    }

    #[test]
    fn follows_and_swaps() {
        let w = param(1.0);
        let mut ema = Ema::new(EmaConfig { decay: 0.75, warmup: false }, vec![w.clone()]).unwrap();
        set(&w, 2.0);
        ema.update().unwrap();
        ema.update().unwrap();
        assert_eq!(ema.with_averages(|| Ok(get(&w))).unwrap(), 1.4375);
        assert_eq!(get(&w), 2.0);
        let failed: Result<()> = ema.with_averages(|| Err(Error::Interrupted));
        assert!(failed.is_err());
        assert_eq!(get(&w), 2.0, "comes back after an error, too");
    }

    #[test]
    fn warm_up_forgets_the_start() {
        let w = param(100.0);
        let mut ema = Ema::new(EmaConfig { decay: 0.9999, warmup: true }, vec![w.clone()]).unwrap();
        set(&w, 2.0);
        ema.update().unwrap();
        assert_eq!(ema.with_averages(|| Ok(get(&w))).unwrap(), 2.0);
        set(&w, 13.0);
        ema.update().unwrap(); // keeps 2/11
        assert_eq!(ema.with_averages(|| Ok(get(&w))).unwrap(), 11.0);
    }
}
