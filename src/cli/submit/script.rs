//! Job scripts: the program's command line between what SLURM is told and what it tells.

use std::path::{Path, PathBuf};

use crate::cli::words::quoted;

/// The names of the scripts.
pub const WORK: &str = "work.sh";
pub const REPORT: &str = "report.sh";

/// Seconds before a task's time is over at which it saves its state and goes back to the queue.
const SAVE_BEFORE: u32 = 120;

/// What the jobs of a submission have in common.
pub struct Job<'a> {
    pub program: PathBuf,
    pub file: &'a Path,
    /// Of the experiment.
    pub options: Vec<String>,
    pub threads: Option<u16>,
    /// Where paths of the command line start.
    pub here: PathBuf,
    /// Where logs are written.
    pub folder: &'a Path,
    pub team: &'a str,
    pub partition: Option<&'a str>,
    /// For sbatch.
    pub more: &'a [String],
}

impl Job<'_> {
    /// The array of tasks that do the plan's stages.
    pub fn work(&self, tasks: usize, gpus: Option<&str>, time: Option<&str>) -> String {
        let mut head = self.head("task-%a.txt");
        head.push(format!("--array=1-{tasks}"));
        head.push("--requeue".into());
        // to the script alone, which passes it on
        head.push(format!("--signal=B:USR1@{SAVE_BEFORE}"));
        head.extend(gpus.map(|gpus| format!("--gpus={gpus}")));
        head.extend(time.map(|time| format!("--time={time}")));
        let threads = match self.threads {
            Some(threads) => threads.to_string(),
            None => "${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}".into(),
        };
        let mut words = vec!["run".to_owned()];
        words.extend(self.words(&self.options));
        words.extend(["--team".to_owned(), quoted(self.team)]);
        let program = quoted(&self.program.display().to_string());
        let command = format!("{program} --threads \"{threads}\" {}", words.join(" "));
        format!(
            "{}{TASK}",
            self.text(&head),
            TASK = TASK.trim_start_matches('\n').replace("COMMAND", &command)
        )
    }

    /// The job that writes the report of what is there when all tasks have ended, however they ended.
    pub fn report(&self) -> String {
        let mut options = self.options.clone();
        // a report needs no device
        if let Some(at) = options.iter().position(|word| word == "--device") {
            options[at + 1] = "cpu".into();
        }
        let words = self.words(&options).join(" ");
        let program = quoted(&self.program.display().to_string());
        format!(
            "{}{program} report {words} || exit\n{program} status {words} --strict\n",
            self.text(&self.head("report.txt"))
        )
    }

    fn head(&self, log: &str) -> Vec<String> {
        let mut head = vec![
            format!("--job-name=cdbench-{}", self.team),
            format!("--chdir={}", self.here.display()),
            format!("--output={}", self.folder.join(log).display()),
            // of a task that comes back, what it said before stays
            "--open-mode=append".into(),
        ];
        head.extend(self.partition.map(|partition| format!("--partition={partition}")));
        head
    }

    /// What the user gives sbatch is last: it counts.
    fn text(&self, head: &[String]) -> String {
        let lines = head.iter().chain(self.more);
        let lines: String = lines.map(|arg| format!("#SBATCH {}\n", quoted(arg))).collect();
        format!("#!/bin/bash\n{lines}\n")
    }

    fn words(&self, options: &[String]) -> Vec<String> {
        let file = self.file.display().to_string();
        [file].iter().chain(options).map(|word| quoted(word)).collect()
    }
}

/// Runs the command beside the shell, which passes signals on: the first stops the program at its next step,
/// with its state saved. When the time is nearly over the task goes back to the queue; where SLURM takes the
/// node away it puts it there itself.
const TASK: &str = r#"
COMMAND &
task=$!
time_is_over=
trap 'kill -TERM "$task"' TERM
trap 'time_is_over=1; kill -TERM "$task"' USR1
# a signal ends `wait`, not the program
until wait "$task"; code=$?; ! kill -0 "$task" 2>/dev/null; do :; done
if [ -n "$time_is_over" ] && [ "$code" -gt 128 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"#;
