//! Where results go besides the report: event files of TensorBoard, files for CI, model cards.

mod small;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use prost::Message;
use small::{BINARY, cdbench, ok, root, small};

/// What an event file says, in the words of its format.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    number: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded: Vec<u8>,
}

/// The events of a run's only file.
fn events(folder: &Path) -> Vec<Event> {
    let files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|e| e.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    let [file] = &files[..] else { panic!("one file is wanted: {files:?}") };
    let bytes = fs::read(file).unwrap();
    let (mut found, mut rest) = (vec![], &bytes[..]);
    while rest.len() > 12 {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        if rest.len() < 16 + length {
            break;
        }
        found.push(Event::decode(&rest[12..12 + length]).unwrap());
        rest = &rest[16 + length..];
    }
    found.retain(|event| event.summary.is_some());
    found
}

fn steps(events: &[Event]) -> Vec<i64> {
    events.iter().map(|event| event.step).collect()
}

#[test]
fn a_log_that_is_asked_for_later_has_everything_and_says_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, board) = (dir.path().join("store"), dir.path().join("board"));
    let mut args = small(&store, &dir.path().join("report"));
    args.extend(["--filter".into(), "method=custom-diffusion".into()]);
    ok(&args);
    args.push(format!("--log=tensorboard={}", board.display()));
    let (_, err) = ok(&args);
    assert!(err.contains(&format!("tensorboard --logdir {}", board.display())), "{err}");

    let run = board.join("Custom Diffusion/dog_plum/seed 0");
    let training = events(&run.join("training"));
    let last = *steps(&training).last().unwrap();
    assert!(last >= 2, "{last}");
    assert_eq!(steps(&training), (1..=last).collect::<Vec<_>>());
    let tags = |event: &Event| -> Vec<String> {
        event.summary.iter().flat_map(|s| &s.values).map(|v| v.tag.clone()).collect()
    };
    for tag in ["training/loss", "training/learning rate", "training/gradient norm"] {
        assert!(tags(&training[0]).contains(&tag.to_owned()), "{:?}", tags(&training[0]));
    }
    let cell = events(&run);
    assert_eq!(steps(&cell), [last]);
    assert!(tags(&cell[0]).contains(&"measures/text-alignment".to_owned()), "{:?}", tags(&cell[0]));
    let image = cell[0].summary.iter().flat_map(|s| &s.values).find_map(|v| v.image.as_ref());
    let image = image.expect("a sample");
    assert_eq!(image::load_from_memory(&image.encoded).unwrap().height() as i32, image.height);

    // again: the same files, untouched
    let files = |folder: &Path| fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    let before: Vec<PathBuf> = files(&run.join("training"));
    ok(&args);
    assert_eq!(files(&run.join("training")), before);
}

#[cfg(unix)]
#[test]
fn an_interrupted_training_has_each_step_once_when_it_went_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut args = small(&store, &dir.path().join("report"));
    args.extend(["--filter", "method=custom-diffusion", "--log", "tensorboard"].map(str::to_owned));
    args.extend(["--set", "scales.default.train_steps=0.4"].map(str::to_owned));
    let training =
        store.join("tensorboard/smoke/default/Custom Diffusion/dog_plum/seed 0/training");
    let mut child = Command::new(BINARY)
        .args(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // points are there while it trains
    while !training.is_dir() || events(&training).len() < 5 {
        assert!(child.try_wait().unwrap().is_none(), "it was to be interrupted");
        std::thread::sleep(Duration::from_millis(20));
    }
    unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGINT) };
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let first = events(&training);

    ok(&args);
    let whole = events(&training);
    let last = *steps(&whole).last().unwrap();
    assert!(last > first.len() as i64, "{last}");
    assert_eq!(steps(&whole), (1..=last).collect::<Vec<_>>());
    assert_eq!(whole[..first.len()], first, "what was done before was not done again");
}

#[test]
fn a_check_leaves_files_for_ci_whatever_it_ends_with() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut args = small(&store, &dir.path().join("report"));
    let path = |name: &str| dir.path().join(name).display().to_string();
    args[0] = "check".into();
    args.extend(["--filter".into(), "method=custom-diffusion".into()]);
    args.extend(["--baseline".into(), path("baseline.json")]);
    let update = [&args[..], &["--update".to_owned()]].concat();
    ok(&update);
    args.extend(["--junit".into(), path("check.xml"), "--summary".into(), path("summary.md")]);
    let counts = || -> BTreeMap<String, String> {
        let text = fs::read_to_string(path("check.xml")).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        let attributes = document.root_element().attributes();
        attributes.map(|a| (a.name().to_owned(), a.value().to_owned())).collect()
    };
    ok(&args);
    assert!(counts()["failures"] == "0" && counts()["tests"] != "0", "{:?}", counts());
    assert!(fs::read_to_string(path("summary.md")).unwrap().contains("passed"));

    // a baseline whose images were all far better
    let text = fs::read_to_string(path("baseline.json")).unwrap();
    let mut baseline: serde_json::Value = serde_json::from_str(&text).unwrap();
    for cell in baseline["cells"].as_array_mut().unwrap() {
        for value in cell["images"]["text-alignment"].as_array_mut().into_iter().flatten() {
            *value = (value.as_f64().unwrap() + 1.0).into();
        }
    }
    fs::write(path("baseline.json"), baseline.to_string()).unwrap();
    assert_eq!(cdbench(&args).status.code(), Some(8));
    assert_ne!(counts()["failures"], "0");
    let summary = fs::read_to_string(path("summary.md")).unwrap();
    assert!(summary.contains("passed") && summary.contains("❌ worse"), "added to: {summary}");

    // and a run that did not come to compare anything
    args.extend(["--set".into(), "rows.2.settings.lr=1e30".into()]);
    assert_eq!(cdbench(&args).status.code(), Some(6));
    assert_eq!((counts()["errors"].as_str(), counts()["tests"].as_str()), ("1", "1"));
    assert!(fs::read_to_string(path("summary.md")).unwrap().contains("diverged"));
}

#[test]
fn a_checkpoint_comes_with_a_card_that_stays_when_it_is_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let train = [
        "train",
        "custom-diffusion",
        "--concept",
        "dog_plum",
        "--set",
        "steps=2",
        "--set",
        "regularization=none",
        "--store",
        &path("store"),
        "-o",
        &path("dog"),
    ]
    .map(str::to_owned);
    ok(&train);
    let card = fs::read_to_string(path("dog/README.md")).unwrap();
    for wanted in
        ["\\<new1\\> dog", "| steps | 2 |", "Base model: mini", "instance_prompt: \"photo"]
    {
        assert!(card.contains(wanted), "{wanted}: {card}");
    }
    // the same checkpoint again leaves the licence that somebody chose
    fs::write(path("dog/README.md"), card.replace("# Written", "license: mit\n# Written")).unwrap();
    ok(&train);
    assert!(fs::read_to_string(path("dog/README.md")).unwrap().contains("license: mit"));

    ok(&["convert", &path("dog"), &path("other"), "--to", "diffusers"]);
    let converted = fs::read_to_string(path("other/README.md")).unwrap();
    assert!(converted.contains("library_name: \"diffusers\"") && converted.contains("dog\\_plum"));
    // what the store has says as much
    let checkpoints = dir.path().join("store/checkpoints");
    let stored = fs::read_dir(checkpoints).unwrap().next().unwrap().unwrap().path();
    ok(&["convert", stored.to_str().unwrap(), &path("delta.bin"), "--to", "authors"]);
    let beside = fs::read_to_string(path("delta.bin.md")).unwrap();
    assert!(beside.contains("| steps | 2 |") && beside.contains("dog\\_plum"), "{beside}");
}

#[test]
fn completions_know_options_and_shells() {
    for (shell, wanted) in
        [("bash", "--tracking-uri"), ("zsh", "#compdef cdbench"), ("fish", "-l log")]
    {
        let (script, _) = ok(&["completions", shell]);
        assert!(script.contains(wanted), "{shell}");
    }
    assert_eq!(cdbench(&["completions", "cmd"]).status.code(), Some(2));
    assert!(Path::new(&root("docs/ci.md")).is_file(), "help names it");
}
