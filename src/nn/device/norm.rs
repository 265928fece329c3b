use candle_core::{D, DType, Result, Tensor};

use super::activation::Activation;
use super::counted::nothing;
#[cfg(feature = "cuda")]
use super::cuda;
use super::tally::{Kind, call, counting, hollow};
use crate::nn::ops::at_least_f32;

/// Which gradients of a norm are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Of what is normalised.
    pub x: bool,
    /// Of weight and bias.
    pub parameters: bool,
}

/// The gradients of a norm: of what is normalised, and of weight and bias.
pub type NormGradients = (Option<Tensor>, Option<[Tensor; 2]>);

/// Group normalisation of a contiguous map [batch, channels, height, width], followed by SiLU if asked
/// for. The second result is the mean and the inverse deviation of each group [batch, groups, 2], in at
/// least f32.
pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<[Tensor; 2]> {
    let (batch, c, h, w) = x.dims4()?;
    if counting() {
        let moments = hollow((batch, groups, 2), DType::F32)?;
        let out = call(Kind::Norm, &[x, x, weight, bias]).run(x.shape(), x.dtype(), nothing)?;
        return Ok([out, moments]);
    }
    #[cfg(feature = "cuda")]
    if cuda::takes(x) {
        return cuda::group_norm(x, weight, bias, groups, eps, silu);
    }
    let x32 = x.to_dtype(at_least_f32(x.dtype()))?;
    let moments = moments(&x32.reshape((batch, groups, c / groups * h * w))?, eps)?;
    let y = Channels::new(&x32, &moments, weight)?.affine(bias)?;
    let y = if silu { Activation::Silu.of(&y)? } else { y };
    Ok([y.reshape(x.shape())?.to_dtype(x.dtype())?, moments])
}

/// The gradients of [`group_norm`], from its operands and moments.
pub fn group_norm_backward(
    x: &Tensor,
    moments: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    grad: &Tensor,
    silu: bool,
    needs: Needs,
) -> Result<NormGradients> {
    let (batch, c, h, w) = x.dims4()?;
    let (_, groups, _) = moments.dims3()?;
    if counting() {
        let sums = call(Kind::Norm, &[x, grad]).run((batch, 2 * c), DType::F32, nothing)?;
        let dx =
            needs.x.then(|| call(Kind::Norm, &[x, grad, &sums]).run(x.shape(), x.dtype(), nothing));
        let parameters = needs.parameters.then(|| count_sum(&sums, c, weight.dtype()));
        return Ok((dx.transpose()?, parameters.transpose()?));
    }
    #[cfg(feature = "cuda")]
    if cuda::takes(x) {
        let sums = cuda::group_norm_sums(x, moments, weight, bias, grad, silu)?;
        let dx =
            needs.x.then(|| cuda::group_norm_backward(x, moments, weight, bias, grad, &sums, silu));
        let parameters = needs.parameters.then(|| summed(&sums, weight.dtype()));
        return Ok((dx.transpose()?, parameters.transpose()?));
    }
    let pixels = h * w;
    let x32 = x.to_dtype(at_least_f32(x.dtype()))?;
    let channels = Channels::new(&x32, moments, weight)?;
    let mut dy = grad.to_dtype(x32.dtype())?.reshape((batch, c, pixels))?;
    if silu {
        dy = (dy * Activation::Silu.slope(&channels.affine(bias)?)?)?;
    }
    // Σ ∂y and Σ ∂y x̂ over the pixels of each channel: what all gradients are made of
    let sum = dy.sum_keepdim(2)?;
    let sum_x = ((&dy * &channels.centred)?.sum_keepdim(2)? * &channels.inverse)?;
    let dx = needs.x.then(|| {
        let weight = weight.to_dtype(x32.dtype())?.reshape((1, c, 1))?;
        let in_group = |sum: &Tensor| {
            let grouped = sum.broadcast_mul(&weight)?.reshape((batch, groups, c / groups))?;
            let mean = grouped.sum_keepdim(2)? / (c / groups * pixels) as f64;
            spread(&mean?, c)? * &channels.inverse
        };
        let along = (in_group(&sum_x)? * &channels.inverse)?;
        let dx = dy.broadcast_mul(&channels.scale)?.broadcast_sub(&in_group(&sum)?)?;
        let dx = (dx - channels.centred.broadcast_mul(&along)?)?;
        dx.reshape(x.shape())?.to_dtype(x.dtype())
    });
    let parameters = needs.parameters.then(|| {
        let sums = Tensor::cat(&[sum_x.reshape((batch, c))?, sum.reshape((batch, c))?], 1)?;
        summed(&sums, weight.dtype())
    });
    Ok((dx.transpose()?, parameters.transpose()?))
}

/// A map's channels [batch, channels, pixels] without their group's mean, and what they are multiplied
/// with [batch, channels, 1].
struct Channels {
    centred: Tensor,
    inverse: Tensor,
    scale: Tensor,
}

impl Channels {
    fn new(x: &Tensor, moments: &Tensor, weight: &Tensor) -> Result<Self> {
        let (batch, c, h, w) = x.dims4()?;
        let x = x.reshape((batch, c, h * w))?;
        let inverse = spread(&moments.narrow(2, 1, 1)?, c)?;
        let weight = weight.to_dtype(x.dtype())?.reshape((1, c, 1))?;
        Ok(Channels {
            centred: x.broadcast_sub(&spread(&moments.narrow(2, 0, 1)?, c)?)?,
            scale: inverse.broadcast_mul(&weight)?,
            inverse,
        })
    }

    fn affine(&self, bias: &Tensor) -> Result<Tensor> {
        let bias = bias.to_dtype(self.centred.dtype())?.reshape((1, (), 1))?;
        self.centred.broadcast_mul(&self.scale)?.broadcast_add(&bias)
    }
}

/// A number of each group [batch, groups, 1] as one of each channel [batch, channels, 1].
fn spread(x: &Tensor, channels: usize) -> Result<Tensor> {
    let (batch, groups, _) = x.dims3()?;
    x.broadcast_as((batch, groups, channels / groups))?.contiguous()?.reshape((batch, channels, 1))
}

/// Layer normalisation of contiguous rows [rows, width]. The second result is the mean and the inverse
/// deviation of each [rows, 2], in at least f32.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<[Tensor; 2]> {
    let (rows, _) = x.dims2()?;
    if counting() {
        let moments = hollow((rows, 2), DType::F32)?;
        let out = call(Kind::Norm, &[x, weight, bias]).run(x.shape(), x.dtype(), nothing)?;
        return Ok([out, moments]);
    }
    #[cfg(feature = "cuda")]
    if cuda::takes(x) {
        return cuda::layer_norm(x, weight, bias, eps);
    }
    let x32 = x.to_dtype(at_least_f32(x.dtype()))?;
    let moments = moments(&x32, eps)?;
    let y = normalised(&x32, &moments)?
        .broadcast_mul(&weight.to_dtype(x32.dtype())?)?
        .broadcast_add(&bias.to_dtype(x32.dtype())?)?;
    Ok([y.to_dtype(x.dtype())?, moments])
}

/// The gradients of [`layer_norm`], from its operands and moments.
pub fn layer_norm_backward(
    x: &Tensor,
    moments: &Tensor,
    weight: &Tensor,
    grad: &Tensor,
    needs: Needs,
) -> Result<NormGradients> {
    let (rows, width) = x.dims2()?;
    if counting() {
        let dx = needs
            .x
            .then(|| call(Kind::Norm, &[x, grad, weight]).run(x.shape(), x.dtype(), nothing));
        let parameters = needs.parameters.then(|| {
            let chunks = rows.div_ceil(ROWS);
            let sums =
                call(Kind::Norm, &[x, grad]).run((chunks, 2 * width), DType::F32, nothing)?;
            count_sum(&sums, width, weight.dtype())
        });
        return Ok((dx.transpose()?, parameters.transpose()?));
    }
    #[cfg(feature = "cuda")]
    if cuda::takes(x) {
        let dx = needs.x.then(|| cuda::layer_norm_backward(x, moments, weight, grad));
        let parameters = needs
            .parameters
            .then(|| summed(&cuda::layer_norm_sums(x, moments, grad, ROWS)?, weight.dtype()));
        return Ok((dx.transpose()?, parameters.transpose()?));
    }
    let x32 = x.to_dtype(at_least_f32(x.dtype()))?;
    let unit = normalised(&x32, moments)?;
    let dy = grad.to_dtype(x32.dtype())?;
    let dx = needs.x.then(|| {
        let dy = dy.broadcast_mul(&weight.to_dtype(x32.dtype())?)?;
        let along = (&dy * &unit)?.mean_keepdim(D::Minus1)?;
        let centred = dy.broadcast_sub(&dy.mean_keepdim(D::Minus1)?)?;
        let dx = (centred - unit.broadcast_mul(&along)?)?;
        dx.broadcast_mul(&moments.narrow(1, 1, 1)?)?.to_dtype(x.dtype())
    });
    let parameters = needs.parameters.then(|| {
        let sums = Tensor::cat(&[(&dy * &unit)?, dy.clone()], 1)?;
        summed(&sums, weight.dtype())
    });
    Ok((dx.transpose()?, parameters.transpose()?))
}

/// Rows whose part of a parameter's gradient one block of threads sums.
const ROWS: usize = 256;

/// The mean and the inverse deviation along the last dimension [..., 2].
fn moments(x: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.mean_keepdim(D::Minus1)?;
    let variance = x.broadcast_sub(&mean)?.sqr()?.mean_keepdim(D::Minus1)?;
    Tensor::cat(&[mean, (variance + eps)?.sqrt()?.recip()?], D::Minus1)
}

fn normalised(x: &Tensor, moments: &Tensor) -> Result<Tensor> {
    x.broadcast_sub(&moments.narrow(1, 0, 1)?)?.broadcast_mul(&moments.narrow(1, 1, 1)?)
}

/// The gradients of weight and bias from parts of them [parts, weights and biases].
fn summed(parts: &Tensor, dtype: DType) -> Result<[Tensor; 2]> {
    let sums = parts.sum(0)?.to_dtype(dtype)?;
    let width = sums.dim(0)? / 2;
    Ok([sums.narrow(0, 0, width)?, sums.narrow(0, width, width)?])
}

fn count_sum(parts: &Tensor, width: usize, dtype: DType) -> Result<[Tensor; 2]> {
    let sums = call(Kind::Norm, &[parts]).run(2 * width, dtype, nothing)?;
    Ok([sums.narrow(0, 0, width)?, sums.narrow(0, width, width)?])
}
