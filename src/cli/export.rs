//! `cdbench export`.

use std::path::PathBuf;

use candle_core::{DType, Device};

use super::backbone::SingleFileArgs;
use super::card;
use super::device::dtype;
use super::{export_concepts, export_mlflow};
use crate::diffusion::{Backbone, BackboneFiles};
use crate::{Result, mini, safefile};

const EXAMPLES: &str = "\
Examples:
  cdbench export mini mini
  cdbench export v1-5-pruned.safetensors sd15 --dtype f16
  cdbench export v2-1_768.ckpt sd21 --prediction v
  cdbench sample --backbone ./mini --prompt 'photo of a dog' -o dog.png";

#[derive(clap::Args)]
#[command(
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Args {
    #[command(subcommand)]
    embedded: Option<Command>,

    /// A single-file checkpoint of SD 1.x or 2.x, a folder in diffusers' layout, or a hub id
    #[arg(required = true)]
    backbone: Option<String>,

    /// The folder to write; it must be new or empty
    #[arg(required = true)]
    dir: Option<PathBuf>,

    /// Type of the weights: f32, f16 or bf16
    #[arg(long, default_value = "f32", value_parser = dtype)]
    dtype: DType,

    #[command(flatten)]
    about: SingleFileArgs,

    /// Write over the files of a model that is there
    #[arg(long)]
    force: bool,
}

/// What is compiled in, and what was measured.
#[derive(clap::Subcommand)]
pub enum Command {
    /// The embedded mini backbone in diffusers' layout, with the CLIP that judges it in clip/ and the
    /// identity extractor in dino/, in transformers' layout
    Mini(MiniArgs),
    /// The concepts of the embedded world in CustomConcept101's layout, for the programs of others
    Concepts(export_concepts::Args),
    /// An experiment's results as runs on an MLflow server
    Mlflow(Box<export_mlflow::Args>),
}

const MINI: &str = "\
Examples:
  cdbench export mini mini
  cdbench export mini mini --dtype f32 --force";

#[derive(clap::Args)]
#[command(after_help = MINI)]
pub struct MiniArgs {
    /// The folder to write; it must be new or empty
    dir: PathBuf,

    /// Type of the backbone's weights: f32, f16 or bf16 [default: as they are]
    #[arg(long, value_parser = dtype)]
    dtype: Option<DType>,

    /// Write over the files of a model that is there
    #[arg(long)]
    force: bool,
}

/// Runs `cdbench export …`.
pub fn run(args: Args) -> Result<()> {
    let dir = match (args.embedded, args.backbone, args.dir) {
        (Some(Command::Mini(args)), ..) => {
            mini::export(&args.dir, args.force)?;
            if let Some(dtype) = args.dtype {
                let backbone = Backbone::load(mini::NAME, &Device::Cpu, DType::F32)?;
                backbone.save(&args.dir, dtype)?;
            }
            let dtype = args.dtype.map_or("half precision", |dtype| dtype.as_str());
            card::write_backbone(&args.dir, mini::NAME, dtype, args.force)?;
            args.dir
        }
        (Some(Command::Concepts(args)), ..) => return export_concepts::run(args),
        (Some(Command::Mlflow(args)), ..) => return export_mlflow::run(*args),
        (None, Some(backbone), Some(dir)) => {
            safefile::check_room(&dir, args.force)?;
            let files = BackboneFiles::open(&args.about.over(backbone.as_str().into()))?;
            // what is rounded once is not rounded again
            Backbone::read(&files, &Device::Cpu, args.dtype)?.save(&dir, args.dtype)?;
            card::write_backbone(&dir, &backbone, args.dtype.as_str(), args.force)?;
            dir
        }
        (None, ..) => {
            unreachable!("clap wants a backbone and a folder where nothing else is named")
        }
    };
    println!("{}", dir.display());
    Ok(())
}
