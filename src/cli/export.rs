//! `cdbench export`.

use std::path::PathBuf;

use super::export_concepts;
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
    /// The concepts of the embedded world in CustomConcept101's layout, for the programs of others
    Concepts(export_concepts::Args),
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
    let args = match command {
        Command::Mini(args) => args,
        Command::Concepts(args) => return export_concepts::run(args),
    };
    mini::export(&args.dir, args.force)?;
    println!("{}", args.dir.display());
    Ok(())
}
