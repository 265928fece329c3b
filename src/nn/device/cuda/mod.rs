//! Launches of the kernels in `kernels.cu` and `attention.cu`. Operands are contiguous, on one CUDA device.

mod attention;
mod launch;

use candle_core::{D, DType, Result, Shape, Tensor};

pub use self::attention::{attention, attention_backward};
use self::launch::{Code, Grid, Number, THREADS, address, empty, like, pointer};
use super::activation::Activation;
use super::copy::View;
use super::update::Factors;
use crate::nn::kernels::conv::Geometry;

const KERNELS: Code =
    Code { module: "cdbench", ptx: include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx")) };

/// Whether there are kernels for this tensor.
pub fn takes(x: &Tensor) -> bool {
    x.device().is_cuda() && matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16)
}

pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<[Tensor; 2]> {
    let (batch, channels, h, w) = x.dims4()?;
    let y = empty(x.shape(), x.dtype(), x)?;
    let moments = empty((batch, groups, 2), DType::F32, x)?;
    let grid = Grid { blocks: [batch * groups, 1], threads: 512 };
    let tensors = [x, &like(weight, x)?, &like(bias, x)?, &y, &moments];
    let sizes = [groups, channels, h * w, usize::from(silu)].map(Number::Int);
    KERNELS.launch("group_norm", grid, &tensors, &[&sizes[..], &[Number::Float(eps)]].concat())?;
    Ok([y, moments])
}

pub fn group_norm_sums(
    x: &Tensor,
    moments: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    grad: &Tensor,
    silu: bool,
) -> Result<Tensor> {
    let (batch, channels, _, _) = x.dims4()?;
    let sums = empty((batch, 2 * channels), DType::F32, x)?;
    let (weight, bias, grad) = (like(weight, x)?, like(bias, x)?, like(grad, x)?);
    let tensors = [x, moments, &weight, &bias, &grad, &sums];
    per_channel("group_norm_sums", x, moments, &tensors, silu)?;
    Ok(sums)
}

pub fn group_norm_backward(
    x: &Tensor,
    moments: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    grad: &Tensor,
    sums: &Tensor,
    silu: bool,
) -> Result<Tensor> {
    let dx = empty(x.shape(), x.dtype(), x)?;
    let (weight, bias, grad) = (like(weight, x)?, like(bias, x)?, like(grad, x)?);
    let tensors = [x, moments, &weight, &bias, &grad, sums, &dx];
    per_channel("group_norm_backward", x, moments, &tensors, silu)?;
    Ok(dx)
}

/// A kernel of a group norm with a block for each image and channel.
fn per_channel(
    name: &str,
    x: &Tensor,
    moments: &Tensor,
    tensors: &[&Tensor],
    silu: bool,
) -> Result<()> {
    let (batch, channels, h, w) = x.dims4()?;
    let (pixels, groups) = (h * w, moments.dim(1)?);
    let threads = pixels.next_multiple_of(32).min(THREADS);
    let sizes = [groups, channels, pixels, usize::from(silu)].map(Number::Int);
    KERNELS.launch(name, Grid { blocks: [batch * channels, 1], threads }, tensors, &sizes)
}

pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<[Tensor; 2]> {
    let (rows, width) = x.dims2()?;
    let y = empty(x.shape(), x.dtype(), x)?;
    let moments = empty((rows, 2), DType::F32, x)?;
    let tensors = [x, &like(weight, x)?, &like(bias, x)?, &y, &moments];
    let numbers = [Number::Int(rows), Number::Int(width), Number::Float(eps)];
    KERNELS.launch("layer_norm", Grid::warps(rows), &tensors, &numbers)?;
    Ok([y, moments])
}

pub fn layer_norm_backward(
    x: &Tensor,
    moments: &Tensor,
    weight: &Tensor,
    grad: &Tensor,
) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let dx = empty(x.shape(), x.dtype(), x)?;
    let tensors = [x, moments, &like(weight, x)?, &like(grad, x)?, &dx];
    let numbers = [rows, width].map(Number::Int);
    KERNELS.launch("layer_norm_backward", Grid::warps(rows), &tensors, &numbers)?;
    Ok(dx)
}

pub fn layer_norm_sums(
    x: &Tensor,
    moments: &Tensor,
    grad: &Tensor,
    chunk: usize,
) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let chunks = rows.div_ceil(chunk);
    let sums = empty((chunks, 2 * width), DType::F32, x)?;
    let grid = Grid { blocks: [width.div_ceil(32), chunks], threads: 256 };
    let tensors = [x, moments, &like(grad, x)?, &sums];
    KERNELS.launch("layer_norm_sums", grid, &tensors, &[rows, width, chunk].map(Number::Int))?;
    Ok(sums)
}

pub fn activate(x: &Tensor, f: Activation) -> Result<Tensor> {
    let x = x.contiguous()?;
    let y = empty(x.shape(), x.dtype(), &x)?;
    let count = x.elem_count();
    KERNELS.launch(
        "activate",
        Grid::elements(count),
        &[&x, &y],
        &[code(f), Number::Long(count)],
    )?;
    Ok(y)
}

pub fn activate_backward(x: &Tensor, grad: &Tensor, f: Activation) -> Result<Tensor> {
    let x = x.contiguous()?;
    let dx = empty(x.shape(), x.dtype(), &x)?;
    let count = x.elem_count();
    let (grid, tensors) = (Grid::elements(count), [&x, &like(grad, &x)?, &dx]);
    KERNELS.launch("activate_backward", grid, &tensors, &[code(f), Number::Long(count)])?;
    Ok(dx)
}

fn code(f: Activation) -> Number {
    Number::Int(match f {
        Activation::Silu => 0,
        Activation::Gelu => 1,
        Activation::QuickGelu => 2,
    })
}

pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let half = x.dim(D::Minus1)? / 2;
    let mut shape = x.dims().to_vec();
    *shape.last_mut().expect("has a last dimension") = half;
    let y = empty(shape, x.dtype(), &x)?;
    KERNELS.launch("geglu", Grid::rows(&x, half), &[&x, &y], &[Number::Int(half)])?;
    Ok(y)
}

pub fn geglu_backward(x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let half = x.dim(D::Minus1)? / 2;
    let dx = empty(x.shape(), x.dtype(), &x)?;
    let tensors = [&x, &like(grad, &x)?, &dx];
    KERNELS.launch("geglu_backward", Grid::rows(&x, half), &tensors, &[Number::Int(half)])?;
    Ok(dx)
}

/// `softmax` of rows, a warp each.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (rows, width) = rows(&x)?;
    let y = empty(x.shape(), x.dtype(), &x)?;
    KERNELS.launch("softmax", Grid::warps(rows), &[&x, &y], &[rows, width].map(Number::Int))?;
    Ok(y)
}

pub fn softmax_backward(p: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let p = p.contiguous()?;
    let (rows, width) = rows(&p)?;
    let dx = empty(p.shape(), p.dtype(), &p)?;
    let (tensors, sizes) = ([&p, &like(grad, &p)?, &dx], [rows, width].map(Number::Int));
    KERNELS.launch("softmax_backward", Grid::warps(rows), &tensors, &sizes)?;
    Ok(dx)
}

/// How many rows, and how long they are.
fn rows(x: &Tensor) -> Result<(usize, usize)> {
    let width = x.dim(D::Minus1)?;
    Ok((x.elem_count() / width.max(1), width))
}

/// One number of `b` added to each `inner` numbers of `x`, of which there are no more than an i32 counts.
pub fn add_bias(x: &Tensor, b: &Tensor, inner: usize) -> Result<Tensor> {
    let x = x.contiguous()?;
    let y = empty(x.shape(), x.dtype(), &x)?;
    let numbers = [x.elem_count(), inner, b.elem_count()].map(Number::Int);
    KERNELS.launch(
        "add_bias",
        Grid::elements(x.elem_count()),
        &[&x, &like(b, &x)?, &y],
        &numbers,
    )?;
    Ok(y)
}

/// What `view` shows of `x`, in order.
pub fn copy(x: &Tensor, view: &View, shape: &Shape) -> Result<Tensor> {
    let y = empty(shape, x.dtype(), x)?;
    let [a, b, c, d] = view.sizes;
    let mut numbers = [a * b * c * d, b, c, d, view.start].map(Number::Int).to_vec();
    numbers.extend(view.strides.map(Number::Signed));
    let grid = Grid::elements(y.elem_count());
    KERNELS.launch_at("copy", grid, &y, &[address(x)?, pointer(&y)?], &numbers)?;
    Ok(y)
}

pub fn columns(x: &Tensor, g: &Geometry) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (batch, channels, height, width) = x.dims4()?;
    let pixels = batch * g.out_height * g.out_width;
    let places = channels * g.size * g.size;
    let y = empty((places, pixels), x.dtype(), &x)?;
    let grid = Grid { blocks: [pixels.div_ceil(THREADS), places], threads: THREADS };
    let sizes = [batch, channels, height, width, g.size, g.stride, g.before];
    let sizes = [&sizes[..], &[g.out_height, g.out_width]].concat();
    let sizes: Vec<Number> = sizes.into_iter().map(Number::Int).collect();
    KERNELS.launch("columns", grid, &[&x, &y], &sizes)?;
    Ok(y)
}

/// Writes to `p`, `m` and `v`.
pub fn adamw(p: &Tensor, grad: &Tensor, m: &Tensor, v: &Tensor, f: Factors) -> Result<()> {
    let count = p.elem_count();
    let mut numbers = vec![Number::Long(count)];
    numbers.extend(
        [f.grad, f.keep, f.one_minus_beta1, f.beta2, f.one_minus_beta2, f.root, f.eps, f.step]
            .map(|x| Number::Float(x.into())),
    );
    KERNELS.launch("adamw", Grid::elements(count), &[p, &like(grad, p)?, m, v], &numbers)
}

/// The sums of the squares of `parts` parts of each tensor.
pub fn squares(tensors: &[&Tensor], parts: usize) -> Result<Tensor> {
    let sums = empty((tensors.len(), parts), DType::F32, tensors[0])?;
    for (i, x) in tensors.iter().enumerate() {
        let (x, sums) = (like(x, &sums)?, sums.get(i)?);
        let grid = Grid { blocks: [parts, 1], threads: THREADS };
        KERNELS.launch("squares", grid, &[&x, &sums], &[Number::Long(x.elem_count())])?;
    }
    Ok(sums)
}
