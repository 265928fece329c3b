//! How different the images of one prompt are: DreamBooth's DIV (Ruiz et al. 2023, arXiv:2208.12242) with
//! features in place of LPIPS. A model that answers a prompt with one image has none.

use ndarray::ArrayView2;

use super::{Better, Given, Gives, Measure, Need, Outcome, unit};
use crate::Result;

/// Of each image, the mean of 1 − cosine with the other images of its prompt; none where a prompt has no
/// other. The mean of these is the mean over all pairs where prompts have the same number of images.
fn diversity(images: ArrayView2<f32>, groups: &[usize]) -> Option<Vec<f64>> {
    let images = unit(images);
    let one = |i: usize| {
        let others = (0..groups.len()).filter(|&j| j != i && groups[j] == groups[i]);
        let cosines: Vec<f64> = others.map(|j| images.row(i).dot(&images.row(j))).collect();
        let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
        (!cosines.is_empty()).then_some(1.0 - mean)
    };
    let found: Option<Vec<f64>> = (0..groups.len()).map(one).collect();
    found.filter(|found| !found.is_empty())
}

pub(super) struct Diversity;

impl Measure for Diversity {
    fn name(&self) -> &'static str {
        "diversity"
    }

    fn title(&self) -> &'static str {
        "diversity"
    }

    fn definition(&self) -> &'static str {
        "mean of 1 − cosine over all pairs of images of one prompt"
    }

    fn better(&self) -> Better {
        Better::More
    }

    fn tolerance(&self) -> f64 {
        0.005
    }

    fn need(&self) -> Need {
        Need::Images
    }

    fn gives(&self) -> Gives {
        Gives::Images
    }

    fn measure(&self, given: &Given) -> Result<Option<Outcome>> {
        Ok(diversity(given.images, given.groups).map(Outcome::Images))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, Axis, array};
    use proptest::prelude::*;

    #[test]
    fn it_is_within_prompts() {
        let images =
            array![[1f32, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 1.0]];
        // alike, then two that are opposite, then the rest of the first prompt
        let found = diversity(images.view(), &[0, 1, 0, 1, 0, 1]).unwrap();
        assert_eq!(found, [1.0, 0.0, 1.0, 0.0, 2.0, 0.0]);
    }

    #[test]
    fn one_image_of_a_prompt_has_none() {
        let images = array![[1f32, 0.0], [0.0, 1.0], [1.0, 1.0]];
        assert_eq!(diversity(images.view(), &[0, 0, 1]), None);
        assert_eq!(diversity(images.slice(ndarray::s![..0, ..]), &[]), None);
    }

    proptest! {
        #[test]
        fn it_is_the_mean_over_pairs(x in prop::collection::vec(-1f32..1.0, 24)) {
            let x = Array2::from_shape_vec((8, 3), x).unwrap();
            let groups = [0, 1, 1, 0, 1, 0, 0, 1];
            let found = diversity(x.view(), &groups).unwrap();
            let all = unit(x.view());
            let (mut sum, mut pairs) = (0.0, 0.0);
            for (i, a) in all.axis_iter(Axis(0)).enumerate() {
                for (j, b) in all.axis_iter(Axis(0)).enumerate().skip(i + 1) {
                    if groups[i] == groups[j] {
                        sum += 1.0 - a.dot(&b);
                        pairs += 1.0;
                    }
                }
            }
            prop_assert!((found.iter().sum::<f64>() / 8.0 - sum / pairs).abs() < 1e-12);
        }
    }
}
