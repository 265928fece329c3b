//! `config.json` of transformers' `CLIPModel`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::diffusion::config::{Config as _, Extra, HiddenAct, TextEncoderConfig, read_object};
use crate::{Error, Result, safefile};

/// Both towers. Fields carry transformers' names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ClipConfig {
    pub architectures: Vec<String>,
    pub model_type: String,
    /// Features of the common space.
    pub projection_dim: usize,
    pub logit_scale_init_value: f64,
    pub text_config: TextEncoderConfig,
    pub vision_config: VisionConfig,
    /// Everything else in the file.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The vision transformer's architecture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct VisionConfig {
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
    /// Everything else in the file.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Default for ClipConfig {
    fn default() -> Self {
        ClipConfig {
            architectures: vec!["CLIPModel".into()],
            model_type: "clip".into(),
            projection_dim: 512,
            logit_scale_init_value: 2.6592,
            text_config: TextEncoderConfig::default(),
            vision_config: VisionConfig::default(),
            extra: Extra::new(),
        }
    }
}

impl Default for VisionConfig {
    fn default() -> Self {
        VisionConfig {
            model_type: "clip_vision_model".into(),
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: HiddenAct::QuickGelu,
            layer_norm_eps: 1e-5,
            extra: Extra::new(),
        }
    }
}

fn drop_nulls(object: &mut Map<String, Value>) {
    object.retain(|_, value| !value.is_null());
    for value in object.values_mut() {
        if let Value::Object(inner) = value {
            drop_nulls(inner);
        }
    }
}

impl VisionConfig {
    /// Patches of a picture.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }
}

impl ClipConfig {
    /// Reads and checks `dir/config.json`.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file, the key and the value, [`Error::Io`] if it cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let mut object = read_object(&path)?;
        // OpenAI's files give every default, and null where there is none
        drop_nulls(&mut object);
        if let Some(Value::Object(text)) = object.get("text_config") {
            TextEncoderConfig::from_object(text.clone(), &path)?;
        }
        let config: ClipConfig = serde_json::from_value(Value::Object(object))
            .map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
        config.check(&path)?;
        Ok(config)
    }

    /// Writes `dir/config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join("config.json");
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
        safefile::write(&path, text + "\n")
    }

    /// Limits: those of text encoders for the text tower and, read the same way, for the other; 1024
    /// pixels, a patch of 4 at least.
    pub(crate) fn check(&self, origin: &Path) -> Result<()> {
        let wrong = |key: &str, found: &dyn std::fmt::Display, want: &str| {
            Err(Error::input(format!("{}: `{key}` is {found}, but {want}", origin.display())))
        };
        if self.model_type != "clip" {
            return wrong("model_type", &self.model_type, "only clip is supported");
        }
        if !(1..=16384).contains(&self.projection_dim) {
            return wrong("projection_dim", &self.projection_dim, "it must be from 1 to 16384");
        }
        let vision = &self.vision_config;
        let sizes = serde_json::json!({
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "layer_norm_eps": vision.layer_norm_eps,
        });
        if let Value::Object(sizes) = sizes {
            TextEncoderConfig::from_object(sizes, origin)?;
        }
        let (image, patch) = (vision.image_size, vision.patch_size);
        if !(4..=1024).contains(&image) || !(4..=image).contains(&patch) || image % patch != 0 {
            let want = "it must be at least 4 and divide `image_size`, which is at most 1024";
            return wrong("vision_config.patch_size", &patch, want);
        }
        if vision.num_channels != 3 {
            return wrong(
                "vision_config.num_channels",
                &vision.num_channels,
                "only 3 is supported",
            );
        }
        Ok(())
    }
}
