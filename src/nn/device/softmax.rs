use candle_core::{D, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

#[cfg(feature = "cuda")]
use super::cuda;
use crate::nn::ops::at_least_f32;

/// The softmax of the last dimension, in at least f32 inside (candle's kernel for half precision rounds
/// each exponential and the factor of the row).
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::takes(x) {
        return cuda::softmax(x);
    }
    let wide = x.to_dtype(at_least_f32(x.dtype()))?;
    softmax_last_dim(&wide)?.to_dtype(x.dtype())
}

/// The gradient of [`softmax`]'s operand, from its result: `p ∘ (∂p − Σ p ∘ ∂p)`.
pub fn softmax_backward(p: &Tensor, grad: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::takes(p) {
        return cuda::softmax_backward(p, grad);
    }
    let dtype = at_least_f32(p.dtype());
    let (wide, grad) = (p.to_dtype(dtype)?, grad.to_dtype(dtype)?);
    let along = (&wide * &grad)?.sum_keepdim(D::Minus1)?;
    (wide * grad.broadcast_sub(&along)?)?.to_dtype(p.dtype())
}
