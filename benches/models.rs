//! The project's side of the side-by-side benchmark of whole steps: see `benches/torch_peer.py` for the
//! names, and `benches/compare.py`, which runs both.
//!
//!     cargo bench --bench models -- DIR [REPEATS [STEP]]

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use cdbench::diffusion::Backbone;
use cdbench::diffusion::scheduler::{NoiseSchedule, SchedulerKind};
use cdbench::nn::{Param, Var, flops, no_grad, parallel};
use cdbench::train::{
    AdamW, AdamWConfig, Group, Trainable, clip_factor, gradient_norm, gradients, images_per_part,
    loss,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 8;
const GUIDANCE: f64 = 6.0;

struct Bench {
    dir: String,
    inputs: HashMap<String, Tensor>,
    repeats: usize,
    ms: serde_json::Map<String, serde_json::Value>,
    gflop: serde_json::Map<String, serde_json::Value>,
    check: serde_json::Map<String, serde_json::Value>,
}

fn main() {
    cdbench::process::prepare();
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    let Some(dir) = args.next() else {
        // as `cargo test --benches` calls it: there is nothing to measure
        return;
    };
    let repeats = args.next().map_or(30, |n| n.parse().expect("REPEATS is a number"));
    let path = Path::new(&dir).join("bench.safetensors");
    let inputs =
        candle_core::safetensors::load(path, &Device::Cpu).expect("DIR of torch_peer --make");
    let empty = serde_json::Map::new;
    let mut bench = Bench { dir, inputs, repeats, ms: empty(), gflop: empty(), check: empty() };
    let only = args.next();
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only == name);
    if wanted("kv_step") {
        bench.unet_step("kv").unwrap();
    }
    if wanted("full_step") {
        bench.unet_step("unet").unwrap();
    }
    if wanted("denoise_step") {
        bench.denoise_step().unwrap();
    }
    if wanted("custom_step") {
        bench.custom_step().unwrap();
    }
    let report = serde_json::json!({
        "threads": rayon::current_num_threads(),
        "repeats": repeats,
        "ms": bench.ms,
        "gflop": bench.gflop,
        "check": bench.check,
    });
    println!("{report:#}");
}

impl Bench {
    fn get(&self, name: &str) -> &Tensor {
        &self.inputs[name]
    }

    fn timesteps(&self) -> Vec<usize> {
        let steps = self.get("timesteps").to_dtype(DType::U32).unwrap().to_vec1::<u32>().unwrap();
        steps.into_iter().map(|t| t as usize).collect()
    }

    fn load(&self) -> Backbone {
        Backbone::load(&self.dir, &Device::Cpu, DType::F32).unwrap()
    }

    fn check(&mut self, name: &str, value: f64) {
        self.check.insert(name.into(), value.into());
    }

    /// The median of several calls, after three that do not count.
    fn measure(&mut self, name: &str, mut step: impl FnMut() -> f64) {
        for _ in 0..3 {
            step();
        }
        let before = flops::count();
        step();
        self.gflop.insert(name.into(), ((flops::count() - before) as f64 / 1e9).into());
        let mut ms: Vec<f64> = (0..self.repeats)
            .map(|_| {
                let start = Instant::now();
                step();
                1e3 * start.elapsed().as_secs_f64()
            })
            .collect();
        ms.sort_by(f64::total_cmp);
        self.ms.insert(name.into(), ms[ms.len() / 2].into());
    }

    /// A training step of the UNet alone on given inputs.
    fn unet_step(&mut self, train: &str) -> Result<()> {
        let backbone = self.load();
        let trained =
            train.parse::<Trainable>().unwrap().apply(&[("unet", backbone.unet.params())]).unwrap();
        let mut optimizer = optimizer(&trained);
        let schedule = NoiseSchedule::new(&backbone.scheduler);
        let steps = self.timesteps();
        let noisy = schedule.add_noise(self.get("latents"), self.get("noise"), &steps).unwrap();
        let (noise, text) = (self.get("noise").clone(), self.get("text").clone());
        let weights = loss::mean_weights(BATCH, noise.elem_count() / BATCH, &Device::Cpu)?;
        let images_per_part = images_per_part(&Device::Cpu, 16 * 16);
        let mut step = || {
            let (loss, gradients) = gradients(BATCH, images_per_part, &Device::Cpu, |part| {
                let rows = |x: &Tensor| x.narrow(0, part.images.start, part.images.len());
                let t: Vec<f64> = steps[part.images.clone()].iter().map(|&t| t as f64).collect();
                let (noisy, text) = (Var::constant(rows(&noisy)?), Var::constant(rows(&text)?));
                let out = backbone.unet.forward(&noisy, &t, &text)?;
                Ok(loss::squared_error(&out, &rows(&noise)?, &rows(&weights)?)?)
            })
            .unwrap();
            optimizer.step(&gradients, 1.0, 1.0).unwrap();
            loss
        };
        let first = step();
        let name = if train == "kv" { "kv" } else { "full" };
        self.check(&format!("{name}_loss"), first);
        self.measure(&format!("{name}_step"), step);
        Ok(())
    }

    /// One guided DDIM step of eight images.
    fn denoise_step(&mut self) -> Result<()> {
        let backbone = self.load();
        let ddim = SchedulerKind::Ddim.scheduler(&backbone.scheduler, 50, 0.0).unwrap();
        let t = ddim.timesteps()[10] as f64;
        let (latents, text) = (self.get("latents").clone(), self.get("text").clone());
        let without = self.get("uncond_text").clone();
        let images = 4;
        let step = || {
            let parts = parallel::parts(BATCH / images, |i| {
                no_grad(|| -> cdbench::Result<Tensor> {
                    let rows = |x: &Tensor| x.narrow(0, i * images, images);
                    let latents = rows(&latents)?;
                    let twice = Var::constant(Tensor::cat(&[&latents, &latents], 0)?);
                    let text = Var::constant(Tensor::cat(&[&rows(&without)?, &rows(&text)?], 0)?);
                    let out = backbone.unet.forward(&twice, &vec![t; 2 * images], &text)?;
                    let halves = out.value().chunk(2, 0)?;
                    let guided = (&halves[0] + ((&halves[1] - &halves[0])? * GUIDANCE)?)?;
                    // step 10 of a sampler without memory
                    let mut ddim = SchedulerKind::Ddim.scheduler(&backbone.scheduler, 50, 0.0)?;
                    ddim.step(&guided, 10, &latents, None)
                })
            })
            .unwrap();
            let squares = parts.iter().map(|x| x.sqr().unwrap().sum_all().unwrap());
            f64::from(squares.map(|s| s.to_scalar::<f32>().unwrap()).sum::<f32>()).sqrt()
        };
        let norm = step();
        self.check("denoise_norm", norm);
        self.measure("denoise_step", step);
        Ok(())
    }

    /// A whole Custom Diffusion step on four instance and four class images. What does not change from
    /// step to step is computed once: the posteriors of the latents, and the text states of the class
    /// captions, which hold no new token.
    fn custom_step(&mut self) -> Result<()> {
        let mut backbone = self.load();
        backbone.unet.set_detach_start_of_text(true);
        backbone.text_encoder.add_tokens(&self.get("row").unsqueeze(0)?).unwrap();
        let components =
            [("unet", backbone.unet.params()), ("text_encoder", backbone.text_encoder.params())];
        let trained = "kv,tokens".parse::<Trainable>().unwrap().apply(&components).unwrap();
        let mut optimizer = optimizer(&trained);
        let schedule = NoiseSchedule::new(&backbone.scheduler);
        let steps = self.timesteps();
        let ids: Vec<Vec<u32>> = self.get("ids").to_dtype(DType::U32)?.to_vec2()?;

        let images = Var::constant(self.get("images").clone());
        let posterior = no_grad(|| backbone.vae.encode(&images))?;
        let class_text = no_grad(|| backbone.text_encoder.forward(&ids[4..]))?;

        let noise = self.get("noise").clone();
        let eps = self.get("vae_noise").clone();
        let instance = loss::masked_weights(&self.get("mask").narrow(0, 0, 4)?).unwrap();
        let class = loss::mean_weights(4, noise.elem_count() / BATCH, &Device::Cpu)?;
        let weights = loss::with_prior(&instance, &class, 1.0)?;
        let mut step = || {
            let latents = backbone.vae.scale(&posterior.sample(&eps).unwrap()).unwrap();
            let noisy = schedule.add_noise(latents.value(), &noise, &steps).unwrap();
            let (loss, gradients) = gradients(BATCH, 4, &Device::Cpu, |part| {
                let rows = |x: &Tensor| x.narrow(0, part.images.start, part.images.len());
                let text = match part.images.start {
                    0 => backbone.text_encoder.forward(&ids[..4])?,
                    _ => class_text.clone(),
                };
                let t: Vec<f64> = steps[part.images.clone()].iter().map(|&t| t as f64).collect();
                let out = backbone.unet.forward(&Var::constant(rows(&noisy)?), &t, &text)?;
                Ok(loss::squared_error(&out, &rows(&noise)?, &rows(&weights)?)?)
            })
            .unwrap();
            let norm = gradient_norm(&trained, &gradients).unwrap();
            optimizer.step(&gradients, 1.0, clip_factor(norm, 1.0)).unwrap();
            loss
        };
        let first = step();
        self.check("custom_loss", first);
        self.measure("custom_step", step);
        Ok(())
    }
}

fn optimizer(trained: &[Param]) -> AdamW {
    let group = Group { params: trained.to_vec(), lr: 1e-5, weight_decay: 1e-2 };
    AdamW::new(AdamWConfig::default(), vec![group]).unwrap()
}
