//! The loss of a batch and its gradients, computed in parts.

use std::ops::Range;

use candle_core::{DType, Device};

use crate::Result;
use crate::nn::{Gradients, Var, parallel};

/// Some images of a batch, which run through the model together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which images.
    pub images: Range<usize>,
    /// How many the whole batch has.
    pub batch: usize,
}

impl Part {
    /// The part's share of the batch: what the mean over its images is multiplied with.
    pub fn fraction(&self) -> f64 {
        self.images.len() as f64 / self.batch as f64
    }
}

/// How many images of `pixels` each (as the model sees them: latent pixels) go together at most.
///
/// On the CPU a batch is computed part by part, one thread each; four images of 16×16 keep one thread
/// busy without much memory, and larger ones are fewer. A GPU gets the whole batch. The number of
/// threads has no say, so that it cannot change a result.
pub fn images_per_part(device: &Device, pixels: usize) -> usize {
    const PIXELS: usize = 4 * 16 * 16;
    if device.is_cpu() { (PIXELS / pixels.max(1)).clamp(1, 4) } else { usize::MAX }
}

/// The loss of a batch of `images` and its gradients.
///
/// `loss` gives a part's share of the batch's loss, a scalar: what the parts give is added up. Parts
/// are of equal size, or differ by one image, and have `images_per_part` at most; they run on several
/// threads on the CPU and one after another elsewhere, where small parts accumulate gradients to save
/// memory. The sums are the same bits for any number of threads.
pub fn gradients(
    images: usize,
    images_per_part: usize,
    device: &Device,
    loss: impl Fn(&Part) -> Result<Var> + Sync,
) -> Result<(f64, Gradients)> {
    scaled_gradients(images, images_per_part, device, 1.0, loss)
}

/// [`gradients`], with those of the loss multiplied by `scale`.
pub(super) fn scaled_gradients(
    images: usize,
    images_per_part: usize,
    device: &Device,
    scale: f64,
    loss: impl Fn(&Part) -> Result<Var> + Sync,
) -> Result<(f64, Gradients)> {
    if images == 0 {
        return Err(crate::Error::input("an empty batch"));
    }
    let parts = images.div_ceil(images_per_part.max(1));
    let one = |i: usize| {
        let part = Part { images: i * images / parts..(i + 1) * images / parts, batch: images };
        let loss = loss(&part)?;
        // Read last: reading waits for the device, which meanwhile has the backward pass to do.
        let value = loss.value().clone();
        let gradients = loss.backward(scale)?;
        let value = value.to_dtype(DType::F32)?.to_scalar::<f32>()?;
        Ok((f64::from(value), gradients))
    };
    let add = |(loss, mut gradients): (f64, Gradients), (more, others): (f64, Gradients)| {
        gradients.merge(others)?;
        Ok((loss + more, gradients))
    };
    parallel::reduce_parts(0..parts, device.is_cpu(), &one, &add)
}
