//! Clipping of gradients by their global norm (Pascanu et al. 2013, arXiv:1211.5063).

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::slices;
use crate::nn::{Gradients, Param, device, on_cpu_kernels};

/// Numbers summed at a time; fixed, so that the sum does not depend on the threads.
const PIECE: usize = 1 << 15;

/// The L2 norm of the gradients of `params` taken together: the same for any number of threads, to
/// about seven digits. Parameters without a gradient count as zero.
pub fn gradient_norm(params: &[Param], gradients: &Gradients) -> Result<f64> {
    let grads: Vec<&Tensor> = params.iter().filter_map(|p| p.grad(gradients)).collect();
    let Some(first) = grads.first() else { return Ok(0.0) };
    if !on_cpu_kernels(first) {
        return Ok(device::sum_of_squares(&grads)?.sqrt());
    }
    let squares: Vec<f64> =
        grads.par_iter().map(|g| slices::read(g, sum_of_squares)).collect::<Result<_>>()?;
    Ok(squares.iter().sum::<f64>().sqrt())
}

/// What gradients of norm `norm` are multiplied with to have at most `max_norm`, as
/// `torch.nn.utils.clip_grad_norm_` does.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

fn sum_of_squares(x: &[f32]) -> f64 {
    let arch = pulp::Arch::new();
    let pieces: Vec<f64> =
        x.par_chunks(PIECE).map(|piece| arch.dispatch(|| sum_of_squares_of_piece(piece))).collect();
    pieces.iter().sum()
}

/// In f32 for as long as that costs no accuracy, sixteen numbers, then in f64.
#[inline(always)]
fn sum_of_squares_of_piece(x: &[f32]) -> f64 {
    const LANES: usize = 64;
    let mut total = 0f64;
    for block in x.chunks(16 * LANES) {
        let mut sums = [0f32; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += x * x;
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            *sum += x * x;
        }
        total += sums.iter().map(|&s| f64::from(s)).sum::<f64>();
    }
    total
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::ops;
    use crate::rng::Rng;

    #[test]
    fn the_norm_is_exact_and_the_same_for_any_number_of_threads() {
        let mut rng = Rng::new(1, "norm");
        let params: Vec<Param> = [1, 63, 70_001]
            .map(|n| {
                let value = rng.normal(n, &Device::Cpu).unwrap();
                let param = Param::new(n.to_string(), &value, DType::F32).unwrap();
                param.set_trainable(true).unwrap();
                param
            })
            .into();
        let vars = params.iter().map(|p| p.var().unwrap()).collect::<Vec<_>>();
        let loss = ops::composed([&vars[0], &vars[1], &vars[2]], |x| {
            x.iter().map(|x| (x.sqr()? * 0.5)?.sum_all()).reduce(|a, b| a? + b?).unwrap()
        });
        let gradients = loss.unwrap().backward(1.0).unwrap();
        let squares = |x: &Tensor| {
            x.to_vec1().unwrap().iter().map(|&x: &f32| f64::from(x).powi(2)).sum::<f64>()
        };
        let wanted = params.iter().map(|p| squares(&p.value())).sum::<f64>().sqrt();
        let norms = [1, 2].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| gradient_norm(&params, &gradients).unwrap())
        });
        assert_eq!(norms[0], norms[1]);
        assert!((norms[0] / wanted - 1.0).abs() < 1e-6, "{} {wanted}", norms[0]);
    }

    #[test]
    fn clips_only_what_is_too_long() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
        assert_eq!(clip_factor(0.0, 1.0), 1.0);
    }
}
