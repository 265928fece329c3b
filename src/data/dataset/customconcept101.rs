//! CustomConcept101 (the authors' data set): `dataset.json` lists concepts, `dataset_multiconcept.json`
//! pairs, both name files below the folder.

use serde::Deserialize;

use super::entries::{Entry, entries, key, prompts};
use super::{Dataset, Place, Reader, SetSource, add};
use crate::{Error, Result};

pub(super) struct CustomConcept101;

pub(super) const CONCEPTS: &str = "dataset.json";
pub(super) const SETS: &str = "dataset_multiconcept.json";

/// A member of a pair's list: a concept, or behind them the prompts of all.
#[derive(Deserialize)]
struct Part {
    class_prompt: Option<String>,
    instance_data_dir: Option<String>,
    prompt_filename: Option<String>,
    prompt_filename_compose: Option<String>,
    /// The pair's: this program's own key. Without it a pair is called after its concepts.
    name: Option<String>,
}

impl Reader for CustomConcept101 {
    fn name(&self) -> &'static str {
        "customconcept101"
    }

    fn read(&self, place: &Place) -> Result<Dataset> {
        let mut found = Dataset::default();
        let file = place.root.join(CONCEPTS);
        if !file.is_file() {
            return Err(Error::input_hint(
                format!("{}: there is no such file", file.display()),
                "`path` is the folder that holds dataset.json, prompts/ and benchmark_dataset/",
            ));
        }
        for (at, entry) in entries::<Entry>(&file)? {
            let concept = entry.concept(place, &place.root, &at)?;
            add(&mut found.concepts, concept, &key(&at, "instance_data_dir"))?;
        }
        let file = place.root.join(SETS);
        if file.is_file() {
            for (at, parts) in entries::<Vec<Part>>(&file)? {
                let set = set(place, &mut found, parts, &at)?;
                found.sets.push(set);
            }
        }
        Ok(found)
    }
}

fn set(place: &Place, found: &mut Dataset, parts: Vec<Part>, at: &str) -> Result<SetSource> {
    let mut parts = parts;
    let wrong = |what: &str| {
        Error::input_hint(
            format!("{at}: {what}"),
            "a pair is [{concept}, {concept}, {\"prompt_filename_compose\": \"prompts/….txt\"}]",
        )
    };
    let last = parts.pop().ok_or_else(|| wrong("the pair is empty"))?;
    let Some(file) = last.prompt_filename_compose else {
        return Err(wrong("its last part has no `prompt_filename_compose`"));
    };
    let (mut names, mut categories) = (vec![], vec![]);
    for part in parts {
        let (Some(class_prompt), Some(instance_data_dir)) =
            (part.class_prompt, part.instance_data_dir)
        else {
            return Err(wrong("a concept lacks `class_prompt` or `instance_data_dir`"));
        };
        let prompt_filename = part.prompt_filename;
        let entry = Entry { class_prompt, instance_data_dir, prompt_filename };
        names.push(member(place, found, &entry, at)?);
        categories.push(entry.category().to_owned());
    }
    if names.len() < 2 {
        return Err(wrong("it has fewer than two concepts"));
    }
    let key = key(at, "prompt_filename_compose");
    let prompts = prompts(place, &place.root, &file, &categories, &key)?;
    let name = last.name.unwrap_or_else(|| named_after(&names, found));
    Ok(SetSource { name, concepts: names, prompts })
}

/// The name of a pair's concept: one of `dataset.json`, unless the pair gives it another category, as the
/// data set does with a chair that is called a sofa.
fn member(place: &Place, found: &mut Dataset, entry: &Entry, at: &str) -> Result<String> {
    let concept = entry.concept(place, &place.root, at)?;
    let same = |other: &&super::FolderSource| {
        other.path == concept.path && other.category == concept.category
    };
    if let Some(known) = found.concepts.iter().chain(&found.in_sets).find(same) {
        return Ok(known.name.clone());
    }
    let taken = found.concepts.iter().any(|other| other.name == concept.name);
    let name = match taken {
        true => format!("{}-{}", concept.name, concept.category.replace(' ', "_")),
        false => concept.name,
    };
    let concept = entry.named(&name, place, &place.root, at)?;
    add(&mut found.in_sets, concept, &key(at, "instance_data_dir"))?;
    Ok(name)
}

/// The concepts' names, as far as a name is long, and a number where another pair is called so.
fn named_after(names: &[String], found: &Dataset) -> String {
    /// Letters of a name, but for a number behind it.
    const LONGEST: usize = 60;
    let whole: String = names.join("-").chars().take(LONGEST).collect();
    let taken = |name: &String| found.sets.iter().any(|set| set.name == *name);
    let numbered = (2..).map(|n| format!("{whole}-{n}"));
    std::iter::once(whole.clone()).chain(numbered).find(|name| !taken(name)).unwrap_or(whole)
}
