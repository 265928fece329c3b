//! Who is left out: raters who did not look, decided by what is known without their preferences.

use serde::Serialize;
use statrs::distribution::{Binomial, DiscreteCDF};

use super::answers::Question;
use super::collected::Collected;
use super::key::{Side, What};

/// When a rater is left out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rules {
    /// Share of catch trials' questions that have to be answered rightly.
    pub catch: f64,
    /// The least median time of an answer, in milliseconds.
    pub fastest_ms: u64,
    /// How unlikely the shares of left and right may be, of somebody who has no favourite side.
    pub side: f64,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { catch: 0.75, fastest_ms: 500, side: 0.001 }
    }
}

/// Why a rater is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Answers that are not as they were given.
    Edited,
    /// Catch trials.
    Catch,
    /// Too fast.
    Fast,
    /// One side again and again.
    Side,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 4] = [Reason::Edited, Reason::Catch, Reason::Fast, Reason::Side];

    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Edited => "answers that are not as they were given",
            Reason::Catch => "failed catch trials",
            Reason::Fast => "too fast",
            Reason::Side => "one side",
        }
    }
}

/// The reasons to leave each rater out: none for most.
pub fn screen(collected: &Collected, rules: &Rules) -> Vec<Vec<Reason>> {
    let mut seen: Vec<Seen> = collected.raters.iter().map(|_| Seen::default()).collect();
    for vote in &collected.votes {
        let seen = &mut seen[vote.rater];
        let what = collected.what(vote);
        match what {
            What::Practice => continue,
            What::Catch { good } => {
                seen.caught.0 += u64::from(vote.choice == good);
                seen.caught.1 += 1;
            }
            What::Pair { .. } | What::Repeat { .. } => {
                let sides = &mut seen.sides[usize::from(vote.question == Question::Image)];
                sides.0 += u64::from(vote.choice == Side::Left);
                sides.1 += 1;
            }
        }
        seen.ms.push(vote.ms);
    }
    let reasons = |(i, seen): (usize, &mut Seen)| {
        let (right, of) = seen.caught;
        // each question is a chance of its own to be left out by mistake
        let one_sided = seen.sides.iter().any(|&(left, of)| even(left, of) < rules.side / 2.0);
        let found = [
            (Reason::Edited, collected.raters[i].edited > 0),
            (Reason::Catch, (right as f64) < rules.catch * of as f64),
            (Reason::Fast, seen.median() < rules.fastest_ms),
            (Reason::Side, one_sided),
        ];
        found.into_iter().filter(|(_, is)| *is).map(|(reason, _)| reason).collect()
    };
    seen.iter_mut().enumerate().map(reasons).collect()
}

#[derive(Default)]
struct Seen {
    caught: (u64, u64),
    /// Left, and all, of each question.
    sides: [(u64, u64); 2],
    ms: Vec<u64>,
}

impl Seen {
    fn median(&mut self) -> u64 {
        self.ms.sort_unstable();
        self.ms.get(self.ms.len() / 2).copied().unwrap_or(u64::MAX)
    }
}

/// The exact two-sided probability of so uneven a split, or a more uneven one, where both ways are as
/// likely.
pub fn even(hits: u64, of: u64) -> f64 {
    let fewer = hits.min(of - hits);
    match Binomial::new(0.5, of) {
        Ok(binomial) if of > 0 => (2.0 * binomial.cdf(fewer)).min(1.0),
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binomial_test_is_exact() {
        // scipy.stats.binomtest(k, n).pvalue
        for (hits, of, p) in
            [(5, 10, 1.0), (9, 10, 0.021484375), (0, 5, 0.0625), (60, 100, 0.05688793364098078)]
        {
            assert!((even(hits, of) - p).abs() < 1e-9, "{hits} of {of}: {}", even(hits, of));
        }
        assert_eq!(even(0, 0), 1.0);
        assert!(even(501_500, 1_000_000) < 0.0028 && even(501_500, 1_000_000) > 0.0026);
    }
}
