use candle_core::{Result, Tensor};

use crate::nn::backend::fast;
use crate::nn::{Param, Var};

/// Zero pixels around a map: `before` at the top and left, `after` at the bottom and right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    /// Rows above and columns to the left.
    pub before: usize,
    /// Rows below and columns to the right.
    pub after: usize,
}

impl Padding {
    /// The same on all sides.
    pub const fn same(pixels: usize) -> Self {
        Padding { before: pixels, after: pixels }
    }
}

/// Convolution of a map by a square `kernel` [out, in, k, k], with `bias` [out].
pub fn conv2d(
    x: &Var,
    kernel: &Param,
    bias: &Param,
    stride: usize,
    padding: Padding,
) -> Result<Var> {
    let (w, b) = (kernel.var()?, bias.var()?);
    if fast(x.value()) {
        return candle_channels_last(x, &w, &b, stride, padding);
    }
    candle(x, &w, &b, stride, padding)
}

// Until the kernel is there.
fn candle_channels_last(x: &Var, w: &Var, b: &Var, stride: usize, padding: Padding) -> Result<Var> {
    super::composed([x, w, b], move |[x, w, b]| {
        let x = x.permute((0, 3, 1, 2))?.contiguous()?;
        let w = w.permute((3, 2, 0, 1))?.contiguous()?;
        let x = pad(&x, padding)?;
        let y = x.conv2d(&w, 0, stride, 1, 1)?.broadcast_add(&b.reshape((1, (), 1, 1))?)?;
        y.permute((0, 2, 3, 1))?.contiguous()
    })
}

/// Channels first, on candle's convolutions.
fn candle(x: &Var, w: &Var, b: &Var, stride: usize, padding: Padding) -> Result<Var> {
    let padded = pad(x.value(), padding)?;
    let kernel = w.value().clone();
    let out = padded.conv2d(&kernel, 0, stride, 1, 1)?.broadcast_add(&b.value().reshape((
        1,
        (),
        1,
        1,
    ))?)?;
    let (_, _, height, width) = x.value().dims4()?;
    let (_, _, padded_height, padded_width) = padded.dims4()?;
    let (_, _, k, _) = kernel.dims4()?;
    let kept = w.needs_grad().then_some(padded);
    Ok(Var::record(out, [x, w, b], move |grad, flow| {
        let grad = grad.contiguous()?;
        flow.add_with(0, || {
            let dx = grad.conv_transpose2d(&kernel, 0, 0, stride, 1)?;
            // Rows and columns that the stride leaves over at the end take part in nothing.
            let dx = dx.pad_with_zeros(2, 0, padded_height - dx.dim(2)?)?.pad_with_zeros(
                3,
                0,
                padded_width - dx.dim(3)?,
            )?;
            dx.narrow(2, padding.before, height)?.narrow(3, padding.before, width)?.contiguous()
        })?;
        if let Some(padded) = kept {
            flow.add_with(1, || {
                let x = padded.transpose(0, 1)?.contiguous()?;
                let g = grad.transpose(0, 1)?.contiguous()?;
                let dw = x.conv2d(&g, 0, 1, stride, 1)?.transpose(0, 1)?;
                dw.narrow(2, 0, k)?.narrow(3, 0, k)?.contiguous()
            })?;
        }
        flow.add_with(2, || grad.sum((0, 2, 3)))
    }))
}

fn pad(x: &Tensor, padding: Padding) -> Result<Tensor> {
    if padding == Padding::same(0) {
        return x.contiguous();
    }
    x.pad_with_zeros(2, padding.before, padding.after)?
        .pad_with_zeros(3, padding.before, padding.after)?
        .contiguous()
}
