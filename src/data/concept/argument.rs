//! Concepts as a command line names them.

use std::path::{Component, Path, PathBuf};

use super::{ConceptSource, FolderSource, check_category, check_name, fits_a_name};
use crate::data::OnCorrupt;
use crate::world;
use crate::{Error, Result};

/// Letters of a name that is made from a path.
const MAX_NAME: usize = 64;

/// What one argument says.
enum Argument {
    World(String),
    Folder { name: Option<String>, path: PathBuf, category: String },
}

/// The concepts that arguments name: one of the embedded world by its name, a folder of pictures as
/// `FOLDER:CATEGORY` or `NAME=FOLDER:CATEGORY`. A folder without a name is called after itself, with as
/// many of the folders above it as it takes to tell it from the others.
///
/// # Errors
/// [`Error::Input`] for a folder without a category, a name or category that cannot be one, and what is
/// named twice.
pub fn named_concepts(arguments: &[String], on_corrupt: OnCorrupt) -> Result<Vec<ConceptSource>> {
    let parsed = arguments.iter().map(|a| parse(a)).collect::<Result<Vec<_>>>()?;
    let names = names(&parsed)?;
    for (i, name) in names.iter().enumerate() {
        let same = |j: usize| {
            names[j].to_lowercase() == name.to_lowercase() || same_folder(&parsed[j], &parsed[i])
        };
        if (0..i).any(same) {
            return Err(Error::input_hint(
                format!("the concept `{}` is named twice", arguments[i]),
                "name each once; NAME=FOLDER:CATEGORY gives a folder a name of its own",
            ));
        }
    }
    let sources = parsed.into_iter().zip(names).map(|(argument, name)| match argument {
        Argument::World(name) => ConceptSource::World(name),
        Argument::Folder { path, category, .. } => {
            ConceptSource::Folder(FolderSource { path, category, name, prompts: None, on_corrupt })
        }
    });
    Ok(sources.collect())
}

fn parse(text: &str) -> Result<Argument> {
    if world::concepts().iter().any(|c| c.name == text) {
        return Ok(Argument::World(text.to_owned()));
    }
    let (folder, category) = match text.rsplit_once(':') {
        Some((folder, category)) => (folder, Some(category)),
        None => (text, None),
    };
    // a folder's own name may have the sign that stands behind a given one
    let given = folder
        .split_once('=')
        .filter(|(name, _)| !name.contains(['/', '\\']) && !Path::new(folder).is_dir());
    let (name, path) = match given {
        Some((name, path)) => (Some(name.to_owned()), Path::new(path)),
        None => (None, Path::new(folder)),
    };
    match category {
        Some(category) => {
            if let Some(name) = &name {
                check_name(name)?;
            }
            check_category(text, category)?;
            let (path, category) = (path.to_owned(), category.trim().to_owned());
            Ok(Argument::Folder { name, path, category })
        }
        None if name.is_some() || text.contains(['/', '\\']) || path.is_dir() => {
            Err(Error::input_hint(
                format!("`{text}`: a folder of pictures needs its category"),
                format!("say what they show: {text}:cat, say"),
            ))
        }
        None => Ok(Argument::World(text.to_owned())),
    }
}

/// Whether both are of one folder, whatever they are called.
fn same_folder(one: &Argument, other: &Argument) -> bool {
    let full = |argument: &Argument| match argument {
        Argument::World(_) => None,
        Argument::Folder { path, .. } => path.canonicalize().ok(),
    };
    full(one).is_some_and(|path| full(other) == Some(path))
}

/// A name for each argument. Two are the same only if both were given or both are of the same folder.
fn names(arguments: &[Argument]) -> Result<Vec<String>> {
    let above = |argument: &Argument| match argument {
        Argument::Folder { name: None, path, .. } => above(path),
        _ => Ok(vec![]),
    };
    let above = arguments.iter().map(above).collect::<Result<Vec<_>>>()?;
    let mut depths = vec![1; arguments.len()];
    loop {
        let name = |(i, argument): (usize, &Argument)| match argument {
            Argument::World(name) | Argument::Folder { name: Some(name), .. } => name.clone(),
            Argument::Folder { .. } => joined(&above[i][..depths[i]]),
        };
        let mut names: Vec<String> = arguments.iter().enumerate().map(name).collect();
        let lower: Vec<String> = names.iter().map(|n| n.to_lowercase()).collect();
        let alike = |i: usize, j: usize| i != j && lower[i] == lower[j] && above[i] != above[j];
        let shared: Vec<usize> =
            (0..names.len()).filter(|&i| (0..names.len()).any(|j| alike(i, j))).collect();
        let longer: Vec<usize> =
            shared.iter().copied().filter(|&i| depths[i] < above[i].len()).collect();
        if longer.is_empty() {
            // different folders whose letters are the same once others are replaced
            for (number, i) in shared.into_iter().filter(|i| !above[*i].is_empty()).enumerate() {
                names[i] = format!("{}-{}", names[i], number + 1);
            }
            return Ok(names);
        }
        longer.into_iter().for_each(|i| depths[i] += 1);
    }
}

/// A folder's name and those of the folders above it, the nearest first.
fn above(path: &Path) -> Result<Vec<String>> {
    // `.` and `..` are called as they really are
    let full = match path.file_name() {
        Some(_) => std::path::absolute(path).map_err(Error::io(path))?,
        None => path
            .canonicalize()
            .map_err(|_| Error::input(format!("{}: there is no such folder", path.display())))?,
    };
    let names = full.components().rev().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    let mut names: Vec<String> = names.collect();
    if names.is_empty() {
        names.push("root".into());
    }
    Ok(names)
}

/// One name of these, given the nearest first.
fn joined(names: &[String]) -> String {
    let all = names.iter().rev().map(String::as_str).collect::<Vec<_>>().join("-");
    let plain: Vec<char> = all.chars().map(|c| if fits_a_name(c) { c } else { '_' }).collect();
    plain[plain.len().saturating_sub(MAX_NAME - 4)..].iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(arguments: &[&str]) -> Result<Vec<String>> {
        let arguments: Vec<String> = arguments.iter().map(|a| a.to_string()).collect();
        let sources = named_concepts(&arguments, OnCorrupt::Refuse)?;
        Ok(sources.iter().map(|s| s.name().to_owned()).collect())
    }

    #[test]
    fn names_differ_where_folders_do() {
        assert_eq!(named(&["photos/my_cat:cat"]).unwrap(), ["my_cat"]);
        assert_eq!(named(&["a/images/:cat", "b/images:dog"]).unwrap(), ["a-images", "b-images"]);
        assert_eq!(named(&["x/a/i:cat", "y/a/i:cat", "i:dog"]).unwrap()[..2], ["x-a-i", "y-a-i"]);
        assert_eq!(named(&["猫/Ünï:cat", "犬:dog"]).unwrap(), ["Ünï", "犬"]);
        // a name as macOS writes it, the accent a letter of its own
        assert_eq!(named(&["e\u{301}:cat"]).unwrap(), ["e\u{301}"]);
        let alike = named(&["/my cat:cat", "/my_cat:cat"]).unwrap();
        assert_eq!(alike, ["my_cat-1", "my_cat-2"]);
        assert_eq!(named(&["dog_plum", "/dog_plum:dog"]).unwrap(), ["dog_plum", "dog_plum-1"]);
        assert_eq!(named(&["dog_plum", "x=photos/a:cat"]).unwrap(), ["dog_plum", "x"]);
        let long = named(&[&format!("/{}:cat", "ü".repeat(200))]).unwrap();
        check_name(&long[0]).unwrap();
    }

    #[test]
    fn the_folder_one_is_in_has_its_real_name() {
        let here = std::env::current_dir().unwrap();
        let last = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(named(&[".:cat"]).unwrap(), [joined(&[last(&here)])]);
        let parent = here.parent().unwrap();
        assert_eq!(named(&["..:cat"]).unwrap(), [joined(&[last(parent)])]);
    }

    #[test]
    fn errors_have_the_words_of_the_user() {
        for (arguments, wanted) in [
            (&["photos/cat"][..], "photos/cat"),
            (&["x=cat"], "x=cat"),
            (&["a b=photos/cat:cat"], "a b"),
            (&["dog_plum", "dog_plum"], "dog_plum"),
            (&["a/i:cat", "./a/i:dog"], "./a/i:dog"),
            (&["x=a:cat", "X=b:cat"], "X=b:cat"),
            (&["nowhere/..:cat"], "nowhere/.."),
            (&["src:"], "src:"),
            (&["src:<new1> cat"], "src:<new1> cat"),
            (&["x=src:cat", "y=./src:dog"], "y=./src:dog"),
        ] {
            let error = named(arguments).unwrap_err();
            assert_eq!(error.exit_code(), 3);
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }

    #[test]
    fn a_folder_may_have_an_equals_sign_in_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a=b");
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(named(&[&format!("{}:cat", folder.display())]).unwrap(), ["a_b"]);
    }
}
