use candle_core::{Result, Tensor};

use crate::nn::Var;

/// `y = x Wᵀ + b` on the last dimension: `x` [..., in], `w` [out, in], `b` [out].
pub fn linear(x: &Var, w: &Var, b: Option<&Var>) -> Result<Var> {
    let mut shape = x.dims().to_vec();
    let inputs = shape.pop().unwrap_or(1);
    let outputs = w.value().dim(0)?;
    shape.push(outputs);
    let rows = x.value().elem_count() / inputs.max(1);
    let x2 = x.value().reshape((rows, inputs))?;
    let w2 = w.value().clone();
    let mut out = x2.matmul(&w2.t()?)?;
    if let Some(b) = b {
        out = out.broadcast_add(b.value())?;
    }
    let x_shape = x.value().shape().clone();
    let absent = Var::constant(w.value().clone());
    let operands = [x, w, b.unwrap_or(&absent)];
    let needs_w = w.needs_grad();
    // A frozen weight's gradient is never formed, so its input need not be kept either.
    let x2 = needs_w.then_some(x2);
    Ok(Var::record(out.reshape(shape)?, operands, move |grad, flow| {
        let grad = grad.reshape((rows, outputs))?.contiguous()?;
        flow.add_with(0, || grad.matmul(&w2)?.reshape(x_shape))?;
        if let Some(x2) = x2 {
            flow.add_with(1, || grad.t()?.matmul(&x2))?;
        }
        flow.add_with(2, || sum_rows(&grad))
    }))
}

/// The sum over the first dimension of a matrix.
fn sum_rows(x: &Tensor) -> Result<Tensor> {
    x.sum(0)
}
