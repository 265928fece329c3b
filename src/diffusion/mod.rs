//! Stable Diffusion: what its files hold, its networks, and how it is sampled.

mod attention;
mod backbone;
pub(crate) mod batches;
pub mod compvis_names;
pub mod config;
mod files;
pub(crate) mod folder;
pub mod model;
pub mod png;
pub mod presets;
mod sample;
pub mod scheduler;
mod single_file;
pub mod tokenizer;
pub mod weights;

pub use attention::{AttentionMaps, WordMap, load_maps, save_maps};
pub use backbone::{Backbone, encoding_dtype};
pub use files::{BackboneFiles, BackboneSpec, Blueprint, Content, Part};
pub use sample::{GUIDANCE, Request, Sample, Sampling, from_rgb, to_rgb};
