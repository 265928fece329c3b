use std::cell::RefCell;

use candle_core::{DType, Device, DeviceLocation, Result, Tensor, bail};

use crate::nn::backend::fast;
use crate::nn::device;
use crate::nn::kernels::attention::{Attention, Needs};
use crate::nn::kernels::buffer::slice;
use crate::nn::ops::at_least_f32;
use crate::nn::{Flow, Var, flops, room};

/// Multi-head attention `softmax(q kᵀ / √d) v`: `q` [batch, n, heads · d], `k` and `v` [batch, m,
/// heads · d]. With `causal`, a token sees itself and those before it.
///
/// Scores are formed for a block of queries at a time and formed again in the backward pass, so that
/// memory grows with n + m, not n · m.
pub fn attention(q: &Var, k: &Var, v: &Var, heads: usize, causal: bool) -> Result<Var> {
    attend([q, k, v], Form { heads, causal, upcast: false })
}

/// [`attention`] of which half precision's scores are f32, as diffusers' `upcast_attention` has it: they may
/// be more than f16 can hold, and softmax makes much of what rounding takes from large ones.
pub fn attention_upcast(q: &Var, k: &Var, v: &Var, heads: usize) -> Result<Var> {
    attend([q, k, v], Form { heads, causal: false, upcast: true })
}

/// What tells one attention from another.
#[derive(Clone, Copy)]
struct Form {
    heads: usize,
    causal: bool,
    upcast: bool,
}

impl Form {
    /// The type of the scores of operands of `dtype`.
    fn scores(self, dtype: DType) -> DType {
        if self.upcast { at_least_f32(dtype) } else { dtype }
    }
}

fn attend([q, k, v]: [&Var; 3], form: Form) -> Result<Var> {
    let Form { heads, causal, .. } = form;
    let [batch, n, m, width] = sizes(q.value(), &[k.value(), v.value()], heads)?;
    // Of scores or their product with the values; causal ones count in full, though half are skipped.
    let products = batch * n * m * width;
    flops::add(2 * products);
    if fast(q.value()) {
        let shape = Attention { n, m, heads, d: width / heads, causal };
        kernel(q, k, v, shape, products)
    } else if let Some(form) = device::OnChip::of(q.value(), heads, causal) {
        on_chip([q, k, v], form, products)
    } else if device::counting() {
        device::count_attention(q, k, v, heads, causal, form.scores(q.value().dtype()))
    } else {
        let block = block(q.value().device());
        candle([q, k, v], form, products, block)
    }
}

/// The probabilities with which the queries of [`attention`] attend to its keys, in the mean over heads:
/// [batch, n, m], f32. They are to be looked at: no gradient flows through them. With `upcast`, those of
/// [`attention_upcast`].
pub fn attention_probabilities(
    q: &Tensor,
    k: &Tensor,
    heads: usize,
    upcast: bool,
) -> Result<Tensor> {
    let [batch, n, m, width] = sizes(q, &[k], heads)?;
    flops::add(batch * n * m * width);
    if fast(q) {
        let shape = Attention { n, m, heads, d: width / heads, causal: false };
        let (q, k) = (q.contiguous()?, k.contiguous()?);
        let out = shape.probabilities(&slice(&q)?, &slice(&k)?);
        return Tensor::from_vec(out, (batch, n, m), q.device());
    }
    let queries = Queries::new(q, Form { heads, causal: false, upcast })?;
    let k = queries.widened(&split_heads(k, heads)?)?;
    let mut blocks = vec![];
    for (start, len) in query_blocks(batch * heads * m, n, block(q.device())) {
        let found = probabilities(&queries.block(start, len)?, &k, None)?;
        blocks.push(found.to_dtype(DType::F32)?.mean(1)?);
    }
    Tensor::cat(&blocks, 1)
}

/// Batch, queries, keys and features, of what fits together.
fn sizes(q: &Tensor, keys: &[&Tensor], heads: usize) -> Result<[usize; 4]> {
    let (batch, n, width) = q.dims3()?;
    if heads == 0 || width == 0 || width % heads != 0 {
        bail!("{width} features cannot be split over {heads} heads");
    }
    let m = keys[0].dim(1)?;
    for x in keys {
        if m == 0 || x.dims() != [batch, m, width] {
            bail!("attention of queries {:?} over keys or values {:?}", q.dims(), x.dims());
        }
    }
    Ok([batch, n, m, width])
}

fn scale(width: usize, heads: usize) -> f64 {
    1.0 / ((width / heads) as f64).sqrt()
}

/// Counts the backward pass: the scores once more, the gradient of the probabilities, and each gradient
/// that is needed.
fn count_backward(flow: &Flow, products: usize) {
    flops::add((2 + (0..3).filter(|&i| flow.needs(i)).count()) * products);
}

fn kernel(q: &Var, k: &Var, v: &Var, shape: Attention, products: usize) -> Result<Var> {
    let values = [q.value().contiguous()?, k.value().contiguous()?, v.value().contiguous()?];
    let out = {
        let [q, k, v] = &values;
        shape.forward(&slice(q)?, &slice(k)?, &slice(v)?)
    };
    let out = Tensor::from_vec(out, q.value().shape(), q.value().device())?;
    Ok(Var::record(out, [q, k, v], move |grad, flow| {
        count_backward(flow, products);
        let [q, k, v] = &values;
        let needs = Needs { q: flow.needs(0), k: flow.needs(1), v: flow.needs(2) };
        let grad = grad.contiguous()?;
        let gradients = shape.backward(&slice(q)?, &slice(k)?, &slice(v)?, &slice(&grad)?, needs);
        for (i, (grad, x)) in gradients.into_iter().zip(&values).enumerate() {
            flow.add_with(i, || Tensor::from_vec(grad, x.shape(), x.device()))?;
        }
        Ok(())
    }))
}

/// Scores and probabilities are f32 there, whatever is asked for; what is multiplied with them is not.
fn on_chip(vars: [&Var; 3], form: device::OnChip, products: usize) -> Result<Var> {
    let [q, k, v] = vars.map(|x| device::contiguous(x.value()));
    let (q, k, v) = (q?, k?, v?);
    let [out, log_sums] = form.forward(&q, &k, &v)?;
    let kept = out.clone();
    Ok(Var::record(out, vars, move |grad, flow| {
        count_backward(flow, products);
        let needs = [flow.needs(0), flow.needs(1) || flow.needs(2)];
        let grad = device::contiguous(&grad)?;
        let gradients = form.backward([&q, &k, &v], [&kept, &log_sums], &grad, needs)?;
        for (i, gradient) in gradients.into_iter().enumerate() {
            if let Some(gradient) = gradient.filter(|_| flow.needs(i)) {
                flow.add(i, gradient)?;
            }
        }
        Ok(())
    }))
}

/// Queries whose products with keys are scores: scaled here and not as scores, which are many more.
struct Queries {
    /// By heads; scaled unless they are widened, which comes first.
    queries: Tensor,
    /// What is left to scale with.
    scale: Option<f64>,
    /// The type of the scores.
    dtype: DType,
}

impl Queries {
    fn new(q: &Tensor, form: Form) -> Result<Self> {
        let scale = scale(q.dim(2)?, form.heads);
        let dtype = form.scores(q.dtype());
        let (q, scale) = match dtype == q.dtype() {
            true => ((q * scale)?, None),
            false => (q.clone(), Some(scale)),
        };
        Ok(Queries { queries: split_heads(&q, form.heads)?, scale, dtype })
    }

    fn block(&self, start: usize, len: usize) -> Result<Tensor> {
        let block = device::contiguous(&self.queries.narrow(2, start, len)?)?;
        match self.scale {
            Some(scale) => self.widened(&block)? * scale,
            None => Ok(block),
        }
    }

    /// In the type of the scores.
    fn widened(&self, x: &Tensor) -> Result<Tensor> {
        x.to_dtype(self.dtype)
    }
}

/// On candle's operations, for at most `block` scores at a time.
fn candle([q, k, v]: [&Var; 3], form: Form, products: usize, block: usize) -> Result<Var> {
    let (batch, n, width) = q.value().dims3()?;
    let (m, dtype) = (k.value().dim(1)?, q.value().dtype());
    let Form { heads, causal, .. } = form;
    let blocks = query_blocks(batch * heads * m, n, block);
    let queries = Queries::new(q.value(), form)?;
    let (kh, vh) = (split_heads(k.value(), heads)?, split_heads(v.value(), heads)?);
    let out = {
        let kh = queries.widened(&kh)?;
        let mut parts = vec![];
        for (start, len) in blocks.clone() {
            let qb = queries.block(start, len)?;
            let p = probabilities(&qb, &kh, causal.then_some(start))?.to_dtype(dtype)?;
            parts.push(p.matmul(&vh)?);
        }
        Tensor::cat(&parts, 2)?
    };
    Ok(Var::record(join_heads(&out)?, [q, k, v], move |grad, flow| {
        count_backward(flow, products);
        let grad = split_heads(&grad, heads)?;
        let kh = queries.widened(&kh)?;
        let (mut dq, mut dk, mut dv) = (vec![], None, None);
        for (start, len) in blocks.clone() {
            let qb = queries.block(start, len)?;
            let gb = device::contiguous(&grad.narrow(2, start, len)?)?;
            let p = probabilities(&qb, &kh, causal.then_some(start))?;
            if flow.needs(2) {
                sum_into(&mut dv, p.to_dtype(dtype)?.t()?.matmul(&gb)?)?;
            }
            if !flow.needs(0) && !flow.needs(1) {
                continue;
            }
            let dp = queries.widened(&gb.matmul(&vh.t()?)?)?;
            let ds = device::softmax_backward(&p, &dp)?;
            drop((p, dp));
            if flow.needs(0) {
                dq.push((ds.matmul(&kh)? * scale(width, heads))?.to_dtype(dtype)?);
            }
            if flow.needs(1) {
                sum_into(&mut dk, ds.t()?.matmul(&qb)?)?;
            }
        }
        if flow.needs(0) {
            flow.add(0, join_heads(&Tensor::cat(&dq, 2)?)?)?;
        }
        if let Some(dk) = dk {
            flow.add(1, join_heads(&dk.to_dtype(dtype)?)?)?;
        }
        match dv {
            Some(dv) => flow.add(2, join_heads(&dv)?),
            None => Ok(()),
        }
    }))
}

/// Blocks of the `n` queries, the start and length of each, for so many scores of a query and at most
/// `block` in all.
fn query_blocks(
    scores: usize,
    n: usize,
    block: usize,
) -> impl Iterator<Item = (usize, usize)> + Clone {
    let block = (block / scores.max(1)).clamp(1, n.max(1));
    (0..n).step_by(block).map(move |start| (start, block.min(n - start)))
}

/// How many scores are held at a time, in numbers: on a GPU so many that all that is made of them fills an
/// eighth of its [`room`], or less.
fn block(device: &Device) -> usize {
    /// Of any other device.
    const USUAL: usize = 1 << 24;
    /// Scores, their probabilities and the gradients of both, in f32.
    const BYTES: u64 = 4 * 4;
    let fitting = |room: u64| ((room / 8 / BYTES) as usize).clamp(1 << 20, 1 << 30);
    room(device).map_or(USUAL, fitting)
}

/// `softmax(q kᵀ)` of scaled queries; `causal` is the position of the first.
fn probabilities(q: &Tensor, k: &Tensor, causal: Option<usize>) -> Result<Tensor> {
    let mut scores = q.matmul(&k.t()?)?;
    if let Some(first) = causal {
        scores = scores.broadcast_add(&causal_mask(first, &scores)?)?;
    }
    device::softmax(&scores)
}

/// 0 where query `first + i` may see key `j`, −∞ elsewhere, for scores [.., n, m]: [n, m].
fn causal_mask(first: usize, scores: &Tensor) -> Result<Tensor> {
    type Key = (usize, usize, usize, DType, DeviceLocation);
    thread_local! {
        // all layers of a text encoder ask for the same, which would be moved to the device each time
        static LAST: RefCell<Option<(Key, Tensor)>> = const { RefCell::new(None) };
    }
    let (_, _, n, m) = scores.dims4()?;
    let key = (first, n, m, scores.dtype(), scores.device().location());
    let last = LAST.with_borrow(|last| last.clone());
    if let Some((_, mask)) = last.filter(|(known, _)| *known == key) {
        return Ok(mask);
    }
    let value = |i, j| if j > first + i { f32::NEG_INFINITY } else { 0.0 };
    let values: Vec<f32> = (0..n).flat_map(|i| (0..m).map(move |j| value(i, j))).collect();
    let mask = Tensor::from_vec(values, (n, m), scores.device())?.to_dtype(scores.dtype())?;
    LAST.set(Some((key, mask.clone())));
    Ok(mask)
}

/// [batch, n, heads · d] → [batch, heads, n, d].
fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, width) = x.dims3()?;
    device::contiguous(&x.reshape((b, n, heads, width / heads))?.transpose(1, 2)?)
}

fn join_heads(x: &Tensor) -> Result<Tensor> {
    let (b, heads, n, d) = x.dims4()?;
    device::contiguous(&x.transpose(1, 2)?)?.reshape((b, n, heads * d))
}

fn sum_into(sum: &mut Option<Tensor>, x: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(s) => (s + x)?,
        None => x,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops;
    use crate::rng::Rng;

    /// The result, and the gradients of queries, keys and values, for so many scores at a time.
    fn run(block: usize, dtype: DType, causal: bool) -> Vec<Tensor> {
        let random = |name: &str, n: usize| {
            let x = Rng::new(1, name).normal((2, n, 24), &Device::Cpu).unwrap();
            Var::leaf(x.to_dtype(dtype).unwrap())
        };
        let (n, m) = (37, if causal { 37 } else { 19 });
        let [q, k, v] = [random("q", n), random("k", m), random("v", m)];
        let form = Form { heads: 3, causal, upcast: false };
        let out = candle([&q, &k, &v], form, 0, block).unwrap();
        let weights = random("weights", n).detach();
        let product = ops::mul(&out, &weights).unwrap();
        let loss = ops::composed([&product], |[p]| p.sum_all()).unwrap();
        let gradients = loss.backward(1.0).unwrap();
        let gradients = [&q, &k, &v].map(|x| gradients.get(x).unwrap().clone());
        [out.value().clone()].into_iter().chain(gradients).collect()
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
        let difference = (wide(a) - wide(b)).unwrap().abs().unwrap();
        difference.flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn blocks_of_any_size_give_the_same() {
        for causal in [false, true] {
            let whole = run(1 << 24, DType::F64, causal);
            for block in [1, 6 * 19 * 5, 6 * 37 * 36] {
                for (a, b) in run(block, DType::F64, causal).iter().zip(&whole) {
                    assert!(distance(a, b) < 1e-12, "{block}");
                }
            }
        }
    }

    #[test]
    fn half_precision_is_near() {
        for (a, b) in run(1 << 24, DType::F16, true).iter().zip(run(1 << 24, DType::F64, true)) {
            assert!(distance(a, &b) < 2e-2);
        }
    }

    /// The result, the gradients of queries, keys and values, and the probabilities, of scores around
    /// `magnitude`, with the same operands in any type that holds f16's and bf16's.
    fn large(magnitude: f64, dtype: DType, block: usize, upcast: bool) -> Vec<Tensor> {
        let random = |name: &str, size: f64| {
            let x = (Rng::new(1, name).normal((2, 24, 24), &Device::Cpu).unwrap() * size).unwrap();
            let x = x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F16).unwrap();
            Var::leaf(x.to_dtype(dtype).unwrap())
        };
        let size = magnitude.sqrt();
        let [q, k, v] = [random("q", size), random("k", size), random("v", 1.0)];
        let form = Form { heads: 3, causal: false, upcast };
        let out = candle([&q, &k, &v], form, 0, block).unwrap();
        // so that gradients of queries and keys are of magnitude 1
        let weights = (random("weights", 1.0).value() * (1.0 / size)).unwrap();
        let product = ops::mul(&out, &Var::constant(weights)).unwrap();
        let loss = ops::composed([&product], |[p]| p.sum_all()).unwrap();
        let gradients = loss.backward(1.0).unwrap();
        let mut found = vec![out.value().clone()];
        found.extend([&q, &k, &v].map(|x| gradients.get(x).unwrap().clone()));
        found.push(attention_probabilities(q.value(), k.value(), 3, upcast).unwrap());
        found
    }

    fn finite(tensors: &[Tensor]) -> bool {
        tensors.iter().all(|x| crate::nn::all_finite(&x.to_dtype(DType::F32).unwrap()).unwrap())
    }

    #[test]
    fn upcast_scores_are_those_of_f32() {
        // magnitudes of which f16, which ends at 65 504, cannot hold the scores, and of which bf16 has no
        // halves
        for (dtype, magnitude, tolerance) in [(DType::F16, 1e5, 4e-3), (DType::BF16, 64.0, 3e-2)] {
            let wanted = large(magnitude, DType::F64, 1 << 24, false);
            let without = large(magnitude, dtype, 1 << 24, false);
            let far = |found: &[Tensor]| distance(&found[4], &wanted[4]);
            assert!(!finite(&without) || far(&without) > 0.01, "{dtype:?}: {}", far(&without));
            for block in [6 * 24 * 5, 1 << 24] {
                let found = large(magnitude, dtype, block, true);
                assert!(finite(&found) && far(&found) < 1e-3, "{dtype:?}: {}", far(&found));
                for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                    assert_eq!(found.dtype(), if i == 4 { DType::F32 } else { dtype });
                    let largest = distance(wanted, &wanted.zeros_like().unwrap()).max(1.0);
                    let apart = distance(found, wanted) / largest;
                    assert!(apart < tolerance, "{dtype:?}, output {i}: {apart}");
                }
            }
        }
    }

    #[test]
    fn upcast_changes_no_bit_of_f32() {
        let [with, without] = [true, false].map(|on| large(1.0, DType::F32, 6 * 24 * 5, on));
        assert!(with.iter().zip(&without).all(|(a, b)| distance(a, b) == 0.0));
    }
}
