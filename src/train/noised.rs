//! A batch for the UNet: noised latents with their captions, and what should be predicted of them.

use candle_core::Tensor;

use super::{BatchSize, Part, Streams, loss};
use crate::Result;
use crate::diffusion::Backbone;
use crate::diffusion::scheduler::NoiseSchedule;
use crate::nn::Var;

/// See the module.
pub struct Noised {
    noised: Tensor,
    target: Tensor,
    weights: Tensor,
    timesteps: Vec<f64>,
    ids: Vec<Vec<u32>>,
    /// What the images show, one each.
    pub captions: Vec<String>,
}

impl Noised {
    /// Noises `latents` [batch, channels, h, w], as the UNet sees them, at timesteps and with noise from
    /// the streams of those names. `weights` gives the loss's weights at the timesteps.
    ///
    /// # Errors
    /// The tokenizer's; what `weights` returns.
    pub fn draw(
        backbone: &Backbone,
        schedule: &NoiseSchedule,
        latents: &Tensor,
        captions: Vec<String>,
        weights: impl FnOnce(&[usize]) -> Result<Tensor>,
        streams: &mut Streams,
    ) -> Result<Self> {
        let rng = streams.stream("timesteps");
        let timesteps: Vec<usize> = captions.iter().map(|_| rng.below(schedule.len())).collect();
        let noise = streams.stream("noise").normal(latents.shape(), latents.device())?;
        let ids = captions.iter().map(|c| Ok(backbone.tokenizer.encode(c)?.ids));
        Ok(Noised {
            noised: schedule.add_noise(latents, &noise, &timesteps)?,
            target: schedule.target(latents, &noise, &timesteps)?,
            weights: weights(&timesteps)?,
            ids: ids.collect::<Result<_>>()?,
            timesteps: timesteps.into_iter().map(|t| t as f64).collect(),
            captions,
        })
    }

    /// As [`super::Task::size`] wants it.
    pub fn size(&self) -> BatchSize {
        let pixels = self.noised.dims().iter().skip(2).product();
        BatchSize { images: self.ids.len(), pixels }
    }

    /// A part's share of the squared error of the backbone's prediction.
    ///
    /// # Errors
    /// Only candle's.
    pub fn loss(&self, backbone: &Backbone, part: &Part) -> Result<Var> {
        let narrow = |x: &Tensor| x.narrow(0, part.images.start, part.images.len())?.contiguous();
        let text = backbone.text_encoder.forward(&self.ids[part.images.clone()])?;
        let noised = Var::constant(narrow(&self.noised)?);
        let timesteps = &self.timesteps[part.images.clone()];
        let prediction = backbone.unet.forward(&noised, timesteps, &text)?;
        Ok(loss::squared_error(&prediction, &narrow(&self.target)?, &narrow(&self.weights)?)?)
    }
}
