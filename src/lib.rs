//! cdbench runs and evaluates the experiments of *Multi-Concept Customization of Text-to-Image
//! Diffusion* (Kumari et al., CVPR 2023). `ARCHITECTURE.md` is the map.

pub mod cli;
pub mod clip;
pub mod data;
pub mod diffusion;
mod drawing;
pub mod engine;
mod error;
pub mod hub;
pub mod log;
pub mod methods;
pub mod metrics;
pub mod mini;
pub mod nn;
pub mod pretrain;
pub mod process;
mod readfile;
pub mod report;
pub mod rng;
pub mod safefile;
pub mod spec;
pub mod study;
pub mod train;
pub mod world;

pub use error::{Error, Result};
