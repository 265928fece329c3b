//! Matrix products, on the `gemm` crate.
//!
//! Its own threads are never used: where it cuts the work depends on their number. Products are cut
//! here, by shape alone.

use std::ops::Range;

use super::buffer::uninit;
use crate::nn::parallel;

/// A matrix of any strides in a slice.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Row after row.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Mat::strided(data, rows, cols, cols)
    }

    /// Rows that start `row_stride` apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, row_stride), "the matrix lies within its slice");
        Mat { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Mat {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Some of the rows.
    pub fn rows(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows);
        let start = (range.start * self.row_stride).min(self.data.len());
        Mat { data: &self.data[start..], rows: range.len(), ..self }
    }

    /// Some of the columns.
    pub fn cols(self, range: Range<usize>) -> Self {
        self.t().rows(range).t()
    }

    /// The elements, row after row.
    pub fn to_rows(self) -> Vec<f32> {
        const ROWS: usize = 64;
        let mut rows = uninit(self.rows * self.cols);
        parallel::pieces_mut(&mut rows, ROWS * self.cols.max(1), |i, rows| {
            self.rows(ROWS * i..self.rows.min(ROWS * (i + 1))).copy_to(rows);
        });
        rows
    }

    /// As `to_rows`, on this thread.
    pub fn to_rows_here(self) -> Vec<f32> {
        let mut rows = uninit(self.rows * self.cols);
        self.copy_to(&mut rows);
        rows
    }

    /// Copies the elements, row after row.
    pub fn copy_to(self, rows: &mut [f32]) {
        // As many source lines as a set of the first-level cache surely has room for.
        const LINES: usize = 8;
        pulp::Arch::new().dispatch(|| {
            for first in (0..self.cols).step_by(LINES) {
                let cols = first..self.cols.min(first + LINES);
                for (i, row) in rows.chunks_exact_mut(self.cols).enumerate() {
                    for (j, value) in cols.clone().zip(&mut row[cols.clone()]) {
                        *value = self.data[i * self.row_stride + j * self.col_stride];
                    }
                }
            }
        });
    }
}

fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    rows == 0 || cols == 0 || {
        let last = (rows - 1).checked_mul(row_stride).and_then(|r| r.checked_add(cols));
        last.is_some_and(|last| last <= len)
    }
}

/// What becomes of the old values of a product's destination.
#[derive(Clone, Copy, PartialEq)]
pub enum Update<'a> {
    /// They are overwritten, and need not have been initialised.
    Store,
    /// The product is added to them.
    Add,
    /// The product plus this row overwrites them.
    Bias(&'a [f32]),
}

/// `out = a b`, or `out += a b`, on this thread. Rows of `out` start `out_stride` apart.
pub fn gemm(out: &mut [f32], out_stride: usize, update: Update, a: Mat, b: Mat) {
    assert!(fits(out.len(), a.rows, b.cols, out_stride), "the product fits its destination");
    assert!(out_stride >= b.cols || a.rows <= 1, "rows of the destination are apart");
    // SAFETY: `out` holds the product, and is borrowed exclusively.
    unsafe { raw(out.as_mut_ptr(), out_stride, update, a, b) }
}

/// As [`gemm`] with rows of `out` one after the other, cut over threads.
pub fn gemm_threads(out: &mut [f32], update: Update, a: Mat, b: Mat) {
    let (rows, cols) = (a.rows, b.cols);
    assert!(fits(out.len(), rows, cols, cols), "the product fits its destination");
    let (row_grain, col_grain) = grains(rows, cols, a.cols);
    if b.col_stride > 1 && rows > row_grain {
        // Otherwise every piece would transpose the same columns.
        let straight = b.to_rows();
        return gemm_threads(out, update, a, Mat::new(&straight, b.rows, b.cols));
    }
    let col_pieces = cols.div_ceil(col_grain);
    let count = rows.div_ceil(row_grain) * col_pieces;
    let out = Shared(out.as_mut_ptr());
    parallel::pieces(count, 1, |piece| {
        let (i, j) = (piece.start / col_pieces * row_grain, piece.start % col_pieces * col_grain);
        let a = a.rows(i..rows.min(i + row_grain));
        let b = b.cols(j..cols.min(j + col_grain));
        // SAFETY: the block lies in `out`, which is borrowed exclusively and is large enough; pieces
        // have different blocks.
        let update = match update {
            Update::Bias(bias) => Update::Bias(&bias[j..]),
            other => other,
        };
        unsafe { raw(out.at(i * cols + j), cols, update, a, b) }
    });
}

/// The size of the blocks that a product is cut into: some 16 million multiplications each, and as tall as
/// possible, since each packs its columns of the right operand.
fn grains(rows: usize, cols: usize, depth: usize) -> (usize, usize) {
    const OPERATIONS: usize = 1 << 24;
    let wanted = (rows * cols * depth / OPERATIONS).clamp(1, 16);
    let row_pieces = wanted.min(rows.div_ceil(128)).max(1);
    let col_pieces = (wanted / row_pieces).clamp(1, cols.div_ceil(128).max(1));
    // multiples of the microkernel's height and width
    let grain = |len: usize, pieces, unit| len.div_ceil(pieces).next_multiple_of(unit).max(unit);
    (grain(rows, row_pieces, 12), grain(cols, col_pieces, 64))
}

struct Shared(*mut f32);

// SAFETY: it is only used for writing to blocks that no other thread uses.
unsafe impl Sync for Shared {}
unsafe impl Send for Shared {}

impl Shared {
    /// # Safety
    /// `offset` lies within the slice.
    unsafe fn at(&self, offset: usize) -> *mut f32 {
        unsafe { self.0.add(offset) }
    }
}

/// # Safety
/// `out` points to `a.rows` rows of `b.cols` numbers, `out_stride` apart, that nothing else uses.
unsafe fn raw(out: *mut f32, out_stride: usize, update: Update, a: Mat, b: Mat) {
    assert_eq!(a.cols, b.rows, "inner dimensions");
    choose_packing(a.rows, b);
    if let Update::Bias(bias) = update {
        let bias = &bias[..b.cols];
        for i in 0..a.rows {
            // SAFETY: row `i` lies in `out`, and has as many numbers as `bias`.
            unsafe {
                out.add(i * out_stride).copy_from_nonoverlapping(bias.as_ptr(), bias.len());
            }
        }
    }
    // SAFETY: a `Mat` lies within its slice.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out,
            1,
            out_stride as isize,
            update != Update::Store,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Tells `gemm` whether to pack the right operand, which it calls the left one, where it could use it as
/// it lies. A setting of the whole process: where two threads disagree, a product takes longer.
fn choose_packing(rows: usize, b: Mat) {
    // In steps of six rows; beyond this, a wide matrix's rows compete for the same lines of the cache.
    const PACK: usize = 8;
    // As good as never: for few rows it would be copied as often as it is used.
    const LEAVE: usize = 256;
    let wanted = if rows >= 128 && b.row_stride >= 512 { PACK } else { LEAVE };
    if gemm::get_lhs_packing_threshold_single_thread() != wanted {
        gemm::set_lhs_packing_threshold_single_thread(wanted);
    }
}

/// Adds `row` to every row of `out`.
pub fn add_to_rows(out: &mut [f32], row: &[f32]) {
    for out in out.chunks_exact_mut(row.len().max(1)) {
        out.iter_mut().zip(row).for_each(|(o, r)| *o += r);
    }
}

/// The sum of the rows of a matrix with `cols` columns.
pub fn sum_rows(x: &[f32], cols: usize) -> Vec<f32> {
    const ROWS: usize = 256;
    if cols == 0 {
        return vec![];
    }
    let add = |sum: &mut [f32], rows: &[f32]| {
        for row in rows.chunks_exact(cols) {
            sum.iter_mut().zip(row).for_each(|(s, x)| *s += x);
        }
    };
    let simd = pulp::Arch::new();
    let mut partial = vec![0.0; x.len().div_ceil(ROWS * cols) * cols];
    parallel::pieces_mut(&mut partial, cols, |i, sum| {
        simd.dispatch(|| add(sum, &x[i * ROWS * cols..x.len().min((i + 1) * ROWS * cols)]));
    });
    let mut sum = vec![0.0; cols];
    add(&mut sum, &partial);
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(len: usize) -> Vec<f32> {
        // small integers: sums are exact in any order
        (0..len).map(|i| (i * 7919 % 13) as f32 - 6.0).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_strides_and_cuts(
            (rows, cols, depth) in (1..300usize, 1..300usize, 0..400usize),
            a_transposed: bool,
            b_transposed: bool,
            which in 0..3usize,
        ) {
            let (a, b, bias) = (values(rows * depth), values(depth * cols), values(cols));
            let mat = |data, rows, cols, transposed| {
                if transposed { Mat::new(data, cols, rows).t() } else { Mat::new(data, rows, cols) }
            };
            let (a, b) = (mat(&a, rows, depth, a_transposed), mat(&b, depth, cols, b_transposed));
            let at = |m: &Mat, i, j| m.data[i * m.row_stride + j * m.col_stride];
            let update = [Update::Store, Update::Add, Update::Bias(&bias)][which];
            let mut out = vec![1.0; rows * cols];
            gemm_threads(&mut out, update, a, b);
            for (i, j) in [(0, 0), (rows / 2, cols / 2), (rows - 1, 0), (rows - 1, cols - 1)] {
                let before = [0.0, 1.0, bias[j]][which];
                let product: f32 = (0..depth).map(|k| at(&a, i, k) * at(&b, k, j)).sum();
                prop_assert_eq!(out[i * cols + j], before + product);
            }
            let straight = b.to_rows();
            prop_assert!((0..depth).all(|k| (0..cols).all(|j| straight[k * cols + j] == at(&b, k, j))));
        }
    }

    #[test]
    #[should_panic(expected = "within its slice")]
    fn a_matrix_beyond_its_slice_is_refused() {
        Mat::strided(&[0.0; 10], 3, 2, 5);
    }

    #[test]
    #[should_panic(expected = "fits its destination")]
    fn a_product_beyond_its_destination_is_refused() {
        let (a, b) = ([0.0; 6], [0.0; 6]);
        gemm(&mut [0.0; 8], 3, Update::Store, Mat::new(&a, 3, 2), Mat::new(&b, 2, 3));
    }
}
