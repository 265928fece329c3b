//! `cdbench world`: pictures of the embedded world.

use std::path::PathBuf;

use crate::engine::read_image;
use crate::metrics::wilson;
use crate::report::Results;
use crate::world::{self, Concept, WorldConfig};
use crate::{Error, Result};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Write a contact sheet of captioned scenes
    Preview(PreviewArgs),
    /// Count the pictures of a report in which the concepts' own looks can be seen
    Looks(LooksArgs),
}

const EXAMPLES: &str = "\
Examples:
  cdbench world looks runs/reports/table1/default
  cdbench world looks reports/table1 --store /data/runs

Counts photo prompts that leave the concepts their own colours. A look is seen where both of its colours
lie together: see src/world/look.rs for the rule. A picture of several concepts counts if all are seen.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct LooksArgs {
    /// The folder of a report on built-in concepts
    report: PathBuf,

    /// The store that has its images
    #[arg(long, default_value = "runs")]
    store: PathBuf,
}

const PREVIEW: &str = "\
Examples:
  cdbench world preview -o world.png
  cdbench world preview --concepts -o concepts.png";

#[derive(clap::Args)]
#[command(after_help = PREVIEW)]
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
    match command {
        Command::Preview(args) => preview(&args),
        Command::Looks(args) => looks(&args),
    }
}

fn preview(args: &PreviewArgs) -> Result<()> {
    if args.concepts {
        world::preview_concepts(&args.output)?;
    } else {
        world::preview(args.count, args.seed, &args.output, &WorldConfig::default())?;
    }
    println!("{}", args.output.display());
    Ok(())
}

/// What was counted of a row of the table.
struct Seen<'a> {
    group: &'a str,
    label: &'a str,
    pictures: usize,
    all: usize,
    /// Concepts that could be seen, and those that were.
    each: (usize, usize),
}

fn looks(args: &LooksArgs) -> Result<()> {
    let results = Results::read(&args.report)?;
    let images = results.by_cell();
    let known: Vec<&Concept> = world::concepts().iter().chain(world::tuning_concepts()).collect();
    let mut rows: Vec<Seen> = vec![];
    for cell in &results.cells {
        let find = |name: &String| known.iter().find(|c| c.name == name).copied();
        let Some(concepts) = cell.concepts.iter().map(find).collect::<Option<Vec<_>>>() else {
            continue;
        };
        for image in images.get(cell.id.as_str()).into_iter().flatten() {
            if !image.of.is_empty() || !world::asks_for_own_looks(&image.text_prompt) {
                continue;
            }
            let picture = read_image(&args.store.join(&image.file))?;
            let side = picture.width() as usize;
            if picture.height() as usize != side {
                continue;
            }
            let seen = concepts.iter().filter(|c| world::shows(picture.as_raw(), side, c)).count();
            let same = |row: &&mut Seen| row.group == cell.group && row.label == cell.label;
            let row = match rows.iter_mut().find(same) {
                Some(row) => row,
                None => {
                    let (group, label) = (cell.group.as_str(), cell.label.as_str());
                    rows.push(Seen { group, label, pictures: 0, all: 0, each: (0, 0) });
                    rows.last_mut().expect("it was put there")
                }
            };
            row.pictures += 1;
            row.all += usize::from(seen == concepts.len());
            row.each = (row.each.0 + concepts.len(), row.each.1 + seen);
        }
    }
    if rows.is_empty() {
        return Err(Error::input_hint(
            format!("{}: no picture of a built-in concept", args.report.display()),
            "photographs have no look that is known beforehand",
        ));
    }
    println!("group\trow\tpictures\tall looks seen\t95 % low\t95 % high\teach look seen");
    for Seen { group, label, pictures, all, each } in rows {
        let (low, high) = wilson(all, pictures);
        let share = all as f64 / pictures as f64;
        let each = each.1 as f64 / each.0 as f64;
        println!("{group}\t{label}\t{pictures}\t{share:.2}\t{low:.2}\t{high:.2}\t{each:.2}");
    }
    Ok(())
}
