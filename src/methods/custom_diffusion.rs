//! Custom Diffusion (section 3.2): keys and values of cross attention and the modifier token, with real
//! class images. Several concepts train jointly, each with a token of its own (section 3.3).

use super::{Method, Profile, Recipe, Settings, defaults, joint};

/// See the module.
pub(super) struct CustomDiffusion;

impl Method for CustomDiffusion {
    fn name(&self) -> &'static str {
        "custom-diffusion"
    }

    fn title(&self) -> &'static str {
        "Custom Diffusion"
    }

    fn about(&self) -> &'static str {
        "trains keys and values of cross attention and a token; concepts together"
    }

    fn defaults(&self, profile: Profile, concepts: usize) -> Settings {
        defaults::custom_diffusion(profile, concepts)
    }

    fn recipe(&self, concepts: &[String], settings: &Settings, seed: u64) -> Recipe {
        joint(concepts, settings, seed)
    }
}
