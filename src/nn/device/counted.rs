//! What linear layers and attention tell a device to do, for those operations are not written in terms of
//! [`call`]: where they change, this does.

use candle_core::{DType, Result, Shape, Tensor};

use super::tally::{Kind, call, hollow};
use crate::nn::Var;
use crate::nn::ops::at_least_f32;
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

/// Attention of queries [batch, n, width] over keys and values [batch, m, width], with `blocks` blocks of
/// queries one after another.
pub fn count_attention(q: &Var, k: &Var, v: &Var, heads: usize, blocks: usize) -> Result<Var> {
    let (batch, n, width) = q.value().dims3()?;
    let m = k.value().dim(1)?;
    let dtype = q.value().dtype();
    let (rows, keys) = (q.value().clone(), k.value().clone());
    // All blocks of an operation count together: they read and write what the whole does.
    let op = move |reads: &[&Tensor], like: &Tensor, products: usize| {
        call(Kind::Attention, reads).launches(blocks).products(products).run(
            like.shape(),
            like.dtype(),
            nothing,
        )
    };
    let copy = |x: &Tensor| call(Kind::Attention, &[x]).run(x.shape(), x.dtype(), nothing);
    let products = batch * n * m * width;
    let part = move |x: &Tensor| if blocks > 1 { op(&[x], x, 0) } else { Ok(x.clone()) };
    let scores = hollow((batch, heads, n, m), dtype)?;
    let wide = hollow((batch, heads, n, m), at_least_f32(dtype))?;
    let of_query = hollow((batch, heads, n, 1), at_least_f32(dtype))?;
    let probabilities = {
        let (rows, keys) = (rows.clone(), keys.clone());
        move || -> Result<Tensor> {
            let turned = op(&[&keys], &keys, 0)?;
            let mut s = op(&[&rows, &turned], &scores, products)?;
            s = op(&[&s], &s, 0)?; // scale
            if s.dtype() != wide.dtype() {
                s = op(&[&s], &wide, 0)?;
            }
            let most = op(&[&s], &of_query, 0)?;
            s = op(&[&s, &most], &s, 0)?;
            s = op(&[&s], &s, 0)?; // exp
            let sum = op(&[&s], &of_query, 0)?;
            s = op(&[&s, &sum], &s, 0)?;
            if s.dtype() != scores.dtype() {
                s = op(&[&s], &scores, 0)?;
            }
            Ok(s)
        }
    };
    for x in [q, k, v] {
        copy(x.value())?; // heads
    }
    part(&rows)?;
    let p = probabilities()?;
    let out = part(&op(&[&p, v.value()], &rows, products)?)?;
    let out = copy(&out)?;
    Ok(Var::record(out, [q, k, v], move |grad, flow| {
        let copy = |x: &Tensor| call(Kind::Attention, &[x]).run(x.shape(), x.dtype(), nothing);
        let grad = copy(&grad)?;
        let turned = copy(&keys)?;
        for x in [&rows, &grad, &rows] {
            part(x)?;
        }
        let p = probabilities()?;
        let of_query = hollow((batch, heads, n, 1), dtype)?;
        if flow.needs(2) {
            let across = op(&[&p], &p, 0)?;
            flow.add(2, copy(&op(&[&across, &grad], &keys, products)?)?)?;
        }
        let inner = op(&[&grad, &rows], &rows, 0)?;
        let inner = op(&[&inner], &of_query, 0)?;
        let dp = op(&[&grad, &turned], &p, products)?;
        let dp = op(&[&dp, &inner], &dp, 0)?;
        let ds = op(&[&p, &dp], &dp, 0)?;
        if flow.needs(0) {
            let dq = op(&[&ds, &turned], &rows, products)?;
            flow.add(0, copy(&part(&op(&[&dq], &rows, 0)?)?)?)?;
        }
        if flow.needs(1) {
            let across = op(&[&ds], &ds, 0)?;
            let dk = op(&[&across, &rows], &keys, products)?;
            flow.add(1, copy(&op(&[&dk], &keys, 0)?)?)?;
        }
        Ok(())
    }))
}

/// What computes where operations are only counted.
pub(super) fn nothing() -> Result<Tensor> {
    unreachable!("counted")
}
