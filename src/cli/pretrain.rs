//! `cdbench pretrain`: the mini backbone and its judge, from nothing.

use std::path::{Path, PathBuf};

use candle_core::Device;

use super::device::DeviceName;
use crate::Result;
use crate::diffusion::BackboneFiles;
use crate::pretrain::{self, PretrainConfig};

const EXAMPLES: &str = "\
Examples:
  cdbench pretrain vae
  cdbench pretrain unet --from mini --config longer.toml --out runs/longer
  cdbench pretrain all --config assets/mini/pretrain.toml --out runs/pretrain --device cuda";

#[derive(clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// Train the autoencoder
    Vae(Args),
    /// Train the autoencoder's decoder further, with the latents as they are
    Decoder(Args),
    /// Train the UNet and the text encoder, on the latents of the trained autoencoder
    Unet(Args),
    /// Train the judge, a CLIP that no other run sees
    Clip(Args),
    /// Train the identity extractor, which tells instances apart
    Identity(Args),
    /// All of them, one after another
    All(Args),
    /// Measure the trained models and write report.md with a contact sheet
    Report(ReportArgs),
}

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to train, on which scenes, for how long
    #[arg(long, default_value = "assets/mini/pretrain.toml")]
    config: PathBuf,

    /// Folder of states, curves, pictures and, in `mini/`, the trained models; a run that is there
    /// goes on
    #[arg(long, default_value = "runs/pretrain")]
    out: PathBuf,

    /// Begin with the weights of this backbone, a folder or `mini`, instead of random ones
    #[arg(long)]
    from: Option<String>,

    /// auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "auto")]
    device: DeviceName,
}

const REPORT: &str = "\
Examples:
  cdbench pretrain report
  cdbench pretrain report --model runs/longer/mini --seeds 8";

#[derive(clap::Args)]
#[command(after_help = REPORT)]
pub struct ReportArgs {
    /// The backbone's folder, with the judge in `clip/`
    #[arg(long, default_value = "runs/pretrain/mini")]
    model: PathBuf,

    /// Where report.md and samples.png are written [default: the model's folder]
    #[arg(long)]
    out: Option<PathBuf>,

    /// Images of each prompt
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    seeds: u16,

    /// Generated images that KID compares with as many held-out scenes
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(2..=1000))]
    kid: u16,

    /// Denoising steps
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    steps: u16,

    /// Guidance scale
    #[arg(long, default_value_t = 4.0)]
    guidance: f64,

    /// auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "auto")]
    device: DeviceName,
}

/// Runs `cdbench pretrain …`.
pub fn run(command: Command) -> Result<()> {
    use pretrain::{
        pretrain_clip, pretrain_decoder, pretrain_identity, pretrain_unet, pretrain_vae,
    };

    let (args, parts): (Args, &[Part]) = match command {
        Command::Vae(args) => (args, &[pretrain_vae]),
        Command::Decoder(args) => (args, &[pretrain_decoder]),
        Command::Unet(args) => (args, &[pretrain_unet]),
        Command::Clip(args) => (args, &[pretrain_clip]),
        Command::Identity(args) => (args, &[pretrain_identity]),
        Command::All(args) => (
            args,
            &[pretrain_vae, pretrain_decoder, pretrain_clip, pretrain_identity, pretrain_unet],
        ),
        Command::Report(args) => return report(args),
    };
    let config = PretrainConfig::read(&args.config)?;
    let device = args.device.open()?;
    let from = args.from.as_deref().map(|from| BackboneFiles::open(&from.into())).transpose()?;
    parts.iter().try_for_each(|part| part(&config, &args.out, from.as_ref(), &device))
}

type Part = fn(&PretrainConfig, &Path, Option<&BackboneFiles>, &Device) -> Result<()>;

fn report(args: ReportArgs) -> Result<()> {
    let out = args.out.unwrap_or_else(|| args.model.clone());
    let measured = pretrain::ReportArgs {
        model: args.model,
        out,
        seeds: args.seeds.into(),
        kid: args.kid.into(),
        steps: args.steps.into(),
        guidance: args.guidance,
    };
    pretrain::report(&measured, &args.device.open()?)
}
