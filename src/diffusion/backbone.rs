//! A backbone: all parts of a diffusers folder, loaded, used and saved together.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::config::{
    Config, ModelIndex, PerBlock, SchedulerConfig, TextEncoderConfig, UNetConfig, VaeConfig,
};
use super::folder;
use super::model::{TextEncoder, UNet, Vae};
use super::tokenizer::Tokenizer;
use super::weights::{Weights, save_weights};
use crate::nn::{Builder, Init, Param, RandomSource, Source};
use crate::{Error, Result};

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

/// The configurations of all parts.
#[derive(Clone, Debug, Default)]
pub struct BackboneConfig {
    /// Which class each part belongs to.
    pub index: ModelIndex,
    /// The text encoder.
    pub text_encoder: TextEncoderConfig,
    /// The UNet.
    pub unet: UNetConfig,
    /// The VAE.
    pub vae: VaeConfig,
    /// The noise schedule.
    pub scheduler: SchedulerConfig,
}

impl BackboneConfig {
    /// Reads and checks a folder's configurations, each alone and together.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file and the key.
    pub fn read(dir: &Path) -> Result<Self> {
        let config = BackboneConfig {
            index: Config::read(dir)?,
            text_encoder: Config::read(dir)?,
            unet: Config::read(dir)?,
            vae: Config::read(dir)?,
            scheduler: Config::read(dir)?,
        };
        config.check(dir)?;
        Ok(config)
    }

    /// Whether the parts fit each other; `dir` stands for the folder in errors.
    fn check(&self, dir: &Path) -> Result<()> {
        let unfit = |what: String| Err(Error::input(format!("{}: {what}", dir.display())));
        let (unet, vae) = (&self.unet, &self.vae);
        if unet.in_channels != vae.latent_channels || unet.out_channels != vae.latent_channels {
            return unfit(format!(
                "unet/config.json has {} channels in and {} out, but vae/config.json has \
                 `latent_channels` {}",
                unet.in_channels, unet.out_channels, vae.latent_channels
            ));
        }
        let width = self.text_encoder.hidden_size;
        if let Some(i) = (0..unet.blocks()).find(|&i| unet.cross_attention_dim.at(i) != width) {
            return unfit(format!(
                "unet/config.json has `cross_attention_dim` {}, but text_encoder/config.json has \
                 `hidden_size` {width}",
                unet.cross_attention_dim.at(i)
            ));
        }
        Ok(())
    }
}

/// Names of the weight files, without extension.
const DIFFUSERS_STEM: &str = "diffusion_pytorch_model";
const TRANSFORMERS_STEM: &str = "model";

impl Source for Arc<Weights> {
    fn tensor(&mut self, name: &str, shape: &[usize], _: Init) -> Result<Tensor> {
        Weights::tensor(self, name, shape)
    }
}

impl Backbone {
    /// Loads a folder in diffusers' layout, or a hub id (`owner/name[@revision]`).
    ///
    /// Frozen parameters are kept in `compute`, the type of all forward passes but the VAE's, which is
    /// always f32, as its activations overflow in f16.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file, and the key or tensor in it, that is missing or wrong.
    pub fn load(backbone: &str, device: &Device, compute: DType) -> Result<Self> {
        let dir = &folder::resolve(backbone)?;
        let config = BackboneConfig::read(dir)?;
        let open = |part: &str, stem| Weights::open(&dir.join(part), stem).map(Arc::new);
        let text = open("text_encoder", TRANSFORMERS_STEM)?;
        let unet = open("unet", DIFFUSERS_STEM)?;
        let vae = open("vae", DIFFUSERS_STEM)?;
        let tokenizer = Tokenizer::load(&dir.join("tokenizer"))?;
        let sources = [&text, &unet, &vae].map(Arc::clone);
        let backbone = Backbone::build(config, tokenizer, device, compute, sources)
            .map_err(|e| located(e, dir))?;
        for weights in [text, unet, vae] {
            weights.finish()?;
        }
        Ok(backbone)
    }

    /// A backbone with random weights: to be trained, or to measure speed.
    ///
    /// # Errors
    /// [`Error::Input`] if the configurations do not fit each other or the tokenizer.
    pub fn random(
        config: BackboneConfig,
        tokenizer: Tokenizer,
        device: &Device,
        compute: DType,
        seed: u64,
    ) -> Result<Self> {
        config.check(Path::new("backbone"))?;
        let sources = [0, 1, 2].map(|part| RandomSource { seed: seed.wrapping_mul(3) + part });
        Backbone::build(config, tokenizer, device, compute, sources)
    }

    fn build<S: Source + 'static>(
        config: BackboneConfig,
        tokenizer: Tokenizer,
        device: &Device,
        compute: DType,
        [text, unet, vae]: [S; 3],
    ) -> Result<Self> {
        let (tokens, rows) = (tokenizer.vocab_size(), config.text_encoder.vocab_size);
        if tokens > rows {
            return Err(Error::input(format!(
                "the tokenizer has {tokens} tokens, but text_encoder/config.json has `vocab_size` {rows}"
            )));
        }
        let (length, limit) =
            (tokenizer.max_len(), config.text_encoder.max_position_embeddings);
        if length > limit {
            return Err(Error::input(format!(
                "the tokenizer makes prompts of {length} tokens, but text_encoder/config.json has \
                 `max_position_embeddings` {limit}"
            )));
        }
        Ok(Backbone {
            tokenizer,
            text_encoder: TextEncoder::new(
                &Builder::new(text, device, compute),
                &config.text_encoder,
            )?,
            unet: UNet::new(&Builder::new(unet, device, compute), &config.unet)?,
            vae: Vae::new(&Builder::new(vae, device, DType::F32), &config.vae)?,
            scheduler: config.scheduler,
            index: config.index,
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
        text.vocab_size += self.text_encoder.added().map_or(0, |added| added.shape()[0]);
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
        let unit = self.vae.config().downscale();
        match &self.unet.config().sample_size {
            Some(PerBlock::All(side)) => (side * unit, side * unit),
            Some(PerBlock::Each(sides)) if sides.len() == 2 => (sides[1] * unit, sides[0] * unit),
            _ => (64 * unit, 64 * unit),
        }
    }
}

/// Parameters as files have them.
pub(super) fn named(params: &[Param]) -> Result<Vec<(String, Tensor)>> {
    params.iter().map(|p| Ok((p.name().to_owned(), p.to_file()?))).collect()
}

/// Puts the folder before the message of an error about what the parts of a folder have in common.
fn located(error: Error, dir: &Path) -> Error {
    match error {
        Error::Input { message, hint } if !message.contains(&*dir.to_string_lossy()) => {
            Error::Input { message: format!("{}: {message}", dir.display()), hint }
        }
        other => other,
    }
}
