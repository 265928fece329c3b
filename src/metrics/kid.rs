//! The kernel distance between two sets of images (Bińkowski et al. 2018, arXiv:1801.01401), on
//! the features given.

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::{Better, Given, Gives, Measure, Need, Outcome, SetValue, Shown};
use crate::rng::Rng;
use crate::{Error, Result};

/// Subsets that KID is the mean of.
pub const KID_SUBSETS: usize = 100;
/// Rows of a subset, at most.
pub const KID_SUBSET: usize = 1000;
/// Kernels of whole sets are kept up to this many rows (three matrices of 128 MiB); larger sets
/// have the kernels of their subsets computed one by one.
const WHOLE: usize = 4096;
/// Of the subsets of every KID.
const SEED: u64 = 2020;

/// A kernel distance and how it came about. In tables it is shown times 10³.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kid {
    /// Mean over the subsets: the distance.
    pub mean: f64,
    /// Standard deviation over the subsets (÷ subsets): torch-fidelity's. It tells how far the
    /// choice of subsets moves the distance, and is 0 where a subset is all there is.
    pub std: f64,
    /// Standard error from both sets being samples: the jackknife's, over single images.
    pub se: f64,
    /// The part of it that comes from the first set, the generated images. Two methods measured
    /// against the same real images differ by this noise and not by that of the real images.
    pub se_generated: f64,
    /// Subsets that were drawn.
    pub subsets: usize,
    /// Rows of each subset, of either set.
    pub m: usize,
    /// Rows of the two sets.
    pub n: [usize; 2],
}

/// Of the concept's category, or of everything.
pub(super) struct KernelDistance {
    pub general: bool,
}

impl Measure for KernelDistance {
    fn name(&self) -> &'static str {
        if self.general { "kid-general" } else { "kid" }
    }

    fn title(&self) -> &'static str {
        if self.general { "general KID" } else { "KID" }
    }

    fn definition(&self) -> &'static str {
        "kernel (x·y/d + 1)³, unbiased, mean over 100 subsets of 1000 images at most"
    }

    fn better(&self) -> Better {
        Better::Less
    }

    fn shown(&self) -> Shown<'_> {
        Shown { scale: 1e3, unit: "×10³", digits: 2 }
    }

    fn tolerance(&self) -> f64 {
        0.001
    }

    fn need(&self) -> Need {
        if self.general { Need::GeneralImages } else { Need::RealImages }
    }

    fn gives(&self) -> Gives {
        Gives::Set
    }

    /// Elsewhere it is of Inception's.
    fn titled_by_extractor(&self) -> bool {
        true
    }

    fn measure(&self, given: &Given) -> Result<Option<Outcome>> {
        let found = kid(given.images, given.against, KID_SUBSETS, KID_SUBSET, SEED)?;
        let finite = |x: f64| Some(x).filter(|x| x.is_finite());
        let counts = [("real images", found.n[1]), ("subsets", found.subsets), ("m", found.m)];
        Ok(Some(Outcome::Set(SetValue {
            value: found.mean,
            se: finite(found.se),
            se_images: finite(found.se_generated),
            n: found.n[0],
            counts: counts.map(|(name, n)| (name.to_owned(), n)).into(),
        })))
    }
}

/// Rows of the first and of the second set.
pub type Subset = [Vec<usize>; 2];

/// KID of two sets of features [n₁, d] and [n₂, d], generated and real: kernel `(x·y/d + 1)³`,
/// unbiased, mean over `subsets` draws without replacement of `m` rows of either set. `m` is cut to
/// the smaller set; where both sets have just `m` rows, all draws are equal and one is computed.
///
/// # Errors
/// Sets of fewer than two rows or of different widths; features that are not finite.
pub fn kid(
    a: ArrayView2<f32>,
    b: ArrayView2<f32>,
    subsets: usize,
    m: usize,
    seed: u64,
) -> Result<Kid> {
    let n = [a.nrows(), b.nrows()];
    let m = m.min(n[0]).min(n[1]);
    let subsets = if n == [m, m] { 1 } else { subsets.max(1) };
    let mut rng = Rng::new(seed, "kid");
    let drawn: Vec<Subset> =
        (0..subsets).map(|_| n.map(|n| without_replacement(&mut rng, n, m))).collect();
    kid_over(a, b, &drawn)
}

/// [`kid`] over given subsets, all of the same number of rows.
///
/// # Errors
/// As [`kid`]; no subset, subsets of different sizes, or a row that is not there.
pub fn kid_over(a: ArrayView2<f32>, b: ArrayView2<f32>, subsets: &[Subset]) -> Result<Kid> {
    let n = [a.nrows(), b.nrows()];
    if a.ncols() != b.ncols() || a.ncols() == 0 {
        let message = format!("KID of features of width {} and {}", a.ncols(), b.ncols());
        return Err(Error::input_hint(message, "both sets must be embedded by the same model"));
    }
    let m = subsets.first().map_or(0, |[x, _]| x.len());
    if m < 2 {
        let message = format!("KID of {} against {} images: each needs two or more", n[0], n[1]);
        return Err(Error::input(message));
    }
    let fits = |rows: &Vec<usize>, n| rows.len() == m && rows.iter().all(|&row| row < n);
    if !subsets.iter().all(|[x, y]| fits(x, n[0]) && fits(y, n[1])) {
        return Err(Error::input("KID: subsets of different sizes, or beyond the features"));
    }
    if !a.iter().chain(b.iter()).all(|x| x.is_finite()) {
        return Err(Error::input("KID: features that are not finite"));
    }
    let (a, b) = (a.mapv(f64::from), b.mapv(f64::from));
    let (values, [se_generated, se_real]): (Vec<f64>, _) = if n[0].max(n[1]) <= WHOLE {
        let kernels = Kernels::new(&a, &b);
        let values = subsets.par_iter().map(|[x, y]| kernels.distance(x, y)).collect();
        (values, kernels.jackknife())
    } else {
        let all: Vec<usize> = (0..m).collect();
        let of = |[x, y]: &Subset| Kernels::new(&a.select(Axis(0), x), &b.select(Axis(0), y));
        let values = subsets.iter().map(|s| of(s).distance(&all, &all)).collect();
        // an error falls with the square root of the rows: from those of a subset to all there are
        let se = of(&subsets[0]).jackknife();
        let scale = |i: usize| se[i] * (m as f64 / n[i] as f64).sqrt();
        (values, [scale(0), scale(1)])
    };
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count).sqrt();
    let se = se_generated.hypot(se_real);
    Ok(Kid { mean, std, se, se_generated, subsets: values.len(), m, n })
}

/// `m` of the numbers below `n`, each at most once.
fn without_replacement(rng: &mut Rng, n: usize, m: usize) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..n).collect();
    if m < n {
        for i in 0..m {
            rows.swap(i, i + rng.below(n - i));
        }
        rows.truncate(m);
    }
    rows
}

/// The kernel within and between two sets.
struct Kernels {
    aa: Array2<f64>,
    bb: Array2<f64>,
    ab: Array2<f64>,
}

impl Kernels {
    fn new(a: &Array2<f64>, b: &Array2<f64>) -> Self {
        let d = a.ncols() as f64;
        let kernel = |x: &Array2<f64>, y: &Array2<f64>| {
            let mut k = x.dot(&y.t());
            k.mapv_inplace(|v| (v / d + 1.0).powi(3));
            k
        };
        Kernels { aa: kernel(a, a), bb: kernel(b, b), ab: kernel(a, b) }
    }

    /// The unbiased squared distance of the rows `x` of the first set and `y` of the second.
    fn distance(&self, x: &[usize], y: &[usize]) -> f64 {
        let within = |k: &Array2<f64>, rows: &[usize]| {
            let all: f64 = rows.iter().map(|&i| rows.iter().map(|&j| k[[i, j]]).sum::<f64>()).sum();
            let diagonal: f64 = rows.iter().map(|&i| k[[i, i]]).sum();
            (all - diagonal) / (rows.len() * (rows.len() - 1)) as f64
        };
        let across: f64 = x.iter().map(|&i| y.iter().map(|&j| self.ab[[i, j]]).sum::<f64>()).sum();
        within(&self.aa, x) + within(&self.bb, y) - 2.0 * across / (x.len() * y.len()) as f64
    }

    /// Standard errors of the distance of the whole sets, from leaving out each row of either set.
    fn jackknife(&self) -> [f64; 2] {
        let [n1, n2] = [self.aa.nrows(), self.bb.nrows()];
        let across = self.ab.sum();
        let one = |k: &Array2<f64>, cross: Vec<f64>, others: usize| -> f64 {
            let n = k.nrows();
            if n < 3 {
                return f64::INFINITY; // one row left is no set
            }
            let rows: Vec<f64> = k.outer_iter().enumerate().map(|(i, r)| r.sum() - r[i]).collect();
            let within: f64 = rows.iter().sum();
            let without: Vec<f64> = rows
                .iter()
                .zip(cross)
                .map(|(row, cross)| {
                    (within - 2.0 * row) / ((n - 1) * (n - 2)) as f64
                        - 2.0 * (across - cross) / ((n - 1) * others) as f64
                })
                .collect();
            let mean = without.iter().sum::<f64>() / n as f64;
            let spread: f64 = without.iter().map(|v| (v - mean).powi(2)).sum();
            (spread * (n - 1) as f64 / n as f64).sqrt()
        };
        [
            one(&self.aa, self.ab.sum_axis(Axis(1)).to_vec(), n2),
            one(&self.bb, self.ab.sum_axis(Axis(0)).to_vec(), n1),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn draw(rng: &mut Rng, n: usize, d: usize, shift: f64) -> Array2<f32> {
        let values = (rng.normal((n, d), &Device::Cpu).unwrap() + shift).unwrap();
        Array2::from_shape_vec((n, d), values.flatten_all().unwrap().to_vec1().unwrap()).unwrap()
    }

    fn all(a: &Array2<f32>, b: &Array2<f32>) -> Kid {
        kid(a.view(), b.view(), KID_SUBSETS, KID_SUBSET, 0).unwrap()
    }

    #[test]
    fn unbiased_around_zero_and_the_jackknife_knows_how_far() {
        let mut rng = Rng::new(1, "test");
        let runs: Vec<Kid> = (0..150)
            .map(|_| all(&draw(&mut rng, 40, 6, 0.0), &draw(&mut rng, 40, 6, 0.0)))
            .collect();
        let mean = runs.iter().map(|k| k.mean).sum::<f64>() / 150.0;
        let std = (runs.iter().map(|k| k.mean.powi(2)).sum::<f64>() / 150.0).sqrt();
        assert!(mean.abs() < 3.0 * std / 150f64.sqrt(), "{mean} of {std}");
        assert!(runs.iter().any(|k| k.mean < 0.0), "a biased estimate is never negative");
        let se = runs.iter().map(|k| k.se).sum::<f64>() / 150.0;
        // where the sets do not differ, the jackknife is on the safe side
        assert!(se > 0.8 * std && se < 2.5 * std, "{se} {std}");
    }

    #[test]
    fn the_jackknife_is_right_where_sets_differ() {
        let mut rng = Rng::new(2, "test");
        let real = draw(&mut rng, 60, 6, 0.0);
        let runs: Vec<Kid> = (0..150).map(|_| all(&draw(&mut rng, 60, 6, 1.0), &real)).collect();
        let mean = runs.iter().map(|k| k.mean).sum::<f64>() / 150.0;
        let std = (runs.iter().map(|k| (k.mean - mean).powi(2)).sum::<f64>() / 149.0).sqrt();
        let se = runs.iter().map(|k| k.se_generated).sum::<f64>() / 150.0;
        assert!(mean > 3.0 * std);
        assert!((se / std - 1.0).abs() < 0.25, "{se} {std}");
        assert!(runs.iter().all(|k| k.se > k.se_generated));
    }

    #[test]
    fn order_does_not_matter_and_seeds_do_little() {
        let mut rng = Rng::new(3, "test");
        let (a, b) = (draw(&mut rng, 30, 5, 0.0), draw(&mut rng, 30, 5, 1.0));
        let order: Vec<usize> = (0..30).rev().collect();
        let (one, other) = (all(&a, &b), all(&a.select(Axis(0), &order), &b));
        assert!((one.mean - other.mean).abs() < 1e-12 && (one.se - other.se).abs() < 1e-12);
        let same = all(&b, &a);
        assert!((one.mean - same.mean).abs() < 1e-12);

        let some = |seed| kid(a.view(), b.view(), 200, 20, seed).unwrap();
        assert_eq!(some(1), some(1));
        assert_ne!(some(1).mean, some(2).mean);
        assert!((some(1).mean - one.mean).abs() < some(1).std);
        assert_eq!((some(1).subsets, some(1).m, some(1).n), (200, 20, [30, 30]));
    }

    #[test]
    fn where_all_rows_are_drawn_one_draw_is_enough() {
        let mut rng = Rng::new(4, "test");
        let (a, b) = (draw(&mut rng, 12, 4, 0.0), draw(&mut rng, 12, 4, 0.5));
        let found = all(&a, &b);
        assert_eq!((found.subsets, found.m, found.std), (1, 12, 0.0));
        // a set against itself: the off-diagonal mean is below the full mean
        assert!(all(&a, &a).mean < 0.0);
    }

    #[test]
    fn large_sets_give_what_small_ones_give() {
        let mut rng = Rng::new(5, "test");
        let (a, b) = (draw(&mut rng, WHOLE + 1, 2, 0.0), draw(&mut rng, 50, 2, 0.4));
        let large = kid(a.view(), b.view(), 5, 50, 0).unwrap();
        let kept = Kernels::new(&a.mapv(f64::from), &b.mapv(f64::from));
        let mut rng = Rng::new(0, "kid");
        let mut sum = 0.0;
        for _ in 0..5 {
            let [x, y] = [WHOLE + 1, 50].map(|n| without_replacement(&mut rng, n, 50));
            sum += kept.distance(&x, &y);
        }
        assert!((large.mean - sum / 5.0).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let mut rng = Rng::new(6, "test");
        let (a, b) = (draw(&mut rng, 5, 4, 0.0), draw(&mut rng, 5, 3, 0.0));
        assert!(kid(a.view(), b.view(), 1, 5, 0).is_err());
        assert!(kid(a.view(), draw(&mut rng, 1, 4, 0.0).view(), 1, 5, 0).is_err());
        assert!(kid(a.view(), draw(&mut rng, 0, 4, 0.0).view(), 1, 5, 0).is_err());
        let mut bad = a.clone();
        bad[[2, 2]] = f32::NAN;
        assert!(kid(a.view(), bad.view(), 1, 5, 0).is_err());
        assert!(kid_over(a.view(), a.view(), &[[vec![0, 9], vec![0, 1]]]).is_err());
        assert!(kid_over(a.view(), a.view(), &[]).is_err());
    }
}
