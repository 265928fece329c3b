//! `cdbench report`: what is in the store, as a report.

use std::path::PathBuf;

use super::experiment::ExperimentArgs;
use crate::Result;
use crate::report::{Format, Markdown, Results, export, tables};

const EXAMPLES: &str = "\
Examples:
  cdbench report experiments/table1.toml
  cdbench report experiments/table1.toml --scale full --out reports/table1
  cdbench report experiments/table1.toml --format html,json,parquet

A sweep over two machines: `cdbench run … --filter seed=0` on one, `--filter seed=1` on the other,
then on the first
  cdbench report experiments/table1.toml --add from-the-other/runs/reports/table1/default,seed=1";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    experiment: ExperimentArgs,

    /// Another report of this experiment, whose cells join those of the store; may be given again
    #[arg(long, value_name = "DIR")]
    add: Vec<PathBuf>,

    /// The report's forms; those that the folder had before and that are not named are removed
    #[arg(
        long,
        value_name = "FORMAT,…",
        value_delimiter = ',',
        default_value = "html,md,latex,csv"
    )]
    format: Vec<Format>,
}

/// Runs `cdbench report`: nothing is trained, sampled or scored.
pub fn run(args: Args) -> Result<()> {
    let session = args.experiment.open()?;
    let mut results = session.results()?;
    for folder in &args.add {
        results.add(Results::read(folder)?).map_err(|e| e.of_file(folder))?;
    }
    if results.cells.is_empty() {
        return Err(session.nothing_yet(&args.experiment.file));
    }
    session.claim_folder()?;
    session.report_as(&args.format, &results)?;
    println!("{}", export(&tables(&results)[..1], &Markdown));
    let first = match args.format.contains(&Format::Md) {
        true => session.out.join("README.md"),
        false => session.out.clone(),
    };
    eprintln!("report: {}", first.display());
    Ok(())
}
