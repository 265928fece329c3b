//! Checkpoints on disk: our own folder, and the files of others, each dialect in a file of its own.
//!
//! | dialect | its keys | read | written, as `--to` |
//! |---|---|---|---|
//! | diffusers: `diffusers.rs` | `….attn2.processor.to_k_custom_diffusion.weight`, or whole weights under the parameters' bare names | yes | `diffusers`, `cdbench` |
//! | the authors' code on diffusers: `authors.rs` | `unet.….attn2.to_k.weight`, with `.u` and `.v` behind it where it is compressed; `modifier_token.<new1>` | yes | `authors`, `authors-compressed` |
//! | the authors' code on CompVis's: `compvis.rs` | `state_dict.model.diffusion_model.….attn2.to_k.weight`, `embed` | yes | `compvis` |
//! | Textual Inversion: `textual_inversion.rs` | the token itself, `emb_params` (kohya), `string_to_param.*` (A1111) | yes | `textual-inversion`, `a1111` |
//! | LoRA of diffusers: `lora_diffusers.rs` | `unet.….to_q.lora.down.weight`, `….lora_A.weight` | yes | `lora` |
//! | LoRA of kohya: `lora_kohya.rs` | `lora_unet_…_to_q.lora_down.weight` | yes | `kohya` |
//!
//! What is read is told by its keys, never by the file's name alone, and one file speaks one dialect; the
//! files of a folder are read as one checkpoint, whatever each of them speaks. Trained states of optimisers
//! and their like, which trainers leave beside weights, are passed over. Written is f32.

mod authors;
mod compvis;
mod convert;
mod diffusers;
mod lora;
mod lora_diffusers;
mod lora_kohya;
mod refused;
mod textual_inversion;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;

use super::{Delta, Factors};
use crate::data::is_clutter;
use crate::diffusion::weights::{Pickled, Weights, save_pickle, save_weights};
use crate::{Error, Result};

pub use convert::{Conversion, Target, convert, targets};
pub(super) use textual_inversion::MOST_VECTORS;

/// What weights are kept in.
const SAFETENSORS: &str = "safetensors";
/// PyTorch's own.
const PICKLED: [&str; 4] = ["bin", "pt", "pth", "ckpt"];
/// How names of files start that hold a training's state and no weights.
const STATES: [&str; 8] = [
    "optimizer",
    "scheduler",
    "scaler",
    "sampler",
    "random_states",
    "rng_state",
    "training_args",
    "dataloader",
];

/// A dialect that is read.
struct Reader {
    /// What errors call it.
    name: &'static str,
    /// Whether a key is one of its own.
    knows: fn(&str) -> bool,
    /// Reads a file all of whose keys are its own.
    read: fn(&File) -> Result<Delta>,
}

/// All of them; a key is the first's that knows it.
const READERS: [Reader; 6] = [
    lora_kohya::READER,
    lora_diffusers::READER,
    compvis::READER,
    authors::READER,
    diffusers::READER,
    // whatever is nobody else's may be a token
    textual_inversion::READER,
];

/// A file of weights, as its dialect's reader sees it.
struct File<'a> {
    path: &'a Path,
    weights: &'a Weights,
    /// Of the tensors that hold numbers.
    keys: Vec<&'a str>,
}

impl File<'_> {
    /// Its name, without the extension.
    fn stem(&self) -> &str {
        self.path.file_stem().and_then(|s| s.to_str()).unwrap_or_default()
    }

    fn shape(&self, key: &str) -> Vec<usize> {
        self.weights.shape(key).unwrap_or_default()
    }

    fn tensor(&self, key: &str) -> Result<Tensor> {
        self.weights.tensor(key, &self.shape(key))
    }

    /// Both factors of a change, by their keys.
    fn factors(&self, u: &str, v: &str) -> Result<Factors> {
        for (key, other) in [(u, v), (v, u)] {
            if !self.weights.contains(key) {
                return Err(self.bad(format!("`{key}`, the other factor of `{other}`, is missing")));
            }
        }
        let factors = Factors::new(self.tensor(u)?, self.tensor(v)?);
        factors.map_err(|e| e.of(&format!("`{u}`")).of_file(self.path))
    }

    fn bad(&self, what: String) -> Error {
        Error::input(format!("{}: {what}", self.path.display()))
    }
}

impl Delta {
    /// Reads a checkpoint of any dialect: a folder, or one file.
    ///
    /// # Errors
    /// [`Error::Input`] if there is nothing to read, a file is damaged or holds what it should not, speaks
    /// two dialects, or is of another kind of model; if a number is not finite, or two files hold the same.
    pub fn load(path: &Path) -> Result<Delta> {
        let mut delta = Delta::default();
        for file in files(path)? {
            let weights = Weights::open_file(&file)?;
            let twice = delta.take_in(read(&file, &weights)?);
            if let Some(name) = twice {
                return Err(Error::input_hint(
                    format!("{}: two files hold `{name}`", path.display()),
                    "all files of a folder are one checkpoint: name the file that is meant",
                ));
            }
        }
        if delta.is_empty() {
            return Err(nothing(path));
        }
        delta.tokens.sort_by_key(|(token, _)| (number(token), token.clone()));
        Ok(delta)
    }

    /// Writes the change into a folder, which is made if need be, as [`Delta::load`] reads it, and returns
    /// how many bytes it takes there.
    ///
    /// # Errors
    /// [`Error::Input`] if weights of another checkpoint are there; [`Error::Io`] naming the file.
    pub fn save(&self, dir: &Path) -> Result<u64> {
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let files = diffusers::own_folder(self)?;
        let paths: Vec<PathBuf> = files.iter().map(|file| dir.join(&file.name)).collect();
        refuse_other_weights(dir, paths.iter().map(PathBuf::as_path))?;
        files.iter().zip(&paths).map(|(file, path)| file.save(path)).sum()
    }

    /// Adds what another holds; the name of something that both do.
    fn take_in(&mut self, other: Delta) -> Option<String> {
        let weight = |name: &&String| self.changed().any(|own| own == *name);
        let token = |name: &&String| self.tokens.iter().any(|(own, _)| own == *name);
        let tokens = || other.tokens.iter().map(|(name, _)| name);
        let both = other.changed().find(weight).or_else(|| tokens().find(token)).cloned();
        self.tensors.extend(other.tensors);
        self.factors.extend(other.factors);
        self.tokens.extend(other.tokens);
        both
    }
}

/// What a file holds, by the dialect that all its keys are of.
fn read(path: &Path, weights: &Weights) -> Result<Delta> {
    let holds = |key: &&str| !weights.shape(key).unwrap_or_default().contains(&0);
    // buffers of older transformers, which are no weights
    let weight = |key: &&str| !key.ends_with("position_ids");
    let keys: Vec<&str> = weights.keys().filter(weight).filter(holds).collect();
    let mut spoken: Option<(&str, &Reader)> = None;
    for &key in &keys {
        refused::refuse(path, key, &weights.shape(key).unwrap_or_default())?;
        let reader = READERS.iter().find(|reader| (reader.knows)(key)).expect("the last knows all");
        match spoken {
            None => spoken = Some((key, reader)),
            Some((first, other)) if other.name != reader.name => {
                return Err(Error::input_hint(
                    format!(
                        "{}: `{first}` is of {}, but `{key}` of {}",
                        path.display(),
                        other.name,
                        reader.name
                    ),
                    "make two files of it: those of one folder are read as one checkpoint",
                ));
            }
            Some(_) => {}
        }
    }
    match spoken {
        None => Ok(Delta::default()),
        Some((_, reader)) => {
            let delta = (reader.read)(&File { path, weights, keys })?;
            refuse_twice(path, &delta)?;
            Ok(delta)
        }
    }
}

/// Refuses a token that a file has twice, under names of different kinds.
fn refuse_twice(path: &Path, delta: &Delta) -> Result<()> {
    let mut names: Vec<&String> = delta.tokens.iter().map(|(name, _)| name).collect();
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => {
            Err(Error::input(format!("{}: the token `{}` is there twice", path.display(), pair[0])))
        }
    }
}

/// A file to be written.
struct Written {
    name: String,
    content: Content,
}

enum Content {
    Safetensors(Vec<(String, Tensor)>),
    Pickle(Pickled),
}

impl Written {
    fn safetensors(stem: &str, tensors: Vec<(String, Tensor)>) -> Self {
        Written { name: format!("{stem}.{SAFETENSORS}"), content: Content::Safetensors(tensors) }
    }

    fn pickle(name: &str, content: Pickled) -> Self {
        Written { name: name.to_owned(), content: Content::Pickle(content) }
    }

    /// Writes it; how many bytes it has.
    fn save(&self, path: &Path) -> Result<u64> {
        match &self.content {
            Content::Safetensors(tensors) => {
                let f32 = candle_core::DType::F32;
                save_weights(path, tensors.iter().map(|(name, t)| (name.clone(), t.clone(), f32)))?;
            }
            Content::Pickle(content) => save_pickle(path, content)?,
        }
        Ok(fs::metadata(path).map_err(Error::io(path))?.len())
    }
}

/// Whether a file of a folder would be read as a part of its checkpoint.
pub(super) fn is_part(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let state = STATES.iter().any(|state| name.starts_with(state));
    let weights = is_pickled(path) || extension(path) == SAFETENSORS;
    weights && !state && !is_clutter(&name) && path.is_file()
}

fn is_pickled(path: &Path) -> bool {
    PICKLED.contains(&extension(path))
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default()
}

/// Refuses a folder with weights that are none of `files`: all weights of a folder are read as one
/// checkpoint.
///
/// # Errors
/// [`Error::Input`] naming one of them; [`Error::Io`].
pub fn refuse_other_weights<'a>(dir: &Path, files: impl Iterator<Item = &'a Path>) -> Result<()> {
    let files: Vec<&Path> = files.collect();
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        if is_part(&path) && !files.contains(&path.as_path()) {
            return Err(Error::input_hint(
                format!(
                    "{}: of another checkpoint, and would be read with this one",
                    path.display()
                ),
                "delete it, or name another folder",
            ));
        }
    }
    Ok(())
}

/// The files that make a checkpoint, sorted: those of a folder, or the one.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).map_err(Error::io(path))?;
    let mut found =
        entries.map(|e| Ok(e.map_err(Error::io(path))?.path())).collect::<Result<Vec<_>>>()?;
    // who writes both kinds writes the same into both
    found.retain(|p| is_part(p) && !(is_pickled(p) && p.with_extension(SAFETENSORS).is_file()));
    found.sort();
    match found.is_empty() {
        true => Err(nothing(path)),
        false => Ok(found),
    }
}

fn nothing(path: &Path) -> Error {
    Error::input_hint(
        format!("{}: no weights and no tokens are here", path.display()),
        "a checkpoint is a folder of cdbench or of diffusers' Custom Diffusion, delta.bin or delta.ckpt of \
         the authors' code, a Textual Inversion, or a LoRA",
    )
}

/// The number in `<new7>`; tokens of other names come last.
fn number(token: &str) -> u64 {
    let digits = token.strip_prefix("<new").and_then(|t| t.strip_suffix('>'));
    digits.and_then(|d| d.parse().ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
