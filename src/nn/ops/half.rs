//! Half precision where candle's CPU device has no convolution of it: for tests of what a GPU computes.

use candle_core::{DType, Result};

use super::to_dtype;
use crate::nn::{Var, device};

/// `f` of `inputs`, in f32 where they are bf16 on the CPU: products are summed in f32 on a GPU, too.
pub(super) fn widened_on_cpu<const N: usize>(
    inputs: [&Var; N],
    f: impl FnOnce([&Var; N]) -> Result<Var>,
) -> Result<Var> {
    let first = inputs[0].value();
    // what is counted is what a GPU would do
    if !first.device().is_cpu() || first.dtype() != DType::BF16 || device::counting() {
        return f(inputs);
    }
    let mut wide = inputs.map(Var::clone);
    for input in &mut wide {
        *input = to_dtype(input, DType::F32)?;
    }
    to_dtype(&f(wide.each_ref())?, DType::BF16)
}
