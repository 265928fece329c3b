//! `cdbench sample`.

use std::path::PathBuf;

use candle_core::{DType, Device};

use super::device::DeviceName;
use super::progress::Progress;
use crate::diffusion::png::Png;
use crate::diffusion::scheduler::SchedulerKind;
use crate::diffusion::{Backbone, Request, Sampling};
use crate::methods::Delta;
use crate::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  cdbench sample --prompt 'photo of a dog in the snow' -o dog.png
  cdbench sample --backbone runs/sd15 --prompt 'photo of a dog' --num 8 --seed 7 -o dogs/
  cdbench sample --backbone runs/sd15 --prompt 'a cat' --latents noise.safetensors -o cat.png";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// mini (embedded), a folder in diffusers' layout, or a hub id: owner/name[@revision]
    #[arg(long, default_value = crate::mini::NAME)]
    backbone: String,

    /// A checkpoint's folder, as `cdbench train` writes it
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,

    /// What the images show
    #[arg(long)]
    prompt: String,

    /// What they should not show
    #[arg(long, default_value = "")]
    negative_prompt: String,

    /// Image i is made from seed + i
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Denoising steps
    #[arg(long, default_value_t = 50)]
    steps: usize,

    /// Classifier-free guidance scale; 1: none
    #[arg(long, default_value_t = 6.0)]
    guidance: f64,

    /// ddim, ddpm or dpm++ [default: the backbone's own, or ddim where it is none of these]
    #[arg(long)]
    scheduler: Option<SchedulerKind>,

    /// DDIM's share of fresh noise, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    eta: f64,

    /// How many images
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    num: u32,

    /// Width and height in pixels, such as 512x512 [default: what the backbone was trained at]
    #[arg(long, value_name = "WxH", value_parser = size)]
    size: Option<(usize, usize)>,

    /// Initial noise in place of the seed's: a safetensors file whose `latents` are
    /// [num, channels, height, width]
    #[arg(long, value_name = "FILE")]
    latents: Option<PathBuf>,

    /// auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "auto")]
    device: DeviceName,

    /// A .png file for one image, a folder for several
    #[arg(short, long)]
    output: PathBuf,
}

/// `512x768` as (width, height).
fn size(text: &str) -> std::result::Result<(usize, usize), String> {
    let (width, height) = text.split_once('x').ok_or("use WIDTHxHEIGHT, such as 512x512")?;
    let number = |s: &str| s.parse().map_err(|_| format!("`{s}` is not a number of pixels"));
    Ok((number(width)?, number(height)?))
}

pub fn run(args: Args) -> Result<()> {
    let device = args.device.open()?;
    let mut backbone = Backbone::load(&args.backbone, &device, DType::F32)?;
    if let Some(dir) = &args.checkpoint {
        let delta = Delta::load(dir)?;
        if !delta.tokens().is_empty() {
            eprintln!("tokens of the checkpoint: {}", delta.token_names().join(", "));
        }
        // nobody samples the backbone as it was
        let _undo = delta.apply(&mut backbone)?;
    }
    let (width, height) = args.size.unwrap_or_else(|| backbone.default_size());
    let sampling = Sampling {
        steps: args.steps,
        guidance: args.guidance,
        scheduler: args.scheduler.unwrap_or_else(|| SchedulerKind::of(&backbone.scheduler)),
        eta: args.eta,
        height,
        width,
        negative_prompt: args.negative_prompt.clone(),
    };
    let requests = requests(&args)?;

    let progress = Progress::new("sampling", (args.steps * requests.len()) as u64, "image steps");
    let samples = backbone.sample(&requests, &sampling, &|images| {
        progress.add(images as u64);
        Ok(())
    })?;
    progress.finish();

    for (i, (request, sample)) in requests.iter().zip(&samples).enumerate() {
        let path = match args.num {
            1 if args.output.extension().is_some_and(|e| e == "png") => args.output.clone(),
            _ => args.output.join(format!("{i:05}.png")),
        };
        let seed = match request.latents {
            Some(_) => "none: the initial noise was given".to_string(),
            None => request.seed.to_string(),
        };
        let settings = [
            ("prompt", request.prompt.clone()),
            ("negative_prompt", sampling.negative_prompt.clone()),
            ("seed", seed),
            ("steps", sampling.steps.to_string()),
            ("guidance", sampling.guidance.to_string()),
            ("scheduler", sampling.scheduler.to_string()),
            ("eta", sampling.eta.to_string()),
            ("backbone", args.backbone.clone()),
            ("software", concat!("cdbench ", env!("CARGO_PKG_VERSION")).to_owned()),
        ];
        let (width, height) = sample.image.dimensions();
        let png = Png {
            width: width as usize,
            height: height as usize,
            rgb: sample.image.as_raw().clone(),
            text: settings.map(|(key, value)| (key.to_owned(), value)).to_vec(),
        };
        png.write(&path)?;
        println!("{}", path.display());
    }
    Ok(())
}

fn requests(args: &Args) -> Result<Vec<Request>> {
    let num = args.num as usize;
    let latents = match &args.latents {
        None => vec![None; num],
        Some(path) => {
            let wrong = |what: String| Error::input(format!("{}: {what}", path.display()));
            std::fs::metadata(path).map_err(Error::io(path))?;
            let mut tensors = candle_core::safetensors::load(path, &Device::Cpu)
                .map_err(|e| wrong(format!("not a safetensors file: {e}")))?;
            let latents = tensors.remove("latents").ok_or_else(|| {
                wrong(format!("no tensor `latents` among {:?}", tensors.keys().collect::<Vec<_>>()))
            })?;
            if latents.rank() != 4 || latents.dims()[0] != num {
                return Err(wrong(format!(
                    "`latents` has shape {:?}, but [{num}, channels, height, width] was wanted",
                    latents.dims()
                )));
            }
            (0..num).map(|i| latents.get(i).map(Some)).collect::<candle_core::Result<_>>()?
        }
    };
    Ok(latents
        .into_iter()
        .enumerate()
        .map(|(i, latents)| Request {
            prompt: args.prompt.clone(),
            seed: args.seed.wrapping_add(i as u64),
            latents,
        })
        .collect())
}
