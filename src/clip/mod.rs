//! CLIP: pictures and captions in one space, as transformers' `CLIPModel` has it. [`Clip`] can be
//! trained; [`Embedder`] runs a folder through ort, and is what the metrics use.

mod config;
mod embed;
mod embedder;
mod folder;
mod model;
pub mod onnx;
mod preprocess;
mod resample;
mod runtime;
mod session;
mod vit;

pub use config::{ClipConfig, VisionConfig};
pub use embed::Embed;
pub use embedder::Embedder;
pub use model::{Clip, contrastive_loss};
pub use preprocess::Preprocessor;
pub use resample::{Filter, Window, resize};
pub use runtime::{Backend, Runtime};
pub use vit::{Vit, VitConfig};
