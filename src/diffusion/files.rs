//! A backbone on disk: its configurations and its tokenizer are read and fit each other, its weights are
//! read when somebody asks for them. It is a folder in diffusers' layout or a single file.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::{
    Config, ModelIndex, PredictionType, SchedulerConfig, TextEncoderConfig, UNetConfig, VaeConfig,
};
use super::folder::{self, LAYOUT};
use super::single_file::SingleFile;
use super::tokenizer::Tokenizer;
use super::weights::Weights;
use crate::{Error, Result, hub, mini};

/// What a user gives as a backbone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackboneSpec {
    /// `mini`, a folder in diffusers' layout, a single file, or a hub id: `owner/name[@revision]`.
    pub name: String,
    /// Of a single file: a folder in diffusers' layout with the configurations and the tokenizer, in place
    /// of the published ones. Its weights serve where the file has none.
    pub config: Option<PathBuf>,
    /// Of a single file: what its UNet predicts, which the file does not say.
    pub prediction: Option<PredictionType>,
}

impl From<&str> for BackboneSpec {
    fn from(name: &str) -> Self {
        BackboneSpec { name: name.to_owned(), config: None, prediction: None }
    }
}

impl fmt::Display for BackboneSpec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(folder) = &self.config {
            write!(f, ", configured by {}", folder.display())?;
        }
        match self.prediction {
            Some(prediction) => write!(f, ", predicting {}", prediction.what()),
            None => Ok(()),
        }
    }
}

/// The parts of a backbone that have weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The UNet.
    UNet,
    /// The autoencoder.
    Vae,
    /// The text encoder.
    TextEncoder,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 3] = [Part::UNet, Part::Vae, Part::TextEncoder];

    /// Its folder in diffusers' layout, which is also what its parameters' names begin with.
    pub fn name(self) -> &'static str {
        match self {
            Part::UNet => "unet",
            Part::Vae => "vae",
            Part::TextEncoder => "text_encoder",
        }
    }
}

/// The configurations of a backbone and its tokenizer.
#[derive(Clone)]
pub struct Blueprint {
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

impl Blueprint {
    /// Reads those of a folder in diffusers' layout.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file, key and value that cannot be used.
    pub fn read(root: &Path) -> Result<Self> {
        if !root.join(ModelIndex::FILE).is_file() {
            return Err(Error::input_hint(
                format!("{}: there is no {}", root.display(), ModelIndex::FILE),
                "a backbone is a folder in diffusers' layout, as pipe.save_pretrained writes it",
            ));
        }
        let blueprint = Blueprint {
            index: ModelIndex::read(root)?,
            unet: UNetConfig::read(root)?,
            vae: VaeConfig::read(root)?,
            text_encoder: TextEncoderConfig::read(root)?,
            scheduler: SchedulerConfig::read(root)?,
            tokenizer: Tokenizer::load(&root.join("tokenizer"))?,
        };
        blueprint.fitted(root)
    }

    /// The same, if the parts fit each other; `origin` stands for them in errors.
    pub(super) fn fitted(mut self, origin: &Path) -> Result<Self> {
        self.check(origin)?;
        // the rows of a table that was padded have no tokens; added ones come behind them
        self.tokenizer.fill_up(self.text_encoder.vocab_size)?;
        Ok(self)
    }

    /// Width and height of the images it was trained on, in pixels.
    pub fn default_size(&self) -> (usize, usize) {
        super::backbone::default_size(&self.unet, &self.vae)
    }

    fn check(&self, origin: &Path) -> Result<()> {
        let (unet, text) = (&self.unet, &self.text_encoder);
        let differ = |a: &str, x: usize, relation: &str, b: &str, y: usize| {
            let origin = origin.display();
            Err(Error::input(format!(
                "{origin}: {a} is {x}, but must {relation} {b}, which is {y}"
            )))
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

    /// The configurations as JSON, by their files' names in diffusers' layout.
    fn texts(&self) -> Vec<(String, String)> {
        fn text<C: Config>(config: &C) -> (String, String) {
            let value = serde_json::to_value(config).unwrap_or(Value::Null);
            (C::FILE.to_owned(), value.to_string())
        }
        vec![
            text(&self.unet),
            text(&self.vae),
            text(&self.text_encoder),
            text(&self.scheduler),
            ("tokenizer/tokenizer.json".to_owned(), self.tokenizer.meaning()),
        ]
    }
}

/// See the module.
#[derive(Clone)]
pub struct BackboneFiles {
    /// The configurations and the tokenizer.
    pub blueprint: Blueprint,
    form: Form,
}

/// How a backbone lies on disk.
#[derive(Clone)]
enum Form {
    Folder(PathBuf),
    SingleFile(SingleFile),
}

/// Something that is computed with.
pub enum Content {
    /// A file, by its contents.
    File(PathBuf),
    /// What is not in a file of its own.
    Text(String),
}

impl BackboneFiles {
    /// Opens what a user gives.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file, key and value that cannot be used, or what to download.
    pub fn open(spec: &BackboneSpec) -> Result<Self> {
        let name = spec.name.as_str();
        let path = match name {
            mini::NAME => mini::folder()?,
            _ => hub::find(name, &LAYOUT)?.ok_or_else(|| {
                Error::input_hint(
                    format!("backbone `{name}`: there is no such file or folder"),
                    "give mini, a folder in diffusers' layout, a single-file checkpoint, or a hub id \
                     such as owner/name",
                )
            })?,
        };
        if path.is_file() {
            let (form, blueprint) = SingleFile::open(&path, spec)?;
            return Ok(BackboneFiles { blueprint, form: Form::SingleFile(form) });
        }
        for (given, what) in [
            (spec.config.is_some(), "configurations"),
            (spec.prediction.is_some(), "what the UNet predicts"),
        ] {
            if given {
                return Err(Error::input_hint(
                    format!("backbone `{name}`: a folder says itself its {what}"),
                    "`backbone_config` and `prediction` are for single files: leave them out, or edit \
                     the folder's own files",
                ));
            }
        }
        Self::open_folder(&path)
    }

    /// Opens a folder in diffusers' layout.
    ///
    /// # Errors
    /// As [`Blueprint::read`].
    pub fn open_folder(root: &Path) -> Result<Self> {
        Ok(BackboneFiles { blueprint: Blueprint::read(root)?, form: Form::Folder(root.to_owned()) })
    }

    /// The weights of a part: headers are read, tensors when they are asked for.
    ///
    /// # Errors
    /// [`Error::Input`] naming what is missing or damaged.
    pub fn weights(&self, part: Part) -> Result<Weights> {
        match &self.form {
            Form::Folder(root) => folder::weights(root, part),
            Form::SingleFile(file) => file.weights(part, &self.blueprint),
        }
    }

    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match &self.form {
            Form::Folder(root) => Some(root),
            Form::SingleFile(_) => None,
        }
    }

    /// A model in transformers' layout that came with the backbone, such as a judge of its own.
    pub fn companion(&self, name: &str) -> Option<PathBuf> {
        let folder = self.folder()?.join(name);
        folder.join("config.json").is_file().then_some(folder)
    }

    /// All that is computed with, by name.
    ///
    /// # Errors
    /// [`Error::Io`] if a folder cannot be read.
    pub fn contents(&self) -> Result<Vec<(String, Content)>> {
        match &self.form {
            Form::Folder(root) => folder::contents(root),
            Form::SingleFile(file) => {
                let mut contents = file.contents()?;
                let texts = self.blueprint.texts().into_iter();
                contents.extend(texts.map(|(name, text)| (name, Content::Text(text))));
                Ok(contents)
            }
        }
    }

    /// What it is, in a few words.
    pub fn describe(&self) -> String {
        match &self.form {
            Form::Folder(root) => format!("a folder in diffusers' layout, {}", root.display()),
            Form::SingleFile(file) => file.describe(),
        }
    }
}
