//! Times the operations of `nn` on the CPU; prints a JSON object with the keys of
//! `benches/torch_peer.py`.
//!
//!     cargo bench --bench ops [-- PREFIX]

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use cdbench::nn::{Padding, Param, Var, ops, parallel};
use cdbench::rng::Rng;
use serde_json::{Map, Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const REPEATS: usize = 25;

#[derive(Default)]
struct Results {
    prefix: String,
    ms: Map<String, Value>,
    gflop: Map<String, Value>,
    gflops: Map<String, Value>,
}

impl Results {
    /// Times `f`, which does `gflop` operations (a multiplication and an addition are two).
    fn time(&mut self, name: &str, gflop: f64, mut f: impl FnMut() -> Result<()>) -> Result<()> {
        if !name.starts_with(&self.prefix) {
            return Ok(());
        }
        let mut times = vec![];
        for i in 0..REPEATS + 3 {
            let start = Instant::now();
            f()?;
            if i >= 3 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        times.sort_by(f64::total_cmp);
        let (median, least) = (times[REPEATS / 2], times[0]);
        eprintln!(
            "{name:40} {median:9.3} ms (least {least:.3}) {:8.1} GFLOP/s (most {:.1})",
            gflop / median * 1e3,
            gflop / least * 1e3
        );
        self.ms.insert(name.into(), median.into());
        self.gflop.insert(name.into(), gflop.into());
        self.gflops.insert(name.into(), (gflop / median * 1e3).into());
        Ok(())
    }

    fn matmul(&mut self, n: usize) -> Result<()> {
        let (a, b) = (Var::constant(normal(&[n, n])?), Var::constant(normal(&[n, n])?));
        let gflop = 2e-9 * (n * n * n) as f64;
        let run = || ops::linear(&a, &b, None).map(|_| ());
        self.time(&format!("matmul_{n}"), gflop, run)?;
        self.time(&format!("one_thread_matmul_{n}"), gflop, || on_one_thread(run))
    }

    /// Forward; forward and the input's gradient; forward and all three gradients.
    fn conv(&mut self, name: &str, case: Conv, one_thread: bool) -> Result<()> {
        if !name.starts_with(&self.prefix) {
            return Ok(());
        }
        let Conv { batch, inputs, outputs, side, size, stride } = case;
        let x = normal(&[batch, side, side, inputs])?;
        let param = |shape: &[usize]| Param::new("p", &normal(shape)?, DType::F32);
        let (w, b) = (param(&[outputs, inputs, size, size])?, param(&[outputs])?);
        let run = |x: &Var| ops::conv2d(x, &w, &b, stride, Padding::same(size / 2));
        let constant = Var::constant(x.clone());
        let y = run(&constant)?;
        let gflop = 2e-9 * (y.value().elem_count() * inputs * size * size) as f64;
        let dy = normal(y.dims())?;
        let here = |f: &(dyn Fn() -> Result<()> + Sync)| {
            if one_thread { on_one_thread(f) } else { f() }
        };
        let with_gradients = || backward(&run(&Var::leaf(x.clone()))?, &dy);
        self.time(&format!("{name}_fwd"), gflop, || here(&|| run(&constant).map(|_| ())))?;
        self.time(&format!("{name}_fwdbwd_frozen"), 2.0 * gflop, || here(&with_gradients))?;
        w.set_trainable(true)?;
        b.set_trainable(true)?;
        self.time(&format!("{name}_fwdbwd"), 3.0 * gflop, || {
            // as after a step of an optimiser
            w.set_value(w.value());
            here(&with_gradients)
        })
    }

    fn linear(&mut self, name: &str, rows: usize, inputs: usize, outputs: usize) -> Result<()> {
        let x = normal(&[rows, inputs])?;
        let (w, b) = (Var::leaf(normal(&[outputs, inputs])?), Var::leaf(normal(&[outputs])?));
        let dy = normal(&[rows, outputs])?;
        let gflop = 2e-9 * (rows * inputs * outputs) as f64;
        let run = |x: &Var, w: &Var, b: &Var| ops::linear(x, w, Some(b));
        let (frozen_w, frozen_b, constant) = (w.detach(), b.detach(), Var::constant(x.clone()));
        self.time(&format!("{name}_fwd"), gflop, || {
            on_one_thread(|| run(&constant, &frozen_w, &frozen_b).map(|_| ()))
        })?;
        self.time(&format!("{name}_fwdbwd"), 3.0 * gflop, || {
            on_one_thread(|| backward(&run(&Var::leaf(x.clone()), &w, &b)?, &dy))
        })
    }
}

#[derive(Clone, Copy)]
struct Conv {
    batch: usize,
    inputs: usize,
    outputs: usize,
    side: usize,
    size: usize,
    stride: usize,
}

fn normal(shape: &[usize]) -> Result<Tensor> {
    Rng::new(0, "bench").normal(shape, &Device::Cpu)
}

fn backward(y: &Var, dy: &Tensor) -> Result<()> {
    let dy = dy.clone();
    let scalar = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    Var::record(scalar, [y], move |_, flow| flow.add(0, dy)).backward(1.0).map(|_| ())
}

/// Runs `f` as one of two parts of a batch runs.
fn on_one_thread(f: impl Fn() -> Result<()> + Sync) -> Result<()> {
    parallel::parts(2, |i| if i == 0 { f() } else { Ok(()) }).map(|_| ())
}

fn main() -> Result<()> {
    let prefix = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let mut results = Results { prefix, ..Default::default() };
    let same = |batch, inputs, outputs, side| {
        let (size, stride) = (3, 1);
        Conv { batch, inputs, outputs, side, size, stride }
    };
    results.matmul(1024)?;
    results.conv("conv3x3", same(16, 128, 128, 16), false)?;
    for (inputs, outputs, side) in [
        (64, 64, 16),
        (128, 64, 16),
        (128, 128, 8),
        (192, 192, 4),
        (320, 192, 4),
        (4, 64, 16),
        (64, 4, 16),
    ] {
        let name = format!("mini_conv3x3_{inputs}_{outputs}_{side}");
        results.conv(&name, same(4, inputs, outputs, side), true)?;
    }
    results.conv("mini_down_64_16", Conv { stride: 2, ..same(4, 64, 64, 16) }, true)?;
    results.conv("mini_conv1x1_128_64_16", Conv { size: 1, ..same(4, 128, 64, 16) }, true)?;
    for (rows, inputs, outputs) in [(1024, 64, 64), (1024, 64, 512), (256, 512, 128)] {
        results.linear(&format!("mini_linear_{rows}_{inputs}_{outputs}"), rows, inputs, outputs)?;
    }
    for (channels, side) in [(320, 64), (640, 32), (1280, 16), (1280, 8)] {
        let name = format!("sd_conv3x3_{channels}_{side}");
        results.conv(&name, same(1, channels, channels, side), false)?;
    }
    println!(
        "{:#}",
        json!({
            "threads": rayon::current_num_threads(),
            "repeats": REPEATS,
            "ms": results.ms,
            "gflop": results.gflop,
            "gflops": results.gflops,
        })
    );
    Ok(())
}
