//! `cdbench run`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::experiment::{Options, Session, single_verdict};
use super::log::LogArgs;
use super::pictures::Stored;
use super::watch::human;
use super::{claims, live};
use crate::engine::{Crew, Todo, Work};
use crate::report::{Markdown, export, tables};
use crate::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  cdbench run experiments/table1.toml
  cdbench run experiments/table1.toml --dry-run
  cdbench run experiments/table1.toml --scale full --jobs 2
  cdbench run experiments/*.toml                    all of them, what they share once
  cdbench run experiments/fig20.toml --filter steps=100
  cdbench run experiments/table3.toml --filter method=custom-diffusion --set sampling.steps=25
  cdbench run experiments/table1.toml --shard 2/4   a quarter of the cells, for one of four machines
  cdbench run experiments/table1.toml --stage 2f6e0c1b9d3a4857   as `cdbench plan --json` names them
  cdbench run experiments/table1.toml --backbone ~/models/sd14 --clip ~/models/clip-vit-base-patch32 \\
    --device cuda --dtype bf16
  cdbench run experiments/table1.toml --log tensorboard

The same command again does only what is missing; an interrupted one goes on where it was. The report is
written anew as cells are finished.

Runs on any number of machines may share a store, on NFS or Lustre, too. A stage is done by one of them: the
others pass over it, come back to it later, and wait only when nothing else is left. A run that dies is found
out after a minute, and its stage goes on from its last state elsewhere. With --shard each run has cells of
its own, and what several need is done once where they share a store. On SLURM: cdbench submit.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Experiments: TOML files, see experiments/
    #[arg(required = true)]
    files: Vec<PathBuf>,

    #[command(flatten)]
    options: Options,

    #[command(flatten)]
    log: LogArgs,

    /// Stages at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,

    /// Make images again, too, that were judged and have gone from the store since
    #[arg(long)]
    images: bool,

    /// Only this stage and what it needs, without a report: a key of `cdbench plan --json`, or how it
    /// begins; may be given again
    #[arg(long, value_name = "KEY", conflicts_with_all = ["shard", "dry_run"])]
    stage: Vec<String>,

    /// Work on the whole with all runs of the store that have the same name: what failed in one is not tried
    /// by the others, and the report is left to `cdbench report`
    #[arg(long, value_name = "NAME", conflicts_with = "dry_run")]
    team: Option<String>,

    /// Print what would be done, why, and about how long it takes
    #[arg(long)]
    dry_run: bool,
}

/// Runs `cdbench run`.
pub fn run(args: Args) -> Result<()> {
    // all are read and planned before the first of them runs
    let mut sessions = open(&args)?;
    if args.dry_run {
        return dry_run(&sessions);
    }
    // a training whose states are wanted serves those who want its end alone, and not the other way round
    let wants_states =
        |s: &Session| s.plan.stages.iter().any(|s| matches!(s.work, Work::State { .. }));
    sessions.sort_by_key(|session| !wants_states(session));
    let crew = Crew { jobs: args.jobs.into(), team: args.team.clone() };
    if !args.stage.is_empty() {
        return run_stages(&sessions, &args.stage, &crew);
    }
    if args.team.is_none() {
        sessions.iter().try_for_each(Session::claim_folder)?;
    }
    let (count, mut failed) = (sessions.len(), vec![]);
    for (i, session) in sessions.iter().enumerate() {
        let name = &session.experiment.name;
        if count > 1 {
            eprintln!("experiment {} of {count}: {name}", i + 1);
        }
        match one(session, &args, &crew) {
            Err(error @ (Error::Interrupted | Error::Device { .. })) => return Err(error),
            Err(error) if count > 1 => {
                eprintln!("{name}: {error}");
                failed.push((name, error));
            }
            done => done?,
        }
    }
    if count > 1 && args.team.is_none() {
        let reports = args.options.reports();
        claims::write(std::slice::from_ref(&reports), &reports.join("README.md"))?;
    }
    let names: Vec<&str> = failed.iter().map(|(name, _)| name.as_str()).collect();
    match failed.len() {
        0 => Ok(()),
        n => Err(Error::Incomplete(format!(
            "{n} of {count} experiments could not be finished: {}",
            names.join(", ")
        ))),
    }
}

/// The experiments, planned.
fn open(args: &Args) -> Result<Vec<Session>> {
    let (mut sessions, mut names) = (vec![], BTreeMap::new());
    for file in &args.files {
        let mut session = args.options.open(file).map_err(|e| match args.files.len() {
            1 => e,
            _ => e.of(&file.display().to_string()),
        })?;
        session.images = args.images;
        let name = session.experiment.name.clone();
        if let Some(other) = names.insert(name.clone(), file) {
            return Err(Error::input(format!(
                "{} and {} are both called `{name}`: their reports would share a folder",
                other.display(),
                file.display()
            )));
        }
        if args.files.len() > 1 && args.options.out.is_some() {
            session.out.push(name);
        }
        sessions.push(session);
    }
    Ok(sessions)
}

/// Runs single stages, and what they need.
fn run_stages(sessions: &[Session], keys: &[String], crew: &Crew) -> Result<()> {
    let mut wanted = vec![vec![]; sessions.len()];
    for key in keys {
        let mut found = BTreeMap::new();
        for (i, session) in sessions.iter().enumerate() {
            let stages = session.plan.stages.iter().enumerate();
            for (at, stage) in stages.filter(|(_, s)| s.key.short().starts_with(key)) {
                // what experiments share is run for the first of them
                found.entry(stage.key.short()).or_insert((i, at));
            }
        }
        match found.into_values().collect::<Vec<_>>()[..] {
            [(i, at)] if !key.is_empty() => wanted[i].push(at),
            ref found => {
                let message = format!("--stage {key}: {} stages have such a key", found.len());
                return Err(Error::input_hint(message, "`cdbench plan FILE` lists the keys"));
            }
        }
    }
    for (session, wanted) in sessions.iter().zip(wanted).filter(|(_, wanted)| !wanted.is_empty()) {
        let todo = session.survey_of(&wanted)?;
        single_verdict(session.run(&todo, crew, &|_| {})?)?;
    }
    Ok(())
}

/// Runs an experiment and writes its report.
fn one(session: &Session, args: &Args, crew: &Crew) -> Result<()> {
    let todo = session.survey()?;
    if crew.team.is_some() {
        return session.verdict(session.run(&todo, crew, &|_| {})?);
    }
    let name = Path::new(&session.experiment.name).join(&session.scale.name);
    let several = args.files.len() > 1;
    let board = args.log.open(&name, several, &session.plan, &session.store, &todo)?;
    let outcome = live::run(session, &todo, crew, board.as_ref())?;
    let results = session.results()?;
    if let Some(board) = &board {
        board.results(&results, &Stored::new(session))?;
    }
    if !results.cells.is_empty() {
        session.report(&results)?;
        println!("{}", export(&tables(&results)[..1], &Markdown));
        eprintln!("report: {}", session.out.join("README.md").display());
    }
    session.verdict(outcome)
}

/// What is to be done, a line each; what experiments share once.
fn dry_run(sessions: &[Session]) -> Result<()> {
    let (mut stages, mut seconds, mut unknown) = (0, 0.0, 0);
    let (mut cells, mut all, mut seen) = (0, BTreeSet::new(), BTreeSet::new());
    for session in sessions {
        cells += session.plan.cells.len();
        for (stage, todo) in session.plan.stages.iter().zip(session.survey()?) {
            all.insert(stage.key.short().to_owned());
            let Todo::Run { reason, estimate } = todo else { continue };
            if !seen.insert(stage.key.short().to_owned()) {
                continue;
            }
            stages += 1;
            let time = match estimate {
                Some(s) => {
                    seconds += s;
                    human(s)
                }
                None => {
                    unknown += 1;
                    "?".into()
                }
            };
            println!("{time:>8}  {}  ({reason})", stage.name);
        }
    }
    let done = all.len() - stages;
    println!("{cells} cells; {stages} stages to run, {done} done or not needed");
    match (stages, unknown) {
        (0, _) => {}
        (_, 0) => println!("about {}", human(seconds)),
        _ => println!(
            "about {} for what has been measured in this store; {unknown} stages have not",
            human(seconds)
        ),
    }
    Ok(())
}
