//! Group normalisation of channels-last maps and layer normalisation of rows.
//!
//! Statistics take two passes, mean first, over blocks that stay in the first-level cache; sums are of
//! differences from the block's first pixel, and blocks are joined by Chan et al.'s formula. So neither a
//! large mean nor a large count costs digits.

use super::activation::{silu, silu_slope};
use super::buffer::uninit;
use super::simd::{add_rows, assign, sum, update, vectorised};
use crate::nn::parallel::{pieces_mut, pieces_mut2};

/// Numbers per block: 32 KiB.
const BLOCK: usize = 1 << 13;

/// A group normalisation of images of `pixels` by `channels`.
#[derive(Clone, Copy)]
pub struct GroupNorm {
    pub pixels: usize,
    pub channels: usize,
    pub groups: usize,
    pub eps: f32,
    pub silu: bool,
}

/// Mean and reciprocal standard deviation. The mean is exact: times a scale, its rounding would show.
#[derive(Clone, Copy, Default)]
pub struct Moments {
    mean: f64,
    rstd: f32,
}

/// One image's normalisation: `scale x + shift`.
struct PerChannel {
    mean: Vec<f32>,
    rstd: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl GroupNorm {
    /// The result, and the moments of each image's groups.
    pub fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32]) -> (Vec<f32>, Vec<Moments>) {
        let image = self.pixels * self.channels;
        let mut moments = vec![Moments::default(); x.len() / image.max(1) * self.groups];
        let mut out = uninit(x.len());
        pieces_mut2((&mut out, image), (&mut moments, self.groups), |i, out, moments| {
            let x = &x[i * image..][..image];
            self.moments(x, moments);
            self.apply(x, &self.per_channel(moments, weight, bias), out);
        });
        (out, moments)
    }

    /// The gradients of the input, and of weight and bias summed over the images.
    pub fn backward(
        &self,
        x: &[f32],
        moments: &[Moments],
        weight: &[f32],
        bias: &[f32],
        grad: &[f32],
    ) -> [Vec<f32>; 3] {
        let c = self.channels;
        let image = self.pixels * c;
        let mut sums = vec![0.0; x.len() / image.max(1) * 2 * c];
        let mut dx = uninit(x.len());
        pieces_mut2((&mut dx, image), (&mut sums, 2 * c), |i, dx, sums| {
            let at = i * image..(i + 1) * image;
            let moments = &moments[i * self.groups..][..self.groups];
            let line = self.per_channel(moments, weight, bias);
            self.backward_image(&x[at.clone()], &line, weight, &grad[at], dx, sums);
        });
        let (dbias, dweight) = add_up(&sums, c);
        [dx, dweight, dbias]
    }

    fn apply(&self, x: &[f32], line: &PerChannel, out: &mut [f32]) {
        let c = self.channels;
        pieces_mut(out, self.block(), |i, out| {
            let x = &x[i * self.block()..][..out.len()];

            vectorised(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                        let operands = [x, &line.scale, &line.shift];
                        if self.silu {
                            assign(
                                out,
                                operands,
                                #[inline(always)]
                                |[x, scale, shift]| silu(x.mul_add(scale, shift)),
                            );
                        } else {
                            assign(
                                out,
                                operands,
                                #[inline(always)]
                                |[x, scale, shift]| x.mul_add(scale, shift),
                            );
                        }
                    }
                },
            );
        });
    }

    /// The gradient of one image's input; `sums` get those of bias and weight.
    fn backward_image(
        &self,
        x: &[f32],
        line: &PerChannel,
        weight: &[f32],
        grad: &[f32],
        dx: &mut [f32],
        sums: &mut [f32],
    ) {
        let c = self.channels;
        let block = self.block();
        // First the gradient before the activation, with its sums, alone and times the centred input.
        let mut partial = vec![0.0; x.len().div_ceil(block) * 2 * c];
        pieces_mut2((dx, block), (&mut partial, 2 * c), |i, dz, sums| {
            let x = &x[i * block..][..dz.len()];
            let grad = &grad[i * block..][..dz.len()];
            self.backward_activation(x, line, grad, dz, sums);
        });
        let (plain, centred) = add_up(&partial, c);
        sums[..c].copy_from_slice(&plain);
        for i in 0..c {
            sums[c + i] = centred[i] * line.rstd[i];
        }
        // Then dx = scale dz − rstd (mean of w dz + x̂ · mean of w dz x̂), means over the group.
        let count = (self.pixels * self.width()) as f32;
        let group_means = |sums: &[f32]| {
            let products: Vec<f32> = sums.iter().zip(weight).map(|(s, w)| s * w).collect();
            let groups = products.chunks_exact(self.width());
            self.spread(groups.map(|group| group.iter().sum::<f32>() / count))
        };
        let (mut offset, mut slope) = (group_means(&sums[..c]), group_means(&sums[c..]));
        for i in 0..c {
            offset[i] *= -line.rstd[i];
            slope[i] *= -line.rstd[i] * line.rstd[i];
        }
        pieces_mut(dx, block, |i, dx| {
            let x = &x[i * block..][..dx.len()];

            vectorised(
                #[inline(always)]
                || {
                    for (dx, x) in dx.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                        update(
                            dx,
                            [x, &line.mean, &line.scale, &slope, &offset],
                            #[inline(always)]
                            |dz, [x, mean, scale, slope, offset]| {
                                dz.mul_add(scale, (x - mean).mul_add(slope, offset))
                            },
                        );
                    }
                },
            );
        });
    }

    fn backward_activation(
        &self,
        x: &[f32],
        line: &PerChannel,
        grad: &[f32],
        dz: &mut [f32],
        sums: &mut [f32],
    ) {
        let c = self.channels;

        let (plain, centred) = sums.split_at_mut(c);

        vectorised(
            #[inline(always)]
            || {
                let rows = dz.chunks_exact_mut(c).zip(x.chunks_exact(c));
                for ((dz, x), grad) in rows.zip(grad.chunks_exact(c)) {
                    if self.silu {
                        assign(
                            dz,
                            [x, grad, &line.scale, &line.shift],
                            #[inline(always)]
                            |[x, grad, scale, shift]| grad * silu_slope(x.mul_add(scale, shift)),
                        );
                    } else {
                        dz.copy_from_slice(grad);
                    }
                    update(
                        plain,
                        [dz],
                        #[inline(always)]
                        |sum, [dz]| sum + dz,
                    );
                    update(
                        centred,
                        [dz, x, &line.mean],
                        #[inline(always)]
                        |sum, [dz, x, mean]| dz.mul_add(x - mean, sum),
                    );
                }
            },
        );
    }

    /// The moments of each group of one image.
    fn moments(&self, x: &[f32], out: &mut [Moments]) {
        // Per block and group: the mean, and the sum of squares about it.
        let mut partial = vec![[0.0; 2]; x.len().div_ceil(self.block()) * self.groups];
        pieces_mut(&mut partial, self.groups, |i, partial| {
            let start = i * self.block();
            self.block_moments(&x[start..x.len().min(start + self.block())], partial);
        });
        let (mut count, mut joined) = (0.0, vec![[0.0; 2]; self.groups]);
        for (i, block) in partial.chunks_exact(self.groups).enumerate() {
            let len = self.block().min(x.len() - i * self.block()) / self.groups;
            let added = len as f64;
            let total = count + added;
            for ([mean, squares], [block_mean, block_squares]) in joined.iter_mut().zip(block) {
                let delta = block_mean - *mean;
                *mean += delta * added / total;
                *squares += block_squares + delta * delta * count * added / total;
            }
            count = total;
        }
        for (out, [mean, squares]) in out.iter_mut().zip(joined) {
            let rstd = 1.0 / (squares / count + f64::from(self.eps)).sqrt();
            *out = Moments { mean, rstd: rstd as f32 };
        }
    }

    fn block_moments(&self, x: &[f32], out: &mut [[f64; 2]]) {
        let width = self.width();
        let count = (x.len() / self.groups) as f64;
        let first = &x[..self.channels];
        let mut sums = vec![0.0; self.channels];
        let mut means = vec![0.0; self.channels];
        vectorised(
            #[inline(always)]
            || {
                add_rows(
                    &mut sums,
                    x,
                    [first],
                    #[inline(always)]
                    |x, [first]| x - first,
                );
                let groups = sums.chunks_exact_mut(width).zip(means.chunks_exact_mut(width));
                for (((sums, means), first), [mean, _]) in
                    groups.zip(first.chunks_exact(width)).zip(out.iter_mut())
                {
                    let total = |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>();
                    *mean = total(first) / width as f64 + total(sums) / count;
                    means.fill(*mean as f32);
                    sums.fill(0.0);
                }
                add_rows(
                    &mut sums,
                    x,
                    [&means],
                    #[inline(always)]
                    |x, [mean]| (x - mean) * (x - mean),
                );
                for (sums, [_, squares]) in sums.chunks_exact(width).zip(out) {
                    *squares = f64::from(sums.iter().sum::<f32>());
                }
            },
        );
    }

    fn per_channel(&self, moments: &[Moments], weight: &[f32], bias: &[f32]) -> PerChannel {
        let exact = moments.iter().flat_map(|m| std::iter::repeat_n(m.mean, self.width()));
        let mean = self.spread(moments.iter().map(|m| m.mean as f32));
        let rstd = self.spread(moments.iter().map(|m| m.rstd));
        let scale: Vec<f32> = weight.iter().zip(&rstd).map(|(w, rstd)| w * rstd).collect();
        let shift = bias.iter().zip(exact).zip(&scale);
        let shift = shift.map(|((&b, m), &s)| (f64::from(b) - m * f64::from(s)) as f32).collect();
        PerChannel { mean, rstd, scale, shift }
    }

    /// A number per group as one per channel.
    fn spread(&self, groups: impl Iterator<Item = f32>) -> Vec<f32> {
        let mut channels = vec![0.0; self.channels];
        for (channels, value) in channels.chunks_exact_mut(self.width()).zip(groups) {
            channels.fill(value);
        }
        channels
    }

    /// Channels per group.
    fn width(&self) -> usize {
        self.channels / self.groups
    }

    /// Numbers per block: whole pixels, enough of them for the work per block not to count.
    fn block(&self) -> usize {
        (BLOCK / self.channels).max(16) * self.channels
    }
}

/// Layer normalisation of rows of `weight.len()`: the result and the moments of each row.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> (Vec<f32>, Vec<Moments>) {
    let width = weight.len();
    let rows = BLOCK.div_ceil(width);
    let mut moments = vec![Moments::default(); x.len() / width];
    let mut out = uninit(x.len());
    pieces_mut2((&mut out, rows * width), (&mut moments, rows), |i, out, moments| {
        let x = &x[i * rows * width..][..out.len()];
        vectorised(
            #[inline(always)]
            || {
                let pairs = out.chunks_exact_mut(width).zip(x.chunks_exact(width));
                for ((out, x), moments) in pairs.zip(moments) {
                    let mean = sum(
                        [x],
                        #[inline(always)]
                        |[x]| x,
                    ) / width as f32;
                    let squares = sum(
                        [x],
                        #[inline(always)]
                        |[x]| (x - mean) * (x - mean),
                    );
                    let rstd = 1.0 / (squares / width as f32 + eps).sqrt();
                    *moments = Moments { mean: f64::from(mean), rstd };
                    assign(
                        out,
                        [x, weight, bias],
                        #[inline(always)]
                        |[x, weight, bias]| ((x - mean) * rstd).mul_add(weight, bias),
                    );
                }
            },
        );
    });
    (out, moments)
}

/// The gradients of a layer normalisation's input, and of weight and bias where asked for.
pub fn layer_norm_backward(
    x: &[f32],
    moments: &[Moments],
    weight: &[f32],
    grad: &[f32],
    parameters: bool,
) -> (Vec<f32>, Option<[Vec<f32>; 2]>) {
    let width = weight.len();
    let rows = BLOCK.div_ceil(width);
    let per_block = if parameters { 2 * width } else { 0 };
    let mut sums = vec![0.0; x.len().div_ceil(rows * width) * per_block.max(1)];
    let mut dx = uninit(x.len());
    pieces_mut2((&mut dx, rows * width), (&mut sums, per_block), |i, dx, sums| {
        let x = &x[i * rows * width..][..dx.len()];
        let grad = &grad[i * rows * width..][..dx.len()];
        let moments = &moments[i * rows..];
        vectorised(
            #[inline(always)]
            || {
                let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width));
                let rows = rows.zip(grad.chunks_exact(width)).zip(moments);
                for (((dx, x), grad), &Moments { mean, rstd }) in rows {
                    let mean = mean as f32;
                    let plain = sum(
                        [grad, weight],
                        #[inline(always)]
                        |[grad, weight]| grad * weight,
                    ) / width as f32;
                    let centred = sum(
                        [grad, weight, x],
                        #[inline(always)]
                        |[grad, weight, x]| grad * weight * (x - mean),
                    ) / width as f32;
                    let slope = centred * rstd * rstd;
                    assign(
                        dx,
                        [grad, weight, x],
                        #[inline(always)]
                        |[grad, weight, x]| {
                            rstd * grad.mul_add(weight, -(x - mean).mul_add(slope, plain))
                        },
                    );
                    if parameters {
                        let (dbias, dweight) = sums.split_at_mut(width);
                        update(
                            dbias,
                            [grad],
                            #[inline(always)]
                            |sum, [grad]| sum + grad,
                        );
                        update(
                            dweight,
                            [grad, x],
                            #[inline(always)]
                            |sum, [grad, x]| grad.mul_add((x - mean) * rstd, sum),
                        );
                    }
                }
            },
        );
    });
    let parameters = parameters.then(|| {
        let (dbias, dweight) = add_up(&sums, width);
        [dweight, dbias]
    });
    (dx, parameters)
}

/// The sum of rows of two halves, each of `width`.
fn add_up(rows: &[f32], width: usize) -> (Vec<f32>, Vec<f32>) {
    let mut first = vec![0.0; 2 * width];
    vectorised(
        #[inline(always)]
        || {
            add_rows(
                &mut first,
                rows,
                [],
                #[inline(always)]
                |x, []| x,
            )
        },
    );
    let second = first.split_off(width);
    (first, second)
}
