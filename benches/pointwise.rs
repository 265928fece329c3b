//! Times the operations between products on the CPU: normalisation, attention, activations, maps.
//! Prints a JSON object with the keys of `benches/torch_peer.py`. A batch is cut into two parts, one
//! thread each, as in training.
//!
//!     cargo bench --bench pointwise [-- PREFIX]

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use cdbench::nn::{Var, ops, parallel};
use cdbench::rng::Rng;
use serde_json::{Map, Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTS: usize = 2;
const REPEATS: usize = 200;

struct Bench {
    prefix: String,
    ms: Map<String, Value>,
}

type Op = fn(&[Var]) -> Result<Var>;

impl Bench {
    /// Times `f` on operands of these shapes, forward and then with the gradients of all operands. An
    /// operand of rank 1 is a parameter; the others are cut along the batch.
    fn op(&mut self, name: &str, shapes: &[&[usize]], f: Op) -> Result<()> {
        let mut parts: Vec<Vec<Tensor>> = vec![vec![]; PARTS];
        for shape in shapes {
            let x = Rng::new(0, "bench").normal(*shape, &Device::Cpu)?;
            for (i, part) in parts.iter_mut().enumerate() {
                let len = shape[0] / PARTS;
                let cut = || x.narrow(0, i * len, len)?.force_contiguous();
                part.push(if shape.len() == 1 { x.clone() } else { cut()? });
            }
        }
        let run = |part: usize, wrap: fn(Tensor) -> Var| {
            let vars: Vec<Var> = parts[part].iter().cloned().map(wrap).collect();
            f(&vars)
        };
        self.time(&format!("{name}_fwd"), |i| run(i, Var::constant).map(|_| ()))?;
        let gradient = run(0, Var::constant)?.value().randn_like(0.0, 1.0)?;
        self.time(&format!("{name}_fwdbwd"), |i| {
            let y = run(i, Var::leaf)?;
            let gradient = gradient.clone();
            let scalar = Tensor::zeros((), DType::F32, &Device::Cpu)?;
            Var::record(scalar, [&y], move |_, flow| flow.add(0, gradient))
                .backward(1.0)
                .map(|_| ())
        })
    }

    fn time(&mut self, name: &str, f: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
        if !name.starts_with(&self.prefix) {
            return Ok(());
        }
        let mut times = vec![];
        for i in 0..REPEATS + 20 {
            let start = Instant::now();
            parallel::parts(PARTS, &f)?;
            if i >= 20 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        times.sort_by(f64::total_cmp);
        let median = times[REPEATS / 2];
        eprintln!("{name:30} {median:8.3} ms (least {:.3})", times[0]);
        self.ms.insert(name.into(), median.into());
        Ok(())
    }
}

fn main() -> Result<()> {
    // cargo passes --bench
    let prefix = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let mut bench = Bench { prefix, ms: Map::new() };
    let map: &[usize] = &[16, 16, 16, 128];
    let norm: &[&[usize]] = &[map, &[128], &[128]];
    bench.op("group_norm", norm, |x| ops::group_norm(&x[0], &x[1], &x[2], 32, 1e-5, false))?;
    bench.op("group_norm_silu", norm, |x| ops::group_norm(&x[0], &x[1], &x[2], 32, 1e-5, true))?;
    bench.op("layer_norm", &[&[16, 256, 128], &[128], &[128]], |x| {
        ops::layer_norm(&x[0], &x[1], &x[2], 1e-5)
    })?;
    bench.op("silu", &[map], |x| ops::silu(&x[0]))?;
    bench.op("gelu", &[map], |x| ops::gelu(&x[0]))?;
    bench.op("geglu", &[&[8, 256, 512]], |x| ops::geglu(&x[0]))?;
    let tokens: &[usize] = &[8, 256, 64];
    bench.op("attention2", &[tokens; 3], |x| ops::attention(&x[0], &x[1], &x[2], 2, false))?;
    let tokens: &[usize] = &[8, 256, 128];
    bench.op("attention4", &[tokens; 3], |x| ops::attention(&x[0], &x[1], &x[2], 4, false))?;
    let cross: &[&[usize]] = &[&[8, 256, 64], &[8, 20, 64], &[8, 20, 64]];
    bench.op("cross_attention2", cross, |x| ops::attention(&x[0], &x[1], &x[2], 2, false))?;
    let cross: &[&[usize]] = &[&[8, 256, 128], &[8, 20, 128], &[8, 20, 128]];
    bench.op("cross_attention4", cross, |x| ops::attention(&x[0], &x[1], &x[2], 4, false))?;
    bench.op("upsample", &[&[8, 8, 8, 128]], |x| ops::upsample_nearest_2x(&x[0]))?;
    bench.op("concat", &[map, map], |x| ops::concat_channels(&x[0], &x[1]))?;
    bench.op("add", &[map, map], |x| ops::add(&x[0], &x[1]))?;
    bench.op("mul", &[map, map], |x| ops::mul(&x[0], &x[1]))?;
    println!("{:#}", json!({ "threads": rayon::current_num_threads(), "ms": bench.ms }));
    Ok(())
}
