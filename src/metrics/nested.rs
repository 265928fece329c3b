//! Differences whose values lie within each other: concept sets, the trainings of each, the prompts of
//! each training.
//!
//! A claim speaks of concepts in general, and those that were tried are a few of many. So concept sets
//! are what is drawn again; trainings and prompts are drawn again within them.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use super::stats::{CONFIDENCE, DRAWS, quantile, z95};
use crate::rng::Rng;

/// The power that a difference has to be seen with to count as visible.
const POWER: f64 = 0.8;

/// Values within values. The outermost are concept sets.
#[derive(Clone, Debug, PartialEq)]
pub enum Nested {
    /// A value, with its own standard error where it brings one.
    Value {
        /// The value.
        value: f64,
        /// Its standard error.
        se: Option<f64>,
    },
    /// Values that are averaged, each counting the same.
    Of(Vec<Nested>),
}

/// A difference, and how far it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The mean over concept sets.
    pub mean: f64,
    /// Its standard error; infinite where nothing tells.
    pub se: f64,
    /// The degrees of freedom of the standard error; infinite where it is known.
    pub freedom: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
    /// Whether this holds for concepts that were not tried. Where only one concept set was, the spread
    /// is that within it.
    pub over_concepts: bool,
}

/// The mean of paired differences.
pub fn paired(differences: &Nested, seed: u64) -> Spread {
    spread(&[(1.0, differences)], seed)
}

/// The difference between the means of concept sets and of others. Both are taken to spread alike, so
/// that one set on one side can be held against several on the other.
pub fn unpaired(a: &Nested, b: &Nested, seed: u64) -> Spread {
    spread(&[(1.0, a), (-1.0, b)], seed)
}

/// Student's interval and a bootstrap each have half of what is wanted. The bootstrap knows how skewed
/// the differences are, but draws what is within sets a second time, since the spread between sets holds
/// it already, and has no values beyond those of few sets; the standard error of the sets' means, with
/// Student's quantile, is as wide as it has to be. So the bootstrap's interval is stretched to that width
/// (the idea of the "expanded percentile" interval, as in [`pooled`](super::pooled); shifting the
/// percentiles alone cannot reach beyond the sets that there are).
fn spread(sides: &[(f64, &Nested)], seed: u64) -> Spread {
    let mean = sides.iter().map(|(sign, of)| sign * of.mean()).sum();
    let within: Option<f64> = sides.iter().map(|(_, of)| of.within()).sum();
    let between = between(sides);
    let over_concepts = between.is_some();
    let (variance, freedom) = match (between, within) {
        // by chance a few sets can be nearer to each other than each of them is known
        (Some((variance, freedom)), within) => (variance.max(within.unwrap_or(0.0)), freedom),
        (None, Some(variance)) => {
            let sets = sides.iter().flat_map(|(_, of)| of.parts());
            (variance, sets.map(Nested::freedom).fold(f64::INFINITY, f64::min))
        }
        (None, None) => (f64::INFINITY, f64::INFINITY),
    };
    let se = variance.sqrt();
    let bare =
        Spread { mean, se, freedom, low: -f64::INFINITY, high: f64::INFINITY, over_concepts };
    if !se.is_finite() || !mean.is_finite() {
        return Spread { se: f64::INFINITY, over_concepts: false, ..bare };
    }
    let mut rng = Rng::new(seed, "nested bootstrap");
    let mut draw = || sides.iter().map(|(sign, of)| sign * of.again(&mut rng)).sum::<f64>() - mean;
    let mut drawn: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
    let own = (drawn.iter().map(|d| d * d).sum::<f64>() / DRAWS as f64).sqrt();
    let half = student(freedom, 0.5 + CONFIDENCE / 2.0) * se;
    if own <= 1e-12 * se {
        return Spread { low: mean - half, high: mean + half, ..bare };
    }
    drawn.sort_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let stretch = half / (z95() * own);
    let end = |at: f64| mean + stretch * quantile(&drawn, at);
    Spread { low: end(tail), high: end(1.0 - tail), ..bare }
}

/// The variance of a difference of means from the spread between sets, with its degrees of freedom; none
/// where no side has two sets.
fn between(sides: &[(f64, &Nested)]) -> Option<(f64, f64)> {
    let sets: Vec<&[Nested]> = sides.iter().map(|(_, of)| of.parts()).collect();
    let freedom = sets.iter().map(|s| s.len().saturating_sub(1)).sum::<usize>() as f64;
    let shares: f64 = sets.iter().map(|s| 1.0 / s.len() as f64).sum();
    let squares: f64 = sides.iter().map(|(_, of)| of.squares()).sum();
    (freedom > 0.0).then(|| (squares / freedom * shares, freedom))
}

impl Nested {
    /// Values without errors of their own.
    pub fn values(values: impl IntoIterator<Item = f64>) -> Self {
        Nested::Of(values.into_iter().map(|value| Nested::Value { value, se: None }).collect())
    }

    /// The mean; of nothing, not a number.
    pub fn mean(&self) -> f64 {
        match self {
            Nested::Value { value, .. } => *value,
            Nested::Of(parts) => parts.iter().map(Nested::mean).sum::<f64>() / parts.len() as f64,
        }
    }

    /// How many parts it has.
    pub fn count(&self) -> usize {
        self.parts().len()
    }

    fn parts(&self) -> &[Nested] {
        match self {
            Nested::Value { .. } => &[],
            Nested::Of(parts) => parts,
        }
    }

    /// Squares of the distances of its parts from their mean.
    fn squares(&self) -> f64 {
        let mean = self.mean();
        self.parts().iter().map(|part| (part.mean() - mean).powi(2)).sum()
    }

    /// The variance of the mean if the parts were given, from what is within them.
    fn within(&self) -> Option<f64> {
        let parts = self.parts();
        let sum: Option<f64> = parts.iter().map(Nested::variance).sum();
        sum.filter(|_| !parts.is_empty()).map(|sum| sum / (parts.len() as f64).powi(2))
    }

    /// The variance of the mean, from the spread between its parts; of a single part, from that within
    /// it.
    fn variance(&self) -> Option<f64> {
        match self {
            Nested::Value { se, .. } => se.map(|se| se * se),
            Nested::Of(parts) if parts.len() < 2 => self.within(),
            Nested::Of(parts) => {
                let count = parts.len() as f64;
                let between = self.squares() / (count * (count - 1.0));
                Some(between.max(self.within().unwrap_or(0.0)))
            }
        }
    }

    /// The degrees of freedom of [`variance`](Nested::variance); infinite where it is a value's own.
    fn freedom(&self) -> f64 {
        match self.parts() {
            [] => f64::INFINITY,
            [part] => part.freedom(),
            parts => (parts.len() - 1) as f64,
        }
    }

    /// The mean of parts that are drawn again, on every level.
    fn again(&self, rng: &mut Rng) -> f64 {
        match self {
            Nested::Value { value, se } => value + se.map_or(0.0, |se| se * rng.gaussian()),
            Nested::Of(parts) => {
                let count = parts.len();
                let sum: f64 = (0..count).map(|_| parts[rng.below(count)].again(rng)).sum();
                sum / count as f64
            }
        }
    }
}

impl Spread {
    /// The interval, where there is one.
    pub fn interval(&self) -> Option<(f64, f64)> {
        (self.low.is_finite() && self.high.is_finite()).then_some((self.low, self.high))
    }

    /// The smallest difference (from a margin) that would have been seen with a power of 80 %, two-sided
    /// at 5 %.
    pub fn visible(&self) -> Option<f64> {
        let quantiles =
            || student(self.freedom, 0.5 + CONFIDENCE / 2.0) + student(self.freedom, POWER);
        self.se.is_finite().then(|| self.se * quantiles())
    }

    /// The two-sided p-value of a distance from a margin, by Student's t: a bootstrap would need far
    /// more draws for the small values that a correction for many claims asks for. None where nothing
    /// tells how sure the difference is: values that are all the same are no certainty.
    pub fn p(&self, distance: f64) -> Option<f64> {
        let known = self.se.is_finite() && self.se > 1e-12 * self.mean.abs();
        known.then(|| 2.0 * below(self.freedom, -distance.abs() / self.se))
    }
}

fn student(freedom: f64, share: f64) -> f64 {
    match StudentsT::new(0.0, 1.0, freedom) {
        Ok(t) if freedom.is_finite() => t.inverse_cdf(share),
        _ => Normal::standard().inverse_cdf(share),
    }
}

fn below(freedom: f64, t: f64) -> f64 {
    match StudentsT::new(0.0, 1.0, freedom) {
        Ok(of) if freedom.is_finite() => of.cdf(t),
        _ => Normal::standard().cdf(t),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::metrics::wilson;
    use crate::rng::Rng;

    /// How much concepts, trainings and prompts differ.
    #[derive(Clone, Copy)]
    struct Model {
        sets: usize,
        seeds: usize,
        prompts: usize,
        between: [f64; 3],
    }

    impl Model {
        fn draw(self, rng: &mut Rng) -> Nested {
            let [set, seed, prompt] = self.between;
            let sets = (0..self.sets).map(|_| {
                let set = set * rng.gaussian();
                let seeds = (0..self.seeds).map(|_| {
                    let seed = set + seed * rng.gaussian();
                    Nested::values((0..self.prompts).map(|_| seed + prompt * rng.gaussian()))
                });
                Nested::Of(seeds.collect())
            });
            Nested::Of(sets.collect())
        }
    }

    const RUNS: usize = 250;

    /// How many of the runs have an interval with the true difference, zero, in it; and that p-values
    /// say the same.
    fn cover(mut run: impl FnMut(&mut Rng) -> Spread) -> usize {
        let mut rng = Rng::new(5, "test");
        let found: Vec<Spread> = (0..RUNS).map(|_| run(&mut rng)).collect();
        let hold = found.iter().filter(|f| f.low <= 0.0 && 0.0 <= f.high).count();
        let tested = found.iter().filter(|f| f.p(f.mean).unwrap() > 0.05).count();
        assert!(hold.abs_diff(tested) < RUNS / 40, "{hold} by intervals, {tested} by p-values");
        hold
    }

    #[test]
    fn intervals_cover_concepts_that_were_not_tried() {
        let mut report = vec![];
        for sets in [2, 3, 4, 6, 10] {
            for (seeds, between) in
                [(1, [1.0, 0.0, 1.0]), (3, [0.5, 0.5, 1.0]), (1, [0.0, 0.0, 1.0])]
            {
                let model = Model { sets, seeds, prompts: 6, between };
                let hold = cover(|rng| paired(&model.draw(rng), 0));
                report.push(format!("{sets} sets, {seeds} seeds, {between:?}: {hold} of {RUNS}"));
                // as often as they say, as far as so many runs can tell
                assert!(hold * 10 >= 9 * RUNS && wilson(hold, RUNS).1 > 0.95, "{report:#?}");
            }
        }
        println!("{report:#?}");
    }

    #[test]
    fn one_set_against_several_is_covered_too() {
        for (few, many) in [(1, 3), (2, 3), (5, 5)] {
            let model = |sets| Model { sets, seeds: 1, prompts: 6, between: [1.0, 0.0, 1.0] };
            let hold = cover(|rng| unpaired(&model(few).draw(rng), &model(many).draw(rng), 0));
            assert!(wilson(hold, RUNS).0 > 0.90, "{few} against {many}: {hold} of {RUNS}");
        }
    }

    #[test]
    fn errors_of_sets_own_are_not_counted_twice() {
        // true values that spread by 1, each measured with an error of 1
        let hold = cover(|rng| {
            let value = |rng: &mut Rng| Nested::Value {
                value: rng.gaussian() + rng.gaussian(),
                se: Some(1.0),
            };
            paired(&Nested::Of((0..8).map(|_| Nested::Of(vec![value(rng)])).collect()), 0)
        });
        let (low, high) = wilson(hold, RUNS);
        assert!(low > 0.90 && high < 0.995, "{hold} of {RUNS}");
    }

    #[test]
    fn what_is_called_visible_is_seen_four_times_in_five() {
        let model = Model { sets: 8, seeds: 1, prompts: 6, between: [1.0, 0.0, 1.0] };
        let mut rng = Rng::new(6, "test");
        let truth = 3.3 * ((1.0 + 1.0 / 6.0) / 8.0f64).sqrt();
        let runs: Vec<Spread> = (0..RUNS).map(|_| paired(&model.draw(&mut rng), 0)).collect();
        let visible = runs.iter().map(|r| r.visible().unwrap()).sum::<f64>() / RUNS as f64;
        assert!((visible / truth - 1.0).abs() < 0.1, "{visible} {truth}");
        let seen = runs.iter().filter(|r| r.p(r.mean + visible).unwrap() < 0.05).count();
        let (low, high) = wilson(seen, RUNS);
        assert!(low < 0.85 && high > 0.75, "{seen} of {RUNS}");
    }

    #[test]
    fn one_concept_set_says_nothing_of_others() {
        let alone = Nested::Of(vec![Nested::Of(vec![Nested::values([1.0, 2.0, 3.0])])]);
        let found = paired(&alone, 0);
        assert!(!found.over_concepts && found.mean == 2.0 && found.freedom == 2.0);
        assert!((found.se - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
        // a value that brings its own error
        let value = |se| Nested::Of(vec![Nested::Of(vec![Nested::Value { value: 1.0, se }])]);
        let found = paired(&value(Some(0.5)), 0);
        assert!(!found.over_concepts && found.se == 0.5 && found.interval().is_some());
        assert_eq!(found.freedom, f64::INFINITY);
        let found = paired(&value(None), 0);
        assert_eq!((found.interval(), found.p(1.0), found.visible()), (None, None, None));
        let found = unpaired(&value(Some(3.0)), &value(Some(4.0)), 0);
        assert!(!found.over_concepts && found.se == 5.0 && found.mean == 0.0);
    }

    #[test]
    fn sets_that_agree_by_chance_are_no_surer_than_their_prompts() {
        let set = |values: [f64; 2]| Nested::Of(vec![Nested::values(values)]);
        let found = paired(&Nested::Of(vec![set([0.0, 2.0]), set([-1.0, 3.0])]), 0);
        assert!(found.over_concepts && found.mean == 1.0);
        assert!((found.se - (1.0f64 + 4.0).sqrt() / 2.0).abs() < 1e-12, "{}", found.se);
        let same = paired(&Nested::Of(vec![set([1.0; 2]), set([1.0; 2])]), 0);
        assert_eq!((same.interval(), same.p(1.0)), (Some((1.0, 1.0)), None));
    }

    fn shape() -> impl Strategy<Value = Vec<Vec<Vec<f64>>>> {
        let values = || prop::collection::vec(-1f64..1.0, 2..5);
        prop::collection::vec(prop::collection::vec(values(), 1..3), 2..6)
    }

    fn nested(values: &[Vec<Vec<f64>>], of: impl Fn(f64) -> f64 + Copy) -> Nested {
        let set = |seeds: &Vec<Vec<f64>>| {
            Nested::Of(seeds.iter().map(|v| Nested::values(v.iter().map(|x| of(*x)))).collect())
        };
        Nested::Of(values.iter().map(set).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn another_unit_or_origin_changes_nothing_else(
            values in shape(), shift in -5f64..5.0, scale in 0.1f64..10.0,
        ) {
            let one = paired(&nested(&values, |x| x), 3);
            let other = paired(&nested(&values, |x| x * scale + shift), 3);
            for (a, b) in [(one.mean, other.mean), (one.low, other.low), (one.high, other.high)] {
                prop_assert!((a * scale + shift - b).abs() < 1e-8);
            }
            prop_assert!((one.se * scale - other.se).abs() < 1e-9);
            prop_assert!(one.low <= one.mean && one.mean <= one.high);
            let (p, moved) = (one.p(one.mean).unwrap(), other.p(other.mean - shift).unwrap());
            prop_assert!((p - moved).abs() < 1e-6 && p > 0.0 && p <= 1.0);
            prop_assert!(one.p(2.0 * one.mean).unwrap() <= p + 1e-12);
        }

        #[test]
        fn a_side_of_its_own_is_no_surer_than_a_pair(values in shape(), other in shape()) {
            let (a, b) = (nested(&values, |x| x), nested(&other, |x| x));
            let found = unpaired(&a, &b, 3);
            let turned = unpaired(&b, &a, 3);
            prop_assert!((found.mean + turned.mean).abs() < 1e-12);
            prop_assert!((found.se - turned.se).abs() < 1e-12);
            prop_assert!((found.mean - (a.mean() - b.mean())).abs() < 1e-12);
            prop_assert_eq!(found.freedom, (values.len() + other.len() - 2) as f64);
        }
    }
}
