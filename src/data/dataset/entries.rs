//! Lists of concepts in JSON, as CustomConcept101, the authors' code and diffusers have them.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::prompt::read_prompts;
use super::{FolderSource, Place, check_category, last_name};
use crate::{Error, Result, readfile};

const MAX_FILE: u64 = 16 << 20;
/// More entries are taken for a mistake.
const MAX_ENTRIES: usize = 100_000;

/// What is said of a concept. Other keys, such as `class_data_dir`, are of no use here.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub class_prompt: String,
    pub instance_data_dir: String,
    pub prompt_filename: Option<String>,
}

/// The entries of a list, each with where it stands. They are read one by one, so that errors have lines.
pub(super) fn entries<T: DeserializeOwned>(file: &Path) -> Result<Vec<(String, T)>> {
    let text = readfile::text(file, MAX_FILE)?;
    let line = |at: usize| 1 + text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count();
    let place = |line: usize| format!("{}: line {line}", file.display());
    let bad = |at: usize, what: &str| Err(Error::input(format!("{}: {what}", place(line(at)))));
    let behind_space = |at: usize| text.len() - text[at..].trim_start().len();
    let mut found = vec![];
    let mut at = behind_space(0);
    if !text[at..].starts_with('[') {
        return bad(at, "a list [{…}, …] of concepts is wanted");
    }
    at = behind_space(at + 1);
    while !text[at..].starts_with(']') {
        if found.len() == MAX_ENTRIES {
            return bad(at, &format!("more than {MAX_ENTRIES} entries"));
        }
        let mut stream = serde_json::Deserializer::from_str(&text[at..]).into_iter::<T>();
        match stream.next() {
            Some(Ok(value)) => found.push((place(line(at)), value)),
            Some(Err(e)) => {
                // serde_json counts lines from where it began
                let said = e.to_string();
                let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said);
                return Err(Error::input(format!("{}: {said}", place(line(at) + e.line() - 1))));
            }
            None => return bad(at, "the list has no end"),
        }
        at = behind_space(at + stream.byte_offset());
        match text[at..].chars().next() {
            Some(',') => at = behind_space(at + 1),
            Some(']') => {}
            _ => return bad(at, "a comma or the list's end is wanted"),
        }
    }
    match text[at + 1..].trim().is_empty() {
        true => Ok(found),
        false => bad(at, "something follows behind the list"),
    }
}

impl Entry {
    /// The category: `class_prompt` is the class word, in front of which some write how it is shown.
    pub fn category(&self) -> &str {
        let whole = self.class_prompt.trim();
        let openings = ["a photo of", "photo of", "a", "an"];
        let bare = openings.iter().fold(whole, |rest, opening| {
            let cut = rest.strip_prefix(opening).filter(|behind| behind.starts_with(' '));
            cut.map_or(rest, str::trim_start)
        });
        if bare.is_empty() { whole } else { bare }
    }

    /// The concept, called after its folder.
    pub fn concept(&self, place: &Place, folder: &Path, at: &str) -> Result<FolderSource> {
        let path = place.path(folder, &self.instance_data_dir, &key(at, "instance_data_dir"))?;
        let name = last_name(&path, &key(at, "instance_data_dir"))?;
        self.named(&name, place, folder, at)
    }

    /// The concept under a name.
    pub fn named(
        &self,
        name: &str,
        place: &Place,
        folder: &Path,
        at: &str,
    ) -> Result<FolderSource> {
        let path = place.path(folder, &self.instance_data_dir, &key(at, "instance_data_dir"))?;
        check_category(name, self.category()).map_err(|e| e.of(&key(at, "class_prompt")))?;
        let read = |file: &String| {
            prompts(place, folder, file, &[self.category().into()], &key(at, "prompt_filename"))
        };
        let prompts = self.prompt_filename.as_ref().map(read).transpose()?;
        place.concept(name, self.category(), path, prompts, &key(at, "instance_data_dir"))
    }
}

/// Where a key of an entry stands.
pub(super) fn key(at: &str, key: &str) -> String {
    format!("{at}: `{key}`")
}

/// The prompts of a file that an entry names. A file whose prompts have no places at all is one of
/// concepts that need no token, such as CustomConcept101's moongate: its prompts say the category.
pub(super) fn prompts(
    place: &Place,
    folder: &Path,
    given: &str,
    categories: &[String],
    at: &str,
) -> Result<Vec<String>> {
    let file = place.path(folder, given, at)?;
    if !file.is_file() {
        return Err(Error::input_hint(
            format!("{at}: {}: there is no such file", file.display()),
            "it holds the concept's evaluation prompts, one a line, with {} where the concept goes",
        ));
    }
    let says = |text: &str| {
        let text = text.to_lowercase();
        categories.iter().all(|category| text.contains(&category.to_lowercase()))
    };
    let read =
        read_prompts(&file, categories.len()).or_else(|error| match read_prompts(&file, 0) {
            Ok(plain) if plain.iter().all(|prompt| says(prompt.template())) => Ok(plain),
            _ => Err(error),
        });
    let read = read.map_err(|e| e.of(at))?;
    Ok(read.iter().map(|prompt| prompt.template().to_owned()).collect())
}
