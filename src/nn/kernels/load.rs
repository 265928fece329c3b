//! Numbers as files have them, made f32 where they are needed, in one pass over memory.
//!
//! All functions take little-endian numbers of a float type of candle's, aligned or not, and give nothing
//! where one of them is not finite in f32.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::DType;
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::buffer::{uninit, with_scratch};
use super::simd::vectorised;
use crate::nn::parallel::{pieces, pieces_mut};

/// Numbers per piece of work.
const GRAIN: usize = 1 << 16;
/// Numbers that are looked at while they are in the first cache.
const BLOCK: usize = 1 << 10;

/// The numbers in their order.
pub fn dense(bytes: &[u8], dtype: DType) -> Option<Vec<f32>> {
    let size = dtype.size_in_bytes();
    let mut out = uninit(bytes.len() / size);
    let finite = AtomicBool::new(true);
    pieces_mut(&mut out, GRAIN, |i, out| {
        if !widen(&bytes[i * GRAIN * size..][..out.len() * size], dtype, out) {
            finite.store(false, Ordering::Relaxed);
        }
    });
    finite.into_inner().then_some(out)
}

/// Whether all numbers are finite in f32.
pub fn finite(bytes: &[u8], dtype: DType) -> bool {
    let size = dtype.size_in_bytes();
    let finite = AtomicBool::new(true);
    pieces(bytes.len() / size, GRAIN, |piece| {
        with_scratch(BLOCK, |scratch| {
            for block in bytes[piece.start * size..piece.end * size].chunks(BLOCK * size) {
                if !widen(block, dtype, &mut scratch[..block.len() / size]) {
                    finite.store(false, Ordering::Relaxed);
                }
            }
        });
    });
    finite.into_inner()
}

/// A convolution's kernel [outputs, inputs, pixels], as [pixels, inputs, outputs].
///
/// # Panics
/// If there are not as many numbers as that.
pub fn turned(
    bytes: &[u8],
    dtype: DType,
    [outputs, inputs, pixels]: [usize; 3],
) -> Option<Vec<f32>> {
    /// Outputs at a time: two lines of the cache are written.
    const OUTPUTS: usize = 32;
    /// About so many numbers of an output at a time, which lie together in the file.
    const TOGETHER: usize = 128;

    let size = dtype.size_in_bytes();
    let numbers = outputs * inputs * pixels;
    assert_eq!(bytes.len(), numbers * size, "a kernel of {outputs} × {inputs} × {pixels}");
    if numbers == 0 {
        return Some(vec![]);
    }
    let mut out = uninit(numbers);
    let step = (TOGETHER / pixels).max(1);
    // the rows of `out` that a piece of work writes: of `step` inputs, for each pixel
    let mut rows: Vec<Vec<&mut [f32]>> = vec![];
    rows.resize_with(inputs.div_ceil(step), Vec::new);
    for (i, row) in out.chunks_exact_mut(outputs).enumerate() {
        rows[i % inputs / step].push(row);
    }
    let finite = AtomicBool::new(true);
    pieces_mut(&mut rows, 1, |i, rows| {
        let rows = &mut rows[0];
        let own = rows.len() / pixels; // of the inputs
        let width = own * pixels;
        with_scratch(OUTPUTS.min(outputs) * width, |scratch| {
            for first in (0..outputs).step_by(OUTPUTS) {
                let count = OUTPUTS.min(outputs - first);
                for (j, out) in scratch.chunks_exact_mut(width).take(count).enumerate() {
                    let start = ((first + j) * inputs + i * step) * pixels;
                    if !widen(&bytes[start * size..][..width * size], dtype, out) {
                        finite.store(false, Ordering::Relaxed);
                    }
                }
                for (k, row) in rows.iter_mut().enumerate() {
                    let (pixel, input) = (k / own, k % own);
                    let column = scratch[input * pixels + pixel..].iter().step_by(width);
                    let row = &mut row[first..first + count];
                    row.iter_mut().zip(column).for_each(|(out, x)| *out = *x);
                }
            }
        });
    });
    drop(rows);
    finite.into_inner().then_some(out)
}

/// Writes numbers to `out`, which is as long; whether all are finite.
fn widen(bytes: &[u8], dtype: DType, out: &mut [f32]) -> bool {
    let size = dtype.size_in_bytes();
    let mut finite = true;
    for (out, bytes) in out.chunks_mut(BLOCK).zip(bytes.chunks(BLOCK * size)) {
        match dtype {
            DType::F16 => halves(bytes, out),
            DType::BF16 => {
                each(bytes, out, |x| f32::from_bits(u32::from(u16::from_le_bytes(x)) << 16))
            }
            DType::F64 => each(bytes, out, |x| f64::from_le_bytes(x) as f32),
            _ => each(bytes, out, f32::from_le_bytes),
        }
        finite &= all_finite(out);
    }
    finite
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], f: impl Fn([u8; N]) -> f32) {
    out.iter_mut().zip(bytes.as_chunks::<N>().0).for_each(|(out, x)| *out = f(*x));
}

/// The processor's own conversion takes aligned numbers, eight at a time.
fn halves(bytes: &[u8], out: &mut [f32]) {
    let mut aligned = [f16::ZERO; BLOCK];
    let aligned = &mut aligned[..out.len()];
    let numbers = aligned.iter_mut().zip(bytes.as_chunks::<2>().0);
    numbers.for_each(|(x, bytes)| *x = f16::from_le_bytes(*bytes));
    aligned.convert_to_f32_slice(out);
}

fn all_finite(x: &[f32]) -> bool {
    // a maximum of integers has no branch, so this is as fast as memory
    let largest = vectorised(
        #[inline(always)]
        || x.iter().map(|x| x.to_bits() & !(1 << 31)).fold(0, u32::max),
    );
    largest < f32::INFINITY.to_bits()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Rng;

    const TYPES: [DType; 4] = [DType::F16, DType::BF16, DType::F32, DType::F64];

    /// Random numbers of this type, and how a file has them, one byte off any alignment.
    fn stored(shape: &[usize], dtype: DType) -> (Tensor, Vec<u8>) {
        let x = Rng::new(2, "load").normal(shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let file = safetensors::serialize([("x", &x)], None).unwrap();
        let file = safetensors::SafeTensors::deserialize(&file).unwrap();
        let bytes = [&[0], file.tensor("x").unwrap().data()].concat();
        (x, bytes)
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]

        #[test]
        fn kernels_are_candles_permuted(
            outputs in 1..70usize, inputs in 1..40usize, size in 1..5usize, dtype in 0..4usize,
        ) {
            let dtype = TYPES[dtype];
            let (x, bytes) = stored(&[outputs, inputs, size, size], dtype);
            let found = turned(&bytes[1..], dtype, [outputs, inputs, size * size]).unwrap();
            prop_assert!(found == values(&x.permute((2, 3, 1, 0)).unwrap()));
            prop_assert!(dense(&bytes[1..], dtype).unwrap() == values(&x));
        }
    }

    #[test]
    fn one_number_that_is_not_finite_is_found_anywhere() {
        for dtype in TYPES {
            let (x, bytes) = stored(&[3, 30_000], dtype);
            assert!(finite(&bytes[1..], dtype));
            for place in [0, 1_024, 65_536, 89_999] {
                let mut wrong = values(&x);
                wrong[place] = if place % 3 == 0 { f32::NAN } else { f32::NEG_INFINITY };
                let wrong = Tensor::new(wrong, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                let file = safetensors::serialize([("x", &wrong)], None).unwrap();
                let file = safetensors::SafeTensors::deserialize(&file).unwrap();
                let tensor = file.tensor("x").unwrap();
                assert!(!finite(tensor.data(), dtype), "{dtype:?} at {place}");
                assert!(dense(tensor.data(), dtype).is_none());
                assert!(turned(tensor.data(), dtype, [300, 75, 4]).is_none());
            }
        }
        assert!(turned(&[], DType::F32, [4, 0, 9]).is_some_and(|x| x.is_empty()));
    }
}
