//! The images that are asked for: of which prompts, with which seeds, in which files.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::key::{Key, hex};

/// Where regularisation images come from.
#[derive(Clone, Debug)]
pub enum ClassImages {
    /// There are none.
    None,
    /// Retrieved, by this stage.
    Real(usize),
    /// Sampled, by this stage.
    Generated(usize, Images),
}

/// What images are asked for by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// The evaluation prompts.
    #[default]
    Prompts,
    /// The evaluation prompts with the bare category in the concept's place.
    ClassWords,
    /// Captions that have nothing to do with the concept.
    Unrelated,
}

impl Asked {
    /// As data have it; nothing for the evaluation prompts.
    pub fn as_str(self) -> &'static str {
        match self {
            Asked::Prompts => "",
            Asked::ClassWords => "class words",
            Asked::Unrelated => "unrelated captions",
        }
    }
}

/// The images that are compared with real ones.
#[derive(Clone, Debug)]
pub enum Side {
    /// Sampled by this stage.
    Samples(usize, Images),
    /// Retrieved by this stage, from another corpus.
    Real(usize),
    /// The concept's targets.
    Targets,
}

/// Images to sample.
#[derive(Clone, Debug)]
pub enum Images {
    /// Prompts with seeds.
    Listed(Vec<(String, u64)>),
    /// One for each caption that a retrieval found.
    CaptionsOf {
        /// The retrieval.
        stage: usize,
        /// How many captions, from the first.
        count: usize,
        /// Of the run.
        seed: u64,
    },
}

impl Images {
    /// How many there will be at most.
    pub fn count(&self) -> usize {
        match self {
            Images::Listed(all) => all.len(),
            Images::CaptionsOf { count, .. } => *count,
        }
    }

    /// What the images depend on besides the model.
    pub(super) fn meaning(&self, key: &mut dyn FnMut(usize) -> Key) -> Value {
        match self {
            Images::Listed(all) => json!(all),
            Images::CaptionsOf { stage, count, seed } => {
                json!({ "captions_of": key(*stage), "count": count, "seed": seed })
            }
        }
    }
}

/// The seed of image `j` of prompt `i`: the same for every method, whatever the number of images. Seeds
/// of any size give images of their own.
pub fn image_seed(seed: u64, i: usize, j: usize) -> u64 {
    // what is below has room for all images of a small seed; larger ones are spread by a hash
    let first = match seed {
        0..SMALL_SEEDS => seed << 40,
        _ => u64::from_str_radix(&hex(format!("images of seed {seed}"))[..16], 16).unwrap_or(seed),
    };
    first.wrapping_add((i as u64) << 20).wrapping_add(j as u64)
}

/// The first seed of generated regularisation images: evaluation images are not among the training
/// images, since theirs are below for small seeds.
pub const GENERATED_SEEDS: u64 = SMALL_SEEDS << 40;
const SMALL_SEEDS: u64 = 1 << 16;

/// The file of an image in its folder.
pub fn image_file(prompt: &str, seed: u64) -> String {
    format!("{}-{seed}.png", &hex(prompt)[..12])
}

/// The file of where an image attends to words.
pub fn attention_file(prompt: &str, seed: u64) -> String {
    format!("{}-{seed}.attention.safetensors", &hex(prompt)[..12])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_any_seed_have_seeds_of_their_own() {
        let seeds = [0, 1, 2, 65_535, 65_536, 1 << 24, 1 << 40, u64::MAX - 1, u64::MAX];
        let all: std::collections::HashSet<u64> = seeds
            .into_iter()
            .flat_map(|s| (0..20).flat_map(move |i| (0..50).map(move |j| image_seed(s, i, j))))
            .collect();
        assert_eq!(all.len(), seeds.len() * 20 * 50);
        assert!((0..1000).all(|i| !all.contains(&(GENERATED_SEEDS + i))));
        assert_eq!(image_seed(3, 2, 1), (3 << 40) + (2 << 20) + 1, "as stores have them");
    }
}
