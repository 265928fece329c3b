//! Attention over blocks of queries. Scores of a block are formed, used and forgotten, in the forward
//! pass and again in the backward pass (Dao et al. 2022, arXiv:2205.14135, without the online softmax:
//! a block's rows are whole).

use std::ops::Range;

use super::buffer::{uninit, with_scratch};
use super::gemm::{Mat, Update, gemm};
use super::simd::{exp, max, sum, update, vectorised};
use crate::nn::parallel::pieces_mut;

/// Rows of scores are padded to whole vectors.
const VECTOR: usize = 16;

/// Queries `[batch, n, heads · d]` against keys and values `[batch, m, heads · d]`.
#[derive(Clone, Copy)]
pub struct Attention {
    pub n: usize,
    pub m: usize,
    pub heads: usize,
    pub d: usize,
    pub causal: bool,
}

/// Which gradients to form.
#[derive(Clone, Copy)]
pub struct Needs {
    pub q: bool,
    pub k: bool,
    pub v: bool,
}

/// One head's rows of the gradients of one batch element; none where they are not needed.
#[derive(Default)]
struct HeadGradients<'a> {
    q: Vec<&'a mut [f32]>,
    k: Vec<&'a mut [f32]>,
    v: Vec<&'a mut [f32]>,
}

impl Attention {
    /// `softmax(q kᵀ / √d) v`, heads side by side.
    pub fn forward(&self, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        let (queries, keys) = (self.n * self.width(), self.m * self.width());
        let block = self.block();
        let mut out = uninit(q.len());
        pieces_mut(&mut out, queries, |b, out| {
            let (k, v) = (&k[b * keys..][..keys], &v[b * keys..][..keys]);
            pieces_mut(out, block * self.width(), |i, out| {
                let q = &q[b * queries + i * block * self.width()..][..out.len()];
                self.forward_block(i * block, q, k, v, out);
            });
        });
        out
    }

    /// The probabilities `softmax(q kᵀ / √d)`, in the mean over heads: `[batch, n, m]`.
    pub fn probabilities(&self, q: &[f32], k: &[f32]) -> Vec<f32> {
        let (queries, keys) = (self.n * self.width(), self.m * self.width());
        let batch = q.len() / queries.max(1);
        let block = self.block();
        let mut out = vec![0.0; batch * self.n * self.m];
        pieces_mut(&mut out, self.n * self.m, |b, out| {
            let k = &k[b * keys..][..keys];
            pieces_mut(out, block * self.m, |i, out| {
                let rows = out.len() / self.m;
                let first = b * queries + i * block * self.width();
                self.add_probabilities(i * block, &q[first..][..rows * self.width()], k, out);
            });
        });
        out
    }

    /// The gradients of `q`, `k` and `v`; empty where not needed.
    pub fn backward(
        &self,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        grad: &[f32],
        needs: Needs,
    ) -> [Vec<f32>; 3] {
        let mut out = [(needs.q, q), (needs.k, k), (needs.v, v)]
            .map(|(needed, x)| if needed { uninit(x.len()) } else { vec![] });
        let batch = q.len() / (self.n * self.width()).max(1);
        let mut heads: Vec<HeadGradients> = Vec::new();
        heads.resize_with(batch * self.heads, HeadGradients::default);
        let [dq, dk, dv] = &mut out;
        self.deal(dq, self.n, |head, row| heads[head].q.push(row));
        self.deal(dk, self.m, |head, row| heads[head].k.push(row));
        self.deal(dv, self.m, |head, row| heads[head].v.push(row));
        let (queries, keys) = (self.n * self.width(), self.m * self.width());
        pieces_mut(&mut heads, 1, |i, out| {
            let (b, head) = (i / self.heads, i % self.heads);
            let query_rows = |x| Mat::strided(x, self.n, self.width(), self.width());
            let key_rows = |x| Mat::strided(x, self.m, self.width(), self.width());
            let columns = head * self.d..(head + 1) * self.d;
            self.backward_head(
                query_rows(&q[b * queries..][..queries]).cols(columns.clone()),
                key_rows(&k[b * keys..][..keys]).cols(columns.clone()),
                key_rows(&v[b * keys..][..keys]).cols(columns.clone()),
                query_rows(&grad[b * queries..][..queries]).cols(columns),
                &mut out[0],
            );
        });
        out
    }

    /// Rows of queries from `first` on, all heads.
    fn forward_block(&self, first: usize, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
        let rows = q.len() / self.width();
        let (seen, stride) = self.seen(first + rows);
        self.each_head(first, q, k, |columns, scores, factors| {
            let scores = Mat::strided(scores, rows, seen, stride);
            let values = Mat::new(v, self.m, self.width()).cols(columns.clone()).rows(0..seen);
            gemm(&mut out[columns.start..], self.width(), Update::Store, scores, values);
            for (out, factor) in out.chunks_exact_mut(self.width()).zip(factors) {
                out[columns.clone()].iter_mut().for_each(|x| *x *= factor);
            }
        });
    }

    /// Adds the probabilities of rows of queries from `first` on, of each head its share of the mean.
    fn add_probabilities(&self, first: usize, q: &[f32], k: &[f32], out: &mut [f32]) {
        let (_, stride) = self.seen(first + q.len() / self.width());
        let share = 1.0 / self.heads as f32;
        self.each_head(first, q, k, |_, scores, factors| {
            let rows = out.chunks_exact_mut(self.m).zip(scores.chunks_exact(stride)).zip(factors);
            for ((out, scores), factor) in rows {
                let factor = factor * share;
                out.iter_mut().zip(scores).for_each(|(out, score)| *out += score * factor);
            }
        });
    }

    /// Calls `f` for each head, in order, with its columns and what [`Attention::softmax`] makes of the
    /// scores of rows of queries from `first` on.
    fn each_head(
        &self,
        first: usize,
        q: &[f32],
        k: &[f32],
        mut f: impl FnMut(Range<usize>, &[f32], &[f32]),
    ) {
        let rows = q.len() / self.width();
        let (seen, stride) = self.seen(first + rows);
        with_scratch(rows * stride + rows, |scratch| {
            let (scores, factors) = scratch.split_at_mut(rows * stride);
            for head in 0..self.heads {
                let columns = head * self.d..(head + 1) * self.d;
                let part = |x, rows| Mat::new(x, rows, self.width()).cols(columns.clone());
                let keys = part(k, self.m).rows(0..seen);
                gemm(scores, stride, Update::Store, part(q, rows), keys.t());
                self.softmax(first, scores, factors, seen, stride);
                f(columns, scores, factors);
            }
        });
    }

    fn backward_head(&self, q: Mat, k: Mat, v: Mat, grad: Mat, out: &mut HeadGradients) {
        let (block, d) = (self.block(), self.d);
        let (_, stride) = self.seen(self.n);
        let sizes = [block * stride, block * stride, block, block * d, self.m * d, self.m * d];
        with_scratch(sizes.iter().sum(), |scratch| {
            let mut rest = scratch;
            let [p, ds, factors, dq, dk, dv] = sizes.map(|size| {
                let (taken, left) = std::mem::take(&mut rest).split_at_mut(size);
                rest = left;
                taken
            });
            dk.fill(0.0);
            dv.fill(0.0);
            for first in (0..self.n).step_by(block) {
                let rows = block.min(self.n - first);
                let (seen, stride) = self.seen(first + rows);
                let (p, ds) = (&mut p[..rows * stride], &mut ds[..rows * stride]);
                let (q, grad) = (q.rows(first..first + rows), grad.rows(first..first + rows));
                let (k, v) = (k.rows(0..seen), v.rows(0..seen));
                gemm(p, stride, Update::Store, q, k.t());
                self.softmax(first, p, factors, seen, stride);
                normalise(p, factors, stride);
                if !out.v.is_empty() {
                    gemm(dv, d, Update::Add, Mat::strided(p, rows, seen, stride).t(), grad);
                }
                if out.q.is_empty() && out.k.is_empty() {
                    continue;
                }
                gemm(ds, stride, Update::Store, grad, v.t());
                self.score_gradients(p, ds, seen, stride);
                let ds = Mat::strided(ds, rows, seen, stride);
                if !out.q.is_empty() {
                    gemm(dq, d, Update::Store, ds, k);
                    copy_rows(dq, &mut out.q[first..first + rows]);
                }
                if !out.k.is_empty() {
                    gemm(dk, d, Update::Add, ds.t(), q);
                }
            }
            copy_rows(dk, &mut out.k);
            copy_rows(dv, &mut out.v);
        });
    }

    /// Replaces scores by `exp(scale (score − greatest))`, and those of keys not `seen` by 0;
    /// `factors` get what makes each row sum to 1. The first row is query `first`.
    fn softmax(
        &self,
        first: usize,
        scores: &mut [f32],
        factors: &mut [f32],
        seen: usize,
        stride: usize,
    ) {
        let scale = self.scale();
        vectorised(
            #[inline(always)]
            || {
                for (i, row) in scores.chunks_exact_mut(stride).enumerate() {
                    let seen = if self.causal { seen.min(first + i + 1) } else { seen };
                    row[seen..].fill(f32::NEG_INFINITY);
                    let shift = -scale * max(row);
                    for x in row.iter_mut() {
                        *x = exp(x.mul_add(scale, shift));
                    }
                    factors[i] = 1.0
                        / sum(
                            [row],
                            #[inline(always)]
                            |[x]| x,
                        );
                }
            },
        );
    }

    /// Turns the gradient of probabilities `p` into that of the products q kᵀ.
    fn score_gradients(&self, p: &[f32], gradients: &mut [f32], seen: usize, stride: usize) {
        let scale = self.scale();
        vectorised(
            #[inline(always)]
            || {
                for (p, grad) in p.chunks_exact(stride).zip(gradients.chunks_exact_mut(stride)) {
                    grad[seen..].fill(0.0);
                    let mean = sum(
                        [p, grad],
                        #[inline(always)]
                        |[p, grad]| p * grad,
                    );
                    update(
                        grad,
                        [p],
                        #[inline(always)]
                        |grad, [p]| p * (grad - mean) * scale,
                    );
                }
            },
        );
    }

    /// How many keys the queries before `end` see, and the length of their rows of scores.
    fn seen(&self, end: usize) -> (usize, usize) {
        let seen = if self.causal { self.m.min(end) } else { self.m };
        (seen, seen.next_multiple_of(VECTOR))
    }

    /// Hands out rows of `x` [batch, len, heads · d], cut into heads, in order.
    fn deal<'a>(&self, x: &'a mut [f32], len: usize, mut to: impl FnMut(usize, &'a mut [f32])) {
        for (i, row) in x.chunks_exact_mut(self.d).enumerate() {
            to(i / (len * self.heads) * self.heads + i % self.heads, row);
        }
    }

    fn width(&self) -> usize {
        self.heads * self.d
    }

    fn scale(&self) -> f32 {
        1.0 / (self.d as f32).sqrt()
    }

    /// Queries per block: scores of some 256 KiB, but enough rows to pay for packing the keys.
    fn block(&self) -> usize {
        ((1 << 16) / self.m.max(1)).clamp(32, 256)
    }
}

fn normalise(scores: &mut [f32], factors: &[f32], stride: usize) {
    vectorised(
        #[inline(always)]
        || {
            for (row, factor) in scores.chunks_exact_mut(stride).zip(factors) {
                row.iter_mut().for_each(|x| *x *= factor);
            }
        },
    );
}

fn copy_rows(from: &[f32], to: &mut [&mut [f32]]) {
    for (i, to) in to.iter_mut().enumerate() {
        let width = to.len();
        to.copy_from_slice(&from[i * width..][..width]);
    }
}
