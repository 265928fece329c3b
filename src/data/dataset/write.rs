//! Concepts as a folder in CustomConcept101's layout, for the programs of others.

use std::path::Path;

use serde_json::{Value, json};

use super::customconcept101::{CONCEPTS, SETS};
use crate::data::{Concept, Prompt};
use crate::drawing::write_png;
use crate::{Result, safefile};

/// Concepts, of those that are written, to compose.
pub struct ExportedSet {
    /// Its name.
    pub name: String,
    /// The numbers of its concepts.
    pub concepts: Vec<usize>,
    /// Its prompts.
    pub prompts: Vec<Prompt>,
}

/// Where a concept's pictures are.
const PICTURES: &str = "benchmark_dataset";

/// Writes concepts and sets of them into a folder. What is there of an earlier export is written over.
///
/// # Errors
/// [`crate::Error::Io`].
pub fn write_customconcept101(
    folder: &Path,
    concepts: &[Concept],
    sets: &[ExportedSet],
) -> Result<()> {
    for concept in concepts {
        let pictures = folder.join(PICTURES).join(&concept.name);
        for (i, target) in concept.targets.iter().enumerate() {
            write_png(&pictures.join(format!("{i:02}.png")), &target.image)?;
        }
        write_prompts(folder, &concept.name, &concept.prompts)?;
    }
    let entry = |number: usize, token: usize| {
        let concept = &concepts[number];
        json!({
            "instance_prompt": format!("photo of a <new{token}> {}", concept.category),
            "class_prompt": concept.category,
            "instance_data_dir": format!("./{PICTURES}/{}", concept.name),
            "class_data_dir": format!("./regularization/{}", concept.category.replace(' ', "_")),
            "prompt_filename": prompt_file(&concept.name),
        })
    };
    let all: Vec<Value> = (0..concepts.len()).map(|number| entry(number, 1)).collect();
    save(&folder.join(CONCEPTS), &all)?;
    let mut composed = vec![];
    for set in sets {
        write_prompts(folder, &set.name, &set.prompts)?;
        let members = set.concepts.iter().zip(1..).map(|(&number, token)| entry(number, token));
        let mut parts: Vec<Value> = members.collect();
        parts.push(json!({
            "prompt_filename_compose": prompt_file(&set.name),
            "name": set.name,
        }));
        composed.push(Value::Array(parts));
    }
    save(&folder.join(SETS), &composed)
}

fn prompt_file(name: &str) -> String {
    format!("prompts/{name}.txt")
}

fn write_prompts(folder: &Path, name: &str, prompts: &[Prompt]) -> Result<()> {
    let lines: String = prompts.iter().map(|prompt| format!("{}\n", prompt.template())).collect();
    safefile::write(&folder.join(prompt_file(name)), lines)
}

fn save(file: &Path, entries: &[Value]) -> Result<()> {
    let text = serde_json::to_string_pretty(entries).unwrap_or_default();
    safefile::write(file, text + "\n")
}
