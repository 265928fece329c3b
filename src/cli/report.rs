//! `cdbench report` and `cdbench status`: views of what is in the store.

use super::experiment::ExperimentArgs;
use crate::engine::Todo;
use crate::report::{Markdown, export, tables};
use crate::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  cdbench report experiments/table1.toml
  cdbench report experiments/table1.toml --scale full --out paper/figures";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    experiment: ExperimentArgs,
}

/// Runs `cdbench report`: nothing is trained, sampled or scored.
pub fn run(args: Args) -> Result<()> {
    let session = args.experiment.open()?;
    let results = session.results()?;
    if results.cells.is_empty() {
        return Err(Error::input_hint(
            format!(
                "{}: no cell of this experiment is in the store",
                session.store.root().display()
            ),
            format!("first: cdbench run {}", args.experiment.file.display()),
        ));
    }
    session.report(&results)?;
    println!("{}", export(&tables(&results)[..1], &Markdown));
    eprintln!("report: {}", session.out.join("README.md").display());
    Ok(())
}

/// Runs `cdbench status`.
pub fn status(args: Args) -> Result<()> {
    let session = args.experiment.open()?;
    let todo = session.survey()?;
    for cell in &session.plan.cells {
        let state = match &todo[cell.scores] {
            Todo::Nothing => "done   ".to_owned(),
            Todo::Run { .. } => "missing".to_owned(),
        };
        println!("{state}  {}", cell.name());
    }
    let done = session.plan.cells.iter().filter(|c| todo[c.scores] == Todo::Nothing).count();
    println!("{done} of {} cells are done", session.plan.cells.len());
    Ok(())
}
