//! Textual Inversion (Gal et al. 2022, arXiv:2208.01618): a token for the concept, no weights. Concepts
//! are learnt one by one, and prompts of several use their tokens side by side.

use super::{Method, Profile, Recipe, Settings, defaults, separate};

/// See the module.
pub(super) struct TextualInversion;

impl Method for TextualInversion {
    fn name(&self) -> &'static str {
        "textual-inversion"
    }

    fn title(&self) -> &'static str {
        "Textual Inversion"
    }

    fn about(&self) -> &'static str {
        "learns a token in the place of the category word; no weight moves"
    }

    fn defaults(&self, profile: Profile, _: usize) -> Settings {
        defaults::textual_inversion(profile)
    }

    fn recipe(&self, concepts: &[String], settings: &Settings, seed: u64) -> Recipe {
        separate(concepts, settings, seed)
    }
}
