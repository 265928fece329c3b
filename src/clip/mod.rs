//! CLIP: pictures and captions in one space, as transformers' `CLIPModel` has it. [`Clip`] can be
//! trained; [`Embedder`] runs a folder through ort, and is what the metrics use, beside other
//! [extractors](open_extractor): vision transformers, and any network in an ONNX file.

mod config;
mod embed;
mod embedder;
mod extractor;
mod file;
mod folder;
mod interpolate;
mod model;
pub mod onnx;
mod preprocess;
mod resample;
mod runtime;
mod session;
mod tower;
mod vit;
mod vit_embedder;

pub use config::{ClipConfig, VisionConfig};
pub use embed::Embed;
pub(crate) use embed::together;
pub use embedder::Embedder;
pub use extractor::{ExtractorSpec, Opening, how_to_give, open_extractor};
pub use file::{FileSpec, FilterName, Sides};
pub use model::{Clip, contrastive_loss};
pub use preprocess::Preprocessor;
pub use resample::{Filter, Window, resize};
pub use runtime::{Backend, Runtime};
pub use vit::{Vit, VitConfig};
