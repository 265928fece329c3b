//! The published architectures, for work that needs no weights.

use super::config::{
    DownBlock::*, HiddenAct, PerBlock, TextEncoderConfig, UNetConfig, UpBlock::*, VaeConfig,
};

/// The networks of a backbone.
pub struct Architecture {
    /// The text encoder.
    pub text_encoder: TextEncoderConfig,
    /// The UNet.
    pub unet: UNetConfig,
    /// The VAE.
    pub vae: VaeConfig,
}

/// Stable Diffusion 1.1 to 1.5: 860 M parameters in the UNet.
pub fn sd15() -> Architecture {
    Architecture {
        text_encoder: TextEncoderConfig {
            hidden_size: 768,
            intermediate_size: 3072,
            num_attention_heads: 12,
            ..Default::default()
        },
        unet: UNetConfig { cross_attention_dim: PerBlock::All(768), ..sd_unet() },
        vae: sd_vae(),
    }
}

/// Stable Diffusion 2.0 and 2.1.
pub fn sd21() -> Architecture {
    Architecture {
        text_encoder: TextEncoderConfig {
            hidden_size: 1024,
            intermediate_size: 4096,
            num_attention_heads: 16,
            // of 24: the last is left out
            num_hidden_layers: 23,
            hidden_act: HiddenAct::Gelu,
            ..Default::default()
        },
        unet: UNetConfig {
            cross_attention_dim: PerBlock::All(1024),
            attention_head_dim: PerBlock::Each(vec![5, 10, 20, 20]),
            use_linear_projection: true,
            ..sd_unet()
        },
        vae: sd_vae(),
    }
}

fn sd_unet() -> UNetConfig {
    UNetConfig {
        sample_size: Some(PerBlock::All(64)),
        down_block_types: vec![
            CrossAttnDownBlock2D,
            CrossAttnDownBlock2D,
            CrossAttnDownBlock2D,
            DownBlock2D,
        ],
        up_block_types: vec![UpBlock2D, CrossAttnUpBlock2D, CrossAttnUpBlock2D, CrossAttnUpBlock2D],
        block_out_channels: vec![320, 640, 1280, 1280],
        ..Default::default()
    }
}

fn sd_vae() -> VaeConfig {
    VaeConfig {
        block_out_channels: vec![128, 256, 512, 512],
        down_block_types: vec!["DownEncoderBlock2D".into(); 4],
        up_block_types: vec!["UpDecoderBlock2D".into(); 4],
        layers_per_block: 2,
        sample_size: PerBlock::All(512),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::config::Config as _;

    #[test]
    fn are_valid() {
        for architecture in [sd15(), sd21()] {
            assert!(architecture.text_encoder.check().is_ok());
            assert!(architecture.unet.check().is_ok());
            assert!(architecture.vae.check().is_ok());
        }
    }
}
