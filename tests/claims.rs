//! The paper's claims: that they name what the experiments have, that they hold in the paper's own
//! numbers, and what is written about them.

#[allow(dead_code)] // not every test uses all of it
mod fixture;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use cdbench::metrics::claims::{Comparison, claims};
use cdbench::metrics::{Metric, paper};
use cdbench::report::{Results, render_tables};
use cdbench::spec::Experiment;
use cdbench::{methods, world};
use fixture::{IMAGE, TEXT, results};

/// An experiment of `experiments/`; none where the file is not there yet.
fn experiment(name: &str) -> Option<Experiment> {
    let path = format!("{}/experiments/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let path = Path::new(&path);
    path.is_file().then(|| Experiment::read(path, &[]).unwrap())
}

/// The rows of an experiment that are run for a group, each point of a sweep for itself: label and the
/// paper's row. The anchors are no rows.
fn rows(experiment: &Experiment, group: &str) -> Vec<(String, Option<String>)> {
    let mut rows = vec![("Pretrained".to_owned(), None)];
    for point in experiment.rows.iter().flat_map(|r| r.points().unwrap()) {
        let takes = methods::find(&point.row.method).unwrap().concepts();
        let run = match &point.row.groups {
            Some(groups) => groups.iter().any(|g| g.as_str() == group),
            None => takes.contains(if group == "single" { &1 } else { &2 }),
        };
        let label = point.row.title().unwrap();
        if run {
            let paper = point.row.paper.clone().unwrap_or(label.clone());
            rows.push((label, Some(paper)));
        }
    }
    rows
}

fn metrics(experiment: &Experiment) -> Vec<Metric> {
    let chosen = experiment.registry.choose(experiment.metrics.as_deref()).unwrap();
    chosen.into_iter().map(|c| c.metric).collect()
}

#[test]
fn claims_name_what_the_experiments_have() {
    let mut seen = 0;
    for (claim, comparison) in comparisons() {
        let Some(experiment) = experiment(&comparison.experiment) else { continue };
        seen += 1;
        let rows = rows(&experiment, comparison.group.as_deref().unwrap());
        let labels: Vec<&str> = rows.iter().map(|(label, _)| label.as_str()).collect();
        let metrics = metrics(&experiment);
        let metrics: Vec<&str> = metrics.iter().map(|m| m.name.as_str()).collect();
        if let Err(error) = comparison.check(&labels, &metrics) {
            panic!("claim {claim}: {error}: {}", error.hint().unwrap_or_default());
        }
        let pairs: Vec<&String> =
            experiment.scales.values().flat_map(|s| &s.pairs).flatten().collect();
        for set in [&comparison.a, &comparison.b].iter().filter_map(|s| s.sets.as_ref()).flatten() {
            let there = world::pairs().iter().any(|p| {
                *set == [p.first.name, p.second.name] && pairs.iter().any(|n| *n == p.name)
            });
            assert!(there, "claim {claim}: `{}` has no pair {set:?}", comparison.experiment);
        }
    }
    assert!(seen >= 30, "{seen}");
}

#[test]
fn the_papers_own_numbers_are_as_it_claims() {
    let mut held = 0;
    for (claim, comparison) in comparisons() {
        let Some(experiment) = experiment(&comparison.experiment) else { continue };
        let table = experiment.table.as_ref().and_then(|t| paper::table(t).ok());
        let (Some(table), Some(group)) = (table, comparison.group.as_deref()) else { continue };
        let (name, part) = comparison.metric_of(&comparison.a);
        let metric = metrics(&experiment).into_iter().find(|m| m.name == name).unwrap();
        let rows = rows(&experiment, group);
        let value = |label: &str| {
            let (_, paper) = rows.iter().find(|(l, _)| l == label)?;
            table.row(group, paper.as_ref()?)?.values.get(&table.beside(&metric)?.key).copied()
        };
        // what is printed of each of two concepts is in Table 8
        let values = value(&comparison.a.row).zip(value(&comparison.b.row));
        let Some((a, b)) = values.filter(|_| part.is_none()) else { continue };
        let beyond = comparison.direction.beyond(comparison.margin * metric.scale, a - b);
        assert!(beyond > 0.0, "claim {claim}: {comparison:?}: {a} and {b}");
        held += 1;
    }
    assert!(held >= 20, "{held}");
}

fn comparisons() -> impl Iterator<Item = (usize, &'static Comparison)> {
    claims().iter().flat_map(|claim| claim.comparisons.iter().map(|c| (claim.number, c)))
}

/// Made-up results of Table 1, with the labels that the experiment has.
fn table1() -> Results {
    let mut results = results(1, 0.0);
    for cell in &mut results.cells {
        let label = match cell.label.as_str() {
            "w/ fine-tune all" => "Custom Diffusion w/ fine-tune all",
            "Joint" => "Custom Diffusion (Joint)",
            "Merge" => "Custom Diffusion (Optimization)",
            "Sequential" => "Custom Diffusion (Sequential)",
            other => other,
        };
        cell.label = label.to_owned();
    }
    results
}

/// Made-up results of Table 3: without augmentation, image alignment is more by `more`.
fn table3(more: f64) -> Results {
    let mut results = table1();
    results.experiment = "table3".into();
    results.table = Some("table3".into());
    let label = |label: &str| match label {
        "Custom Diffusion" => Some("Custom Diffusion"),
        "Textual Inversion" => Some("w/o Aug"),
        _ => None,
    };
    results.cells.retain(|c| c.group == "single" && label(&c.label).is_some());
    for cell in &mut results.cells {
        cell.label = label(&cell.label).unwrap().to_owned();
    }
    let known = |id: &str| results.cells.iter().find(|c| c.id == id);
    results.images.retain(|i| known(&i.cell).is_some());
    for image in &mut results.images {
        if known(&image.cell).unwrap().label == "w/o Aug" {
            // 0.03 apart as they were made
            image.values.get_mut(IMAGE).unwrap()[0] += more - 0.03;
        }
    }
    results
}

fn cdbench(args: &[&str], at: &Path) -> Output {
    Command::cargo_bin("cdbench").unwrap().args(args).current_dir(at).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn write(results: &Results, folder: PathBuf) {
    results.write(&folder).unwrap();
}

/// The line of a Markdown table that starts with `start`.
fn line<'a>(text: &'a str, start: &str) -> &'a str {
    text.lines().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"))
}

#[test]
fn a_page_has_a_verdict_on_every_claim() {
    let dir = tempfile::tempdir().unwrap();
    let reports = dir.path().join("reports");
    write(&table1(), reports.join("table1"));
    write(&table3(-0.1), reports.join("more/table3"));
    let mut part = table1();
    part.cells.truncate(4);
    part.images.retain(|i| part.cells.iter().any(|c| c.id == i.cell));
    write(&part, reports.join("a/part"));
    fs::create_dir(reports.join("broken")).unwrap();
    fs::write(reports.join("broken/report.json"), "{").unwrap();

    let output = cdbench(&["claims"], dir.path());
    assert!(output.status.success(), "{}", said(&output));
    let page = fs::read_to_string(reports.join("README.md")).unwrap();
    let row = line(&page, "| 6. Without augmentation");
    assert!(row.contains("| Table 3 | reproduced | 0.0"), "{row}");
    assert!(row.ends_with("| table3 (default) |"), "{row}");
    assert!(line(&page, "| 1. ").ends_with("| not run | – | fig3 (not run) |"), "{page}");
    assert_eq!(page.lines().filter(|l| l.starts_with("### ")).count(), 11);
    assert!(page.contains("`cdbench run experiments/fig3.toml --scale full --out reports/fig3`"));
    assert!(page.contains(
        "By [table3](more/table3/README.md), scale default, protocol `a1b2c3`, 6 cells."
    ));
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(page.contains(stdout.trim_end()), "stdout is the table of verdicts: {stdout}");

    // what was not run or not read is said
    let page_says = |what: &str| assert!(page.contains(what), "{what}: {page}");
    page_says("Not used: reports/a/part (scale default, 4 cells: reports/table1 has 40)");
    page_says("Not used: reports/broken");
    page_says("not run: \\`table3\\` has no row \\`w/o Reg\\`");
    let stderr = said(&output);
    assert!(stderr.contains("reports/broken: left out: "), "{stderr}");
    assert!(stderr.contains("no row `w/o Reg` (did you mean w/o Aug?)"), "{stderr}");

    // the same numbers for programs
    let json = fs::read_to_string(reports.join("claims.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let sixth = &json["claims"][5];
    assert_eq!((&sixth["number"], &sixth["verdict"]), (&6.into(), &"reproduced".into()));
    let found = &sixth["comparisons"][0];
    let difference = found["difference"].as_f64().unwrap();
    assert!((difference + 0.1).abs() < 0.02 && found["interval"][1].as_f64().unwrap() < 0.0);
    assert_eq!(found["counts"]["concept_sets"], serde_json::json!([3]));
    assert_eq!(found["counts"]["images"], 54);
    let csv = fs::read_to_string(reports.join("claims.csv")).unwrap();
    assert!(csv.contains("w/o Aug − Custom Diffusion,false,\"image alignment, single\",< 0,-0."));

    // again, and the other way
    write(&table3(0.1), reports.join("more/table3"));
    assert!(cdbench(&["claims", "reports"], dir.path()).status.success());
    let page = fs::read_to_string(reports.join("README.md")).unwrap();
    assert!(line(&page, "| 6. ").contains("| not reproduced |"), "{page}");
}

#[test]
fn a_file_by_hand_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |args: &[&str]| {
        let output = cdbench(args, dir.path());
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        said(&output)
    };
    fs::create_dir(dir.path().join("reports")).unwrap();
    let error = refused(&["claims"]);
    assert!(error.contains("no report is below it") && error.contains("hint: "), "{error}");
    write(&table1(), dir.path().join("reports/table1"));
    fs::write(dir.path().join("reports/README.md"), "# By hand\n").unwrap();
    assert!(refused(&["claims"]).contains("not of `cdbench claims`"));
    assert!(refused(&["claims", "reports", "."]).contains("--out FILE"));
    assert!(refused(&["claims", "reports/table1"]).contains("report of table1"));
    let args = ["claims", "reports", ".", "--out", "pages/claims.md"];
    let output = cdbench(&args, dir.path());
    assert!(output.status.success(), "{}", said(&output));
    assert!(dir.path().join("pages/claims.json").is_file());
    let page = fs::read_to_string(dir.path().join("pages/claims.md")).unwrap();
    assert!(page.contains("By [table1](../reports/table1/README.md), scale "), "{page}");
    let again = cdbench(&args, dir.path());
    assert!(again.status.success(), "its own page is replaced: {}", said(&again));
    assert!(cdbench(&["claims", "--out", "bare.md"], dir.path()).status.success());
    let page = fs::read_to_string(dir.path().join("bare.md")).unwrap();
    assert!(page.contains("By [table1](reports/table1/README.md), scale "), "{page}");
    assert_eq!(fs::read_to_string(dir.path().join("reports/README.md")).unwrap(), "# By hand\n");
}

#[test]
fn the_report_of_an_experiment_has_the_claims_that_it_decides() {
    let dir = tempfile::tempdir().unwrap();
    let readme = |results: &Results| {
        render_tables(results, dir.path()).unwrap();
        fs::read_to_string(dir.path().join("README.md")).unwrap()
    };
    let text = readme(&table3(-0.1));
    let claims = text.split("## Claims of the paper").nth(1).unwrap();
    let heading = line(claims, "| **6. ");
    assert!(heading.contains("falls. (Table 3) Reproduced, p = 0.00"), "{heading}");
    assert!(line(claims, "| **5. ").contains("Not decided: also needs fig5."), "{claims}");
    assert!(!claims.contains("| **4. "), "of Table 1: {claims}");
    let row = line(claims, "| w/o Aug − Custom Diffusion |");
    assert!(
        row.contains("| \\< 0 | −0.099 ± ") && row.ends_with("54 images | as claimed |"),
        "{row}"
    );
    assert!(dir.path().join("claims.csv").is_file());
    let latex = fs::read_to_string(dir.path().join("table.tex")).unwrap();
    assert!(latex.contains("Without augmentation") && latex.is_ascii());

    let text = readme(&table1());
    let claims = text.split("## Claims of the paper").nth(1).unwrap();
    assert!(line(claims, "| **3. ").contains("Inconclusive"), "{claims}");
    // the mean difference is that of the table of differences
    let read = |file: &str, row: &str, column: &str| {
        let mut csv = csv::Reader::from_path(dir.path().join(file)).unwrap();
        let at = csv.headers().unwrap().iter().position(|h| h == column).unwrap();
        let wanted = |r: &csv::StringRecord| {
            r[2] == *row && r.iter().any(|f| f.contains("text") || f.contains("Single"))
        };
        let found = csv.records().map(Result::unwrap).find(wanted).unwrap();
        found[at].parse::<f64>().unwrap()
    };
    let ours = read("claims.csv", "DreamBooth − Custom Diffusion", "difference");
    let other = read("differences.csv", "DreamBooth", &format!("Δ {}", TEXT.replace('-', " ")));
    assert!((ours - other).abs() < 1e-9, "{ours} {other}");

    let mut other = table1();
    other.experiment = "mine".into();
    assert!(!readme(&other).contains("Claims of the paper"));
    assert!(!dir.path().join("claims.csv").exists());
}

#[test]
fn one_concept_decides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut results = table3(-0.1);
    results.cells.retain(|c| c.concepts == ["dog_plum"]);
    results.images.retain(|i| results.cells.iter().any(|c| c.id == i.cell));
    render_tables(&results, dir.path()).unwrap();
    let text = fs::read_to_string(dir.path().join("README.md")).unwrap();
    assert!(line(&text, "| **6. ").contains("(Table 3) Inconclusive."), "{text}");
    let row = line(&text, "| w/o Aug − Custom Diffusion |");
    assert!(row.contains(" ± ") && row.ends_with("| open: one concept set |"), "{row}");
}
