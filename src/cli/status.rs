//! `cdbench status`: how far an experiment is, in the store and in the queue.

use super::experiment::{ExperimentArgs, Session};
use super::submit;
use crate::engine::Todo;
use crate::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  cdbench status experiments/table1.toml --scale full
  cdbench status experiments/table1.toml --strict || echo 'not all of it is there'";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    experiment: ExperimentArgs,

    /// End with code 7 if a cell is not done
    #[arg(long)]
    strict: bool,
}

/// Runs `cdbench status`.
pub fn run(args: Args) -> Result<()> {
    let session = args.experiment.options.open_to_look(&args.experiment.file)?;
    let todo = session.survey()?;
    let is_done = |at: usize| todo[at] == Todo::Nothing;
    for cell in &session.plan.cells {
        let state = if is_done(cell.scores) { "done   " } else { "missing" };
        println!("{state}  {}", cell.name());
    }
    let (done, of) =
        (session.plan.cells.iter().filter(|c| is_done(c.scores)).count(), session.plan.cells.len());
    println!("{done} of {of} cells are done");
    say_stages(&session, &todo);
    for line in submit::queued(&session.store, &session.experiment.name, &session.scale.name)? {
        println!("{line}");
    }
    match args.strict && done < of {
        true => Err(Error::Incomplete(format!("{} of {of} cells are not done", of - done))),
        false => Ok(()),
    }
}

/// Who is at the stages that are missing, and which failed the last time.
fn say_stages(session: &Session, todo: &[Todo]) {
    let missing = session.plan.stages.iter().zip(todo).filter(|(_, t)| **t != Todo::Nothing);
    for (stage, _) in missing {
        if let Some(holder) = session.store.holder(stage) {
            println!("running  {} ({holder})", stage.name);
        } else if let Some(failure) = session.store.failure(&stage.key) {
            println!("failed   {} (on {}): {}", stage.name, failure.node, failure.error);
            failure.hint.iter().for_each(|hint| println!("  hint: {hint}"));
        }
    }
}
