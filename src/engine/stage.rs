//! A stage: a pure function of its inputs, whose result is kept under the hash of what it means.

use serde_json::{Value, json};

use super::cell::CellKind;
use super::key::Key;
use crate::methods::{MergeSettings, Modifier, Settings};
use crate::metrics::Chosen;
use crate::spec::SamplingSpec;

/// What a stage makes; also its folder in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A list of pictures of a corpus.
    Retrieval,
    /// What a training or a merge changed.
    Checkpoint,
    /// Images.
    Samples,
    /// Metrics, image by image.
    Scores,
}

impl Kind {
    /// Its folder in the store.
    pub fn folder(self) -> &'static str {
        match self {
            Kind::Retrieval => "retrieval",
            Kind::Checkpoint => "checkpoints",
            Kind::Samples => "samples",
            Kind::Scores => "scores",
        }
    }
}

/// A node of the plan.
#[derive(Clone, Debug)]
pub struct Stage {
    /// What it makes.
    pub kind: Kind,
    /// For people, and to find what it was before.
    pub name: String,
    /// The hash of `meaning`.
    pub key: Key,
    /// Where its files are: its own key, but for samples, which share the folder of their checkpoint
    /// and sampler, so that a larger scale finds the images of a smaller one.
    pub folder: Key,
    /// Everything that the result depends on.
    pub meaning: Value,
    /// The stages it needs, all before it in the plan.
    pub inputs: Vec<usize>,
    /// What is done.
    pub work: Work,
}

/// What a stage does. Numbers are those of stages in the plan.
#[derive(Clone, Debug)]
pub enum Work {
    /// Finds the pictures of a corpus whose captions are nearest to the queries.
    Retrieve {
        /// `mini`, a folder, …
        corpus: String,
        /// The captions asked for.
        queries: Vec<String>,
        /// How many.
        count: usize,
        /// The least similarity.
        threshold: f32,
    },
    /// Trains.
    Train {
        /// The checkpoint it starts from, if not the backbone.
        from: Option<usize>,
        /// Names of the concepts.
        concepts: Vec<String>,
        /// Where each concept's regularisation images are.
        class: Vec<ClassImages>,
        /// The method's options.
        settings: Settings,
        /// Numbers of the modifier tokens.
        tokens: Vec<usize>,
        /// Of noise and batches.
        seed: u64,
    },
    /// Merges checkpoints in closed form.
    Merge {
        /// Checkpoints, one a concept.
        parts: Vec<usize>,
        /// Names of the concepts.
        concepts: Vec<String>,
        /// How each is called.
        modifiers: Vec<Modifier>,
        /// Options.
        settings: MergeSettings,
        /// Where the regularisation captions are from.
        corpus: String,
    },
    /// Samples images.
    Sample {
        /// The checkpoint, if not the backbone.
        checkpoint: Option<usize>,
        /// Which images.
        images: Images,
        /// How.
        sampling: SamplingSpec,
    },
    /// Measures a cell.
    Score(ScoreWork),
}

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

/// What is measured, and against what.
#[derive(Clone, Debug)]
pub struct ScoreWork {
    /// The metrics.
    pub metrics: Vec<Chosen>,
    /// Whose images.
    pub kind: CellKind,
    /// The concepts.
    pub concepts: Vec<String>,
    /// The images of the evaluation prompts, but for anchors of real images.
    pub samples: Option<(usize, Images)>,
    /// The prompts without modifier tokens, as CLIP sees them.
    pub texts: Vec<String>,
    /// Of which prompt each image is.
    pub groups: Vec<usize>,
    /// What is compared with real images, and the stage that found those.
    pub real: Option<(Side, usize)>,
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
        /// Its key.
        key: Key,
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

    /// What they mean.
    pub fn meaning(&self) -> Value {
        match self {
            Images::Listed(all) => json!(all),
            Images::CaptionsOf { key, count, seed, .. } => {
                json!({ "captions_of": key, "count": count, "seed": seed })
            }
        }
    }
}

/// The seed of image `j` of prompt `i`: the same for every method, whatever the number of images.
pub fn image_seed(seed: u64, i: usize, j: usize) -> u64 {
    seed.wrapping_mul(1 << 40).wrapping_add((i as u64) << 20).wrapping_add(j as u64)
}

/// The file of an image in its folder.
pub fn image_file(prompt: &str, seed: u64) -> String {
    format!("{}-{seed}.png", &super::key::hex(prompt)[..12])
}
