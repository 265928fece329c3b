//! Whole experiments again: what people do with them and with their stores.

mod small;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cdbench::report::{ImageRow, Results};
use small::{BINARY, cdbench, finished, measured, ok, small};

/// A run whose report is not yet whole: it has a first row long before the last.
#[test]
fn the_report_grows_with_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let args = small(&store, &out);
    let mut run = Command::new(BINARY);
    let mut child = run.args(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let first = loop {
        assert!(child.try_wait().unwrap().is_none(), "no report before the end");
        // the page is written last
        if out.join("README.md").is_file() {
            break Results::read(&out).unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!((1..7).contains(&first.cells.len()), "{} cells", first.cells.len());
    assert!(child.wait().unwrap().success());
    assert_eq!(Results::read(&out).unwrap().cells.len(), 7);
}

#[test]
fn one_concept_is_complete_before_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = small(&dir.path().join("store"), &dir.path().join("report"));
    let more = ["--dry-run", "--seeds", "2", "--set"];
    args.extend(more.map(str::to_owned));
    args.push("scales.default.concepts=[\"dog_plum\", \"cat_mint\"]".into());
    let (plan, _) = ok(&args);
    let scores = plan.lines().filter_map(|line| line.split_once("  score "));
    let concepts: Vec<(&str, &str)> = scores
        .map(|(_, name)| {
            let parts: Vec<&str> = name.split(" · ").collect();
            (parts[1], parts[2].split("  ").next().unwrap())
        })
        .collect();
    let mut turns = concepts.clone();
    turns.dedup();
    let seed = |concept, seed| (concept, seed);
    assert_eq!(concepts.len(), 2 * (7 + 5));
    assert_eq!(
        turns,
        [
            seed("dog_plum", "seed 0"),
            seed("cat_mint", "seed 0"),
            seed("dog_plum", "seed 1"),
            seed("cat_mint", "seed 1")
        ]
    );
}

/// Reports of runs go where runs go, and a part of an experiment takes nobody's place.
#[test]
fn reports_are_written_below_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut args = small(&store, Path::new("unused"));
    let at = args.iter().position(|a| a == "--out").unwrap();
    args.drain(at..at + 2);
    ok(&args);
    let whole = store.join("reports/smoke/default");
    assert_eq!(Results::read(&whole).unwrap().cells.len(), 7);
    let before = measured(&whole);
    let part = [&args[..], &["--filter", "method=real"].map(str::to_owned)].concat();
    ok(&part);
    assert_eq!(measured(&whole), before);
    let part = store.join("reports/smoke/default,method=real");
    assert_eq!(Results::read(&part).unwrap().cells.len(), 1);

    // where somebody says so, with a word about what was there
    let mut header: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(whole.join("report.json")).unwrap()).unwrap();
    header["scale"] = "full".into();
    std::fs::write(whole.join("report.json"), header.to_string()).unwrap();
    let (_, err) = ok(&args);
    assert!(err.contains("scale full, gives way"), "{err}");
}

/// Images and scores that were cut, as by a full disk or a copy that was broken off.
#[test]
fn what_was_cut_in_the_store_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let mut args = small(&store, &out);
    args.extend(["--filter", "method=pretrained"].map(str::to_owned));
    ok(&args);
    let first = Results::read(&out).unwrap();
    // an image that is made alone is the same but for the last bits
    let text = |image: &ImageRow| image.values["text-alignment"][0];
    let same_again = || {
        let again = Results::read(&out).unwrap();
        assert_eq!(again.images.len(), first.images.len());
        for (a, b) in again.images.iter().zip(&first.images) {
            assert!(a.file == b.file && (text(a) - text(b)).abs() < 1e-2, "{a:?} {b:?}");
        }
    };
    let files = |kind: &str, extension: &str| -> Vec<PathBuf> {
        let folders = std::fs::read_dir(store.join(kind)).unwrap().map(|e| e.unwrap().path());
        let files = folders.flat_map(|f| std::fs::read_dir(f).unwrap().map(|e| e.unwrap().path()));
        files.filter(|p| p.extension().is_some_and(|e| e == extension)).collect()
    };
    let cut = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    files("samples", "png").iter().take(3).for_each(|path| cut(path));
    files("scores", "json").iter().for_each(|path| cut(path));
    let (_, log) = ok(&args);
    assert!(log.contains("images are missing") && log.contains("score Pretrained"), "{log}");
    same_again();

    // damage in the middle is met when the image is read: once
    let image = &files("samples", "png")[0];
    let mut bytes = std::fs::read(image).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 20].fill(0);
    std::fs::write(image, bytes).unwrap();
    for what in ["scores", "cache/features"] {
        std::fs::remove_dir_all(store.join(what)).unwrap();
    }
    let output = cdbench(&args);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{err}");
    assert!(err.contains("the same command makes it again"), "{err}");
    ok(&args);
    same_again();
}

/// How long a training takes says something where it was alone.
#[test]
fn seconds_of_trainings_beside_others_are_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, jobs: &str| {
        let (store, out) = (dir.path().join(format!("{name}-store")), dir.path().join(name));
        let mut args = small(&store, &out);
        args.extend(["--filter", "method=textual-inversion", "--jobs", jobs].map(str::to_owned));
        let (table, _) = ok(&args);
        let row = table.lines().find(|l| l.starts_with("| Textual Inversion")).unwrap().to_owned();
        let last = row.trim_end_matches('|').rsplit('|').next().unwrap().trim().to_owned();
        let jobs: Vec<u64> = finished(&store)
            .iter()
            .map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap())
            .map(|stage| stage["jobs"].as_u64().unwrap())
            .collect();
        (last, jobs, table)
    };
    let (seconds, jobs, _) = run("alone", "1");
    assert!(seconds.parse::<f64>().is_ok() && jobs.iter().all(|&j| j == 1), "{seconds} {jobs:?}");
    let (seconds, jobs, table) = run("together", "2");
    assert!(seconds.parse::<f64>().is_err() && jobs.iter().all(|&j| j == 2), "{seconds} {jobs:?}");
    assert!(table.contains("beside others"), "{table}");
}

/// What a plan knows is refused before the first stage.
#[test]
fn what_would_fail_after_hours_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let model = dir.path().join("model");
    ok(&["export", "mini", &model.display().to_string()]);
    std::fs::remove_file(model.join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    let file = dir.path().join("a file");
    std::fs::write(&file, "").unwrap();
    let (model, file) = (model.display().to_string(), file.display().to_string());
    let cases: [(&[&str], &str, i32); 7] = [
        (&["--set", "sampling.steps=5000"], "sampling.steps", 3),
        (&["--set", "rows.2.settings.train=\"kv,tokns\""], "`tokns`", 3),
        (
            &[
                "--set",
                "rows.0.settings.train=\"tokens\"",
                "--set",
                "rows.0.settings.modifier_token=\"frozen\"",
            ],
            "leaves nothing",
            3,
        ),
        (&["--backbone", &model], "diffusion_pytorch_model.safetensors is missing", 3),
        (&["--set", "regularization.corpus=\"nowhere.csv\""], "nowhere.csv", 3),
        (&["--set", "table=\"table9\""], "table9", 3),
        (&["--out", &file], &file, 4),
    ];
    for (extra, wanted, code) in cases {
        let mut args = small(&store, &out);
        let at = args.iter().position(|a| a == "--out").unwrap();
        if extra.contains(&"--out") {
            args.drain(at..at + 2);
        }
        args.extend(extra.iter().map(|s| s.to_string()));
        let output = cdbench(&args);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{extra:?}: {err}");
        assert!(err.contains(wanted), "{extra:?}: {err}");
        assert!(finished(&store).is_empty(), "{extra:?}: something ran before: {err}");
    }
}

#[test]
fn paths_start_at_the_experiments_file() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    ok(&["export", "mini", &folder.join("model").display().to_string()]);
    let text = "name = \"own\"\ntitle = \"own\"\nbackbone = \"model\"\n[[rows]]\n\
        method = \"textual-inversion\"\n[evaluation]\nclip = \"model/clip\"\n\
        [scales.default]\nconcepts = [\"dog_plum\"]\n";
    let run = |file: &str, text: &str| {
        std::fs::write(dir.path().join(file), text).unwrap();
        let store = dir.path().join("store").display().to_string();
        let mut command = Command::new(BINARY);
        command.args(["run", file, "--store", &store, "--dry-run"]).env("HF_HUB_OFFLINE", "1");
        let output = command.current_dir(dir.path()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, err) = run("folder/own.toml", text);
    assert_eq!(code, Some(0), "{err}");
    // a folder of where the command runs is not meant
    let (code, err) = run("folder/here.toml", &text.replace("\"model\"", "\"folder/model\""));
    assert!(code == Some(3) && err.contains("--backbone starts where you are"), "{err}");
}
