//! `cdbench run` through its public door: whole experiments, small, on the embedded backbone.

mod small;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cdbench::report::Results;
use small::{BINARY, cdbench, finished, measured, ok, root, small};

#[test]
fn the_same_command_again_does_nothing_and_a_larger_scale_reuses() {
    let dir = tempfile::tempdir().unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let args = small(&store, &out);
    let (plan, _) = ok(&[&args[..], &["--dry-run".to_owned()]].concat());
    assert!(plan.contains("not in the store") && plan.contains("train Custom Diffusion"), "{plan}");

    let (table, _) = ok(&args);
    assert!(table.contains("Custom Diffusion") && table.contains("Pretrained"), "{table}");
    for file in [
        "README.md",
        "table.md",
        "table.tex",
        "results.csv",
        "images.csv",
        "scatter.svg",
        "scatter.png",
    ] {
        assert!(out.join(file).is_file(), "{file}");
    }
    let first = measured(&out);

    let (_, log) = ok(&args);
    assert!(!log.contains("train ") && !log.contains("sample "), "{log}");
    assert_eq!(measured(&out), first);
    let (plan, _) = ok(&[&args[..], &["--dry-run".to_owned()]].concat());
    assert!(plan.contains("0 stages to run"), "{plan}");

    // more images of the same prompts: no training again, old images kept
    let more = [&args[..], &["--set".to_owned(), "scales.default.images=2".to_owned()]].concat();
    let (plan, _) = ok(&[&more[..], &["--dry-run".to_owned()]].concat());
    assert!(!plan.contains("train ") && plan.contains("2 of 4 images are missing"), "{plan}");

    // another learning rate: says what changed, trains this row only
    let other = [&args[..], &["--set".to_owned(), "rows.2.settings.lr=0.003".to_owned()]].concat();
    let (plan, _) = ok(&[&other[..], &["--dry-run".to_owned()]].concat());
    let trains: Vec<&str> = plan.lines().filter(|l| l.contains("  train ")).collect();
    assert!(trains.len() == 1 && trains[0].contains("settings.lr"), "{plan}");

    let mut report = args.clone();
    report[0] = "report".into();
    std::fs::remove_dir_all(&out).unwrap();
    ok(&report);
    assert_eq!(measured(&out), first);
}

#[test]
fn a_sweep_over_two_machines_becomes_one_report() {
    let dir = tempfile::tempdir().unwrap();
    let on = |machine: &str, method: &str| {
        let path = |what: &str| dir.path().join(format!("{what}-{machine}"));
        let mut args = small(&path("store"), &path("report"));
        args.extend(["--filter".into(), format!("method={method}")]);
        (args, path("report"))
    };
    let (first, out) = on("a", "textual-inversion");
    let (second, other) = on("b", "custom-diffusion");
    ok(&first);
    ok(&second);
    let mut report = [&first[..], &["--add".into(), other.display().to_string()]].concat();
    report[0] = "report".into();
    let (table, _) = ok(&report);
    assert!(table.contains("Textual Inversion") && table.contains("Custom Diffusion"), "{table}");
    for (file, rows) in measured(&out) {
        let theirs = &measured(&other)[&file];
        assert!(!theirs.is_empty() && rows.len() > theirs.len(), "{file}");
        assert!(theirs.iter().all(|row| rows.contains(row)), "{file}: {rows:?}");
    }
    // twice is once
    let joined = measured(&out);
    ok(&report);
    assert_eq!(measured(&out), joined);

    let mut stranger = Results::read(&other).unwrap();
    stranger.protocol = "another".into();
    let other = dir.path().join("stranger");
    stranger.write(&other).unwrap();
    report.extend(["--add".into(), other.display().to_string()]);
    let refused = cdbench(&report);
    assert_eq!(refused.status.code(), Some(9));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("stranger: results of protocol"));
    assert_eq!(measured(&out), joined);
}

#[test]
fn killed_at_ten_moments_it_ends_with_the_same_results() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let start = Instant::now();
    ok(&small(&dir.path().join("undisturbed"), &whole));
    let long = start.elapsed();

    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let args = small(&store, &out);
    let mut before = BTreeSet::new();
    // moments spread over a run by the golden ratio, the same in every test run
    for i in 1..=10u32 {
        let share = (f64::from(i) * 0.618_034).fract();
        let mut child = Command::new(BINARY)
            .args(&args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_secs_f64(share * 0.6 * long.as_secs_f64()));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = finished(&store);
        assert!(before.iter().all(|stage| now.contains(stage)), "a finished stage ran again");
        before = now;
    }
    assert!(!before.is_empty());
    ok(&args);
    assert!(before.is_subset(&finished(&store)), "a finished stage ran again");
    assert_eq!(measured(&out), measured(&whole));
    let left: Vec<_> = std::fs::read_dir(store.join("work")).into_iter().flatten().collect();
    assert!(left.is_empty(), "states of finished trainings are left: {left:?}");
}

/// A limit on the size of files stands for a full disk: writing fails in the middle of a file.
#[cfg(unix)]
#[test]
fn a_full_disk_costs_what_did_not_fit_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    ok(&small(&dir.path().join("undisturbed"), &whole));

    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let args = small(&store, &out);
    let blocks = "trap '' XFSZ; ulimit -f 600; exec \"$@\"";
    let full = Command::new("sh").args(["-c", blocks, "sh", BINARY]).args(&args).output().unwrap();
    let err = String::from_utf8_lossy(&full.stderr);
    assert_eq!(full.status.code(), Some(7), "{err}");
    assert!(err.contains("2 of 7 cells") && err.contains("File too large"), "{err}");
    assert!(err.contains(&store.display().to_string()), "the file is named: {err}");

    let (_, log) = ok(&args);
    assert!(!log.contains("train Textual Inversion"), "what fitted was kept: {log}");
    assert_eq!(measured(&out), measured(&whole));
}

#[test]
fn a_failed_cell_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let mut args = small(&store, &out);
    args.extend(["--set", "rows.1.settings.lr=1e30", "--jobs", "3"].map(str::to_owned));
    let output = cdbench(&args);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{err}");
    assert!(err.contains("fine-tune all") && err.contains("diverged"), "{err}");
    let results = std::fs::read_to_string(out.join("results.csv")).unwrap();
    assert!(
        results.contains("textual-inversion") && !results.contains("fine-tune-all,"),
        "{results}"
    );
}

#[test]
fn a_check_passes_fails_and_refuses_other_protocols() {
    let dir = tempfile::tempdir().unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let baseline = dir.path().join("baseline.json");
    let mut args = small(&store, &out);
    args[0] = "check".into();
    args.extend(["--baseline".into(), baseline.display().to_string()]);
    let missing = cdbench(&args);
    assert_eq!(missing.status.code(), Some(4), "no baseline");
    ok(&[&args[..], &["--update".to_owned()]].concat());
    ok(&args);

    // a baseline that was better everywhere
    let text = std::fs::read_to_string(&baseline).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    for cell in value["cells"].as_array_mut().unwrap() {
        for v in cell["images"]["text-alignment"].as_array_mut().unwrap() {
            *v = (v.as_f64().unwrap() + 0.5).into();
        }
    }
    std::fs::write(&baseline, value.to_string()).unwrap();
    assert_eq!(cdbench(&args).status.code(), Some(8));
    let other = [&args[..], &["--set".to_owned(), "sampling.guidance=3".to_owned()]].concat();
    assert_eq!(cdbench(&other).status.code(), Some(9));
}

/// A vision transformer with random weights stands for DINO.
#[test]
fn an_experiment_has_the_metrics_that_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let eye = format!("extractors.eye={:?}", root("tests/golden/vit_towers/vit"));
    let with = |metrics: &str| {
        let mut args = small(&store, &out);
        let metrics = format!("metrics={metrics}");
        for set in [metrics.as_str(), eye.as_str(), "scales.default.images=2"] {
            args.extend(["--set".to_owned(), set.to_owned()]);
        }
        args
    };
    let (table, _) = ok(&with("[\"cmmd\", \"image-alignment@eye\", \"diversity\"]"));
    let head = table.lines().find(|l| l.starts_with("| |") || l.starts_with("|  |")).unwrap();
    for column in ["CMMD (clip) ×10³", "image alignment (eye)", "diversity"] {
        assert!(head.contains(column), "{table}");
    }
    assert!(!table.contains("text alignment"), "{table}");
    let first = Results::read(&out).unwrap();

    // what was sampled serves other metrics, and what was measured stays as it is
    let (_, log) = ok(&with("[\"copying@eye\", \"image-alignment@eye\", \"text-alignment\"]"));
    assert!(!log.contains("] sample ") && !log.contains("] train "), "{log}");
    let second = Results::read(&out).unwrap();
    let of = |results: &Results| -> Vec<f64> {
        results.images.iter().filter_map(|i| i.value("image-alignment@eye")).collect()
    };
    assert!(of(&first).len() == 20 && of(&first) == of(&second));
    assert_ne!(first.protocol, second.protocol);
    // the nearest target is no farther than the mean of them
    for image in &second.images {
        assert!(image.value("copying@eye") >= image.value("image-alignment@eye"));
    }
    let readme = std::fs::read_to_string(out.join("README.md")).unwrap();
    assert!(readme.contains("## Nearest target (eye) against image alignment (eye)"), "{readme}");
}

#[test]
fn what_cannot_be_run_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store").display().to_string();
    let smoke = root("experiments/smoke.toml");
    let cases: [(&[&str], &str, i32); 9] = [
        (&["--set", "metrics=[\"image-alignmemt\"]"], "did you mean image-alignment", 3),
        (&["--set", "metrics=[\"copying@dinov2\"]"], "facebook/dinov2", 3),
        (&["--set", "extractors.x={ onnx = \"a\", sise = 3 }"], "size", 3),
        (&["--set", "rows.0.method=custom-difusion"], "custom-diffusion", 3),
        (&["--set", "scales.default.concepts=[\"dog_plam\"]"], "dog_plum", 3),
        (&["--set", "scales.default.concepts=[\"dog_plum\",\"dog_plum\"]"], "twice", 3),
        (&["--set", "sampling.step=4"], "steps", 3),
        (&["--scale", "huge"], "default", 3),
        (&["--backbone", "/nowhere/at/all"], "/nowhere/at/all", 3),
    ];
    for (extra, wanted, code) in cases {
        let args = [&["run", &smoke, "--store", &store], extra].concat();
        let output = cdbench(&args);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{extra:?}: {err}");
        assert!(err.contains(wanted), "{extra:?}: {err}");
    }
    let newer = dir.path().join("newer");
    std::fs::create_dir(&newer).unwrap();
    std::fs::write(newer.join("store.json"), r#"{"version": 99}"#).unwrap();
    let output = cdbench(&["run", &smoke, "--store", &newer.display().to_string()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("version 99"));
}

#[test]
fn folders_of_photographs_are_concepts() {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    for i in 0..3u8 {
        let image = image::RgbImage::from_fn(90, 70, |x, y| image::Rgb([x as u8, y as u8, 60 * i]));
        image.save(photos.join(format!("{i}.png"))).unwrap();
    }
    let text = "name = \"own\"\ntitle = \"own\"\n[sampling]\nsteps = 2\n[[rows]]\n\
        method = \"custom-diffusion\"\nsettings = { steps = 2, class_images = 4 }\n\
        [[concepts]]\nname = \"mine\"\npath = \"photos\"\ncategory = \"dog\"\n\
        prompts = [\"photo of a {} in the snow\"]\n[scales.default]\nconcepts = [\"mine\"]\n";
    let file = dir.path().join("own.toml");
    std::fs::write(&file, text).unwrap();
    let path = |p: PathBuf| p.display().to_string();
    let (store, out) = (path(dir.path().join("store")), path(dir.path().join("out")));
    let args = ["run", &path(file), "--store", &store, "--out", &out].map(str::to_owned);
    let (table, _) = ok(&args);
    assert!(table.contains("Custom Diffusion"), "{table}");

    std::fs::write(dir.path().join("bare.toml"), text.replace("prompts = ", "# ")).unwrap();
    let bare = ["run", &path(dir.path().join("bare.toml")), "--store", &store].map(str::to_owned);
    let output = cdbench(&bare);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`mine` has no prompts"));

    std::fs::write(photos.join("9.png"), "no image").unwrap();
    let output = cdbench(&args);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("9.png"));
}

/// Golden backbone and CLIP, in the layouts of diffusers and transformers, stand for Stable Diffusion.
#[test]
fn another_backbone_runs_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = small(&dir.path().join("store"), &dir.path().join("report"));
    args.extend(["--backbone".into(), root("tests/golden/sd1")]);
    let output = cdbench(&args);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && err.contains("give --clip"), "{err}");

    args.extend(["--clip".into(), root("tests/golden/clip_towers/patch32")]);
    let (table, _) = ok(&args);
    assert!(table.contains("Textual Inversion") && table.contains("fine-tune all"), "{table}");
    // what was computed with one type of weights is not what another gives
    let more =
        |dtype: &str| [&args[..], &["--dry-run", "--dtype", dtype].map(str::to_owned)].concat();
    assert!(ok(&more("f32")).0.contains(" 0 stages to run"));
    assert!(ok(&more("bf16")).0.contains("train Textual Inversion"));
}

#[test]
fn two_runs_share_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let outs = ["a", "b"].map(|name| dir.path().join(name));
    let start = |out: &PathBuf| {
        let mut run = Command::new(BINARY);
        run.args(small(&store, out)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    for mut child in outs.each_ref().map(start) {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(measured(&outs[0]), measured(&outs[1]));
    let mut status = small(&store, &outs[0]);
    status[0] = "status".into();
    assert!(ok(&status).0.contains("7 of 7 cells are done"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_the_state_of_a_training() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("report"));
    let mut args = small(&store, &out);
    let more = ["--filter", "method=textual-inversion", "--set", "scales.default.train_steps=0.3"];
    args.extend(more.map(str::to_owned));
    let mut run = Command::new(BINARY);
    let mut child = run.args(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("] train Textual Inversion")));
    std::thread::sleep(Duration::from_secs(1));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(lines.any(|line| line.contains("the same command goes on from here")));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let state = |e: std::fs::DirEntry| std::fs::read_dir(e.path()).unwrap().count() > 0;
    assert!(std::fs::read_dir(store.join("work")).unwrap().any(|e| state(e.unwrap())));
    ok(&args);
    assert_eq!(std::fs::read_dir(store.join("work")).unwrap().count(), 0);
}
