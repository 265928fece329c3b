//! `cdbench report`: what is in the store, as a report.

use std::path::PathBuf;

use super::experiment::ExperimentArgs;
use crate::report::{Markdown, Results, export, tables};
use crate::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  cdbench report experiments/table1.toml
  cdbench report experiments/table1.toml --scale full --out reports/table1

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
}

/// Runs `cdbench report`: nothing is trained, sampled or scored.
pub fn run(args: Args) -> Result<()> {
    let session = args.experiment.open()?;
    let mut results = session.results()?;
    for folder in &args.add {
        results.add(Results::read(folder)?).map_err(|e| e.of_file(folder))?;
    }
    if results.cells.is_empty() {
        return Err(Error::input_hint(
            format!(
                "{}: no cell of this experiment is in the store",
                session.store.root().display()
            ),
            format!("first: cdbench run {}", args.experiment.file.display()),
        ));
    }
    session.claim_folder()?;
    session.report(&results)?;
    println!("{}", export(&tables(&results)[..1], &Markdown));
    eprintln!("report: {}", session.out.join("README.md").display());
    Ok(())
}
