//! What the rest of the program sees of a CLIP.

use image::RgbImage;
use ndarray::Array2;

use crate::Result;

/// What embeds pictures and texts in one space: a CLIP, or a stand-in of a test.
pub trait Embed: Send + Sync {
    /// A row of features for each picture [n, d], not normalised.
    ///
    /// # Errors
    /// The runtime's.
    fn images(&self, images: &[&RgbImage]) -> Result<Array2<f32>>;

    /// A row of features for each text [n, d], not normalised.
    ///
    /// # Errors
    /// The tokenizer's and the runtime's.
    fn texts(&self, texts: &[&str]) -> Result<Array2<f32>>;

    /// All that the features depend on: hashes of weights and preprocessing. Part of the protocol of
    /// every number made of them.
    fn identity(&self) -> &str;
}
