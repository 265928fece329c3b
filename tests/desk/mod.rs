//! A folder to work in, and the program, as a person would use them.
#![allow(dead_code)] // not every test uses all of it

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub fn cdbench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cdbench")).args(args).output().unwrap()
}

/// Runs, and returns stdout and stderr of a run that must succeed.
#[track_caller]
pub fn both(args: &[&str]) -> (String, String) {
    let output = cdbench(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{args:?}: {}\n{err}", output.status);
    (out, err)
}

#[track_caller]
pub fn ok(args: &[&str]) -> String {
    both(args).0
}

/// Runs, and returns stderr of a run that must end with `code`.
#[track_caller]
pub fn ends(args: &[&str], code: i32) -> String {
    let output = cdbench(args);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
    assert!(!err.contains("panicked"), "{err}");
    err
}

#[track_caller]
pub fn refused(args: &[&str]) -> String {
    ends(args, 3)
}

pub struct Desk {
    pub dir: tempfile::TempDir,
}

impl Desk {
    pub fn new() -> Self {
        Desk { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// A training of two steps.
    pub fn train<'a>(
        &self,
        method: &'a str,
        concept: &'a str,
        out: &'a str,
        store: &'a str,
    ) -> Vec<&'a str> {
        let mut args = vec!["train", method, "--concept", concept, "-o", out, "--store", store];
        args.extend(["--set", "steps=2", "--set", "class_images=4"]);
        args
    }

    /// A folder with one photograph.
    pub fn photos(&self, name: &str) -> String {
        let folder = self.dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let image = image::RgbImage::from_fn(70, 50, |x, y| image::Rgb([x as u8, 90, y as u8]));
        image.save(folder.join("a.png")).unwrap();
        folder.display().to_string()
    }
}

pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut found: Vec<PathBuf> =
        entries.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}
