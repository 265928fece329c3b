//! What the rest of the program sees of a CLIP, and of other extractors of features.

use image::RgbImage;
use ndarray::{Array2, Axis, concatenate};

use crate::{Error, Result};

/// What turns pictures, and texts where it can, into features of one space: a CLIP, a vision transformer,
/// or a stand-in of a test.
pub trait Embed: Send + Sync {
    /// A row of features for each picture [n, d], not normalised.
    ///
    /// # Errors
    /// The runtime's.
    fn images(&self, images: &[&RgbImage]) -> Result<Array2<f32>>;

    /// A row of features for each text [n, d], not normalised.
    ///
    /// # Errors
    /// The tokenizer's and the runtime's; [`Error::Input`] where it does not [read
    /// texts](Embed::reads_texts).
    fn texts(&self, _texts: &[&str]) -> Result<Array2<f32>> {
        Err(Error::input("this extractor reads pictures, not texts"))
    }

    /// Whether it has features of texts.
    fn reads_texts(&self) -> bool {
        false
    }

    /// Loads now what pictures need, and what texts need if they are to come, where that is worth it: others
    /// can be at work meanwhile.
    ///
    /// # Errors
    /// The runtime's.
    fn warm(&self, _texts: bool) -> Result<()> {
        Ok(())
    }

    /// All that the features depend on: hashes of weights and preprocessing. Part of the protocol of
    /// every number made of them.
    fn identity(&self) -> &str;
}

/// The rows of all features in one array.
///
/// # Errors
/// The first of them; [`Error::Input`] if they differ in width, or there are none.
pub(crate) fn together(each: impl Iterator<Item = Result<Array2<f32>>>) -> Result<Array2<f32>> {
    let each = each.collect::<Result<Vec<_>>>()?;
    let views: Vec<_> = each.iter().map(|rows| rows.view()).collect();
    concatenate(Axis(0), &views)
        .map_err(|_| Error::input("the embedder's features change their width"))
}
