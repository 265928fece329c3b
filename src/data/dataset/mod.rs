//! Data sets as their authors publish them: a folder gives concepts with their categories, pictures and
//! prompts, and sets of concepts to compose, so that an experiment need not say them.
//!
//! To add a kind: a file with a `struct` that implements [`Reader`], and its line in [`readers`].

mod concept_list;
mod customconcept101;
mod dreambench;
mod dreambench_plus;
mod entries;
mod write;

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::concept::{FolderSource, PromptSource, check_category, check_name};
use super::picture::OnCorrupt;
use crate::error::nearest;
use crate::{Error, Result};

pub use write::{ExportedSet, write_customconcept101};

/// `[dataset]` of an experiment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetSpec {
    /// In whose layout it is: `customconcept101`, `dreambench`, `dreambench++` or `concept-list`.
    pub kind: String,
    /// Its folder.
    pub path: PathBuf,
    /// Prompts of the concepts to which the data set gives none.
    #[serde(default)]
    pub prompts: Option<PromptSource>,
    /// Whether what its files name may lie outside of its folder.
    #[serde(default)]
    pub outside: bool,
    /// What to do about a picture that cannot be read.
    #[serde(default)]
    pub on_corrupt: OnCorrupt,
}

/// What a data set has.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    /// The concepts that it evaluates one by one, in its order.
    pub concepts: Vec<FolderSource>,
    /// Concepts that only its sets have: the same pictures under another category.
    pub in_sets: Vec<FolderSource>,
    /// Concepts to compose.
    pub sets: Vec<SetSource>,
}

/// Concepts that are composed.
#[derive(Clone, Debug)]
pub struct SetSource {
    /// Its name.
    pub name: String,
    /// The names of its concepts.
    pub concepts: Vec<String>,
    /// Its prompts, with `{0}`, `{1}`, …
    pub prompts: Vec<String>,
}

/// Reads the data sets of one layout.
trait Reader: Sync {
    /// What `[dataset]` calls it.
    fn name(&self) -> &'static str;

    /// Reads what is said of the concepts; their pictures are read when they are asked for.
    fn read(&self, place: &Place) -> Result<Dataset>;
}

fn readers() -> [&'static dyn Reader; 4] {
    [
        &customconcept101::CustomConcept101,
        &dreambench::DreamBench,
        &dreambench_plus::DreamBenchPlus,
        &concept_list::ConceptList,
    ]
}

impl DatasetSpec {
    /// Reads the data set; a relative path starts at `base`.
    ///
    /// # Errors
    /// [`Error::Input`] naming file, line and key of what cannot be used; [`Error::Io`].
    pub fn read(&self, base: &Path) -> Result<Dataset> {
        let readers = readers();
        let reader = readers.iter().find(|reader| reader.name() == self.kind).ok_or_else(|| {
            let hint = nearest(&self.kind, readers.iter().map(|reader| reader.name()));
            Error::input_hint(format!("`kind`: no data set is called `{}`", self.kind), hint)
        })?;
        let root = base.join(&self.path);
        let root = std::path::absolute(&root).map_err(Error::io(&root))?;
        if !root.exists() {
            return Err(Error::input_hint(
                format!("`path`: {}: this is not there", root.display()),
                "name the folder of the data set; in a file, paths start at the file's folder",
            ));
        }
        let mut found = reader.read(&Place { root, spec: self })?;
        if found.concepts.is_empty() {
            let path = self.path.display();
            return Err(Error::input(format!("`path`: {path}: there is no concept in it")));
        }
        if let Some(prompts) = &self.prompts {
            // as of [[concepts]]: a file of prompts starts where the experiment does
            let lacking = found.concepts.iter_mut().chain(&mut found.in_sets);
            for concept in lacking.filter(|concept| concept.prompts.is_none()) {
                concept.prompts = Some(prompts.clone());
            }
        }
        Ok(found)
    }
}

/// Where a data set is, and what the user said of it.
struct Place<'a> {
    /// Absolute.
    root: PathBuf,
    spec: &'a DatasetSpec,
}

impl Place<'_> {
    /// The path that a file of the data set names, below `folder`. `at` says where it is named.
    fn path(&self, folder: &Path, given: &str, at: &str) -> Result<PathBuf> {
        let path = Path::new(given);
        let leaves =
            path.components().any(|c| !matches!(c, Component::CurDir | Component::Normal(_)));
        if given.trim().is_empty() || given.contains('\0') {
            return Err(Error::input(format!("{at}: the path is empty or none")));
        }
        if leaves && !self.spec.outside {
            return Err(Error::input_hint(
                format!("{at}: `{given}` leads out of the data set's folder"),
                "if you trust the file, allow it: outside = true in [dataset]",
            ));
        }
        let plain = path.components().filter(|c| !matches!(c, Component::CurDir));
        Ok(folder.join(plain.collect::<PathBuf>()))
    }

    /// A concept whose pictures are in `path`, a folder or one picture, once they are known to be there.
    fn concept(
        &self,
        name: &str,
        category: &str,
        path: PathBuf,
        prompts: Option<Vec<String>>,
        at: &str,
    ) -> Result<FolderSource> {
        check_name(name).and_then(|()| check_category(name, category)).map_err(|e| e.of(at))?;
        let wrong = |what: &str| {
            Error::input_hint(
                format!("{at}: {}: {what}", path.display()),
                "the whole data set is wanted, unpacked beside the file that names it",
            )
        };
        if !path.exists() {
            return Err(wrong("there is no such folder"));
        }
        if path.is_dir() && path.read_dir().map_err(Error::io(&path))?.next().is_none() {
            return Err(wrong("the folder is empty"));
        }
        Ok(FolderSource {
            path,
            category: category.trim().to_owned(),
            name: name.to_owned(),
            prompts: prompts.map(PromptSource::List),
            on_corrupt: self.spec.on_corrupt,
        })
    }
}

/// The last folder of a path: what concepts are called after.
fn last_name(path: &Path, at: &str) -> Result<String> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    name.ok_or_else(|| Error::input(format!("{at}: `{}` names no folder", path.display())))
}

/// Adds a concept, unless there is one of its name.
fn add(all: &mut Vec<FolderSource>, concept: FolderSource, at: &str) -> Result<()> {
    // names become folders: on some systems case does not tell them apart
    let lower = concept.name.to_lowercase();
    if let Some(other) = all.iter().find(|other| other.name.to_lowercase() == lower) {
        return Err(Error::input_hint(
            format!("{at}: the concept `{}` is there twice", other.name),
            "concepts are called after their folders: rename one of the folders, or delete the entry",
        ));
    }
    all.push(concept);
    Ok(())
}

#[cfg(test)]
mod tests;
