//! `cdbench submit` and `cdbench status`, with programs in the place of SLURM's that write down what they are
//! told. `tests/cluster/` has the real one.
#![cfg(unix)]

mod small;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use small::{BINARY, ok, small};

/// A machine with programs of its own.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Desk { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(desk.path("bin")).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program of the queue: a shell script.
    fn program(&self, name: &str, text: &str) {
        let path = self.path("bin").join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn args(&self, command: &str, more: &[&str]) -> Vec<String> {
        let mut args = small(&self.path("store"), &self.path("report"));
        args[0] = command.into();
        args.extend(more.iter().map(|s| (*s).to_owned()));
        args
    }

    fn run(&self, command: &str, more: &[&str]) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        let mut run = Command::new(BINARY);
        run.args(self.args(command, more)).env("PATH", path).output().unwrap()
    }

    /// The folder of the only submission.
    fn team(&self) -> PathBuf {
        let mut folders = std::fs::read_dir(self.path("store/jobs")).unwrap();
        folders.next().unwrap().unwrap().path()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn what_would_be_submitted_is_printed() {
    let desk = Desk::new();
    let more = [
        "--print",
        "--partition",
        "long",
        "--gpus",
        "a100:1",
        "--time",
        "4:00:00",
        "--max-jobs",
        "3",
        "--sbatch-arg=--account=the lab's",
        "--set",
        "title=\"it's $HOME\"",
    ];
    let output = desk.run("submit", &more);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (work, report) = said.split_once("# report.sh").unwrap();
    for line in [
        "#SBATCH --array=1-3",
        "#SBATCH --partition=long",
        "#SBATCH --gpus=a100:1",
        "#SBATCH --time=4:00:00",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@120",
        r"#SBATCH '--account=the lab'\''s'",
    ] {
        assert!(work.lines().any(|l| l == line), "{line}: {work}");
    }
    assert!(work.contains(" run ") && work.contains("--team smoke-"), "{work}");
    assert!(work.contains(r#"'title="it'\''s $HOME"'"#), "{work}");
    assert!(report.contains("--partition=long") && !report.contains("gpus"), "{report}");
    assert!(report.contains("--strict") && report.contains("--device cpu"), "{report}");
    assert!(!desk.path("store/jobs").exists(), "nothing is written");
}

#[test]
fn a_machine_without_slurm_and_a_cluster_that_refuses_are_said() {
    let desk = Desk::new();
    let mut run = Command::new(BINARY);
    let output = run.args(desk.args("submit", &[])).env("PATH", desk.path("bin")).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("no `sbatch`") && said.contains("hint: submit from a login"), "{said}");

    desk.program("sbatch", "echo 'sbatch: error: invalid partition specified: nope' >&2; exit 1");
    let output = desk.run("submit", &["--partition", "nope"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("invalid partition specified: nope") && said.contains("sinfo"), "{said}");

    // of two jobs the second is refused: the first does not stay
    let cancelled = desk.path("cancelled");
    desk.program("scancel", &format!("echo \"$@\" > {}", cancelled.display()));
    desk.program("sbatch", "case $* in *dependency*) echo no >&2; exit 1;; *) echo 17;; esac");
    assert_eq!(desk.run("submit", &[]).status.code(), Some(3));
    assert_eq!(read(&cancelled).trim(), "17");
}

#[test]
fn jobs_are_submitted_and_found_in_the_queue() {
    let desk = Desk::new();
    let told = desk.path("told");
    desk.program(
        "sbatch",
        &format!("echo \"$@\" >> {}; echo $((40 + $(wc -l < {0})));", told.display()),
    );
    let output = desk.run("submit", &["--max-jobs", "2"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "41\n42\n");
    let told = read(&told);
    let [work, report] = told.lines().collect::<Vec<_>>()[..] else { panic!("{told}") };
    assert!(work.starts_with("--parsable ") && work.ends_with("work.sh"), "{told}");
    assert!(report.contains("--dependency=afterany:41"), "{told}");
    for script in ["work.sh", "report.sh"] {
        let checked = Command::new("bash").arg("-n").arg(desk.team().join(script)).status();
        assert!(checked.unwrap().success());
    }

    desk.program(
        "squeue",
        "printf '41|RUNNING|n1|None\\n41|PENDING||Priority\\n9|RUNNING|n2|None\\n'",
    );
    let said = text(&desk.run("status", &[]).stdout);
    assert!(said.contains("0 of 7 cells are done"), "{said}");
    assert!(
        said.contains("job 41: 1 running on n1") && said.contains("1 pending (Priority)"),
        "{said}"
    );
    assert!(!said.contains("n2"), "of others: {said}");
    std::fs::remove_file(desk.path("bin/squeue")).unwrap();
    desk.program("squeue", "echo 'no controller' >&2; exit 1");
    let output = desk.run("status", &[]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("unknown: squeue: no controller"));
}

/// The script, run as SLURM runs it: signalled before its time is over.
#[test]
fn a_task_whose_time_is_over_saves_its_state_and_goes_back_to_the_queue() {
    let desk = Desk::new();
    desk.program("sbatch", "echo 41");
    let more = ["--filter", "method=textual-inversion", "--set", "scales.default.train_steps=0.3"];
    assert!(desk.run("submit", &more).status.success());
    let requeued = desk.path("requeued");
    desk.program("scontrol", &format!("echo \"$@\" > {}", requeued.display()));
    let script = desk.team().join("work.sh");
    let log = desk.path("log");
    let path = format!("{}:/usr/bin:/bin", desk.path("bin").display());
    let task = || {
        let mut task = Command::new("bash");
        task.arg(&script).env("PATH", &path).env("SLURM_JOB_ID", "43").stdout(Stdio::null());
        task.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap()
    };
    let states = || std::fs::read_dir(desk.path("store/work")).into_iter().flatten().count();
    // a busy machine may not get to the first step in a second
    let mut wait = Duration::from_secs(1);
    while states() == 0 {
        let mut first = task();
        let start = Instant::now();
        while !read(&log).contains("] train Textual Inversion") {
            assert!(start.elapsed() < Duration::from_secs(120), "{}", read(&log));
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(wait);
        wait *= 2;
        Command::new("kill").args(["-USR1", &first.id().to_string()]).status().unwrap();
        assert_eq!(first.wait().unwrap().code(), Some(130), "{}", read(&log));
        assert_eq!(read(&requeued).trim(), "requeue 43");
    }

    assert!(task().wait().unwrap().success(), "{}", read(&log));
    assert_eq!(states(), 0);
    let (status, _) = ok(&desk.args("status", &[&more[..], &["--strict"]].concat()));
    assert!(status.contains("1 of 1 cells are done"), "{status}");
    // nothing is left to submit
    let output = desk.run("submit", &more);
    assert!(output.status.success() && text(&output.stderr).contains("nothing is missing"));
}
