//! A share of answers and how far it holds, where answers come in clusters: those of one rater.

use std::collections::BTreeMap;

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::metrics::{wilson, z95};
use crate::report::SEED;
use crate::rng::Rng;

/// Draws of a bootstrap.
const DRAWS: usize = 4000;

/// How many of some answers said the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Answers that did.
    pub hits: u64,
    /// All answers.
    pub answers: u64,
    /// Raters who gave them.
    pub raters: usize,
    /// Their share.
    pub share: f64,
    /// The ends of the 95 % interval of a bootstrap of raters, and of answers within each; none with fewer
    /// than two raters.
    pub interval: Option<(f64, f64)>,
    /// Wilson's 95 % interval, as if all answers were of different raters.
    pub wilson: (f64, f64),
}

impl Share {
    /// Of the answers of raters, each of whom gave so many hits of so many. Of nothing, the share is none.
    pub fn of(raters: impl IntoIterator<Item = (u64, u64)>) -> Option<Self> {
        // raters with the same numbers are the same to a bootstrap, and a million of them as fast as ten
        let mut classes = BTreeMap::<(u64, u64), u64>::new();
        for (hits, of) in raters.into_iter().filter(|(_, of)| *of > 0) {
            *classes.entry((hits, of)).or_default() += 1;
        }
        let count: u64 = classes.values().sum();
        let hits: u64 = classes.iter().map(|((hits, _), n)| hits * n).sum();
        let answers: u64 = classes.iter().map(|((_, of), n)| of * n).sum();
        (answers > 0).then(|| Share {
            hits,
            answers,
            raters: count as usize,
            share: hits as f64 / answers as f64,
            interval: interval(&classes, count),
            wilson: wilson(hits as usize, answers as usize),
        })
    }
}

/// The bootstrap of both levels, stretched to the width that Student's t gives the spread between raters:
/// drawing answers within raters counts what is within raters twice, because the spread between them holds
/// it already (as in `metrics/nested.rs`).
fn interval(classes: &BTreeMap<(u64, u64), u64>, raters: u64) -> Option<(f64, f64)> {
    let total = |f: &dyn Fn(u64, u64) -> f64| -> f64 {
        classes.iter().map(|((hits, of), n)| f(*hits, *of) * *n as f64).sum()
    };
    let answers = total(&|_, of| of as f64);
    let share = total(&|hits, _| hits as f64) / answers;
    if raters < 2 {
        return None;
    }
    let squares = total(&|hits, of| (hits as f64 - of as f64 * share).powi(2));
    let count = raters as f64;
    let between = (count / (count - 1.0) * squares).sqrt() / answers;
    // a few raters can by chance be nearer to each other than their answers allow
    let within = total(&|hits, of| {
        let p = hits as f64 / of as f64;
        if of > 1 { of as f64 * p * (1.0 - p) * of as f64 / (of - 1) as f64 } else { 0.0 }
    });
    let se = between.max(within.sqrt() / answers);
    let t = StudentsT::new(0.0, 1.0, count - 1.0).ok()?.inverse_cdf(0.975);

    let mut rng = Rng::new(SEED, "raters and answers");
    let mut draws: Vec<f64> =
        (0..DRAWS).map(|_| again(classes, raters, &mut rng) - share).collect();
    let own = (draws.iter().map(|d| d * d).sum::<f64>() / DRAWS as f64).sqrt();
    if own <= 1e-12 {
        return Some((share, share));
    }
    draws.sort_by(f64::total_cmp);
    let stretch = t * se / (z95() * own);
    let tail = (DRAWS as f64 * 0.025) as usize;
    let end = |at: usize| (share + stretch * draws[at]).clamp(0.0, 1.0);
    Some((end(tail), end(DRAWS - 1 - tail)))
}

/// The share of as many raters, drawn again, each with as many answers, drawn again.
fn again(classes: &BTreeMap<(u64, u64), u64>, raters: u64, rng: &mut Rng) -> f64 {
    let (mut left, mut weight) = (raters, raters);
    let (mut hits, mut answers) = (0, 0);
    for ((own, of), n) in classes {
        let drawn = rng.binomial(left, *n as f64 / weight as f64);
        (left, weight) = (left - drawn, weight - n);
        answers += drawn * of;
        hits += rng.binomial(drawn * of, *own as f64 / *of as f64);
    }
    hits as f64 / answers as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Raters with a taste of their own around `mean`, each of whom answers so often.
    fn raters(
        rng: &mut Rng,
        count: usize,
        answers: u64,
        mean: f64,
        spread: f64,
    ) -> Vec<(u64, u64)> {
        let one = |_| {
            let taste = (mean + spread * f64::from(rng.uniform(-1.0, 1.0))).clamp(0.0, 1.0);
            (rng.binomial(answers, taste), answers)
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        let mut rng = Rng::new(1, "test");
        for (count, answers, spread) in [(8, 20, 0.2), (30, 10, 0.0), (40, 6, 0.3), (15, 40, 0.3)] {
            let runs = 300;
            let hold = (0..runs).filter(|_| {
                let share = Share::of(raters(&mut rng, count, answers, 0.6, spread)).unwrap();
                let (low, high) = share.interval.unwrap();
                low <= 0.6 && 0.6 <= high
            });
            let hold = hold.count();
            let (low, high) = wilson(hold, runs);
            assert!(low < 0.97 && high > 0.935, "{count} raters: {hold} of {runs}");
        }
    }

    #[test]
    fn where_raters_differ_their_number_counts_and_not_that_of_answers() {
        let all = [(10, 10), (0, 10), (9, 10), (1, 10), (8, 10), (2, 10)];
        let share = Share::of(all).unwrap();
        assert_eq!((share.hits, share.answers, share.raters, share.share), (30, 60, 6, 0.5));
        let (low, high) = share.interval.unwrap();
        assert!(high - low > 2.0 * (share.wilson.1 - share.wilson.0), "{low} {high}");
    }

    #[test]
    fn what_nothing_is_known_of_has_no_interval() {
        assert_eq!(Share::of([(0, 0)]), None);
        assert_eq!(Share::of([(3, 4)]).unwrap().interval, None);
        assert_eq!(Share::of([(4, 4), (5, 5)]).unwrap().interval, Some((1.0, 1.0)));
    }
}
