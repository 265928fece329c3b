use candle_core::{D, DType, Result, Shape, Tensor};

use crate::nn::Var;
use crate::nn::backend::fast;
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
    let out = a.value().sub(b.value())?;
    Ok(Var::record(out, [a, b], |grad, flow| {
        flow.add_with(1, || grad.neg())?;
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
    let out = (x.value() * factor)?;
    Ok(Var::record(out, [x], move |grad, flow| flow.add_with(0, || grad * factor)))
}

/// `a + b` without history.
pub(in crate::nn) fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !fast(a) || a.shape() != b.shape() {
        return a.add(b);
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
        return a.mul(b);
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
    let out = x.value().narrow(D::Minus1, start, len)?.contiguous()?;
    Ok(Var::record(out, [x], move |grad, flow| {
        flow.add_with(0, || {
            grad.pad_with_zeros(D::Minus1, start, width - start - len)?.contiguous()
        })
    }))
}

/// Rows `ids` (u32) of a table [rows, width]; the gradient adds up over equal ids.
pub fn index_select(table: &Var, ids: &Tensor) -> Result<Var> {
    let ids = ids.clone();
    let shape = table.value().shape().clone();
    let out = table.value().index_select(&ids, 0)?;
    Ok(Var::record(out, [table], move |grad, flow| {
        flow.add_with(0, || {
            Tensor::zeros(shape, grad.dtype(), grad.device())?.index_add(
                &ids,
                &grad.contiguous()?,
                0,
            )
        })
    }))
}

/// Converts to another float type.
pub fn to_dtype(x: &Var, dtype: DType) -> Result<Var> {
    let from = x.value().dtype();
    if from == dtype {
        return Ok(x.clone());
    }
    let out = x.value().to_dtype(dtype)?;
    Ok(Var::record(out, [x], move |grad, flow| flow.add_with(0, || grad.to_dtype(from))))
}

/// The same tokens [batch, length, width]; no gradient flows into the first of each.
pub fn detach_first_token(x: &Var) -> Result<Var> {
    Ok(Var::record(x.value().clone(), [x], |grad, flow| {
        flow.add_with(0, || {
            let length = grad.dim(1)?;
            grad.narrow(1, 1, length - 1)?.pad_with_zeros(1, 1, 0)?.contiguous()
        })
    }))
}

/// The type for statistics of numbers of `dtype`: half precision has too few digits.
pub(super) fn at_least_f32(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        wide => wide,
    }
}
