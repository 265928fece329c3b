//! Options that name a backbone.

use std::path::PathBuf;

use crate::diffusion::BackboneSpec;
use crate::mini;
use crate::spec::Prediction;

/// The backbone of a command, and what is said of it.
#[derive(clap::Args, Clone)]
pub struct BackboneArgs {
    /// mini (embedded), a folder in diffusers' layout, a single-file checkpoint of SD 1.x or 2.x
    /// (.safetensors, .ckpt), or a hub id: owner/name[@revision] [default: the experiment's, or mini]
    #[arg(long)]
    pub backbone: Option<String>,

    #[command(flatten)]
    pub about: SingleFileArgs,
}

/// What a single-file checkpoint does not say itself.
#[derive(clap::Args, Clone)]
pub struct SingleFileArgs {
    /// Configurations and tokenizer of a single file that has another shape than the published models: a
    /// folder in diffusers' layout; what the file lacks is read from weights there
    #[arg(long, value_name = "DIR")]
    pub backbone_config: Option<PathBuf>,

    /// What the UNet of a single file predicts: v for SD 2.x at 768 pixels [default: epsilon]
    #[arg(long)]
    pub prediction: Option<Prediction>,
}

impl BackboneArgs {
    /// The backbone; mini where none is named.
    pub fn spec(&self) -> BackboneSpec {
        self.over(mini::NAME.into())
    }

    /// The backbone; `other` where none is named.
    pub fn over(&self, other: BackboneSpec) -> BackboneSpec {
        let other = match &self.backbone {
            Some(name) => name.as_str().into(),
            None => other,
        };
        self.about.over(other)
    }
}

impl SingleFileArgs {
    /// `other`, with what is said here.
    pub fn over(&self, other: BackboneSpec) -> BackboneSpec {
        BackboneSpec {
            config: self.backbone_config.clone().or(other.config),
            prediction: self.prediction.map(Prediction::kind).or(other.prediction),
            name: other.name,
        }
    }
}
