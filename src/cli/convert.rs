//! `cdbench convert`: a checkpoint as other programs have it.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

use super::card;
use crate::diffusion::Backbone;
use crate::methods::{
    Compression, Delta, Description, Target, convert, refuse_other_weights, remove_checkpoint,
    targets,
};
use crate::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  cdbench convert checkpoints/dog delta.bin --to authors
  cdbench convert delta.bin checkpoints/dog --to diffusers
  cdbench convert checkpoints/dog dog-lora/ --to kohya --rank 16 --backbone runs/sd15
  cdbench convert lora.safetensors dog/ --to cdbench";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = long_help())]
pub struct Args {
    /// A checkpoint: a folder or file of any dialect that `cdbench sample --checkpoint` reads
    input: PathBuf,

    /// A file that ends as the dialect's do, or a folder
    output: PathBuf,

    /// cdbench, diffusers, authors, authors-compressed, compvis, lora, kohya, textual-inversion or a1111;
    /// --help says who reads them
    #[arg(long, value_name = "DIALECT")]
    to: &'static Target,

    /// The backbone that the checkpoint is of, where weights are to become factors of what is added to
    /// them, or the other way round: `mini`, a folder in diffusers' layout, or a hub id
    #[arg(long)]
    backbone: Option<String>,

    /// The rank of factors: so many singular values of each change are kept
    #[arg(long, conflicts_with = "share")]
    rank: Option<usize>,

    /// The largest singular values of each change are kept until they hold this share of the sum of all
    #[arg(long)]
    share: Option<f64>,

    /// Replace what is there
    #[arg(long)]
    force: bool,
}

fn long_help() -> String {
    let about = targets().iter().map(|t| format!("  {:<20}{}", t.name, t.about));
    format!("Dialects:\n{}\n\n{EXAMPLES}", about.collect::<Vec<_>>().join("\n"))
}

/// Runs `cdbench convert`.
pub fn run(args: Args) -> Result<()> {
    let delta = Delta::load(&args.input)?;
    let (said, known) = (Description::read(&args.input)?, card::known(&args.input)?);
    let to = args.rank.map(Compression::Rank).or(args.share.map(Compression::Share));
    let load = |name: &String| Backbone::load(name, &Device::Cpu, DType::F32);
    let backbone = args.backbone.as_ref().map(load).transpose()?;
    let converted = convert(&delta, args.to, backbone.as_ref(), to)?;
    let paths = converted.paths(&args.output)?;
    make_room(&args, &paths)?;
    converted.save(&paths)?;
    let tokens = delta.token_names();
    card::write_checkpoint(&args.output, known.as_ref(), &tokens, args.to.name, args.force)?;
    if let Some(said) = said.filter(|_| paths != [args.output.clone()]) {
        said.write(&args.output)?;
    }

    let count =
        |n: usize, one: &str, more: &str| format!("{n} {}", if n == 1 { one } else { more });
    eprint!("{}", count(delta.changed().count(), "weight", "weights"));
    match &delta.token_names()[..] {
        [] => eprintln!(", no token"),
        names => eprintln!(", {}: {}", count(names.len(), "token", "tokens"), names.join(", ")),
    }
    if let Some(kept) = converted.kept {
        eprintln!("{:.2} % of the change is kept, of the sum of its squares", 100.0 * kept);
    }
    paths.iter().for_each(|path| println!("{}", path.display()));
    Ok(())
}

/// Sees that what is to be written replaces nothing, or nothing but what it may.
fn make_room(args: &Args, paths: &[PathBuf]) -> Result<()> {
    let full = |path: &Path| std::fs::canonicalize(path).ok();
    let input = full(&args.input);
    if input.is_some() && (input == full(&args.output) || paths.iter().any(|p| input == full(p))) {
        return Err(Error::input_hint(
            format!("{}: this is the checkpoint that is converted", args.output.display()),
            "name another file or folder",
        ));
    }
    let folder = paths != [args.output.clone()];
    if folder && args.force {
        remove_checkpoint(&args.output)?;
    }
    if let Some(path) = paths.iter().find(|path| path.exists()).filter(|_| !args.force) {
        return Err(Error::input_hint(
            format!("{}: this is there already", path.display()),
            "name another file or folder, or replace what is there with --force",
        ));
    }
    match folder {
        true => refuse_other_weights(&args.output, paths.iter().map(PathBuf::as_path)),
        false => Ok(()),
    }
}
