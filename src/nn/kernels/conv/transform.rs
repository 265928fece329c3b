//! The small linear maps of Winograd's algorithm F(2×2, 3×3) (Lavin & Gray 2016, arXiv:1509.09308,
//! section 4.1), applied to both dimensions of a tile, all channels at once.

use std::marker::PhantomData;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

/// A linear map from P to Q numbers.
pub trait Map<const P: usize, const Q: usize> {
    /// The map, on vectors of channels.
    fn apply<S: Simd>(simd: S, x: [S::f32s; P]) -> [S::f32s; Q];
}

/// Bᵀ: pixels of the input at the four points.
pub struct Input;

impl Map<4, 4> for Input {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> [S::f32s; 4] {
        [simd.sub_f32s(a, c), simd.add_f32s(b, c), simd.sub_f32s(c, b), simd.sub_f32s(b, d)]
    }
}

/// Aᵀ: products at the four points as pixels of the output.
pub struct Output;

impl Map<4, 2> for Output {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> [S::f32s; 2] {
        let (sum, difference) = (simd.add_f32s(b, c), simd.sub_f32s(b, c));
        [simd.add_f32s(a, sum), simd.sub_f32s(difference, d)]
    }
}

/// A: what the gradient of the output's pixels is at the four points.
pub struct OutputGradient;

impl Map<2, 4> for OutputGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [a, b]: [S::f32s; 2]) -> [S::f32s; 4] {
        [a, simd.add_f32s(a, b), simd.sub_f32s(a, b), simd.neg_f32s(b)]
    }
}

/// G: taps of the kernel at the four points.
pub struct Kernel;

impl Map<3, 4> for Kernel {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [a, b, c]: [S::f32s; 3]) -> [S::f32s; 4] {
        let half = simd.splat_f32s(0.5);
        let (outer, b) = (simd.mul_f32s(simd.add_f32s(a, c), half), simd.mul_f32s(b, half));
        [a, simd.add_f32s(outer, b), simd.sub_f32s(outer, b), c]
    }
}

/// Gᵀ: gradients at the four points as those of the kernel's taps.
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
