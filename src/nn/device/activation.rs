use candle_core::{D, DType, Result, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;
use super::tally::{Kind, call};
use crate::nn::ops::at_least_f32;

/// A function of each element, with its slope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x σ(x)`.
    Silu,
    /// `x Φ(x)`.
    Gelu,
    /// `x σ(1.702 x)`.
    QuickGelu,
}

impl Activation {
    /// σ's factor, for those that have it.
    const fn steepness(self) -> f64 {
        match self {
            Activation::QuickGelu => 1.702,
            _ => 1.0,
        }
    }

    pub(super) fn of(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Activation::Gelu => x.gelu_erf(),
            _ => x * sigmoid(x, self.steepness())?,
        }
    }

    pub(super) fn slope(self, x: &Tensor) -> Result<Tensor> {
        if self == Activation::Gelu {
            // Φ(x) + x φ(x)
            let density = ((x.sqr()? * -0.5)?.exp()? * (1.0 / std::f64::consts::TAU.sqrt()))?;
            return gaussian_integral(x)? + (x * density)?;
        }
        // σ + x σ' = σ (1 + c x (1 − σ))
        let (c, s) = (self.steepness(), sigmoid(x, self.steepness())?);
        &s * ((x * (s.affine(-c, c)?))? + 1.0)?
    }
}

/// `f` of each element.
pub fn activate(x: &Tensor, f: Activation) -> Result<Tensor> {
    call(Kind::Activation, &[x]).run(x.shape(), x.dtype(), || {
        #[cfg(feature = "cuda")]
        if cuda::takes(x) {
            return cuda::activate(x, f);
        }
        wide([x], |[x]| f.of(x))
    })
}

/// The gradient of [`activate`]'s operand.
pub fn activate_backward(x: &Tensor, grad: &Tensor, f: Activation) -> Result<Tensor> {
    call(Kind::Activation, &[x, grad]).run(x.shape(), x.dtype(), || {
        #[cfg(feature = "cuda")]
        if cuda::takes(x) {
            return cuda::activate_backward(x, grad, f);
        }
        wide([x, grad], |[x, grad]| grad * f.slope(x)?)
    })
}

/// `a · gelu(b)` of the halves of the last dimension.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let half = x.dim(D::Minus1)? / 2;
    *shape.last_mut().expect("has a last dimension") = half;
    call(Kind::Activation, &[x]).run(shape, x.dtype(), || {
        #[cfg(feature = "cuda")]
        if cuda::takes(x) {
            return cuda::geglu(x);
        }
        wide([x], |[x]| {
            x.narrow(D::Minus1, 0, half)?
                * x.narrow(D::Minus1, half, half)?.contiguous()?.gelu_erf()?
        })
    })
}

/// The gradient of [`geglu`]'s operand.
pub fn geglu_backward(x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    call(Kind::Activation, &[x, grad]).run(x.shape(), x.dtype(), || {
        #[cfg(feature = "cuda")]
        if cuda::takes(x) {
            return cuda::geglu_backward(x, grad);
        }
        wide([x, grad], |[x, grad]| {
            let half = x.dim(D::Minus1)? / 2;
            let a = x.narrow(D::Minus1, 0, half)?;
            let b = x.narrow(D::Minus1, half, half)?.contiguous()?;
            let (da, db) = (grad * b.gelu_erf()?, (grad * a)? * Activation::Gelu.slope(&b)?);
            Tensor::cat(&[da?, db?], D::Minus1)
        })
    })
}

/// `f` in at least f32, and the result in the operands' type.
fn wide<const N: usize>(
    x: [&Tensor; N],
    f: impl FnOnce([&Tensor; N]) -> Result<Tensor>,
) -> Result<Tensor> {
    let dtype: DType = x[0].dtype();
    let wide = at_least_f32(dtype);
    let converted: Vec<Tensor> = x.iter().map(|x| x.to_dtype(wide)).collect::<Result<_>>()?;
    f(std::array::from_fn(|i| &converted[i]))?.to_dtype(dtype)
}

/// `σ(c x)`.
fn sigmoid(x: &Tensor, c: f64) -> Result<Tensor> {
    ((x * -c)?.exp()? + 1.0)?.recip()
}

/// Φ.
fn gaussian_integral(x: &Tensor) -> Result<Tensor> {
    (x * std::f64::consts::FRAC_1_SQRT_2)?.erf()?.affine(0.5, 0.5)
}
