//! Launches of the kernels in `attention.cu`.

use candle_core::{DType, Result, Tensor, bail};

use super::launch::{Code, Grid, Number, empty, like};
use crate::nn::device::attention::OnChip;

const ATTENTION: Code = Code {
    module: "cdbench-attention",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/attention.ptx")),
};

/// Rows of a block, and its threads.
const TILE: usize = 64;
const THREADS: usize = 128;

/// What the queries attend to, and the logarithm of each one's sum of exponentials [batch, heads, n].
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, form: OnChip) -> Result<[Tensor; 2]> {
    // what the kernels would not see, and read other numbers for it
    for x in [q, k, v] {
        if x.dtype() != q.dtype() || x.layout().start_offset() % 8 != 0 {
            bail!("attention takes operands of one type that start at each eighth number");
        }
    }
    let (batch, n, _) = q.dims3()?;
    let m = k.dim(1)?;
    let out = empty(q.shape(), q.dtype(), q)?;
    let log_sums = empty((batch, form.heads, n), DType::F32, q)?;
    let name = format!("attention_{}", form.padded);
    let tensors = [q, k, v, &out, &log_sums];
    ATTENTION.launch(&name, tiles(n, batch, form), &tensors, &numbers(n, m, form))?;
    Ok([out, log_sums])
}

/// The gradients of queries, and of keys and values, where they are needed.
pub fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    [out, log_sums]: [&Tensor; 2],
    grad: &Tensor,
    form: OnChip,
    needs: [bool; 2],
) -> Result<[Option<Tensor>; 3]> {
    let (batch, n, _) = q.dims3()?;
    let m = k.dim(1)?;
    let grad = like(grad, q)?;
    let along = empty(log_sums.shape(), DType::F32, q)?;
    let count = batch * n * form.heads;
    let sizes = [count, n, form.heads, form.d].map(Number::Int);
    ATTENTION.launch("attention_along", Grid::warps(count), &[out, &grad, &along], &sizes)?;

    let numbers = numbers(n, m, form);
    let launch = |of: &str, rows: usize, results: &[&Tensor]| {
        let name = format!("attention_{of}_{}", form.padded);
        let tensors = [&[q, k, v, &grad, log_sums, &along], results].concat();
        ATTENTION.launch(&name, tiles(rows, batch, form), &tensors, &numbers)
    };
    let mut gradients = [None, None, None];
    if needs[0] {
        let dq = empty(q.shape(), q.dtype(), q)?;
        launch("queries", n, &[&dq])?;
        gradients[0] = Some(dq);
    }
    if needs[1] {
        let (dk, dv) = (empty(k.shape(), k.dtype(), k)?, empty(v.shape(), v.dtype(), v)?);
        launch("keys", m, &[&dk, &dv])?;
        [gradients[1], gradients[2]] = [Some(dk), Some(dv)];
    }
    Ok(gradients)
}

/// A block for each so many rows of each head.
fn tiles(rows: usize, batch: usize, form: OnChip) -> Grid {
    Grid { blocks: [rows.div_ceil(TILE), batch * form.heads], threads: THREADS }
}

fn numbers(n: usize, m: usize, form: OnChip) -> Vec<Number> {
    let sizes = [n, m, form.heads, form.d, usize::from(form.causal)].map(Number::Int);
    let scale = 1.0 / (form.d as f64).sqrt();
    [&sizes[..], &[Number::Float(scale)]].concat()
}
