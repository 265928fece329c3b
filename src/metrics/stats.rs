//! Means with standard errors and intervals, where the values come in clusters: images of one
//! prompt resemble each other, so that prompts and not images are what is drawn again.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use crate::rng::Rng;

/// Draws of a bootstrap: the ends of an interval are good to about a fortieth of its width.
pub(super) const DRAWS: usize = 4000;
/// Of an interval.
pub(super) const CONFIDENCE: f64 = 0.95;

/// A mean and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error, from the spread between groups; infinite where there is one group.
    pub se: f64,
    /// Lower end of the 95 % interval; −∞ where there is one group.
    pub low: f64,
    /// Upper end of the 95 % interval; ∞ where there is one group.
    pub high: f64,
    /// Values (images).
    pub n: usize,
    /// Groups (prompts) that the values fall into.
    pub groups: usize,
}

impl Estimate {
    /// A number without a spread.
    fn bare(mean: f64, n: usize, groups: usize) -> Self {
        let inf = f64::INFINITY;
        Estimate { mean, se: inf, low: -inf, high: inf, n, groups }
    }

    /// A normal estimate from a standard error.
    pub fn normal(mean: f64, se: f64, n: usize) -> Self {
        if !se.is_finite() {
            return Estimate::bare(mean, n, n);
        }
        let half = z95() * se;
        Estimate { mean, se, low: mean - half, high: mean + half, n, groups: n }
    }

    /// The interval, where there is one.
    pub fn interval(&self) -> Option<(f64, f64)> {
        (self.low.is_finite() && self.high.is_finite()).then_some((self.low, self.high))
    }

    /// Half the interval's width: what stands behind ± in tables.
    pub fn half_width(&self) -> Option<f64> {
        self.interval().map(|(low, high)| (high - low) / 2.0)
    }

    /// Student's interval from the standard error, for a confidence that few draws of a bootstrap
    /// cannot show; infinite where there is one group.
    pub fn t_interval(&self, confidence: f64) -> (f64, f64) {
        if !self.se.is_finite() || self.groups < 2 {
            return (f64::NEG_INFINITY, f64::INFINITY);
        }
        let t = StudentsT::new(0.0, 1.0, (self.groups - 1) as f64).expect("two groups or more");
        let half = self.se * t.inverse_cdf(0.5 + confidence / 2.0);
        (self.mean - half, self.mean + half)
    }

    /// Whether the interval lies on one side of zero.
    pub fn excludes_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// Values that are averaged on their own, such as those of one concept, with the group (prompt) of
/// each.
#[derive(Clone, Debug, Default)]
pub struct Stratum {
    /// The values.
    pub values: Vec<f64>,
    /// The group of each value.
    pub groups: Vec<usize>,
}

/// Mean of the values with its standard error and 95 % bootstrap interval over groups. No value
/// gives a mean that is not a number.
///
/// # Panics
/// Where there is not one group for each value.
pub fn estimate(values: &[f64], groups: &[usize], seed: u64) -> Estimate {
    pooled(&[Stratum { values: values.to_vec(), groups: groups.to_vec() }], seed)
}

/// The estimate of the mean of `a[i] − b[i]`: two methods with the same prompts and seeds.
///
/// # Panics
/// Where the lengths differ.
pub fn paired_difference(a: &[f64], b: &[f64], groups: &[usize], seed: u64) -> Estimate {
    assert_eq!(a.len(), b.len(), "pairs");
    let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    estimate(&difference, groups, seed)
}

/// Mean of the strata's means (each stratum counts the same), with the interval of a bootstrap that
/// draws groups again within each stratum.
///
/// A percentile interval is too narrow for few groups. It is widened here to what Student's t would
/// give for normal values (Hesterberg 2015, arXiv:1411.5279: the "expanded percentile" interval).
///
/// # Panics
/// Where a stratum has not one group for each value.
pub fn pooled(strata: &[Stratum], seed: u64) -> Estimate {
    let strata = sums(strata);
    let found = spread(&strata);
    if !found.se.is_finite() {
        return found;
    }
    let mut rng = Rng::new(seed, "bootstrap");
    let share = 1.0 / strata.len() as f64;
    let mut means: Vec<f64> =
        (0..DRAWS).map(|_| share * strata.iter().map(|s| s.again(&mut rng)).sum::<f64>()).collect();
    means.sort_by(f64::total_cmp);
    let tail = tail(&strata);
    let (low, high) = (quantile(&means, tail), quantile(&means, 1.0 - tail));
    Estimate { low, high, ..found }
}

/// [`pooled`] with Student's interval: nothing is drawn.
///
/// # Panics
/// As [`pooled`].
pub fn student(strata: &[Stratum]) -> Estimate {
    let found = spread(&sums(strata));
    let (low, high) = found.t_interval(CONFIDENCE);
    Estimate { low, high, ..found }
}

fn sums(strata: &[Stratum]) -> Vec<Sums> {
    strata.iter().filter(|s| !s.values.is_empty()).map(Sums::new).collect()
}

/// Mean and standard error.
fn spread(strata: &[Sums]) -> Estimate {
    let n = strata.iter().map(|s| s.count as usize).sum();
    let groups = strata.iter().map(|s| s.of.len()).sum();
    let share = 1.0 / strata.len() as f64;
    // of nothing: not a number
    let mean = share * strata.iter().map(Sums::mean).sum::<f64>();
    let found = Estimate::bare(mean, n, groups);
    // one group says nothing about the spread between groups
    if strata.iter().any(|s| s.of.len() < 2) || !mean.is_finite() {
        return found;
    }
    let se = share * strata.iter().map(Sums::variance).sum::<f64>().sqrt();
    Estimate { se, ..found }
}

/// What is left out at each end of the sorted means.
fn tail(strata: &[Sums]) -> f64 {
    let groups = strata.iter().map(|s| s.of.len() as f64);
    let freedom: f64 = groups.clone().map(|g| g - 1.0).sum();
    let narrow = groups.map(|g| g / (g - 1.0)).sum::<f64>() / strata.len() as f64;
    let t = StudentsT::new(0.0, 1.0, freedom).expect("two groups or more");
    let t = t.inverse_cdf(0.5 + CONFIDENCE / 2.0);
    Normal::standard().cdf(-narrow.sqrt() * t)
}

/// The sums of a stratum's groups.
struct Sums {
    of: Vec<(f64, f64)>,
    sum: f64,
    count: f64,
}

impl Sums {
    fn new(stratum: &Stratum) -> Self {
        assert_eq!(stratum.values.len(), stratum.groups.len(), "a group for each value");
        let mut of = std::collections::BTreeMap::<usize, (f64, f64)>::new();
        for (value, group) in stratum.values.iter().zip(&stratum.groups) {
            let (sum, count) = of.entry(*group).or_default();
            *sum += value;
            *count += 1.0;
        }
        let of: Vec<_> = of.into_values().collect();
        let (sum, count) = of.iter().fold((0.0, 0.0), |(s, c), g| (s + g.0, c + g.1));
        Sums { of, sum, count }
    }

    fn mean(&self) -> f64 {
        self.sum / self.count
    }

    /// Of the mean, between groups, which may be of different sizes.
    fn variance(&self) -> f64 {
        let (mean, groups) = (self.mean(), self.of.len() as f64);
        let spread: f64 = self.of.iter().map(|(sum, count)| (sum - count * mean).powi(2)).sum();
        groups / (groups - 1.0) * spread / self.count.powi(2)
    }

    fn again(&self, rng: &mut Rng) -> f64 {
        let mut total = (0.0, 0.0);
        for _ in 0..self.of.len() {
            let (sum, count) = self.of[rng.below(self.of.len())];
            total = (total.0 + sum, total.1 + count);
        }
        total.0 / total.1
    }
}

/// Between neighbours of a sorted list.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// The normal distribution's 97.5 % quantile.
pub fn z95() -> f64 {
    Normal::standard().inverse_cdf(0.5 + CONFIDENCE / 2.0)
}

/// Wilson's 95 % interval of a share.
pub fn wilson(hits: usize, of: usize) -> (f64, f64) {
    if of == 0 {
        return (0.0, 1.0);
    }
    let (n, p, z) = (of as f64, hits as f64 / of as f64, z95());
    let centre = p + z * z / (2.0 * n);
    let spread = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    (((centre - spread) / scale).max(0.0), ((centre + spread) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use proptest::prelude::*;

    use crate::rng::Rng;

    fn normals(rng: &mut Rng, n: usize) -> Vec<f64> {
        let x = rng.normal(n, &Device::Cpu).unwrap();
        x.to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
    }

    /// Values of `prompts` prompts with `images` each, which share half of their variance.
    fn clustered(rng: &mut Rng, prompts: usize, images: usize) -> Stratum {
        let (of_prompt, of_image) = (normals(rng, prompts), normals(rng, prompts * images));
        let groups: Vec<usize> = (0..prompts * images).map(|i| i / images).collect();
        let values = groups.iter().zip(of_image).map(|(&g, own)| of_prompt[g] + own).collect();
        Stratum { values, groups }
    }

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        let mut rng = Rng::new(1, "test");
        for (prompts, strata) in [(5, 1), (20, 1), (8, 3)] {
            let runs = 400;
            let hold = (0..runs)
                .filter(|&i| {
                    let s: Vec<_> = (0..strata).map(|_| clustered(&mut rng, prompts, 4)).collect();
                    !pooled(&s, i).excludes_zero()
                })
                .count();
            let (low, high) = wilson(hold, runs as usize);
            assert!(low < 0.96 && high > 0.935, "{prompts} prompts: {hold} of {runs}");
        }
    }

    #[test]
    fn the_standard_error_is_that_of_the_mean() {
        let mut rng = Rng::new(2, "test");
        let all: Vec<Estimate> = (0..300)
            .map(|_| {
                let s = clustered(&mut rng, 10, 4);
                estimate(&s.values, &s.groups, 0)
            })
            .collect();
        let std = (all.iter().map(|e| e.mean.powi(2)).sum::<f64>() / 300.0).sqrt();
        let se = all.iter().map(|e| e.se).sum::<f64>() / 300.0;
        assert!((se / std - 1.0).abs() < 0.12, "{se} {std}");
    }

    #[test]
    fn one_prompt_has_a_mean_and_no_interval() {
        let found = estimate(&[1.0, 2.0], &[3, 3], 0);
        assert_eq!((found.mean, found.n, found.groups), (1.5, 2, 1));
        assert_eq!(found.interval(), None);
        assert!(!found.excludes_zero());
        assert!(estimate(&[], &[], 0).mean.is_nan());
    }

    #[test]
    fn students_interval_is_near_the_bootstraps() {
        let mut rng = Rng::new(4, "test");
        let strata: Vec<_> = (0..3).map(|_| clustered(&mut rng, 12, 4)).collect();
        let (t, drawn) = (student(&strata), pooled(&strata, 0));
        assert_eq!((t.mean, t.se, t.n, t.groups), (drawn.mean, drawn.se, drawn.n, drawn.groups));
        let wide = t.half_width().unwrap() / drawn.half_width().unwrap();
        assert!((wide - 1.0).abs() < 0.1, "{wide}");
    }

    #[test]
    fn strata_count_the_same_whatever_their_size() {
        let many = Stratum { values: vec![1.0; 30], groups: (0..30).collect() };
        let few = Stratum { values: vec![0.0; 2], groups: vec![0, 1] };
        let found = pooled(&[many, few, Stratum::default()], 0);
        assert_eq!((found.mean, found.n, found.groups), (0.5, 32, 32));
        assert_eq!(found.interval(), Some((0.5, 0.5)));
    }

    #[test]
    fn pairs_see_through_the_prompts_own_spread() {
        let mut rng = Rng::new(3, "test");
        let s = clustered(&mut rng, 10, 4);
        let better: Vec<f64> =
            s.values.iter().zip(normals(&mut rng, 40)).map(|(v, e)| v + 0.1 + 0.02 * e).collect();
        let paired = paired_difference(&better, &s.values, &s.groups, 0);
        assert!(paired.excludes_zero() && paired.low > 0.08 && paired.high < 0.12);
        let alone = estimate(&better, &s.groups, 0);
        assert!(alone.half_width() > paired.half_width());
    }

    #[test]
    fn wilson_intervals_at_known_values() {
        let (low, high) = wilson(90, 100);
        assert!((low - 0.8256).abs() < 1e-4 && (high - 0.9448).abs() < 1e-4, "{low} {high}");
        assert!(wilson(0, 10).0 < 1e-9);
        assert!(wilson(10, 10).1 > 1.0 - 1e-9);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn shifting_and_scaling_values_shifts_and_scales_estimates(
            values in prop::collection::vec(-1f64..1.0, 6..20),
            shift in -5f64..5.0,
            scale in 0.1f64..10.0,
        ) {
            let groups: Vec<usize> = (0..values.len()).map(|i| i % 5).collect();
            let one = estimate(&values, &groups, 9);
            let moved: Vec<f64> = values.iter().map(|v| v * scale + shift).collect();
            let other = estimate(&moved, &groups, 9);
            for (a, b) in [(one.mean, other.mean), (one.low, other.low), (one.high, other.high)] {
                prop_assert!((a * scale + shift - b).abs() < 1e-9);
            }
            prop_assert!((one.se * scale - other.se).abs() < 1e-9);
            prop_assert!(one.low <= one.mean + 1e-12 && one.mean <= one.high + 1e-12);
        }
    }
}
