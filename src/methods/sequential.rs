//! Custom Diffusion, one concept after the other: the paper's third way to several concepts, which
//! forgets the first ones (section 4.2). Tokens learnt before stay as they are.

use std::ops::RangeInclusive;

use super::{MOST_CONCEPTS, Method, Profile, Recipe, Settings, defaults};

/// See the module.
pub(super) struct Sequential;

impl Method for Sequential {
    fn name(&self) -> &'static str {
        "sequential"
    }

    fn title(&self) -> &'static str {
        "Custom Diffusion (Sequential)"
    }

    fn about(&self) -> &'static str {
        "Custom Diffusion on one concept, then on the next from there"
    }

    fn concepts(&self) -> RangeInclusive<usize> {
        2..=MOST_CONCEPTS
    }

    fn defaults(&self, profile: Profile, _: usize) -> Settings {
        defaults::custom_diffusion(profile, 1)
    }

    fn recipe(&self, concepts: &[String], settings: &Settings, seed: u64) -> Recipe {
        concepts.iter().zip(1..).fold(Recipe::Pretrained, |from, (concept, number)| Recipe::Train {
            from: Box::new(from),
            concepts: vec![concept.clone()],
            settings: settings.clone(),
            seed,
            tokens: vec![number],
        })
    }
}
