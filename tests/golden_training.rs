//! Gradients and optimiser steps of the Custom Diffusion loss, against diffusers' script: see
//! tests/golden/README.md.

mod common;

use candle_core::{DType, Device, Tensor};
use cdbench::diffusion::Backbone;
use cdbench::diffusion::config::PredictionType;
use cdbench::diffusion::scheduler::NoiseSchedule;
use cdbench::nn::{Gradients, Param, Var, ops, reference};
use cdbench::train::{
    AdamW, AdamWConfig, Group, Trainable, clip_factor, gradient_norm, gradients, loss,
};
use common::{Golden, assert_close, floats, path};

const TOLERANCE: f64 = 1e-3;

struct Case {
    backbone: Backbone,
    golden: Golden,
    trained: Vec<Param>,
}

impl Case {
    fn new(name: &str, train: &str) -> Self {
        Case::computed_in(DType::F32, name, train)
    }

    fn computed_in(dtype: DType, name: &str, train: &str) -> Self {
        let forward = Golden::load(&format!("{name}_forward.safetensors"));
        let golden = Golden::load(&format!("{name}_training.safetensors"));
        let mut backbone = Backbone::load(&path(name), &Device::Cpu, dtype).unwrap();
        backbone.text_encoder.add_tokens(forward.get("rows")).unwrap();
        let components = [
            ("unet", backbone.unet.params()),
            ("text_encoder", backbone.text_encoder.params()),
            ("vae", backbone.vae.params()),
        ];
        let trained = train.parse::<Trainable>().unwrap().apply(&components).unwrap();
        Case { backbone, golden, trained }
    }

    /// Two instance samples, two class samples, in parts of one image.
    fn gradients(&self) -> (f64, Gradients) {
        let get = |key: &str| self.golden.get(key);
        let (latents, noise) = (get("latents"), get("noise"));
        let timesteps: Vec<usize> = floats(&get("timesteps").to_dtype(DType::F32).unwrap())
            .iter()
            .map(|&t| t as usize)
            .collect();
        let schedule = NoiseSchedule::new(&self.backbone.scheduler);
        let noisy = schedule.add_noise(latents, noise, &timesteps).unwrap();
        let target = match self.backbone.scheduler.prediction_type {
            PredictionType::VPrediction => schedule.velocity(latents, noise, &timesteps).unwrap(),
            _ => noise.clone(),
        };
        let instance = loss::masked_weights(&get("mask").narrow(0, 0, 2).unwrap()).unwrap();
        let numbers = latents.elem_count() / 4;
        let class = loss::mean_weights(2, numbers, &Device::Cpu).unwrap();
        let weights = loss::with_prior(&instance, &class, 1.0).unwrap();
        let ids: Vec<Vec<u32>> = get("ids").to_dtype(DType::U32).unwrap().to_vec2().unwrap();
        gradients(4, 1, &Device::Cpu, |part| {
            let rows = |x: &Tensor| x.narrow(0, part.images.start, part.images.len());
            let text = self.backbone.text_encoder.forward(&ids[part.images.clone()])?;
            let t: Vec<f64> = timesteps[part.images.clone()].iter().map(|&t| t as f64).collect();
            let out = self.backbone.unet.forward(&Var::constant(rows(&noisy)?), &t, &text)?;
            Ok(loss::squared_error(&out, &rows(&target)?, &rows(&weights)?)?)
        })
        .unwrap()
    }

    /// Trains for five steps; `check` is given each step's loss and norm by name, with the golden ones.
    fn train(&mut self, check: impl Fn(usize, &str, f64, f32)) {
        let group = Group { params: self.trained.clone(), lr: 5e-3, weight_decay: 1e-2 };
        let mut optimizer = AdamW::new(AdamWConfig::default(), vec![group]).unwrap();
        let losses = floats(self.golden.get("train.losses"));
        let norms = floats(self.golden.get("train.norms"));
        for step in 0..5 {
            let (loss, gradients) = self.gradients();
            let norm = gradient_norm(&self.trained, &gradients).unwrap();
            check(step, "loss", loss, losses[step]);
            check(step, "norm", norm, norms[step]);
            optimizer.step(&gradients, 1.0, clip_factor(norm, 1.0)).unwrap();
        }
    }

    /// The golden name of a trained parameter.
    fn key(&self, prefix: &str, param: &Param) -> String {
        match self.backbone.text_encoder.added() {
            Some(added) if added.name() == param.name() => format!("{prefix}.rows"),
            _ => format!("{prefix}.unet.{}", param.name()),
        }
    }
}

#[track_caller]
fn gradient(param: &Param, gradients: &Gradients) -> Tensor {
    let gradient = param.grad_to_file(gradients).unwrap();
    gradient.unwrap_or_else(|| panic!("no gradient of {}", param.name()))
}

fn on_both(check: impl Fn(&str)) {
    for name in ["sd1", "sd2"] {
        check(name);
        reference(|| check(name));
    }
}

#[test]
fn gradients_of_keys_values_and_rows() {
    on_both(|name| {
        let mut case = Case::new(name, "kv,tokens");
        for checkpointing in [false, true] {
            case.backbone.unet.set_checkpointing(checkpointing);
            case.backbone.unet.set_detach_start_of_text(true);
            let (_, gradients) = case.gradients();
            for param in &case.trained {
                let found = gradient(param, &gradients);
                let key = case.key("grad", param);
                assert_close(&key, &found, case.golden.get(&key), TOLERANCE);
            }
            let golden = case.golden.under("grad.unet.").count();
            assert_eq!(case.trained.len(), golden + 1, "every golden gradient was compared");
        }
    });
}

#[test]
fn five_optimiser_steps() {
    on_both(|name| {
        let mut case = Case::new(name, "kv,tokens");
        case.backbone.unet.set_detach_start_of_text(true);
        let before: Vec<Tensor> = case.trained.iter().map(|p| p.to_file().unwrap()).collect();
        let all_before: Vec<_> =
            case.backbone.params().map(|p| (p.clone(), floats(&p.to_file().unwrap()))).collect();
        case.train(|_, what, found, wanted| {
            let wanted = f64::from(wanted);
            let near = (found - wanted).abs() <= TOLERANCE * wanted;
            assert!(near, "{what} {found}, wanted {wanted}");
        });
        for (param, before) in case.trained.iter().zip(before) {
            let key = case.key("train", param);
            let (found, wanted) = (param.to_file().unwrap(), case.golden.get(&key));
            assert_close(&key, &found, wanted, TOLERANCE);
            let (found, wanted) = ((found - &before).unwrap(), (wanted - &before).unwrap());
            assert_close(&format!("change of {key}"), &found, &wanted, 5e-3);
        }
        for (param, before) in all_before {
            let moved = floats(&param.to_file().unwrap()) != before;
            let trained = case.trained.iter().any(|p| p.name() == param.name());
            assert_eq!(moved, trained, "{}", param.name());
        }
    });
}

/// Frozen weights and activations in bf16, what is trained, the losses and the optimiser in f32.
#[test]
fn five_optimiser_steps_in_mixed_precision() {
    for name in ["sd1", "sd2"] {
        let mut case = Case::computed_in(DType::BF16, name, "kv,tokens");
        case.backbone.unet.set_detach_start_of_text(true);
        let before: Vec<Tensor> = case.trained.iter().map(|p| p.to_file().unwrap()).collect();
        case.train(|step, what, found, wanted| {
            let error = (found / f64::from(wanted) - 1.0).abs();
            println!("{name} step {step}: {what} {found}, wanted {wanted}");
            assert!(error <= 0.05, "{name} step {step}: {what} {found}, wanted {wanted}");
        });
        for (param, before) in case.trained.iter().zip(before) {
            let (found, wanted) =
                (param.to_file().unwrap(), case.golden.get(&case.key("train", param)));
            assert_eq!(found.dtype(), DType::F32);
            let changes = [found, wanted.clone()].map(|x| floats(&(x - &before).unwrap()));
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let [found, wanted] = &changes;
            let cosine = dot(found, wanted) / (dot(found, found) * dot(wanted, wanted)).sqrt();
            println!("{name} {}: {cosine}", param.name());
            assert!(cosine > 0.98, "{name} {} went another way: {cosine}", param.name());
        }
    }
}

/// ‖gradient‖ and its first eight values.
fn summary(gradient: &Tensor) -> Tensor {
    let values = floats(gradient);
    let norm = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32;
    let mut summary = vec![norm];
    summary.extend(values.iter().take(8));
    summary.resize(9, 0.0);
    Tensor::new(summary, &Device::Cpu).unwrap()
}

#[test]
fn gradients_of_the_whole_unet() {
    on_both(|name| {
        let case = Case::new(name, "unet,tokens");
        let (_, gradients) = case.gradients();
        for param in &case.trained {
            let found = gradient(param, &gradients);
            let key = case.key("full", param);
            let found = if key == "full.rows" { found } else { summary(&found) };
            assert_close(&key, &found, case.golden.get(&key), TOLERANCE);
        }
        assert_eq!(case.trained.len(), case.golden.under("full.unet.").count() + 1);
    });
}

#[test]
fn gradients_of_the_vae() {
    on_both(|name| {
        let case = Case::new(name, "vae");
        let forward = Golden::load(&format!("{name}_forward.safetensors"));
        let images = forward.get("vae.images").clone();
        let posterior = case.backbone.vae.encode(&Var::constant(images.clone())).unwrap();
        let z = posterior.sample(case.golden.get("vae.eps")).unwrap();
        let decoded = case.backbone.vae.decode(&z).unwrap();
        let l1 = ops::composed([&decoded], move |[x]| (x - &images)?.abs()?.mean_all()).unwrap();
        let kl = ops::scale(&posterior.kl().unwrap(), 1e-4 / 2.0).unwrap();
        let gradients = ops::add(&l1, &kl).unwrap().backward(1.0).unwrap();
        for param in &case.trained {
            let found = gradient(param, &gradients);
            let key = format!("vae.grad.{}", param.name());
            let (found, wanted) = (summary(&found), case.golden.get(&key));
            if param.name().ends_with("to_k.bias") {
                let worst =
                    floats(&(found - wanted).unwrap()).iter().fold(0f32, |m, v| m.max(v.abs()));
                assert!(worst < 1e-5, "{key}: off by {worst}");
            } else {
                assert_close(&key, &found, wanted, TOLERANCE);
            }
        }
    });
}
