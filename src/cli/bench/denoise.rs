//! `cdbench bench denoise`: steps of guided sampling.

use std::sync::Mutex;
use std::time::Instant;

use crate::cli::device::DeviceArgs;
use crate::diffusion::scheduler::SchedulerKind;
use crate::diffusion::{Backbone, Request, Sampling, presets};
use crate::{Error, Result, process};

const EXAMPLES: &str = "\
Examples:
  cdbench bench denoise --batch 8
  cdbench bench denoise --backbone sd15 --resolution 512 --batch 4 --dtype bf16 --device cuda";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// mini, a folder in diffusers' layout, a single file, a hub id, or sd15 or sd21 with random weights
    #[arg(long, default_value = crate::mini::NAME)]
    backbone: String,

    /// Image side in pixels [default: what the backbone was trained at]
    #[arg(long)]
    resolution: Option<usize>,

    /// Images
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,

    /// Denoising steps of each; the first is not counted
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..))]
    steps: u16,

    #[command(flatten)]
    on: DeviceArgs,
}

/// Runs `cdbench bench denoise`: prints JSON.
pub fn run(args: &Args) -> Result<()> {
    let device = args.on.open()?;
    let start = Instant::now();
    let backbone = match presets::named(&args.backbone)? {
        Some(blueprint) => Backbone::random(blueprint, &device, args.on.dtype, 0)?,
        None => Backbone::load(&args.backbone, &device, args.on.dtype)?,
    };
    device.synchronize()?;
    let loading = start.elapsed().as_secs_f64();
    let side = args.resolution.map_or(backbone.default_size(), |side| (side, side));
    let sampling = Sampling {
        steps: args.steps.into(),
        guidance: 6.0,
        scheduler: SchedulerKind::Ddim,
        eta: 0.0,
        height: side.1,
        width: side.0,
        negative_prompt: String::new(),
    };
    let requests: Vec<Request> =
        (0..args.batch).map(|i| Request::new("photo of a dog", i.into())).collect();
    let start = Instant::now();
    // when each step was done, and of how many images
    let done = Mutex::new(vec![]);
    backbone.sample(&requests, &sampling, &|images| {
        let mut done = done.lock().map_err(|_| Error::Interrupted)?;
        done.push((start.elapsed().as_secs_f64(), images));
        Ok(())
    })?;
    let whole = start.elapsed().as_secs_f64();
    let done = done.into_inner().map_err(|_| Error::Interrupted)?;
    let (first, last) = (done[0], done[done.len() - 1]);
    let images: usize = done[1..].iter().map(|(_, images)| images).sum();
    let found = serde_json::json!({
        "device": format!("{:?}", device.location()),
        "dtype": format!("{:?}", args.on.dtype),
        "tf32": args.on.tf32,
        "size": [side.0, side.1],
        "images": args.batch,
        "loading_s": loading,
        "first_step_s": first.0,
        "image_steps_per_s": images as f64 / (last.0 - first.0).max(f64::MIN_POSITIVE),
        "whole_s": whole,
        "peak_memory": process::peak_memory(),
    });
    println!("{found:#}");
    Ok(())
}
