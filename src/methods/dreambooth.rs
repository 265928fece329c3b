//! DreamBooth (Ruiz et al. 2023, arXiv:2208.12242), as the paper compares with it: the whole UNet, a rare
//! identifier that does not train, prior preservation with the model's own samples.

use super::{Method, Profile, Recipe, Settings, defaults, joint};

/// See the module.
pub(super) struct DreamBooth;

impl Method for DreamBooth {
    fn name(&self) -> &'static str {
        "dreambooth"
    }

    fn title(&self) -> &'static str {
        "DreamBooth"
    }

    fn about(&self) -> &'static str {
        "trains the whole UNet on a rare word, with generated class images"
    }

    fn defaults(&self, profile: Profile, concepts: usize) -> Settings {
        defaults::dreambooth(profile, concepts)
    }

    fn recipe(&self, concepts: &[String], settings: &Settings, seed: u64) -> Recipe {
        joint(concepts, settings, seed)
    }
}
