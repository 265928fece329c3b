//! What is learnt and what it is measured on: concepts, prompts, regularisation images.

mod augment;
mod captions;
mod clutter;
mod concept;
mod corpus;
mod dataset;
mod picture;
mod prompt;
mod retrieval;

pub use augment::{
    Augmented, PAPER_SIZES, PREFIXES_FAR, PREFIXES_NEAR, augment, fit, place, shown_mask,
};
pub use captions::CaptionFeatures;
pub(crate) use clutter::{attention_beside, is_clutter};
pub use concept::{
    Concept, ConceptSource, FolderSource, PromptSource, check_category, check_name, load_concepts,
    named_concepts, pair_prompts, scene_image, world_pair,
};
pub use corpus::{Corpus, FileCorpus, WebDataset, WorldCorpus, corpus};
pub use dataset::{Dataset, DatasetSpec, ExportedSet, SetSource, write_customconcept101};
pub(crate) use picture::read_picture;
pub use picture::{OnCorrupt, Picture, picture_hash, read_pictures};
pub use prompt::{Prompt, numbered_tokens, read_prompts, read_prompts_json, without_tokens};
pub use retrieval::{Entry, Manifest, class_pictures, retrieve, spread};

use sha2::{Digest, Sha256};

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
    fn hashes_tell_where_fields_end() {
        assert_ne!(hash(["ab", "c"]), hash(["a", "bc"]));
        assert_eq!(hash(["a"]).len(), 64);
    }
}
