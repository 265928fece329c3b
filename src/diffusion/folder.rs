//! A backbone as a folder in diffusers' layout: which files it has, and which of them are needed.

use std::path::{Path, PathBuf};

use super::config::{
    Config, ModelIndex, SchedulerConfig, TextEncoderConfig, UNetConfig, VaeConfig,
};
use super::files::{Content, Part};
use super::weights::{Weights, listed_weights, missing_weights};
use crate::hub::Layout;
use crate::{Error, Result};

/// Name of diffusers' weight files, without extension.
pub(crate) const DIFFUSERS_STEM: &str = "diffusion_pytorch_model";
/// Name of transformers' weight files, without extension.
pub(crate) const TRANSFORMERS_STEM: &str = "model";

/// A backbone on the hub.
pub(crate) const LAYOUT: Layout = Layout { what: "backbone", owner: "diffusers", wanted, missing };

/// Files every backbone has beside its weights and its tokenizer.
const CONFIGS: [&str; 5] = [
    ModelIndex::FILE,
    UNetConfig::FILE,
    VaeConfig::FILE,
    TextEncoderConfig::FILE,
    SchedulerConfig::FILE,
];

/// The name of a part's weight files, without extension.
pub(super) fn stem(part: Part) -> &'static str {
    match part {
        Part::UNet | Part::Vae => DIFFUSERS_STEM,
        Part::TextEncoder => TRANSFORMERS_STEM,
    }
}

/// The weights of a part.
pub(super) fn weights(root: &Path, part: Part) -> Result<Weights> {
    Weights::open(&root.join(part.name()), stem(part))
}

/// Whether a folder has weights of a part.
pub(super) fn has_weights(root: &Path, part: Part) -> bool {
    missing_weights(root, part.name(), stem(part)).is_empty()
}

/// All files that are computed with: configurations, tokenizer and weights, by their names.
pub(super) fn contents(root: &Path) -> Result<Vec<(String, Content)>> {
    let mut files = vec![];
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        files.extend(contents_of(root, part)?);
    }
    Ok(files)
}

/// The same of one of its folders.
pub(super) fn contents_of(root: &Path, part: &str) -> Result<Vec<(String, Content)>> {
    let dir = root.join(part);
    let entries = std::fs::read_dir(&dir).map_err(Error::io(&dir))?;
    let paths = entries.map(|entry| Ok(entry.map_err(Error::io(&dir))?.path()));
    let paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    let is = |path: &Path, kind: &str| path.extension().is_some_and(|e| e == kind);
    // pickles beside safetensors are not read
    let weights = match paths.iter().any(|path| is(path, "safetensors")) {
        true => "safetensors",
        false => "bin",
    };
    let kept = paths.into_iter().filter(|p| ["json", "txt", weights].iter().any(|k| is(p, k)));
    let named = |path: PathBuf| {
        let name = format!("{part}/{}", path.file_name().unwrap_or_default().display());
        (name, Content::File(path))
    };
    Ok(kept.map(named).collect())
}

/// What a backbone in `root` still lacks, as paths below it.
fn missing(root: &Path) -> Vec<String> {
    let has = |file: &str| root.join(file).is_file();
    let mut missing: Vec<_> =
        CONFIGS.iter().filter(|file| !has(file)).map(|file| (*file).to_owned()).collect();
    if !has("tokenizer/tokenizer.json") {
        let files = ["tokenizer/vocab.json", "tokenizer/merges.txt"];
        missing.extend(files.iter().filter(|file| !has(file)).map(|file| (*file).to_owned()));
    }
    for part in Part::ALL {
        missing.extend(missing_weights(root, part.name(), stem(part)));
    }
    missing
}

/// Which of a model's files to download; the error names one that should be there and is not.
fn wanted(listed: &[String]) -> std::result::Result<Vec<String>, String> {
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

    for part in Part::ALL {
        wanted.extend(listed_weights(listed, part.name(), stem(part))?);
    }
    Ok(wanted)
}

#[cfg(test)]
pub(crate) mod tests;
