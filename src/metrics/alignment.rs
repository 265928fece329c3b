//! How well images fit their prompts and their targets, by the cosines of CLIP features.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};

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

/// Image alignment of each image [n, d]: the plain mean of its cosines with all target images
/// [k, d]. The mean of these over images is the paper's mean over all pairs.
///
/// # Panics
/// Where the widths differ or there is no target.
pub fn image_alignment(images: ArrayView2<f32>, targets: ArrayView2<f32>) -> Vec<f64> {
    assert_eq!(images.ncols(), targets.ncols(), "features of one model");
    assert!(targets.nrows() > 0, "image alignment needs a target");
    let cosines = unit(images).dot(&unit(targets).t());
    cosines.mean_axis(Axis(1)).expect("there is a target").to_vec()
}

/// Rows of length 1. A row of zeros stays: its cosine with anything is 0.
fn unit(x: ArrayView2<f32>) -> Array2<f64> {
    let mut x = x.mapv(f64::from);
    for mut row in x.outer_iter_mut() {
        let norm = row.dot(&row).sqrt();
        if norm > 0.0 {
            row /= norm;
        }
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;
    use proptest::prelude::*;

    #[test]
    fn text_alignment_is_scaled_and_never_negative() {
        let images = array![[3f32, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]];
        let texts = array![[0.5f32, 0.0], [0.0, 2.0], [-1.0, 0.1], [1.0, 0.0]];
        let found = text_alignment(images.view(), texts.view());
        assert!((found[0] - 2.5).abs() < 1e-12);
        assert!((found[1] - 2.5 * 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(&found[2..], [0.0, 0.0]);
    }

    #[test]
    fn image_alignment_is_the_mean_over_targets_and_may_be_negative() {
        let images = array![[2f32, 0.0], [0.0, -1.0]];
        let targets = array![[1f32, 0.0], [0.0, 5.0]];
        assert_eq!(image_alignment(images.view(), targets.view()), [0.5, -0.5]);
    }

    #[test]
    fn what_is_not_a_number_is_not_hidden() {
        let bad = array![[f32::NAN, 1.0]];
        let good = array![[1f32, 1.0]];
        assert!(text_alignment(bad.view(), good.view())[0].is_nan());
        assert!(image_alignment(good.view(), bad.view())[0].is_nan());
    }

    proptest! {
        #[test]
        fn neither_scale_nor_order_of_the_targets_matters(
            x in prop::collection::vec(-1f32..1.0, 12),
            scale in 0.1f32..10.0,
        ) {
            let x = Array2::from_shape_vec((4, 3), x).unwrap();
            let image = array![[0.3f32, -0.2, 0.9]];
            let reversed = x.select(Axis(0), &[3, 1, 0, 2]).mapv(|v| v * scale);
            let (a, b) = (
                image_alignment(image.view(), x.view())[0],
                image_alignment(image.view(), reversed.view())[0],
            );
            prop_assert!((a - b).abs() < 1e-6);
        }
    }
}
