//! How near images come to a training image: what shows that a model repeats its targets in place of
//! having learned them. The level of the targets among themselves stands beside it as an anchor.

use ndarray::ArrayView2;

use super::{Better, Given, Gives, Measure, Need, Outcome, unit};
use crate::Result;

/// Of each image, the largest cosine with any of `targets`; with `itself`, with any but its own.
fn nearest(images: ArrayView2<f32>, targets: ArrayView2<f32>, itself: bool) -> Vec<f64> {
    let cosines = unit(images).dot(&unit(targets).t());
    let one = |(i, row): (usize, ndarray::ArrayView1<f64>)| {
        let others = row.iter().enumerate().filter(|(j, _)| !(itself && *j == i));
        others.map(|(_, cosine)| *cosine).fold(f64::NEG_INFINITY, f64::max)
    };
    cosines.outer_iter().enumerate().map(one).collect()
}

pub(super) struct Copying;

impl Measure for Copying {
    fn name(&self) -> &'static str {
        "copying"
    }

    fn title(&self) -> &'static str {
        "nearest target"
    }

    fn definition(&self) -> &'static str {
        "largest cosine of an image with any training image"
    }

    fn better(&self) -> Better {
        Better::Less
    }

    fn tolerance(&self) -> f64 {
        0.005
    }

    fn need(&self) -> Need {
        Need::AllTargets
    }

    fn gives(&self) -> Gives {
        Gives::Images
    }

    fn measure(&self, given: &Given) -> Result<Option<Outcome>> {
        if given.itself && given.images.nrows() < 2 {
            return Ok(None);
        }
        Ok(Some(Outcome::Images(nearest(given.images, given.against, given.itself))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn a_copy_is_at_one_and_targets_are_not_copies_of_themselves() {
        let targets = array![[1f32, 0.0], [3.0, 4.0]];
        let images = array![[2f32, 0.0], [0.0, 1.0], [-1.0, 0.0]];
        let found = nearest(images.view(), targets.view(), false);
        for (found, wanted) in found.iter().zip([1.0, 0.8, -0.6]) {
            assert!((found - wanted).abs() < 1e-7, "{found} {wanted}");
        }
        let own = nearest(targets.view(), targets.view(), true);
        assert!(own.iter().all(|v| (v - 0.6).abs() < 1e-7), "{own:?}");
        let one = targets.slice(ndarray::s![..1, ..]);
        let given = Given {
            images: one,
            groups: &[0],
            against: one,
            itself: true,
            weights: &[],
            maps: &[],
            files: None,
        };
        assert_eq!(Copying.measure(&given).unwrap(), None);
    }
}
