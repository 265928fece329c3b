//! `cdbench export`.

use std::path::PathBuf;

use crate::{Result, mini};

const EXAMPLES: &str = "\
Examples:
  cdbench export mini mini
  cdbench sample --backbone ./mini --prompt 'photo of a dog' -o dog.png";

#[derive(clap::Subcommand)]
pub enum Command {
    /// The embedded mini backbone in diffusers' layout, with the CLIP that judges it in clip/ in
    /// transformers' layout
    Mini(MiniArgs),
}

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct MiniArgs {
    /// The folder to write; it must be new or empty
    dir: PathBuf,

    /// Write over the files of a model that is there
    #[arg(long)]
    force: bool,
}

/// Runs `cdbench export …`.
pub fn run(command: Command) -> Result<()> {
    let Command::Mini(args) = command;
    mini::export(&args.dir, args.force)?;
    println!("{}", args.dir.display());
    Ok(())
}
