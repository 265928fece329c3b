//! How well images fit their prompts, by the cosines of CLIP features.

use ndarray::{ArrayView1, ArrayView2};

use super::{Better, Given, Gives, Measure, Need, Outcome, unit};
use crate::Result;

/// CLIPScore's factor (Hessel et al. 2021, arXiv:2104.08718), which the paper keeps.
const CLIP_SCORE: f64 = 2.5;

/// Text alignment of each image: `2.5 · max(cos, 0)` of row i of `images` and row i of `texts`
/// (both [n, d]), the features of its prompt without modifier tokens.
///
/// # Panics
/// Where the shapes differ.
pub fn text_alignment(images: ArrayView2<f32>, texts: ArrayView2<f32>) -> Vec<f64> {
    assert_eq!(images.dim(), texts.dim(), "a row of text features for each image");
    let (images, texts) = (unit(images), unit(texts));
    let cosine = |(x, y): (ArrayView1<f64>, ArrayView1<f64>)| x.dot(&y);
    let cosines = images.outer_iter().zip(texts.outer_iter()).map(cosine);
    cosines.map(|c| CLIP_SCORE * if c < 0.0 { 0.0 } else { c }).collect()
}

pub(super) struct TextAlignment;

impl Measure for TextAlignment {
    fn name(&self) -> &'static str {
        "text-alignment"
    }

    fn title(&self) -> &'static str {
        "text alignment"
    }

    fn definition(&self) -> &'static str {
        "2.5·max(cos, 0) of an image and its prompt, from which modifier tokens are removed"
    }

    fn better(&self) -> Better {
        Better::More
    }

    fn tolerance(&self) -> f64 {
        0.005
    }

    fn need(&self) -> Need {
        Need::Prompts
    }

    fn gives(&self) -> Gives {
        Gives::Images
    }

    fn measure(&self, given: &Given) -> Result<Option<Outcome>> {
        Ok(Some(Outcome::Images(text_alignment(given.images, given.against))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn it_is_scaled_and_never_negative() {
        let images = array![[3f32, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]];
        let texts = array![[0.5f32, 0.0], [0.0, 2.0], [-1.0, 0.1], [1.0, 0.0]];
        let found = text_alignment(images.view(), texts.view());
        assert!((found[0] - 2.5).abs() < 1e-12);
        assert!((found[1] - 2.5 * 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(&found[2..], [0.0, 0.0]);
    }

    #[test]
    fn what_is_not_a_number_is_not_hidden() {
        let (bad, good) = (array![[f32::NAN, 1.0]], array![[1f32, 1.0]]);
        assert!(text_alignment(bad.view(), good.view())[0].is_nan());
    }
}
