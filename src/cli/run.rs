//! `cdbench run`.

use super::experiment::{ExperimentArgs, Session};
use super::live;
use super::watch::human;
use crate::Result;
use crate::engine::Todo;
use crate::report::{Markdown, export, tables};

const EXAMPLES: &str = "\
Examples:
  cdbench run experiments/table1.toml
  cdbench run experiments/table1.toml --dry-run
  cdbench run experiments/table1.toml --scale full --jobs 2
  cdbench run experiments/table3.toml --filter method=custom-diffusion --set sampling.steps=25
  cdbench run experiments/table1.toml --backbone ~/models/sd14 --clip ~/models/clip-vit-base-patch32 \\
    --device cuda --dtype bf16

The same command again does only what is missing; an interrupted one goes on where it was. The report is
written anew as cells are finished.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    experiment: ExperimentArgs,

    /// Stages at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,

    /// Print what would be done, why, and about how long it takes
    #[arg(long)]
    dry_run: bool,
}

/// Runs `cdbench run`.
pub fn run(args: Args) -> Result<()> {
    let session = args.experiment.open()?;
    let todo = session.survey()?;
    if args.dry_run {
        print_plan(&session, &todo);
        return Ok(());
    }
    session.claim_folder()?;
    let outcome = live::run(&session, &todo, args.jobs.into())?;
    let results = session.results()?;
    if !results.cells.is_empty() {
        session.report(&results)?;
        println!("{}", export(&tables(&results)[..1], &Markdown));
        eprintln!("report: {}", session.out.join("README.md").display());
    }
    session.verdict(outcome)
}

/// What is to be done, a line each.
fn print_plan(session: &Session, todo: &[Todo]) {
    let (mut stages, mut seconds, mut unknown) = (0, 0.0, 0);
    for (stage, todo) in session.plan.stages.iter().zip(todo) {
        let Todo::Run { reason, estimate } = todo else { continue };
        stages += 1;
        let time = match estimate {
            Some(s) => {
                seconds += s;
                human(*s)
            }
            None => {
                unknown += 1;
                "?".into()
            }
        };
        println!("{time:>8}  {}  ({reason})", stage.name);
    }
    let done = session.plan.stages.len() - stages;
    println!(
        "{} cells; {stages} stages to run, {done} done or not needed",
        session.plan.cells.len()
    );
    match (stages, unknown) {
        (0, _) => {}
        (_, 0) => println!("about {}", human(seconds)),
        _ => println!(
            "about {} for what has been measured in this store; {unknown} stages have not",
            human(seconds)
        ),
    }
}
