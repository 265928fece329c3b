//! The small linear maps of Winograd's algorithms F(2×2, 3×3) and F(4×4, 3×3) (Lavin & Gray 2016,
//! arXiv:1509.09308, section 4), applied to both dimensions of a tile, all channels at once.

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};
use std::marker::PhantomData;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

/// A linear map from P to Q numbers.
pub trait Map<const P: usize, const Q: usize> {
    /// The map, on vectors of channels.
    fn apply<S: Simd>(simd: S, x: [S::f32s; P]) -> [S::f32s; Q];
}

/// The maps between Q pixels of the output, P = Q + 2 of the input, 3 taps, and P points.
pub trait Algorithm<const P: usize, const Q: usize> {
    /// Bᵀ: pixels of the input at the points.
    type Input: Map<P, P>;
    /// Aᵀ: products at the points as pixels of the output.
    type Output: Map<P, Q>;
    /// A: what the gradient of the output's pixels is at the points.
    type OutputGradient: Map<Q, P>;
    /// G: taps of the kernel at the points.
    type Kernel: Map<3, P>;
    /// Gᵀ: gradients at the points as those of the kernel's taps.
    type KernelGradient: Map<P, 3>;
}

/// The points 0, ±1, ∞.
pub struct Two;

impl Algorithm<4, 2> for Two {
    type Input = Input;
    type Output = Output;
    type OutputGradient = OutputGradient;
    type Kernel = Kernel;
    type KernelGradient = KernelGradient;
}

/// The points 0, ±1/√2, ±√2, ∞: the maps to and from these enlarge rounding errors least.
pub struct Four;

impl Algorithm<6, 4> for Four {
    type Input = Input;
    type Output = Output;
    type OutputGradient = OutputGradient;
    type Kernel = Kernel;
    type KernelGradient = KernelGradient;
}

/// [`Algorithm::Input`].
pub struct Input;

impl Map<4, 4> for Input {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> [S::f32s; 4] {
        [simd.sub_f32s(a, c), simd.add_f32s(b, c), simd.sub_f32s(c, b), simd.sub_f32s(b, d)]
    }
}

/// [`Algorithm::Output`].
pub struct Output;

impl Map<4, 2> for Output {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> [S::f32s; 2] {
        let (sum, difference) = (simd.add_f32s(b, c), simd.sub_f32s(b, c));
        [simd.add_f32s(a, sum), simd.sub_f32s(difference, d)]
    }
}

/// [`Algorithm::OutputGradient`].
pub struct OutputGradient;

impl Map<2, 4> for OutputGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [a, b]: [S::f32s; 2]) -> [S::f32s; 4] {
        [a, simd.add_f32s(a, b), simd.sub_f32s(a, b), simd.neg_f32s(b)]
    }
}

/// [`Algorithm::Kernel`].
pub struct Kernel;

impl Map<3, 4> for Kernel {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [a, b, c]: [S::f32s; 3]) -> [S::f32s; 4] {
        let half = simd.splat_f32s(0.5);
        let (outer, b) = (simd.mul_f32s(simd.add_f32s(a, c), half), simd.mul_f32s(b, half));
        [a, simd.add_f32s(outer, b), simd.sub_f32s(outer, b), c]
    }
}

/// [`Algorithm::KernelGradient`].
pub struct KernelGradient;

impl Map<4, 3> for KernelGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> [S::f32s; 3] {
        let half = simd.splat_f32s(0.5);
        let sum = simd.mul_f32s(simd.add_f32s(b, c), half);
        let difference = simd.mul_f32s(simd.sub_f32s(b, c), half);
        [simd.add_f32s(a, sum), difference, simd.add_f32s(sum, d)]
    }
}

/// The values of ±x and ±y, by even and odd parts.
#[inline(always)]
fn around<S: Simd>(
    simd: S,
    [even_x, odd_x]: [S::f32s; 2],
    [even_y, odd_y]: [S::f32s; 2],
) -> [S::f32s; 4] {
    [
        simd.add_f32s(even_x, odd_x),
        simd.sub_f32s(even_x, odd_x),
        simd.add_f32s(even_y, odd_y),
        simd.sub_f32s(even_y, odd_y),
    ]
}

/// `factor a + b`.
#[inline(always)]
fn scaled<S: Simd>(simd: S, factor: f32, a: S::f32s, b: S::f32s) -> S::f32s {
    simd.mul_add_f32s(simd.splat_f32s(factor), a, b)
}

/// `factor a`.
#[inline(always)]
fn times<S: Simd>(simd: S, factor: f32, a: S::f32s) -> S::f32s {
    simd.mul_f32s(simd.splat_f32s(factor), a)
}

impl Map<6, 6> for Input {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [a, b, c, d, e, f]: [S::f32s; 6]) -> [S::f32s; 6] {
        let near = [scaled(simd, -2.0, c, e), times(simd, FRAC_1_SQRT_2, scaled(simd, -2.0, b, d))];
        let far = [scaled(simd, -0.5, c, e), times(simd, SQRT_2, scaled(simd, -0.5, b, d))];
        let [p, q, r, s] = around(simd, near, far);
        let first = simd.add_f32s(scaled(simd, -2.5, c, a), e);
        let last = simd.add_f32s(scaled(simd, -2.5, d, b), f);
        [first, p, q, r, s, last]
    }
}

impl Map<6, 4> for Output {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [a, p, q, r, s, f]: [S::f32s; 6]) -> [S::f32s; 4] {
        let (even_near, odd_near) = (simd.add_f32s(p, q), simd.sub_f32s(p, q));
        let (even_far, odd_far) = (simd.add_f32s(r, s), simd.sub_f32s(r, s));
        [
            simd.add_f32s(a, simd.add_f32s(even_near, even_far)),
            scaled(simd, FRAC_1_SQRT_2, odd_near, times(simd, SQRT_2, odd_far)),
            scaled(simd, 0.5, even_near, times(simd, 2.0, even_far)),
            scaled(simd, 0.5 * FRAC_1_SQRT_2, odd_near, scaled(simd, 2.0 * SQRT_2, odd_far, f)),
        ]
    }
}

impl Map<4, 6> for OutputGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> [S::f32s; 6] {
        let near = [scaled(simd, 0.5, c, a), times(simd, FRAC_1_SQRT_2, scaled(simd, 0.5, d, b))];
        let far = [scaled(simd, 2.0, c, a), times(simd, SQRT_2, scaled(simd, 2.0, d, b))];
        let [p, q, r, s] = around(simd, near, far);
        [a, p, q, r, s, d]
    }
}

impl Map<3, 6> for Kernel {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [a, b, c]: [S::f32s; 3]) -> [S::f32s; 6] {
        const NEAR: f32 = -2.0 / 3.0;
        const FAR: f32 = 1.0 / 6.0;
        let near =
            [times(simd, NEAR, scaled(simd, 0.5, c, a)), times(simd, NEAR * FRAC_1_SQRT_2, b)];
        let far = [times(simd, FAR, scaled(simd, 2.0, c, a)), times(simd, FAR * SQRT_2, b)];
        let [p, q, r, s] = around(simd, near, far);
        [a, p, q, r, s, c]
    }
}

impl Map<6, 3> for KernelGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [a, p, q, r, s, f]: [S::f32s; 6]) -> [S::f32s; 3] {
        const NEAR: f32 = -2.0 / 3.0;
        const FAR: f32 = 1.0 / 6.0;
        let (even_near, odd_near) = (simd.add_f32s(p, q), simd.sub_f32s(p, q));
        let (even_far, odd_far) = (simd.add_f32s(r, s), simd.sub_f32s(r, s));
        [
            scaled(simd, NEAR, even_near, scaled(simd, FAR, even_far, a)),
            scaled(simd, NEAR * FRAC_1_SQRT_2, odd_near, times(simd, FAR * SQRT_2, odd_far)),
            scaled(simd, 0.5 * NEAR, even_near, scaled(simd, 2.0 * FAR, even_far, f)),
        ]
    }
}

/// Applies `M` to the columns and then the rows of a tile. Each place of a tile is a slice of
/// channels; `bias`, of the same length, is added to every result if it is there.
pub fn apply<M: Map<P, Q>, const P: usize, const Q: usize>(
    arch: Arch,
    from: [[&[f32]; P]; P],
    to: [[&mut [f32]; Q]; Q],
    bias: Option<&[f32]>,
) {
    arch.dispatch(Apply::<M, P, Q> { from, to, bias, map: PhantomData });
}

struct Apply<'a, M, const P: usize, const Q: usize> {
    from: [[&'a [f32]; P]; P],
    to: [[&'a mut [f32]; Q]; Q],
    bias: Option<&'a [f32]>,
    map: PhantomData<M>,
}

impl<M: Map<P, Q>, const P: usize, const Q: usize> WithSimd for Apply<'_, M, P, Q> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let channels = self.from[0][0].len();
        let tail = channels - channels % S::F32_LANES;
        for start in (0..tail).step_by(S::F32_LANES) {
            self.lanes::<S, true>(simd, start..start + S::F32_LANES);
        }
        if tail < channels {
            self.lanes::<S, false>(simd, tail..channels);
        }
    }
}

impl<M: Map<P, Q>, const P: usize, const Q: usize> Apply<'_, M, P, Q> {
    /// Applies the map to one vector of channels, a whole one if `FULL`.
    // Iterators would bring closures, which may not be inlined and then lack the vector instructions.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn lanes<S: Simd, const FULL: bool>(&mut self, simd: S, range: Range<usize>) {
        let zero = simd.splat_f32s(0.0);
        let mut columns = [[zero; P]; Q];
        for j in 0..P {
            let mut column = [zero; P];
            for i in 0..P {
                column[i] = load::<S, FULL>(simd, &self.from[i][j][range.clone()]);
            }
            let column = M::apply(simd, column);
            for i in 0..Q {
                columns[i][j] = column[i];
            }
        }
        let bias = match self.bias {
            Some(bias) => load::<S, FULL>(simd, &bias[range.clone()]),
            None => zero,
        };
        for i in 0..Q {
            let row = M::apply(simd, columns[i]);
            for j in 0..Q {
                let to = &mut self.to[i][j][range.clone()];
                store::<S, FULL>(simd, to, simd.add_f32s(row[j], bias));
            }
        }
    }
}

#[inline(always)]
fn load<S: Simd, const FULL: bool>(simd: S, x: &[f32]) -> S::f32s {
    if FULL { S::as_simd_f32s(x).0[0] } else { simd.partial_load_f32s(x) }
}

#[inline(always)]
fn store<S: Simd, const FULL: bool>(simd: S, x: &mut [f32], value: S::f32s) {
    if FULL {
        S::as_mut_simd_f32s(x).0[0] = value;
    } else {
        simd.partial_store_f32s(x, value);
    }
}
