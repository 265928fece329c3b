//! Feature maps: [batch, channels, height, width] on candle's operations, [batch, height, width,
//! channels] on the CPU kernels.

use candle_core::{Result, Shape, Tensor, bail};

use crate::nn::Var;
use crate::nn::backend::fast;
use crate::nn::device::{self, Kind, call};
use crate::nn::kernels::buffer::slice;
use crate::nn::kernels::map as kernel;

/// (batch, channels, height, width) of a map.
pub fn map_size(x: &Var) -> Result<(usize, usize, usize, usize)> {
    let (b, i, j, k) = x.value().dims4()?;
    Ok(if fast(x.value()) { (b, k, i, j) } else { (b, i, j, k) })
}

/// An image or latent [batch, channels, height, width] as a map.
pub fn from_image(x: &Var) -> Result<Var> {
    if fast(x.value()) { permute(x, [0, 2, 3, 1], [0, 3, 1, 2]) } else { Ok(x.clone()) }
}

/// A map as [batch, channels, height, width].
pub fn to_image(x: &Var) -> Result<Var> {
    if fast(x.value()) { permute(x, [0, 3, 1, 2], [0, 2, 3, 1]) } else { Ok(x.clone()) }
}

/// A map's pixels as tokens [batch, height · width, channels].
pub fn map_to_tokens(x: &Var) -> Result<Var> {
    let (b, c, h, w) = map_size(x)?;
    if fast(x.value()) {
        return super::reshape(x, (b, h * w, c));
    }
    let out = device::contiguous(&x.value().reshape((b, c, h * w))?.transpose(1, 2)?)?;
    Ok(Var::record(out, [x], move |grad, flow| {
        flow.add_with(0, || device::contiguous(&grad.transpose(1, 2)?)?.reshape((b, c, h, w)))
    }))
}

/// Tokens [batch, height · width, channels] as a map.
pub fn tokens_to_map(x: &Var, h: usize, w: usize) -> Result<Var> {
    let (b, n, c) = x.value().dims3()?;
    if fast(x.value()) {
        return super::reshape(x, (b, h, w, c));
    }
    let out = device::contiguous(&x.value().transpose(1, 2)?)?.reshape((b, c, h, w))?;
    Ok(Var::record(out, [x], move |grad, flow| {
        flow.add_with(0, || device::contiguous(&grad.reshape((b, c, n))?.transpose(1, 2)?))
    }))
}

/// The channels of `a`, then those of `b`.
pub fn concat_channels(a: &Var, b: &Var) -> Result<Var> {
    let ((batch, n, h, w), (batch_b, m, h_b, w_b)) = (map_size(a)?, map_size(b)?);
    if (batch, h, w) != (batch_b, h_b, w_b) || n == 0 || m == 0 {
        bail!("channels of {:?} beside those of {:?}", a.dims(), b.dims());
    }
    if !fast(a.value()) {
        let (x, y) = (a.value(), b.value());
        let out =
            call(Kind::Copy, &[x, y])
                .launches(2)
                .run((batch, n + m, h, w), x.dtype(), || Tensor::cat(&[x, y], 1))?;
        return Ok(Var::record(out, [a, b], move |grad, flow| {
            flow.add_with(0, || device::contiguous(&grad.narrow(1, 0, n)?))?;
            flow.add_with(1, || device::contiguous(&grad.narrow(1, n, m)?))
        }));
    }
    let (x, y) = (a.value().contiguous()?, b.value().contiguous()?);
    let out = tensor(kernel::concat(&slice(&x)?, n, &slice(&y)?, m), (batch, h, w, n + m), &x)?;
    Ok(Var::record(out, [a, b], move |grad, flow| {
        let grad = grad.contiguous()?;
        let part = |start, len| {
            let part = kernel::columns(&slice(&grad)?, n + m, start, len);
            tensor(part, (batch, h, w, len), &grad)
        };
        flow.add_with(0, || part(0, n))?;
        flow.add_with(1, || part(n, m))
    }))
}

/// Adds `v` [batch, channels] to every pixel.
pub fn add_per_channel(x: &Var, v: &Var) -> Result<Var> {
    let (b, c, h, w) = map_size(x)?;
    if v.dims() != [b, c] {
        bail!("{:?} added to the pixels of {b} images of {c} channels", v.dims());
    }
    if !fast(x.value()) {
        let (y, z) = (x.value(), v.value());
        let out =
            call(Kind::Sum, &[y, z]).run(y.shape(), y.dtype(), || device::add_bias(y, z, h * w))?;
        return Ok(Var::record(out, [x, v], move |grad, flow| {
            flow.add_with(1, || {
                call(Kind::Sum, &[&grad])
                    .run((b, c), grad.dtype(), || super::basic::sum_over(&grad, (2, 3)))
            })?;
            flow.add(0, grad)
        }));
    }
    let (y, z) = (x.value().contiguous()?, v.value().contiguous()?);
    let out = kernel::add_per_image(&slice(&y)?, &slice(&z)?, h * w, c);
    let out = tensor(out, (b, h, w, c), &y)?;
    Ok(Var::record(out, [x, v], move |grad, flow| {
        flow.add_with(1, || {
            let grad = grad.contiguous()?;
            tensor(kernel::sum_per_image(&slice(&grad)?, h * w, c), (b, c), &grad)
        })?;
        flow.add(0, grad)
    }))
}

/// Twice the height and width, each pixel four times.
pub fn upsample_nearest_2x(x: &Var) -> Result<Var> {
    let (b, c, h, w) = map_size(x)?;
    if !fast(x.value()) {
        let value = x.value();
        let out = call(Kind::Copy, &[value])
            .run((b, c, 2 * h, 2 * w), value.dtype(), || value.upsample_nearest2d(2 * h, 2 * w))?;
        return Ok(Var::record(out, [x], move |grad, flow| {
            flow.add_with(0, || {
                call(Kind::Copy, &[&grad]).run((b, c, h, w), grad.dtype(), || {
                    grad.reshape((b, c, h, 2, w, 2))?.sum((3, 5))
                })
            })
        }));
    }
    let value = x.value().contiguous()?;
    let out = kernel::upsample_2x(&slice(&value)?, w, c);
    let out = tensor(out, (b, 2 * h, 2 * w, c), &value)?;
    Ok(Var::record(out, [x], move |grad, flow| {
        flow.add_with(0, || {
            let grad = grad.contiguous()?;
            tensor(kernel::upsample_2x_backward(&slice(&grad)?, w, c), (b, h, w, c), &grad)
        })
    }))
}

/// The top left `height` × `width` pixels.
pub fn crop(x: &Var, height: usize, width: usize) -> Result<Var> {
    let (_, _, h, w) = map_size(x)?;
    if (h, w) == (height, width) {
        return Ok(x.clone());
    }
    let (rows, columns) = if fast(x.value()) { (1, 2) } else { (2, 3) };
    let out = device::contiguous(&x.value().narrow(rows, 0, height)?.narrow(columns, 0, width)?)?;
    Ok(Var::record(out, [x], move |grad, flow| {
        flow.add_with(0, || {
            device::pad(&device::pad(&grad, rows, 0, h - height)?, columns, 0, w - width)
        })
    }))
}

/// A kernel's result, where `like` is.
fn tensor(values: Vec<f32>, shape: impl Into<Shape>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), like.device())
}

fn permute(x: &Var, order: [usize; 4], inverse: [usize; 4]) -> Result<Var> {
    let out = x.value().permute(order)?.contiguous()?;
    Ok(Var::record(out, [x], move |grad, flow| {
        flow.add_with(0, || grad.permute(inverse)?.contiguous())
    }))
}
