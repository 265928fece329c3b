//! Operations on [`Var`](super::Var)s.
//!
//! A *feature map* is a batch of images of channels; its layout is the backend's business, so it is
//! only made, read and reshaped by the functions of `map`. *Tokens* are [batch, length, width].

mod activation;
#[cfg(test)]
mod agreement;
mod attention;
pub(super) mod basic;
mod composed;
mod conv;
#[cfg(test)]
mod gradients;
mod half;
mod linear;
mod map;
mod norm;

pub use activation::{geglu, gelu, quick_gelu, silu};
pub use attention::{attention, attention_probabilities, attention_upcast};
pub(super) use basic::at_least_f32;
pub use basic::{
    add, detach_first_token, index_select, mul, narrow, reshape, scale, sub, to_dtype,
};
pub use composed::composed;
pub use conv::{Padding, conv2d};
pub use linear::linear;
pub(super) use linear::linear_param;
pub use map::{
    add_per_channel, concat_channels, crop, from_image, map_size, map_to_tokens, to_image,
    tokens_to_map, upsample_nearest_2x,
};
pub use norm::{group_norm, layer_norm};
