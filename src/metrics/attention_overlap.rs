//! How much the words of several concepts are attended to in the same places of an image: what the paper
//! shows of concepts of like categories that do not compose (Figs. 11, 19).

use ndarray::ArrayView2;

use super::{Better, Given, Gives, Measure, Need, Outcome};
use crate::Result;

/// The overlap of attention maps of one image, from 0 (no place in common) to 1 (the same places). Of each map
/// its least value is taken away, since a softmax leaves every word something everywhere, and what remains is
/// divided by its sum, so that it says where a word is and not how much it is attended to. Two maps have the
/// sum of the lesser of both values in common, which is 1 less their total variation distance; of more than
/// two it is the mean over pairs. None for fewer than two maps, or where one is the same everywhere or not
/// finite.
///
/// An intersection over union would need a threshold that says which places a word has. Maps are soft: their
/// values fall off over half the image, and with them the union would jump with the threshold.
///
/// # Panics
/// If maps differ in size, which those of one image do not.
pub fn attention_overlap(maps: &[ArrayView2<f32>]) -> Option<f64> {
    let shares: Option<Vec<Vec<f64>>> = maps.iter().map(shares).collect();
    let shares = shares?;
    let pairs =
        shares.iter().enumerate().flat_map(|(i, a)| shares[..i].iter().map(move |b| (a, b)));
    let common: Vec<f64> = pairs
        .map(|(a, b)| {
            assert_eq!(a.len(), b.len(), "maps of one image have one size");
            a.iter().zip(b).map(|(a, b)| a.min(*b)).sum::<f64>().min(1.0)
        })
        .collect();
    (!common.is_empty()).then(|| common.iter().sum::<f64>() / common.len() as f64)
}

/// What share of a map each place has, above its least value.
fn shares(map: &ArrayView2<f32>) -> Option<Vec<f64>> {
    let values: Vec<f64> = map.iter().map(|x| f64::from(*x)).collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let sum: f64 = values.iter().map(|x| x - least).sum();
    let of_sum = |x: f64| (x - least) / sum;
    (sum > 0.0 && sum.is_finite()).then(|| values.into_iter().map(of_sum).collect())
}

pub(super) struct AttentionOverlap;

impl Measure for AttentionOverlap {
    fn name(&self) -> &'static str {
        "attention-overlap"
    }

    fn title(&self) -> &'static str {
        "overlap of attention"
    }

    fn definition(&self) -> &'static str {
        "sum of the lesser of two concepts' cross-attention maps, each above its least value and of sum 1, \
         mean over steps, layers and heads"
    }

    fn better(&self) -> Better {
        Better::Less
    }

    fn tolerance(&self) -> f64 {
        0.01
    }

    fn need(&self) -> Need {
        Need::Attention
    }

    fn gives(&self) -> Gives {
        Gives::Images
    }

    /// No features have a part in it.
    fn titled_by_extractor(&self) -> bool {
        false
    }

    fn measure(&self, given: &Given) -> Result<Option<Outcome>> {
        let of = |maps: &Vec<ndarray::Array2<f32>>| {
            let views: Vec<_> = maps.iter().map(|m| m.view()).collect();
            // words that are attended to everywhere alike have all places in common
            attention_overlap(&views).unwrap_or(1.0)
        };
        Ok(Some(Outcome::Images(given.maps.iter().map(of).collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    fn of(maps: &[&Array2<f32>]) -> Option<f64> {
        attention_overlap(&maps.iter().map(|m| m.view()).collect::<Vec<_>>())
    }

    #[test]
    fn it_is_what_both_have_in_common() {
        let a = array![[0.2f32, 0.0], [0.0, 0.2]];
        let b = array![[0.0f32, 0.0], [0.3, 0.1]];
        let c = array![[0.0f32, 0.7], [0.0, 0.0]];
        assert!((of(&[&a, &b]).unwrap() - 0.25).abs() < 1e-6);
        assert_eq!(of(&[&a, &c]), Some(0.0));
        // the mean of 1/4, 0 and 0
        assert!((of(&[&a, &b, &c]).unwrap() - 0.25 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn where_nothing_can_be_compared_there_is_none() {
        let a = array![[0.2f32, 0.1]];
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[&a]), None);
        assert_eq!(of(&[&a, &array![[0.3f32, 0.3]]]), None);
        assert_eq!(of(&[&a, &array![[f32::NAN, 0.5]]]), None);
        assert_eq!(of(&[&a, &array![[f32::INFINITY, 0.5]]]), None);
    }

    fn spread(map: &Array2<f32>) -> f32 {
        map.fold(f32::MIN, |a, b| a.max(*b)) - map.fold(f32::MAX, |a, b| a.min(*b))
    }

    fn maps() -> impl Strategy<Value = (Array2<f32>, Array2<f32>)> {
        let map = || prop::collection::vec(0f32..1.0, 12);
        let of = |x| Array2::from_shape_vec((3, 4), x).unwrap();
        (map(), map())
            .prop_map(move |(a, b)| (of(a), of(b)))
            .prop_filter("maps of something", |(a, b)| spread(a) > 0.1 && spread(b) > 0.1)
    }

    proptest! {
        #[test]
        fn it_is_a_likeness((a, b) in maps(), scale in 1e-3f32..1e3, floor in 0f32..1.0) {
            let found = of(&[&a, &b]).unwrap();
            prop_assert!((0.0..=1.0).contains(&found));
            prop_assert_eq!(of(&[&b, &a]).unwrap(), found);
            prop_assert!((of(&[&(&a * scale), &b]).unwrap() - found).abs() < 1e-5);
            prop_assert!((of(&[&(&a + floor), &b]).unwrap() - found).abs() < 1e-4);
            prop_assert!((of(&[&a, &(&a * scale)]).unwrap() - 1.0).abs() < 1e-5);
        }

        #[test]
        fn maps_apart_have_nothing_in_common((a, b) in maps(), at in 1usize..12) {
            let half = |map: &Array2<f32>, first: bool| {
                let mut i = 0;
                map.mapv(|x| { i += 1; if (i <= at) == first { x } else { 0.0 } })
            };
            let (a, b) = (half(&a, true), half(&b, false));
            prop_assume!(a.sum() > 0.0 && b.sum() > 0.0);
            prop_assert_eq!(of(&[&a, &b]), Some(0.0));
        }
    }
}
