use candle_core::{D, Result, Tensor, bail};

use super::basic::at_least_f32;
use super::composed;
use crate::nn::Var;
use crate::nn::backend::fast;
use crate::nn::kernels::buffer::slice;
use crate::nn::kernels::norm as kernel;

/// Group normalisation of a map over each of `groups` groups of channels, with `weight` and `bias`
/// [channels]; followed by SiLU if asked for. Statistics are in f32.
pub fn group_norm(
    x: &Var,
    weight: &Var,
    bias: &Var,
    groups: usize,
    eps: f64,
    with_silu: bool,
) -> Result<Var> {
    let (_, c, h, w) = super::map_size(x)?;
    if groups == 0 || c == 0 || c % groups != 0 || weight.dims() != [c] || bias.dims() != [c] {
        bail!("{c} channels, weights {:?}, {groups} groups", weight.dims());
    }
    if !fast(x.value()) {
        return composed([x, weight, bias], move |[x, weight, bias]| {
            let y = normalise(&x.reshape(((), groups, c / groups * h * w))?, eps)?;
            let y = y
                .reshape(x.shape())?
                .broadcast_mul(&weight.reshape((1, c, 1, 1))?)?
                .broadcast_add(&bias.reshape((1, c, 1, 1))?)?;
            if with_silu { &y / (y.neg()?.exp()? + 1.0)? } else { Ok(y) }
        });
    }
    let shape =
        kernel::GroupNorm { pixels: h * w, channels: c, groups, eps: eps as f32, silu: with_silu };
    let value = x.value().contiguous()?;
    let (w, b) = (weight.value().clone(), bias.value().clone());
    let (out, moments) = shape.forward(&slice(&value)?, &slice(&w)?, &slice(&b)?);
    let out = Tensor::from_vec(out, value.shape(), value.device())?;
    Ok(Var::record(out, [x, weight, bias], move |grad, flow| {
        let grad = grad.contiguous()?;
        let [dx, dw, db] =
            shape.backward(&slice(&value)?, &moments, &slice(&w)?, &slice(&b)?, &slice(&grad)?);
        flow.add_with(0, || Tensor::from_vec(dx, value.shape(), value.device()))?;
        flow.add_with(1, || Tensor::from_vec(dw, w.shape(), w.device()))?;
        flow.add_with(2, || Tensor::from_vec(db, b.shape(), b.device()))
    }))
}

/// Layer normalisation of the last dimension, with `weight` and `bias` of its size. Statistics are in
/// f32.
pub fn layer_norm(x: &Var, weight: &Var, bias: &Var, eps: f64) -> Result<Var> {
    let width = x.value().dim(D::Minus1)?;
    if width == 0 || weight.dims() != [width] || bias.dims() != [width] {
        bail!("layer norm of {width} features with weights {:?}", weight.dims());
    }
    if !fast(x.value()) {
        return composed([x, weight, bias], move |[x, weight, bias]| {
            normalise(x, eps)?.broadcast_mul(weight)?.broadcast_add(bias)
        });
    }
    let value = x.value().contiguous()?;
    let (w, b) = (weight.value().clone(), bias.value());
    let (out, moments) = kernel::layer_norm(&slice(&value)?, &slice(&w)?, &slice(b)?, eps as f32);
    let out = Tensor::from_vec(out, value.shape(), value.device())?;
    Ok(Var::record(out, [x, weight, bias], move |grad, flow| {
        let parameters = flow.needs(1) || flow.needs(2);
        let grad = grad.contiguous()?;
        let (dx, parameters) = kernel::layer_norm_backward(
            &slice(&value)?,
            &moments,
            &slice(&w)?,
            &slice(&grad)?,
            parameters,
        );
        flow.add_with(0, || Tensor::from_vec(dx, value.shape(), value.device()))?;
        if let Some([dw, db]) = parameters {
            flow.add_with(1, || Tensor::from_vec(dw, w.shape(), w.device()))?;
            flow.add_with(2, || Tensor::from_vec(db, w.shape(), w.device()))?;
        }
        Ok(())
    }))
}

/// Zero mean and unit variance along the last dimension.
fn normalise(x: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(at_least_f32(dtype))?;
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)?.to_dtype(dtype)
}
