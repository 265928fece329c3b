//! The networks and schedulers against candle-transformers', an independent implementation in Rust, on the
//! same weights: those of `sd1` and `sd2` in the autoencoder, random ones where its constructors cannot
//! express these shapes: its text encoders have the widths of published models, its UNet's residual blocks
//! always 32 groups.
//!
//! It takes tanh's approximation of GELU where diffusers and transformers have the exact one: in the UNet's
//! feed forward, and in its text encoder of SD 2.1. See each test for what is compared instead.

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use candle_transformers::models::stable_diffusion as theirs;
use cdbench::diffusion::Backbone;
use cdbench::diffusion::config::{
    Config as _, HiddenAct, PerBlock, PredictionType, SchedulerConfig, TextEncoderConfig,
    TimestepSpacing, UNetConfig,
};
use cdbench::diffusion::model::{TextEncoder, UNet};
use cdbench::diffusion::scheduler::{NoiseSchedule, SchedulerKind};
use cdbench::nn::{Builder, Init, Param, RandomSource, Source, Var};
use cdbench::rng::Rng;
use common::{assert_close, path};

const TOLERANCE: f64 = 1e-4;

/// Tensors by name, for both. What candle's layers ask for by another shape, they get as it is.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<HashMap<String, Tensor>>>);

impl Shared {
    fn of(params: &[Param]) -> Self {
        let tensors = params.iter().map(|p| (p.name().to_owned(), p.to_file().unwrap()));
        Shared(Arc::new(Mutex::new(tensors.collect())))
    }

    fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, Device::Cpu)
    }
}

impl SimpleBackend for Shared {
    fn get(
        &self,
        _: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        self.get_unchecked(name, dtype, device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        let known = self.0.lock().unwrap().get(&alias(name)).cloned();
        known.ok_or_else(|| candle_core::Error::msg(format!("there is no {name}")))
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.lock().unwrap().contains_key(&alias(name))
    }
}

/// Every second layer of a text encoder has the same weights, or a published width would take gigabytes.
fn alias(name: &str) -> String {
    let Some((start, rest)) = name.split_once("encoder.layers.") else { return name.to_owned() };
    let (layer, rest) = rest.split_once('.').unwrap();
    format!("{start}encoder.layers.{}.{rest}", layer.parse::<usize>().unwrap() % 2)
}

/// Random weights for ours, which are kept for theirs.
impl Source for Shared {
    fn tensor(&mut self, name: &str, shape: &[usize], init: Init) -> cdbench::Result<Tensor> {
        let name = alias(name);
        if let Some(known) = self.0.lock().unwrap().get(&name) {
            return Ok(known.clone());
        }
        let value = RandomSource { seed: 5 }.tensor(&name, shape, init)?;
        // biases away from zero, norms from one
        let value = match shape {
            [_] => (value + (random(&name, shape) * 0.2)?)?,
            _ => value,
        };
        self.0.lock().unwrap().insert(name, value.clone());
        Ok(value)
    }
}

fn random(label: &str, shape: &[usize]) -> Tensor {
    Rng::new(11, label).normal(shape, &Device::Cpu).unwrap()
}

fn load(name: &str) -> Backbone {
    Backbone::load(&path(name), &Device::Cpu, DType::F32).unwrap()
}

/// SD 1.5's text encoder, and that of Würstchen, which has the width, the heads and the exact GELU of SD
/// 2.1's and a layer more. Vocabulary, length and inner width are ours to choose.
#[test]
fn text_encoder() {
    const LENGTH: usize = 12;
    let small =
        |hidden_size, num_attention_heads, num_hidden_layers, hidden_act| TextEncoderConfig {
            vocab_size: 50,
            hidden_size,
            intermediate_size: 160,
            num_hidden_layers,
            num_attention_heads,
            max_position_embeddings: LENGTH,
            hidden_act,
            ..Default::default()
        };
    let ids: Vec<u32> = (0..LENGTH as u32).map(|i| (7 * i + 3) % 50).collect();
    for (name, mut config, ours) in [
        ("SD 1.5", theirs::clip::Config::v1_5(), small(768, 12, 12, HiddenAct::QuickGelu)),
        ("Würstchen", theirs::clip::Config::wuerstchen(), small(1024, 16, 24, HiddenAct::Gelu)),
    ] {
        let shared = Shared::default();
        let builder = Builder::new(shared.clone(), &Device::Cpu, DType::F32);
        let ours = TextEncoder::new(&builder, &ours).unwrap();
        config.max_position_embeddings = LENGTH;
        let wanted = theirs::clip::ClipTextTransformer::new(shared.builder(), &config).unwrap();
        let tensor = Tensor::new(&ids[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let wanted = wanted.forward_with_mask(&tensor, LENGTH).unwrap();
        let found = ours.forward(std::slice::from_ref(&ids)).unwrap();
        assert_close(name, found.value(), &wanted, TOLERANCE);
    }
}

/// Once with every gate of the feed forward far in the positive, where both GELUs give back what they get,
/// and once as they are, to what the approximation costs.
#[test]
fn unet() {
    use cdbench::diffusion::config::{DownBlock::*, UpBlock::*};
    let sd1 = UNetConfig {
        block_out_channels: vec![32, 64, 64],
        down_block_types: vec![CrossAttnDownBlock2D, CrossAttnDownBlock2D, DownBlock2D],
        up_block_types: vec![UpBlock2D, CrossAttnUpBlock2D, CrossAttnUpBlock2D],
        layers_per_block: PerBlock::All(1),
        cross_attention_dim: PerBlock::All(48),
        ..Default::default()
    };
    let sd2 = UNetConfig {
        block_out_channels: vec![32, 64, 96],
        down_block_types: vec![DownBlock2D, CrossAttnDownBlock2D, CrossAttnDownBlock2D],
        up_block_types: vec![CrossAttnUpBlock2D, CrossAttnUpBlock2D, UpBlock2D],
        layers_per_block: PerBlock::All(2),
        cross_attention_dim: PerBlock::All(64),
        attention_head_dim: PerBlock::Each(vec![1, 2, 3]),
        use_linear_projection: true,
        ..Default::default()
    };
    for (name, config) in [("sd1", sd1), ("sd2", sd2)] {
        let unet = UNet::new(&Builder::new(Shared::default(), &Device::Cpu, DType::F32), &config);
        let unet = unet.unwrap();
        compare_unets(&format!("{name}, its approximate GELU"), &unet, 2e-3);
        for param in unet.params().iter().filter(|p| p.name().contains(".ff.net.0.")) {
            let value = param.to_file().unwrap();
            let half = value.dim(0).unwrap() / 2;
            let linear = value.narrow(0, 0, half).unwrap();
            let gate = if param.name().ends_with("bias") { 12.0 } else { 0.0 };
            let gate = (linear.zeros_like().unwrap() + gate).unwrap();
            param.set_from_file(&Tensor::cat(&[linear, gate], 0).unwrap()).unwrap();
        }
        compare_unets(name, &unet, TOLERANCE);
    }
}

fn compare_unets(name: &str, unet: &UNet, tolerance: f64) {
    let config = unet.config();
    let block = |i| theirs::unet_2d::BlockConfig {
        out_channels: config.block_out_channels[i],
        use_cross_attn: config.down_attends(i).then_some(1),
        attention_head_dim: config.heads(i),
    };
    let their_config = theirs::unet_2d::UNet2DConditionModelConfig {
        blocks: (0..config.blocks()).map(block).collect(),
        layers_per_block: config.layers_per_block.at(0),
        norm_num_groups: config.norm_num_groups,
        cross_attention_dim: config.cross_attention_dim.at(0),
        use_linear_projection: config.use_linear_projection,
        ..Default::default()
    };
    let shared = Shared::of(unet.params());
    let (inputs, outputs) = (config.in_channels, config.out_channels);
    let model = theirs::unet_2d::UNet2DConditionModel::new;
    let model = model(shared.builder(), inputs, outputs, false, their_config).unwrap();
    let text = random("text", &[2, 9, config.cross_attention_dim.at(0)]);
    // the second does not halve evenly twice
    for (height, width) in [(16, 16), (12, 10)] {
        let latents = random("latents", &[2, inputs, height, width]);
        let wanted = model.forward(&latents, 481.0, &text).unwrap();
        let constant = |x: &Tensor| Var::constant(x.clone());
        let found = unet.forward(&constant(&latents), &[481.0; 2], &constant(&text)).unwrap();
        assert_close(&format!("{name} {height}x{width}"), found.value(), &wanted, tolerance);
    }
}

#[test]
fn vae() {
    for name in ["sd1", "sd2"] {
        let backbone = load(name);
        let config = backbone.vae.config();
        let latents = config.latent_channels;
        // theirs gives samples alone: without variance they are the mean
        let bias = backbone.vae.params().iter().find(|p| p.name() == "quant_conv.bias").unwrap();
        let mean = bias.to_file().unwrap().narrow(0, 0, latents).unwrap();
        let logvar = (mean.zeros_like().unwrap() - 200.0).unwrap();
        bias.set_from_file(&Tensor::cat(&[mean, logvar], 0).unwrap()).unwrap();
        let their_config = theirs::vae::AutoEncoderKLConfig {
            block_out_channels: config.block_out_channels.clone(),
            layers_per_block: config.layers_per_block,
            latent_channels: latents,
            norm_num_groups: config.norm_num_groups,
            use_quant_conv: config.use_quant_conv,
            use_post_quant_conv: config.use_post_quant_conv,
        };
        let shared = Shared::of(backbone.vae.params());
        let model = theirs::vae::AutoEncoderKL::new(shared.builder(), 3, 3, their_config).unwrap();
        let images = random("images", &[1, 3, 32, 24]);
        let wanted = model.encode(&images).unwrap().sample().unwrap();
        let found = backbone.vae.encode(&Var::constant(images)).unwrap().mean;
        assert_close(&format!("{name} encoder"), found.value(), &wanted, TOLERANCE);
        let z = random("z", &[1, latents, 8, 6]);
        let found = backbone.vae.decode(&Var::constant(z.clone())).unwrap();
        let wanted = model.decode(&z).unwrap();
        assert_close(&format!("{name} decoder"), found.value(), &wanted, TOLERANCE);
    }
}

/// The stand-in for a UNet.
fn predicted(x: &Tensor, t: usize) -> Tensor {
    ((x.tanh().unwrap() * 0.7).unwrap() + 0.2 * t as f64 / 1000.0).unwrap()
}

fn base(prediction_type: PredictionType) -> SchedulerConfig {
    let golden = std::path::PathBuf::from(path("sd1"));
    SchedulerConfig { prediction_type, ..SchedulerConfig::read(&golden).unwrap() }
}

const PREDICTIONS: [(PredictionType, theirs::schedulers::PredictionType); 2] = [
    (PredictionType::Epsilon, theirs::schedulers::PredictionType::Epsilon),
    (PredictionType::VPrediction, theirs::schedulers::PredictionType::VPrediction),
];

/// Of the spacings two: its linspace rounds down where diffusers rounds.
#[test]
fn ddim() {
    use theirs::schedulers::SchedulerConfig as _;
    for (ours, prediction_type) in PREDICTIONS {
        for (spacing, timestep_spacing) in [
            (TimestepSpacing::Leading, theirs::schedulers::TimestepSpacing::Leading),
            (TimestepSpacing::Trailing, theirs::schedulers::TimestepSpacing::Trailing),
        ] {
            let config = SchedulerConfig { timestep_spacing: Some(spacing), ..base(ours) };
            let mut found = SchedulerKind::Ddim.scheduler(&config, 20, 0.0).unwrap();
            let their_config = theirs::ddim::DDIMSchedulerConfig {
                prediction_type,
                timestep_spacing,
                ..Default::default()
            };
            let mut wanted = their_config.build(20).unwrap();
            assert_eq!(found.timesteps(), wanted.timesteps(), "{spacing:?}");
            let start = random("x", &[1, 4, 3, 2]);
            let (mut a, mut b) = (start.clone(), start);
            for (i, t) in found.timesteps().to_vec().into_iter().enumerate() {
                a = found.step(&predicted(&a, t), i, &a, None).unwrap();
                b = wanted.step(&predicted(&b, t), t, &b).unwrap();
                assert_close(&format!("{ours:?} {spacing:?} {t}"), &a, &b, TOLERANCE);
            }
        }
    }
}

/// Its noise cannot be given, so that of DDPM's steps the one without noise is compared, and how noise is
/// added in training.
#[test]
fn ddpm() {
    for (ours, prediction_type) in PREDICTIONS {
        let config = SchedulerConfig { steps_offset: 0, ..base(ours) };
        let mut found = SchedulerKind::Ddpm.scheduler(&config, 1, 0.0).unwrap();
        let theirs = |steps| {
            let config =
                theirs::ddpm::DDPMSchedulerConfig { prediction_type, ..Default::default() };
            theirs::ddpm::DDPMScheduler::new(steps, config).unwrap()
        };
        let many = SchedulerKind::Ddpm.scheduler(&config, 50, 0.0).unwrap();
        assert_eq!(many.timesteps(), theirs(50).timesteps());
        assert_eq!(found.timesteps(), [0]);
        let [x, noise] = ["x", "noise"].map(|label| random(label, &[1, 4, 3, 2]));
        let output = predicted(&x, 0);
        let wanted = theirs(1).step(&output, 0, &x).unwrap();
        assert_close("last step", &found.step(&output, 0, &x, None).unwrap(), &wanted, TOLERANCE);

        let schedule = NoiseSchedule::new(&config);
        for t in [0, 1, 499, 999] {
            let wanted = theirs(1).add_noise(&x, noise.clone(), t).unwrap();
            let found = schedule.add_noise(&x, &noise, &[t]).unwrap();
            assert_close(&format!("noise at {t}"), &found, &wanted, TOLERANCE);
        }
    }
}
