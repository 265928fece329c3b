//! transformers' `CLIPModel`, trainable.

use std::path::Path;

use candle_core::{D, DType, Device, Result as TensorResult, Tensor};

use super::config::{ClipConfig, VisionConfig};
use crate::Result;
use crate::diffusion::model::{TextEncoder, TransformerLayer, TransformerSize};
use crate::diffusion::weights::{Weights, save_weights};
use crate::nn::{Builder, Init, LayerNorm, Linear, Padding, Param, Var, ops};

/// A vision transformer and a text transformer with one space for what both give.
pub struct Clip {
    config: ClipConfig,
    params: Vec<Param>,
    text: TextEncoder,
    vision: Vision,
    visual_projection: Linear,
    text_projection: Linear,
    logit_scale: Param,
    end_of_text: u32,
}

/// The vision tower (Dosovitskiy et al. 2021), with CLIP's norm before the layers.
struct Vision {
    patch_embedding: Param,
    no_bias: Param,
    class_embedding: Param,
    position_embedding: Param,
    pre_layrnorm: LayerNorm,
    layers: Vec<TransformerLayer>,
    post_layernorm: LayerNorm,
    patch_size: usize,
}

impl Vision {
    fn new(b: &Builder, config: &VisionConfig) -> Result<Self> {
        let (width, patch) = (config.hidden_size, config.patch_size);
        let norm = |name| LayerNorm::new(&b.at(name), width, config.layer_norm_eps);
        let size = TransformerSize {
            width,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            act: config.hidden_act,
            eps: config.layer_norm_eps,
        };
        let zeros = Tensor::zeros(width, DType::F32, b.device())?;
        let embeddings = b.at("embeddings");
        let shape = [width, config.num_channels, patch, patch];
        let rows = [config.patches() + 1, width];
        Ok(Vision {
            class_embedding: embeddings.param("class_embedding", &[width], Init::Normal(0.02))?,
            patch_embedding: embeddings.at("patch_embedding").param(
                "weight",
                &shape,
                Init::FanIn(config.num_channels * patch * patch),
            )?,
            no_bias: Param::new("no bias", &zeros, b.compute_dtype())?,
            position_embedding: embeddings.at("position_embedding").param(
                "weight",
                &rows,
                Init::Normal(0.02),
            )?,
            // transformers' spelling
            pre_layrnorm: norm("pre_layrnorm")?,
            layers: (0..config.num_hidden_layers)
                .map(|i| TransformerLayer::new(&b.at(format_args!("encoder.layers.{i}")), size))
                .collect::<Result<_>>()?,
            post_layernorm: norm("post_layernorm")?,
            patch_size: patch,
        })
    }

    /// Pictures [batch, 3, side, side] → [batch, width].
    fn forward(&self, pictures: &Var) -> TensorResult<Var> {
        let map = ops::from_image(pictures)?;
        let padding = Padding::same(0);
        let weight = &self.patch_embedding;
        let map = ops::conv2d(&map, weight, &self.no_bias, self.patch_size, padding)?;
        let patches = ops::map_to_tokens(&map)?;
        let x = with_class_token(&patches, &self.class_embedding, &self.position_embedding)?;
        let mut x = self.pre_layrnorm.forward(&x)?;
        for layer in &self.layers {
            x = layer.forward(&x, false)?;
        }
        self.post_layernorm.forward(&class_tokens(&x)?)
    }
}

impl Clip {
    /// Builds the network that a checked configuration describes.
    ///
    /// # Errors
    /// Those of `b`'s source: a missing or misshapen tensor.
    pub fn new(b: &Builder, config: &ClipConfig) -> Result<Self> {
        let (text, vision) = (&config.text_config, &config.vision_config);
        let scale = Init::Constant(config.logit_scale_init_value as f32);
        let end_of_text = text.extra.get("eos_token_id").and_then(serde_json::Value::as_u64);
        Ok(Clip {
            text: TextEncoder::new(b, text)?,
            vision: Vision::new(&b.at("vision_model"), vision)?,
            visual_projection: Linear::no_bias(
                &b.at("visual_projection"),
                vision.hidden_size,
                config.projection_dim,
            )?,
            text_projection: Linear::no_bias(
                &b.at("text_projection"),
                text.hidden_size,
                config.projection_dim,
            )?,
            logit_scale: b.param("logit_scale", &[], scale)?,
            end_of_text: end_of_text.unwrap_or(2) as u32,
            config: config.clone(),
            params: b.params(),
        })
    }

    /// Loads a folder in transformers' layout.
    ///
    /// # Errors
    /// [`crate::Error::Input`] naming the file, and the key or tensor in it, that is missing or wrong.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        let config = ClipConfig::read(dir)?;
        let weights = std::sync::Arc::new(Weights::open(dir, "model")?);
        let clip = Clip::new(&Builder::new(weights.clone(), device, DType::F32), &config)?;
        weights.finish()?;
        Ok(clip)
    }

    /// Writes `config.json` and `model.safetensors`, weights in `dtype`.
    ///
    /// # Errors
    /// [`crate::Error::Io`] naming the file that could not be written.
    pub fn save(&self, dir: &Path, dtype: DType) -> Result<()> {
        self.config.write(dir)?;
        let tensors = self.params.iter().map(|p| Ok((p.name().to_owned(), p.to_file()?, dtype)));
        save_weights(&dir.join("model.safetensors"), tensors.collect::<Result<Vec<_>>>()?)
    }

    /// The architecture.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// What cosines are multiplied with before the softmax.
    ///
    /// # Errors
    /// Only candle's.
    pub fn logit_scale(&self) -> TensorResult<f64> {
        let log = self.logit_scale.value().to_dtype(DType::F64)?.to_scalar::<f64>()?;
        Ok(log.exp())
    }

    /// All parameters, under the names of the file.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Pictures [batch, 3, side, side], preprocessed → features [batch, projected], not normalised.
    pub fn encode_images(&self, pictures: &Var) -> TensorResult<Var> {
        self.visual_projection.forward(&self.vision.forward(pictures)?)
    }

    /// Token `ids` [batch, length] → features [batch, projected], not normalised: those of each text's
    /// first end token.
    pub fn encode_texts(&self, ids: &[Vec<u32>]) -> TensorResult<Var> {
        let x = self.text.forward(ids)?;
        let (batch, length, width) = x.value().dims3()?;
        let ends = ids.iter().enumerate().map(|(i, ids)| {
            // as argmax of a text without an end token: the first
            let end = ids.iter().position(|&id| id == self.end_of_text).unwrap_or(0);
            (i * length + end) as u32
        });
        let ends = Tensor::from_vec(ends.collect::<Vec<_>>(), batch, x.value().device())?;
        let x = ops::index_select(&ops::reshape(&x, (batch * length, width))?, &ends)?;
        self.text_projection.forward(&x)
    }

    /// The symmetric contrastive loss (Radford et al. 2021, figure 3) of `images` and `texts` [batch,
    /// projected], which belong together row by row. Pairs (i, j) for which `same` [batch, batch] is
    /// not 0 are no negatives; the diagonal must be 0.
    pub fn contrastive_loss(&self, images: &Var, texts: &Var, same: &Tensor) -> TensorResult<Var> {
        contrastive_loss(images, texts, &self.logit_scale.var()?, same)
    }
}

/// See [`Clip::contrastive_loss`]; `log_scale` is the logarithm of what cosines are multiplied with.
///
/// # Errors
/// Only candle's.
pub fn contrastive_loss(a: &Var, b: &Var, log_scale: &Var, same: &Tensor) -> TensorResult<Var> {
    let mask = (same * -1e4)?;
    ops::composed([a, b, log_scale], move |[a, b, scale]| {
        let unit = |x: &Tensor| x.broadcast_div(&norm(x)?);
        let logits = unit(a)?.matmul(&unit(b)?.t()?)?;
        let logits = logits.broadcast_mul(&scale.exp()?)?;
        let batch = logits.dim(0)?;
        let own = (&logits * Tensor::eye(batch, logits.dtype(), logits.device())?)?.sum_all()?;
        let logits = (logits + &mask)?;
        let across = log_sum_exp(&logits)?.sum_all()?;
        let down = log_sum_exp(&logits.t()?.contiguous()?)?.sum_all()?;
        (((across + down)? * 0.5)? - own)? / batch as f64
    })
}

/// Patches [batch, patches, width] behind a class token, a number for each feature, with the places'
/// embeddings added.
pub(super) fn with_class_token(
    patches: &Var,
    class: &Param,
    positions: &Param,
) -> TensorResult<Var> {
    let (class, positions) = (class.var()?, positions.var()?);
    ops::composed([patches, &class, &positions], |[patches, class, positions]| {
        let (batch, _, width) = patches.dims3()?;
        let class = class.reshape((1, 1, width))?.broadcast_as((batch, 1, width))?.contiguous()?;
        Tensor::cat(&[&class, patches], 1)?.broadcast_add(positions)
    })
}

/// Of tokens [batch, length, width] the first of each picture: [batch, width].
pub(super) fn class_tokens(x: &Var) -> TensorResult<Var> {
    let (batch, length, width) = x.value().dims3()?;
    let first: Vec<u32> = (0..batch).map(|i| (i * length) as u32).collect();
    let first = Tensor::from_vec(first, batch, x.value().device())?;
    ops::index_select(&ops::reshape(x, (batch * length, width))?, &first)
}

fn norm(x: &Tensor) -> TensorResult<Tensor> {
    (x.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()
}

/// Of each row.
fn log_sum_exp(x: &Tensor) -> TensorResult<Tensor> {
    let max = x.max_keepdim(D::Minus1)?.detach();
    (x.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?.log()? + max)?.squeeze(D::Minus1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/clip")
    }

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn unit(x: &Var) -> Vec<f32> {
        numbers(&x.value().broadcast_div(&norm(x.value()).unwrap()).unwrap())
    }

    fn close(what: &str, found: &[f32], want: &[f32], within: f32) {
        assert_eq!(found.len(), want.len(), "{what}");
        for (i, (a, b)) in found.iter().zip(want).enumerate() {
            assert!((a - b).abs() < within, "{what} {i}: {a} is not {b}");
        }
    }

    /// tests/golden/clip.py has the program that made the values.
    #[test]
    fn agrees_with_transformers_also_after_saving() {
        let values =
            candle_core::safetensors::load(golden().join("golden.safetensors"), &Device::Cpu);
        let values = values.unwrap();
        let ids: Vec<Vec<f32>> = values["ids"].to_vec2().unwrap();
        let ids: Vec<Vec<u32>> =
            ids.iter().map(|i| i.iter().map(|&x| x as u32).collect()).collect();
        let pictures = Var::constant(values["pictures"].clone());
        let saved = tempfile::tempdir().unwrap();
        let first = Clip::load(&golden(), &Device::Cpu).unwrap();
        first.save(saved.path(), DType::F32).unwrap();
        let again = Clip::load(saved.path(), &Device::Cpu).unwrap();
        for clip in [first, again] {
            let images = clip.encode_images(&pictures).unwrap();
            let texts = clip.encode_texts(&ids).unwrap();
            close("images", &unit(&images), &numbers(&values["images"]), 1e-5);
            close("texts", &unit(&texts), &numbers(&values["texts"]), 1e-5);
            let none = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
            let loss = clip.contrastive_loss(&images, &texts, &none).unwrap();
            close("loss", &[loss.value().to_scalar().unwrap()], &numbers(&values["loss"]), 1e-4);
        }
    }

    #[test]
    fn pairs_of_the_same_caption_are_no_negatives() {
        let clip = Clip::load(&golden(), &Device::Cpu).unwrap();
        let features = Tensor::new(&[[1f32; 12], [1f32; 12]], &Device::Cpu).unwrap();
        let x = Var::constant(features);
        let same = |value: f32| {
            let same = Tensor::new(&[[0.0, value], [value, 0.0]], &Device::Cpu).unwrap();
            clip.contrastive_loss(&x, &x, &same).unwrap().value().to_scalar::<f32>().unwrap()
        };
        close("loss", &[same(0.0), same(1.0)], &[2f32.ln(), 0.0], 1e-4);
    }

    #[test]
    fn gradients_reach_every_parameter() {
        let clip = Clip::load(&golden(), &Device::Cpu).unwrap();
        for param in clip.params() {
            param.set_trainable(true).unwrap();
        }
        let pictures = crate::rng::Rng::new(0, "pictures").normal((2, 3, 16, 16), &Device::Cpu);
        let images = clip.encode_images(&Var::constant(pictures.unwrap())).unwrap();
        let texts = clip.encode_texts(&[vec![2, 5, 3, 0], vec![2, 6, 7, 3]]).unwrap();
        let none = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
        let loss = clip.contrastive_loss(&images, &texts, &none).unwrap();
        let gradients = loss.backward(1.0).unwrap();
        for param in clip.params() {
            assert!(param.grad(&gradients).is_some(), "{}", param.name());
        }
    }
}
