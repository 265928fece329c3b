//! The three networks of a Stable Diffusion, under the names and shapes of diffusers' files.

mod resnet;
mod text_encoder;
mod transformer;
mod transformer_layer;
mod unet;
mod vae;

pub use text_encoder::TextEncoder;
pub use transformer::{CrossAttention, OnCrossAttention};
pub use transformer_layer::{LayerNames, TransformerLayer, TransformerSize};
pub use unet::{TextKeys, UNet};
pub use vae::{Posterior, Vae};
