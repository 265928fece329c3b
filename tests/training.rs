//! What training moves and what it leaves alone, on real small models; and that neither threads nor a
//! save and reload change a bit.

mod common;

use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor};
use cdbench::diffusion::scheduler::SchedulerKind;
use cdbench::diffusion::{Backbone, Request, Sampling};
use cdbench::nn::{Var, ops};
use cdbench::rng::Rng;
use cdbench::train::{AdamW, AdamWConfig, Group, Trainable, gradients, loss};
use common::{floats, path};

fn backbone(name: &str) -> Backbone {
    let mut backbone = Backbone::load(&path(name), &Device::Cpu, DType::F32).unwrap();
    let id = backbone.tokenizer.add_token("<new1>").unwrap();
    let width = backbone.text_encoder.config().hidden_size;
    let row = Rng::new(1, "row").normal((1, width), &Device::Cpu).unwrap();
    backbone.text_encoder.add_tokens(&row).unwrap();
    assert_eq!(id as usize, backbone.text_encoder.config().vocab_size);
    backbone
}

/// Two steps that use every part: images through the VAE, prompts through the text encoder, both through
/// the UNet, and the prediction through the decoder.
fn train(backbone: &Backbone, set: &str) {
    let components = [
        ("text_encoder", backbone.text_encoder.params()),
        ("unet", backbone.unet.params()),
        ("vae", backbone.vae.params()),
    ];
    let params = set.parse::<Trainable>().unwrap().apply(&components).unwrap();
    let group = Group { params, lr: 1e-3, weight_decay: 1e-2 };
    let mut optimizer = AdamW::new(AdamWConfig::default(), vec![group]).unwrap();
    let (width, height) = backbone.default_size();
    let mut rng = Rng::new(2, "data");
    let images = rng.normal((2, 3, height, width), &Device::Cpu).unwrap();
    let latents = backbone.vae.config().latent_channels;
    let (h, w) = backbone.latent_size(height, width).unwrap();
    let noise = rng.normal((2, latents, h, w), &Device::Cpu).unwrap();
    let weights = loss::mean_weights(2, latents * h * w, &Device::Cpu).unwrap();
    for _ in 0..2 {
        let (_, gradients) = gradients(2, 1, &Device::Cpu, |part| {
            let rows = |x: &Tensor| x.narrow(0, part.images.start, part.images.len());
            let posterior = backbone.vae.encode(&Var::constant(rows(&images)?))?;
            let z = backbone.vae.scale(&posterior.sample(&rows(&noise)?)?)?;
            let text = backbone.encode_text(&["photo of a <new1> dog, and a cat"])?;
            let out = backbone.unet.forward(&z, &[500.0], &text)?;
            let decoded = backbone.vae.decode(&backbone.vae.unscale(&out)?)?;
            let decoded = ops::composed([&decoded], |[x]| x.sqr()?.mean_all())?;
            let error = loss::squared_error(&out, &rows(&noise)?, &rows(&weights)?)?;
            Ok(ops::add(&error, &decoded)?)
        })
        .unwrap();
        optimizer.step(&gradients, 1.0, 1.0).unwrap();
    }
}

fn snapshot(backbone: &Backbone) -> Vec<(String, Vec<u32>)> {
    let bits = |t: Tensor| floats(&t).into_iter().map(f32::to_bits).collect();
    let model = |name: &str, params: &[cdbench::nn::Param]| {
        params
            .iter()
            .map(|p| (format!("{name}.{}", p.name()), bits(p.to_file().unwrap())))
            .collect::<Vec<_>>()
    };
    let mut all = model("text_encoder", backbone.text_encoder.params());
    all.extend(model("unet", backbone.unet.params()));
    all.extend(model("vae", backbone.vae.params()));
    all
}

#[test]
fn exactly_the_chosen_parameters_move() {
    type Belongs = fn(&str) -> bool;
    let sets: [(&str, Belongs); 6] = [
        ("kv", |n| n.contains("attn2.to_k.") || n.contains("attn2.to_v.")),
        ("tokens", |n| n.ends_with("token_embedding.added")),
        ("kv,tokens", |n| {
            n.contains("attn2.to_k.") || n.contains("attn2.to_v.") || n.ends_with(".added")
        }),
        ("unet", |n| n.starts_with("unet.")),
        ("vae", |n| n.starts_with("vae.")),
        ("text_encoder.*self_attn*", |n| n.contains("self_attn")),
    ];
    for name in ["sd1", "sd2"] {
        for (set, belongs) in sets {
            let backbone = backbone(name);
            let before = snapshot(&backbone);
            train(&backbone, set);
            let after = snapshot(&backbone);
            let wrong: BTreeSet<&str> = before
                .iter()
                .zip(&after)
                .filter(|((name, old), (_, new))| (old != new) != belongs(name))
                .map(|((name, _), _)| name.as_str())
                .collect();
            assert!(wrong.is_empty(), "{name}, training {set}: {wrong:?}");
            assert!(before.iter().any(|(name, _)| belongs(name)));
        }
    }
}

fn sampling(backbone: &Backbone) -> Sampling {
    let (width, height) = backbone.default_size();
    Sampling {
        steps: 3,
        guidance: 5.0,
        scheduler: SchedulerKind::Ddpm,
        eta: 0.0,
        height,
        width,
        negative_prompt: "blurry".into(),
    }
}

fn sample(backbone: &Backbone, count: u64) -> Vec<Vec<u8>> {
    let requests: Vec<Request> =
        (0..count).map(|seed| Request::new("a <new1> dog", seed)).collect();
    let samples = backbone.sample(&requests, &sampling(backbone), &|_| Ok(())).unwrap();
    samples.into_iter().map(|s| s.image.into_raw()).collect()
}

fn with_threads<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

#[test]
fn threads_change_no_bit() {
    let run = |threads| {
        with_threads(threads, || {
            let backbone = backbone("sd2");
            train(&backbone, "unet,vae,tokens");
            (snapshot(&backbone), sample(&backbone, 6))
        })
    };
    assert!(run(1) == run(2));
}

#[test]
fn an_image_does_not_depend_on_its_batch() {
    let backbone = backbone("sd1");
    let together = sample(&backbone, 6);
    let request = Request::new("a <new1> dog", 5);
    let alone = backbone.sample(&[request], &sampling(&backbone), &|_| Ok(())).unwrap();
    let alone = alone[0].image.as_raw();
    let worst = together[5].iter().zip(alone).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(worst <= 1, "off by {worst} of 255");
    assert_ne!(together[4], together[5], "seeds differ");
}

#[test]
fn a_trained_backbone_samples_the_same_after_reload() {
    for name in ["sd1", "sd2"] {
        let trained = backbone(name);
        train(&trained, "kv,tokens");
        let dir = tempfile::tempdir().unwrap();
        trained.save(dir.path(), DType::F32).unwrap();
        let reloaded =
            Backbone::load(dir.path().to_str().unwrap(), &Device::Cpu, DType::F32).unwrap();
        assert_eq!(sample(&trained, 2), sample(&reloaded, 2), "{name}");
    }
}
