//! The forms of a report that other programs read.

#[allow(dead_code)] // not every test uses all of it
mod fixture;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use cdbench::report::{Format, ImageRow, Pictures, Results, render, render_as};
use fixture::{IMAGE, TEXT, results};
use image::RgbImage;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;

struct Black;

impl Pictures for Black {
    fn sample(&self, _: &ImageRow) -> Option<RgbImage> {
        Some(RgbImage::new(8, 8))
    }

    fn targets(&self, _: &str) -> Vec<RgbImage> {
        vec![]
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn json_has_all_of_it_and_says_null_where_there_is_no_number() {
    let dir = tempfile::tempdir().unwrap();
    let results = results(1, 0.0);
    render_as(&[Format::Json], &results, &Black, dir.path()).unwrap();
    let text = std::fs::read_to_string(dir.path().join("results.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["protocol"], "a1b2c3");
    assert_eq!(json["cells"].as_array().unwrap().len(), results.cells.len());
    assert_eq!(json["images"].as_array().unwrap().len(), results.images.len());
    let at = results.cells.iter().position(|c| c.concepts.len() == 2).unwrap();
    let (cell, wanted) = (&json["cells"][at], &results.cells[at]);
    let mean = wanted.values[IMAGE].estimate().mean;
    assert_eq!(cell["values"][IMAGE]["mean"].as_f64(), Some(mean));
    assert_eq!(cell["values"][IMAGE]["parts"].as_array().unwrap().len(), 2);
    let kid =
        json["cells"].as_array().unwrap().iter().find_map(|c| c["values"].get("kid")).unwrap();
    assert!(kid["se"].is_number() && kid["counts"]["real images"] == 1000, "{kid}");

    // one prompt: nothing tells how sure the mean is
    let mut single = results.clone();
    single.images.retain(|image| image.prompt == 0);
    for cell in &mut single.cells {
        let own: Vec<&ImageRow> = single.images.iter().filter(|i| i.cell == cell.id).collect();
        cell.measure(&own);
    }
    render_as(&[Format::Json], &single, &Black, dir.path()).unwrap();
    let text = std::fs::read_to_string(dir.path().join("results.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(json["cells"][0]["values"][TEXT]["se"].is_null());
}

#[test]
fn parquet_has_the_columns_of_the_csv_with_types() {
    let dir = tempfile::tempdir().unwrap();
    let results = results(1, 0.0);
    render_as(&[Format::Parquet], &results, &Black, dir.path()).unwrap();
    let read =
        |name: &str| SerializedFileReader::new(File::open(dir.path().join(name)).unwrap()).unwrap();
    let file = read("results.parquet");
    let header = std::fs::read_to_string(dir.path().join("results.csv")).unwrap();
    let columns: Vec<&str> = header.lines().next().unwrap().split(',').collect();
    let schema = file.metadata().file_metadata().schema_descr();
    let found: Vec<&str> = schema.columns().iter().map(|c| c.name()).collect();
    assert_eq!(found, columns);

    let rows: Vec<_> = file.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), results.cells.len());
    for (row, cell) in rows.iter().zip(&results.cells) {
        let of = |name: &str| {
            let found = row.get_column_iter().find(|(column, _)| column.as_str() == name);
            found.map(|(_, field)| field.clone()).unwrap()
        };
        assert_eq!(of("label"), Field::Str(cell.label.clone()));
        assert_eq!(of("anchor"), Field::Bool(cell.anchor));
        assert_eq!(of("steps"), Field::ULong(cell.steps));
        let value = |name: &str| cell.values.get(name).map(|value| value.estimate().mean);
        for name in [TEXT, IMAGE, "kid"] {
            assert_eq!(of(name), value(name).map_or(Field::Null, Field::Double), "{name}");
        }
    }
    assert_eq!(read("images.parquet").get_row_iter(None).unwrap().count(), results.images.len());
}

#[test]
fn a_report_has_the_forms_that_were_asked_for_and_can_be_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let results = results(1, 0.0);
    render(&results, &Black, dir.path()).unwrap();
    std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    render_as(&[Format::Md, Format::Json], &results, &Black, dir.path()).unwrap();
    let found = names(dir.path());
    for (name, there) in [
        ("README.md", true),
        ("table.md", true),
        ("grids", true),
        ("results.json", true),
        ("results.csv", true),
        ("notes.txt", true),
        ("index.html", false),
        ("page", false),
        ("table.tex", false),
        ("table.csv", false),
    ] {
        assert_eq!(found.contains(name), there, "{name}: {found:?}");
    }
    let readme = std::fs::read_to_string(dir.path().join("README.md")).unwrap();
    assert!(readme.contains("results.json") && !readme.contains("index.html"), "{readme}");
    assert_eq!(Results::read(dir.path()).unwrap(), results);
}
