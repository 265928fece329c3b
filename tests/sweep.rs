//! Sweeps, derived checkpoints and measures of models through the binary, on the embedded backbone.

mod small;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cdbench::report::{Cell, Results};
use small::{cdbench, ok};

const HEAD: &str = r#"
[sampling]
steps = 2
scheduler = "dpm++"
[scales.default]
concepts = ["dog_plum"]
prompts = 2
drift_images = 2
general_images = 4
"#;

/// A row whose rate does not fall, so that a state is what a training of as many steps gives.
fn row(label: &str, more: &str) -> String {
    let settings = "class_images = 4, batch = 4, decay = \"constant\"";
    format!(
        "[[rows]]\nmethod = \"custom-diffusion\"\nlabel = \"{label}\"\n{}\n",
        more.replace("settings = {", &format!("settings = {{ {settings},"))
    )
}

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Lab { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, metrics: &str, rows: &str) -> String {
        let path = self.path(&format!("{name}.toml"));
        let head = format!("name = \"{name}\"\ntitle = \"{name}\"\nmetrics = [{metrics}]\n");
        std::fs::write(&path, format!("{head}{HEAD}{rows}")).unwrap();
        path.display().to_string()
    }

    fn args(&self, files: &[&str], more: &[&str]) -> Vec<String> {
        let mut args = vec!["run".to_owned()];
        args.extend(files.iter().chain(more).map(|s| (*s).to_owned()));
        args.extend(["--store".to_owned(), self.path("store").display().to_string()]);
        args
    }

    fn results(&self, name: &str) -> Results {
        Results::read(&self.path(&format!("store/reports/{name}/default"))).unwrap()
    }
}

fn by_label(results: &Results) -> BTreeMap<&str, &Cell> {
    results.cells.iter().map(|c| (c.label.as_str(), c)).collect()
}

fn values(results: &Results, cell: &Cell, metric: &str) -> Vec<f64> {
    let own = results.images.iter().filter(|i| i.cell == cell.id);
    own.filter_map(|i| i.value(metric)).collect()
}

fn exists(folder: &Path, name: &str) -> bool {
    folder.join(name).is_file()
}

#[test]
fn points_over_steps_are_states_of_one_training() {
    let lab = Lab::new();
    let metrics = "\"image-alignment\", \"text-alignment\"";
    let swept = row("swept", "settings = { lr = 2e-3 }\nsweep = { steps = [2, 4, 6] }");
    let whole = row("whole", "settings = { lr = 2e-3, steps = 6 }")
        + &row("short", "settings = { lr = 2e-3, steps = 4 }");
    let sweep = lab.file("sweep", metrics, &swept);
    let plain = lab.file("plain", metrics, &whole);

    // the training is there before anybody wants its states: they are made again, and it is the same
    ok(&lab.args(&[&plain], &[]));
    let (plan, _) = ok(&lab.args(&[&sweep], &["--dry-run"]));
    let train: Vec<&str> = plan.lines().filter(|l| l.contains("  train ")).collect();
    assert!(train.len() == 1 && train[0].contains("2 of 3 states are missing"), "{plan}");
    ok(&lab.args(&[&sweep], &[]));
    let (plan, _) = ok(&lab.args(&[&sweep, &plain], &["--dry-run"]));
    assert!(plan.contains("0 stages to run"), "{plan}");

    let (sweep, plain) = (lab.results("sweep"), lab.results("plain"));
    let (swept, others) = (by_label(&sweep), by_label(&plain));
    let point = |steps: u64| swept[format!("swept, steps = {steps}").as_str()];
    for (steps, other) in [(4, "short"), (6, "whole")] {
        let (a, b) = (point(steps), others[other]);
        assert_eq!((a.steps, &a.place["steps"]), (steps, &steps.to_string()));
        for metric in ["image-alignment", "text-alignment"] {
            assert_eq!(values(&sweep, a, metric), values(&plain, b, metric), "{steps} {metric}");
        }
    }
    assert_ne!(
        values(&sweep, point(2), "image-alignment"),
        values(&sweep, point(4), "image-alignment")
    );

    let report = lab.path("store/reports/sweep/default");
    for file in ["curve-steps.svg", "curve-steps.png", "sweep.csv"] {
        assert!(exists(&report, file), "{file}");
    }
    let long = std::fs::read_to_string(report.join("sweep.csv")).unwrap();
    assert_eq!(
        long.lines().next(),
        Some("group,series,steps,metric,value,low,high,images or sets")
    );
    assert_eq!(long.lines().count(), 1 + 3 * 2, "{long}");
    let (table, _) =
        ok(&lab.args(&[&lab.path("sweep.toml").display().to_string()], &["--filter", "steps=4"]));
    assert!(table.contains("steps = 4") && !table.contains("steps = 6"), "{table}");
}

#[test]
fn compression_at_full_rank_changes_nothing_and_rank_one_is_small() {
    let lab = Lab::new();
    let rows = row("whole", "settings = { lr = 2e-2, steps = 4 }")
        + &row(
            "cut",
            "settings = { lr = 2e-2, steps = 4 }\nsweep = { \"compress.share\" = [1.0, 0.01] }",
        )
        + &row("rank", "settings = { lr = 2e-2, steps = 4 }\ncompress = { rank = 1 }");
    let file = lab.file("cut", "\"image-alignment\"", &rows);
    ok(&lab.args(&[&file], &[]));
    let results = lab.results("cut");
    let cells = by_label(&results);
    let found = |label: &str| values(&results, cells[label], "image-alignment");
    assert_eq!(found("cut, compress.share = 1.0"), found("whole"), "bit for bit");
    assert_eq!(found("cut, compress.share = 0.01"), found("rank"), "the least is rank 1");
    let bytes = |label: &str| cells[label].stored_bytes as f64;
    assert!(bytes("rank") < 0.1 * bytes("whole"), "{} {}", bytes("rank"), bytes("whole"));
    assert_eq!(bytes("cut, compress.share = 1.0"), bytes("whole"));
}

#[test]
fn models_are_measured_by_what_they_forgot_and_how_far_they_moved() {
    let lab = Lab::new();
    let metrics = "\"language-drift\", \"drift\", \"kid-general\", \"cmmd-general\", \
                   \"weight-change-cross\", \"weight-change-self\", \"weight-change-other\"";
    let rows = row("ours", "settings = { lr = 2e-2, steps = 3 }")
        + "[[rows]]\nmethod = \"textual-inversion\"\nsettings = { steps = 2 }\n";
    let file = lab.file("models", metrics, &rows);
    ok(&lab.args(&[&file], &[]));
    let results = lab.results("models");
    let cells = by_label(&results);
    let mean =
        |label: &str, metric: &str| cells[label].values.get(metric).map(|v| v.estimate().mean);
    let of = |label: &str, metric: &str| mean(label, metric).unwrap();

    assert!(of("ours", "weight-change-cross") > 1e-3);
    assert_eq!(of("ours", "weight-change-self"), 0.0, "frozen");
    assert_eq!(of("ours", "weight-change-other"), 0.0, "frozen");
    assert_eq!(of("Textual Inversion", "weight-change-cross"), 0.0, "a token is no weight");
    assert_eq!(mean("Pretrained", "weight-change-cross"), None, "there is no checkpoint");

    assert!(of("ours", "drift") > 0.0);
    // nothing but a token moved, and nobody says it
    assert!(of("Textual Inversion", "drift").abs() < 1e-6);
    assert!(of("Pretrained", "drift").abs() < 1e-6);
    assert_eq!(of("Textual Inversion", "kid-general"), of("Pretrained", "kid-general"));
    assert_ne!(of("ours", "cmmd-general"), of("Pretrained", "cmmd-general"));
    assert!(mean("Real images", "cmmd-general").is_some());
    assert_eq!(of("Textual Inversion", "language-drift"), of("Pretrained", "language-drift"));

    let asked: Vec<&str> = results.images.iter().map(|i| i.of.as_str()).collect();
    assert!(asked.contains(&"class words") && asked.contains(&"unrelated captions"), "{asked:?}");
    let class: Vec<_> = results.images.iter().filter(|i| i.of == "class words").collect();
    assert!(class.iter().all(|i| i.text_prompt.contains("dog") && !i.text_prompt.contains('<')));
    let unrelated = results.images.iter().filter(|i| i.of == "unrelated captions");
    assert!(unrelated.into_iter().all(|i| !i.text_prompt.contains("dog")));
    let report = lab.path("store/reports/models/default");
    assert!(exists(&report, "bars-change_of_weights.svg"));
    assert!(exists(&report, "grids/dog_plum-class_words.png"));
}

#[test]
fn what_cannot_be_swept_is_refused_before_anything_runs() {
    let lab = Lab::new();
    let metrics = "\"image-alignment\"";
    let many: Vec<String> = (1..=120).map(|i| i.to_string()).collect();
    let grid = format!("sweep = {{ class_images = [{0}], batch = [{0}] }}", many.join(", "));
    for (sweep, wanted, hint) in [
        ("sweep = { stepz = [1, 2] }", "`stepz`", "steps"),
        ("sweep = { steps = [] }", "no values", ""),
        ("sweep = { \"compress.shares\" = [0.5] }", "shares", ""),
        (grid.as_str(), "14404 cells", "--filter"),
    ] {
        let file = lab.file(
            "bad",
            metrics,
            &format!("[[rows]]\nmethod = \"custom-diffusion\"\n{sweep}\n"),
        );
        let output = cdbench(&lab.args(&[&file], &[]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(wanted) && said.contains(hint), "{sweep:.60}: {said}");
    }
    let file = lab.file("good", metrics, &row("ours", "settings = { steps = 2 }"));
    let output = cdbench(&lab.args(&[&file], &["--filter", "colour=red"]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(3) && said.contains("no cell has a `colour`"), "{said}");
    let output = cdbench(&lab.args(&[&file, &file], &[]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(3) && said.contains("both called `good`"), "{said}");
}

#[test]
fn attention_to_the_words_of_a_pair_is_measured_and_drawn() {
    let lab = Lab::new();
    let rows = row("ours", "settings = { lr = 2e-2, steps = 2 }")
        + "[[rows]]\nmethod = \"textual-inversion\"\nsettings = { steps = 2 }\n";
    let file = lab.file("pair", "\"attention-overlap\"", &rows);
    let set = |what: &str| format!("scales.default.{what}");
    let pairs = set("pairs=[\"cat_dog\"]");
    ok(&lab.args(&[&file], &["--set", &pairs]));
    let results = lab.results("pair");
    for cell in results.cells.iter().filter(|c| !["real", "copies", "truth"].contains(&&*c.method))
    {
        let found = values(&results, cell, "attention-overlap");
        match cell.concepts.len() {
            1 => assert!(found.is_empty(), "one concept has nothing to overlap with"),
            _ => assert!(
                found.len() == 2 && found.iter().all(|v| (0.0..=1.0).contains(v)),
                "{}: {found:?}",
                cell.label
            ),
        }
    }
    let of = |label: &str| {
        let cell = results.cells.iter().find(|c| c.label == label && c.concepts.len() == 2);
        values(&results, cell.unwrap(), "attention-overlap")
    };
    assert_ne!(of("ours"), of("Pretrained"));
    assert!(exists(&lab.path("store/reports/pair/default"), "attention/cat_mint+dog_plum.png"));
}
