//! `cdbench export concepts`.

use std::path::PathBuf;

use crate::data::{ConceptSource, ExportedSet, load_concepts, world_pair, write_customconcept101};
use crate::{Error, Result, safefile, world};

const EXAMPLES: &str = "\
Examples:
  cdbench export concepts mini101
  cdbench run experiments/table4.toml --dataset customconcept101=mini101 --scale paper

The folder has dataset.json, dataset_multiconcept.json, prompts/ and benchmark_dataset/, as CustomConcept101's
has: programs that train on that data set train on this one.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The folder to write; it must be new or empty
    dir: PathBuf,

    /// Write over the files of an earlier export that is there
    #[arg(long)]
    force: bool,
}

/// Runs `cdbench export concepts`.
pub fn run(args: Args) -> Result<()> {
    safefile::check_room(&args.dir, args.force)?;
    let names: Vec<&str> = world::concepts().iter().map(|concept| concept.name).collect();
    let sources: Vec<_> =
        names.iter().map(|name| ConceptSource::World((*name).to_owned())).collect();
    let mut sets = vec![];
    for pair in world::pairs() {
        let (members, prompts) = world_pair(pair.name)?;
        let number = |member: &ConceptSource| {
            let place = names.iter().position(|name| *name == member.name());
            place.ok_or_else(|| Error::input(format!("no concept `{}`", member.name())))
        };
        let concepts = members.iter().map(number).collect::<Result<_>>()?;
        sets.push(ExportedSet { name: pair.name.to_owned(), concepts, prompts });
    }
    write_customconcept101(&args.dir, &load_concepts(&sources)?, &sets)?;
    println!("{}", args.dir.display());
    Ok(())
}
