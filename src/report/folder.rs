//! A report's folder: whole reports take each other's place, and what is not theirs is left alone.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::{Error, Result, safefile};

/// Names the files of the report that is in the folder.
const LIST: &str = "files.json";
/// What reports had that were written before they named their files, beside `grids/*.png`.
const UNLISTED: [&str; 13] = [
    "README.md",
    "concepts-multi.csv",
    "concepts-single.csv",
    "differences.csv",
    "images.csv",
    "report.json",
    "results.csv",
    "room.csv",
    "scatter.png",
    "scatter.svg",
    "table.csv",
    "table.md",
    "table.tex",
];

/// A folder while a report is written into it.
pub struct Folder<'a> {
    root: &'a Path,
    names: RefCell<BTreeSet<String>>,
}

impl<'a> Folder<'a> {
    /// The folder `root`, which need not be there.
    pub fn new(root: &'a Path) -> Self {
        Folder { root, names: RefCell::default() }
    }

    /// Where it is.
    pub fn root(&self) -> &'a Path {
        self.root
    }

    /// Where to write a file of the report.
    pub fn file(&self, name: impl Into<String>) -> PathBuf {
        let name = name.into();
        let path = self.root.join(&name);
        self.names.borrow_mut().insert(name);
        path
    }

    /// The files so far.
    pub fn names(&self) -> Vec<String> {
        self.names.borrow().iter().cloned().collect()
    }

    /// Removes what the report before had and this one has not.
    ///
    /// # Errors
    /// A file that cannot be removed or written.
    pub fn finish(self) -> Result<()> {
        let names = self.names.into_inner();
        for name in listed(self.root)?.difference(&names) {
            let path = self.root.join(name);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(&path)(e));
                }
                _ => {}
            }
        }
        // gone if nothing is left in them
        for name in ["grids", "attention", "page/images", "page/sheets", "page"] {
            let _ = std::fs::remove_dir(self.root.join(name));
        }
        let text = serde_json::to_string_pretty(&names).unwrap_or_default();
        safefile::write(&self.root.join(LIST), text + "\n")
    }
}

/// The files of the report that is in a folder: none where there is none.
fn listed(root: &Path) -> Result<BTreeSet<String>> {
    let path = root.join(LIST);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(unlisted(root)),
        Err(e) => return Err(Error::io(&path)(e)),
    };
    let names: BTreeSet<String> = serde_json::from_str(&text).unwrap_or_default();
    // whatever the file says, nothing outside the folder is touched
    let inside =
        |name: &String| Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    Ok(names.into_iter().filter(inside).collect())
}

fn unlisted(root: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if !root.join("report.json").is_file() {
        return names;
    }
    names.extend(UNLISTED.map(str::to_owned));
    for entry in std::fs::read_dir(root.join("grids")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".png") {
            names.insert(format!("grids/{name}"));
        }
    }
    names
}

/// What the report in a folder is of, as its `report.json` says: experiment and scale.
pub fn report_of(folder: &Path) -> Option<(String, String)> {
    let text = std::fs::read_to_string(folder.join("report.json")).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    let of = |key: &str| value.get(key)?.as_str().map(str::to_owned);
    Some((of("experiment")?, of("scale")?))
}
