use candle_core::shape::Dims;
use candle_core::{D, DType, Result, Shape, Tensor};

use crate::nn::Var;
use crate::nn::backend::fast;
use crate::nn::device::{self, Kind, call};
use crate::nn::kernels::activation::zip;
use crate::nn::kernels::buffer::slice;

/// `a + b`, of the same shape.
pub fn add(a: &Var, b: &Var) -> Result<Var> {
    let out = sum(a.value(), b.value())?;
    Ok(Var::record(out, [a, b], |grad, flow| {
        flow.add(0, grad.clone())?;
        flow.add(1, grad)
    }))
}

/// `a − b`, of the same shape.
pub fn sub(a: &Var, b: &Var) -> Result<Var> {
    let (x, y) = (a.value(), b.value());
    let out = call(Kind::Sum, &[x, y]).run(x.shape(), x.dtype(), || x.sub(y))?;
    Ok(Var::record(out, [a, b], |grad, flow| {
        flow.add_with(1, || {
            call(Kind::Sum, &[&grad]).run(grad.shape(), grad.dtype(), || grad.neg())
        })?;
        flow.add(0, grad)
    }))
}

/// The elementwise product, of the same shape.
pub fn mul(a: &Var, b: &Var) -> Result<Var> {
    let (x, y) = (a.value().clone(), b.value().clone());
    let out = product(&x, &y)?;
    Ok(Var::record(out, [a, b], move |grad, flow| {
        flow.add_with(0, || product(&grad, &y))?;
        flow.add_with(1, || product(&grad, &x))
    }))
}

/// `x · factor`.
pub fn scale(x: &Var, factor: f64) -> Result<Var> {
    let scaled = move |x: &Tensor| call(Kind::Sum, &[x]).run(x.shape(), x.dtype(), || x * factor);
    let out = scaled(x.value())?;
    Ok(Var::record(out, [x], move |grad, flow| flow.add_with(0, || scaled(&grad))))
}

/// The sum over dimensions, of f16 in f32: candle's kernels add up in the type.
pub(in crate::nn) fn sum_over(x: &Tensor, dims: impl Dims) -> Result<Tensor> {
    match x.dtype() {
        DType::F16 => x.to_dtype(DType::F32)?.sum(dims)?.to_dtype(DType::F16),
        _ => x.sum(dims),
    }
}

/// `a + b` without history.
pub(in crate::nn) fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !fast(a) || a.shape() != b.shape() {
        return call(Kind::Sum, &[a, b]).run(a.shape(), a.dtype(), || a.add(b));
    }
    elementwise(
        a,
        b,
        #[inline(always)]
        |a, b| a + b,
    )
}

fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !fast(a) || a.shape() != b.shape() {
        return call(Kind::Sum, &[a, b]).run(a.shape(), a.dtype(), || a.mul(b));
    }
    elementwise(
        a,
        b,
        #[inline(always)]
        |a, b| a * b,
    )
}

fn elementwise(
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(f32, f32) -> f32 + Copy + Send + Sync,
) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    Tensor::from_vec(zip(&slice(&a)?, &slice(&b)?, f), a.shape(), a.device())
}

/// The same elements under another shape.
pub fn reshape(x: &Var, shape: impl Into<Shape>) -> Result<Var> {
    let from = x.value().shape().clone();
    let out = x.value().reshape(shape.into())?;
    Ok(Var::record(out, [x], move |grad, flow| flow.add_with(0, || grad.reshape(from))))
}

/// Elements `start..start + len` of the last dimension.
pub fn narrow(x: &Var, start: usize, len: usize) -> Result<Var> {
    let width = x.value().dim(D::Minus1)?;
    let out = device::contiguous(&x.value().narrow(D::Minus1, start, len)?)?;
    Ok(Var::record(out, [x], move |grad, flow| {
        flow.add_with(0, || device::pad(&grad, grad.rank() - 1, start, width - start - len))
    }))
}

/// Rows `ids` (u32) of a table [rows, width]; the gradient adds up over equal ids.
pub fn index_select(table: &Var, ids: &Tensor) -> Result<Var> {
    let ids = ids.clone();
    let shape = table.value().shape().clone();
    let (rows, width) = (ids.elem_count(), table.value().dim(1)?);
    let dtype = table.value().dtype();
    // of the table, only the rows that are read
    let reads = table.value().narrow(0, 0, rows.min(table.value().dim(0)?))?;
    let out = call(Kind::Copy, &[&reads])
        .run((rows, width), dtype, || table.value().index_select(&ids, 0))?;
    Ok(Var::record(out, [table], move |grad, flow| {
        flow.add_with(0, || {
            // zeros, a copy of them, and the sum
            call(Kind::Copy, &[&grad]).launches(3).run(&shape, grad.dtype(), || {
                let zeros = Tensor::zeros(&shape, grad.dtype(), grad.device())?;
                zeros.index_add(&ids, &grad.contiguous()?, 0)
            })
        })
    }))
}

/// Converts to another float type.
pub fn to_dtype(x: &Var, dtype: DType) -> Result<Var> {
    let from = x.value().dtype();
    if from == dtype {
        return Ok(x.clone());
    }
    let out = device::to_dtype(x.value(), dtype)?;
    Ok(Var::record(out, [x], move |grad, flow| flow.add_with(0, || device::to_dtype(&grad, from))))
}

/// The same tokens [batch, length, width]; no gradient flows into the first of each.
pub fn detach_first_token(x: &Var) -> Result<Var> {
    Ok(Var::record(x.value().clone(), [x], |grad, flow| {
        flow.add_with(0, || {
            let length = grad.dim(1)?;
            device::pad(&grad.narrow(1, 1, length - 1)?, 1, 1, 0)
        })
    }))
}

/// The type for statistics of numbers of `dtype`: half precision has too few digits.
pub(in crate::nn) fn at_least_f32(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        wide => wide,
    }
}
