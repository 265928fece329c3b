//! What is learnt and what it is measured on: concepts, prompts, regularisation images.

mod augment;

pub use augment::{Augmented, PREFIXES_FAR, PREFIXES_NEAR, augment, fit, place, shown_mask};
