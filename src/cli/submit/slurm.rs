//! SLURM's commands.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::{Error, Result};

/// Submits a script, to be started when the array `after` has ended, and says its number.
///
/// # Errors
/// [`Error::Input`] if there is no SLURM here, or it refuses.
pub fn submit(script: &Path, after: Option<&str>) -> Result<String> {
    let mut sbatch = Command::new("sbatch");
    sbatch.arg("--parsable");
    if let Some(after) = after {
        sbatch.arg(format!("--dependency=afterany:{after}"));
    }
    let said = ask(sbatch.arg(script))?;
    // the cluster's name may follow
    let number = said.trim().split(';').next().unwrap_or_default();
    match number.is_empty() {
        true => Err(Error::input(format!("sbatch said no job's number: `{}`", said.trim()))),
        false => Ok(number.to_owned()),
    }
}

/// Takes a job out of the queue.
pub fn cancel(job: &str) {
    if let Err(e) = ask(Command::new("scancel").arg(job)) {
        tracing::warn!("job {job} stays in the queue: {e}");
    }
}

/// How those of the jobs stand that the queue has, a line each.
///
/// # Errors
/// As [`submit`].
pub fn queue(jobs: &[String]) -> Result<Vec<String>> {
    let said = ask(Command::new("squeue").args(["--me", "--noheader", "--format=%F|%T|%N|%r"]))?;
    Ok(summary(jobs, &said))
}

/// What `squeue` says of jobs: tasks that stand the same way together.
fn summary(jobs: &[String], said: &str) -> Vec<String> {
    let mut found: BTreeMap<(&str, &str, &str), (usize, Vec<&str>)> = BTreeMap::new();
    for line in said.lines() {
        let fields: Vec<&str> = line.trim().split('|').collect();
        let [job, state, node, reason] = fields[..] else { continue };
        if jobs.iter().any(|wanted| wanted == job) {
            let entry = found.entry((job, state, if node.is_empty() { reason } else { "" }));
            let (count, nodes) = entry.or_default();
            *count += 1;
            nodes.extend(Some(node).filter(|node| !node.is_empty()));
        }
    }
    let line =
        |((job, state, reason), (count, nodes)): ((&str, &str, &str), (usize, Vec<&str>))| {
            let state = state.to_lowercase();
            let place = match nodes.is_empty() {
                true => format!(" ({reason})"),
                false => format!(" on {}", nodes.join(", ")),
            };
            format!("queue    job {job}: {count} {state}{place}")
        };
    found.into_iter().map(line).collect()
}

fn ask(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::input_hint(
            format!("there is no `{name}` on this machine: SLURM is not installed, or not in PATH"),
            "submit from a login node; --print shows the scripts; for other schedulers see `cdbench plan \
             --json` and `cdbench run --stage` or --shard",
        ),
        _ => Error::io(Path::new(&name))(e),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.trim().lines().map(|line| line.trim()).collect();
    Err(Error::input_hint(
        format!("{name}: {}", said.join("; ")),
        "`sinfo` lists the partitions and nodes, `squeue --me` your jobs; --sbatch-arg says what else a cluster \
         wants, such as an account",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_that_stand_the_same_way_are_one_line() {
        let said = "5|RUNNING|n1|None\n5|RUNNING|n3|None\n5|PENDING||BeginTime\n\
                    6|PENDING||Dependency\n7|RUNNING|n2|None\nnonsense\n";
        assert_eq!(
            summary(&["5".into(), "6".into()], said),
            [
                "queue    job 5: 1 pending (BeginTime)",
                "queue    job 5: 2 running on n1, n3",
                "queue    job 6: 1 pending (Dependency)"
            ]
        );
        assert!(summary(&["9".into()], said).is_empty());
    }
}
