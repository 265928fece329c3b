//! What is learnt and what it is measured on: concepts, prompts, regularisation images.

mod augment;
mod captions;
mod concept;
mod corpus;
mod picture;
mod prompt;
mod retrieval;

pub use augment::{Augmented, PREFIXES_FAR, PREFIXES_NEAR, augment, fit, place, shown_mask};
pub use concept::{
    Concept, ConceptSource, FolderSource, PromptSource, load_concepts, pair_prompts, world_pair,
};
pub use corpus::{Corpus, FileCorpus, WebDataset, WorldCorpus, corpus};
pub use picture::{OnCorrupt, Picture, picture_hash, read_pictures};
pub use prompt::{Prompt, read_prompts};
pub use retrieval::{Entry, Manifest, class_pictures, retrieve};

use sha2::{Digest, Sha256};

/// The hint of an error about an unknown name: the known names that look most like it, or all of them
/// where there are few.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    if known.is_empty() {
        return "there is nothing to choose from".into();
    }
    let distance = |k: &str| strsim::osa_distance(&name.to_lowercase(), &k.to_lowercase());
    known.sort_by_key(|k| distance(k));
    let close = known.iter().take_while(|k| distance(k) <= 1 + name.chars().count() / 3).count();
    match close {
        0 => format!("there are {}", known[..known.len().min(20)].join(", ")),
        close => format!("did you mean {}?", known[..close.min(3)].join(" or ")),
    }
}

/// Lowercase SHA-256 of fields, each with its length, so that no two lists of fields look alike.
pub(crate) fn hash<B: AsRef<[u8]>>(fields: impl IntoIterator<Item = B>) -> String {
    let mut digest = Sha256::new();
    for field in fields {
        digest.update((field.as_ref().len() as u64).to_le_bytes());
        digest.update(field);
    }
    format!("{:x}", digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_offered_and_far_ones_listed() {
        let known = ["dog_plum", "cat_mint", "car_bee"];
        assert_eq!(nearest("dog_plumm", known), "did you mean dog_plum?");
        assert_eq!(nearest("Cat-mint", known), "did you mean cat_mint?");
        assert!(nearest("zebra", known).contains("car_bee"));
    }

    #[test]
    fn hashes_tell_where_fields_end() {
        assert_ne!(hash(["ab", "c"]), hash(["a", "bc"]));
        assert_eq!(hash(["a"]).len(), 64);
    }
}
