//! The published architectures: for files that do not say their own, and for work that needs no weights.

use std::path::Path;

use serde_json::json;

use super::config::{
    BetaSchedule, DownBlock::*, Extra, HiddenAct, ModelIndex, PerBlock, PredictionType,
    SchedulerConfig, TextEncoderConfig, UNetConfig, UpBlock::*, VaeConfig,
};
use super::files::Blueprint;
use super::tokenizer::{ClipPadding, Tokenizer};
use crate::Result;

/// A family of published models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Stable Diffusion 1.1 to 1.5.
    Sd1,
    /// Stable Diffusion 2.0 and 2.1.
    Sd2,
}

impl Version {
    /// The family whose UNet attends to so many features of a text.
    pub(super) fn of_text_width(features: usize) -> Option<Self> {
        match features {
            768 => Some(Version::Sd1),
            1024 => Some(Version::Sd2),
            _ => None,
        }
    }

    /// What it is called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Version::Sd1 => "Stable Diffusion 1.x",
            Version::Sd2 => "Stable Diffusion 2.x",
        }
    }
}

/// All that a published model has beside its weights. Of 2.x the models that predict velocity are those for
/// 768 pixels.
///
/// # Errors
/// None but a bug's.
pub(super) fn blueprint(version: Version, prediction_type: PredictionType) -> Result<Blueprint> {
    let (mut architecture, padding, sampler) = match version {
        Version::Sd1 => (sd15(), ClipPadding::End, "PNDMScheduler"),
        Version::Sd2 => (sd21(), ClipPadding::ExclamationMark, "DDIMScheduler"),
    };
    if version == Version::Sd2 && prediction_type == PredictionType::VPrediction {
        let unit = architecture.vae.downscale();
        architecture.unet.sample_size = Some(PerBlock::All(768 / unit));
        architecture.vae.sample_size = PerBlock::All(768);
        architecture.unet.upcast_attention = true;
    }
    let scheduler = SchedulerConfig {
        _class_name: sampler.into(),
        beta_start: 0.00085,
        beta_end: 0.012,
        beta_schedule: BetaSchedule::ScaledLinear,
        prediction_type,
        steps_offset: 1,
        clip_sample: Some(false),
        set_alpha_to_one: Some(false),
        // without it, diffusers' PNDM takes Runge-Kutta steps first
        extra: Extra::from_iter([("skip_prk_steps".to_owned(), json!(true))]),
        ..SchedulerConfig::default()
    };
    let blueprint = Blueprint {
        index: ModelIndex {
            scheduler: ["diffusers".into(), sampler.into()],
            ..ModelIndex::default()
        },
        unet: architecture.unet,
        vae: architecture.vae,
        text_encoder: architecture.text_encoder,
        scheduler,
        tokenizer: Tokenizer::clip(padding)?,
    };
    blueprint.fitted(Path::new(version.name()))
}

/// The model that is called `sd15` or `sd21` where weights are random.
///
/// # Errors
/// None but a bug's.
pub fn named(name: &str) -> Result<Option<Blueprint>> {
    let version = match name {
        "sd15" => Version::Sd1,
        "sd21" => Version::Sd2,
        _ => return Ok(None),
    };
    blueprint(version, PredictionType::Epsilon).map(Some)
}

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
        for version in [Version::Sd1, Version::Sd2] {
            for prediction in [PredictionType::Epsilon, PredictionType::VPrediction] {
                let blueprint = blueprint(version, prediction).unwrap();
                assert!(blueprint.scheduler.check().is_ok() && blueprint.index.check().is_ok());
                let large = version == Version::Sd2 && prediction == PredictionType::VPrediction;
                let side = if large { 768 } else { 512 };
                assert_eq!(blueprint.default_size(), (side, side));
            }
        }
    }
}
