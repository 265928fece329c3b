//! The distance between two sets of images by a Gaussian kernel of CLIP features (Jayasumana et al. 2024,
//! arXiv:2401.09603).

use ndarray::{Array1, Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::{Better, Given, Gives, Measure, Need, Outcome, SetValue, Shown, unit};
use crate::{Error, Result};

/// Width of the kernel.
const SIGMA: f64 = 10.0;
/// Rows whose kernels are held at a time.
const ROWS: usize = 256;

/// The squared distance, and its standard errors from the two sets being samples.
struct Mmd {
    value: f64,
    /// Infinite for a set of one.
    se: [f64; 2],
}

/// Of two sets of features [n₁, d] and [n₂, d], made length 1: `mean k_xx + mean k_yy − 2 mean k_xy`
/// with the diagonals in it, as it is published; the errors are the jackknife's, over single images.
fn mmd(a: ArrayView2<f32>, b: ArrayView2<f32>) -> Result<Mmd> {
    if a.ncols() != b.ncols() || a.is_empty() || b.is_empty() {
        return Err(Error::input(format!(
            "CMMD of features [{}, {}] and [{}, {}]",
            a.nrows(),
            a.ncols(),
            b.nrows(),
            b.ncols()
        )));
    }
    if !a.iter().chain(b.iter()).all(|x| x.is_finite()) {
        return Err(Error::input("CMMD: features that are not finite"));
    }
    let (a, b) = (unit(a), unit(b));
    let (aa, bb, ab, ba) = (sums(&a, &a), sums(&b, &b), sums(&a, &b), sums(&b, &a));
    let (n, m) = (a.nrows() as f64, b.nrows() as f64);
    let value = aa.sum() / (n * n) + bb.sum() / (m * m) - 2.0 * ab.sum() / (n * m);
    Ok(Mmd { value, se: [jackknife(&aa, &ab, m), jackknife(&bb, &ba, n)] })
}

/// The sum of the kernel of each row of `a` with all rows of `b`.
fn sums(a: &Array2<f64>, b: &Array2<f64>) -> Array1<f64> {
    let squares = |x: &Array2<f64>| x.map_axis(Axis(1), |row| row.dot(&row));
    let (of_a, of_b) = (squares(a), squares(b));
    let parts: Vec<Vec<f64>> = (0..a.nrows().div_ceil(ROWS))
        .into_par_iter()
        .map(|part| {
            let rows = part * ROWS..((part + 1) * ROWS).min(a.nrows());
            let products = a.slice(ndarray::s![rows.clone(), ..]).dot(&b.t());
            let sum = |(row, i): (ndarray::ArrayView1<f64>, usize)| {
                let kernel = |(xy, yy): (&f64, &f64)| {
                    let distance = (of_a[i] + yy - 2.0 * xy).max(0.0);
                    (-distance / (2.0 * SIGMA * SIGMA)).exp()
                };
                row.iter().zip(&of_b).map(kernel).sum()
            };
            products.outer_iter().zip(rows).map(sum).collect()
        })
        .collect();
    parts.into_iter().flatten().collect()
}

/// The standard error from leaving out each image of one set, of which `within` and `across` are the
/// kernel's sums with its own set and with the `others`.
fn jackknife(within: &Array1<f64>, across: &Array1<f64>, others: f64) -> f64 {
    let n = within.len() as f64;
    if n < 2.0 {
        return f64::INFINITY;
    }
    let (all_within, all_across) = (within.sum(), across.sum());
    let without: Vec<f64> = within
        .iter()
        .zip(across)
        .map(|(own, cross)| {
            // the kernel of an image with itself is 1
            (all_within - 2.0 * own + 1.0) / (n - 1.0).powi(2)
                - 2.0 * (all_across - cross) / ((n - 1.0) * others)
        })
        .collect();
    let mean = without.iter().sum::<f64>() / n;
    (without.iter().map(|v| (v - mean).powi(2)).sum::<f64>() * (n - 1.0) / n).sqrt()
}

/// Of the concept's category, or of everything.
pub(super) struct Cmmd {
    pub general: bool,
}

impl Measure for Cmmd {
    fn name(&self) -> &'static str {
        if self.general { "cmmd-general" } else { "cmmd" }
    }

    fn title(&self) -> &'static str {
        if self.general { "general CMMD" } else { "CMMD" }
    }

    fn definition(&self) -> &'static str {
        "squared distance by a Gaussian kernel of width 10 on features of length 1, diagonals counted"
    }

    fn better(&self) -> Better {
        Better::Less
    }

    fn shown(&self) -> Shown<'_> {
        Shown { scale: 1e3, unit: "×10³", digits: 3 }
    }

    fn tolerance(&self) -> f64 {
        0.0005
    }

    fn need(&self) -> Need {
        if self.general { Need::GeneralImages } else { Need::RealImages }
    }

    fn gives(&self) -> Gives {
        Gives::Set
    }

    /// It is published for ViT-L/14@336.
    fn titled_by_extractor(&self) -> bool {
        true
    }

    fn measure(&self, given: &Given) -> Result<Option<Outcome>> {
        let found = mmd(given.images, given.against)?;
        let finite = |x: f64| Some(x).filter(|x| x.is_finite());
        Ok(Some(Outcome::Set(SetValue {
            value: found.value,
            se: finite(found.se[0].hypot(found.se[1])),
            se_images: finite(found.se[0]),
            n: given.images.nrows(),
            counts: [("real images".to_owned(), given.against.nrows())].into(),
        })))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::rng::Rng;

    fn draw(rng: &mut Rng, n: usize, shift: f64) -> Array2<f32> {
        let values = (rng.normal((n, 5), &Device::Cpu).unwrap() + shift).unwrap();
        Array2::from_shape_vec((n, 5), values.flatten_all().unwrap().to_vec1().unwrap()).unwrap()
    }

    #[test]
    fn a_set_is_no_distance_from_itself_and_shifts_are() {
        let mut rng = Rng::new(1, "test");
        let (a, b) = (draw(&mut rng, 300, 0.0), draw(&mut rng, 270, 1.0));
        let of = |a: &Array2<f32>, b: &Array2<f32>| mmd(a.view(), b.view()).unwrap();
        assert!(of(&a, &a).value.abs() < 1e-12);
        let (one, other) = (of(&a, &b), of(&b, &a));
        assert!((one.value - other.value).abs() < 1e-12 && one.value > 5.0 * one.se[0]);
        assert_eq!([one.se[1], one.se[0]], other.se);
        assert!((of(&a, &(&b * 7.0)).value - one.value).abs() < 1e-7, "lengths do not count");
    }

    #[test]
    fn the_jackknife_knows_how_far_a_sample_is_off() {
        let mut rng = Rng::new(2, "test");
        let real = draw(&mut rng, 60, 0.0);
        let runs: Vec<Mmd> =
            (0..150).map(|_| mmd(draw(&mut rng, 60, 1.0).view(), real.view()).unwrap()).collect();
        let mean = runs.iter().map(|k| k.value).sum::<f64>() / 150.0;
        let std = (runs.iter().map(|k| (k.value - mean).powi(2)).sum::<f64>() / 149.0).sqrt();
        let se = runs.iter().map(|k| k.se[0]).sum::<f64>() / 150.0;
        assert!((se / std - 1.0).abs() < 0.25, "{se} {std}");
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let mut rng = Rng::new(3, "test");
        let a = draw(&mut rng, 4, 0.0);
        assert!(mmd(a.view(), Array2::zeros((0, 5)).view()).is_err());
        assert!(mmd(a.view(), Array2::zeros((3, 4)).view()).is_err());
        let bad = Array2::from_elem((3, 5), f32::NAN);
        assert!(mmd(a.view(), bad.view()).is_err());
    }
}
