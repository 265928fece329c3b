//! `cdbench world`: pictures of the embedded world.

use std::path::PathBuf;

use crate::Result;
use crate::world::{self, WorldConfig};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Write a contact sheet of captioned scenes
    Preview(PreviewArgs),
}

#[derive(clap::Args)]
pub struct PreviewArgs {
    /// How many scenes
    #[arg(long, default_value_t = 64)]
    count: usize,

    /// Which scenes
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// The target images of the held-out concepts in place of scenes
    #[arg(long)]
    concepts: bool,

    /// The picture, a PNG
    #[arg(short, long, default_value = "world.png")]
    output: PathBuf,
}

/// Runs `cdbench world …`.
pub fn run(command: Command) -> Result<()> {
    let Command::Preview(args) = command;
    if args.concepts {
        world::preview_concepts(&args.output)?;
    } else {
        world::preview(args.count, args.seed, &args.output, &WorldConfig::default())?;
    }
    println!("{}", args.output.display());
    Ok(())
}
