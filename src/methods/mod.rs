//! The methods: one file each, one trait, one registry.
//!
//! A [`Method`] is a name, its default [`Settings`] and a [`Recipe`]: what to train from what, what to
//! merge. It computes nothing itself. [`train`] and [`merge`] follow recipes and give a [`Delta`], what
//! has changed of the backbone, which is stored, applied and taken back.
//!
//! To add a method: a file with a `struct` that implements [`Method`], and its line in [`registry`].

mod compress;
mod constrained;
mod custom_diffusion;
mod defaults;
mod delta;
mod description;
mod dreambooth;
mod files;
mod fine_tune_all;
mod memory;
mod merge;
mod pretrained;
mod recipe;
mod sequential;
mod settings;
mod task;
mod textual_inversion;
mod tokens;
mod train;

use std::ops::RangeInclusive;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::nearest;
use crate::{Error, Result};

pub use compress::{Compression, Factors, compress};
pub use constrained::{Problem, Solved};
pub use delta::{Delta, Undo, weight_changes};
pub use description::{Description, Learnt, remove_checkpoint};
pub use files::refuse_other_weights;
pub use memory::{Conditions, Memory, Sizes};
pub use merge::{MergeReport, MergeSettings, Part, merge};
pub use recipe::{Recipe, class_prompt, instance_prompt, phrase, token};
pub use settings::{Modifier, Regularization, Settings};
pub use tokens::{start_of_token, taken_tokens};
pub use train::{States, Training, train, train_with_states, trained};

/// A way to teach a backbone concepts.
pub trait Method: Sync {
    /// Its name in experiments.
    fn name(&self) -> &'static str;
    /// Its name in tables.
    fn title(&self) -> &'static str;
    /// One sentence about it.
    fn about(&self) -> &'static str;
    /// How many concepts it takes.
    fn concepts(&self) -> RangeInclusive<usize> {
        1..=MOST_CONCEPTS
    }
    /// The settings of a run on so many concepts.
    fn defaults(&self, profile: Profile, concepts: usize) -> Settings;
    /// What a run is made of.
    fn recipe(&self, concepts: &[String], settings: &Settings, seed: u64) -> Recipe;
}

/// More concepts in one model are taken for a mistake.
pub const MOST_CONCEPTS: usize = 64;

/// Whose numbers the defaults are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// The paper's, for Stable Diffusion.
    Sd,
    /// Scaled to the mini backbone.
    Mini,
}

impl Profile {
    /// Whose numbers suit images of so many pixels a side.
    pub fn of_size(side: usize) -> Self {
        if side <= SMALL { Profile::Mini } else { Profile::Sd }
    }
}

/// The side in pixels up to which a backbone takes the mini backbone's defaults.
const SMALL: usize = 128;

/// All methods, in the order of the paper's tables.
pub fn registry() -> &'static [&'static dyn Method] {
    &[
        &pretrained::Pretrained,
        &textual_inversion::TextualInversion,
        &dreambooth::DreamBooth,
        &fine_tune_all::FineTuneAll,
        &custom_diffusion::CustomDiffusion,
        &sequential::Sequential,
        &merge::Merge,
    ]
}

/// The method of this name.
///
/// # Errors
/// [`Error::Input`] with the names that come nearest.
pub fn find(name: &str) -> Result<&'static dyn Method> {
    let found = registry().iter().find(|method| method.name() == name);
    found.copied().ok_or_else(|| {
        let names = registry().iter().map(|method| method.name());
        Error::input_hint(format!("there is no method `{name}`"), nearest(name, names))
    })
}

/// What one concept gives to a training.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The concept's name, for messages.
    pub name: String,
    /// What it is one of: `dog`.
    pub category: String,
    /// Its images, of any size.
    pub pictures: Vec<RgbImage>,
    /// Class images; none without regularisation.
    pub class: Vec<ClassPicture>,
}

/// A class image with its own caption.
#[derive(Clone, Debug)]
pub struct ClassPicture {
    /// The image, of any size.
    pub image: RgbImage,
    /// What it shows.
    pub caption: String,
}

/// A single training of all concepts together.
fn joint(concepts: &[String], settings: &Settings, seed: u64) -> Recipe {
    Recipe::Train {
        from: Box::new(Recipe::Pretrained),
        concepts: concepts.to_vec(),
        settings: settings.clone(),
        seed,
        tokens: (1..=concepts.len()).collect(),
    }
}

/// One training for each concept, put together.
fn separate(concepts: &[String], settings: &Settings, seed: u64) -> Recipe {
    match concepts {
        [_] => joint(concepts, settings, seed),
        _ => Recipe::Merge {
            parts: concepts.chunks(1).map(|one| joint(one, settings, seed)).collect(),
            settings: MergeSettings::default(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_guessed() {
        for method in registry() {
            assert_eq!(find(method.name()).unwrap().title(), method.title());
            assert!(!method.about().is_empty());
        }
        let error = find("custom-difusion").err().unwrap();
        assert!(error.hint().unwrap().starts_with("did you mean custom-diffusion"));
    }

    #[test]
    fn defaults_make_sense() {
        for method in registry() {
            for profile in [Profile::Sd, Profile::Mini] {
                for concepts in [1, 2, 5] {
                    method.defaults(profile, concepts).check().unwrap();
                }
            }
        }
    }
}
