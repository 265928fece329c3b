//! `model_index.json`: which class each part of the folder belongs to.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Config, DIFFUSERS_VERSION, Extra, Problem};

/// The pipeline's parts, each `[library, class]`. Parts that play no role in sampling or training
/// (`safety_checker`, `feature_extractor`) are kept in `extra`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ModelIndex {
    pub _class_name: String,
    pub _diffusers_version: String,
    pub scheduler: [String; 2],
    pub text_encoder: [String; 2],
    pub tokenizer: [String; 2],
    pub unet: [String; 2],
    pub vae: [String; 2],
    /// Everything else in the file.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Default for ModelIndex {
    fn default() -> Self {
        let part = |library: &str, class: &str| [library.to_owned(), class.to_owned()];
        // without these, diffusers asks for the parts
        let absent = |key: &str| (key.to_owned(), json!([null, null]));
        let mut extra =
            Extra::from_iter(["feature_extractor", "image_encoder", "safety_checker"].map(absent));
        extra.insert("requires_safety_checker".into(), Value::Bool(false));
        ModelIndex {
            _class_name: "StableDiffusionPipeline".into(),
            _diffusers_version: DIFFUSERS_VERSION.into(),
            scheduler: part("diffusers", "DDIMScheduler"),
            text_encoder: part("transformers", "CLIPTextModel"),
            tokenizer: part("transformers", "CLIPTokenizer"),
            unet: part("diffusers", "UNet2DConditionModel"),
            vae: part("diffusers", "AutoencoderKL"),
            extra,
        }
    }
}

impl Config for ModelIndex {
    const FILE: &'static str = "model_index.json";

    fn check(&self) -> Result<(), Problem> {
        // the scheduler's class is checked where its configuration is read
        for (key, found, supported) in [
            ("_class_name", &self._class_name, &["StableDiffusionPipeline"][..]),
            ("text_encoder", &self.text_encoder[1], &["CLIPTextModel"]),
            (
                "tokenizer",
                &self.tokenizer[1],
                &[
                    "CLIPTokenizer",
                    "CLIPTokenizerFast",
                    "PreTrainedTokenizerFast",
                    "TokenizersBackend",
                ],
            ),
            ("unet", &self.unet[1], &["UNet2DConditionModel"]),
            ("vae", &self.vae[1], &["AutoencoderKL"]),
        ] {
            if !supported.contains(&found.as_str()) {
                let want = format!("only {} is supported", supported.join(" or "));
                return Err(Problem::new(key, found, want));
            }
        }
        Ok(())
    }
}
