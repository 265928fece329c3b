//! `cdbench submit`: an experiment as jobs of SLURM.
//!
//! One array of tasks that all run the same plan as a team, each taking whatever is ready, and not an array
//! for each level of the plan: nobody waits for the slowest stage of a level, a task loads the backbone once
//! and not for every stage, a queue of thousands of stages is not needed, and a task that comes later, or
//! again, finds its place by itself. What it costs is that tasks wait while fewer stages are ready than
//! there are tasks; `--max-jobs` bounds that.

mod script;
mod slurm;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::experiment::{ExperimentArgs, Session};
use super::words;
use crate::engine::{Store, Todo, levels};
use crate::{Error, Result, safefile};
use script::Job;

const EXAMPLES: &str = "\
Examples:
  cdbench submit experiments/table1.toml --scale full --partition gpu --gpus 1 --time 4:00:00 --device cuda
  cdbench submit experiments/table1.toml --max-jobs 16 --sbatch-arg=--account=lab --sbatch-arg=--mem=32G
  cdbench submit experiments/table1.toml --print
  cdbench status experiments/table1.toml            the store and the queue

The tasks share the plan and the store, which all nodes must see. One that is preempted, whose node dies, or
whose time is over goes back to the queue and on from its last state. A cell that fails does not stop the
others: its task ends with code 7, and so does the last job, which writes the report. The same command again
submits what is missing then. See docs/cluster.md.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    experiment: ExperimentArgs,

    /// The partition [default: the cluster's]
    #[arg(long)]
    partition: Option<String>,

    /// GPUs of each task, as sbatch's --gpus takes them: 1, a100:1
    #[arg(long)]
    gpus: Option<String>,

    /// The most time of a task until it goes back to the queue, as sbatch takes it: 4:00:00, 2-0
    #[arg(long)]
    time: Option<String>,

    /// The most tasks at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    max_jobs: u16,

    /// Another argument for sbatch, of all jobs: --sbatch-arg=--account=lab; may be given again
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    sbatch_arg: Vec<String>,

    /// Print the job scripts, and submit nothing
    #[arg(long)]
    print: bool,
}

/// What was submitted, below the store's `jobs/`.
#[derive(Serialize, Deserialize)]
struct Submitted {
    experiment: String,
    scale: String,
    /// The array's number in the queue, and that of the job that writes the report.
    jobs: Vec<String>,
}

const SUBMITTED: &str = "submitted.json";

/// Runs `cdbench submit`.
pub fn run(args: Args, threads: Option<u16>) -> Result<()> {
    let session = args.experiment.options.open_to_look(&args.experiment.file)?;
    let tasks = tasks(&session, args.max_jobs.into())?;
    if tasks == 0 {
        eprintln!("nothing is missing: `cdbench report` writes the report");
        return Ok(());
    }
    let jobs = std::path::absolute(session.store.root().join("jobs"));
    let jobs = jobs.map_err(Error::io(session.store.root()))?;
    if args.print {
        let team = jobs.join(format!("{}-XXXXXX", session.experiment.name));
        for (name, text) in scripts(&args, threads, tasks, &team)? {
            println!("# {name}\n{text}");
        }
        return Ok(());
    }
    let team = new_folder(&jobs, &session.experiment.name)?;
    let scripts = scripts(&args, threads, tasks, &team)?;
    for (name, text) in &scripts {
        safefile::write(&team.join(name), text)?;
    }
    let work = slurm::submit(&team.join(script::WORK), None)?;
    let report = slurm::submit(&team.join(script::REPORT), Some(&work));
    let report = report.inspect_err(|_| slurm::cancel(&work))?;
    let submitted = Submitted {
        experiment: session.experiment.name.clone(),
        scale: session.scale.name.clone(),
        jobs: vec![work.clone(), report.clone()],
    };
    let text = serde_json::to_string_pretty(&submitted).unwrap_or_default();
    safefile::write(&team.join(SUBMITTED), text + "\n")?;
    println!("{work}\n{report}");
    eprintln!("{tasks} tasks: job {work}; the report: job {report}; logs: {}", team.display());
    Ok(())
}

/// A folder that no other submission has; its name is that of the team.
fn new_folder(jobs: &Path, experiment: &str) -> Result<PathBuf> {
    std::fs::create_dir_all(jobs).map_err(Error::io(jobs))?;
    let folder = tempfile::Builder::new().prefix(&format!("{experiment}-")).tempdir_in(jobs);
    Ok(folder.map_err(Error::io(jobs))?.keep())
}

/// How many tasks have something to do at the widest place of the plan.
fn tasks(session: &Session, most: usize) -> Result<usize> {
    let todo: Vec<Todo> = session.survey()?;
    let levels: Vec<usize> = levels(&session.plan, &todo).into_iter().flatten().collect();
    let width = |level: &usize| levels.iter().filter(|l| *l == level).count();
    Ok(levels.iter().map(width).max().unwrap_or(0).min(most))
}

fn scripts(
    args: &Args,
    threads: Option<u16>,
    tasks: usize,
    team: &Path,
) -> Result<[(&'static str, String); 2]> {
    let name = team.file_name().unwrap_or_default().to_string_lossy();
    let job = Job {
        program: std::env::current_exe().map_err(Error::io(Path::new("cdbench")))?,
        file: &args.experiment.file,
        options: words::of(&args.experiment.options),
        threads,
        here: std::env::current_dir().map_err(Error::io(Path::new(".")))?,
        folder: team,
        team: &name,
        partition: args.partition.as_deref(),
        more: &args.sbatch_arg,
    };
    let work = job.work(tasks, args.gpus.as_deref(), args.time.as_deref());
    Ok([(script::WORK, work), (script::REPORT, job.report())])
}

/// What the queue has of an experiment, a line a job.
///
/// # Errors
/// A store that cannot be read.
pub fn queued(store: &Store, experiment: &str, scale: &str) -> Result<Vec<String>> {
    let folders = std::fs::read_dir(store.root().join("jobs")).into_iter().flatten().flatten();
    let mut jobs = vec![];
    for folder in folders {
        // of one that was not submitted in the end, there is none
        let Ok(text) = std::fs::read_to_string(folder.path().join(SUBMITTED)) else { continue };
        let Ok(found) = serde_json::from_str::<Submitted>(&text) else { continue };
        if (found.experiment.as_str(), found.scale.as_str()) == (experiment, scale) {
            jobs.extend(found.jobs);
        }
    }
    match jobs.is_empty() {
        true => Ok(vec![]),
        false => Ok(slurm::queue(&jobs).unwrap_or_else(|e| vec![format!("queue    unknown: {e}")])),
    }
}
