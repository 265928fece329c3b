//! Training, whatever the model: choosing parameters, losses, the optimiser, the loop and its
//! checkpoints.
//!
//! A [`Task`] makes batches and says what their loss is; a [`Trainer`] does the rest.

mod adamw;
mod checkpoint;
mod clip;
mod ema;
mod fixed_texts;
pub mod loss;
mod lr;
mod noised;
mod scale;
mod select;
mod slices;
mod step;
mod streams;
mod trainer;

pub use adamw::{AdamW, AdamWConfig, Group, MissingGradients};
pub use checkpoint::Checkpoints;
pub use clip::{clip_factor, gradient_norm};
pub use ema::{Ema, EmaConfig};
pub use fixed_texts::FixedTexts;
pub use lr::{Decay, Schedule};
pub use noised::Noised;
pub(crate) use scale::LossScale;
pub use select::{Component, GroupSpec, Trainable, apply_groups};
pub use step::{Part, gradients, images_per_part};
pub use streams::Streams;
pub use trainer::{BatchSize, Progress, Task, TrainConfig, Trainer};
