// Only closures can be marked for inlining where they are passed.
#![allow(clippy::redundant_closure)]

use candle_core::{D, Result, Tensor, bail};

use crate::nn::Var;
use crate::nn::backend::fast;
use crate::nn::device::{self, Activation};
use crate::nn::kernels::activation as kernel;
use crate::nn::kernels::buffer::slice;

/// `x σ(x)`.
pub fn silu(x: &Var) -> Result<Var> {
    if !fast(x.value()) {
        return on_device(x, Activation::Silu);
    }
    pointwise(
        x,
        #[inline(always)]
        |x| kernel::silu(x),
        #[inline(always)]
        |x, grad| grad * kernel::silu_slope(x),
    )
}

/// `x Φ(x)`, exact.
pub fn gelu(x: &Var) -> Result<Var> {
    if !fast(x.value()) {
        return on_device(x, Activation::Gelu);
    }
    pointwise(
        x,
        #[inline(always)]
        |x| kernel::gelu(x),
        #[inline(always)]
        |x, grad| grad * kernel::gelu_and_slope(x).1,
    )
}

/// `x σ(1.702 x)`, CLIP's approximation of gelu.
pub fn quick_gelu(x: &Var) -> Result<Var> {
    if !fast(x.value()) {
        return on_device(x, Activation::QuickGelu);
    }
    pointwise(
        x,
        #[inline(always)]
        |x| kernel::quick_gelu(x),
        #[inline(always)]
        |x, grad| grad * kernel::quick_gelu_slope(x),
    )
}

/// `a · gelu(b)`, where `a` and `b` are the halves of the last dimension (Shazeer 2020,
/// arXiv:2002.05202).
pub fn geglu(x: &Var) -> Result<Var> {
    let width = x.value().dim(D::Minus1)?;
    if width == 0 || width % 2 != 0 {
        bail!("geglu halves the last dimension, which is {width}");
    }
    let half = width / 2;
    if !fast(x.value()) {
        let value = x.value().clone();
        return Ok(Var::record(device::geglu(&value)?, [x], move |grad, flow| {
            flow.add_with(0, || device::geglu_backward(&value, &grad))
        }));
    }
    let value = x.value().contiguous()?;
    let mut shape = value.dims().to_vec();
    *shape.last_mut().expect("has a last dimension") = half;
    let out = kernel::geglu(&slice(&value)?, half);
    let out = Tensor::from_vec(out, shape, value.device())?;
    Ok(Var::record(out, [x], move |grad, flow| {
        flow.add_with(0, || {
            let grad = grad.contiguous()?;
            let dx = kernel::geglu_backward(&slice(&value)?, &slice(&grad)?, half);
            Tensor::from_vec(dx, value.shape(), value.device())
        })
    }))
}

/// `f` of each element; `backward(x, grad)` is the gradient. Both must be `#[inline(always)]`.
fn pointwise(
    x: &Var,
    f: impl Fn(f32) -> f32 + Copy + Send + Sync,
    backward: impl Fn(f32, f32) -> f32 + Copy + Send + Sync + 'static,
) -> Result<Var> {
    let value = x.value().contiguous()?;
    let out = Tensor::from_vec(kernel::map(&slice(&value)?, f), value.shape(), value.device())?;
    Ok(Var::record(out, [x], move |grad, flow| {
        flow.add_with(0, || {
            let grad = grad.contiguous()?;
            let dx = kernel::zip(&slice(&value)?, &slice(&grad)?, backward);
            Tensor::from_vec(dx, value.shape(), value.device())
        })
    }))
}

/// On candle's operations or a kernel of the device.
fn on_device(x: &Var, f: Activation) -> Result<Var> {
    let value = x.value().clone();
    Ok(Var::record(device::activate(&value, f)?, [x], move |grad, flow| {
        flow.add_with(0, || device::activate_backward(&value, &grad, f))
    }))
}
