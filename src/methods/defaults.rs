//! Every number that a method starts from, in one place.
//!
//! `Sd` is the paper's table of settings (section 4 and appendix): learning rates with the batch size in
//! them, steps for one concept. A joint training of n concepts takes n times the steps, as the paper's
//! of two take twice. `Mini` is the same for the mini backbone, which learns at ten times the rates and
//! more: see the README of its folder for the sweep that they were found by.
//!
//! | | trains | Sd: lr, steps | Mini: lr (token), steps | class images | modifier token |
//! |---|---|---|---|---|---|
//! | Custom Diffusion | K, V, V* | 8e-5, 250 | 2e-3 (5e-3), 200 | 200 real | rare |
//! | … fine-tune all | UNet, V* | 8e-6, 500 | 4e-4 (5e-3), 150 | 200 real | rare |
//! | DreamBooth | UNet | 1e-6, 2500 | 8e-4, 150 | 200 generated | rare, frozen |
//! | Textual Inversion | V* | 0.04, 5000 | 3e-2, 150 | none | category's |
//!
//! On mini rates fall along a cosine, or tokens end wherever their last large steps left them.
//!
//! Batch 8 everywhere, AdamW with a weight decay of 0.01, gradients clipped to norm 1 (diffusers'
//! scripts). Only the methods of the Custom Diffusion family augment; all mirror images. Start-of-text
//! is detached where K and V alone train.

use super::{Modifier, Profile, Regularization, Settings};
use crate::data::PAPER_SIZES;
use crate::train::Decay;

/// Keys and values of cross attention, and the tokens.
pub(super) fn custom_diffusion(profile: Profile, concepts: usize) -> Settings {
    let (lr, token_lr, steps) = match profile {
        Profile::Sd => (8e-5, None, 250),
        Profile::Mini => (2e-3, Some(5e-3), 200),
    };
    Settings { lr, token_lr, steps: steps * concepts.max(1) as u64, ..base(profile, "kv,tokens") }
}

/// The UNet and the tokens.
pub(super) fn fine_tune_all(profile: Profile, concepts: usize) -> Settings {
    let (lr, token_lr, steps) = match profile {
        Profile::Sd => (8e-6, None, 500),
        Profile::Mini => (4e-4, Some(5e-3), 150),
    };
    Settings {
        lr,
        token_lr,
        steps: steps * concepts.max(1) as u64,
        detach_start_of_text: false,
        ..base(profile, "unet,tokens")
    }
}

/// The UNet, with an identifier that does not train and generated class images.
pub(super) fn dreambooth(profile: Profile, concepts: usize) -> Settings {
    let (lr, steps) = match profile {
        Profile::Sd => (1e-6, 2500),
        Profile::Mini => (8e-4, 150),
    };
    Settings {
        lr,
        steps: steps * concepts.max(1) as u64,
        regularization: Regularization::Generated,
        modifier_token: Modifier::Frozen,
        augmentation: false,
        detach_start_of_text: false,
        ..base(profile, "unet")
    }
}

/// The token alone. Concepts are learnt one by one.
pub(super) fn textual_inversion(profile: Profile) -> Settings {
    let (lr, steps) = match profile {
        Profile::Sd => (0.04, 5000),
        Profile::Mini => (3e-2, 150),
    };
    Settings {
        lr,
        steps,
        regularization: Regularization::None,
        modifier_token: Modifier::Category,
        augmentation: false,
        detach_start_of_text: false,
        ..base(profile, "tokens")
    }
}

/// What most have in common.
fn base(profile: Profile, train: &str) -> Settings {
    let decay = match profile {
        Profile::Sd => Decay::Constant,
        Profile::Mini => Decay::Cosine,
    };
    Settings {
        train: train.parse().expect("words of Trainable"),
        steps: 250,
        lr: 8e-5,
        token_lr: None,
        decay,
        batch: 8,
        weight_decay: 1e-2,
        max_grad_norm: 1.0,
        regularization: Regularization::Real,
        class_images: 200,
        prior_weight: 1.0,
        augmentation: true,
        augmentation_sizes: PAPER_SIZES,
        hflip: true,
        modifier_token: Modifier::Rare,
        detach_start_of_text: true,
        vectors: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::super::find;
    use super::*;

    #[test]
    fn stable_diffusion_has_the_papers_numbers() {
        for (name, lr, steps) in [
            ("custom-diffusion", 8e-5, [250, 500]),
            ("fine-tune-all", 8e-6, [500, 1000]),
            ("dreambooth", 1e-6, [2500, 5000]),
            ("textual-inversion", 0.04, [5000, 5000]),
            ("merge", 8e-5, [250, 250]),
            ("sequential", 8e-5, [250, 250]),
        ] {
            let of = |concepts| find(name).unwrap().defaults(Profile::Sd, concepts);
            assert_eq!((of(1).lr, [of(1).steps, of(2).steps]), (lr, steps), "{name}");
            assert_eq!((of(1).batch, of(1).class_images), (8, 200), "{name}");
            assert_eq!((of(1).prior_weight, of(1).decay), (1.0, Decay::Constant), "{name}");
            assert_eq!(of(1).augmentation_sizes, [0.4, 1.4], "{name}");
        }
    }
}
