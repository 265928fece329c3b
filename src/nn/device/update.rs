use candle_core::{Result, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;
use super::tally::{Kind, call, counting};
use crate::nn::Param;

/// The numbers of a step of AdamW for one parameter.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    /// What the gradient is multiplied with.
    pub grad: f32,
    /// The share of the weight that decay leaves.
    pub keep: f32,
    /// 1 − β₁.
    pub one_minus_beta1: f32,
    /// β₂.
    pub beta2: f32,
    /// 1 − β₂.
    pub one_minus_beta2: f32,
    /// The bias correction of the second moment's root.
    pub root: f32,
    /// Added to the root.
    pub eps: f32,
    /// The learning rate with the bias correction of the first moment.
    pub step: f32,
}

/// A step of AdamW on a parameter and its moments, which nothing else may hold.
pub fn adamw(
    param: &Param,
    grad: &Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    f: Factors,
) -> Result<()> {
    if counting() {
        param.with_value(|p| call(Kind::Optimizer, &[p, grad, m, v]).note(&[p, m, v]));
        return Ok(());
    }
    #[cfg(feature = "cuda")]
    if cuda::takes(grad) {
        return param.update_in_place(|p| cuda::adamw(p, grad, m, v, f));
    }
    let grad = (grad * f64::from(f.grad))?;
    *m = (&*m + ((&grad - &*m)? * f64::from(f.one_minus_beta1))?)?;
    *v = ((&*v * f64::from(f.beta2))? + (grad.sqr()? * f64::from(f.one_minus_beta2))?)?;
    let denominator = ((v.sqrt()? * f64::from(f.root))? + f64::from(f.eps))?;
    let change = ((&*m / denominator)? * f64::from(f.step))?;
    param.set_value(((param.value() * f64::from(f.keep))? - change)?);
    Ok(())
}

/// Numbers of a gradient's sum of squares that are handed to the CPU, which adds them up in f64.
#[cfg(feature = "cuda")]
const PARTS: usize = 64;

/// The sum of the squares of all tensors together, f32, in one transfer from the device: each waits for
/// all that the device was told to do.
pub fn sum_of_squares(tensors: &[&Tensor]) -> Result<f64> {
    if tensors.is_empty() {
        return Ok(0.0);
    }
    if counting() {
        tensors.iter().for_each(|x| call(Kind::Optimizer, &[x]).note(&[]));
        return Ok(1.0);
    }
    let sums = parts_of_squares(tensors)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(sums.into_iter().map(f64::from).sum())
}

fn parts_of_squares(tensors: &[&Tensor]) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::takes(tensors[0]) {
        return cuda::squares(tensors, PARTS);
    }
    let squares = tensors.iter().map(|x| x.sqr()?.sum_all()).collect::<Result<Vec<_>>>()?;
    Tensor::stack(&squares, 0)
}
