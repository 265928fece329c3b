use candle_core::{D, Result, Tensor};

use super::composed;
use crate::nn::Var;
use crate::nn::backend::fast;

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
    let channels_last = fast(x.value());
    composed([x, weight, bias], move |[x, weight, bias]| {
        let x = if channels_last { x.permute((0, 3, 1, 2))?.contiguous()? } else { x.clone() };
        let (b, c, h, w) = x.dims4()?;
        let y = normalise(&x.reshape((b, groups, c / groups * h * w))?, eps)?;
        let y = y
            .reshape((b, c, h, w))?
            .broadcast_mul(&weight.reshape((1, c, 1, 1))?)?
            .broadcast_add(&bias.reshape((1, c, 1, 1))?)?;
        let y = if with_silu { (&y / (y.neg()?.exp()? + 1.0)?)? } else { y };
        if channels_last { y.permute((0, 2, 3, 1))?.contiguous() } else { Ok(y) }
    })
}

/// Layer normalisation of the last dimension, with `weight` and `bias` of its size. Statistics are in
/// f32.
pub fn layer_norm(x: &Var, weight: &Var, bias: &Var, eps: f64) -> Result<Var> {
    composed([x, weight, bias], move |[x, weight, bias]| {
        normalise(x, eps)?.broadcast_mul(weight)?.broadcast_add(bias)
    })
}

/// Zero mean and unit variance along the last dimension.
fn normalise(x: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(candle_core::DType::F32)?;
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)?.to_dtype(dtype)
}
