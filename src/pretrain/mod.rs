//! Pretraining of the mini backbone and of its judge, from nothing, on the embedded world.
//!
//! Three runs, one after another, described by one file (`assets/mini/pretrain.toml`): the autoencoder,
//! the UNet together with the text encoder that conditions it, and a CLIP that only judges. Each keeps
//! its states, curves and pictures in a folder of its own below the run folder, goes on from its
//! latest state, and exports its weights into `mini/`, which is a diffusers folder once all are there.

mod clip;
mod config;
mod curves;
mod drive;
mod judge;
mod report;
mod scenes;
mod unet;
mod vae;

pub use clip::pretrain_clip;
pub use config::{ClipRecipe, PretrainConfig, Recipe, UNetRecipe, VaeRecipe, WorldStage};
pub use report::{ReportArgs, report};
pub use unet::pretrain_unet;
pub use vae::{pretrain_decoder, pretrain_vae};

use std::path::{Path, PathBuf};

/// Below the run folder: the backbone, and `clip/`.
pub fn model_folder(out: &Path) -> PathBuf {
    out.join("mini")
}
