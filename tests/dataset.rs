//! Data sets in place of an experiment's own concepts, from the command line to the report.

mod desk;
mod small;

use std::path::Path;

use desk::{Desk, ends, refused};
use small::{ok, root, small};

/// What `--dry-run` says is left to do, of the small experiment with these arguments.
fn planned(args: &[String], more: &[&str]) -> String {
    let more = more.iter().map(|arg| (*arg).to_owned());
    let args: Vec<String> =
        args.iter().cloned().chain(["--dry-run".to_owned()]).chain(more).collect();
    ok(&args).0
}

/// Takes the first cell's images and lets `evaluate` judge them: the same work has the same id and the same
/// numbers.
fn judged_alike(desk: &Desk, data: &str, store: &str, report: &str) {
    let table = |name: &str| csv::Reader::from_path(Path::new(report).join(name)).unwrap();
    let at = |table: &mut csv::Reader<std::fs::File>, column: &str| {
        table.headers().unwrap().iter().position(|name| name == column).unwrap()
    };
    let mut cells = table("results.csv");
    let columns = ["cell", "concepts", "text-alignment", "image-alignment", "anchor"];
    let columns = columns.map(|column| at(&mut cells, column));
    let own = cells.records().map(Result::unwrap).find(|row| &row[columns[4]] == "false").unwrap();
    let [cell, concept, text, image, _] = columns.map(|column| own[column].to_owned());

    let folder = desk.path("judged");
    std::fs::create_dir_all(format!("{folder}/samples")).unwrap();
    let mut images = table("images.csv");
    let columns = ["cell", "of", "text_prompt", "file"].map(|column| at(&mut images, column));
    let mut prompts = serde_json::Map::new();
    for row in images.records().map(Result::unwrap) {
        let [of_cell, of, prompt, file] = columns.map(|column| row[column].to_owned());
        if of_cell == cell && of.is_empty() {
            let name = format!("{}.png", prompts.len());
            let from = Path::new(store).join(file);
            std::fs::copy(from, format!("{folder}/samples/{name}")).unwrap();
            prompts.insert(name, prompt.into());
        }
    }
    let text_of_prompts = serde_json::to_string(&prompts).unwrap();
    std::fs::write(format!("{folder}/prompts.json"), text_of_prompts).unwrap();
    let targets = format!("{data}/benchmark_dataset/{concept}");
    let (found, said) = ok(&["evaluate", &folder, "--targets", &targets]);

    let json = std::fs::read_to_string(Path::new(report).join("report.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let id = json["evaluations"][&concept].as_str().unwrap();
    assert!(said.contains(&format!("evaluation: {id} ")), "{id}: {said}");
    for (title, wanted) in [("text alignment", text), ("image alignment", image)] {
        let line = found.lines().find(|line| line.starts_with(title)).unwrap();
        let value: f64 = line.split('\t').nth(1).unwrap().parse().unwrap();
        let wanted: f64 = wanted.parse().unwrap();
        assert!((value - wanted).abs() < 1e-3, "{line}: {wanted}");
    }
}

#[test]
fn the_exported_concepts_are_the_same_experiment() {
    let desk = Desk::new();
    let (data, store, out) = (desk.path("mini101"), desk.path("store"), desk.path("out"));
    ok(&["export", "concepts", &data]);
    assert!(refused(&["export", "concepts", &data]).contains("--force"));
    let args = small(Path::new(&store), Path::new(&out));
    ok(&args);
    judged_alike(&desk, &data, &store, &out);
    // everything but what the renderer draws, which it does for concepts that it knows
    let dataset = format!("customconcept101={data}");
    let again = planned(&args, &["--dataset", &dataset]);
    assert!(again.contains("6 cells; 0 stages to run"), "{again}");
    // all of it, by patterns
    let concepts = |pattern: &str| format!("scales.default.concepts={pattern}");
    let all = planned(&args, &["--dataset", &dataset, "--set", &concepts("*")]);
    assert!(all.starts_with(' ') && all.contains("60 cells"), "{all}");
    let cats =
        planned(&args, &["--dataset", &dataset, "--set", &concepts("[\"c?t_*\", \"dog_plum\"]")]);
    assert!(cats.contains("12 cells") && cats.contains("cat_mint"), "{cats}");
    // the world has the same names
    let world = planned(&args, &["--set", &concepts("*")]);
    assert!(world.contains("70 cells"), "{world}");
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (none, set) = (concepts("dig*"), concepts("[\"dog_plumm\"]"));
    args.extend(["--dataset", &dataset, "--set"]);
    let err = ends(&[&args[..], &[none.as_str()]].concat(), 3);
    assert!(
        err.contains("no name is like `dig*`") && err.contains("scales.default.concepts"),
        "{err}"
    );
    let err = ends(&[&args[..], &[set.as_str()]].concat(), 3);
    assert!(err.contains("did you mean dog_plum"), "{err}");
}

#[test]
fn table_4_takes_the_data_set_itself() {
    let desk = Desk::new();
    let (data, store, table) =
        (desk.path("mini101"), desk.path("store"), root("experiments/table4.toml"));
    ok(&["export", "concepts", &data]);
    let run = ["run", &table, "--store", &store, "--scale", "paper", "--dry-run"];
    let dataset = format!("customconcept101={data}");
    let (theirs, _) = ok(&[&run[..], &["--dataset", &dataset]].concat());
    // three rows and three anchors on ten concepts, as many on five pairs
    assert!(theirs.contains("90 cells"), "{theirs}");
    assert!(theirs.contains("cat_dog") && theirs.contains("boat_candy"), "{theirs}");
    let (kind, path) = ("dataset.kind=customconcept101".to_owned(), format!("dataset.path={data}"));
    let (same, _) = ok(&[&run[..], &["--set", &kind, "--set", &path]].concat());
    assert_eq!(same, theirs);
    let err = refused(&[&run[..], &["--dataset", "customconcept11=x"]].concat());
    assert!(err.contains("`dataset`"), "{err}");
}

#[test]
fn a_data_set_alone_is_all_that_it_has() {
    let desk = Desk::new();
    let (data, store, file) = (desk.path("mini101"), desk.path("store"), desk.path("all.toml"));
    ok(&["export", "concepts", &data]);
    let text = "name = \"all\"\ntitle = \"all\"\nmetrics = [\"image-alignment\"]\n\
        dataset = { kind = \"customconcept101\", path = \"mini101\" }\n\
        [[rows]]\nmethod = \"custom-diffusion\"\n[scales.default]\n";
    std::fs::write(&file, text).unwrap();
    let (all, _) = ok(&["run", &file, "--store", &store, "--dry-run"]);
    // a row and three anchors on ten concepts and five pairs
    assert!(all.contains("60 cells") && all.contains("cat_dog"), "{all}");
}

/// The photographs beside the repository, where they are.
#[test]
fn photographs_of_dreambench_have_classes_and_prompts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/dreambooth");
    if !folder.is_dir() {
        eprintln!("{}: not there, nothing was tested", folder.display());
        return;
    }
    let desk = Desk::new();
    let args = small(Path::new(&desk.path("store")), Path::new(&desk.path("out")));
    let dataset = format!("dreambench={}", folder.display());
    let set = "scales.default.concepts=*";
    // mini has no words for most of the classes, which Textual Inversion would start from
    let filter = ["--filter", "method=custom-diffusion"];
    let all = planned(&args, &[&["--dataset", &dataset, "--set", set], &filter[..]].concat());
    assert!(all.contains("10 cells") && all.contains("wolf_plushie"), "{all}");
}
