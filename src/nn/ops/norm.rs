use candle_core::{D, Result, Tensor, bail};

use crate::nn::backend::fast;
use crate::nn::device::{self, Needs};
use crate::nn::kernels::buffer::slice;
use crate::nn::kernels::norm as kernel;
use crate::nn::{Flow, Var};

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
        let value = device::contiguous(x.value())?;
        let (w, b) = (weight.value().clone(), bias.value().clone());
        let [out, moments] = device::group_norm(&value, &w, &b, groups, eps, with_silu)?;
        return Ok(Var::record(out, [x, weight, bias], move |grad, flow| {
            let grad = device::contiguous(&grad)?;
            let gradients = device::group_norm_backward(
                &value,
                &moments,
                &w,
                &b,
                &grad,
                with_silu,
                needs(flow),
            )?;
            deliver(flow, gradients)
        }));
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
        let shape = x.value().shape().clone();
        let rows = device::contiguous(x.value())?.reshape(((), width))?;
        let w = weight.value().clone();
        let [out, moments] = device::layer_norm(&rows, &w, bias.value(), eps)?;
        return Ok(Var::record(out.reshape(&shape)?, [x, weight, bias], move |grad, flow| {
            let grad = device::contiguous(&grad)?.reshape(((), width))?;
            let (dx, parameters) =
                device::layer_norm_backward(&rows, &moments, &w, &grad, needs(flow))?;
            let dx = dx.map(|dx| dx.reshape(shape)).transpose()?;
            deliver(flow, (dx, parameters))
        }));
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

fn needs(flow: &Flow) -> Needs {
    Needs { x: flow.needs(0), parameters: flow.needs(1) || flow.needs(2) }
}

fn deliver(flow: &mut Flow, (dx, parameters): device::NormGradients) -> Result<()> {
    if let Some(dx) = dx {
        flow.add(0, dx)?;
    }
    if let Some([dw, db]) = parameters {
        flow.add(1, dw)?;
        flow.add(2, db)?;
    }
    Ok(())
}
