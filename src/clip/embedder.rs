//! A CLIP folder, run through ort.

use std::path::Path;

use image::RgbImage;
use ndarray::{Array1, Array2, Array3};
use ort::value::Tensor;
use rayon::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::extractor::Opening;
use super::onnx::{self, IDS, IMAGE_EMBEDS, MASK, POOL, POSITIONS, TEXT_EMBEDS};
use super::runtime::Runtime;
use super::session::Pool;
use super::tower::{ImageTower, backend, internal};
use super::{ClipConfig, Embed, Preprocessor};
use crate::diffusion::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Texts run at the next multiple of this many tokens, with others of the same length: most captions
/// are far shorter than the 77 that CLIP allows.
const LENGTH_STEP: usize = 16;

/// The end token that transformers takes for "the highest id", a mistake of the first configurations.
const LEGACY_END: u64 = 2;

/// A CLIP in transformers' layout: `config.json`, `model.safetensors`, the tokenizer's files and
/// `preprocessor_config.json`.
pub struct Embedder {
    tokenizer: Tokenizer,
    end: u64,
    images: ImageTower,
    texts: Pool,
    batch: usize,
    width: usize,
    identity: String,
    native: bool,
    runtime: String,
}

impl Embedder {
    /// Opens the CLIP in `folder`. Its ONNX files are written into `cache` the first time. At most
    /// `workers` batches run at once, each with a copy of the weights.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file and the key, tensor or value that is missing or wrong;
    /// [`Error::Device`] if the runtime or CUDA is asked for and not there.
    pub fn open(
        folder: &Path,
        runtime: Runtime,
        device_cuda: bool,
        cache: &Path,
        workers: usize,
    ) -> Result<Self> {
        let cuda = device_cuda;
        let opening = Opening { runtime, cuda, cache: cache.to_owned(), workers };
        let (backend, batch) = backend(&opening)?;
        let config = ClipConfig::read(folder)?;
        let preprocessor = Preprocessor::read(folder, config.vision_config.image_size)?;
        let tokenizer = Tokenizer::load(folder)?;
        let text = &config.text_config;
        let wrong = |key: &str, found: &dyn std::fmt::Display, want: String| {
            let file = folder.join("config.json");
            Err(Error::input(format!(
                "{}: `text_config.{key}` is {found}, but {want}",
                file.display()
            )))
        };
        if tokenizer.max_len() > text.max_position_embeddings {
            let want = format!("the tokenizer gives {} tokens", tokenizer.max_len());
            return wrong("max_position_embeddings", &text.max_position_embeddings, want);
        }
        if tokenizer.vocab_size() > text.vocab_size {
            let want = format!("the tokenizer has {} tokens", tokenizer.vocab_size());
            return wrong("vocab_size", &text.vocab_size, want);
        }
        let end = match text.extra.get("eos_token_id") {
            // transformers' default
            None | Some(Value::Null) => 49407,
            Some(id) => match id.as_u64() {
                Some(id) => id,
                None => return wrong("eos_token_id", id, "a token's id is wanted".into()),
            },
        };

        let exported = onnx::export(folder, &config, cache)?;
        let identity = identity(&exported.hash, &preprocessor, &tokenizer, folder)?;
        let width = config.projection_dim;
        let texts = Pool::new(backend, exported.text, TEXT_EMBEDS, cuda, workers);
        let images = ImageTower::new(&opening, exported.image, IMAGE_EMBEDS, width, preprocessor)?;
        Ok(Embedder {
            images,
            texts,
            tokenizer,
            end,
            batch,
            width,
            identity,
            native: backend.native,
            runtime: format!("{}{}", backend.name, if cuda { ", CUDA" } else { "" }),
        })
    }

    /// What runs the network, with its version: no part of the identity, for features agree to 1e-4 at
    /// least between runtimes.
    pub fn runtime_name(&self) -> &str {
        &self.runtime
    }

    /// The features' length.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The ids of `text` and the place of its end token, as transformers' `CLIPTextTransformer` finds
    /// it.
    fn encode(&self, text: &str) -> Result<(Vec<u32>, usize)> {
        let encoded = self.tokenizer.encode(text)?;
        if encoded.truncated {
            self.tokenizer.warn_if_too_long(text);
        }
        let mut ids = encoded.ids;
        let end = if self.end == LEGACY_END {
            let highest = ids.iter().max().copied();
            ids.iter().position(|id| Some(*id) == highest)
        } else {
            ids.iter().position(|id| u64::from(*id) == self.end)
        };
        // as argmax of a text without one
        let end = end.unwrap_or(0);
        // the mask is causal: what is behind the end token changes nothing
        ids.truncate((end + 1).next_multiple_of(LENGTH_STEP).min(ids.len()));
        Ok((ids, end))
    }

    /// Texts of one length.
    fn run_texts(&self, texts: &[&(Vec<u32>, usize)]) -> Result<Array2<f32>> {
        let (rows, length) = (texts.len(), texts[0].0.len());
        let ids = Array2::from_shape_fn((rows, length), |(i, j)| i64::from(texts[i].0[j]));
        let positions = Array1::from_iter(0..length as i64);
        let mask =
            Array2::from_shape_fn((length, length), |(i, j)| if j > i { f32::MIN } else { 0.0 });
        let mut pool = Array3::<f32>::zeros((rows, 1, length));
        texts.iter().enumerate().for_each(|(i, (_, end))| pool[[i, 0, *end]] = 1.0);
        let inputs = vec![
            (IDS.into(), Tensor::from_array(ids).map_err(internal)?.into()),
            (POSITIONS.into(), Tensor::from_array(positions).map_err(internal)?.into()),
            (MASK.into(), Tensor::from_array(mask).map_err(internal)?.into()),
            (POOL.into(), Tensor::from_array(pool).map_err(internal)?.into()),
        ];
        self.texts.run(inputs, rows)
    }
}

impl Embed for Embedder {
    fn images(&self, images: &[&RgbImage]) -> Result<Array2<f32>> {
        self.images.images(images)
    }

    fn texts(&self, texts: &[&str]) -> Result<Array2<f32>> {
        let encoded: Vec<_> =
            texts.par_iter().map(|text| self.encode(text)).collect::<Result<_>>()?;
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|i| encoded[*i].0.len());
        let batches: Vec<&[usize]> = order
            .chunk_by(|i, j| encoded[*i].0.len() == encoded[*j].0.len())
            .flat_map(|same| same.chunks(self.batch))
            .collect();
        let rows: Vec<_> = batches
            .par_iter()
            .map(|batch| {
                let batch: Vec<_> = batch.iter().map(|i| &encoded[*i]).collect();
                self.run_texts(&batch)
            })
            .collect::<Result<_>>()?;
        let mut out = Array2::zeros((texts.len(), self.width));
        for (batch, rows) in batches.iter().zip(&rows) {
            for (i, row) in batch.iter().zip(rows.rows()) {
                out.row_mut(*i).assign(&row);
            }
        }
        Ok(out)
    }

    fn reads_texts(&self) -> bool {
        true
    }

    /// tract takes several times the memory of what it loads: it loads a tower when it is needed.
    fn warm(&self, texts: bool) -> Result<()> {
        if !self.native {
            return Ok(());
        }
        let of_texts = || if texts { self.texts.warm() } else { Ok(()) };
        let (images, texts) = rayon::join(|| self.images.warm(), of_texts);
        images.and(texts)
    }

    fn identity(&self) -> &str {
        &self.identity
    }
}

/// Of the weights, the preprocessing and the tokenizer.
fn identity(
    weights: &str,
    preprocessor: &Preprocessor,
    tokenizer: &Tokenizer,
    folder: &Path,
) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(format!("clip 1\n{weights}\n{preprocessor:?}\n{}\n", tokenizer.max_len()));
    let one = ["tokenizer.json"];
    let files =
        if folder.join(one[0]).is_file() { &one[..] } else { &["vocab.json", "merges.txt"] };
    for name in files {
        let path = folder.join(name);
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        hash.update(Sha256::digest(bytes));
    }
    Ok(format!("{:x}", hash.finalize()))
}
