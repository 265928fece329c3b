//! Convolution as a matrix product: for each pixel of the output, the pixels under the kernel are
//! laid out as a row, and the rows multiplied with the kernel (Chellapilla et al. 2006).

use std::ops::Range;

use super::Geometry;
use crate::nn::kernels::buffer::{uninit, with_scratch};
use crate::nn::kernels::gemm::{Mat, Update, gemm, gemm_threads};
use crate::nn::parallel;

/// Numbers in a block of rows, to stay within a core's second-level cache with what it is multiplied
/// with.
const BLOCK: usize = 1 << 17;

/// Rows of `width` numbers per block.
fn block_rows(width: usize) -> usize {
    (BLOCK / width.max(1)).clamp(96, 1024)
}

pub fn forward(g: &Geometry, x: &[f32], w: &[f32], bias: &[f32]) -> Vec<f32> {
    let mut out = uninit(g.out_pixels() * g.outputs);
    let depth = g.size * g.size * g.inputs;
    let w = Mat::new(w, depth, g.outputs);
    if g.is_pointwise() {
        gemm_threads(&mut out, Update::Bias(bias), Mat::new(x, g.out_pixels(), depth), w);
        return out;
    }
    let rows = block_rows(depth);
    let blocks = g.out_pixels().div_ceil(rows);
    if blocks < 2 {
        // One block still can be cut by columns.
        with_scratch(g.out_pixels() * depth, |cols| {
            unroll(g, x, 0..g.out_pixels(), cols);
            gemm_threads(&mut out, Update::Bias(bias), Mat::new(cols, g.out_pixels(), depth), w);
        });
        return out;
    }
    parallel::pieces_mut(&mut out, rows * g.outputs, |i, out| {
        let pixels = i * rows..i * rows + out.len() / g.outputs;
        with_scratch(pixels.len() * depth, |cols| {
            let count = pixels.len();
            unroll(g, x, pixels, cols);
            gemm(out, g.outputs, Update::Bias(bias), Mat::new(cols, count, depth), w);
        });
    });
    out
}

pub fn input_gradient(g: &Geometry, dy: &[f32], w: &[f32]) -> Vec<f32> {
    let mut dx = uninit(g.batch * g.height * g.width * g.inputs);
    let depth = g.size * g.size * g.inputs;
    let wt = Mat::new(w, depth, g.outputs).t();
    if g.is_pointwise() {
        gemm_threads(&mut dx, Update::Store, Mat::new(dy, g.out_pixels(), g.outputs), wt);
        return dx;
    }
    // Blocks of whole images, so that what overlaps lies in the same block.
    let (in_image, out_image) = (g.height * g.width * g.inputs, g.out_height * g.out_width);
    let images = (block_rows(depth) / out_image.max(1)).clamp(1, g.batch.max(1));
    parallel::pieces_mut(&mut dx, images * in_image, |i, dx| {
        let count = dx.len() / in_image;
        let start = i * images * out_image * g.outputs;
        let dy = Mat::new(&dy[start..], count * out_image, g.outputs);
        with_scratch(count * out_image * depth, |cols| {
            gemm_threads(cols, Update::Store, dy, wt);
            parallel::pieces_mut(dx, g.width * g.inputs, |row, dx| gather_row(g, cols, row, dx));
        });
    });
    dx
}

pub fn kernel_gradient(g: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let depth = g.size * g.size * g.inputs;
    let mut dw = uninit(depth * g.outputs);
    if g.is_pointwise() {
        let x = Mat::new(x, g.out_pixels(), depth);
        gemm_threads(&mut dw, Update::Store, x.t(), Mat::new(dy, g.out_pixels(), g.outputs));
        return dw;
    }
    // A piece is some rows of the kernel's matrix: no two pieces add to the same number.
    let grain = depth.div_ceil(8).next_multiple_of(16).clamp(64, 1024);
    let rows = block_rows(grain);
    parallel::pieces_mut(&mut dw, grain * g.outputs, |i, dw| {
        let taken = i * grain..i * grain + dw.len() / g.outputs;
        with_scratch(rows.min(g.out_pixels()) * taken.len(), |cols| {
            for start in (0..g.out_pixels()).step_by(rows) {
                let pixels = start..g.out_pixels().min(start + rows);
                let cols = &mut cols[..pixels.len() * taken.len()];
                unroll_some(g, x, pixels.clone(), taken.clone(), cols);
                let dy = Mat::new(&dy[start * g.outputs..], pixels.len(), g.outputs);
                let update = if start == 0 { Update::Store } else { Update::Add };
                gemm(dw, g.outputs, update, Mat::new(cols, pixels.len(), taken.len()).t(), dy);
            }
        });
    });
    dw
}

/// The (image, row, column) of an output pixel.
fn position(g: &Geometry, pixel: usize) -> (usize, usize, usize) {
    let line = pixel / g.out_width;
    (line / g.out_height, line % g.out_height, pixel % g.out_width)
}

/// Where row or column `out` of the output, under tap `tap`, falls in `0..len` of the input.
fn source(g: &Geometry, out: usize, tap: usize, len: usize) -> Option<usize> {
    (out * g.stride + tap).checked_sub(g.before).filter(|i| *i < len)
}

/// Writes the pixels under the kernel, for each of `pixels`.
fn unroll(g: &Geometry, x: &[f32], pixels: Range<usize>, cols: &mut [f32]) {
    let line = g.size * g.inputs;
    for (pixel, row) in pixels.zip(cols.chunks_exact_mut(g.size * line)) {
        let (image, oy, ox) = position(g, pixel);
        for (ky, row) in row.chunks_exact_mut(line).enumerate() {
            let Some(iy) = source(g, oy, ky, g.height) else {
                row.fill(0.0);
                continue;
            };
            let first = (ox * g.stride) as isize - g.before as isize;
            let x = &x[(image * g.height + iy) * g.width * g.inputs..][..g.width * g.inputs];
            // Taps of one row are neighbours in the input too.
            let left = ((-first).max(0) as usize).min(g.size);
            let right = (g.width as isize - first).clamp(left as isize, g.size as isize) as usize;
            row[..left * g.inputs].fill(0.0);
            row[right * g.inputs..].fill(0.0);
            if right > left {
                let from = (first + left as isize) as usize * g.inputs;
                row[left * g.inputs..right * g.inputs]
                    .copy_from_slice(&x[from..from + (right - left) * g.inputs]);
            }
        }
    }
}

/// As [`unroll`], of each row only the numbers `taken`.
fn unroll_some(
    g: &Geometry,
    x: &[f32],
    pixels: Range<usize>,
    taken: Range<usize>,
    cols: &mut [f32],
) {
    for (pixel, row) in pixels.zip(cols.chunks_exact_mut(taken.len())) {
        let (image, oy, ox) = position(g, pixel);
        let mut at = taken.start;
        while at < taken.end {
            let (tap, channel) = (at / g.inputs, at % g.inputs);
            let len = (g.inputs - channel).min(taken.end - at);
            let row = &mut row[at - taken.start..][..len];
            let iy = source(g, oy, tap / g.size, g.height);
            match (iy, source(g, ox, tap % g.size, g.width)) {
                (Some(iy), Some(ix)) => {
                    let from = ((image * g.height + iy) * g.width + ix) * g.inputs + channel;
                    row.copy_from_slice(&x[from..from + len]);
                }
                _ => row.fill(0.0),
            }
            at += len;
        }
    }
}

/// One row of the input's gradient: for each pixel, the sum of what the unrolled rows have for it.
fn gather_row(g: &Geometry, cols: &[f32], row: usize, dx: &mut [f32]) {
    let depth = g.size * g.size * g.inputs;
    let (image, iy) = (row / g.height, row % g.height);
    dx.fill(0.0);
    // The output position that puts `tap` on input position `i`.
    let target = |i: usize, tap: usize, len: usize| {
        let shifted = (i + g.before).checked_sub(tap)?;
        (shifted % g.stride == 0 && shifted / g.stride < len).then_some(shifted / g.stride)
    };
    for ky in 0..g.size {
        let Some(oy) = target(iy, ky, g.out_height) else { continue };
        let line = (image * g.out_height + oy) * g.out_width;
        for (ix, dx) in dx.chunks_exact_mut(g.inputs).enumerate() {
            for kx in 0..g.size {
                let Some(ox) = target(ix, kx, g.out_width) else { continue };
                let from = (line + ox) * depth + (ky * g.size + kx) * g.inputs;
                dx.iter_mut().zip(&cols[from..from + g.inputs]).for_each(|(d, c)| *d += c);
            }
        }
    }
}
