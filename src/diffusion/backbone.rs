//! A backbone: all its parts, loaded, used and saved together.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::config::{Config, ModelIndex, PerBlock, SchedulerConfig, UNetConfig, VaeConfig};
use super::files::{BackboneFiles, Blueprint, Part};
use super::folder::{DIFFUSERS_STEM, TRANSFORMERS_STEM};
use super::model::{TextEncoder, UNet, Vae};
use super::tokenizer::Tokenizer;
use super::weights::{Weights, save_weights};
use crate::Result;
use crate::nn::{Builder, Init, Keeping, Param, RandomSource, Source, whole_batches};

/// A Stable Diffusion.
pub struct Backbone {
    /// Prompts to token ids.
    pub tokenizer: Tokenizer,
    /// Token ids to what the UNet attends to.
    pub text_encoder: TextEncoder,
    /// Predicts noise.
    pub unet: UNet,
    /// Images to latents and back.
    pub vae: Vae,
    /// The noise schedule it was trained with.
    pub scheduler: SchedulerConfig,
    index: ModelIndex,
    device: Device,
}

impl Source for Arc<Weights> {
    fn tensor(&mut self, name: &str, shape: &[usize], _: Init) -> Result<Tensor> {
        Weights::tensor(self, name, shape)
    }

    fn placed(
        &mut self,
        name: &str,
        shape: &[usize],
        _: Init,
        keeping: &Keeping,
    ) -> Result<Tensor> {
        Weights::placed(self, name, shape, keeping)
    }
}

impl Backbone {
    /// Loads `mini`, a folder in diffusers' layout, a single file, or a hub id (`owner/name[@revision]`).
    ///
    /// # Errors
    /// As [`BackboneFiles::open`] and [`Backbone::read`].
    pub fn load(backbone: &str, device: &Device, compute: DType) -> Result<Self> {
        Self::read(&BackboneFiles::open(&backbone.into())?, device, compute)
    }

    /// Reads the weights of a backbone on disk.
    ///
    /// Frozen parameters are kept in `compute`, the type of all forward passes but the VAE's, of which
    /// [`encoding_dtype`] tells.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file, and the key or tensor in it, that is missing or wrong.
    pub fn read(files: &BackboneFiles, device: &Device, compute: DType) -> Result<Self> {
        let weights = |part| files.weights(part).map(Arc::new);
        let weights = [weights(Part::TextEncoder)?, weights(Part::UNet)?, weights(Part::Vae)?];
        let blueprint = files.blueprint.clone();
        let backbone = Backbone::build(blueprint, device, compute, weights.clone())?;
        weights.iter().try_for_each(|weights| weights.finish())?;
        Ok(backbone)
    }

    /// The backbone that configurations describe, with random weights: to be trained, or to measure speed.
    ///
    /// # Errors
    /// Only candle's.
    pub fn random(
        blueprint: Blueprint,
        device: &Device,
        compute: DType,
        seed: u64,
    ) -> Result<Self> {
        let sources = [0, 1, 2].map(|part| RandomSource { seed: seed.wrapping_mul(3) + part });
        Backbone::build(blueprint, device, compute, sources)
    }

    fn build<S: Source + 'static>(
        blueprint: Blueprint,
        device: &Device,
        compute: DType,
        [text, unet, vae]: [S; 3],
    ) -> Result<Self> {
        let text = Builder::new(text, device, compute);
        let unet = Builder::new(unet, device, compute);
        let vae = Builder::new(vae, device, encoding_dtype(compute, whole_batches(device)));
        Ok(Backbone {
            text_encoder: TextEncoder::new(&text, &blueprint.text_encoder)?,
            unet: UNet::new(&unet, &blueprint.unet)?,
            vae: Vae::new(&vae, &blueprint.vae)?,
            tokenizer: blueprint.tokenizer,
            scheduler: blueprint.scheduler,
            index: blueprint.index,
            device: device.clone(),
        })
    }

    /// Writes the folder, weights in `dtype` (f32, f16 or bf16), as diffusers reads it. Added tokens
    /// become part of the vocabulary.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file that could not be written.
    pub fn save(&self, dir: &Path, dtype: DType) -> Result<()> {
        let mut text = self.text_encoder.config().clone();
        text.vocab_size += self.text_encoder.added_count();
        self.unet.config().write(dir)?;
        self.vae.config().write(dir)?;
        text.write(dir)?;
        self.scheduler.write(dir)?;
        self.tokenizer.save(&dir.join("tokenizer"))?;
        let weights = |part: &str, stem: &str, tensors: Result<Vec<(String, Tensor)>>| {
            let path = dir.join(part).join(format!("{stem}.safetensors"));
            save_weights(&path, tensors?.into_iter().map(|(name, tensor)| (name, tensor, dtype)))
        };
        weights("text_encoder", TRANSFORMERS_STEM, self.text_encoder.to_file())?;
        weights("unet", DIFFUSERS_STEM, named(self.unet.params()))?;
        weights("vae", DIFFUSERS_STEM, named(self.vae.params()))?;
        // Last: a folder with an index is complete.
        self.index.write(dir)
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// All parameters of the text encoder, the UNet and the VAE.
    pub fn params(&self) -> impl Iterator<Item = &Param> {
        let Backbone { text_encoder, unet, vae, .. } = self;
        text_encoder.params().iter().chain(unet.params()).chain(vae.params())
    }

    /// Width and height of the images it was trained on, in pixels.
    pub fn default_size(&self) -> (usize, usize) {
        default_size(self.unet.config(), self.vae.config())
    }
}

/// The type that images are encoded in beside a UNet that computes in `compute`: bf16 with that, where
/// `whole` batches are encoded, as diffusers' scripts do it. In f16 the VAE's activations overflow, and the
/// CPU has kernels of f32. Decoding is in f32 always: what an image shows is measured.
pub fn encoding_dtype(compute: DType, whole: bool) -> DType {
    if whole && compute == DType::BF16 { DType::BF16 } else { DType::F32 }
}

/// Width and height of the images that a UNet on a VAE's latents was trained on, in pixels.
pub(super) fn default_size(unet: &UNetConfig, vae: &VaeConfig) -> (usize, usize) {
    let unit = vae.downscale();
    match &unet.sample_size {
        Some(PerBlock::All(side)) => (side * unit, side * unit),
        Some(PerBlock::Each(sides)) if sides.len() == 2 => (sides[1] * unit, sides[0] * unit),
        _ => (64 * unit, 64 * unit),
    }
}

/// Parameters as files have them.
pub(super) fn named(params: &[Param]) -> Result<Vec<(String, Tensor)>> {
    params.iter().map(|p| Ok((p.name().to_owned(), p.to_file()?))).collect()
}
