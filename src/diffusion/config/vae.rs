//! `vae/config.json`: diffusers' `AutoencoderKL`.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Config, DIFFUSERS_VERSION, Extra, PerBlock, Problem, bounded, only};

/// The autoencoder's architecture. Fields carry diffusers' names; lists run from the image to the
/// latents, except `up_block_types`, which runs the other way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct VaeConfig {
    pub _class_name: String,
    pub _diffusers_version: String,
    pub in_channels: usize,
    pub out_channels: usize,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub act_fn: String,
    pub latent_channels: usize,
    pub norm_num_groups: usize,
    /// Image height and width the model was trained at.
    pub sample_size: PerBlock<usize>,
    /// Latents are multiplied by it before they reach the UNet.
    pub scaling_factor: f64,
    /// Subtracted from the latents before they are scaled; SD 1.x and 2.x have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift_factor: Option<f64>,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    pub mid_block_add_attention: bool,
    /// Everything else in the file.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Default for VaeConfig {
    fn default() -> Self {
        VaeConfig {
            _class_name: "AutoencoderKL".into(),
            _diffusers_version: DIFFUSERS_VERSION.into(),
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".into()],
            up_block_types: vec!["UpDecoderBlock2D".into()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".into(),
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: PerBlock::All(32),
            scaling_factor: 0.18215,
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            extra: Extra::new(),
        }
    }
}

impl VaeConfig {
    /// Image pixels per latent pixel, along each side.
    pub fn downscale(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

impl Config for VaeConfig {
    const FILE: &'static str = "vae/config.json";

    /// Limits: 12 blocks, 64 layers a block, 8192 channels, 1024 latent channels, and about
    /// 2·10¹⁰ parameters in all.
    fn check(&self) -> Result<(), Problem> {
        if self._class_name != "AutoencoderKL" {
            let want = "only AutoencoderKL is supported";
            return Err(Problem::new("_class_name", &self._class_name, want));
        }
        only(&self.extra, &[("latents_mean", &[json!(null)]), ("latents_std", &[json!(null)])])?;
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return Err(Problem::new("act_fn", &self.act_fn, "only silu (swish) is supported"));
        }
        let blocks = self.block_out_channels.len();
        if !(1..=12).contains(&blocks) {
            let want = "it must have from 1 to 12 entries";
            return Err(Problem::new("block_out_channels", &self.block_out_channels, want));
        }
        bounded("block_out_channels", &self.block_out_channels, 8192)?;
        for (key, types, supported) in [
            ("down_block_types", &self.down_block_types, "DownEncoderBlock2D"),
            ("up_block_types", &self.up_block_types, "UpDecoderBlock2D"),
        ] {
            if types.len() != blocks {
                let want = format!("it must have {blocks} entries, like `block_out_channels`");
                return Err(Problem::new(key, types, want));
            }
            if types.iter().any(|t| t != supported) {
                return Err(Problem::new(key, types, format!("only {supported} is supported")));
            }
        }
        bounded("in_channels", &[self.in_channels], 1024)?;
        bounded("out_channels", &[self.out_channels], 1024)?;
        bounded("latent_channels", &[self.latent_channels], 1024)?;
        bounded("layers_per_block", &[self.layers_per_block], 64)?;
        bounded("sample_size", self.sample_size.values(), 65536)?;
        bounded("norm_num_groups", &[self.norm_num_groups], 8192)?;
        if let Some(c) = self.block_out_channels.iter().find(|c| *c % self.norm_num_groups != 0) {
            let want = format!("it must divide the {c} of `block_out_channels`");
            return Err(Problem::new("norm_num_groups", self.norm_num_groups, want));
        }
        // also refuses NaN
        if !(self.scaling_factor.is_finite() && self.scaling_factor > 0.0) {
            return Err(Problem::new("scaling_factor", self.scaling_factor, "it must be positive"));
        }
        if self.shift_factor.is_some_and(|s| !s.is_finite()) {
            return Err(Problem::new("shift_factor", self.shift_factor, "it must be finite"));
        }
        let squares: f64 = self.block_out_channels.iter().map(|&c| (c * c) as f64).sum();
        if 36.0 * self.layers_per_block as f64 * squares > 2e10 {
            let want =
                "with the layers a block that makes more than 20 thousand million parameters";
            return Err(Problem::new("block_out_channels", &self.block_out_channels, want));
        }
        Ok(())
    }
}
