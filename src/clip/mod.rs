//! CLIP: pictures and captions in one space, as transformers' `CLIPModel` has it.

mod config;
mod model;

pub use config::{ClipConfig, VisionConfig};
pub use model::Clip;
