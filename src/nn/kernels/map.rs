//! Rearranging channels-last maps, and sums over their pixels.

use super::buffer::uninit;
use super::simd::{add_rows, assign, vectorised};
use crate::nn::parallel::pieces_mut;

/// Numbers per piece of work.
const GRAIN: usize = 1 << 14;

/// Each pixel four times: `x` is rows of `width` pixels of `channels`.
pub fn upsample_2x(x: &[f32], width: usize, channels: usize) -> Vec<f32> {
    let row = width * channels;
    let mut out = uninit(4 * x.len());
    pieces_mut(&mut out, 4 * row, |i, out| {
        let (upper, lower) = out.split_at_mut(2 * row);
        let pixels = x[i * row..][..row].chunks_exact(channels);
        for (pair, pixel) in upper.chunks_exact_mut(2 * channels).zip(pixels) {
            pair[..channels].copy_from_slice(pixel);
            pair[channels..].copy_from_slice(pixel);
        }
        lower.copy_from_slice(upper);
    });
    out
}

/// The gradient of [`upsample_2x`]: sums of four pixels. `width` and `channels` are of its input.
pub fn upsample_2x_backward(grad: &[f32], width: usize, channels: usize) -> Vec<f32> {
    let row = width * channels;
    let mut out = uninit(grad.len() / 4);
    pieces_mut(&mut out, row, |i, out| {
        let (upper, lower) = grad[i * 4 * row..][..4 * row].split_at(2 * row);
        vectorised(
            #[inline(always)]
            || {
                let pairs = upper.chunks_exact(2 * channels).zip(lower.chunks_exact(2 * channels));
                for (out, (upper, lower)) in out.chunks_exact_mut(channels).zip(pairs) {
                    let ((a, b), (c, d)) = (upper.split_at(channels), lower.split_at(channels));
                    assign(
                        out,
                        [a, b, c, d],
                        #[inline(always)]
                        |[a, b, c, d]| (a + b) + (c + d),
                    );
                }
            },
        );
    });
    out
}

/// Rows of `a` and `b` side by side; `n` and `m` are their widths.
pub fn concat(a: &[f32], n: usize, b: &[f32], m: usize) -> Vec<f32> {
    let rows = GRAIN.div_ceil((n + m).max(1));
    let mut out = uninit(a.len() + b.len());
    pieces_mut(&mut out, rows * (n + m), |i, out| {
        for (j, out) in out.chunks_exact_mut(n + m).enumerate() {
            let row = i * rows + j;
            out[..n].copy_from_slice(&a[row * n..][..n]);
            out[n..].copy_from_slice(&b[row * m..][..m]);
        }
    });
    out
}

/// Columns `start..start + len` of rows of `width`.
pub fn columns(x: &[f32], width: usize, start: usize, len: usize) -> Vec<f32> {
    let rows = GRAIN.div_ceil(len.max(1));
    let mut out = uninit(x.len() / width.max(1) * len);
    pieces_mut(&mut out, rows * len, |i, out| {
        for (j, out) in out.chunks_exact_mut(len).enumerate() {
            out.copy_from_slice(&x[(i * rows + j) * width + start..][..len]);
        }
    });
    out
}

/// Adds row i of `v`, of width `channels`, to each pixel of image i.
pub fn add_per_image(x: &[f32], v: &[f32], pixels: usize, channels: usize) -> Vec<f32> {
    let image = pixels * channels;
    let mut out = uninit(x.len());
    pieces_mut(&mut out, image, |i, out| {
        let v = &v[i * channels..][..channels];
        let x = &x[i * image..][..image];
        vectorised(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                    assign(
                        out,
                        [x, v],
                        #[inline(always)]
                        |[x, v]| x + v,
                    );
                }
            },
        );
    });
    out
}

/// Sums over the pixels of each image.
pub fn sum_per_image(x: &[f32], pixels: usize, channels: usize) -> Vec<f32> {
    let image = pixels * channels;
    let mut out = vec![0.0; x.len() / image.max(1) * channels];
    pieces_mut(&mut out, channels, |i, out| {
        vectorised(
            #[inline(always)]
            || {
                add_rows(
                    out,
                    &x[i * image..][..image],
                    [],
                    #[inline(always)]
                    |x, []| x,
                )
            },
        );
    });
    out
}
