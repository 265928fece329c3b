//! Concepts as the command line names them.

use std::path::Path;

use crate::data::{ConceptSource, FolderSource, OnCorrupt, check_category, check_name};
use crate::{Error, Result};

/// What the commands' help says of them.
pub const SYNTAX: &str = "NAME|[NAME=]FOLDER:CATEGORY";

/// Reads concepts: of the embedded world by name, or folders of pictures. Folders that are not named have
/// names of their own, made from theirs.
///
/// # Errors
/// [`Error::Input`] in the words of the command line, naming the concept.
pub fn read(texts: &[String], on_corrupt: OnCorrupt) -> Result<Vec<ConceptSource>> {
    let mut sources: Vec<ConceptSource> = vec![];
    for text in texts {
        let mut source = one(text, on_corrupt).map_err(|e| e.of(&format!("--concept {text}")))?;
        let twice = |other: &ConceptSource| match (other, &source) {
            (ConceptSource::Folder(a), ConceptSource::Folder(b)) => same(&a.path, &b.path),
            (a, b) => a == b,
        };
        if sources.iter().any(twice) {
            return Err(Error::input_hint(
                format!("--concept {text}: it is given twice"),
                "give every concept once",
            ));
        }
        let taken = |name: &str| {
            sources.iter().any(|s| s.name() == name) || texts.iter().any(|text| text == name)
        };
        if let ConceptSource::Folder(folder) = &mut source
            && taken(&folder.name)
        {
            if text.starts_with(&format!("{}=", folder.name)) {
                return Err(Error::input_hint(
                    format!("--concept {text}: another concept has this name"),
                    "give every concept a name of its own",
                ));
            }
            let free = (2..).map(|n| format!("{}-{n}", folder.name)).find(|name| !taken(name));
            folder.name = free.unwrap_or_default();
        }
        sources.push(source);
    }
    Ok(sources)
}

fn one(text: &str, on_corrupt: OnCorrupt) -> Result<ConceptSource> {
    let Some((path, category)) = text.rsplit_once(':') else {
        if Path::new(text).is_dir() || text.contains(['/', '\\', '=']) {
            return Err(Error::input_hint(
                "a folder of pictures needs its category",
                format!("put it behind a colon: {text}:dog"),
            ));
        }
        return Ok(ConceptSource::World(text.to_owned()));
    };
    // a folder may have an equals sign in its name
    let (name, path) = match path.split_once('=') {
        Some((name, rest)) if !Path::new(path).exists() => (Some(name), rest),
        _ => (None, path),
    };
    let path = Path::new(path);
    let name = match name {
        Some(name) => name.to_owned(),
        None => name_of(path),
    };
    check_name(&name)?;
    check_category(&name, category)?;
    Ok(ConceptSource::Folder(FolderSource {
        path: path.to_owned(),
        category: category.to_owned(),
        name,
        prompts: None,
        on_corrupt,
    }))
}

/// The folder's own name, of `.` and `..` too, as far as it can name a concept.
fn name_of(path: &Path) -> String {
    let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let own = full.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = own.trim_start_matches('.').chars().map(plain).take(60).collect();
    if name.is_empty() { "concept".into() } else { name }
}

fn same(a: &Path, b: &Path) -> bool {
    match (std::fs::canonicalize(a), std::fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[String]) -> Result<Vec<String>> {
        let sources = read(texts, OnCorrupt::Refuse)?;
        Ok(sources.iter().map(|s| s.name().to_owned()).collect())
    }

    #[test]
    fn folders_that_differ_have_names_that_differ() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
            format!("{}:cat", dir.path().join(name).display())
        };
        let all = ["a/images", "b/images", "我的 猫", "a=b", ".hidden"].map(folder);
        assert_eq!(names(&all).unwrap(), ["images", "images-2", "我的_猫", "a_b", "hidden"]);
        assert_eq!(names(&["dog_plum".into(), all[0].clone()]).unwrap(), ["dog_plum", "images"]);
        assert_eq!(names(&[format!("tom={}", all[0])]).unwrap(), ["tom"]);
        let dot = folder("c").replace(":cat", "/.:cat");
        assert_eq!(names(&[dot]).unwrap(), ["c"]);
        let here = std::env::current_dir().unwrap();
        let here = here.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(names(&[".:cat".into()]).unwrap(), [here]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_in_the_users_words() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().display().to_string();
        for (texts, wanted) in [
            (vec![format!("{folder}:cat"), format!("{folder}/.:dog")], "given twice"),
            (vec!["dog_plum".into(), "dog_plum".into()], "given twice"),
            (vec![folder.clone()], "needs its category"),
            (vec!["photos/cat".into()], "needs its category"),
            (vec![format!("a/b={folder}:cat")], "is no name"),
            (vec![format!("{folder}:")], "is no category"),
            (vec![format!("{folder}:<new1> cat")], "is no category"),
        ] {
            let error = names(&texts).unwrap_err();
            assert_eq!(error.exit_code(), 3);
            let said = error.to_string();
            assert!(said.contains(wanted) && said.contains("--concept "), "{texts:?}: {said}");
            assert!(error.hint().is_some(), "{said}");
        }
    }
}
