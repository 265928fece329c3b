//! How well images fit their targets, by the cosines of features.

use ndarray::{ArrayView2, Axis};

use super::{Better, Given, Gives, Measure, Need, Outcome, unit};
use crate::Result;

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

pub(super) struct ImageAlignment;

impl Measure for ImageAlignment {
    fn name(&self) -> &'static str {
        "image-alignment"
    }

    fn title(&self) -> &'static str {
        "image alignment"
    }

    fn definition(&self) -> &'static str {
        "mean cosine over all pairs of generated and target images"
    }

    fn better(&self) -> Better {
        Better::More
    }

    fn tolerance(&self) -> f64 {
        0.005
    }

    fn need(&self) -> Need {
        Need::Targets
    }

    fn gives(&self) -> Gives {
        Gives::Images
    }

    fn measure(&self, given: &Given) -> Result<Option<Outcome>> {
        let n = given.images.nrows() as f64;
        let mut values = image_alignment(given.images, given.against);
        if given.itself {
            if n < 2.0 {
                return Ok(None);
            }
            // the mean over all counts the image itself, whose cosine is 1
            values.iter_mut().for_each(|v| *v = (*v * n - 1.0) / (n - 1.0));
        }
        Ok(Some(Outcome::Images(values)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    #[test]
    fn it_is_the_mean_over_targets_and_may_be_negative() {
        let images = array![[2f32, 0.0], [0.0, -1.0]];
        let targets = array![[1f32, 0.0], [0.0, 5.0]];
        assert_eq!(image_alignment(images.view(), targets.view()), [0.5, -0.5]);
    }

    #[test]
    fn targets_among_themselves_are_not_their_own_twins() {
        let targets = array![[1f32, 0.0], [0.0, 1.0], [3.0, 0.0]];
        let of = |images: ArrayView2<f32>| {
            let given = Given {
                images,
                groups: &[0, 1, 2],
                against: images,
                itself: true,
                weights: &[],
                maps: &[],
                files: None,
            };
            ImageAlignment.measure(&given).unwrap()
        };
        assert_eq!(of(targets.view()), Some(Outcome::Images(vec![0.5, 0.0, 0.5])));
        assert_eq!(of(targets.slice(ndarray::s![..1, ..])), None);
    }

    #[test]
    fn what_is_not_a_number_is_not_hidden() {
        let (bad, good) = (array![[f32::NAN, 1.0]], array![[1f32, 1.0]]);
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
