//! transformers' `ViTModel`, trainable: the layout of DINO's networks, whose class token is what image
//! alignment by DINO compares (Ruiz et al. 2023, section 4.2).

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult};
use serde::{Deserialize, Serialize};

use super::model::{class_tokens, with_class_token};
use crate::diffusion::config::{Extra, HiddenAct, read_object};
use crate::diffusion::model::{LayerNames, TransformerLayer, TransformerSize};
use crate::diffusion::weights::{Weights, save_weights};
use crate::nn::{Builder, Init, LayerNorm, Padding, Param, Var, ops};
use crate::{Error, Result, safefile};

/// `config.json` of a `ViTModel`. Fields carry transformers' names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct VitConfig {
    pub architectures: Vec<String>,
    pub model_type: String,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_channels: usize,
    /// Height and width of a picture in pixels.
    pub image_size: usize,
    /// Height and width of a patch in pixels.
    pub patch_size: usize,
    pub hidden_act: HiddenAct,
    pub layer_norm_eps: f64,
    pub qkv_bias: bool,
    /// Everything else in the file.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Default for VitConfig {
    fn default() -> Self {
        VitConfig {
            architectures: vec!["ViTModel".into()],
            model_type: "vit".into(),
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 16,
            hidden_act: HiddenAct::Gelu,
            layer_norm_eps: 1e-12,
            qkv_bias: true,
            extra: Extra::new(),
        }
    }
}

impl VitConfig {
    /// Says which value cannot be used; `place` is where it was read.
    ///
    /// # Errors
    /// [`Error::Input`].
    pub fn check(&self, place: &str) -> Result<()> {
        let (width, heads) = (self.hidden_size, self.num_attention_heads);
        let sizes = [
            width,
            heads,
            self.intermediate_size,
            self.num_hidden_layers,
            self.num_channels,
            self.patch_size,
        ];
        if sizes.contains(&0) || width % heads.max(1) != 0 || width > 1 << 14 {
            return Err(Error::input(format!("{place}: {width} features cannot be {heads} heads")));
        }
        if !self.image_size.is_multiple_of(self.patch_size) || self.image_size > 4096 {
            let (side, patch) = (self.image_size, self.patch_size);
            return Err(Error::input(format!("{place}: {side} pixels are no patches of {patch}")));
        }
        Ok(())
    }
}

/// The network.
pub struct Vit {
    config: VitConfig,
    params: Vec<Param>,
    patch_embedding: [Param; 2],
    class_token: Param,
    positions: Param,
    layers: Vec<TransformerLayer>,
    norm: LayerNorm,
}

impl Vit {
    /// Builds the network that a checked configuration describes.
    ///
    /// # Errors
    /// Those of `b`'s source: a missing or misshapen tensor.
    pub fn new(b: &Builder, config: &VitConfig) -> Result<Self> {
        let (width, patch) = (config.hidden_size, config.patch_size);
        let size = TransformerSize {
            width,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            act: config.hidden_act,
            eps: config.layer_norm_eps,
        };
        let embeddings = b.at("embeddings");
        let projection = embeddings.at("patch_embeddings.projection");
        let fan_in = Init::FanIn(config.num_channels * patch * patch);
        let patches = (config.image_size / patch).pow(2);
        let shape = [width, config.num_channels, patch, patch];
        let around = Init::Normal(0.02);
        Ok(Vit {
            class_token: embeddings.param("cls_token", &[1, 1, width], around)?,
            positions: embeddings.param("position_embeddings", &[1, patches + 1, width], around)?,
            patch_embedding: [
                projection.param("weight", &shape, fan_in)?,
                projection.param("bias", &[width], fan_in)?,
            ],
            layers: (0..config.num_hidden_layers)
                .map(|i| {
                    let at = b.at(format_args!("encoder.layer.{i}"));
                    TransformerLayer::named(&at, size, &LayerNames::VIT)
                })
                .collect::<Result<_>>()?,
            norm: LayerNorm::new(&b.at("layernorm"), width, config.layer_norm_eps)?,
            config: config.clone(),
            params: b.params(),
        })
    }

    /// Loads a folder in transformers' layout.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file, and the key or tensor in it, that is missing or wrong.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        let path = dir.join("config.json");
        let place = path.display().to_string();
        let config: VitConfig = serde_json::from_value(read_object(&path)?.into())
            .map_err(|e| Error::input(format!("{place}: {e}")))?;
        config.check(&place)?;
        let weights = Arc::new(Weights::open(dir, "model")?);
        let vit = Vit::new(&Builder::new(weights.clone(), device, DType::F32), &config)?;
        weights.finish()?;
        Ok(vit)
    }

    /// Pictures [batch, channels, side, side], preprocessed → class tokens [batch, width].
    pub fn forward(&self, pictures: &Var) -> TensorResult<Var> {
        let map = ops::from_image(pictures)?;
        let [weight, bias] = &self.patch_embedding;
        let map = ops::conv2d(&map, weight, bias, self.config.patch_size, Padding::same(0))?;
        let patches = ops::map_to_tokens(&map)?;
        let mut x = with_class_token(&patches, &self.class_token, &self.positions)?;
        for layer in &self.layers {
            x = layer.forward(&x, false)?;
        }
        self.norm.forward(&class_tokens(&x)?)
    }

    /// All parameters, under the names of the file.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The architecture.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Writes `config.json` and `model.safetensors`, weights in `dtype`.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file that could not be written.
    pub fn save(&self, dir: &Path, dtype: DType) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.config).unwrap_or_default();
        safefile::write(&dir.join("config.json"), text + "\n")?;
        let tensors = self.params.iter().map(|p| Ok((p.name().to_owned(), p.to_file()?, dtype)));
        save_weights(&dir.join("model.safetensors"), tensors.collect::<Result<Vec<_>>>()?)
    }
}
