//! `cdbench bench`: this machine on the project's own work.

mod count;
mod denoise;
mod parity;

use std::path::PathBuf;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use super::device::DeviceName;
use crate::diffusion::config::{Config as _, TextEncoderConfig, UNetConfig, VaeConfig};
use crate::diffusion::folder::{DIFFUSERS_STEM, TRANSFORMERS_STEM};
use crate::diffusion::model::{TextEncoder, UNet};
use crate::diffusion::presets::{self, Architecture};
use crate::diffusion::weights::Weights;
use crate::nn::{Builder, Param, RandomSource, Var, flops};
use crate::rng::Rng;
use crate::train::{
    AdamW, AdamWConfig, Group, Trainable, clip_factor, gradient_norm, gradients, images_per_part,
    loss,
};
use crate::{Error, Result, process};

const EXAMPLES: &str = "\
Examples:
  cdbench bench step --config sd15 --resolution 512 --train kv --checkpoint
  cdbench bench step --config runs/my-backbone --batch 8 --train all --repeats 10
  cdbench bench step --config sd15 --resolution 512 --batch 8 --bf16 --count";

#[derive(clap::Subcommand)]
pub enum Command {
    /// Time a training step: text encoder and UNet, forward and backward, clipping and AdamW, on latents
    /// that are made once
    Step(StepArgs),
    /// Time steps of guided sampling, and say how long loading takes
    Denoise(denoise::Args),
    /// Compare every operation and whole steps with the CPU's kernels
    Parity(parity::Args),
}

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct StepArgs {
    /// sd15, sd21, or a folder in diffusers' layout; where it has no weights they are random
    #[arg(long)]
    config: String,

    /// Image side in pixels [default: what the backbone was trained at]
    #[arg(long)]
    resolution: Option<usize>,

    /// Images a step
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,

    /// What is trained
    #[arg(long, value_enum, default_value_t = Train::Kv)]
    train: Train,

    /// Keep only the inputs of each layer and compute the rest again in the backward pass
    #[arg(long)]
    checkpoint: bool,

    /// Compute in bf16; trained parameters stay f32 (GPU only)
    #[arg(long)]
    bf16: bool,

    /// Steps that are timed, after one that is not
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,

    /// auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "auto")]
    device: DeviceName,

    /// Run nothing: say what a GPU would be told to do, launches, bytes and FLOPs, and how long an H100
    /// would take by its data sheet
    #[arg(long, conflicts_with_all = ["repeats", "device"])]
    count: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Train {
    /// Keys and values of the cross attention, and a new token's embedding: Custom Diffusion
    Kv,
    /// The whole UNet and a new token's embedding
    All,
}

/// Runs `cdbench bench …`.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Step(args) if args.count => count::run(&args),
        Command::Step(args) => step(&args),
        Command::Denoise(args) => denoise::run(&args),
        Command::Parity(args) => parity::run(&args),
    }
}

fn step(args: &StepArgs) -> Result<()> {
    let device = args.device.open()?;
    let compute = match (args.bf16, device.is_cpu()) {
        (false, _) => DType::F32,
        (true, false) => DType::BF16,
        (true, true) => {
            return Err(Error::input_hint("the CPU computes in f32", "leave out --bf16"));
        }
    };
    let (architecture, folder) = architecture(&args.config)?;
    let (unet, mut text_encoder) = networks(&architecture, folder, &device, compute)?;
    let mut unet = unet;
    unet.set_checkpointing(args.checkpoint);
    unet.set_detach_start_of_text(args.train == Train::Kv);
    let row = text_encoder.token_embedding(0)?.unsqueeze(0)?;
    text_encoder.add_tokens(&row)?;
    let trained = trained(&unet, &text_encoder, args.train)?;
    let count: usize = trained.iter().map(Param::elem_count).sum();
    let mut optimizer = AdamW::new(
        AdamWConfig::default(),
        vec![Group { params: trained.clone(), lr: 1e-5, weight_decay: 1e-2 }],
    )?;

    let batch = usize::from(args.batch);
    let side = latent_side(&architecture, args.resolution)?;
    let mut rng = Rng::new(0, "bench");
    let shape = (batch, architecture.unet.in_channels, side, side);
    let (latents, noise) = (rng.normal(shape, &device)?, rng.normal(shape, &device)?);
    let timesteps: Vec<f64> = (0..batch).map(|_| rng.below(1000) as f64).collect();
    let length = architecture.text_encoder.max_position_embeddings;
    let vocabulary = architecture.text_encoder.vocab_size;
    let ids: Vec<Vec<u32>> = (0..batch)
        .map(|_| (0..length).map(|i| if i == 5 { vocabulary } else { i } as u32).collect())
        .collect();

    let images_per_part = images_per_part(&device, side * side);
    let weights = loss::mean_weights(batch, shape.1 * side * side, &device)?;

    let peak = matmul_peak(&device)?;
    let mut seconds = vec![];
    let mut work = 0;
    for repeat in 0..=args.repeats {
        let (start, before) = (Instant::now(), flops::count());
        let (_, gradients) = gradients(batch, images_per_part, &device, |part| {
            let (first, count) = (part.images.start, part.images.len());
            let text = text_encoder.forward(&ids[part.images.clone()])?;
            let latents = Var::constant(latents.narrow(0, first, count)?);
            let prediction = unet.forward(&latents, &timesteps[part.images.clone()], &text)?;
            let noise = noise.narrow(0, first, count)?;
            Ok(loss::squared_error(&prediction, &noise, &weights.narrow(0, first, count)?)?)
        })?;
        let factor = clip_factor(gradient_norm(&trained, &gradients)?, 1.0);
        optimizer.step(&gradients, 1.0, factor)?;
        device.synchronize()?;
        if repeat > 0 {
            seconds.push(start.elapsed().as_secs_f64());
            work = flops::count() - before;
        }
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let speed = work as f64 / median / 1e9;
    println!("trained parameters   {:.2} M", count as f64 / 1e6);
    println!(
        "time a step          {median:.3} s (median of {}, from {:.3} to {:.3})",
        seconds.len(),
        seconds[0],
        seconds[seconds.len() - 1]
    );
    println!(
        "work                 {:.1} GFLOP (convolutions counted in their direct form)",
        work as f64 / 1e9
    );
    println!("speed                {speed:.1} GFLOP/s");
    println!("matrix product       {peak:.1} GFLOP/s, f32, measured here");
    println!("share of that        {:.0} %", 100.0 * speed / peak);
    match process::peak_memory() {
        Some(bytes) => {
            println!("peak memory          {:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
        }
        None => println!("peak memory          not known on this system"),
    }
    Ok(())
}

/// The architecture that `config` names and, if it is a folder, where.
fn architecture(config: &str) -> Result<(Architecture, Option<PathBuf>)> {
    match config {
        "sd15" => Ok((presets::sd15(), None)),
        "sd21" => Ok((presets::sd21(), None)),
        folder => {
            let folder = PathBuf::from(folder);
            if !folder.is_dir() {
                return Err(Error::input_hint(
                    format!("{}: no such folder", folder.display()),
                    "--config takes sd15, sd21 or a folder in diffusers' layout",
                ));
            }
            let architecture = Architecture {
                text_encoder: TextEncoderConfig::read(&folder)?,
                unet: UNetConfig::read(&folder)?,
                vae: VaeConfig::read(&folder)?,
            };
            Ok((architecture, Some(folder)))
        }
    }
}

fn networks(
    architecture: &Architecture,
    folder: Option<PathBuf>,
    device: &Device,
    compute: DType,
) -> Result<(UNet, TextEncoder)> {
    let builder = |part: &str, stem: &str| -> Result<Builder> {
        let dir = folder.as_ref().map(|folder| folder.join(part));
        let has_weights = |dir: &PathBuf| {
            std::fs::read_dir(dir).is_ok_and(|mut files| {
                files.any(|f| {
                    f.is_ok_and(|f| f.path().extension().is_some_and(|e| e == "safetensors"))
                })
            })
        };
        Ok(match dir.filter(has_weights) {
            Some(dir) => {
                Builder::new(std::sync::Arc::new(Weights::open(&dir, stem)?), device, compute)
            }
            None => Builder::new(RandomSource { seed: 0 }, device, compute),
        })
    };
    Ok((
        UNet::new(&builder("unet", DIFFUSERS_STEM)?, &architecture.unet)?,
        TextEncoder::new(&builder("text_encoder", TRANSFORMERS_STEM)?, &architecture.text_encoder)?,
    ))
}

/// Releases what `train` names; the new token's row always.
fn trained(unet: &UNet, text_encoder: &TextEncoder, train: Train) -> Result<Vec<Param>> {
    let components = [("unet", unet.params()), ("text_encoder", text_encoder.params())];
    let sets = match train {
        Train::Kv => "kv,tokens",
        Train::All => "unet,tokens",
    };
    sets.parse::<Trainable>()?.apply(&components)
}

fn latent_side(architecture: &Architecture, resolution: Option<usize>) -> Result<usize> {
    let unit = architecture.vae.downscale();
    match (resolution, &architecture.unet.sample_size) {
        (Some(pixels), _) if pixels > 0 && pixels.is_multiple_of(unit) && pixels <= 4096 => {
            Ok(pixels / unit)
        }
        (Some(pixels), _) => Err(Error::input_hint(
            format!("a resolution of {pixels} pixels"),
            format!("it must be a multiple of {unit}, up to 4096"),
        )),
        (None, Some(size)) => Ok(size.at(0)),
        (None, None) => {
            Err(Error::input_hint("the size of the images is not known", "use --resolution"))
        }
    }
}

/// The best of several 2048³ products of f32 matrices, in GFLOP/s.
fn matmul_peak(device: &Device) -> Result<f64> {
    const N: usize = 2048;
    let mut rng = Rng::new(0, "peak");
    let (a, b) = (rng.normal((N, N), device)?, rng.normal((N, N), device)?);
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        let c: Tensor = a.matmul(&b)?;
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
        drop(c);
    }
    Ok(2.0 * (N * N * N) as f64 / best / 1e9)
}
