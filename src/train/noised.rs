//! A batch for the UNet: noised latents with their captions, and what should be predicted of them.

use candle_core::Tensor;

use super::fixed_texts::beside;
use super::{BatchSize, FixedTexts, Part, Streams, loss};
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
    /// The states of texts that do not change.
    states: Vec<Option<Tensor>>,
    /// What the images show, one each.
    pub captions: Vec<String>,
}

impl Noised {
    /// Noises `latents` [batch, channels, h, w], as the UNet sees them, at timesteps and with noise from
    /// the streams of those names. `weights` gives the loss's weights at the timesteps, `texts` has the
    /// texts that do not change while it trains.
    ///
    /// # Errors
    /// The tokenizer's; what `weights` returns.
    pub fn draw(
        backbone: &Backbone,
        schedule: &NoiseSchedule,
        latents: &Tensor,
        captions: Vec<String>,
        weights: impl FnOnce(&[usize]) -> Result<Tensor>,
        texts: &mut FixedTexts,
        streams: &mut Streams,
    ) -> Result<Self> {
        let rng = streams.stream("timesteps");
        let timesteps: Vec<usize> = captions.iter().map(|_| rng.below(schedule.len())).collect();
        let noise = streams.stream("noise").normal(latents.shape(), latents.device())?;
        let ids = captions.iter().map(|c| Ok(backbone.tokenizer.encode(c)?.ids));
        let ids: Vec<Vec<u32>> = ids.collect::<Result<_>>()?;
        let states = ids.iter().map(|ids| texts.of(&backbone.text_encoder, ids));
        Ok(Noised {
            noised: schedule.add_noise(latents, &noise, &timesteps)?,
            target: schedule.target(latents, &noise, &timesteps)?,
            weights: weights(&timesteps)?,
            states: states.collect::<Result<_>>()?,
            ids,
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
        let text = self.text(backbone, part)?;
        let noised = Var::constant(narrow(&self.noised)?);
        let timesteps = &self.timesteps[part.images.clone()];
        let prediction = backbone.unet.forward(&noised, timesteps, &text)?;
        Ok(loss::squared_error(&prediction, &narrow(&self.target)?, &narrow(&self.weights)?)?)
    }

    /// What the UNet reads of a part's captions.
    fn text(&self, backbone: &Backbone, part: &Part) -> Result<Var> {
        let (ids, states) = (&self.ids[part.images.clone()], &self.states[part.images.clone()]);
        let known: Vec<Tensor> = states.iter().flatten().cloned().collect();
        if known.len() == ids.len() {
            return Ok(Var::constant(Tensor::stack(&known, 0)?));
        }
        let fresh = ids.iter().zip(states).filter(|(_, known)| known.is_none());
        let fresh: Vec<Vec<u32>> = fresh.map(|(ids, _)| ids.clone()).collect();
        let fresh = backbone.text_encoder.forward(&fresh)?;
        if known.is_empty() { Ok(fresh) } else { Ok(beside(&fresh, states)?) }
    }
}
