//! A report's folder: whole reports take each other's place, and what is not theirs stays.

#[allow(dead_code)] // not every test uses all of it
mod fixture;

use std::collections::BTreeSet;
use std::path::Path;

use cdbench::report::{ImageRow, Pictures, Results, render, render_tables};
use fixture::results;
use image::RgbImage;

fn write(results: &Results, out: &Path) {
    struct Black;
    impl Pictures for Black {
        fn sample(&self, _: &ImageRow) -> Option<RgbImage> {
            Some(RgbImage::new(8, 8))
        }

        fn targets(&self, _: &str) -> Vec<RgbImage> {
            vec![]
        }
    }
    render(results, &Black, out).unwrap();
}

fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.path().is_dir() {
            true => found.extend(files(&entry.path()).iter().map(|n| format!("{name}/{n}"))),
            false => drop(found.insert(name)),
        }
    }
    found
}

/// The first concept alone, at another scale.
fn part() -> Results {
    let mut part = results(1, 0.0);
    part.scale = "small".into();
    part.cells.retain(|c| c.concepts == ["dog_plum"]);
    part.images.retain(|i| part.cells.iter().any(|c| c.id == i.cell));
    part
}

#[test]
fn nothing_of_another_report_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let alone = dir.path().join("alone");
    write(&part(), &alone);

    let mixed = dir.path().join("mixed");
    write(&results(1, 0.0), &mixed);
    assert!(files(&mixed).contains("grids/cat_mint.png"));
    let own = ["FINDINGS.default.md", "notes.csv", "grids/mine.txt"];
    for name in own {
        std::fs::write(mixed.join(name), "mine").unwrap();
    }
    write(&part(), &mixed);
    let mut wanted = files(&alone);
    wanted.extend(own.map(str::to_owned));
    assert_eq!(files(&mixed), wanted);

    // a report that was written before reports named their files
    std::fs::remove_file(mixed.join("grids/mine.txt")).unwrap();
    write(&results(1, 0.0), &mixed);
    std::fs::remove_file(mixed.join("files.json")).unwrap();
    write(&part(), &mixed);
    wanted.remove("grids/mine.txt");
    assert_eq!(files(&mixed), wanted);
}

#[test]
fn a_list_of_files_that_names_others_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let (out, victim) = (dir.path().join("out"), dir.path().join("victim.txt"));
    std::fs::write(&victim, "mine").unwrap();
    write(&part(), &out);
    let list = format!("[\"../victim.txt\", \"{}\", \"README.md\"]", victim.display());
    std::fs::write(out.join("files.json"), list).unwrap();
    write(&part(), &out);
    assert!(victim.is_file());
}

#[test]
fn a_report_without_pictures_shows_none() {
    let dir = tempfile::tempdir().unwrap();
    write(&results(1, 0.0), dir.path());
    render_tables(&part(), dir.path()).unwrap();
    let readme = std::fs::read_to_string(dir.path().join("README.md")).unwrap();
    assert!(readme.contains("## Table") && !readme.contains(".png"), "{readme}");
    assert!(!files(dir.path()).iter().any(|name| name.ends_with(".png")));
    assert_eq!(Results::read(dir.path()).unwrap(), part());
}
