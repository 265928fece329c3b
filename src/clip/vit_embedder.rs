//! A vision transformer in transformers' layout: `ViTModel`, as DINO's weights are published, or
//! `Dinov2Model`. A picture's features are its class token.

use std::path::Path;

use image::RgbImage;
use ndarray::Array2;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::extractor::Opening;
use super::onnx::{self, FEATURES};
use super::tower::ImageTower;
use super::{Embed, Preprocessor};
use crate::diffusion::config::{HiddenAct, read_object};
use crate::{Error, Result};

/// `config.json`. Fields carry transformers' names; what is missing is as in transformers for the
/// model's type.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct VitFacts {
    model_type: String,
    #[serde(default = "width")]
    pub hidden_size: usize,
    #[serde(default = "twelve")]
    pub num_hidden_layers: usize,
    #[serde(default = "twelve")]
    pub num_attention_heads: usize,
    intermediate_size: Option<usize>,
    mlp_ratio: Option<f64>,
    #[serde(default = "gelu")]
    pub hidden_act: HiddenAct,
    pub layer_norm_eps: f64,
    #[serde(default = "side")]
    pub image_size: usize,
    pub patch_size: usize,
    #[serde(default = "three")]
    num_channels: usize,
    #[serde(default = "yes")]
    pub qkv_bias: bool,
    #[serde(default)]
    use_swiglu_ffn: bool,
}

fn width() -> usize {
    768
}

fn twelve() -> usize {
    12
}

fn gelu() -> HiddenAct {
    HiddenAct::Gelu
}

fn side() -> usize {
    224
}

fn three() -> usize {
    3
}

fn yes() -> bool {
    true
}

/// Which of transformers' classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VitKind {
    Vit,
    Dinov2,
}

impl VitFacts {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let mut object = read_object(&path)?;
        object.retain(|_, value| !value.is_null());
        let dinov2 = object.get("model_type") == Some(&Value::from("dinov2"));
        let (eps, patch) = if dinov2 { (1e-6, 14) } else { (1e-12, 16) };
        object.entry("layer_norm_eps").or_insert(eps.into());
        object.entry("patch_size").or_insert(patch.into());
        let config: VitFacts = serde_json::from_value(Value::Object(object))
            .map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
        config.check(&path)?;
        Ok(config)
    }

    /// The limits are those of CLIP's towers.
    fn check(&self, origin: &Path) -> Result<()> {
        let wrong = |key: &str, found: &dyn std::fmt::Display, want: &str| {
            Err(Error::input(format!("{}: `{key}` is {found}, but {want}", origin.display())))
        };
        if !["vit", "dinov2"].contains(&self.model_type.as_str()) {
            return wrong("model_type", &self.model_type, "only vit and dinov2 are supported");
        }
        if self.use_swiglu_ffn {
            return wrong("use_swiglu_ffn", &true, "only models without it are supported");
        }
        if self.num_channels != 3 {
            return wrong("num_channels", &self.num_channels, "only 3 is supported");
        }
        let ratio = self.mlp_ratio.unwrap_or(4.0);
        if !(ratio > 0.0 && ratio <= 64.0) {
            return wrong("mlp_ratio", &ratio, "it must be above 0 and at most 64");
        }
        for (key, value, most) in [
            ("hidden_size", self.hidden_size, 16384),
            ("intermediate_size", self.inner(), 65536),
            ("num_hidden_layers", self.num_hidden_layers, 256),
            ("num_attention_heads", self.num_attention_heads, 1024),
        ] {
            if !(1..=most).contains(&value) {
                return wrong(key, &value, &format!("it must be from 1 to {most}"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let want = format!("it must divide `hidden_size`, {}", self.hidden_size);
            return wrong("num_attention_heads", &self.num_attention_heads, &want);
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0) {
            return wrong("layer_norm_eps", &self.layer_norm_eps, "it must be between 0 and 1");
        }
        let (image, patch) = (self.image_size, self.patch_size);
        if !(4..=1024).contains(&image) || !(4..=image).contains(&patch) || image % patch != 0 {
            let want = "it must be at least 4 and divide `image_size`, which is at most 1024";
            return wrong("patch_size", &patch, want);
        }
        Ok(())
    }

    pub(super) fn kind(&self) -> VitKind {
        match self.model_type.as_str() {
            "dinov2" => VitKind::Dinov2,
            _ => VitKind::Vit,
        }
    }

    /// Features inside the feed-forward layers.
    pub(super) fn inner(&self) -> usize {
        match self.kind() {
            VitKind::Vit => self.intermediate_size.unwrap_or(4 * self.hidden_size),
            VitKind::Dinov2 => (self.hidden_size as f64 * self.mlp_ratio.unwrap_or(4.0)) as usize,
        }
    }
}

/// An open vision transformer.
pub(super) struct VitEmbedder {
    tower: ImageTower,
    identity: String,
}

impl VitEmbedder {
    /// Opens the model in `folder`. Its ONNX file is written into the cache the first time.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file and the key, tensor or value that is missing or wrong;
    /// [`Error::Device`] if the runtime or CUDA is asked for and not there.
    pub fn open(folder: &Path, opening: &Opening) -> Result<Self> {
        let config = VitFacts::read(folder)?;
        let preprocessor = Preprocessor::of_vit(folder, config.image_size)?;
        let side = preprocessor.side();
        if !side.is_multiple_of(config.patch_size) || side == 0 {
            return Err(Error::input(format!(
                "{}: pictures of {side}x{side} pixels are not whole patches of {}",
                folder.join("preprocessor_config.json").display(),
                config.patch_size
            )));
        }
        let (file, weights) = onnx::export_vit(folder, &config, side, &opening.cache)?;
        let mut hash = Sha256::new();
        hash.update(format!("vit 1\n{weights}\n{preprocessor:?}\n"));
        let identity = format!("{:x}", hash.finalize());
        let tower = ImageTower::new(opening, file, FEATURES, config.hidden_size, preprocessor)?;
        Ok(VitEmbedder { tower, identity })
    }
}

impl Embed for VitEmbedder {
    fn images(&self, images: &[&RgbImage]) -> Result<Array2<f32>> {
        self.tower.images(images)
    }

    fn identity(&self) -> &str {
        &self.identity
    }
}
