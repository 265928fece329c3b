//! The embedded captioned world: 64 × 64 pictures of everyday objects, each with a caption from a
//! small grammar and the structured truth behind both. Everything follows from a seed and an index.
//!
//! Art: Twemoji, copyright Twitter, Inc and other contributors, licensed CC-BY 4.0
//! (<https://creativecommons.org/licenses/by/4.0/>); recoloured, patterned and composed here.

mod backdrop;
mod canvas;
mod color;
mod concepts;
mod grammar;
mod look;
mod names;
mod preview;
mod reading;
mod render;
mod sample;
mod spec;
mod sprite;
mod style;
mod truth;

use rayon::prelude::*;

pub use color::{ColorWord, Hsv, distance};
pub use concepts::{Concept, KEPT, Pair, TARGETS, concepts, is_held_out, pairs, tuning_concepts};
pub use grammar::{MAX_WORDS, vocabulary};
pub use look::{asks_for_own_looks, shows};
pub use names::{Name, RARE_TOKENS, names};
pub use preview::{preview, preview_concepts, sheet};
pub use render::render;
pub use sample::WorldConfig;
pub use spec::{
    Background, Category, ObjectSpec, Pattern, PatternKind, Relation, Said, SceneSpec, SizeWord,
    Style,
};
pub use truth::{rendered_truth, true_scene};

use crate::rng::Rng;

/// Side of a scene in pixels.
pub const SIZE: usize = 64;

/// A picture with its caption and what is true of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// `SIZE` × `SIZE` × 3 bytes, row by row, red first.
    pub image: Vec<u8>,
    /// At most [`MAX_WORDS`] words of [`vocabulary`].
    pub caption: String,
    /// The structured truth.
    pub spec: SceneSpec,
}

impl Scene {
    /// Renders `spec`.
    pub fn new(spec: SceneSpec, caption: String) -> Self {
        Scene { image: render(&spec), caption, spec }
    }

    /// Scene `index` of the endless sequence `seed`: independent of every other, so any range can
    /// be made on any number of threads.
    pub fn sample(config: &WorldConfig, seed: u64, index: u64) -> Self {
        Split::Train.scene(config, seed, index)
    }

    /// Specification and caption of [`Scene::sample`] without the picture.
    pub fn sample_spec(config: &WorldConfig, seed: u64, index: u64) -> (SceneSpec, String) {
        Split::Train.spec(config, seed, index)
    }

    /// Two scenes that show the same instance of `category`, a photo of it alone and another, number
    /// `index` of the sequence `seed`.
    pub fn two_views(config: &WorldConfig, category: Category, seed: u64, index: u64) -> [Self; 2] {
        let mut rng = Rng::new(seed, &format!("world views {index}"));
        let views = sample::two_views(config, category, &mut rng);
        views.map(|(spec, caption)| Scene::new(spec, caption))
    }

    /// Many scenes of [`Scene::sample`], made in parallel on the current rayon pool.
    pub fn sample_range(config: &WorldConfig, seed: u64, range: std::ops::Range<u64>) -> Vec<Self> {
        range.into_par_iter().map(|i| Scene::sample(config, seed, i)).collect()
    }
}

/// What a sequence of scenes is for. Sequences of different splits are different random streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Pretraining.
    Train,
    /// The captioned set from which real regularisation images are retrieved.
    Corpus,
    /// The real side of KID, and accuracies of the judge.
    Validation,
}

impl Split {
    fn spec(self, config: &WorldConfig, seed: u64, index: u64) -> (SceneSpec, String) {
        let name = match self {
            Split::Train => "train",
            Split::Corpus => "corpus",
            Split::Validation => "validation",
        };
        sample::sample(config, &mut Rng::new(seed, &format!("world {name} {index}")))
    }

    /// Scene `index` of this split's sequence `seed`.
    pub fn scene(self, config: &WorldConfig, seed: u64, index: u64) -> Scene {
        let (spec, caption) = self.spec(config, seed, index);
        Scene::new(spec, caption)
    }
}

/// A fixed set of captioned scenes with random access.
#[derive(Clone, Debug)]
pub struct Corpus {
    config: WorldConfig,
    split: Split,
    len: usize,
}

impl Corpus {
    /// The 20 000 scenes from which real regularisation images are retrieved (the place that LAION
    /// has in the paper, section 3.2).
    pub fn retrieval() -> Self {
        Corpus { config: WorldConfig::default(), split: Split::Corpus, len: 20_000 }
    }

    /// 5 000 scenes that neither training nor retrieval sees: the real side of KID.
    pub fn validation() -> Self {
        Corpus { config: WorldConfig::default(), split: Split::Validation, len: 5_000 }
    }

    /// How many scenes there are.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.len
    }

    /// The caption of scene `index`, without rendering it; `None` past the end.
    pub fn caption(&self, index: usize) -> Option<String> {
        (index < self.len).then(|| self.split.spec(&self.config, 0, index as u64).1)
    }

    /// Scene `index`; `None` past the end.
    pub fn get(&self, index: usize) -> Option<Scene> {
        (index < self.len).then(|| self.split.scene(&self.config, 0, index as u64))
    }
}

#[cfg(test)]
mod tests;
