//! `text_encoder/config.json`: transformers' `CLIPTextModel`.

use serde::{Deserialize, Serialize};

use super::{Config, Extra, Problem, bounded};

/// The activation inside the feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenAct {
    /// `x · sigmoid(1.702 x)`: OpenAI's CLIP, SD 1.x.
    QuickGelu,
    /// `x · Φ(x)`, exact: OpenCLIP, SD 2.x.
    Gelu,
}

/// The text encoder's architecture. Fields carry transformers' names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct TextEncoderConfig {
    pub architectures: Vec<String>,
    pub model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub hidden_act: HiddenAct,
    pub layer_norm_eps: f64,
    /// Everything else in the file.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Default for TextEncoderConfig {
    fn default() -> Self {
        TextEncoderConfig {
            architectures: vec!["CLIPTextModel".into()],
            model_type: "clip_text_model".into(),
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: HiddenAct::QuickGelu,
            layer_norm_eps: 1e-5,
            extra: Extra::new(),
        }
    }
}

impl Config for TextEncoderConfig {
    const FILE: &'static str = "text_encoder/config.json";

    /// Limits: 256 layers, 16384 features, 65536 inner features, 4096 positions, 4 194 304 tokens,
    /// and about 2·10¹⁰ parameters in all.
    fn check(&self) -> Result<(), Problem> {
        if self.model_type != "clip_text_model" {
            let want = "only clip_text_model is supported";
            return Err(Problem::new("model_type", &self.model_type, want));
        }
        if self.architectures.iter().any(|a| a != "CLIPTextModel") {
            let want = "only CLIPTextModel is supported";
            return Err(Problem::new("architectures", &self.architectures, want));
        }
        bounded("vocab_size", &[self.vocab_size], 1 << 22)?;
        bounded("hidden_size", &[self.hidden_size], 16384)?;
        bounded("intermediate_size", &[self.intermediate_size], 65536)?;
        bounded("num_hidden_layers", &[self.num_hidden_layers], 256)?;
        bounded("num_attention_heads", &[self.num_attention_heads], 1024)?;
        bounded("max_position_embeddings", &[self.max_position_embeddings], 4096)?;
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let want = format!("it must divide `hidden_size`, {}", self.hidden_size);
            return Err(Problem::new("num_attention_heads", self.num_attention_heads, want));
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0) {
            let want = "it must be between 0 and 1";
            return Err(Problem::new("layer_norm_eps", self.layer_norm_eps, want));
        }
        let hidden = self.hidden_size as f64;
        let layer = 4.0 * hidden * hidden + 2.0 * hidden * self.intermediate_size as f64;
        if self.vocab_size as f64 * hidden + self.num_hidden_layers as f64 * layer > 2e10 {
            let want = "with the other sizes that makes more than 20 thousand million parameters";
            return Err(Problem::new("hidden_size", self.hidden_size, want));
        }
        Ok(())
    }
}
