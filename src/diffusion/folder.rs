//! A backbone: the diffusers folder of a Stable Diffusion model.

use std::path::{Path, PathBuf};

use super::config::{
    Config, ModelIndex, SchedulerConfig, TextEncoderConfig, UNetConfig, VaeConfig, read_object,
};
use super::hub;
use super::tokenizer::Tokenizer;
use super::weights::{Form, Weights, forms};
use crate::{Error, Result, mini};

/// Name of diffusers' weight files, without extension.
pub(crate) const DIFFUSERS_STEM: &str = "diffusion_pytorch_model";
/// Name of transformers' weight files, without extension.
pub(crate) const TRANSFORMERS_STEM: &str = "model";

/// The folders with weights, and the names of the weights in them.
const WEIGHTS: [(&str, &str); 3] =
    [("unet", DIFFUSERS_STEM), ("vae", DIFFUSERS_STEM), ("text_encoder", TRANSFORMERS_STEM)];

/// Files every backbone has beside its weights and its tokenizer.
const CONFIGS: [&str; 5] = [
    ModelIndex::FILE,
    UNetConfig::FILE,
    VaeConfig::FILE,
    TextEncoderConfig::FILE,
    SchedulerConfig::FILE,
];

/// A backbone whose configurations are read and fit each other; its weights are still on disk.
pub struct Folder {
    /// The folder.
    pub root: PathBuf,
    /// `model_index.json`
    pub index: ModelIndex,
    /// The UNet's architecture.
    pub unet: UNetConfig,
    /// The autoencoder's architecture.
    pub vae: VaeConfig,
    /// The text encoder's architecture.
    pub text_encoder: TextEncoderConfig,
    /// The noise schedule.
    pub scheduler: SchedulerConfig,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
}

impl Folder {
    /// Width and height of the images it was trained on, in pixels.
    pub fn default_size(&self) -> (usize, usize) {
        super::backbone::default_size(&self.unet, &self.vae)
    }

    /// Opens `mini` (the embedded backbone), a folder, or a hub id `owner/name[@revision]`.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file, key and value that cannot be used, or what to download.
    pub fn open(backbone: &str) -> Result<Self> {
        match backbone {
            mini::NAME => Self::open_folder(&mini::folder()?),
            _ => Self::open_folder(&hub::resolve(backbone)?),
        }
    }

    /// Opens a folder.
    pub fn open_folder(root: &Path) -> Result<Self> {
        if !root.join(ModelIndex::FILE).is_file() {
            return Err(Error::input_hint(
                format!("{}: there is no {}", root.display(), ModelIndex::FILE),
                "a backbone is a folder in diffusers' layout, as pipe.save_pretrained writes it",
            ));
        }
        let mut folder = Folder {
            root: root.to_owned(),
            index: ModelIndex::read(root)?,
            unet: UNetConfig::read(root)?,
            vae: VaeConfig::read(root)?,
            text_encoder: TextEncoderConfig::read(root)?,
            scheduler: SchedulerConfig::read(root)?,
            tokenizer: Tokenizer::load(&root.join("tokenizer"))?,
        };
        folder.check()?;
        // the rows of a table that was padded have no tokens; added ones come behind them
        folder.tokenizer.fill_up(folder.text_encoder.vocab_size)?;
        Ok(folder)
    }

    /// Whether the parts fit each other.
    fn check(&self) -> Result<()> {
        let (unet, text) = (&self.unet, &self.text_encoder);
        let differ = |a: &str, x: usize, relation: &str, b: &str, y: usize| {
            let root = self.root.display();
            Err(Error::input(format!("{root}: {a} is {x}, but must {relation} {b}, which is {y}")))
        };
        let middle = unet.blocks() - 1;
        for i in 0..unet.blocks() {
            let width = unet.cross_attention_dim.at(i);
            let attends = unet.down_attends(i) || unet.up_attends(i) || i == middle;
            if attends && width != text.hidden_size {
                let b = "the text encoder's `hidden_size`";
                return differ(
                    "the UNet's `cross_attention_dim`",
                    width,
                    "equal",
                    b,
                    text.hidden_size,
                );
            }
        }
        let latents = ("the VAE's `latent_channels`", self.vae.latent_channels);
        for (key, channels) in [
            ("the UNet's `in_channels`", unet.in_channels),
            ("the UNet's `out_channels`", unet.out_channels),
        ] {
            if channels != latents.1 {
                return differ(key, channels, "equal", latents.0, latents.1);
            }
        }
        for (a, x, b, y) in [
            (
                "the tokenizer's length",
                self.tokenizer.max_len(),
                "the text encoder's `max_position_embeddings`",
                text.max_position_embeddings,
            ),
            (
                "the tokenizer's number of tokens",
                self.tokenizer.vocab_size(),
                "the text encoder's `vocab_size`",
                text.vocab_size,
            ),
        ] {
            if x > y {
                return differ(a, x, "not exceed", b, y);
            }
        }
        Ok(())
    }

    /// The UNet's weights.
    pub fn unet_weights(&self) -> Result<Weights> {
        self.weights(0)
    }

    /// The autoencoder's weights.
    pub fn vae_weights(&self) -> Result<Weights> {
        self.weights(1)
    }

    /// The text encoder's weights.
    pub fn text_encoder_weights(&self) -> Result<Weights> {
        self.weights(2)
    }

    fn weights(&self, part: usize) -> Result<Weights> {
        let (dir, stem) = WEIGHTS[part];
        Weights::open(&self.root.join(dir), stem)
    }
}

/// What a backbone in `root` still lacks, as paths below it.
pub(super) fn missing(root: &Path) -> Vec<String> {
    let has = |file: &str| root.join(file).is_file();
    let mut missing: Vec<_> =
        CONFIGS.iter().filter(|file| !has(file)).map(|file| (*file).to_owned()).collect();
    if !has("tokenizer/tokenizer.json") {
        let files = ["tokenizer/vocab.json", "tokenizer/merges.txt"];
        missing.extend(files.iter().filter(|file| !has(file)).map(|file| (*file).to_owned()));
    }
    for (dir, stem) in WEIGHTS {
        let forms = forms(stem);
        let path = |form: &Form| format!("{dir}/{}", form.file);
        match forms.iter().find(|form| has(&path(form))) {
            None => missing.push(path(&forms[0])),
            Some(form) if !form.sharded => {}
            Some(form) => {
                let object = read_object(&root.join(path(form))).unwrap_or_default();
                let shards = object.get("weight_map").and_then(|map| map.as_object());
                let mut shards: Vec<_> = shards
                    .into_iter()
                    .flat_map(|map| map.values())
                    .filter_map(|v| v.as_str())
                    .collect();
                shards.sort_unstable();
                shards.dedup();
                let shards = shards.into_iter().map(|shard| format!("{dir}/{shard}"));
                missing.extend(shards.filter(|shard| !has(shard)));
            }
        }
    }
    missing
}

/// Which of a model's files to download; the error names one that should be there and is not.
pub(super) fn wanted(listed: &[String]) -> std::result::Result<Vec<String>, String> {
    let has = |file: &str| listed.iter().any(|l| l == file);
    let need = |file: &str| if has(file) { Ok(file.to_owned()) } else { Err(file.to_owned()) };
    let mut wanted = Vec::new();
    for file in CONFIGS {
        wanted.push(need(file)?);
    }
    match need("tokenizer/tokenizer.json") {
        Ok(file) => wanted.push(file),
        Err(_) => wanted.extend([need("tokenizer/vocab.json")?, need("tokenizer/merges.txt")?]),
    }
    let extras = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];
    wanted.extend(extras.iter().map(|name| format!("tokenizer/{name}")).filter(|file| has(file)));

    for (dir, stem) in WEIGHTS {
        let forms = forms(stem);
        let path = |form: &Form| format!("{dir}/{}", form.file);
        let Some(form) = forms.iter().find(|form| has(&path(form))) else {
            return Err(path(&forms[0]));
        };
        wanted.push(path(form));
        let below = format!("{dir}/");
        let is_shard = |file: &&String| {
            file.strip_prefix(&below).is_some_and(|name| form.has_shard(stem, name))
        };
        wanted.extend(listed.iter().filter(is_shard).cloned());
    }
    Ok(wanted)
}

#[cfg(test)]
pub(super) mod tests;
