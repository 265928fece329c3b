//! Reports from made-up results: what is written, what it says, and what a check finds.

mod fixture;

use std::path::Path;

use cdbench::diffusion::WordMap;
use cdbench::report::{
    Baseline, Cell, CellValue, Csv, Export, ImageRow, Latex, Markdown, Pictures, Results,
    Tolerance, Verdict, check, export, render, scatter, tables,
};
use fixture::{IMAGE, TEXT, fail, results};
use image::{Rgb, RgbImage};
use ndarray::Array2;

/// A colour for each cell, and a pattern for each image.
fn sample(row: &ImageRow) -> Option<RgbImage> {
    let hash = row.cell.bytes().fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let [_, r, g, b] = hash.to_be_bytes();
    let n = row.prompt as u32 + 3;
    let dark = |x: u32, y: u32| (x / n + y / n + row.seed as u32).is_multiple_of(2);
    let pixel = |x, y| if dark(x, y) { Rgb([r / 2, g / 2, b / 2]) } else { Rgb([r, g, b]) };
    (row.prompt != 5 || row.seed != 0).then(|| RgbImage::from_fn(64, 64, pixel))
}

/// Finds nothing but makes it up.
struct Drawn;

impl Pictures for Drawn {
    fn sample(&self, row: &ImageRow) -> Option<RgbImage> {
        sample(row)
    }

    fn targets(&self, concept: &str) -> Vec<RgbImage> {
        targets(concept)
    }

    /// Two words, each in half of the image.
    fn maps(&self, row: &ImageRow) -> Vec<WordMap> {
        let half = |first: bool| {
            Array2::from_shape_fn((8, 8), |(_, x)| f32::from(u8::from((x < 4) == first)))
        };
        let map = |word: &str, first| WordMap { word: word.into(), map: half(first) };
        match row.maps.is_empty() {
            true => vec![],
            false => vec![map("cat", true), map("dog", false)],
        }
    }
}

fn targets(concept: &str) -> Vec<RgbImage> {
    let shade = concept.len() as u8 * 9;
    (0..8).map(|i| RgbImage::from_pixel(64, 64, Rgb([shade, 120, i * 30]))).collect()
}

fn rendered(results: &Results, out: &Path) {
    render(results, &Drawn, out).unwrap();
}

/// The lines of a Markdown table by their label.
fn line<'a>(text: &'a str, label: &str) -> &'a str {
    text.lines()
        .find(|l| l.starts_with(&format!("| {label} |")))
        .unwrap_or_else(|| panic!("{label}"))
}

#[test]
fn results_survive_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut results = results(1, 0.0);
    fail(&mut results, "DreamBooth", "dog_plum");
    results.cells[0].label = "quotes \"and\", commas\nand lines".into();
    results.images[0].values.insert(TEXT.into(), vec![0.1 + 0.2]);
    results.write(dir.path()).unwrap();
    let read = Results::read(dir.path()).unwrap();
    assert_eq!(read, results);
    // and a page of the read ones is the same page
    assert_eq!(export(&tables(&read), &Markdown), export(&tables(&results), &Markdown));
}

#[test]
fn one_prompt_survives_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut results = results(1, 0.0);
    results.images.retain(|i| i.prompt == 0);
    for cell in &mut results.cells {
        let own: Vec<&ImageRow> = results.images.iter().filter(|i| i.cell == cell.id).collect();
        cell.measure(&own);
        assert_eq!(cell.values[TEXT].estimate().interval(), None);
    }
    results.write(dir.path()).unwrap();
    assert_eq!(Results::read(dir.path()).unwrap(), results);
    rendered(&results, dir.path());
    let text = std::fs::read_to_string(dir.path().join("table.md")).unwrap();
    assert!(!text.contains("inf") && !text.contains("NaN"), "{text}");
}

#[test]
fn damaged_files_are_refused_with_their_names() {
    let results = results(1, 0.0);
    let read_after = |file: &str, change: &dyn Fn(String) -> String| {
        let dir = tempfile::tempdir().unwrap();
        results.write(dir.path()).unwrap();
        let path = dir.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let changed = change(text.clone());
        assert_ne!(text, changed, "{file}");
        std::fs::write(&path, changed).unwrap();
        let error = Results::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
        error
    };
    read_after("report.json", &|t| t.replacen("\"version\": 3", "\"version\": 2", 1));
    read_after("report.json", &|t| t[..t.len() / 2].into());
    let error = read_after("results.csv", &|t| t.replacen("a1b2c3", "ffffff", 1));
    assert!(error.contains("protocol"), "{error}");
    let twice = |t: String| {
        let second = t.lines().nth(1).unwrap().to_owned();
        t + &second + "\n"
    };
    assert!(read_after("results.csv", &twice).contains("twice"));
    assert!(read_after("images.csv", &twice).contains("twice"));
    let error =
        read_after("images.csv", &|t| t.replacen("\ncustom-diffusion-dog_plum,", "\nnobody,", 1));
    assert!(error.contains("nobody"), "{error}");
    read_after("images.csv", &|t| t.replacen(",0.", ",NaN", 1));
    read_after("images.csv", &|t| t.replacen("text_prompt", "prompt_text", 1));
    let error = read_after("results.csv", &|t| t.replacen("kid.counts", "kid.count", 1));
    assert!(error.contains("kid.counts"), "{error}");

    let empty = tempfile::tempdir().unwrap();
    assert!(Results::read(empty.path()).unwrap_err().to_string().contains("report.json"));
    let mut bad = results;
    bad.cells[0].concepts = vec!["a;b".into()];
    assert!(bad.write(empty.path()).is_err());
}

#[test]
fn the_table_is_the_papers() {
    let results = results(1, 0.0);
    let text = Markdown.table(&tables(&results)[0]);
    let labels: Vec<&str> = text
        .lines()
        .filter(|l| l.starts_with("| "))
        .skip(1)
        .map(|l| l.split(" |").next().unwrap().trim_start_matches("| "))
        .collect();
    let single = ["Textual Inversion", "DreamBooth", "w/ fine-tune all", "Custom Diffusion"];
    let multi = ["Textual Inversion", "DreamBooth", "Sequential", "Merge", "Joint"];
    let anchors = ["Pretrained", "Real images (ceiling)", "Copies of training images"];
    let mut wanted = vec!["**Single concept**"];
    wanted.extend(single);
    wanted.extend(["Tuned & 100% new\\_one", "*anchors*"]);
    wanted.extend(anchors);
    wanted.push("**Two concepts**");
    wanted.extend(multi);
    wanted.push("*anchors*");
    wanted.extend(anchors);
    assert_eq!(labels, wanted);

    let ours = line(&text, "Custom Diffusion");
    let entries: Vec<&str> = ours.split(" | ").map(str::trim).collect();
    // beside ours, the paper's
    assert_eq!([entries[2], entries[4], entries[6]], ["0.795", "0.775", "20.96"], "{ours}");
    assert!(entries[1].contains(" ± ") && entries[5].contains(" ± "), "{ours}");
    assert_eq!(entries[7], "0.31");
    assert!(line(&text, "Joint").contains("| 0.801 |"));
    assert!(line(&text, "Textual Inversion").contains("| **0.8"), "{text}");
    // fine-tune all and Custom Diffusion are 0.005 apart: not told apart
    assert!(line(&text, "w/ fine-tune all").contains('*'));
    assert!(!line(&text, "Copies of training images").contains("**"), "anchors do not compete");
    for needed in ["a1b2c3", "3 concepts", "6 prompts", "18 images", "1 training seed", "m = 60"] {
        assert!(text.contains(needed), "{needed}");
    }
}

#[test]
fn a_failed_cell_is_shown_and_does_not_compete() {
    let mut results = results(1, 0.0);
    fail(&mut results, "Textual Inversion", "cat_mint");
    for concept in ["dog_plum", "cat_mint", "chair_rose"] {
        fail(&mut results, "DreamBooth", concept);
    }
    let text = Markdown.table(&tables(&results)[0]);
    assert!(line(&text, "DreamBooth").starts_with("| DreamBooth | failed | 0.781 | failed |"));
    let ti = line(&text, "Textual Inversion");
    assert!(ti.contains('†') && !ti.contains("**"), "{ti}");
    assert!(text.contains("† Not of all concepts"));
    let whole = tables(&fixture::results(1, 0.0));
    assert!(
        whole.iter().all(|table| !Markdown.table(table).contains('†')),
        "a sign that is not used"
    );
    let dir = tempfile::tempdir().unwrap();
    rendered(&results, dir.path());
    let readme = std::fs::read_to_string(dir.path().join("README.md")).unwrap();
    assert!(
        readme.contains("DreamBooth on dog\\_plum, seed 0: the loss is not finite"),
        "{readme}"
    );
}

#[test]
fn an_interval_without_width_is_marked() {
    let mut results = results(1, 0.0);
    let ours = |i: &&mut ImageRow| i.cell.starts_with("custom-diffusion");
    for image in results.images.iter_mut().filter(ours) {
        image.values.get_mut(IMAGE).unwrap().fill(0.5);
    }
    let table = &tables(&results)[0];
    let text = Markdown.table(table);
    let ours = line(&text, "Custom Diffusion");
    assert!(ours.contains("| 0.500‡ |") && ours.contains(" ± "), "{ours}");
    assert!(text.contains("‡ All values are the same"), "{text}");
    assert!(Latex.table(table).contains("$0.500^\\ddagger$"));
    assert!(!Markdown.table(&tables(&fixture::results(1, 0.0))[0]).contains('‡'));
}

#[test]
fn differences_are_paired_and_signed() {
    let text = Markdown.table(&tables(&results(1, 0.1))[1]);
    let dreambooth = line(&text, "DreamBooth");
    assert!(dreambooth.contains("| **−0.1"), "{dreambooth}");
    assert!(dreambooth.contains("+1") || dreambooth.contains("+2"), "KID: {dreambooth}");
    assert!(!text.contains("| Custom Diffusion |"), "not against itself");
    assert!(text.contains("difference to Joint"));
}

#[test]
fn concepts_have_columns_of_their_own() {
    let tables = tables(&results(1, 0.0));
    let names: Vec<_> = tables.iter().map(|t| t.name).collect();
    assert_eq!(names, ["table", "differences", "room", "concepts-single", "concepts-multi"]);
    assert!(tables[2].sections.is_empty(), "nothing was drawn");
    let tables = &tables[1..];
    assert_eq!(tables[2].columns, ["dog_plum", "cat_mint", "chair_rose", "mean"]);
    assert_eq!(tables[3].columns, ["dog_plum + cat_mint", "cat_mint + chair_rose", "mean"]);
    let titles: Vec<_> = tables[3].sections.iter().map(|s| s.title.as_str()).collect();
    let with = ["image alignment with concept 1", "image alignment with concept 2"];
    assert_eq!(titles, ["text alignment", "image alignment", with[0], with[1]]);
}

#[test]
fn latex_holds_no_sign_that_it_would_take_for_a_command() {
    let mut results = results(1, 0.0);
    results.title = r#"100% of $5 & #1_a {b} ~ ^ \c "d" <e>"#.into();
    let text = export(&tables(&results), &Latex);
    assert!(text.contains(r"Tuned \& 100\% new\_one"));
    let title = r"100\% of \$5 \& \#1\_a \{b\} \textasciitilde{} \textasciicircum{} \textbackslash{}c ''d'' \textless{}e\textgreater{}";
    assert!(text.contains(title), "{text}");
    assert!(text.is_ascii(), "{:?}", text.chars().find(|c| !c.is_ascii()));
    for table in text.split("\\begin{tabular}").skip(1) {
        let spec = table.split('\n').next().unwrap();
        let columns = spec.matches('r').count() + 1;
        let body = table.split("\\end{tabular}").next().unwrap();
        for row in body.lines().filter(|l| l.ends_with("\\\\") && !l.contains("multicolumn")) {
            assert_eq!(row.replace("\\&", "").matches('&').count() + 1, columns, "{row}");
        }
    }
    for pair in ["table", "tabular"] {
        let count = |what: &str| text.matches(&format!("\\{what}{{{pair}}}")).count();
        assert_eq!(count("begin"), count("end"));
    }
}

#[test]
fn csv_has_the_ends_of_intervals() {
    let results = results(1, 0.0);
    let text = Csv.table(&tables(&results)[0]);
    let mut csv = csv::Reader::from_reader(text.as_bytes());
    let names = csv.headers().unwrap().clone();
    let at =
        |name: &str| names.iter().position(|n| n == name).unwrap_or_else(|| panic!("{names:?}"));
    let ours = csv.records().map(Result::unwrap).find(|r| &r[2] == "Custom Diffusion").unwrap();
    let number = |name| ours[at(name)].parse::<f64>().unwrap();
    let (low, mean, high) =
        (number("text alignment, low"), number("text alignment"), number("text alignment, high"));
    assert!(low < mean && mean < high);
    assert_eq!(&ours[at("paper")], "0.795");
}

#[test]
fn a_report_has_all_its_files() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("FINDINGS.default.md"), "## Found\n\nBy hand.\n").unwrap();
    rendered(&results(1, 0.0), dir.path());
    let readme = std::fs::read_to_string(dir.path().join("README.md")).unwrap();
    assert!(readme.contains("By hand."));
    assert!(readme.contains("experiments/table1.toml --scale default"));
    for file in [
        "table.md",
        "table.tex",
        "table.csv",
        "differences.csv",
        "concepts-single.csv",
        "results.csv",
        "images.csv",
        "scatter.svg",
        "scatter.png",
        "grids/dog_plum.png",
        "grids/dog_plum+cat_mint.png",
    ] {
        let size =
            std::fs::metadata(dir.path().join(file)).unwrap_or_else(|_| panic!("{file}")).len();
        assert!(size > 100, "{file}");
        // what the page shows is there, and what is there is named
        if file.ends_with(".png") {
            assert!(readme.contains(file), "{file}");
            image::open(dir.path().join(file)).unwrap();
        }
    }
    // written again from its own files: the same
    let again = tempfile::tempdir().unwrap();
    rendered(&Results::read(dir.path()).unwrap(), again.path());
    for file in ["table.md", "table.tex", "scatter.svg", "results.csv"] {
        let read = |d: &tempfile::TempDir| std::fs::read_to_string(d.path().join(file)).unwrap();
        assert_eq!(read(&dir), read(&again), "{file}");
    }
    if let Ok(keep) = std::env::var("KEEP_REPORT") {
        rendered(&results(1, 0.0), Path::new(&keep));
    }
}

#[test]
fn parts_of_a_sweep_join() {
    let whole = results(1, 0.0);
    let part = |keep: &dyn Fn(&Cell) -> bool| {
        let mut part = whole.clone();
        part.cells.retain(keep);
        part.images.retain(|i| part.cells.iter().any(|c| c.id == i.cell));
        part
    };
    let (mut singles, pairs) = (part(&|c| c.group == "single"), part(&|c| c.group == "multi"));
    singles.add(pairs.clone()).unwrap();
    assert_eq!(export(&tables(&singles)[..1], &Markdown), export(&tables(&whole)[..1], &Markdown));
    assert_eq!(
        (singles.cells.len(), singles.images.len()),
        (whole.cells.len(), whole.images.len())
    );

    // what is there already stays, what failed here is taken from there
    let mut again = whole.clone();
    fail(&mut again, "DreamBooth", "dog_plum");
    again.add(pairs).unwrap();
    assert_eq!(again.failed.len(), 1, "the pair was measured there, the single concept was not");
    again.add(again.clone()).unwrap();
    assert_eq!(again.failed.len(), 1, "what failed in both parts is listed once");
    again.add(whole.clone()).unwrap();
    assert_eq!(again.failed, []);
    assert_eq!(export(&tables(&again)[..1], &Markdown), export(&tables(&whole)[..1], &Markdown));
    let mut worse = whole.clone();
    fail(&mut worse, "DreamBooth", "dog_plum");
    again.add(worse).unwrap();
    assert_eq!(again.failed, [], "it was measured here");

    let other = Results { protocol: "another".into(), ..whole.clone() };
    assert_eq!(again.add(other).unwrap_err().exit_code(), 9);
    let other = Results { experiment: "table3".into(), ..whole.clone() };
    assert_eq!(again.add(other).unwrap_err().exit_code(), 3);
}

#[test]
fn names_are_not_paths() {
    let mut results = results(1, 0.0);
    for cell in &mut results.cells {
        cell.concepts.iter_mut().for_each(|c| *c = format!("../../{c}"));
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a/b");
    rendered(&results, &out);
    assert!(out.join("grids/______dog_plum.png").exists());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn no_result_is_no_picture() {
    let mut none = results(1, 0.0);
    none.cells.clear();
    none.images.clear();
    assert!(scatter(&none, Default::default()).unwrap().is_none());
    let dir = tempfile::tempdir().unwrap();
    rendered(&none, dir.path());
    assert!(!dir.path().join("scatter.png").exists());
    assert_eq!(Results::read(dir.path()).unwrap(), none);
}

#[test]
fn the_same_results_pass_their_check() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("baselines/a.json");
    let now = results(1, 0.0);
    Baseline::of(&now).save(&path).unwrap();
    let baseline = Baseline::load(&path).unwrap();
    let names = |b: &Baseline| b.cells.iter().map(|c| c.label.clone()).collect::<Vec<_>>();
    assert_eq!(names(&baseline), names(&Baseline::of(&now)));
    let outcome = check(&now, &baseline, &Tolerance::default());
    assert_eq!(outcome.verdict(), Verdict::Passed);
    assert!(outcome.improvements.is_empty() && !outcome.unchanged.is_empty());
    // JSON's reader may be off by the last bit
    assert!(outcome.unchanged.iter().all(|c| c.difference().abs() < 1e-12));
}

#[test]
fn noise_passes_and_a_shift_does_not() {
    let baseline = Baseline::of(&results(1, 0.0));
    let alarms = (2..22)
        .filter(|&seed| {
            check(&results(seed, 0.0), &baseline, &Tolerance::default()).verdict()
                != Verdict::Passed
        })
        .count();
    assert!(alarms <= 3, "{alarms} of 20 runs that differ by noise");

    let worse = check(&results(2, -0.05), &baseline, &Tolerance::default());
    assert_eq!(worse.verdict(), Verdict::Failed);
    assert!(
        worse
            .regressions
            .iter()
            .all(|c| c.what.contains("Custom Diffusion") || c.what.contains("Joint"))
    );
    assert!(worse.regressions.iter().any(|c| c.what == "single: Custom Diffusion on dog_plum"));
    let page = worse.to_string();
    assert!(page.contains("worse") && page.contains("text alignment"), "{page}");
    println!("{page}");

    let better = check(&results(2, 0.05), &baseline, &Tolerance::default());
    assert_eq!(better.verdict(), Verdict::Passed);
    assert!(!better.improvements.is_empty());
    // the tolerance is a difference that nobody minds
    let wide = Tolerance([(TEXT.into(), 0.2), (IMAGE.into(), 0.2), ("kid".into(), 1.0)].into());
    assert_eq!(check(&results(2, -0.05), &baseline, &wide).verdict(), Verdict::Passed);
}

#[test]
fn kid_is_worse_when_it_rises() {
    let baseline = Baseline::of(&results(1, 0.0));
    let mut now = results(1, 0.0);
    let move_all = |now: &mut Results, by: f64| {
        for value in now.cells.iter_mut().filter_map(|c| c.values.get_mut("kid")) {
            let CellValue::Set(kid) = value else { panic!("{value:?}") };
            kid.value += by;
        }
    };
    move_all(&mut now, 0.02);
    let outcome = check(&now, &baseline, &Tolerance::default());
    assert_eq!(outcome.verdict(), Verdict::Failed);
    assert!(outcome.improvements.is_empty());
    move_all(&mut now, -0.04);
    let outcome = check(&now, &baseline, &Tolerance::default());
    assert_eq!(outcome.verdict(), Verdict::Passed);
    assert!(!outcome.improvements.is_empty());
}

#[test]
fn another_protocol_is_not_compared() {
    let baseline = Baseline::of(&results(1, 0.0));
    let mut now = results(1, -0.5);
    now.protocol = "other".into();
    let outcome = check(&now, &baseline, &Tolerance::default());
    assert_eq!(outcome.verdict(), Verdict::OtherProtocol);
    assert!(outcome.regressions.is_empty() && outcome.to_string().contains("a1b2c3"));
}

#[test]
fn what_is_missing_or_new_is_said() {
    let full = results(1, 0.0);
    let mut less = full.clone();
    fail(&mut less, "DreamBooth", "cat_mint");
    less.images.remove(0);
    let outcome = check(&less, &Baseline::of(&full), &Tolerance::default());
    assert_eq!(outcome.verdict(), Verdict::Failed);
    let page = outcome.to_string();
    assert!(page.contains("17 of 18 images"), "{page}");
    assert!(page.contains("DreamBooth on cat_mint: 0 of 18 images"), "{page}");
    let outcome = check(&full, &Baseline::of(&less), &Tolerance::default());
    assert_eq!(outcome.verdict(), Verdict::Passed);
    assert_eq!(
        outcome.added,
        ["single: DreamBooth on cat_mint", "multi: DreamBooth on cat_mint + chair_rose"]
    );
}

#[test]
fn a_damaged_baseline_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    let baseline = Baseline::of(&results(1, 0.0));
    baseline.save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    for bad in [
        text.replacen("\"version\": 2", "\"version\": 9", 1),
        text.replacen("\"prompts\":[0,", "\"prompts\":[", 1),
        "{}".into(),
    ] {
        assert_ne!(bad, text);
        std::fs::write(&path, bad).unwrap();
        let error = Baseline::load(&path).unwrap_err();
        assert!(error.to_string().contains("a.json") && error.hint().is_some(), "{error}");
    }
    assert!(Baseline::load(&dir.path().join("none.json")).is_err());
    // what an older program measured is of another protocol
    std::fs::write(&path, "{\"version\": 1, \"cells\": [{\"text\": [0.1]}]}").unwrap();
    let error = Baseline::load(&path).unwrap_err();
    assert!(error.exit_code() == 9 && error.to_string().contains("a.json"), "{error}");
    let mut bad = baseline;
    bad.cells[0].images.get_mut(TEXT).unwrap()[0] = f64::NAN;
    assert!(bad.save(&path).is_err());
}
