//! Stable Diffusion: what its folder holds, its networks, and how it is sampled.

mod attention;
mod backbone;
pub mod compvis_names;
pub mod config;
pub mod folder;
pub mod hub;
pub mod model;
pub mod png;
pub mod presets;
mod sample;
pub mod scheduler;
pub mod tokenizer;
pub mod weights;

pub use attention::{AttentionMaps, WordMap, load_maps, save_maps};
pub use backbone::Backbone;
pub use sample::{GUIDANCE, Request, Sample, Sampling, from_rgb, to_rgb};
