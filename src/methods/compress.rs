//! Compression: of every matrix that changed, the leading part of its change alone (the appendix of the
//! paper, Figs. 14 and 21).
//!
//! The change `D = W' − W₀` of a matrix [out, in] is kept as two factors, `U` [out, r] and `V` [r, in] with
//! `D ≈ U V`, of the r largest singular values. On disk and in memory there are the factors, so that what
//! is stored is as small as they are.

use std::collections::BTreeMap;
use std::fmt;

use candle_core::Tensor;
use nalgebra::{DMatrix, SymmetricEigen};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Delta;
use super::constrained::{matrix, tensor};
use super::delta::change;
use crate::diffusion::Backbone;
use crate::{Error, Result};

/// How much of each change is left.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Compression {
    /// The largest singular values until they hold this share of the sum of all (the paper: 0.6); at
    /// least one.
    Share(f64),
    /// So many of the largest singular values.
    Rank(usize),
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Compression::Share(share) => write!(f, "{share} of the singular values' sum"),
            Compression::Rank(rank) => write!(f, "rank {rank}"),
        }
    }
}

/// `U` [out, r] and `V` [r, in], f32 on the CPU: their product is added to the backbone's matrix. Of a
/// convolution's kernel [out, in, height, width] `V` is [r, in, height, width].
#[derive(Clone, Debug)]
pub struct Factors {
    /// [out, r].
    pub u: Tensor,
    /// [r, in], or [r, in, height, width].
    pub v: Tensor,
}

impl Factors {
    /// Factors of shapes that fit each other.
    ///
    /// # Errors
    /// [`Error::Input`] with the shapes of those that do not.
    pub fn new(u: Tensor, v: Tensor) -> Result<Self> {
        match (u.dims(), v.dims()) {
            ([_, a], [b, _] | [b, _, _, _]) if a == b && *a > 0 => Ok(Factors { u, v }),
            (u, v) => Err(Error::input(format!("factors of shapes {u:?} and {v:?}"))),
        }
    }

    /// The shape of the weight that they are of.
    pub fn shape(&self) -> Vec<usize> {
        [&self.u.dims()[..1], &self.v.dims()[1..]].concat()
    }

    /// What is added to the backbone's weight.
    ///
    /// # Errors
    /// Only candle's.
    pub fn product(&self) -> Result<Tensor> {
        Ok(self.u.matmul(&self.v.flatten_from(1)?)?.reshape(self.shape())?)
    }

    /// How many numbers they are.
    pub fn count(&self) -> usize {
        self.u.elem_count() + self.v.elem_count()
    }

    /// Of which rank the change is at most.
    pub fn rank(&self) -> usize {
        self.v.dims()[0]
    }
}

impl Compression {
    /// Whether the value makes sense.
    ///
    /// # Errors
    /// [`Error::Input`] naming it.
    pub fn check(self) -> Result<()> {
        match self {
            Compression::Share(share) if !(share > 0.0 && share <= 1.0) => {
                Err(Error::input(format!("`compress.share` is {share}: above 0 and at most 1")))
            }
            Compression::Rank(0) => Err(Error::input("`compress.rank` is 0: at least 1")),
            _ => Ok(()),
        }
    }

    /// How many of these singular values, largest first, are kept.
    fn rank(self, values: &[f64]) -> usize {
        match self {
            Compression::Rank(rank) => rank.min(values.len()),
            Compression::Share(share) => {
                let wanted = share * values.iter().sum::<f64>();
                let mut sum = 0.0;
                let whole = share >= 1.0;
                let enough = values.iter().position(|value| {
                    sum += value;
                    !whole && sum >= wanted
                });
                enough.map_or(values.len(), |at| at + 1).max(1)
            }
        }
    }
}

/// Compresses what a checkpoint changed of an untouched backbone. Matrices become factors; what would not
/// be smaller for it stays as it is, bit for bit: vectors, convolutions, matrices at a rank near their own.
///
/// # Errors
/// [`Error::Input`] for a checkpoint of another backbone, or one whose changes are factors already.
pub fn compress(delta: &Delta, backbone: &Backbone, to: Compression) -> Result<Delta> {
    if !delta.factors().is_empty() {
        return Err(Error::input_hint(
            "this checkpoint's changes are factors already",
            "compress the one that it was made from",
        ));
    }
    let smaller = |weight: &Tensor, factors: &Factors| factors.count() < weight.elem_count();
    Ok(leading(delta, backbone, to, &[2], &smaller)?.0)
}

/// As [`compress`], with factors in place of every matrix and kernel, be they smaller or not, and how much
/// of the changes is left: the share of the sum of their squares.
///
/// # Errors
/// [`Error::Input`] for a checkpoint of another backbone.
pub fn factorise(delta: &Delta, backbone: &Backbone, to: Compression) -> Result<(Delta, f64)> {
    leading(delta, backbone, to, &[2, 4], &|_, _| true)
}

/// Factors in place of the weights of these numbers of dimensions that `wanted` wants them of, and the share
/// of the squares that is left.
fn leading(
    delta: &Delta,
    backbone: &Backbone,
    to: Compression,
    dimensions: &[usize],
    wanted: &(dyn Fn(&Tensor, &Factors) -> bool + Sync),
) -> Result<(Delta, f64)> {
    to.check()?;
    let found = delta
        .tensors()
        .par_iter()
        .filter(|(_, tensor)| dimensions.contains(&tensor.rank()))
        .map(|(name, tensor)| {
            let found = factors(&matrix(&change(backbone, name, tensor)?.flatten_from(1)?)?, to)?;
            let v = [&[found.factors.rank()], &tensor.dims()[1..]].concat();
            let factors = Factors { v: found.factors.v.reshape(v)?, ..found.factors };
            Ok((name.clone(), Leading { factors, ..found }))
        })
        .collect::<Result<BTreeMap<String, Leading>>>()?;
    let (mut all, mut kept, mut factors) = (0.0, 0.0, delta.factors().clone());
    let mut tensors = delta.tensors().clone();
    for (name, found) in found {
        if wanted(&tensors[&name], &found.factors) {
            (all, kept) = (all + found.all, kept + found.kept);
            factors.insert(name.clone(), found.factors);
            tensors.remove(&name);
        }
    }
    let share = if all > 0.0 { kept / all } else { 1.0 };
    Ok((Delta::new(tensors, delta.tokens().to_vec()).with_factors(factors), share))
}

/// The leading part of a change.
struct Leading {
    factors: Factors,
    /// The sums of the squares of the singular values that are kept, and of all.
    kept: f64,
    all: f64,
}

/// The leading factors of a change.
///
/// `V` are eigenvectors of `DᵀD` and `U = D V` (or the other way round for a wide `D`): of all of them
/// the product is `D V Vᵀ = D` to the last bits of f64, however small a singular value is.
fn factors(change: &DMatrix<f64>, to: Compression) -> Result<Leading> {
    let wide = change.ncols() > change.nrows();
    let tall = if wide { change.transpose() } else { change.clone() };
    let eigen = SymmetricEigen::new(tall.tr_mul(&tall));
    let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    let values: Vec<f64> = order.iter().map(|&i| eigen.eigenvalues[i].max(0.0).sqrt()).collect();
    let kept = &order[..to.rank(&values)];
    let vectors = eigen.eigenvectors.select_columns(kept);
    let other = &tall * &vectors;
    let (u, v) = match wide {
        true => (vectors, other.transpose()),
        false => (other, vectors.transpose()),
    };
    let squares = |values: &[f64]| values.iter().map(|v| v * v).sum();
    Ok(Leading {
        factors: Factors { u: tensor(&u)?, v: tensor(&v)? },
        kept: squares(&values[..kept.len()]),
        all: squares(&values),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// A matrix with these singular values.
    fn with_values(rows: usize, columns: usize, values: &[f64]) -> DMatrix<f64> {
        let mut rng = Rng::new(3, "compress");
        let mut random = |n: usize, m: usize| {
            DMatrix::from_fn(n, m, |_, _| f64::from(rng.uniform(-1.0, 1.0))).qr().q()
        };
        let (u, v) = (random(rows, values.len()), random(columns, values.len()));
        u * DMatrix::from_diagonal(&values.to_vec().into()) * v.transpose()
    }

    fn error(change: &DMatrix<f64>, to: Compression) -> (usize, f64) {
        let Leading { factors, kept, all } = factors(change, to).unwrap();
        let product = matrix(&factors.product().unwrap()).unwrap();
        let error = (product - change).norm();
        assert!((all - kept - error * error).abs() < 1e-4 * all, "{all} {kept} {error}");
        (factors.rank(), error)
    }

    #[test]
    fn the_error_is_that_of_the_values_left_out() {
        // Eckart and Young: no other matrix of the rank is nearer
        for (rows, columns) in [(20, 12), (12, 20), (12, 12)] {
            let change = with_values(rows, columns, &[8.0, 4.0, 2.0, 1.0, 0.5]);
            for (rank, left) in [(1, [4.0, 2.0, 1.0, 0.5].as_slice()), (3, &[1.0, 0.5])] {
                let (kept, error) = error(&change, Compression::Rank(rank));
                let best = left.iter().map(|v| v * v).sum::<f64>().sqrt();
                assert_eq!(kept, rank);
                assert!((error - best).abs() < 1e-5, "{error} {best}");
            }
            let (kept, error) = error(&change, Compression::Share(1.0));
            assert_eq!(kept, rows.min(columns));
            assert!(error < 1e-5 * change.norm(), "{error}");
        }
    }

    #[test]
    fn a_share_is_of_the_sum_of_the_values() {
        let rank = |share| Compression::Share(share).rank(&[6.0, 3.0, 1.0, 0.0]);
        assert_eq!([0.01, 0.6, 0.61, 0.9, 0.95, 1.0].map(rank), [1, 1, 2, 2, 3, 4]);
        assert!(Compression::Share(0.0).check().is_err());
        assert!(Compression::Share(1.5).check().is_err());
        assert!(Compression::Rank(0).check().is_err());
    }
}
