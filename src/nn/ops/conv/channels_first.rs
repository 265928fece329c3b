//! Convolutions of channels-first maps, on candle's operations.
//!
//! The gradients are forward convolutions and matrix products, for which GPUs have fast algorithms:
//! candle's transposed convolution is a loop for each output, and a kernel's gradient as a convolution
//! has a kernel of the map's size.

use candle_core::{Result, Tensor};

use crate::nn::device::{self, Kind, call};
use crate::nn::kernels::conv::Geometry;
use crate::nn::ops::basic::sum_over;
use crate::nn::{Param, Var, flops};

/// Numbers of unrolled pixels that are held at a time: 512 MiB in f32.
const COLUMNS: usize = 1 << 27;

/// `w` and `b` are those of `kernel` and the bias in the type of `x`.
pub(super) fn conv2d(x: &Var, kernel: &Param, w: &Var, b: &Var, g: Geometry) -> Result<Var> {
    let input = device::contiguous(x.value())?;
    let weight = w.value().clone();
    let conv = Conv { g, weight: weight.clone() };
    let out = add_bias(conv.forward(&input)?, b.value())?;
    // Kept while the kernel is frozen; one that is trained is another in each step.
    let turned = (conv.needs_turning() && x.needs_grad() && !kernel.trainable())
        .then(|| kernel.turned(|| device::turn(&weight)))
        .transpose()?;
    // A frozen kernel's gradient is never formed, so the input need not be kept either.
    let kept = w.needs_grad().then_some(input);
    Ok(Var::record(out, [x, w, b], move |grad, flow| {
        let grad = device::contiguous(&grad)?;
        flow.add_with(0, || conv.input_gradient(&grad, turned))?;
        if let Some(input) = kept {
            flow.add_with(1, || conv.kernel_gradient(&input, &grad))?;
        }
        flow.add_with(2, || {
            call(Kind::Convolution, &[&grad])
                .run(g.outputs, grad.dtype(), || sum_over(&grad, (0, 2, 3)))
        })
    }))
}

struct Conv {
    g: Geometry,
    /// [out, in, size, size].
    weight: Tensor,
}

impl Conv {
    fn products(&self) -> usize {
        self.g.batch * self.g.out_height * self.g.out_width * self.weight.elem_count()
    }

    /// Whether it is a matrix product for each image.
    fn is_pointwise(&self) -> bool {
        self.g.is_pointwise()
    }

    fn needs_turning(&self) -> bool {
        !self.is_pointwise()
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        flops::add(self.products());
        let g = &self.g;
        if self.is_pointwise() {
            return self.pointwise(&self.weight.reshape((g.outputs, g.inputs))?, x);
        }
        let after = |out: usize, len: usize| {
            ((out - 1) * g.stride + g.size) as isize - (g.before + len) as isize
        };
        let before = g.before as isize;
        let rows = [before, after(g.out_height, g.height)];
        let columns = [before, after(g.out_width, g.width)];
        self.convolution(x, rows, columns, &self.weight, g.stride)
    }

    /// `m` applied to the channels of every pixel.
    fn pointwise(&self, m: &Tensor, x: &Tensor) -> Result<Tensor> {
        let (batch, inputs, h, w) = x.dims4()?;
        let outputs = m.dim(0)?;
        let pixels = x.reshape((batch, inputs, h * w))?;
        let out = call(Kind::Convolution, &[&pixels, m]).products(self.products()).run(
            (batch, outputs, h * w),
            x.dtype(),
            || m.broadcast_as((batch, outputs, inputs))?.matmul(&pixels),
        )?;
        out.reshape((batch, outputs, h, w))
    }

    /// Of `x` with zeros around, or cut, by `kernel`.
    fn convolution(
        &self,
        x: &Tensor,
        rows: [isize; 2],
        columns: [isize; 2],
        kernel: &Tensor,
        stride: usize,
    ) -> Result<Tensor> {
        // A stride may leave rows and columns over at the end: zeros there are not seen either.
        let even = |[before, after]: [isize; 2], side: isize| {
            before == side && (after..after + stride as isize).contains(&side)
        };
        let side = rows[0];
        let (x, padding) = if side >= 0 && even(rows, side) && even(columns, side) {
            (x.clone(), side as usize)
        } else {
            (device::pad_map(x, rows, columns)?, 0)
        };
        let (batch, _, h, w) = x.dims4()?;
        let (outputs, _, size, _) = kernel.dims4()?;
        let out = |len: usize| (len + 2 * padding - size) / stride + 1;
        let products = batch * out(h) * out(w) * kernel.elem_count();
        call(Kind::Convolution, &[&x, kernel]).products(products).run(
            (batch, outputs, out(h), out(w)),
            x.dtype(),
            || device::conv2d(&x, kernel, padding, stride),
        )
    }

    fn input_gradient(&self, dy: &Tensor, turned: Option<Tensor>) -> Result<Tensor> {
        flops::add(self.products());
        let g = &self.g;
        if self.is_pointwise() {
            return self.pointwise(&self.weight.reshape((g.outputs, g.inputs))?.t()?, dy);
        }
        let turned = turned.map_or_else(|| device::turn(&self.weight), Ok)?;
        let dy = spread(dy, g.stride)?;
        let (_, _, h, w) = dy.dims4()?;
        let before = g.size as isize - 1 - g.before as isize;
        let sides = |len: usize, spread: usize| {
            [before, (len + g.size - 1) as isize - before - spread as isize]
        };
        self.convolution(&dy, sides(g.height, h), sides(g.width, w), &turned, 1)
    }

    fn kernel_gradient(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        flops::add(self.products());
        let g = &self.g;
        let pixels = g.out_height * g.out_width;
        let shape = self.weight.shape();
        if self.is_pointwise() {
            let dy = dy.reshape((g.batch, g.outputs, pixels))?;
            let x = x.reshape((g.batch, g.inputs, pixels))?;
            let each = call(Kind::Convolution, &[&dy, &x]).products(self.products()).run(
                (g.batch, g.outputs, g.inputs),
                x.dtype(),
                || dy.matmul(&x.transpose(1, 2)?),
            )?;
            return call(Kind::Convolution, &[&each])
                .run((g.outputs, g.inputs), x.dtype(), || sum_over(&each, 0))?
                .reshape(shape);
        }
        let places = g.inputs * g.size * g.size;
        let images = (COLUMNS / (places * pixels)).clamp(1, g.batch.max(1));
        let mut sum: Option<Tensor> = None;
        for first in (0..g.batch).step_by(images) {
            let images = first..g.batch.min(first + images);
            let seen = device::columns(x, g, images.clone())?;
            let dy = dy.narrow(0, first, images.len())?.transpose(0, 1)?;
            let dy = device::contiguous(&dy)?.reshape((g.outputs, images.len() * pixels))?;
            let products = dy.elem_count() * places;
            let part = call(Kind::Convolution, &[&dy, &seen]).products(products).run(
                (g.outputs, places),
                x.dtype(),
                || dy.matmul(&seen.t()?),
            )?;
            sum = Some(match sum {
                Some(sum) => crate::nn::ops::basic::sum(&sum, &part)?,
                None => part,
            });
        }
        match sum {
            Some(sum) => sum.reshape(shape),
            None => self.weight.zeros_like(),
        }
    }
}

/// With zeros after each pixel, to the right and below, so that there are `n` times as many both ways.
fn spread(x: &Tensor, n: usize) -> Result<Tensor> {
    if n == 1 {
        return Ok(x.clone());
    }
    let (batch, channels, h, w) = x.dims4()?;
    let right = device::pad(&x.reshape((batch, channels * h, w, 1))?, 3, 0, n - 1)?;
    let below = device::pad(&right.reshape((batch, channels * h, 1, w * n))?, 2, 0, n - 1)?;
    below.reshape((batch, channels, h * n, w * n))
}

fn add_bias(x: Tensor, bias: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    call(Kind::Convolution, &[&x, bias])
        .run(x.shape(), x.dtype(), || device::add_bias(&x, bias, h * w))
}
