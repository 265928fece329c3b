use super::buffer::uninit;
use super::simd::{assign, exp, normal, sigmoid, vectorised};
use crate::nn::parallel::pieces_mut;

/// Numbers per piece of work: 64 KiB, so that operands stay in the second-level cache.
const GRAIN: usize = 1 << 14;

/// `x σ(x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// The derivative of [`silu`].
#[inline(always)]
pub fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s * x.mul_add(1.0 - s, 1.0)
}

/// `x σ(1.702 x)`.
#[inline(always)]
pub fn quick_gelu(x: f32) -> f32 {
    x / (1.0 + exp(-1.702 * x))
}

/// The derivative of [`quick_gelu`].
#[inline(always)]
pub fn quick_gelu_slope(x: f32) -> f32 {
    let s = sigmoid(1.702 * x);
    s * (1.702 * x).mul_add(1.0 - s, 1.0)
}

/// `x Φ(x)`.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    x * normal(x).0
}

/// [`gelu`] and its derivative.
#[inline(always)]
pub fn gelu_and_slope(x: f32) -> (f32, f32) {
    let (cdf, density) = normal(x);
    (x * cdf, x.mul_add(density, cdf))
}

/// `f` of each number. `f` must be `#[inline(always)]`.
pub fn map(x: &[f32], f: impl Fn(f32) -> f32 + Copy + Send + Sync) -> Vec<f32> {
    let mut out = uninit(x.len());
    pieces_mut(&mut out, GRAIN, |i, out| {
        let x = &x[i * GRAIN..][..out.len()];
        vectorised(
            #[inline(always)]
            || {
                assign(
                    out,
                    [x],
                    #[inline(always)]
                    |[x]| f(x),
                )
            },
        );
    });
    out
}

/// `f` of each pair of numbers. `f` must be `#[inline(always)]`.
pub fn zip(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32 + Copy + Send + Sync) -> Vec<f32> {
    assert_eq!(x.len(), y.len());
    let mut out = uninit(x.len());
    pieces_mut(&mut out, GRAIN, |i, out| {
        let x = &x[i * GRAIN..][..out.len()];
        let y = &y[i * GRAIN..][..out.len()];
        vectorised(
            #[inline(always)]
            || {
                assign(
                    out,
                    [x, y],
                    #[inline(always)]
                    |[x, y]| f(x, y),
                )
            },
        );
    });
    out
}

/// `a · gelu(b)` for rows of `a` then `b`, each of `half` numbers.
pub fn geglu(x: &[f32], half: usize) -> Vec<f32> {
    let rows = GRAIN.div_ceil(half.max(1));
    let mut out = uninit(x.len() / 2);
    pieces_mut(&mut out, rows * half, |i, out| {
        let x = &x[2 * i * rows * half..][..2 * out.len()];
        vectorised(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_exact_mut(half).zip(x.chunks_exact(2 * half)) {
                    let (a, b) = x.split_at(half);
                    assign(
                        out,
                        [a, b],
                        #[inline(always)]
                        |[a, b]| a * gelu(b),
                    );
                }
            },
        );
    });
    out
}

/// The gradient of [`geglu`] at `x`, where that of its result is `grad`.
pub fn geglu_backward(x: &[f32], grad: &[f32], half: usize) -> Vec<f32> {
    let rows = GRAIN.div_ceil(half.max(1));
    let mut out = uninit(x.len());
    pieces_mut(&mut out, 2 * rows * half, |i, out| {
        let x = &x[2 * i * rows * half..][..out.len()];
        let grad = &grad[i * rows * half..][..out.len() / 2];
        vectorised(
            #[inline(always)]
            || {
                let rows = out.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half));
                for ((out, x), grad) in rows.zip(grad.chunks_exact(half)) {
                    let (a, b) = x.split_at(half);
                    let (da, db) = out.split_at_mut(half);
                    let (a, b, grad) = (&a[..half], &b[..half], &grad[..half]);
                    let (da, db) = (&mut da[..half], &mut db[..half]);
                    for i in 0..half {
                        let (y, slope) = gelu_and_slope(b[i]);
                        da[i] = grad[i] * y;
                        db[i] = grad[i] * a[i] * slope;
                    }
                }
            },
        );
    });
    out
}
