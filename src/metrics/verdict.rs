//! What a claim's comparisons say of it, and of all claims of a page together.

use serde::{Deserialize, Serialize};

use super::Spread;

/// What is taken for shown: one error in twenty pages where nothing is as it was claimed.
const LEVEL: f64 = 0.05;

/// Which way a difference is claimed to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Above the margin.
    More,
    /// Below minus the margin.
    Less,
    /// Nearer to zero than the margin.
    Same,
}

/// A difference held against what is claimed of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tested {
    /// Whether it lies where it was claimed to.
    pub points: bool,
    /// How likely a difference on the margin would have come out so far from it, on either side; none
    /// where it cannot be told, as of a single concept set.
    pub p: Option<f64>,
    /// Whether the interval is all on one side of the margin.
    pub clear: bool,
}

/// What was found of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All its comparisons are as claimed.
    Reproduced,
    /// One of them is not.
    NotReproduced,
    /// It could be either way.
    Inconclusive,
    /// Something that it needs was not run.
    NotRun,
}

/// A claim's verdict with its p-value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// Corrected for all claims that were judged together; none for a claim that could not be decided.
    pub p: Option<f64>,
}

impl Direction {
    /// How far a difference lies on the claim's side of the margin; negative on the other side.
    pub fn beyond(self, margin: f64, difference: f64) -> f64 {
        match self {
            Direction::More => difference - margin,
            Direction::Less => -difference - margin,
            Direction::Same => margin - difference.abs(),
        }
    }

    /// Holds a difference against the margin.
    pub fn test(self, margin: f64, found: &Spread) -> Tested {
        let distance = self.beyond(margin, found.mean);
        let ends = [found.low, found.high].map(|end| self.beyond(margin, end));
        let points = distance > 0.0;
        let clear = match (self, points) {
            (_, true) => ends.iter().all(|end| *end > 0.0),
            // both ends are too far, and on the same side
            (Direction::Same, false) => found.low > margin || found.high < -margin,
            (_, false) => ends.iter().all(|end| *end < 0.0),
        };
        let p = found.p(distance).filter(|_| found.over_concepts);
        Tested { points, p, clear }
    }
}

impl Verdict {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Reproduced => "reproduced",
            Verdict::NotReproduced => "not reproduced",
            Verdict::Inconclusive => "inconclusive",
            Verdict::NotRun => "not run",
        }
    }
}

/// Judges claims together, each by its comparisons, of which those that were not run are none. That all
/// are as claimed is as sure as the least sure of them; that one is not, as the surest of those that are
/// not, times the number of chances that it had. Holm's correction is over the claims that these tests
/// can decide.
pub fn judge(claims: &[Vec<Option<Tested>>]) -> Vec<Judged> {
    let leanings: Vec<Leaning> = claims.iter().map(|c| Leaning::of(c)).collect();
    let decidable: Vec<f64> = leanings.iter().filter_map(|l| l.p).collect();
    let mut corrected = holm(&decidable).into_iter();
    let judged = leanings.into_iter().map(|leaning| {
        let p = leaning.p.and_then(|_| corrected.next());
        let shown = leaning.clear && p.is_some_and(|p| p < LEVEL);
        let verdict = if shown { leaning.verdict } else { leaning.otherwise };
        Judged { verdict, p }
    });
    judged.collect()
}

/// Where a claim's comparisons point.
struct Leaning {
    /// The verdict if that can be shown.
    verdict: Verdict,
    /// The verdict if it cannot.
    otherwise: Verdict,
    p: Option<f64>,
    clear: bool,
}

impl Leaning {
    fn of(claim: &[Option<Tested>]) -> Self {
        let tested = || claim.iter().flatten();
        let complete = tested().count() == claim.len();
        let otherwise = if complete { Verdict::Inconclusive } else { Verdict::NotRun };
        let sure = |t: &&Tested| t.p.is_some();
        let p = |t: &Tested| t.p.unwrap_or(1.0);
        let against = tested().filter(|t| !t.points).filter(sure);
        let surest = against.min_by(|a, b| p(a).total_cmp(&p(b)));
        if let Some(surest) = surest {
            let chances = tested().count() as f64;
            let p = Some((p(surest) * chances).min(1.0));
            return Leaning { verdict: Verdict::NotReproduced, otherwise, p, clear: surest.clear };
        }
        let decidable = complete && tested().all(|t| t.points && t.p.is_some());
        let least = tested().map(p).fold(0.0, f64::max);
        let clear = tested().all(|t| t.clear);
        Leaning { verdict: Verdict::Reproduced, otherwise, p: decidable.then_some(least), clear }
    }
}

/// Holm's step-down correction: the p-values that single tests would need to have.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut corrected = vec![0.0; p.len()];
    let mut most = 0.0f64;
    for (before, at) in order.into_iter().enumerate() {
        most = most.max(p[at] * (p.len() - before) as f64).min(1.0);
        corrected[at] = most;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Nested, paired};
    use proptest::prelude::*;

    /// Differences of as many concept sets.
    fn sets(values: &[f64]) -> Spread {
        paired(&Nested::Of(values.iter().map(|v| Nested::values([*v])).collect()), 0)
    }

    fn tested(points: bool, p: f64) -> Option<Tested> {
        Some(Tested { points, p: Some(p), clear: p < LEVEL })
    }

    #[test]
    fn differences_are_held_against_their_margins() {
        let far = sets(&[0.9, 1.0, 1.1, 1.0]);
        let near = sets(&[-0.01, 0.01, 0.02, -0.02]);
        let vague = sets(&[-3.0, 1.0, 2.0, 0.5]);
        let says = |direction: Direction, margin, of: &Spread| {
            let t = direction.test(margin, of);
            assert_eq!(t.clear, t.p.unwrap() < LEVEL, "{direction:?} {margin} {of:?}");
            (t.points, t.clear)
        };
        use Direction::*;
        assert_eq!(says(More, 0.0, &far), (true, true));
        assert_eq!(says(More, 0.5, &far), (true, true));
        assert_eq!(says(More, 2.0, &far), (false, true), "shown to be too small");
        assert_eq!(says(Less, 0.0, &far), (false, true));
        assert_eq!(says(More, 0.0, &near), (false, false));
        assert_eq!(says(More, -0.5, &near), (true, true), "at least as much");
        assert_eq!(says(Same, 0.1, &near), (true, true));
        assert_eq!(says(Same, 0.1, &far), (false, true));
        for (direction, margin) in [(More, 0.0), (Less, 0.0), (Same, 0.1), (Same, 1.0)] {
            assert!(!says(direction, margin, &vague).1);
        }
        assert_eq!(Same.test(0.1, &sets(&[0.0])).p, None, "of one concept");
    }

    #[test]
    fn a_claim_is_as_sure_as_the_least_sure_of_its_parts() {
        let verdicts = |claims: &[Vec<Option<Tested>>]| {
            let found = judge(claims);
            found.into_iter().map(|j| (j.verdict, j.p)).collect::<Vec<_>>()
        };
        let alone = |claim: &[Option<Tested>]| verdicts(&[claim.to_vec()])[0];
        assert_eq!(
            alone(&[tested(true, 0.01), tested(true, 0.04)]),
            (Verdict::Reproduced, Some(0.04))
        );
        assert_eq!(
            alone(&[tested(true, 0.01), tested(true, 0.2)]),
            (Verdict::Inconclusive, Some(0.2))
        );
        // one in three chances
        let against = [tested(true, 0.001), tested(false, 0.01), tested(false, 0.9)];
        assert_eq!(alone(&against), (Verdict::NotReproduced, Some(0.03)));
        let against = [tested(true, 0.001), tested(false, 0.02), tested(false, 0.9)];
        assert_eq!(alone(&against), (Verdict::Inconclusive, Some(0.06)));
        // what was not run can only be missed where nothing speaks against the claim
        assert_eq!(alone(&[tested(true, 0.001), None]), (Verdict::NotRun, None));
        assert_eq!(alone(&[tested(false, 0.001), None]), (Verdict::NotReproduced, Some(0.001)));
        assert_eq!(alone(&[None]), (Verdict::NotRun, None));
        // of one concept set nothing can be told
        let one = Some(Tested { points: true, p: None, clear: true });
        assert_eq!(alone(&[one, tested(true, 0.001)]), (Verdict::Inconclusive, None));
        // the more claims, the more each has to show; those that cannot be decided do not count
        let p = |p| vec![tested(true, p)];
        let found = verdicts(&[p(0.03), p(0.001), vec![None], vec![one], p(0.02)]);
        let wanted = [Some(0.04), Some(0.003), None, None, Some(0.04)];
        for (found, wanted) in found.iter().zip(wanted) {
            let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
            assert!(
                found.1.zip(wanted).map_or(found.1 == wanted, |(a, b)| near(a, b)),
                "{found:?}"
            );
        }
        assert_eq!(verdicts(&[p(0.03), p(0.04)])[0].0, Verdict::Inconclusive);
    }

    proptest! {
        #[test]
        fn holm_is_between_nothing_and_bonferroni(p in prop::collection::vec(0f64..1.0, 1..12)) {
            let found = holm(&p);
            for i in 0..p.len() {
                prop_assert!(found[i] >= p[i] && found[i] <= (p[i] * p.len() as f64).min(1.0));
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || found[i] <= found[j]);
                }
            }
            let least = p.iter().copied().fold(1.0, f64::min);
            let first = found.iter().copied().fold(1.0, f64::min);
            prop_assert!((first - (least * p.len() as f64).min(1.0)).abs() < 1e-12);
        }
    }
}
