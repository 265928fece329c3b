//! A backbone in a single file, under the names that the original code (CompVis, Stability AI) gave its
//! tensors: SD 1.x, 2.x base and 2.x for 768 pixels. Configurations are not in such a file: they are the
//! published ones, or a folder's.

mod foreign;
mod names;

use std::path::{Path, PathBuf};

use super::config::PredictionType;
use super::files::{BackboneSpec, Blueprint, Content, Part};
use super::folder;
use super::presets::{self, Version};
use super::weights::{Piece, Weights};
use crate::{Error, Result};
use names::Modules;

/// What the UNet's names begin with.
const UNET: &str = "model.diffusion_model.";
/// What the autoencoder's names begin with.
const VAE: &str = "first_stage_model.";
/// What the text encoder's names begin with.
const TEXT: &str = "cond_stage_model.";
/// What names begin with where a training has left its state around the model.
const STATE: &str = "state_dict.";

/// A file that is a backbone.
#[derive(Clone)]
pub(super) struct SingleFile {
    path: PathBuf,
    /// Configurations, and the weights that the file lacks.
    folder: Option<PathBuf>,
    /// For people.
    what: String,
}

impl SingleFile {
    /// Tells which architecture it is, and finds the configurations for it.
    ///
    /// # Errors
    /// [`Error::Input`] that says what the file is instead, or what to give with it.
    pub(super) fn open(path: &Path, spec: &BackboneSpec) -> Result<(Self, Blueprint)> {
        let weights = bare(Weights::open_file(path)?)?;
        foreign::refuse(path, &weights)?;
        let columns = text_columns(&weights);
        let version = columns.and_then(Version::of_text_width);
        let mut blueprint = match (&spec.config, version) {
            (Some(folder), _) => Blueprint::read(folder).map_err(|e| e.of("`backbone_config`"))?,
            (None, Some(version)) => {
                let predicts = assumed(path, version, spec.prediction, &weights);
                presets::blueprint(version, predicts)?
            }
            (None, None) => {
                let columns = columns.map_or("no text".into(), |n| format!("{n} text features"));
                return Err(Error::input_hint(
                    format!(
                        "{}: a UNet for {columns} is none of the published ones, which have 768 (SD 1.x) \
                         or 1024 (SD 2.x)",
                        path.display()
                    ),
                    "give its configurations and its tokenizer: --backbone-config DIR, or \
                     `backbone_config` in an experiment, with a folder in diffusers' layout",
                ));
            }
        };
        if let Some(prediction) = spec.prediction {
            blueprint.scheduler.prediction_type = prediction;
        }
        foreign::refuse_more_inputs(path, &weights, blueprint.unet.in_channels)?;
        let by = match (&spec.config, version) {
            (Some(folder), _) => format!("configured by {}", folder.display()),
            (None, Some(version)) => version.name().to_owned(),
            (None, None) => String::new(),
        };
        let what = format!("a single file, {}, {by}", path.display());
        let file = SingleFile { path: path.to_owned(), folder: spec.config.clone(), what };
        for part in Part::ALL {
            file.weights(part, &blueprint)?;
        }
        Ok((file, blueprint))
    }

    /// The weights of a part, under diffusers' names.
    ///
    /// # Errors
    /// [`Error::Input`] if the file has none and nothing else is given.
    pub(super) fn weights(&self, part: Part, blueprint: &Blueprint) -> Result<Weights> {
        let file = bare(Weights::open_file(&self.path)?)?;
        let (prefix, name) = match part {
            Part::UNet => (UNET, "UNet"),
            Part::Vae => (VAE, "VAE"),
            Part::TextEncoder => (TEXT, "text encoder"),
        };
        let there = file.keys().any(|key| key.starts_with(prefix) && !is_leftover(key));
        if there {
            let names = Names::new(part, blueprint);
            return file.renamed(|key| names.of(key));
        }
        match &self.folder {
            Some(folder) if folder::has_weights(folder, part) => folder::weights(folder, part),
            _ => Err(Error::input_hint(
                format!(
                    "{}: there is no {name} in it: nothing is called `{prefix}…`",
                    self.path.display()
                ),
                format!(
                    "give a file of the whole model, or the missing part with --backbone-config DIR, a \
                     folder in diffusers' layout that has weights in {}/",
                    part.name()
                ),
            )),
        }
    }

    /// What of it, and of the folder, weights are read from.
    pub(super) fn contents(&self) -> Result<Vec<(String, Content)>> {
        let mut contents = vec![("checkpoint".to_owned(), Content::File(self.path.clone()))];
        // whichever of them are read: more is not less
        let folder = self.folder.iter();
        for (folder, part) in folder.flat_map(|f| Part::ALL.map(|part| (f, part))) {
            if folder::has_weights(folder, part) {
                contents.extend(folder::contents_of(folder, part.name())?);
            }
        }
        Ok(contents)
    }

    /// What it is, in a few words.
    pub(super) fn describe(&self) -> String {
        self.what.clone()
    }
}

/// The tensors of the model, without the state of a training around them.
fn bare(file: Weights) -> Result<Weights> {
    if !file.keys().any(|key| key.starts_with(STATE)) {
        return Ok(file);
    }
    file.renamed(|key| {
        let own = key.strip_prefix(STATE).map(|name| (name.to_owned(), Piece::Whole));
        own.into_iter().collect()
    })
}

/// How many features of a text the UNet attends to.
fn text_columns(file: &Weights) -> Option<usize> {
    let key = file.keys().find(|k| k.starts_with(UNET) && k.ends_with("attn2.to_k.weight"))?;
    file.shape(key)?.get(1).copied()
}

/// What the UNet predicts: as the user says, as the file says, or as most do, which is said.
fn assumed(
    path: &Path,
    version: Version,
    given: Option<PredictionType>,
    file: &Weights,
) -> PredictionType {
    // a mark that some trainers leave
    let marked = file.contains("v_pred").then_some(PredictionType::VPrediction);
    given.or(marked).unwrap_or_else(|| {
        if version == Version::Sd2 {
            tracing::warn!(
                "{}: Stable Diffusion 2.x; the file does not say whether it is the base model for 512 \
                 pixels, which predicts noise, or the one for 768, which predicts velocity: the base model \
                 is assumed; --prediction v (`prediction` in an experiment) if it is the other",
                path.display()
            );
        }
        PredictionType::Epsilon
    })
}

/// What is in such files and no part of the model that is used: averaged weights, the loss of the
/// autoencoder, buffers of the trainer, which have no module.
fn is_leftover(key: &str) -> bool {
    key.starts_with("model_ema.")
        || key.starts_with("first_stage_model.loss.")
        || key.starts_with("first_stage_model.model_ema.")
        || !key.contains('.')
}

/// What each key of the file is called in one part of diffusers' layout.
struct Names {
    part: Part,
    modules: Modules,
    /// Blocks of the text encoder that are used.
    layers: usize,
}

impl Names {
    fn new(part: Part, blueprint: &Blueprint) -> Self {
        let modules = match part {
            Part::UNet => names::unet(&blueprint.unet),
            Part::Vae => names::vae(&blueprint.vae),
            Part::TextEncoder => Modules::default(),
        };
        Names { part, modules, layers: blueprint.text_encoder.num_hidden_layers }
    }

    fn of(&self, key: &str) -> Vec<(String, Piece)> {
        let strange = || vec![(key.to_owned(), Piece::Whole)];
        let whole = |name: Option<String>| name.map_or_else(strange, |n| vec![(n, Piece::Whole)]);
        let others = [VAE, TEXT].iter().any(|prefix| key.starts_with(prefix));
        match self.part {
            _ if is_leftover(key) => vec![],
            Part::UNet => match key.strip_prefix(UNET) {
                Some(own) => whole(self.modules.rename(own)),
                // what is no part's is the first one's to report
                None if !others => strange(),
                None => vec![],
            },
            Part::Vae => match key.strip_prefix(VAE) {
                Some(own) => whole(self.modules.rename(own)),
                None => vec![],
            },
            Part::TextEncoder => match key.strip_prefix(TEXT) {
                Some(own) => names::text(own, self.layers).unwrap_or_else(strange),
                None => vec![],
            },
        }
    }
}
