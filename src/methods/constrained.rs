//! Equation 4 of the paper: `argmin_W ‖(W − W₀) C_regᵀ‖ s.t. W Cᵀ = Vᵀ`, in f64.
//!
//! With `G = C_regᵀ C_reg` and `S = C G⁻¹ Cᵀ` the solution is `W = W₀ + (Vᵀ − W₀ Cᵀ) S⁻¹ C G⁻¹`. All layers
//! share `C` and `G`: one [`Problem`] is factorised once and solved for each.

use candle_core::{DType, Device, Tensor};
use nalgebra::{Cholesky, DMatrix};

use crate::{Error, Result};

/// Above this condition number, numbers that were computed in f32 decide what the inverse is.
const NEAR_SINGULAR: f64 = 1e12;
/// What is added to the diagonal of a near-singular `G`, as a share of its largest eigenvalue.
const RIDGE: f64 = 1e-10;
/// Directions of the targets whose share of `S` is below this are dependent on the others.
const DEPENDENT: f64 = 1e-10;

/// The left-hand side of the problem, factorised.
pub struct Problem {
    gram: DMatrix<f64>,
    targets: DMatrix<f64>,
    // C G⁻¹ [targets, features]
    directions: DMatrix<f64>,
    // what a step along the directions does to C_reg: directions · G · directionsᵀ
    metric: DMatrix<f64>,
    // the inverse of S [targets, targets], on the directions that are independent
    inverse: DMatrix<f64>,
    /// The condition number of `G`, before any ridge; infinite if it is singular.
    pub condition: f64,
    /// What was added to the diagonal of `G`, as a share of its largest eigenvalue.
    pub ridge: f64,
    /// How many of the targets are independent of each other.
    pub rank: usize,
}

/// One layer's solution.
pub struct Solved {
    /// `W` [outputs, features].
    pub weight: DMatrix<f64>,
    /// `‖W Cᵀ − V‖ / ‖V‖`.
    pub residual: f64,
    /// `‖(W − W₀) C_regᵀ‖²`.
    pub moved: f64,
    /// `‖W₀ C_regᵀ‖²`.
    pub norm: f64,
}

impl Problem {
    /// The problem with `regularization` [samples, features] and `targets` [targets, features].
    /// `ridge`, as a share of the largest eigenvalue, is added to the diagonal of `G`; a near-singular
    /// `G` gets 1e-10 at least, and a result close to that of the pseudo-inverse.
    ///
    /// # Errors
    /// [`Error::Input`] for empty matrices, or numbers that are not finite.
    pub fn new(
        regularization: &DMatrix<f64>,
        targets: DMatrix<f64>,
        ridge: f64,
    ) -> Result<Problem> {
        let features = targets.ncols();
        if targets.is_empty() || regularization.is_empty() || regularization.ncols() != features {
            return Err(Error::input(format!(
                "merge: {:?} regularisation features and {:?} target features",
                regularization.shape(),
                targets.shape()
            )));
        }
        let gram = regularization.transpose() * regularization;
        if gram.iter().chain(&targets).any(|x| !x.is_finite()) || ridge.is_nan() || ridge < 0.0 {
            return Err(Error::input("merge: text features or a ridge that are not finite"));
        }
        let eigenvalues = gram.symmetric_eigenvalues();
        let (least, largest) = (eigenvalues.min(), eigenvalues.max());
        let condition = if least > 0.0 { largest / least } else { f64::INFINITY };
        let ridge = if condition > NEAR_SINGULAR { ridge.max(RIDGE) } else { ridge };
        let lifted = |ridge: f64| {
            &gram + DMatrix::from_diagonal_element(features, features, ridge * largest.max(1e-300))
        };
        let cholesky = Cholesky::new(lifted(ridge));
        let cholesky = cholesky.ok_or_else(|| {
            Error::input_hint(
                "merge: the regularisation captions' features cannot be factorised",
                "give more captions, and such as differ",
            )
        })?;
        let directions = cholesky.solve(&targets.transpose()).transpose();
        let middle = &directions * targets.transpose();
        let (inverse, rank) = pseudo_inverse(&middle);
        let metric = &directions * &gram * directions.transpose();
        Ok(Problem { gram, targets, directions, metric, inverse, condition, ridge, rank })
    }

    /// The layer with pretrained `weight` [outputs, features] whose outputs for the targets are to be
    /// `values` [targets, outputs]. Where dependent targets ask for different values, the outcome lies
    /// between them, and the residual tells.
    pub fn solve(&self, weight: &DMatrix<f64>, values: &DMatrix<f64>) -> Solved {
        // [targets, outputs]
        let missing = values - &self.targets * weight.transpose();
        let along = (&self.inverse * missing).transpose();
        let solution = weight + &along * &self.directions;
        Solved {
            residual: self.residual(&solution, values),
            moved: (&along * &self.metric).dot(&along).max(0.0),
            norm: (weight * &self.gram).dot(weight),
            weight: solution,
        }
    }

    /// `‖weight Cᵀ − values‖ / ‖values‖`.
    pub fn residual(&self, weight: &DMatrix<f64>, values: &DMatrix<f64>) -> f64 {
        let residual = &self.targets * weight.transpose() - values;
        residual.norm() / values.norm().max(f64::MIN_POSITIVE)
    }
}

/// The inverse of a symmetric matrix on the space where it is not next to zero, and that space's
/// dimension.
fn pseudo_inverse(matrix: &DMatrix<f64>) -> (DMatrix<f64>, usize) {
    let symmetric = (matrix + matrix.transpose()) * 0.5;
    let eigen = symmetric.symmetric_eigen();
    let least = DEPENDENT * eigen.eigenvalues.max();
    let kept = |x: f64| x > least && x > 0.0;
    let rank = eigen.eigenvalues.iter().filter(|x| kept(**x)).count();
    let inverted = eigen.eigenvalues.map(|x| if kept(x) { 1.0 / x } else { 0.0 });
    let vectors = &eigen.eigenvectors;
    (vectors * DMatrix::from_diagonal(&inverted) * vectors.transpose(), rank)
}

/// A tensor [rows, columns] in f64.
pub(super) fn matrix(tensor: &Tensor) -> Result<DMatrix<f64>> {
    let rows = tensor.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let width = rows.first().map_or(0, Vec::len);
    Ok(DMatrix::from_row_iterator(rows.len(), width, rows.into_iter().flatten()))
}

/// A matrix as a tensor in f32 on the CPU.
pub(super) fn tensor(matrix: &DMatrix<f64>) -> Result<Tensor> {
    let values: Vec<f32> = matrix.transpose().iter().map(|&x| x as f32).collect();
    Ok(Tensor::from_vec(values, matrix.shape(), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Rng;

    fn random(rng: &mut Rng, rows: usize, columns: usize) -> DMatrix<f64> {
        DMatrix::from_fn(rows, columns, |_, _| f64::from(rng.uniform(-1.0, 1.0)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn constraints_hold_and_nothing_is_nearer(
            seed in 0u64..1000, features in 4usize..20, targets in 1usize..4, outputs in 1usize..6,
        ) {
            let mut rng = Rng::new(seed, "merge");
            let regularization = random(&mut rng, 3 * features, features);
            let c = random(&mut rng, targets, features);
            let w0 = random(&mut rng, outputs, features);
            let values = random(&mut rng, targets, outputs);
            let problem = Problem::new(&regularization, c.clone(), 0.0).unwrap();
            let solved = problem.solve(&w0, &values);
            prop_assert!(solved.residual < 1e-9, "{}", solved.residual);
            prop_assert_eq!((problem.rank, problem.ridge), (targets, 0.0));
            // any other weight that meets the constraints moves more
            let other = random(&mut rng, outputs, features);
            let normal = (&c * c.transpose()).try_inverse().unwrap();
            let feasible = &solved.weight + (&other - &other * c.transpose() * normal * &c) * 0.1;
            prop_assert!(problem.residual(&feasible, &values) < 1e-6);
            let moved = (feasible - &w0) * regularization.transpose();
            prop_assert!(moved.norm_squared() >= solved.moved * (1.0 - 1e-9));
        }

        #[test]
        fn what_is_met_already_stays(seed in 0u64..1000) {
            let mut rng = Rng::new(seed, "merge");
            let (regularization, c) = (random(&mut rng, 30, 8), random(&mut rng, 3, 8));
            let w0 = random(&mut rng, 5, 8);
            let values = &c * w0.transpose();
            let solved = Problem::new(&regularization, c, 0.0).unwrap().solve(&w0, &values);
            prop_assert!((solved.weight - &w0).norm() < 1e-10);
        }
    }

    #[test]
    fn repeated_targets_are_one() {
        let mut rng = Rng::new(5, "merge");
        let (regularization, once) = (random(&mut rng, 40, 10), random(&mut rng, 2, 10));
        let (w0, values) = (random(&mut rng, 4, 10), random(&mut rng, 2, 4));
        let twice = |m: &DMatrix<f64>| {
            DMatrix::from_fn(4, m.ncols(), |i, j| m[(i % 2, j)] * (1.0 + 1e-9 * (i / 2) as f64))
        };
        let plain = Problem::new(&regularization, once.clone(), 0.0).unwrap();
        let repeated = Problem::new(&regularization, twice(&once), 0.0).unwrap();
        assert_eq!((plain.rank, repeated.rank), (2, 2));
        let (a, b) = (plain.solve(&w0, &values), repeated.solve(&w0, &twice(&values)));
        assert!((a.weight - &b.weight).norm() < 1e-6);
        assert!(b.residual < 1e-6);
        // the same words, and two opinions of what they mean
        let mut torn = twice(&values);
        torn.row_mut(2).scale_mut(-1.0);
        let between = repeated.solve(&w0, &torn);
        assert!(between.residual > 0.1);
        assert!(between.weight.norm() < 10.0 * w0.norm(), "no explosion");
    }

    #[test]
    fn few_captions_are_near_singular_and_said_to_be() {
        let mut rng = Rng::new(6, "merge");
        let (regularization, c) = (random(&mut rng, 5, 12), random(&mut rng, 2, 12));
        let (w0, values) = (random(&mut rng, 3, 12), random(&mut rng, 2, 3));
        let problem = Problem::new(&regularization, c, 0.0).unwrap();
        assert!(problem.condition > NEAR_SINGULAR && problem.ridge == RIDGE);
        let solved = problem.solve(&w0, &values);
        assert!(solved.residual < 1e-6, "{}", solved.residual);
        assert!(solved.moved < 1e-6 * solved.norm, "what captions do not see costs nothing");
    }

    #[test]
    fn impossible_input_is_refused() {
        let ones = |r, c| DMatrix::from_element(r, c, 1.0);
        assert!(Problem::new(&ones(3, 4), ones(1, 5), 0.0).is_err());
        assert!(Problem::new(&ones(0, 4), ones(1, 4), 0.0).is_err());
        assert!(Problem::new(&ones(3, 4), ones(1, 4) * f64::NAN, 0.0).is_err());
    }
}
