//! The embedded world as a corpus.

use image::RgbImage;

use super::{Corpus, past_the_end};
use crate::Result;
use crate::data::concept::scene_image;
use crate::data::{hash, picture_hash};
use crate::world;

/// Scenes of the embedded world.
pub struct WorldCorpus {
    corpus: world::Corpus,
    identity: String,
}

impl WorldCorpus {
    /// The scenes from which regularisation images are retrieved.
    pub fn retrieval() -> Self {
        Self::new(world::Corpus::retrieval(), "retrieval")
    }

    /// Scenes that neither training nor retrieval sees.
    pub fn validation() -> Self {
        Self::new(world::Corpus::validation(), "validation")
    }

    fn new(corpus: world::Corpus, name: &str) -> Self {
        // a change of the grammar or of the renderer makes another corpus
        let captions = (0..corpus.len()).filter_map(|i| corpus.caption(i));
        let look = (0..8).filter_map(|i| Some(picture_hash(&scene_image(&corpus.get(i)?))));
        let hash = hash(captions.chain(look));
        WorldCorpus { identity: format!("mini {name} {}", &hash[..16]), corpus }
    }
}

impl Corpus for WorldCorpus {
    fn len(&self) -> usize {
        self.corpus.len()
    }

    fn caption(&self, index: usize) -> Option<String> {
        self.corpus.caption(index)
    }

    fn picture(&self, index: usize) -> Result<RgbImage> {
        let scene = self.corpus.get(index);
        let scene = scene.ok_or_else(|| past_the_end("mini", index, self.corpus.len()))?;
        Ok(scene_image(&scene))
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }
}
