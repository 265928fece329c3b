//! What linear layers and attention tell a device to do, for those operations are not written in terms of
//! [`call`]: where they change, this does.

use candle_core::{DType, Result, Shape, Tensor};

use super::tally::{Kind, call, hollow};
use crate::nn::Var;
use crate::nn::param::{Init, Source};

/// Parameters that have shapes and no numbers, for [`count`](super::count).
pub struct Shapes(pub DType);

impl Source for Shapes {
    fn tensor(&mut self, _: &str, shape: &[usize], _: Init) -> crate::Result<Tensor> {
        Ok(hollow(shape, self.0)?)
    }
}

/// A linear layer [..., inputs] → `shape`.
pub fn count_linear(x: &Var, w: &Var, b: Option<&Var>, shape: impl Into<Shape>) -> Result<Var> {
    let product = |reads: &[&Tensor], shape: &Shape, products: usize| {
        call(Kind::Product, reads).products(products).run(shape, reads[0].dtype(), nothing)
    };
    let (input, weight) = (x.value().clone(), w.value().clone());
    let products = input.elem_count() * weight.dim(0)?;
    let mut out = product(&[&input, &weight], &shape.into(), products)?;
    if let Some(b) = b {
        out = product(&[&out, b.value()], out.shape(), 0)?;
    }
    let outputs = Shape::from(weight.dim(0)?);
    let absent = Var::constant(weight.clone());
    Ok(Var::record(out, [x, w, b.unwrap_or(&absent)], move |grad, flow| {
        for (i, (other, shape)) in
            [(&weight, input.shape()), (&input, weight.shape())].into_iter().enumerate()
        {
            flow.add_with(i, || product(&[&grad, other], shape, products))?;
        }
        flow.add_with(2, || product(&[&grad], &outputs, 0))
    }))
}

/// Scores that attention holds at a time on a GPU with 24 GiB.
const BLOCK: usize = 1 << 27;

/// Attention of queries [batch, n, width] over keys and values [batch, m, width], whose scores are `wide`.
pub fn count_attention(
    q: &Var,
    k: &Var,
    v: &Var,
    heads: usize,
    causal: bool,
    wide: DType,
) -> Result<Var> {
    let (batch, n, width) = q.value().dims3()?;
    let (m, dtype) = (k.value().dim(1)?, q.value().dtype());
    let scores = hollow((batch, heads, n, m), wide)?;
    let blocks = scores.elem_count().div_ceil(BLOCK);
    let (queries, keys) = (q.value().clone(), k.value().clone());
    let products = batch * n * m * width;
    // The blocks of queries count together: they read and write what the whole does.
    let op = move |reads: &[&Tensor], like: &Tensor, products: usize| {
        call(Kind::Attention, reads).launches(blocks).products(products).run(
            like.shape(),
            like.dtype(),
            nothing,
        )
    };
    // Parts of them, and the whole of parts, which with one block is the part itself.
    let part = move |x: &Tensor| if blocks > 1 { op(&[x], x, 0) } else { Ok(x.clone()) };
    let cast = move |x: &Tensor, dtype: DType| match x.dtype() == dtype {
        true => Ok(x.clone()),
        false => op(&[x], &hollow(x.shape(), dtype)?, 0),
    };
    // queries and keys as scores are made of them, and the probabilities
    let probabilities = {
        let (queries, keys, scores) = (queries.clone(), keys.clone(), scores.clone());
        move || -> Result<[Tensor; 3]> {
            let (queries, keys) = (cast(&queries, wide)?, cast(&keys, wide)?);
            if wide != dtype {
                op(&[&queries], &queries, 0)?; // scaled
            }
            let product = op(&[&queries, &keys], &scores, products)?;
            let masked = if causal { op(&[&product], &scores, 0)? } else { product };
            Ok([queries, keys, op(&[&masked], &scores, 0)?])
        }
    };
    if wide == dtype {
        turned_heads(&queries)?; // scaled
    }
    for x in [q, k, v] {
        turned_heads(x.value())?;
    }
    part(&queries)?;
    let [.., p] = probabilities()?;
    let out = part(&op(&[&cast(&p, dtype)?, v.value()], &queries, products)?)?;
    let out = turned_heads(&out)?;
    Ok(Var::record(out, [q, k, v], move |grad, flow| {
        let grad = turned_heads(&grad)?;
        part(&queries)?;
        part(&grad)?;
        let [wide_queries, wide_keys, p] = probabilities()?;
        if flow.needs(2) {
            let p = cast(&p, dtype)?;
            flow.add(2, turned_heads(&part(&op(&[&p, &grad], &keys, products)?)?)?)?;
        }
        if !flow.needs(0) && !flow.needs(1) {
            return Ok(());
        }
        let dp = op(&[&grad, &keys], &hollow(scores.shape(), dtype)?, products)?;
        let ds = op(&[&p, &cast(&dp, wide)?], &scores, 0)?;
        if flow.needs(0) {
            let dq = op(&[&ds, &wide_keys], &wide_queries, products)?;
            let dq = cast(&op(&[&dq], &dq, 0)?, dtype)?;
            flow.add(0, turned_heads(&part(&dq)?)?)?;
        }
        if flow.needs(1) {
            let dk = part(&op(&[&ds, &wide_queries], &wide_keys, products)?)?;
            flow.add(1, turned_heads(&cast(&dk, dtype)?)?)?;
        }
        Ok(())
    }))
}

/// The copy that puts heads first, or last again; or one more pass over as much.
fn turned_heads(x: &Tensor) -> Result<Tensor> {
    call(Kind::Attention, &[x]).run(x.shape(), x.dtype(), nothing)
}

/// What computes where operations are only counted.
pub(super) fn nothing() -> Result<Tensor> {
    unreachable!("counted")
}
