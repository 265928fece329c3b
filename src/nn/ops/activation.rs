use candle_core::{D, Result};

use super::composed;
use crate::nn::Var;

/// `x σ(x)`.
pub fn silu(x: &Var) -> Result<Var> {
    composed([x], |[x]| x * sigmoid(x)?)
}

/// `x Φ(x)`, exact.
pub fn gelu(x: &Var) -> Result<Var> {
    composed([x], |[x]| x.gelu_erf())
}

/// `x σ(1.702 x)`, CLIP's approximation of gelu.
pub fn quick_gelu(x: &Var) -> Result<Var> {
    composed([x], |[x]| x * sigmoid(&(x * 1.702)?)?)
}

/// `a · gelu(b)`, where `a` and `b` are the halves of the last dimension (Shazeer 2020,
/// arXiv:2002.05202).
pub fn geglu(x: &Var) -> Result<Var> {
    composed([x], |[x]| {
        let half = x.dim(D::Minus1)? / 2;
        x.narrow(D::Minus1, 0, half)? * x.narrow(D::Minus1, half, half)?.contiguous()?.gelu_erf()?
    })
}

fn sigmoid(x: &candle_core::Tensor) -> Result<candle_core::Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}
