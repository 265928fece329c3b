//! CLIP: pictures and captions in one space, as transformers' `CLIPModel` has it.

mod config;
mod embed;
mod model;

pub use config::{ClipConfig, VisionConfig};
pub use embed::Embed;
pub use model::Clip;
