//! Training, whatever the model: choosing parameters, losses, the optimiser, the loop and its
//! checkpoints.
//!
//! A [`Task`] makes batches and says what their loss is; a [`Trainer`] does the rest.

mod adamw;
mod clip;
mod ema;
pub mod loss;
mod lr;
mod select;
mod slices;
mod step;

pub use adamw::{AdamW, AdamWConfig, Group, MissingGradients};
pub use clip::{clip_factor, gradient_norm};
pub use ema::{Ema, EmaConfig};
pub use lr::{Decay, Schedule};
pub use select::{Component, GroupSpec, Trainable, apply_groups};
pub use step::{Part, gradients, images_per_part};
