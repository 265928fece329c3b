//! The backbone as it is: what every method is measured against.

use super::{Method, Profile, Recipe, Settings, defaults};

/// See the module.
pub(super) struct Pretrained;

impl Method for Pretrained {
    fn name(&self) -> &'static str {
        "pretrained"
    }

    fn title(&self) -> &'static str {
        "Pretrained"
    }

    fn about(&self) -> &'static str {
        "the backbone as it is, prompted with the category"
    }

    /// None of them is used.
    fn defaults(&self, profile: Profile, concepts: usize) -> Settings {
        defaults::custom_diffusion(profile, concepts)
    }

    fn recipe(&self, _: &[String], _: &Settings, _: u64) -> Recipe {
        Recipe::Pretrained
    }
}
