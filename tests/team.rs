//! Several runs on one store: shards, single stages, and teams as a queue starts them.

mod small;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use small::{BINARY, cdbench, finished, measured, ok, small};

/// Another command on what `small` runs.
fn on(command: &str, args: &[String], more: &[&str]) -> Vec<String> {
    let mut args = args.to_vec();
    args[0] = command.into();
    args.extend(more.iter().map(|s| (*s).to_owned()));
    args
}

fn start(args: &[String]) -> Child {
    let mut run = Command::new(BINARY);
    run.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn log(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The stages that a run began.
fn begun(log: &str) -> Vec<String> {
    let line = |line: &str| {
        let name = line.strip_prefix('[')?.split_once("] ")?.1;
        Some(name.rsplit_once(" (")?.0.to_owned())
    };
    log.lines().filter_map(line).collect()
}

fn undisturbed(dir: &Path) -> std::collections::BTreeMap<String, Vec<String>> {
    let out = dir.join("whole");
    ok(&small(&dir.join("undisturbed"), &out));
    measured(&out)
}

fn plan(args: &[String]) -> Value {
    serde_json::from_str(&ok(&on("plan", args, &["--json"])).0).unwrap()
}

#[test]
fn shards_do_the_whole_and_no_stage_twice() {
    let dir = tempfile::tempdir().unwrap();
    let whole = undisturbed(dir.path());
    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let mut args = small(&store, &out);
    let report = on("report", &args, &[]);
    let at = args.iter().position(|a| a == "--out").unwrap();
    args.drain(at..at + 2);

    let cells = |shard: &str| -> BTreeSet<String> {
        let plan = plan(&on("plan", &args, &["--shard", shard]));
        let cells = plan["cells"].as_array().unwrap().iter();
        cells.map(|cell| cell["name"].as_str().unwrap().to_owned()).collect()
    };
    let (one, two) = (cells("1/2"), cells("2/2"));
    assert!(one.len() + two.len() == 7 && one.is_disjoint(&two), "{one:?} {two:?}");

    let runs = ["1/2", "2/2"].map(|shard| start(&on("run", &args, &["--shard", shard])));
    let mut names = vec![];
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", log(&output));
        names.extend(begun(&log(&output)));
    }
    let once: BTreeSet<&String> = names.iter().collect();
    assert_eq!(names.len(), once.len(), "{names:?}");
    ok(&report);
    assert_eq!(measured(&out), whole);
    // each has a report of its own cells
    let part = store.join("reports/smoke/default,shard=2-of-2");
    let rows = measured(&part)["results.csv"].len();
    assert!(rows == two.len() && rows < 7, "{rows}");
    assert_eq!(std::fs::read_dir(store.join("leases")).unwrap().count(), 1, "runs/ alone");

    let output = cdbench(&on("run", &args, &["--shard", "5/4"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(log(&output).contains("the shards of 4 are 1/4 to 4/4"), "{}", log(&output));
}

#[test]
fn a_plan_says_what_other_schedulers_need_and_single_stages_run() {
    let dir = tempfile::tempdir().unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let args = small(&store, &out);
    let stages = |plan: &Value| plan["stages"].as_array().unwrap().clone();
    let before = stages(&plan(&args));
    let text = |stage: &Value, key: &str| stage[key].as_str().unwrap().to_owned();
    let find = |stages: &[Value], kind: &str, name: &str| {
        let found = stages.iter().find(|s| s["kind"] == kind && text(s, "name").contains(name));
        found.unwrap_or_else(|| panic!("no {kind} of {name}")).clone()
    };
    let samples = find(&before, "samples", "Textual Inversion");
    assert_eq!(samples["state"], "missing");
    // every input is a stage, and of a level before
    for stage in &before {
        for input in stage["inputs"].as_array().unwrap() {
            let input = before.iter().find(|s| s["key"] == *input).unwrap();
            assert!(input["level"].as_u64() < stage["level"].as_u64(), "{stage}");
        }
    }

    let key = text(&samples, "key");
    let (_, said) = ok(&on("run", &args, &["--stage", &key[..10]]));
    assert!(begun(&said).iter().all(|name| !name.starts_with("score ")), "{said}");
    assert!(!out.exists(), "no report");
    let after = stages(&plan(&args));
    assert_eq!(find(&after, "samples", "Textual Inversion")["state"], "done");
    assert_eq!(find(&after, "samples", "Custom Diffusion")["state"], "missing");
    assert!(store.join(text(&samples, "folder")).is_dir());
    let trained = find(&after, "checkpoints", "Custom Diffusion");
    assert!(trained["seconds"].is_null() && trained["reason"] == "not in the store", "{trained}");
    let (people, _) = ok(&on("plan", &args, &[]));
    assert!(people.lines().any(|l| l.starts_with(&key) && l.contains("done")), "{people}");

    for bad in ["0123456789", ""] {
        let output = cdbench(&on("run", &args, &["--stage", bad]));
        assert_eq!(output.status.code(), Some(3));
        assert!(log(&output).contains("cdbench plan"), "{}", log(&output));
    }
}

#[test]
fn what_fails_in_one_run_of_a_team_is_not_tried_by_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let args = on("run", &small(&store, &out), &["--set", "rows.1.settings.lr=1e30"]);
    let team: Vec<Child> = (0..2).map(|_| start(&on("run", &args, &["--team", "five"]))).collect();
    let ended: Vec<Output> = team.into_iter().map(|run| run.wait_with_output().unwrap()).collect();
    let said: Vec<String> = ended.iter().map(log).collect();
    let mut codes: Vec<_> = ended.iter().map(|output| output.status.code()).collect();
    codes.sort();
    assert_eq!(codes, [Some(0), Some(7)], "{said:?}");
    let tries = said.iter().flat_map(|log| begun(log));
    let tries: Vec<String> =
        tries.filter(|name| name.starts_with("train ") && name.contains("fine-tune")).collect();
    assert_eq!(tries.len(), 1, "{said:?}");
    assert!(!out.exists(), "the report is left to `cdbench report`");

    // the same team again has nothing to do, and the others' cells are there
    let (_, again) = ok(&on("run", &args, &["--team", "five"]));
    assert!(begun(&again).is_empty() && again.contains("diverged"), "{again}");
    ok(&on("report", &args, &[]));
    assert_eq!(measured(&out)["results.csv"].len(), 6);
    let status = cdbench(&on("status", &args, &["--strict"]));
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(7), "{said}");
    assert!(said.contains("6 of 7 cells are done") && said.contains("diverged"), "{said}");
    // another team tries again, and so does a run of its own
    for more in [&["--team", "six"][..], &[]] {
        let output = cdbench(&on("run", &args, more));
        assert!(output.status.code() == Some(7) && !begun(&log(&output)).is_empty());
    }
}

/// A limit on the size of files stands for a full disk.
#[cfg(unix)]
#[test]
fn a_node_with_a_full_disk_leaves_its_work_to_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let whole = undisturbed(dir.path());
    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let args = small(&store, &out);
    let member = on("run", &args, &["--team", "five"]);
    let blocks = "trap '' XFSZ; ulimit -f 600; exec \"$@\"";
    let full =
        Command::new("sh").args(["-c", blocks, "sh", BINARY]).args(&member).output().unwrap();
    assert_eq!(full.status.code(), Some(4), "{}", log(&full));
    assert!(log(&full).contains("this machine failed"), "{}", log(&full));
    assert!(finished(&store).len() < 10, "it went on: {}", log(&full));
    let (status, _) = ok(&on("status", &args, &[]));
    assert!(status.contains("failed ") && status.contains("File too large"), "{status}");

    ok(&member);
    ok(&on("report", &args, &[]));
    assert_eq!(measured(&out), whole);
    let (status, _) = ok(&on("status", &args, &["--strict"]));
    assert!(!status.contains("failed "), "{status}");
}

/// Files that are not whole yet, a folder that is at its place before anything says so, a state in the
/// making, a lease that says nothing.
#[test]
fn what_a_node_leaves_that_dies_while_it_renames_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let args = small(&store, &out);
    ok(&args);
    let whole = measured(&out);
    std::fs::remove_dir_all(store.join("samples")).unwrap();
    for kind in ["checkpoints", "scores"] {
        for folder in std::fs::read_dir(store.join(kind)).unwrap() {
            let folder = folder.unwrap().path();
            std::fs::rename(folder.join("stage.json"), folder.join(".stage.json.tmp")).unwrap();
            let key = folder.file_name().unwrap();
            let partial: PathBuf = store.join("work").join(key).join(".partial");
            std::fs::create_dir_all(&partial).unwrap();
            std::fs::write(partial.join("step-00000001.safetensors"), "half").unwrap();
            let away = format!("{}.a-dead-run.away", key.display());
            std::fs::write(store.join("leases").join(away), "").unwrap();
        }
    }
    ok(&args);
    assert_eq!(measured(&out), whole);
    assert_eq!(std::fs::read_dir(store.join("leases")).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(store.join("work")).unwrap().count(), 0);
}

/// A run that is killed while it writes the images that it sampled together leaves some of them.
#[test]
fn images_that_a_killed_run_did_not_write_have_the_bits_that_they_would_have_had() {
    let dir = tempfile::tempdir().unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let mut args = small(&store, &out);
    args.extend(["--filter", "method=pretrained"].map(str::to_owned));
    ok(&args);
    let whole = measured(&out);
    let folders = std::fs::read_dir(store.join("samples")).unwrap().map(|f| f.unwrap().path());
    let mut removed = vec![];
    for folder in folders {
        let files = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
        let image = files.filter(|f| f.extension().is_some_and(|e| e == "png")).min().unwrap();
        removed.push((std::fs::read(&image).unwrap(), image.clone()));
        std::fs::remove_file(image).unwrap();
    }
    for what in ["scores", "cache/features"] {
        std::fs::remove_dir_all(store.join(what)).unwrap();
    }
    ok(&args);
    for (bytes, image) in removed {
        assert!(std::fs::read(&image).unwrap() == bytes, "{}", image.display());
    }
    assert_eq!(measured(&out), whole);
}
