use candle_core::{D, DType, Device, Result, Tensor, bail};

use super::basic::at_least_f32;
use crate::nn::backend::fast;
use crate::nn::device;
use crate::nn::kernels::attention::{Attention, Needs};
use crate::nn::kernels::buffer::slice;
use crate::nn::{Flow, Var, flops};

/// Multi-head attention `softmax(q kᵀ / √d) v`: `q` [batch, n, heads · d], `k` and `v` [batch, m,
/// heads · d]. With `causal`, a token sees itself and those before it.
///
/// Scores are formed for a block of queries at a time and formed again in the backward pass, so that
/// memory grows with n + m, not n · m.
pub fn attention(q: &Var, k: &Var, v: &Var, heads: usize, causal: bool) -> Result<Var> {
    let [batch, n, m, width] = sizes(q.value(), &[k.value(), v.value()], heads)?;
    // Of scores or their product with the values; causal ones count in full, though half are skipped.
    let products = batch * n * m * width;
    flops::add(2 * products);
    if fast(q.value()) {
        let shape = Attention { n, m, heads, d: width / heads, causal };
        kernel(q, k, v, shape, products)
    } else if device::counting() {
        device::count_attention(q, k, v, heads, causal)
    } else {
        candle(q, k, v, heads, causal, products)
    }
}

/// The probabilities with which the queries of [`attention`] attend to its keys, in the mean over heads:
/// [batch, n, m], f32. They are to be looked at: no gradient flows through them.
pub fn attention_probabilities(q: &Tensor, k: &Tensor, heads: usize) -> Result<Tensor> {
    let [batch, n, m, width] = sizes(q, &[k], heads)?;
    flops::add(batch * n * m * width);
    if fast(q) {
        let shape = Attention { n, m, heads, d: width / heads, causal: false };
        let (q, k) = (q.contiguous()?, k.contiguous()?);
        let out = shape.probabilities(&slice(&q)?, &slice(&k)?);
        return Tensor::from_vec(out, (batch, n, m), q.device());
    }
    let (q, k) = (split_heads(q, heads)?, split_heads(k, heads)?);
    let mut blocks = vec![];
    for (start, len) in query_blocks(batch * heads * m, n) {
        let q = q.narrow(2, start, len)?.contiguous()?;
        let found = probabilities(&q, &k, scale(width, heads), None)?;
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

/// Scores held at a time, in numbers.
const BLOCK: usize = 1 << 24;

/// Blocks of the `n` queries, the start and length of each, for so many scores of a query.
fn query_blocks(scores: usize, n: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    let block = (BLOCK / scores.max(1)).clamp(1, n.max(1));
    (0..n).step_by(block).map(move |start| (start, block.min(n - start)))
}

/// On candle's operations.
fn candle(q: &Var, k: &Var, v: &Var, heads: usize, causal: bool, products: usize) -> Result<Var> {
    let (batch, n, width) = q.value().dims3()?;
    let m = k.value().dim(1)?;
    let scale = scale(width, heads);
    let queries = query_blocks(batch * heads * m, n);
    let (qh, kh, vh) = (
        split_heads(q.value(), heads)?,
        split_heads(k.value(), heads)?,
        split_heads(v.value(), heads)?,
    );
    let mut blocks = vec![];
    for (start, len) in queries.clone() {
        let qb = qh.narrow(2, start, len)?.contiguous()?;
        blocks.push(probabilities(&qb, &kh, scale, causal.then_some(start))?.matmul(&vh)?);
    }
    let out = Tensor::cat(&blocks, 2)?;
    let result = join_heads(&out)?;
    Ok(Var::record(result, [q, k, v], move |grad, flow| {
        count_backward(flow, products);
        let grad = split_heads(&grad, heads)?;
        let (kt, vt) = (kh.clone(), vh.transpose(2, 3)?.contiguous()?);
        let (mut dq, mut dk, mut dv) = (vec![], None, None);
        for (start, len) in queries.clone() {
            let part = |x: &Tensor| x.narrow(2, start, len)?.contiguous();
            let (qb, gb) = (part(&qh)?, part(&grad)?);
            let p = probabilities(&qb, &kh, scale, causal.then_some(start))?;
            if flow.needs(2) {
                sum_into(&mut dv, p.transpose(2, 3)?.contiguous()?.matmul(&gb)?)?;
            }
            // ∂softmax: p ∘ (∂p − Σ p ∘ ∂p), where the sum equals Σ ∂out ∘ out
            let inner = (&gb * part(&out)?)?.sum_keepdim(D::Minus1)?;
            let ds = (p * gb.matmul(&vt)?.broadcast_sub(&inner)?)?;
            if flow.needs(0) {
                dq.push((ds.matmul(&kt)? * scale)?);
            }
            if flow.needs(1) {
                sum_into(&mut dk, (ds.transpose(2, 3)?.contiguous()?.matmul(&qb)? * scale)?)?;
            }
        }
        if flow.needs(0) {
            flow.add(0, join_heads(&Tensor::cat(&dq, 2)?)?)?;
        }
        if let Some(dk) = dk {
            flow.add(1, join_heads(&dk)?)?;
        }
        match dv {
            Some(dv) => flow.add(2, join_heads(&dv)?),
            None => Ok(()),
        }
    }))
}

/// `softmax(q kᵀ scale)` in f32; `causal` is the position of the first query.
fn probabilities(q: &Tensor, k: &Tensor, scale: f64, causal: Option<usize>) -> Result<Tensor> {
    let dtype = q.dtype();
    let scores =
        (q.matmul(&k.transpose(2, 3)?.contiguous()?)? * scale)?.to_dtype(at_least_f32(dtype))?;
    let scores = match causal {
        Some(first) => {
            let (_, _, n, m) = scores.dims4()?;
            scores.broadcast_add(
                &causal_mask(first, n, m, scores.device())?.to_dtype(scores.dtype())?,
            )?
        }
        None => scores,
    };
    let exp = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?.to_dtype(dtype)
}

/// 0 where query `first + i` may see key `j`, −∞ elsewhere: [n, m].
fn causal_mask(first: usize, n: usize, m: usize, device: &Device) -> Result<Tensor> {
    let value = |i, j| if j > first + i { f32::NEG_INFINITY } else { 0.0 };
    let values: Vec<f32> = (0..n).flat_map(|i| (0..m).map(move |j| value(i, j))).collect();
    Tensor::from_vec(values, (n, m), device)
}

/// [batch, n, heads · d] → [batch, heads, n, d].
fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, width) = x.dims3()?;
    x.reshape((b, n, heads, width / heads))?.transpose(1, 2)?.contiguous()
}

fn join_heads(x: &Tensor) -> Result<Tensor> {
    let (b, heads, n, d) = x.dims4()?;
    x.transpose(1, 2)?.contiguous()?.reshape((b, n, heads * d))
}

fn sum_into(sum: &mut Option<Tensor>, x: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(s) => (s + x)?,
        None => x,
    });
    Ok(())
}
