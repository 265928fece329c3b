use std::cell::RefCell;

use candle_core::{DType, Device, DeviceLocation, Result, Tensor, bail};

use crate::nn::backend::fast;
use crate::nn::device;
use crate::nn::kernels::attention::{Attention, Needs};
use crate::nn::kernels::buffer::slice;
use crate::nn::{Flow, Var, flops, room};

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
        let block = block(q.value().device());
        candle([q, k, v], heads, causal, products, block)
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
    let q = split_heads(&(q * scale(width, heads))?, heads)?;
    let k = split_heads(k, heads)?;
    let mut blocks = vec![];
    for (start, len) in query_blocks(batch * heads * m, n, block(q.device())) {
        let q = device::contiguous(&q.narrow(2, start, len)?)?;
        let found = probabilities(&q, &k, None)?;
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

/// On candle's operations, for at most `block` scores at a time.
fn candle(
    [q, k, v]: [&Var; 3],
    heads: usize,
    causal: bool,
    products: usize,
    block: usize,
) -> Result<Var> {
    let (batch, n, width) = q.value().dims3()?;
    let m = k.value().dim(1)?;
    let scale = scale(width, heads);
    let queries = query_blocks(batch * heads * m, n, block);
    // scaled here and not as scores, which are many more
    let qh = split_heads(&(q.value() * scale)?, heads)?;
    let (kh, vh) = (split_heads(k.value(), heads)?, split_heads(v.value(), heads)?);
    let mut blocks = vec![];
    for (start, len) in queries.clone() {
        let qb = device::contiguous(&qh.narrow(2, start, len)?)?;
        blocks.push(probabilities(&qb, &kh, causal.then_some(start))?.matmul(&vh)?);
    }
    let out = Tensor::cat(&blocks, 2)?;
    drop(blocks);
    Ok(Var::record(join_heads(&out)?, [q, k, v], move |grad, flow| {
        count_backward(flow, products);
        let grad = split_heads(&grad, heads)?;
        let (mut dq, mut dk, mut dv) = (vec![], None, None);
        for (start, len) in queries.clone() {
            let part = |x: &Tensor| device::contiguous(&x.narrow(2, start, len)?);
            let (qb, gb) = (part(&qh)?, part(&grad)?);
            let p = probabilities(&qb, &kh, causal.then_some(start))?;
            if flow.needs(2) {
                sum_into(&mut dv, p.t()?.matmul(&gb)?)?;
            }
            if !flow.needs(0) && !flow.needs(1) {
                continue;
            }
            let ds = device::softmax_backward(&p, &gb.matmul(&vh.t()?)?)?;
            if flow.needs(0) {
                dq.push((ds.matmul(&kh)? * scale)?);
            }
            if flow.needs(1) {
                sum_into(&mut dk, ds.t()?.matmul(&qb)?)?;
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
        let out = candle([&q, &k, &v], 3, causal, 0, block).unwrap();
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
}
