//! Stable Diffusion: what its folder holds and how it is sampled.

pub mod config;
pub mod folder;
pub mod hub;
pub mod png;
pub mod scheduler;
pub mod tokenizer;
pub mod weights;
