//! `concept_list.json`, as the authors' training code and diffusers take it: the keys of CustomConcept101
//! without prompts.

use super::entries::{Entry, entries, key};
use super::{Dataset, Place, Reader, add};
use crate::{Error, Result};

pub(super) struct ConceptList;

impl Reader for ConceptList {
    fn name(&self) -> &'static str {
        "concept-list"
    }

    fn read(&self, place: &Place) -> Result<Dataset> {
        let file = match place.root.is_dir() {
            true => place.root.join("concept_list.json"),
            false => place.root.clone(),
        };
        if !file.is_file() {
            return Err(Error::input_hint(
                format!("{}: there is no such file", file.display()),
                "`path` is the list itself, or the folder that holds concept_list.json",
            ));
        }
        let folder = file.parent().unwrap_or(&place.root);
        let mut found = Dataset::default();
        for (at, entry) in entries::<Entry>(&file)? {
            let concept = entry.concept(place, folder, &at)?;
            add(&mut found.concepts, concept, &key(&at, "instance_data_dir"))?;
        }
        Ok(found)
    }
}
