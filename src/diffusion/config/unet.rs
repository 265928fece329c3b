//! `unet/config.json`: diffusers' `UNet2DConditionModel`.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Config, DIFFUSERS_VERSION, Extra, PerBlock, Problem, bounded, only};

/// A block on the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlock {
    /// Residual blocks, each followed by a transformer that attends to the text.
    CrossAttnDownBlock2D,
    /// Residual blocks only.
    DownBlock2D,
}

/// A block on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlock {
    /// Residual blocks, each followed by a transformer that attends to the text.
    CrossAttnUpBlock2D,
    /// Residual blocks only.
    UpBlock2D,
}

/// The UNet's architecture. Fields carry diffusers' names; lists run from the outermost block to
/// the innermost, except `up_block_types`, which runs from the innermost to the outermost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct UNetConfig {
    pub _class_name: String,
    pub _diffusers_version: String,
    /// Latent height and width the model was trained at.
    pub sample_size: Option<PerBlock<usize>>,
    pub in_channels: usize,
    pub out_channels: usize,
    pub center_input_sample: bool,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    pub down_block_types: Vec<DownBlock>,
    pub up_block_types: Vec<UpBlock>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: PerBlock<usize>,
    pub act_fn: String,
    pub norm_num_groups: usize,
    pub norm_eps: f64,
    pub cross_attention_dim: PerBlock<usize>,
    /// The NUMBER of heads, in spite of its name: see [`UNetConfig::heads`].
    pub attention_head_dim: PerBlock<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_attention_heads: Option<PerBlock<usize>>,
    pub use_linear_projection: bool,
    /// Whether half precision's scores of attention are f32.
    pub upcast_attention: bool,
    /// Everything else in the file.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Default for UNetConfig {
    fn default() -> Self {
        use {DownBlock::*, UpBlock::*};
        UNetConfig {
            _class_name: "UNet2DConditionModel".into(),
            _diffusers_version: DIFFUSERS_VERSION.into(),
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: vec![
                CrossAttnDownBlock2D,
                CrossAttnDownBlock2D,
                CrossAttnDownBlock2D,
                DownBlock2D,
            ],
            up_block_types: vec![
                UpBlock2D,
                CrossAttnUpBlock2D,
                CrossAttnUpBlock2D,
                CrossAttnUpBlock2D,
            ],
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerBlock::All(2),
            act_fn: "silu".into(),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: PerBlock::All(1280),
            attention_head_dim: PerBlock::All(8),
            num_attention_heads: None,
            use_linear_projection: false,
            upcast_attention: false,
            extra: Extra::new(),
        }
    }
}

impl UNetConfig {
    /// The number of resolutions.
    pub fn blocks(&self) -> usize {
        self.block_out_channels.len()
    }

    /// The number of attention heads of block `i`, counted from the outermost; the middle block
    /// has the innermost block's.
    ///
    /// As diffusers has it: `num_attention_heads or attention_head_dim`, so that SD 1.x's
    /// `attention_head_dim` 8 means 8 heads in every block.
    pub fn heads(&self, i: usize) -> usize {
        self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim).at(i)
    }

    /// Whether the way down attends to the text in block `i`, counted from the outermost.
    pub fn down_attends(&self, i: usize) -> bool {
        self.down_block_types[i] == DownBlock::CrossAttnDownBlock2D
    }

    /// Whether the way up attends to the text in block `i`, counted from the outermost.
    pub fn up_attends(&self, i: usize) -> bool {
        self.up_block_types[self.blocks() - 1 - i] == UpBlock::CrossAttnUpBlock2D
    }

    /// Width of the time embedding.
    pub fn time_embed_dim(&self) -> usize {
        4 * self.block_out_channels[0]
    }

    /// Roughly how many parameters the model has: to refuse what no machine can hold.
    pub(super) fn parameters(&self) -> f64 {
        (0..self.blocks())
            .map(|i| {
                let c = self.block_out_channels[i] as f64;
                let wider = self.block_out_channels[(i + 1).min(self.blocks() - 1)] as f64;
                let residual = 18.0 * c * (c + wider) + 4.0 * c * self.block_out_channels[0] as f64;
                let attention = 22.0 * c * c + 2.0 * c * self.cross_attention_dim.at(i) as f64;
                let layers = self.layers_per_block.at(i) as f64;
                let down = if self.down_attends(i) { attention } else { 0.0 };
                let up = if self.up_attends(i) { attention } else { 0.0 };
                layers * (residual + down) + (layers + 1.0) * (residual + up)
            })
            .sum()
    }
}

impl Config for UNetConfig {
    const FILE: &'static str = "unet/config.json";

    /// Limits: 12 blocks, 64 layers a block, 16384 channels, 65536 text features, and about
    /// 2·10¹⁰ parameters in all.
    fn check(&self) -> Result<(), Problem> {
        if self._class_name != "UNet2DConditionModel" {
            let want = "only UNet2DConditionModel is supported";
            return Err(Problem::new("_class_name", &self._class_name, want));
        }
        only(
            &self.extra,
            &[
                ("mid_block_type", &[json!("UNetMidBlock2DCrossAttn")]),
                ("only_cross_attention", &[json!(false)]),
                ("mid_block_only_cross_attention", &[json!(null), json!(false)]),
                ("dual_cross_attention", &[json!(false)]),
                ("downsample_padding", &[json!(1)]),
                ("mid_block_scale_factor", &[json!(1)]),
                ("dropout", &[json!(0)]),
                ("transformer_layers_per_block", &[json!(1)]),
                ("reverse_transformer_layers_per_block", &[json!(null)]),
                ("encoder_hid_dim", &[json!(null)]),
                ("encoder_hid_dim_type", &[json!(null)]),
                ("class_embed_type", &[json!(null)]),
                ("num_class_embeds", &[json!(null)]),
                ("class_embeddings_concat", &[json!(false)]),
                ("addition_embed_type", &[json!(null)]),
                ("resnet_time_scale_shift", &[json!("default")]),
                ("resnet_skip_time_act", &[json!(false)]),
                ("resnet_out_scale_factor", &[json!(1)]),
                ("time_embedding_type", &[json!("positional")]),
                ("time_embedding_dim", &[json!(null)]),
                ("time_embedding_act_fn", &[json!(null)]),
                ("timestep_post_act", &[json!(null)]),
                ("time_cond_proj_dim", &[json!(null)]),
                ("conv_in_kernel", &[json!(3)]),
                ("conv_out_kernel", &[json!(3)]),
                ("attention_type", &[json!("default")]),
                ("cross_attention_norm", &[json!(null)]),
            ],
        )?;
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return Err(Problem::new("act_fn", &self.act_fn, "only silu (swish) is supported"));
        }
        bounded("in_channels", &[self.in_channels], 1024)?;
        bounded("out_channels", &[self.out_channels], 1024)?;
        if let Some(size) = &self.sample_size {
            bounded("sample_size", size.values(), 8192)?;
        }
        bounded("block_out_channels", &self.block_out_channels, 16384)?;
        let blocks = self.blocks();
        if !(1..=12).contains(&blocks) {
            let want = "it must have from 1 to 12 entries";
            return Err(Problem::new("block_out_channels", &self.block_out_channels, want));
        }
        let like = format!("it must have {blocks} entries, like `block_out_channels`");
        if self.down_block_types.len() != blocks {
            return Err(Problem::new("down_block_types", &self.down_block_types, like));
        }
        if self.up_block_types.len() != blocks {
            return Err(Problem::new("up_block_types", &self.up_block_types, like));
        }
        for (key, values, max) in [
            ("layers_per_block", &self.layers_per_block, 64),
            ("cross_attention_dim", &self.cross_attention_dim, 65536),
            ("attention_head_dim", &self.attention_head_dim, 1024),
            (
                "num_attention_heads",
                self.num_attention_heads.as_ref().unwrap_or(&PerBlock::All(1)),
                1024,
            ),
        ] {
            if !values.fits(blocks) {
                return Err(Problem::new(key, values, like));
            }
            bounded(key, values.values(), max)?;
        }
        bounded("norm_num_groups", &[self.norm_num_groups], 16384)?;
        for (i, &channels) in self.block_out_channels.iter().enumerate() {
            let groups = self.norm_num_groups;
            if channels % groups != 0 {
                let want = format!("it must divide the {channels} channels of block {i}");
                return Err(Problem::new("norm_num_groups", groups, want));
            }
            let heads = self.heads(i);
            let attends = self.down_attends(i) || self.up_attends(i) || i + 1 == blocks;
            if attends && channels % heads != 0 {
                let key = match self.num_attention_heads {
                    Some(_) => "num_attention_heads",
                    None => "attention_head_dim",
                };
                let want = format!(
                    "this number of heads must divide the {channels} channels of block {i}"
                );
                return Err(Problem::new(key, heads, want));
            }
        }
        if !self.block_out_channels[0].is_multiple_of(2) {
            let want = "the first must be even, for the time embedding's sines and cosines";
            return Err(Problem::new("block_out_channels", &self.block_out_channels, want));
        }
        // also refuses NaN
        if !(0.0..self.block_out_channels[0] as f64 / 2.0).contains(&self.freq_shift) {
            let want = "it must be from 0 to below half the first block's channels";
            return Err(Problem::new("freq_shift", self.freq_shift, want));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(Problem::new("norm_eps", self.norm_eps, "it must be between 0 and 1"));
        }
        if self.parameters() > 2e10 {
            let want =
                "with the layers a block that makes more than 20 thousand million parameters";
            return Err(Problem::new("block_out_channels", &self.block_out_channels, want));
        }
        Ok(())
    }
}
