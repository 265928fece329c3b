//! How far raters agree: with each other, with themselves, and with what is measured.

use std::collections::BTreeMap;

use serde::Serialize;

use super::answers::Question;
use super::collected::{Collected, Vote};
use super::key::{Side, What};
use super::preference::Share;

/// Krippendorff's α of nominal values: of every unit, how often each value was given. None where nobody
/// could disagree.
pub fn alpha<const N: usize>(units: impl IntoIterator<Item = [u64; N]>) -> Option<f64> {
    let (mut observed, mut totals, mut n) = (0.0, [0.0; N], 0.0);
    for counts in units {
        let given: u64 = counts.iter().sum();
        // a single value agrees with nothing
        if given < 2 {
            continue;
        }
        let given = given as f64;
        let counts = counts.map(|c| c as f64);
        let same: f64 = counts.iter().map(|c| c * (c - 1.0)).sum();
        observed += (given * (given - 1.0) - same) / (given - 1.0);
        totals.iter_mut().zip(counts).for_each(|(total, c)| *total += c);
        n += given;
    }
    let same: f64 = totals.iter().map(|c| c * (c - 1.0)).sum();
    let expected = (n * (n - 1.0) - same) / (n - 1.0);
    (n > 1.0 && expected > 0.0).then(|| 1.0 - observed / expected)
}

/// How far raters agree in a question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// The question.
    pub question: Question,
    /// Krippendorff's α over pairs: 1 where all agree, 0 where they might as well have thrown a coin.
    pub alpha: Option<f64>,
    /// Pairs that at least two raters saw.
    pub pairs: usize,
    /// Answers to repeats that were the same as the first.
    pub repeats: Option<Share>,
    /// Answers that prefer the image that a measure prefers, by the names of measures.
    pub metrics: BTreeMap<String, Option<Share>>,
}

/// The agreement of the raters who are kept.
pub fn agreement(collected: &Collected, kept: &[bool], question: Question) -> Agreement {
    let key = collected.key();
    let raters = collected.raters.len();
    let mut units = vec![[0u64; 2]; key.pairs.len()];
    let mut first = BTreeMap::<(usize, usize), bool>::new();
    let mut metrics = vec![vec![(0u64, 0u64); raters]; key.metrics.len()];
    let votes = || collected.votes.iter().filter(|v| kept[v.rater] && v.question == question);
    for vote in votes() {
        let What::Pair { pair, own } = collected.what(vote) else { continue };
        let prefers_own = vote.choice == own;
        units[pair][usize::from(prefers_own)] += 1;
        first.insert((vote.rater, pair), prefers_own);
        for (metric, counts) in key.metrics.iter().zip(&mut metrics) {
            let Some([own, other]) = key.pairs[pair].values.get(&metric.name) else { continue };
            // of two images that are as good nothing is preferred
            if own != other {
                let better = (own > other) == metric.more;
                counts[vote.rater].0 += u64::from(better == prefers_own);
                counts[vote.rater].1 += 1;
            }
        }
    }
    let mut same = vec![(0u64, 0u64); raters];
    let again = |vote: &Vote, pair: usize, own: Side| {
        first.get(&(vote.rater, pair)).map(|before| *before == (vote.choice == own))
    };
    for vote in votes() {
        let What::Repeat { pair, own } = collected.what(vote) else { continue };
        if let Some(agrees) = again(vote, pair, own) {
            same[vote.rater].0 += u64::from(agrees);
            same[vote.rater].1 += 1;
        }
    }
    let names = key.metrics.iter().map(|m| m.name.clone());
    Agreement {
        question,
        alpha: alpha(units.iter().copied()),
        pairs: units.iter().filter(|u| u.iter().sum::<u64>() > 1).count(),
        repeats: Share::of(same),
        metrics: names.zip(metrics.into_iter().map(Share::of)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_is_krippendorffs() {
        // "Computing Krippendorff's Alpha-Reliability" (2011), A: two observers, binary, no value missing
        let meg = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0];
        let owen = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0];
        let units = meg.iter().zip(owen).map(|(&a, b)| {
            let mut counts = [0u64; 2];
            counts[a] += 1;
            counts[b] += 1;
            counts
        });
        assert!((alpha(units).unwrap() - 0.095).abs() < 5e-4);
        // C: four observers, five values, some missing
        let table = [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
            [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
        ];
        let units = (0..12).map(|unit| {
            let mut counts = [0u64; 5];
            table.iter().map(|row| row[unit]).filter(|v| *v > 0).for_each(|v| counts[v - 1] += 1);
            counts
        });
        assert!((alpha(units).unwrap() - 0.743).abs() < 5e-4);
        assert_eq!(alpha([[2u64, 0], [3, 0]]), None);
        assert_eq!(alpha([[1u64, 0], [0, 1]]), None);
        assert_eq!(alpha([[2u64, 0], [0, 2]]), Some(1.0));
    }
}
