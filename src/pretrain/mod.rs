//! Pretraining of the mini backbone and of its judge, from nothing, on the embedded world.
//!
//! Runs one after another, described by one file (`assets/mini/pretrain.toml`): the autoencoder, the
//! UNet together with the text encoder that conditions it, and two networks that only judge, a CLIP and
//! the identity extractor. Each keeps
//! its states, curves and pictures in a folder of its own below the run folder, goes on from its
//! latest state, and exports its weights into `mini/`, which is a diffusers folder once all are there.

mod clip;
mod config;
mod curves;
mod drive;
mod identity;
mod judge;
mod report;
mod scenes;
mod unet;
mod vae;

pub use clip::pretrain_clip;
pub use config::{
    ClipRecipe, IdentityRecipe, PretrainConfig, Recipe, UNetRecipe, VaeRecipe, WorldStage,
};
pub use identity::pretrain_identity;
pub use report::{ReportArgs, report};
pub use unet::pretrain_unet;
pub use vae::{pretrain_decoder, pretrain_vae};

use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};

use crate::diffusion::BackboneFiles;
use crate::diffusion::config::{Config as _, VaeConfig};
use crate::diffusion::tokenizer::Tokenizer;
use crate::diffusion::weights::Weights;
use crate::nn::Param;
use crate::train::Part;
use crate::{Error, Result, safefile};

const VAE_WEIGHTS: &str = "vae/diffusion_pytorch_model.safetensors";

/// Below the run folder: the backbone, and `clip/`.
pub fn model_folder(out: &Path) -> PathBuf {
    out.join("mini")
}

/// Gives parameters the values of a file, which must have these and no others.
fn read_params(params: &[Param], weights: &Weights) -> Result<()> {
    for param in params {
        let value = weights.tensor(param.name(), param.shape())?;
        let device = param.value().device().clone();
        param.set_from_file(&value.to_device(&device)?)?;
    }
    weights.finish()
}

/// As [`read_params`], for a model with a table `tokens` of token embeddings, [words, features]: where
/// `weights` were trained with another vocabulary, the rows of the words that both have are taken over.
fn read_params_by_words(
    params: &[Param],
    weights: &Weights,
    tokens: &str,
    [from, to]: [&Tokenizer; 2],
) -> Result<()> {
    let (tables, others): (Vec<_>, Vec<_>) =
        params.iter().cloned().partition(|p| p.name() == tokens);
    for table in tables {
        let device = table.value().device().clone();
        let known = weights.tensor(tokens, &[from.vocab_size(), table.shape()[1]])?;
        let mut rows = table.to_file()?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let known = known.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        for (id, row) in (0..).zip(&mut rows) {
            let same = to.token(id).and_then(|word| from.token_id(&word));
            if let Some(at) = same {
                row.clone_from(&known[at as usize]);
            }
        }
        table.set_from_file(&Tensor::new(rows, &device)?)?;
    }
    read_params(&others, weights)
}

/// Refuses a part of a batch of `images` where the loss of the run `name` compares all of it.
fn whole_batch(part: &Part, images: usize, name: &str) -> Result<()> {
    if part.images.len() == images {
        return Ok(());
    }
    Err(Error::input_hint(
        "a contrastive loss needs its whole batch in one part",
        format!("set `{name}.train.images_per_part` to `{name}.batch`"),
    ))
}

/// A file or folder of the backbone that a training starts from.
fn part_of(from: &BackboneFiles, name: &str) -> Result<PathBuf> {
    let folder = from.folder().map(|folder| folder.join(name));
    folder.ok_or_else(|| {
        Error::input_hint(
            format!("--from: a single file has no {name}"),
            "give a folder in diffusers' layout, or mini",
        )
    })
}

/// Copies the autoencoder of a backbone into the run folder, if that has none.
fn adopt_autoencoder(from: &BackboneFiles, out: &Path) -> Result<()> {
    let to = model_folder(out);
    if to.join(VaeConfig::FILE).is_file() {
        return Ok(());
    }
    // weights first: a configuration says that they are there
    for file in [VAE_WEIGHTS, VaeConfig::FILE] {
        let source = part_of(from, file)?;
        let bytes = std::fs::read(&source).map_err(Error::io(&source))?;
        safefile::write(&to.join(file), bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::{Builder, Init, RandomSource};

    #[test]
    fn rows_go_by_their_words_where_the_vocabulary_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let model = |seed, words: usize| {
            let builder = Builder::new(RandomSource { seed }, &Device::Cpu, DType::F32);
            builder.param("table", &[words, 3], Init::Normal(1.0)).unwrap();
            builder.param("other", &[2], Init::Normal(1.0)).unwrap();
            builder.params()
        };
        let rows = |params: &[Param]| params[0].to_file().unwrap().to_vec2::<f32>().unwrap();
        let old = Tokenizer::word_level(&["cat", "dog", "gone"], 8).unwrap();
        let new = Tokenizer::word_level(&["dog", "new", "cat", "more"], 8).unwrap();
        let (from, to) = (model(1, old.vocab_size()), model(2, new.vocab_size()));
        let (known, before) = (rows(&from), rows(&to));
        let tensors = from.iter().map(|p| (p.name().to_owned(), p.to_file().unwrap(), DType::F32));
        let path = dir.path().join("model.safetensors");
        crate::diffusion::weights::save_weights(&path, tensors).unwrap();

        let weights = Weights::open(dir.path(), "model").unwrap();
        read_params_by_words(&to, &weights, "table", [&old, &new]).unwrap();
        let after = rows(&to);
        let row = |tokenizer: &Tokenizer, word: &str| tokenizer.token_id(word).unwrap() as usize;
        for word in ["cat", "dog", "<start>"] {
            assert_eq!(after[row(&new, word)], known[row(&old, word)], "{word}");
        }
        for word in ["new", "more"] {
            assert_eq!(after[row(&new, word)], before[row(&new, word)], "{word}");
        }
        let other = |params: &[Param]| params[1].to_file().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(other(&to), other(&from));
    }
}
