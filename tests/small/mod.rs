//! A small experiment, and what is compared of its runs.
#![allow(dead_code)] // not every test uses all of it

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub const BINARY: &str = env!("CARGO_BIN_EXE_cdbench");

/// smoke.toml with so little work that a run takes seconds.
pub fn small(store: &Path, out: &Path) -> Vec<String> {
    let mut args: Vec<String> = vec!["run".into(), root("experiments/smoke.toml")];
    let flag = |name: &str, value: &Path| [name.to_owned(), value.display().to_string()];
    args.extend(flag("--store", store));
    args.extend(flag("--out", out));
    for set in [
        "sampling.steps=2",
        "scales.default.prompts=2",
        "scales.default.real_images=4",
        "scales.default.train_steps=0.02",
    ] {
        args.extend(["--set".to_owned(), set.to_owned()]);
    }
    args
}

pub fn root(path: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}

pub fn cdbench<S: AsRef<str>>(args: &[S]) -> Output {
    Command::new(BINARY).args(args.iter().map(AsRef::as_ref)).output().unwrap()
}

pub fn ok<S: AsRef<str>>(args: &[S]) -> (String, String) {
    let output = cdbench(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    (out, err)
}

/// What was measured, without what differs from run to run: seconds and memory, and who ran beside it.
pub fn measured(out: &Path) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for name in ["results.csv", "images.csv"] {
        let text = std::fs::read_to_string(out.join(name)).unwrap();
        let mut lines = text.lines();
        let header: Vec<&str> = lines.next().unwrap().split(',').collect();
        let varies = |h: &str| h.contains("seconds") || h.contains("peak") || h == "jobs";
        let keep: Vec<usize> = (0..header.len()).filter(|&i| !varies(header[i])).collect();
        let rows = lines.map(|l| {
            let fields: Vec<&str> = l.split(',').collect();
            keep.iter().filter_map(|&i| fields.get(i).copied()).collect::<Vec<_>>().join(",")
        });
        found.insert(name.to_owned(), rows.collect());
    }
    found
}

/// What says that stages are finished, and when they were; but for samples, whose folders grow.
pub fn finished(store: &Path) -> BTreeSet<String> {
    let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten();
    let stages = ["checkpoints", "retrieval", "scores"].map(|kind| store.join(kind));
    let files = stages.into_iter().flat_map(|kind| entries(kind).map(|e| e.unwrap().path()));
    files.filter_map(|folder| std::fs::read_to_string(folder.join("stage.json")).ok()).collect()
}
