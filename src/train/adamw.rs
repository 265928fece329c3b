//! Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101), number for number
//! as `torch.optim.AdamW`.

use std::collections::HashSet;

use candle_core::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::slices;
use crate::nn::device::{self, Factors};
use crate::nn::{Gradients, Param, on_cpu_kernels};
use crate::{Error, Result};

/// What all parameters have in common.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the running mean of gradients, β₁.
    pub beta1: f64,
    /// Decay of the running mean of squared gradients, β₂.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

/// Parameters that share a learning rate and a weight decay.
pub struct Group {
    /// The parameters; all trainable.
    pub params: Vec<Param>,
    /// The learning rate, before the schedule.
    pub lr: f64,
    /// The weight decay, λ: each step takes `lr · λ` of a weight away.
    pub weight_decay: f64,
}

/// What a trainable parameter without a gradient is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingGradients {
    /// A mistake: the loss does not depend on a parameter that it is meant to train.
    Refuse,
    /// A gradient of zero: the parameter decays and its moments fade.
    Zero,
}

/// The optimiser, with its state.
pub struct AdamW {
    config: AdamWConfig,
    missing: MissingGradients,
    slots: Vec<Slot>,
    step: u64,
}

struct Slot {
    param: Param,
    lr: f64,
    weight_decay: f64,
    // Moments, laid out as the parameter's value is kept; f32.
    m: Tensor,
    v: Tensor,
}

/// Numbers updated at a time: three arrays of this size and the gradient fit the first-level caches
/// of several threads well and are long enough to hide the cost of handing them out.
const PIECE: usize = 1 << 15;

impl AdamW {
    /// An optimiser at its first step.
    ///
    /// # Errors
    /// No parameter at all, a frozen one, or two of the same name; numbers that make no sense.
    pub fn new(config: AdamWConfig, groups: Vec<Group>) -> Result<Self> {
        let AdamWConfig { beta1, beta2, eps } = config;
        if !(0.0..1.0).contains(&beta1)
            || !(0.0..1.0).contains(&beta2)
            || eps.is_nan()
            || eps <= 0.0
        {
            return Err(Error::input_hint(
                format!("optimiser: beta1 {beta1}, beta2 {beta2}, eps {eps}"),
                "0 ≤ beta < 1 and eps > 0",
            ));
        }
        let mut slots = vec![];
        let mut names = HashSet::new();
        for group in groups {
            for (name, x) in [("learning rate", group.lr), ("weight decay", group.weight_decay)] {
                if !(x >= 0.0 && x.is_finite()) {
                    return Err(Error::input(format!("optimiser: a {name} of {x}")));
                }
            }
            for param in group.params {
                let name = param.name().to_owned();
                if !param.trainable() {
                    return Err(Error::input(format!("optimiser: `{name}` is frozen")));
                }
                if !names.insert(name.clone()) {
                    return Err(Error::input(format!(
                        "optimiser: two trainable parameters are called `{name}`, or one is in two groups"
                    )));
                }
                let zeros = || param.with_value(device::zeros_like);
                slots.push(Slot {
                    lr: group.lr,
                    weight_decay: group.weight_decay,
                    m: zeros()?,
                    v: zeros()?,
                    param,
                });
            }
        }
        if slots.is_empty() {
            return Err(Error::input("optimiser: nothing to train"));
        }
        Ok(AdamW { config, missing: MissingGradients::Refuse, slots, step: 0 })
    }

    /// The same optimiser with another rule for parameters without a gradient.
    pub fn with_missing(self, missing: MissingGradients) -> Self {
        AdamW { missing, ..self }
    }

    /// The parameters it trains, in order.
    pub fn params(&self) -> Vec<Param> {
        self.slots.iter().map(|s| s.param.clone()).collect()
    }

    /// How many steps it has made.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The different learning rates, before the schedule, in order of the groups.
    pub fn learning_rates(&self) -> Vec<f64> {
        let mut rates: Vec<f64> = self.slots.iter().map(|s| s.lr).collect();
        rates.dedup();
        rates
    }

    /// One step down `gradients`, each multiplied by `grad_factor` (clipping), with learning rates
    /// multiplied by `lr_factor` (schedule).
    ///
    /// # Errors
    /// A parameter without a gradient; nothing has changed then.
    pub fn step(&mut self, gradients: &Gradients, lr_factor: f64, grad_factor: f64) -> Result<()> {
        if self.missing == MissingGradients::Refuse
            && let Some(slot) = self.slots.iter().find(|s| s.param.grad(gradients).is_none())
        {
            return Err(Error::input_hint(
                format!(
                    "`{}` is to be trained, but the loss does not depend on it",
                    slot.param.name()
                ),
                "leave it out of the trainable set",
            ));
        }
        self.step += 1;
        let factors: Vec<Factors> =
            self.slots.iter().map(|slot| self.factors(slot, lr_factor, grad_factor)).collect();
        let update = |(slot, factors): (&mut Slot, Factors)| slot.update(gradients, factors);
        if on_cpu_kernels(&self.slots[0].m) {
            self.slots.par_iter_mut().zip(factors).try_for_each(update)?;
        } else {
            self.slots.iter_mut().zip(factors).try_for_each(update)?;
        }
        Ok(())
    }

    fn factors(&self, slot: &Slot, lr_factor: f64, grad_factor: f64) -> Factors {
        let AdamWConfig { beta1, beta2, eps } = self.config;
        // enough steps to make any power of β vanish
        let t = self.step.min(i32::MAX as u64) as i32;
        let lr = slot.lr * lr_factor;
        Factors {
            grad: grad_factor as f32,
            keep: (1.0 - lr * slot.weight_decay) as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            root: (1.0 / (1.0 - beta2.powi(t)).sqrt()) as f32,
            eps: eps as f32,
            step: (lr / (1.0 - beta1.powi(t))) as f32,
        }
    }

    /// The moments by name: `(kind, parameter, tensor as the parameter is kept)`, kind `m` or `v`.
    pub(super) fn state(&self) -> impl Iterator<Item = (&'static str, &Param, &Tensor)> {
        self.slots.iter().flat_map(|s| [("m", &s.param, &s.m), ("v", &s.param, &s.v)])
    }

    /// Replaces the state by what `tensor` gives for each `(kind, parameter)`: laid out as the
    /// parameter is kept, and held by nothing else.
    pub(super) fn set_state(
        &mut self,
        step: u64,
        mut tensor: impl FnMut(&'static str, &Param) -> candle_core::Result<Tensor>,
    ) -> Result<()> {
        for slot in &mut self.slots {
            slot.m = tensor("m", &slot.param)?;
            slot.v = tensor("v", &slot.param)?;
        }
        self.step = step;
        Ok(())
    }
}

impl Slot {
    fn update(&mut self, gradients: &Gradients, f: Factors) -> candle_core::Result<()> {
        let grad = match self.param.grad(gradients) {
            Some(grad) => grad.clone(),
            None => device::zeros_like(&self.m)?,
        };
        if !on_cpu_kernels(&grad) {
            return device::adamw(&self.param, &grad, &mut self.m, &mut self.v, f);
        }
        slices::read(&grad, |g| {
            slices::write(&self.m, |m| {
                slices::write(&self.v, |v| {
                    self.param.update_in_place(|p| slices::write(p, |p| update(p, g, m, v, f)))
                })
            })
        })????;
        Ok(())
    }
}

fn update(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], f: Factors) {
    let arch = pulp::Arch::new();
    let pieces = p.par_chunks_mut(PIECE).zip(g.par_chunks(PIECE));
    let pieces = pieces.zip(m.par_chunks_mut(PIECE)).zip(v.par_chunks_mut(PIECE));
    pieces.for_each(|(((p, g), m), v)| arch.dispatch(|| update_piece(p, g, m, v, f)));
}

#[inline(always)]
fn update_piece(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], f: Factors) {
    for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        let g = g * f.grad;
        *m += (g - *m) * f.one_minus_beta1;
        *v = *v * f.beta2 + g * g * f.one_minus_beta2;
        *p = *p * f.keep - f.step * *m / (v.sqrt() * f.root + f.eps);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::{Var, ops};
    use crate::train::{clip_factor, gradient_norm};

    fn param(name: &str, values: Vec<f32>, shape: &[usize]) -> Param {
        let value = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        let param = Param::new(name, &value, DType::F32).unwrap();
        param.set_trainable(true).unwrap();
        param
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn close(a: &[f32], b: &[f32]) {
        assert!(
            a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 2e-6 * b.abs().max(0.1)),
            "{a:?} {b:?}"
        );
    }

    /// Σ a³ + Σ c (b − 1)²
    fn loss(a: &Param, b: &Param) -> Var {
        let (a, b) = (a.var().unwrap(), b.var().unwrap());
        ops::composed([&a, &b], |[a, b]| {
            let c = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu)?;
            a.powf(3.0)?.sum_all()? + ((b - 1.0)?.sqr()? * c)?.sum_all()?
        })
        .unwrap()
    }

    // a = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    // b = torch.nn.Parameter(torch.tensor([[0.1, 3.0], [-0.7, 0.0]]))
    // opt = torch.optim.AdamW([{"params": [a], "lr": 0.1, "weight_decay": 0.0},
    //                          {"params": [b], "lr": 0.01, "weight_decay": 0.1}])
    // for step in range(5):
    //     opt.zero_grad()
    //     c = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    //     loss = (a ** 3).sum() + ((b - 1) ** 2 * c).sum()
    //     loss.backward()
    //     print(torch.nn.utils.clip_grad_norm_([a, b], 10.0))
    //     opt.step()
    // print(a.data, b.data, opt.state[b])
    #[test]
    fn steps_are_those_of_torch() {
        let a = param("a", vec![1.0, -2.0, 0.5], &[3]);
        let b = param("b", vec![0.1, 3.0, -0.7, 0.0], &[2, 2]);
        let group =
            |p: &Param, lr, weight_decay| Group { params: vec![p.clone()], lr, weight_decay };
        let groups = vec![group(&a, 0.1, 0.0), group(&b, 0.01, 0.1)];
        let mut adamw = AdamW::new(AdamWConfig::default(), groups).unwrap();
        for norm in [19.7191, 20.3216, 21.0480, 21.8914, 22.8457] {
            let gradients = loss(&a, &b).backward(1.0).unwrap();
            let found = gradient_norm(&adamw.params(), &gradients).unwrap();
            assert!((found - norm).abs() < 1e-4, "{found} {norm}");
            adamw.step(&gradients, 1.0, clip_factor(found, 10.0)).unwrap();
        }
        close(&values(&a.value()), &[0.5239921, -2.501788, 0.06359065]);
        close(&values(&b.value()), &[0.1491567, 2.935346, -0.646822, 0.04966201]);
        let state: Vec<_> = adamw.state().collect();
        close(&values(state[2].2), &[-0.3384041, 1.518766, -1.937295, -1.507296]);
        close(&values(state[3].2), &[0.003492436, 0.07015188, 0.1141287, 0.06924409]);
    }

    #[test]
    fn the_device_path_agrees() {
        let (a, b) = (param("a", vec![0.3, -1.0], &[2]), param("b", vec![0.3, -1.0], &[2]));
        let run = |p: &Param, on_device: bool| {
            let group = Group { params: vec![p.clone()], lr: 0.1, weight_decay: 0.1 };
            let mut adamw = AdamW::new(AdamWConfig::default(), vec![group]).unwrap();
            for _ in 0..5 {
                let x = p.var().unwrap();
                let loss = ops::composed([&x], |[x]| x.powf(4.0)?.sum_all()).unwrap();
                let gradients = loss.backward(1.0).unwrap();
                if on_device {
                    adamw.step += 1;
                    let factors = adamw.factors(&adamw.slots[0], 1.0, 0.5);
                    let grad = p.grad(&gradients).unwrap();
                    let Slot { param, m, v, .. } = &mut adamw.slots[0];
                    device::adamw(param, grad, m, v, factors).unwrap();
                } else {
                    adamw.step(&gradients, 1.0, 0.5).unwrap();
                }
            }
            values(&p.value())
        };
        close(&run(&a, false), &run(&b, true));
    }

    #[test]
    fn tensors_handed_out_before_a_step_keep_their_values() {
        let a = param("a", vec![1.0, -2.0, 0.5], &[3]);
        let b = param("b", vec![0.0; 4], &[2, 2]);
        let groups = vec![Group { params: vec![a.clone(), b.clone()], lr: 0.1, weight_decay: 0.0 }];
        let mut adamw = AdamW::new(AdamWConfig::default(), groups).unwrap();
        for _ in 0..2 {
            let (before, file) = (a.value(), a.to_file().unwrap());
            let copy = values(&before);
            adamw.step(&loss(&a, &b).backward(1.0).unwrap(), 1.0, 1.0).unwrap();
            assert_eq!((&values(&before), &values(&file)), (&copy, &copy));
            assert_ne!(values(&a.value()), copy);
        }
    }

    #[test]
    fn a_missing_gradient_is_an_error_unless_told_otherwise() {
        let (a, b) = (param("a", vec![1.0; 3], &[3]), param("lonely", vec![2.0], &[1]));
        let groups =
            || vec![Group { params: vec![a.clone(), b.clone()], lr: 0.5, weight_decay: 0.5 }];
        let x = a.var().unwrap();
        let gradients = ops::composed([&x], |[x]| x.sum_all()).unwrap().backward(1.0).unwrap();
        let mut adamw = AdamW::new(AdamWConfig::default(), groups()).unwrap();
        let error = adamw.step(&gradients, 1.0, 1.0).unwrap_err();
        assert!(error.to_string().contains("lonely"), "{error}");
        assert_eq!(values(&a.value()), [1.0; 3], "nothing has moved");
        let mut adamw = AdamW::new(AdamWConfig::default(), groups())
            .unwrap()
            .with_missing(MissingGradients::Zero);
        adamw.step(&gradients, 1.0, 1.0).unwrap();
        assert_eq!(values(&b.value()), [1.5]);
    }

    #[test]
    fn bad_groups_are_refused() {
        let a = param("a", vec![1.0], &[1]);
        let new = |params| {
            AdamW::new(AdamWConfig::default(), vec![Group { params, lr: 0.1, weight_decay: 0.0 }])
                .map(|_| ())
                .unwrap_err()
                .to_string()
        };
        assert!(new(vec![a.clone(), a.clone()]).contains("`a`"));
        assert!(new(vec![]).contains("nothing"));
        a.set_trainable(false).unwrap();
        assert!(new(vec![a]).contains("frozen"));
        let wild = AdamWConfig { beta2: 1.0, ..AdamWConfig::default() };
        assert!(AdamW::new(wild, vec![]).is_err());
        let nan = Group { params: vec![], lr: f64::NAN, weight_decay: 0.0 };
        let error = AdamW::new(AdamWConfig::default(), vec![nan]).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("learning rate"), "{error}");
    }
}
