//! Custom Diffusion with all weights of the UNet, the paper's ablation of what to train (section 4.1).

use super::{Method, Profile, Recipe, Settings, defaults, joint};

/// See the module.
pub(super) struct FineTuneAll;

impl Method for FineTuneAll {
    fn name(&self) -> &'static str {
        "fine-tune-all"
    }

    fn title(&self) -> &'static str {
        "Custom Diffusion w/ fine-tune all"
    }

    fn about(&self) -> &'static str {
        "Custom Diffusion that trains the whole UNet"
    }

    fn defaults(&self, profile: Profile, concepts: usize) -> Settings {
        defaults::fine_tune_all(profile, concepts)
    }

    fn recipe(&self, concepts: &[String], settings: &Settings, seed: u64) -> Recipe {
        joint(concepts, settings, seed)
    }
}
