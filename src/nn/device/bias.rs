use candle_core::{Result, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;

/// `x` [..., `inner`] with one number of `b` added to each `inner` numbers, over and over: a bias of rows
/// with `inner` 1, of maps' channels with that of a map's pixels. candle's kernel for operands of
/// different shapes divides as its copies do.
pub fn add_bias(x: &Tensor, b: &Tensor, inner: usize) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::takes(x) && x.elem_count() <= i32::MAX as usize {
        return cuda::add_bias(x, b, inner);
    }
    let b = b.reshape((1, (), 1))?;
    x.reshape(((), b.dim(1)?, inner))?.broadcast_add(&b)?.reshape(x.shape())
}
