//! `cdbench evaluate --protocol` against the benchmarks' own formulas, from folders of pictures to printed
//! numbers: `tests/golden/protocols.py` says how the values were made.

mod common;
mod desk;

use std::collections::BTreeMap;
use std::fs;

use common::path;
use desk::{Desk, both, refused};

/// The table's means, by what they are called, and stderr.
fn evaluated(args: &[&str]) -> (BTreeMap<String, f64>, String) {
    let (clip, dino, dinov2) =
        (path("clip_towers/patch8"), path("vit_towers/dino"), path("vit_towers/dinov2"));
    let (dino, dinov2) = (format!("dino={dino}"), format!("dinov2={dinov2}"));
    let own = ["--clip", &clip, "--extractor", &dino, "--extractor", &dinov2];
    let (out, err) = both(&[&["evaluate"], args, &own].concat());
    let line = |line: &str| {
        let mut fields = line.split('\t');
        let title = fields.next()?.to_owned();
        Some((title, fields.next()?.parse().ok()?))
    };
    (out.lines().skip(1).filter_map(line).collect(), err)
}

#[track_caller]
fn assert_golden(protocol: &str, found: &BTreeMap<String, f64>) {
    let text = fs::read_to_string(path("protocols.json")).unwrap();
    let all: BTreeMap<String, BTreeMap<String, f64>> = serde_json::from_str(&text).unwrap();
    let wanted = &all[protocol];
    let titles = |of: &BTreeMap<String, f64>| of.keys().cloned().collect::<Vec<_>>();
    assert_eq!(titles(found), titles(wanted));
    for (title, value) in wanted {
        // what is printed has five digits
        let scale = if *value > 2.0 { 100.0 } else { 1.0 };
        assert!((found[title] - value).abs() < 2e-4 * scale, "{title}: {} {value}", found[title]);
    }
}

/// Copies a golden picture.
fn put(desk: &Desk, name: &str, to: &str) {
    let to = desk.dir.path().join(to);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(path(&format!("clip_towers/{name}.png")), to).unwrap();
}

fn write(desk: &Desk, file: &str, text: &str) {
    let file = desk.dir.path().join(file);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

#[test]
fn customconcept101_has_the_factor_all_pairs_and_prompts_without_tokens() {
    let desk = Desk::new();
    for (i, name) in ["wide", "high", "small", "wide"].iter().enumerate() {
        put(&desk, name, &format!("out/samples/{i}.png"));
    }
    let prompts = r#"{"0": "a <new1> dog in the snow", "1": "<new1> dog, a watercolor",
        "2": "a <new1> dog in the snow", "3": "<new1> dog, a watercolor"}"#;
    write(&desk, "out/prompts.json", prompts);
    for (folder, name) in [("a", "small"), ("a", "high"), ("b", "wide")] {
        put(&desk, name, &format!("{folder}/{name}.png"));
    }
    let (out, a, b) = (desk.path("out"), desk.path("a"), desk.path("b"));
    let protocol = ["--protocol", "customconcept101"];
    let args = [&out, "--targets", &a, "--targets", &b];
    let (found, err) = evaluated(&[&args[..], &protocol].concat());
    assert_golden("customconcept101", &found);
    assert!(err.contains("evaluate.py"), "{err}");

    // only what there is a network for
    let (found, err) = both(&[&["evaluate"], &args[..], &protocol].concat());
    assert!(!found.contains("DINO") && err.contains("--extractor dino=DIR"), "{found}{err}");
    assert!(err.contains("mini judge stands in"), "{err}");
    assert!(refused(&["evaluate", &out, "--protocol", "customconcept101"]).contains("--targets"));
    let err = refused(&["evaluate", &out, "--targets", &a, "--protocol", "customconcept11"]);
    assert!(err.contains("did you mean customconcept101"), "{err}");
}

#[test]
fn dreambench_is_a_mean_over_subjects_without_a_factor() {
    let desk = Desk::new();
    let said = "subject_name,class\nvase,vase\ndog2,dog\n\nObject Prompts\n[\n'a {0} {1}'.format(u, c),\n]\n\
        Live Prompts\n[\n'a {0} {1}'.format(u, c),\n]\n";
    write(&desk, "data/prompts_and_classes.txt", said);
    for (subject, samples, prompts, targets) in [
        (
            "vase",
            ["wide", "high"],
            r#"{"0": "a sks vase in the jungle", "1": "a red sks vase"}"#,
            &["small", "wide"][..],
        ),
        (
            "dog2",
            ["small", "wide"],
            r#"{"0": "a sks dog in the jungle", "1": "a red sks dog"}"#,
            &["high"],
        ),
    ] {
        for (i, name) in samples.iter().enumerate() {
            put(&desk, name, &format!("out/{subject}/samples/{i}.png"));
        }
        write(&desk, &format!("out/{subject}/prompts.json"), prompts);
        for name in targets {
            put(&desk, name, &format!("data/{subject}/{name}.png"));
        }
    }
    let (out, data) = (desk.path("out"), desk.path("data"));
    let args = [&out, "--dataset", &data, "--protocol", "dreambench", "--token", "sks"];
    assert_golden("dreambench", &evaluated(&args).0);

    fs::rename(desk.path("out/dog2"), desk.path("out/dog3")).unwrap();
    let err = refused(&["evaluate", &out, "--dataset", &data, "--protocol", "dreambench"]);
    assert!(err.contains("`dog3`") && err.contains("did you mean dog2"), "{err}");
    assert!(refused(&["evaluate", &out, "--protocol", "dreambench"]).contains("--dataset"));
}

#[test]
fn dreambench_plus_plus_has_a_source_for_each_image() {
    let desk = Desk::new();
    for (at, source, sample, text) in [
        ("object_00_vase/0_0", "small", "wide", "a vase on a table"),
        ("object_00_vase/1_0", "small", "high", "a glass vase"),
        ("animal_01_dog/0_0", "high", "small", "a dog asleep"),
    ] {
        put(&desk, source, &format!("run/src_image/{at}.png"));
        put(&desk, sample, &format!("run/tgt_image/{at}.png"));
        write(&desk, &format!("run/text/{at}.txt"), text);
    }
    let run = desk.path("run");
    let args = [run.as_str(), "--protocol", "dreambench++"];
    assert_golden("dreambench++", &evaluated(&args).0);

    let lost = desk.path("run/text/animal_01_dog/0_0.txt");
    fs::remove_file(&lost).unwrap();
    let err = refused(&[&["evaluate"], &args[..]].concat());
    assert!(err.contains("animal_01_dog/0_0 has nothing in text/"), "{err}");
    fs::write(&lost, "a dog").unwrap();
    fs::remove_file(desk.path("run/tgt_image/object_00_vase/1_0.png")).unwrap();
    let err = refused(&[&["evaluate"], &args[..]].concat());
    assert!(err.contains("has nothing in tgt_image/"), "{err}");
}
