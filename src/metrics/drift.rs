//! Drift on prompts that have nothing to do with the concept, as PEFT's comparison of methods has it.

use super::{Better, Given, Gives, Measure, Need, Outcome, unit};
use crate::{Error, Result};

/// How far images of other things are from the pretrained model's: `(1 − cos) / 2` of twins.
pub(super) struct Drift;

impl Measure for Drift {
    fn name(&self) -> &'static str {
        "drift"
    }

    fn title(&self) -> &'static str {
        "drift"
    }

    fn definition(&self) -> &'static str {
        "(1 − cosine) / 2 of images of unrelated captions and the pretrained model's of the same caption \
         and noise"
    }

    fn better(&self) -> Better {
        Better::Less
    }

    fn tolerance(&self) -> f64 {
        0.002
    }

    fn need(&self) -> Need {
        Need::Unrelated
    }

    fn gives(&self) -> Gives {
        Gives::Images
    }

    /// PEFT's is of DINOv2's.
    fn extractor(&self) -> &'static str {
        "dino"
    }

    fn measure(&self, given: &Given) -> Result<Option<Outcome>> {
        if given.images.dim() != given.against.dim() {
            return Err(Error::input("drift: images without twins"));
        }
        let (own, twins) = (unit(given.images), unit(given.against));
        let each = own.outer_iter().zip(twins.outer_iter());
        Ok(Some(Outcome::Images(each.map(|(a, b)| (1.0 - a.dot(&b)) / 2.0).collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn twins_do_not_drift_and_opposites_drift_by_one() {
        let images = array![[1f32, 0.0], [0.0, 2.0], [3.0, 0.0]];
        let twins = array![[2f32, 0.0], [0.0, -1.0], [0.0, 1.0]];
        let given = |against| Given {
            images: images.view(),
            groups: &[0, 1, 2],
            against,
            itself: false,
            weights: &[],
            maps: &[],
            files: None,
        };
        let found = Drift.measure(&given(twins.view())).unwrap();
        assert_eq!(found, Some(Outcome::Images(vec![0.0, 1.0, 0.5])));
        assert!(Drift.measure(&given(twins.slice(ndarray::s![..2, ..]))).is_err());
    }
}
