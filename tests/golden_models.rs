//! The networks and a whole guided sampling run, against diffusers and transformers: see
//! tests/golden/README.md.

mod common;

use std::cell::RefCell;

use candle_core::{DType, Device, Tensor};
use cdbench::diffusion::model::CrossAttention;
use cdbench::diffusion::scheduler::SchedulerKind;
use cdbench::diffusion::{AttentionMaps, Backbone, Request, Sampling, from_rgb};
use cdbench::nn::{Var, ops, reference};
use common::{Golden, assert_close, floats, path};

const TOLERANCE: f64 = 1e-4;

/// The backbone `sd1` or `sd2` with `<new1>` and `<new2>` added, and its golden values.
fn load(name: &str) -> (Backbone, Golden) {
    let golden = Golden::load(&format!("{name}_forward.safetensors"))
        .and(&format!("{name}_attention.safetensors"));
    let mut backbone = Backbone::load(&path(name), &Device::Cpu, DType::F32).unwrap();
    for token in ["<new1>", "<new2>"] {
        backbone.tokenizer.add_token(token).unwrap();
    }
    backbone.text_encoder.add_tokens(golden.get("rows")).unwrap();
    (backbone, golden)
}

/// Runs a check on both backbones, with the CPU kernels and with candle's operations, which are what
/// a GPU runs.
fn on_both(check: impl Fn(&Backbone, &Golden)) {
    for name in ["sd1", "sd2"] {
        println!("{name}");
        let (backbone, golden) = load(name);
        check(&backbone, &golden);
        println!("{name}, reference");
        reference(|| {
            let (backbone, golden) = load(name);
            check(&backbone, &golden);
        });
    }
}

fn constant(x: &Tensor) -> Var {
    Var::constant(x.clone())
}

fn timesteps(x: &Tensor) -> Vec<f64> {
    floats(&x.to_dtype(DType::F32).unwrap()).into_iter().map(f64::from).collect()
}

#[test]
fn text_encoder() {
    on_both(|backbone, golden| {
        let ids = golden.get("text.ids").to_dtype(DType::U32).unwrap().to_vec2().unwrap();
        let states = backbone.text_encoder.forward(&ids).unwrap();
        assert_close("states", states.value(), golden.get("text.states"), TOLERANCE);
    });
}

#[test]
fn unet() {
    on_both(|backbone, golden| {
        let text = golden.get("unet.text");
        let run = |latents: &str, steps: &str, text: &Tensor, wanted: &str| {
            let latents = constant(golden.get(latents));
            let steps = timesteps(golden.get(steps));
            let out = backbone.unet.forward(&latents, &steps, &constant(text)).unwrap();
            assert_close(wanted, out.value(), golden.get(wanted), TOLERANCE);
            // with keys and values of the text at hand, as sampling has them
            let text = backbone.unet.keys_values(&constant(text)).unwrap();
            for _ in 0..2 {
                let again = backbone.unet.denoise(latents.value(), &steps, &text, None).unwrap();
                assert!(floats(&again) == floats(out.value()), "{wanted}: other bits");
            }
        };
        run("unet.latents", "unet.timesteps", text, "unet.out");
        let second = text.narrow(0, 1, 1).unwrap();
        run("unet.odd_latents", "unet.odd_timesteps", &second, "unet.odd_out");
    });
}

#[test]
fn cross_attention() {
    on_both(|backbone, golden| {
        let text = golden.get("unet.text");
        // all layers, and their mean for the batch from `first` on
        let run = |latents: &str, steps: &str, text: &Tensor, first: usize| {
            let (layers, maps) = (RefCell::new(vec![]), RefCell::new(AttentionMaps::new(first)));
            let see = |attention: &CrossAttention| {
                let size = (attention.height, attention.width);
                layers.borrow_mut().push((size, attention.probabilities(0)?));
                maps.borrow_mut().add(attention)
            };
            let (latents, steps) = (constant(golden.get(latents)), timesteps(golden.get(steps)));
            backbone.unet.forward_seen(&latents, &steps, &constant(text), Some(&see)).unwrap();
            (layers.into_inner(), maps.into_inner())
        };
        let check_mean = |maps: &AttentionMaps, name: &str, first: usize| {
            let wanted = golden.get(name);
            let (images, tokens, height, width) = wanted.dims4().unwrap();
            for image in first..images {
                let of = |positions| maps.map(image - first, positions, (height, width)).unwrap();
                let found: Vec<f32> = (0..tokens).flat_map(|t| of(t..=t)).collect();
                let found = Tensor::from_vec(found, (tokens, height, width), &Device::Cpu).unwrap();
                assert_close(name, &found, &wanted.get(image).unwrap(), TOLERANCE);
                let both = (of(2..=2) + of(3..=3)) / 2.0;
                assert!(both.iter().zip(&of(2..=3)).all(|(a, b)| (a - b).abs() < 1e-6));
            }
        };
        let (layers, maps) = run("unet.latents", "unet.timesteps", text, 0);
        assert_eq!(layers.len(), golden.under("attention.layer.").count());
        for (i, ((height, width), found)) in layers.iter().enumerate() {
            let name = format!("attention.layer.{i}");
            let wanted = golden.get(&name);
            let (images, tokens, ..) = wanted.dims4().unwrap();
            let found = found.narrow(2, 0, tokens).unwrap().transpose(1, 2).unwrap();
            let found = found.reshape((images, tokens, *height, *width)).unwrap();
            assert_close(&name, &found, wanted, TOLERANCE);
        }
        check_mean(&maps, "attention.mean", 0);
        let (_, maps) = run("unet.latents", "unet.timesteps", text, 1);
        check_mean(&maps, "attention.mean", 1);
        let second = text.narrow(0, 1, 1).unwrap();
        let (_, maps) = run("unet.odd_latents", "unet.odd_timesteps", &second, 0);
        check_mean(&maps, "attention.odd_mean", 0);
    });
}

#[test]
fn vae() {
    on_both(|backbone, golden| {
        let posterior = backbone.vae.encode(&constant(golden.get("vae.images"))).unwrap();
        assert_close("mean", posterior.mean.value(), golden.get("vae.mean"), TOLERANCE);
        assert_close("logvar", posterior.logvar.value(), golden.get("vae.logvar"), TOLERANCE);
        let decoded = backbone.vae.decode(&constant(golden.get("vae.z"))).unwrap();
        assert_close("decoded", decoded.value(), golden.get("vae.decoded"), TOLERANCE);
    });
}

#[test]
fn guided_sampling() {
    on_both(|backbone, golden| {
        let prompts =
            ["photo of a <new1> dog in the snow", "a watercolor painting of a wooden pot"];
        let initial = golden.get("sample.latents");
        let requests: Vec<Request> = (0..2)
            .map(|i| Request {
                latents: Some(initial.get(i).unwrap()),
                ..Request::new(prompts[i], 0)
            })
            .collect();
        let (width, height) = backbone.default_size();
        for (name, scheduler) in
            [("ddim", SchedulerKind::Ddim), ("dpmpp", SchedulerKind::DpmSolver)]
        {
            let sampling = Sampling {
                steps: 8,
                guidance: 6.0,
                scheduler,
                eta: 0.0,
                height,
                width,
                negative_prompt: String::new(),
            };
            let samples = backbone.sample(&requests, &sampling, &|_| Ok(())).unwrap();
            let latents: Vec<_> = samples.iter().map(|s| s.latents.clone()).collect();
            let latents = constant(&Tensor::stack(&latents, 0).unwrap());
            let latents = backbone.vae.scale(&latents).unwrap();
            let wanted = golden.get(&format!("sample.{name}.steps")).get(7).unwrap();
            assert_close(name, latents.value(), &wanted, TOLERANCE);

            let wanted = golden.get(&format!("sample.{name}.image"));
            for (i, sample) in samples.iter().enumerate() {
                let wanted = wanted.get(i).unwrap().clamp(-1f32, 1f32).unwrap();
                let found = from_rgb(&sample.image).unwrap();
                let error = (found - wanted).unwrap().abs().unwrap();
                let worst = floats(&error).into_iter().fold(0f32, f32::max);
                // half a step of eight bits, and what f32 adds
                assert!(worst <= 0.51 / 127.5, "{name} image {i}: off by {worst}");
            }
        }
    });
}

/// As on a GPU, but for convolutions of bf16, which candle's CPU device does not have: they are made of f32.
#[test]
fn unet_in_half_precision_is_near() {
    for (name, dtype, tolerance) in [
        ("sd1", DType::F16, 0.01),
        ("sd2", DType::F16, 0.01),
        ("sd1", DType::BF16, 0.05),
        ("sd2", DType::BF16, 0.05),
    ] {
        let golden = Golden::load(&format!("{name}_forward.safetensors"));
        let backbone = Backbone::load(&path(name), &Device::Cpu, dtype).unwrap();
        backbone.unet.params()[0].set_trainable(true).unwrap();
        assert_eq!(backbone.unet.params()[0].value().dtype(), DType::F32, "trained in f32");
        assert_eq!(backbone.unet.params()[1].value().dtype(), dtype, "frozen in half precision");
        let steps = timesteps(golden.get("unet.timesteps"));
        let (latents, text) = (golden.get("unet.latents"), golden.get("unet.text"));
        let out = backbone.unet.forward(&constant(latents), &steps, &constant(text)).unwrap();
        assert_eq!(out.value().dtype(), DType::F32);
        assert_close(&format!("{dtype:?}"), out.value(), golden.get("unet.out"), tolerance);
        let loss = ops::composed([&out], |[x]| x.sqr()?.mean_all()).unwrap();
        let gradients = loss.backward(1.0).unwrap();
        let gradient = backbone.unet.params()[0].grad(&gradients).expect("a gradient");
        assert_eq!(gradient.dtype(), DType::F32);
        assert!(floats(gradient).iter().all(|g| g.is_finite()));
    }
}
