use std::sync::Arc;

use candle_core::{Device, Result, Shape, Tensor, bail};

use crate::nn::backend::fast;
use crate::nn::device;
use crate::nn::kernels::buffer::{slice, uninit};
use crate::nn::kernels::gemm::{Mat, Update, gemm_threads, sum_rows};
use crate::nn::param::Derived;
use crate::nn::{Param, Var, flops};

/// `y = x Wᵀ + b` on the last dimension: `x` [..., in], `w` [out, in], `b` [out].
pub fn linear(x: &Var, w: &Var, b: Option<&Var>) -> Result<Var> {
    apply(x, w, None, b)
}

/// As [`linear`], with a weight that is a parameter.
pub(in crate::nn) fn linear_param(x: &Var, w: &Param, b: Option<&Param>) -> Result<Var> {
    // Larger ones are used for many rows at a time, beside which transposing is cheap, memory is not;
    // those that are trained change in each step.
    const SMALL: usize = 1 << 19;
    let keep = fast(x.value()) && !w.trainable() && w.elem_count() <= SMALL;
    let transposed = keep.then(|| w.derived(Derived::Transposed)).transpose()?;
    apply(x, &w.var()?, transposed, b.map(Param::var).transpose()?.as_ref())
}

/// `transposed` is that of `w`, where it is at hand.
fn apply(x: &Var, w: &Var, transposed: Option<Transposed>, b: Option<&Var>) -> Result<Var> {
    let mut shape = x.dims().to_vec();
    let inputs = shape.pop().unwrap_or(1);
    let outputs = w.value().dim(0)?;
    shape.push(outputs);
    if w.dims() != [outputs, inputs] || b.is_some_and(|b| b.dims() != [outputs]) {
        bail!("a weight {:?} does not suit an input {:?}", w.dims(), x.dims());
    }
    let sizes = Sizes { rows: x.value().elem_count() / inputs.max(1), inputs, outputs };
    flops::add(sizes.products());
    if fast(x.value()) {
        kernels(x, w, transposed, b, sizes, shape.into())
    } else if device::counting() {
        device::count_linear(x, w, b, shape)
    } else {
        candle(x, w, b, sizes, shape.into())
    }
}

type Transposed = Arc<Vec<f32>>;

#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl Sizes {
    /// Multiplications of the product itself, and of each of its two gradients.
    fn products(self) -> usize {
        self.rows * self.inputs * self.outputs
    }
}

/// On the project's kernels.
fn kernels(
    x: &Var,
    w: &Var,
    transposed: Option<Transposed>,
    b: Option<&Var>,
    sizes: Sizes,
    shape: Shape,
) -> Result<Var> {
    let Sizes { rows, inputs, outputs } = sizes;
    let input = x.value().contiguous()?;
    let weight = w.value().contiguous()?;
    let out = {
        let (x, w) = (slice(&input)?, slice(&weight)?);
        let mut out = uninit(rows * outputs);
        let bias = b.map(|b| b.value().contiguous()).transpose()?;
        let bias = bias.as_ref().map(slice).transpose()?;
        let update = bias.as_deref().map_or(Update::Store, Update::Bias);
        let w = match &transposed {
            Some(transposed) => Mat::new(transposed, inputs, outputs),
            None => Mat::new(&w, outputs, inputs).t(),
        };
        gemm_threads(&mut out, update, Mat::new(&x, rows, inputs), w);
        Tensor::from_vec(out, shape, &Device::Cpu)?
    };
    let x_shape = x.value().shape().clone();
    let absent = Var::constant(weight.clone());
    // A frozen weight's gradient is never formed, so its input need not be kept either.
    let kept = w.needs_grad().then_some(input);
    Ok(Var::record(out, [x, w, b.unwrap_or(&absent)], move |dy, flow| {
        let dy = dy.contiguous()?;
        let dy = slice(&dy)?;
        let grad = Mat::new(&dy, rows, outputs);
        flow.add_with(0, || {
            flops::add(sizes.products());
            let mut dx = uninit(rows * inputs);
            let w = slice(&weight)?;
            gemm_threads(&mut dx, Update::Store, grad, Mat::new(&w, outputs, inputs));
            Tensor::from_vec(dx, x_shape, &Device::Cpu)
        })?;
        if let Some(input) = kept {
            flow.add_with(1, || {
                flops::add(sizes.products());
                let mut dw = uninit(outputs * inputs);
                let x = slice(&input)?;
                gemm_threads(&mut dw, Update::Store, grad.t(), Mat::new(&x, rows, inputs));
                Tensor::from_vec(dw, (outputs, inputs), &Device::Cpu)
            })?;
        }
        flow.add_with(2, || Tensor::from_vec(sum_rows(&dy, outputs), outputs, &Device::Cpu))
    }))
}

fn candle(x: &Var, w: &Var, b: Option<&Var>, sizes: Sizes, shape: Shape) -> Result<Var> {
    let Sizes { rows, inputs, outputs } = sizes;
    let x2 = x.value().reshape((rows, inputs))?;
    let w2 = w.value().clone();
    let mut out = x2.matmul(&w2.t()?)?;
    if let Some(b) = b {
        out = device::add_bias(&out, b.value(), 1)?;
    }
    let x_shape = x.value().shape().clone();
    let absent = Var::constant(w.value().clone());
    let kept = w.needs_grad().then_some(x2);
    Ok(Var::record(out.reshape(shape)?, [x, w, b.unwrap_or(&absent)], move |grad, flow| {
        let grad = grad.reshape((rows, outputs))?.contiguous()?;
        flow.add_with(0, || {
            flops::add(sizes.products());
            grad.matmul(&w2)?.reshape(x_shape)
        })?;
        if let Some(x2) = kept {
            flow.add_with(1, || {
                flops::add(sizes.products());
                grad.t()?.matmul(&x2)
            })?;
        }
        flow.add_with(2, || super::basic::sum_over(&grad, 0))
    }))
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use proptest::prelude::*;

    use super::*;
    use crate::nn::ops;
    use crate::rng::Rng;

    /// The output and the gradients of input, weight and bias under a random weighting.
    fn run(sizes: Sizes, with_bias: bool, dtype: DType) -> Vec<Tensor> {
        let Sizes { rows, inputs, outputs } = sizes;
        let random = |name: &str, shape: &[usize]| {
            let values = Rng::new(3, name).normal(shape, &Device::Cpu).unwrap();
            Var::leaf(values.to_dtype(dtype).unwrap())
        };
        let x = random("x", &[1, rows, inputs]);
        let (w, b) = (random("w", &[outputs, inputs]), random("b", &[outputs]));
        let y = linear(&x, &w, with_bias.then_some(&b)).unwrap();
        let product = ops::mul(&y, &random("dy", &[1, rows, outputs]).detach()).unwrap();
        let loss = ops::composed([&product], |[p]| p.sum_all()).unwrap();
        let grads = loss.backward(1.0).unwrap();
        let mut results = vec![y.value().clone()];
        results.extend([&x, &w, &b].iter().filter_map(|v| grads.get(v)).cloned());
        results
    }

    fn relative_error(a: &Tensor, exact: &Tensor) -> f64 {
        let a = a.to_dtype(DType::F64).unwrap();
        let max = |x: Tensor| x.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        let difference = max((&a - exact).unwrap()).to_scalar::<f64>().unwrap();
        difference / max(exact.clone()).to_scalar::<f64>().unwrap().max(f64::MIN_POSITIVE)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

        #[test]
        fn agrees_with_the_definition(
            rows in 1..300usize, inputs in 1..80usize, outputs in 1..200usize, bias: bool,
        ) {
            let sizes = Sizes { rows, inputs, outputs };
            let (fast, exact) = (run(sizes, bias, DType::F32), run(sizes, bias, DType::F64));
            prop_assert_eq!(fast.len(), 3 + usize::from(bias));
            for (i, (fast, exact)) in fast.iter().zip(&exact).enumerate() {
                let error = relative_error(fast, exact);
                prop_assert!(error <= if i == 0 { 1e-5 } else { 1e-4 }, "{i}: {error:e}");
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let sizes = Sizes { rows: 1000, inputs: 320, outputs: 640 };
        let bits = |threads: usize| -> Vec<Vec<f32>> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let results = pool.install(|| run(sizes, true, DType::F32));
            results.iter().map(|t| t.flatten_all().unwrap().to_vec1().unwrap()).collect()
        };
        assert!(bits(1) == bits(2));
    }
}
