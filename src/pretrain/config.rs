//! `pretrain.toml`: what is trained, on which scenes, for how long.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::clip::{ClipConfig, VitConfig};
use crate::diffusion::config::{SchedulerConfig, TextEncoderConfig, UNetConfig, VaeConfig};
use crate::error::nearest;
use crate::train::TrainConfig;
use crate::world::WorldConfig;
use crate::{Error, Result};

/// All runs. Models are written with the keys of their own configuration files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// Decides initial weights, scenes and noise of every run.
    pub seed: u64,
    /// The autoencoder.
    pub vae: VaeRecipe,
    /// More of the autoencoder's decoder, with the latents as they are.
    pub decoder: Recipe,
    /// The UNet and the text encoder.
    pub unet: UNetRecipe,
    /// The judge.
    pub clip: ClipRecipe,
    /// The identity extractor.
    pub identity: IdentityRecipe,
}

/// What the runs have in common.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recipe {
    /// Scenes a step.
    pub batch: usize,
    /// The learning rate, before the schedule.
    pub lr: f64,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// Minutes between two looks at the model: measurements, pictures, exported weights.
    pub look_minutes: f64,
    /// Held-out scenes that are measured on at a look.
    #[serde(default = "default_look_scenes")]
    pub look_scenes: usize,
    /// Steps, schedule, averages.
    pub train: TrainConfig,
}

fn default_look_scenes() -> usize {
    300
}

/// The autoencoder's run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VaeRecipe {
    /// Batch, rates, steps.
    #[serde(flatten)]
    pub recipe: Recipe,
    /// What the scenes are.
    pub world: WorldConfig,
    /// The weights of the loss's terms.
    pub loss: VaeLoss,
    /// diffusers' configuration.
    pub model: VaeConfig,
}

/// Weights of the autoencoder's loss, all on means over what they compare.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaeLoss {
    /// Absolute difference of pixels.
    pub absolute: f64,
    /// Squared difference of pixels.
    pub squared: f64,
    /// Absolute difference of horizontal and vertical steps between neighbours: edges and patterns.
    pub edges: f64,
    /// Absolute difference of the means of 4×4 squares: hue.
    pub colour: f64,
    /// Kullback-Leibler divergence from the standard normal, per number of the latents.
    pub kl: f64,
}

/// The run of UNet and text encoder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UNetRecipe {
    /// Batch, rates, steps.
    #[serde(flatten)]
    pub recipe: Recipe,
    /// Scenes change as training goes on: the first stage whose end is not reached counts, after the
    /// last end the last.
    pub stages: Vec<WorldStage>,
    /// Share of the scenes without a size word that are shown as augmentation shows targets (see
    /// `data::augment`): small on a canvas, or enlarged, with the paper's words in the caption and the
    /// loss of what is shown alone. What is learnt from a target on a canvas then carries over, and
    /// yet nobody is given a canvas.
    #[serde(default)]
    pub augmented: f32,
    /// Share of captions that are left out, for guidance.
    pub caption_dropout: f32,
    /// γ of the min-SNR weights; 0 for none.
    pub snr_gamma: f64,
    /// Most tokens of a caption, start and end included.
    pub tokens: usize,
    /// transformers' configuration; the vocabulary's size is the world's.
    pub text_encoder: TextEncoderConfig,
    /// diffusers' configuration.
    pub model: UNetConfig,
    /// The noise schedule.
    pub scheduler: SchedulerConfig,
}

/// The judge's run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClipRecipe {
    /// Batch, rates, steps.
    #[serde(flatten)]
    pub recipe: Recipe,
    /// What the scenes are.
    pub world: WorldConfig,
    /// Most tokens of a caption, start and end included.
    pub tokens: usize,
    /// transformers' configuration; the vocabulary's size is the world's.
    pub model: ClipConfig,
}

/// The identity extractor's run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IdentityRecipe {
    /// Batch (pairs of views), rates, steps.
    #[serde(flatten)]
    pub recipe: Recipe,
    /// What the scenes are.
    pub world: WorldConfig,
    /// What cosines are multiplied with before the softmax.
    pub scale: f64,
    /// transformers' configuration.
    pub model: VitConfig,
}

/// The scenes of a part of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldStage {
    /// The step at which it ends.
    pub until: u64,
    /// What the scenes are.
    pub world: WorldConfig,
}

impl PretrainConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file, the key and what was wanted.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        Self::parse(&text).map_err(|e| e.of_file(path))
    }

    fn parse(text: &str) -> Result<Self> {
        let config: PretrainConfig = toml::from_str(text)?;
        known_keys(text, &config)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        for (name, recipe) in [
            ("vae", &self.vae.recipe),
            ("decoder", &self.decoder),
            ("unet", &self.unet.recipe),
            ("clip", &self.clip.recipe),
            ("identity", &self.identity.recipe),
        ] {
            if !(1..=65536).contains(&recipe.batch) {
                return Err(Error::input(format!("`{name}.batch` is {}", recipe.batch)));
            }
            if !(1..=5000).contains(&recipe.look_scenes) {
                let found = recipe.look_scenes;
                return Err(Error::input(format!(
                    "`{name}.look_scenes` is {found}, not 1 to 5000"
                )));
            }
            if !(recipe.lr > 0.0 && recipe.look_minutes > 0.0 && recipe.weight_decay >= 0.0) {
                let what = "`lr` and `look_minutes` must be positive, `weight_decay` not negative";
                return Err(Error::input(format!("{name}: {what}")));
            }
        }
        self.vae.world.check()?;
        self.clip.world.check()?;
        self.identity.world.check()?;
        self.identity.model.check("identity.model")?;
        if !(0.0..=1.0).contains(&self.unet.augmented) {
            let message = format!("`unet.augmented` is {}, not 0 to 1", self.unet.augmented);
            return Err(Error::input(message));
        }
        if self.unet.stages.is_empty() {
            return Err(Error::input("`unet.stages` needs at least one entry"));
        }
        self.unet.stages.iter().try_for_each(|stage| stage.world.check())
    }
}

impl UNetRecipe {
    /// What the scenes of `step` are.
    pub fn world(&self, step: u64) -> &WorldConfig {
        let stage = self.stages.iter().find(|s| step < s.until).or(self.stages.last());
        &stage.expect("checked when it was read").world
    }
}

/// That every key of `text` means something: recipes are flattened, for which serde cannot refuse keys.
fn known_keys(text: &str, config: &PretrainConfig) -> Result<()> {
    fn compare(given: &toml::Table, known: &toml::Table, place: &str) -> Result<()> {
        for (key, value) in given {
            let Some(same) = known.get(key) else {
                let hint = nearest(key, known.keys().map(String::as_str));
                return Err(Error::input_hint(format!("there is no key `{place}{key}`"), hint));
            };
            if let (Some(given), Some(known)) = (value.as_table(), same.as_table()) {
                compare(given, known, &format!("{place}{key}."))?;
            }
        }
        Ok(())
    }
    let given: toml::Table = toml::from_str(text)?;
    let known = toml::Table::try_from(config).map_err(|e| Error::input(e.to_string()))?;
    compare(&given, &known, "")
}
