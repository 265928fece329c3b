//! Losses of predictions, in f32 whatever type the model computes in.
//!
//! All are `Σ w (prediction − target)²` with a weight for every image or pixel. The weights hold
//! masks, means, prior preservation and weights of timesteps, and are made for a whole batch; a part
//! of the batch then uses its rows, and the parts' losses add up to the batch's.

use candle_core::{DType, Device, Result, Tensor};

use crate::diffusion::config::PredictionType;
use crate::nn::Var;
use crate::nn::device::{self, Kind, call};

/// `Σ w (prediction − target)²`, a scalar: `prediction` and `target` [batch, ...], `weights` f32 of a
/// shape that broadcasts to theirs, such as [batch, 1, 1, 1].
pub fn squared_error(prediction: &Var, target: &Tensor, weights: &Tensor) -> Result<Var> {
    let dtype = prediction.value().dtype();
    let (x, target) =
        (device::to_dtype(prediction.value(), DType::F32)?, target.to_dtype(DType::F32)?);
    let each = |reads: &[&Tensor], f: &dyn Fn() -> Result<Tensor>| {
        call(Kind::Loss, reads).run(x.shape(), DType::F32, f)
    };
    let difference = each(&[&x, &target], &|| &x - &target)?;
    let weighted = each(&[&difference, weights], &|| difference.broadcast_mul(weights))?;
    let terms = each(&[&weighted, &difference], &|| &weighted * &difference)?;
    let sum = call(Kind::Loss, &[&terms]).run((), DType::F32, || {
        // Thousands of terms in f32 would lose digits; not every GPU has f64.
        if terms.device().is_cpu() {
            terms.to_dtype(DType::F64)?.sum_all()?.to_dtype(DType::F32)
        } else {
            terms.sum_all()
        }
    })?;
    Ok(Var::record(sum, [prediction], move |grad, flow| {
        flow.add_with(0, || {
            // the factor, then the product
            let dx = call(Kind::Loss, &[&weighted]).launches(2).run(
                weighted.shape(),
                DType::F32,
                || weighted.broadcast_mul(&(grad * 2.0)?),
            )?;
            device::to_dtype(&dx, dtype)
        })
    }))
}

/// Weights [batch, 1, 1, 1] of the mean squared error of a batch whose images have `numbers` each.
pub fn mean_weights(batch: usize, numbers: usize, device: &Device) -> Result<Tensor> {
    Tensor::full(1.0 / (batch * numbers) as f32, (batch, 1, 1, 1), device)
}

/// Weights [batch, 1, h, w] of a loss that counts only what `masks` [batch, 1, h, w] show: of each
/// image, the sum over channels and shown pixels divided by the number of shown pixels, then the mean
/// over the images.
///
/// diffusers' Custom Diffusion script divides by the sum of a mask of one channel, so that with c
/// channels this is c times the mean squared error where all is shown. That is kept.
///
/// # Errors
/// A mask that shows nothing.
pub fn masked_weights(masks: &Tensor) -> crate::Result<Tensor> {
    let (batch, _, _, _) = masks.dims4()?;
    let masks = masks.to_dtype(DType::F32)?;
    let shown = masks.sum_keepdim((1, 2, 3))?;
    let empty = shown.flatten_all()?.to_vec1::<f32>()?.iter().position(|&s| s <= 0.0);
    if let Some(i) = empty {
        return Err(crate::Error::input(format!("the mask of image {i} of the batch is empty")));
    }
    Ok((masks.broadcast_div(&shown)? / batch as f64)?)
}

/// Weights [n + m, 1, h, w] of the loss with prior preservation: that of n `instance` images plus
/// `prior_weight` times that of m class images, whose weights are `class`.
pub fn with_prior(instance: &Tensor, class: &Tensor, prior_weight: f64) -> Result<Tensor> {
    let (_, c, h, w) = instance.dims4()?;
    let class = (class.broadcast_as((class.dim(0)?, c, h, w))? * prior_weight)?;
    Tensor::cat(&[instance, &class], 0)
}

/// Weights with those of image i multiplied by `factors[i]`.
pub fn scale_images(weights: &Tensor, factors: &[f64]) -> Result<Tensor> {
    let factors: Vec<f32> = factors.iter().map(|&f| f as f32).collect();
    let count = factors.len();
    weights.broadcast_mul(&Tensor::from_vec(factors, (count, 1, 1, 1), weights.device())?)
}

/// The factor that min-SNR-γ (Hang et al. 2023, arXiv:2303.09556) gives the squared error of a
/// prediction at a timestep of signal-to-noise ratio `snr`: `min(snr, γ)` for the clean sample, and
/// what amounts to the same for noise and v.
pub fn min_snr_factor(snr: f64, gamma: f64, predicts: PredictionType) -> f64 {
    match predicts {
        PredictionType::Sample => snr.min(gamma),
        PredictionType::VPrediction => snr.min(gamma) / (snr + 1.0),
        // min(snr, γ) / snr, and its limit at pure noise
        PredictionType::Epsilon if snr <= gamma => 1.0,
        PredictionType::Epsilon => gamma / snr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// A prediction and target of 4 images of 3 channels, and masks for the first two.
    fn batch() -> (Tensor, Tensor, Tensor) {
        let mut rng = Rng::new(3, "loss");
        let shape = (4, 3, 4, 4);
        let prediction = rng.normal(shape, &Device::Cpu).unwrap();
        let target = rng.normal(shape, &Device::Cpu).unwrap();
        let mut mask = vec![0u8; 32];
        mask[..7].fill(1);
        mask[16..].fill(1);
        (prediction, target, Tensor::from_vec(mask, (2, 1, 4, 4), &Device::Cpu).unwrap())
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{a} is not {b}");
    }

    fn scalar(x: &Tensor) -> f64 {
        f64::from(x.to_scalar::<f32>().unwrap())
    }

    #[test]
    fn masked_loss_with_prior_is_that_of_the_script() {
        let (prediction, target, masks) = batch();
        let weights = with_prior(
            &masked_weights(&masks).unwrap(),
            &mean_weights(2, 3 * 16, &Device::Cpu).unwrap(),
            0.5,
        )
        .unwrap();
        let loss = squared_error(&Var::constant(prediction.clone()), &target, &weights).unwrap();

        // as train_custom_diffusion.py writes it
        let squared = (prediction - target).unwrap().sqr().unwrap();
        let instance = squared.narrow(0, 0, 2).unwrap();
        let masks = masks.to_dtype(DType::F32).unwrap();
        let masked = instance.broadcast_mul(&masks).unwrap().sum((1, 2, 3)).unwrap();
        let masked = (masked / masks.sum((1, 2, 3)).unwrap()).unwrap().mean_all().unwrap();
        let class = squared.narrow(0, 2, 2).unwrap().mean_all().unwrap();
        close(scalar(loss.value()), scalar(&masked) + 0.5 * scalar(&class));
    }

    #[test]
    fn gradient_agrees_with_differences() {
        let (prediction, target, _) = batch();
        let weights =
            scale_images(&mean_weights(4, 48, &Device::Cpu).unwrap(), &[1.0, 2.0, 0.0, 0.5])
                .unwrap();
        let at = |p: &Tensor| {
            scalar(squared_error(&Var::constant(p.clone()), &target, &weights).unwrap().value())
        };
        let leaf = Var::leaf(prediction.clone());
        let gradients = squared_error(&leaf, &target, &weights).unwrap().backward(3.0).unwrap();
        let direction = Rng::new(4, "direction").normal((4, 3, 4, 4), &Device::Cpu).unwrap();
        let slope = (gradients.get(&leaf).unwrap() * &direction).unwrap().sum_all().unwrap();
        // the loss is quadratic: central differences are exact
        let ahead = at(&(&prediction + &direction).unwrap());
        let behind = at(&(&prediction - &direction).unwrap());
        let wanted = 3.0 * (ahead - behind) / 2.0;
        assert!((scalar(&slope) - wanted).abs() < 1e-5 * wanted.abs().max(1.0));
    }

    #[test]
    fn half_precision_predictions_lose_nothing_in_the_loss() {
        let (prediction, target, _) = batch();
        let half = prediction.to_dtype(DType::BF16).unwrap();
        let weights = mean_weights(4, 48, &Device::Cpu).unwrap();
        let leaf = Var::leaf(half.clone());
        let loss = squared_error(&leaf, &target, &weights).unwrap();
        let full = Var::constant(half.to_dtype(DType::F32).unwrap());
        let wanted = squared_error(&full, &target, &weights).unwrap();
        assert_eq!(scalar(loss.value()), scalar(wanted.value()));
        let gradients = loss.backward(1.0).unwrap();
        assert_eq!(gradients.get(&leaf).unwrap().dtype(), DType::BF16);
    }

    #[test]
    fn min_snr() {
        // diffusers: minimum(snr, 5) / snr, and / (snr + 1) for v
        use PredictionType::{Epsilon, Sample, VPrediction};
        close(min_snr_factor(20.0, 5.0, Epsilon), 0.25);
        close(min_snr_factor(2.0, 5.0, Epsilon), 1.0);
        close(min_snr_factor(0.0, 5.0, Epsilon), 1.0);
        close(min_snr_factor(19.0, 5.0, VPrediction), 0.25);
        close(min_snr_factor(1.0, 5.0, VPrediction), 0.5);
        close(min_snr_factor(20.0, 5.0, Sample), 5.0);
    }

    #[test]
    fn an_empty_mask_is_refused() {
        let masks = Tensor::zeros((2, 1, 4, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(masked_weights(&masks).unwrap_err().to_string().contains("image 0"));
    }
}
