//! diffusers' `AutoencoderKL`: images to latents and back.

use candle_core::{DType, Result as TensorResult, Tensor};

use super::resnet::{Downsample, ResnetBlock, ResnetStyle, Upsample};
use super::transformer::Attention;
use crate::Result;
use crate::diffusion::config::VaeConfig;
use crate::nn::{Builder, Conv2d, GroupNorm, Padding, Param, Var, ops};

/// The autoencoder.
pub struct Vae {
    config: VaeConfig,
    params: Vec<Param>,
    encoding: DType,
    encoder: Coder,
    decoder: Coder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
}

/// Encoder and decoder: a stack of residual blocks with a middle, before it or behind.
struct Coder {
    conv_in: Conv2d,
    stages: Vec<Stage>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

enum Stage {
    Resnet(ResnetBlock),
    Attention { norm: GroupNorm, attention: Attention },
    Downsample(Downsample),
    Upsample(Upsample),
}

/// The distribution of an image's latents: independent normals.
pub struct Posterior {
    /// Means [batch, latent channels, h, w].
    pub mean: Var,
    /// Logarithms of the variances, kept within [−30, 20].
    pub logvar: Var,
}

impl Posterior {
    /// The latents that standard normal `noise` stands for.
    pub fn sample(&self, noise: &Tensor) -> TensorResult<Var> {
        let noise = noise.clone();
        ops::composed([&self.mean, &self.logvar], move |[mean, logvar]| {
            mean + (logvar * 0.5)?.exp()?.mul(&noise)?
        })
    }

    /// Kullback-Leibler divergence from the standard normal, summed over all elements.
    pub fn kl(&self) -> TensorResult<Var> {
        ops::composed([&self.mean, &self.logvar], |[mean, logvar]| {
            (((mean.sqr()? + logvar.exp()?)? - 1.0)? - logvar)?.sum_all()? * 0.5
        })
    }
}

impl Vae {
    /// Builds the network that a checked configuration describes. It encodes in the builder's type and
    /// decodes in f32.
    ///
    /// # Errors
    /// Those of `b`'s source: a missing or misshapen tensor.
    pub fn new(b: &Builder, config: &VaeConfig) -> Result<Self> {
        let latents = config.latent_channels;
        let wide = b.computing_in(DType::F32);
        let quant = |b: &Builder, on: bool, name, channels| {
            on.then(|| Conv2d::pointwise(&b.at(name), channels, channels)).transpose()
        };
        Ok(Vae {
            encoding: b.compute_dtype(),
            encoder: Coder::encoder(&b.at("encoder"), config)?,
            decoder: Coder::decoder(&wide.at("decoder"), config)?,
            quant_conv: quant(b, config.use_quant_conv, "quant_conv", 2 * latents)?,
            post_quant_conv: quant(&wide, config.use_post_quant_conv, "post_quant_conv", latents)?,
            config: config.clone(),
            params: b.params(),
        })
    }

    /// The architecture.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// All parameters, under the names of the file.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The type that images are encoded in.
    pub fn encoding_dtype(&self) -> DType {
        self.encoding
    }

    /// `images` [batch, 3, height, width] in [−1, 1] → the distribution of their latents, unscaled, f32.
    pub fn encode(&self, images: &Var) -> TensorResult<Posterior> {
        let images = ops::to_dtype(images, self.encoding)?;
        let mut x = self.encoder.forward(&ops::from_image(&images)?)?;
        if let Some(conv) = &self.quant_conv {
            x = conv.forward(&x)?;
        }
        let x = ops::to_dtype(&ops::to_image(&x)?, DType::F32)?;
        let n = self.config.latent_channels;
        Ok(Posterior {
            mean: ops::composed([&x], move |[x]| x.narrow(1, 0, n)?.contiguous())?,
            logvar: ops::composed([&x], move |[x]| x.narrow(1, n, n)?.clamp(-30f32, 20f32))?,
        })
    }

    /// Unscaled latents [batch, latent channels, h, w] → images, about in [−1, 1].
    pub fn decode(&self, latents: &Var) -> TensorResult<Var> {
        let mut x = ops::from_image(latents)?;
        if let Some(conv) = &self.post_quant_conv {
            x = conv.forward(&x)?;
        }
        ops::to_image(&self.decoder.forward(&x)?)
    }

    /// Latents as the UNet sees them, from the VAE's: shifted and scaled.
    pub fn scale(&self, latents: &Var) -> TensorResult<Var> {
        let (shift, factor) = (self.shift(), self.config.scaling_factor);
        ops::composed([latents], move |[x]| (x - shift)? * factor)
    }

    /// The VAE's latents, from those that the UNet sees.
    pub fn unscale(&self, latents: &Var) -> TensorResult<Var> {
        let (shift, factor) = (self.shift(), self.config.scaling_factor);
        ops::composed([latents], move |[x]| (x / factor)? + shift)
    }

    fn shift(&self) -> f64 {
        self.config.shift_factor.unwrap_or(0.0)
    }
}

impl Coder {
    fn encoder(b: &Builder, config: &VaeConfig) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let conv_in = Conv2d::same(&b.at("conv_in"), config.in_channels, first)?;
        let mut stages = vec![];
        let mut width = first;
        for (i, &outputs) in channels.iter().enumerate() {
            let b = b.at(format_args!("down_blocks.{i}"));
            for j in 0..config.layers_per_block {
                stages.push(resnet(&b, j, width, outputs, config)?);
                width = outputs;
            }
            if i + 1 < channels.len() {
                let right_and_bottom = Padding { before: 0, after: 1 };
                stages.push(Stage::Downsample(Downsample::new(&b, width, right_and_bottom)?));
            }
        }
        stages.extend(middle(&b.at("mid_block"), last, config)?);
        Coder::finish(b, conv_in, stages, last, 2 * config.latent_channels, config)
    }

    fn decoder(b: &Builder, config: &VaeConfig) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let conv_in = Conv2d::same(&b.at("conv_in"), config.latent_channels, last)?;
        let mut stages = middle(&b.at("mid_block"), last, config)?;
        let mut width = last;
        for (i, &outputs) in channels.iter().rev().enumerate() {
            let b = b.at(format_args!("up_blocks.{i}"));
            for j in 0..=config.layers_per_block {
                stages.push(resnet(&b, j, width, outputs, config)?);
                width = outputs;
            }
            if i + 1 < channels.len() {
                stages.push(Stage::Upsample(Upsample::new(&b, width)?));
            }
        }
        Coder::finish(b, conv_in, stages, first, config.out_channels, config)
    }

    fn finish(
        b: &Builder,
        conv_in: Conv2d,
        stages: Vec<Stage>,
        width: usize,
        outputs: usize,
        config: &VaeConfig,
    ) -> Result<Self> {
        let norm = b.at("conv_norm_out");
        Ok(Coder {
            conv_in,
            stages,
            conv_norm_out: GroupNorm::new(&norm, config.norm_num_groups, width, EPS)?,
            conv_out: Conv2d::same(&b.at("conv_out"), width, outputs)?,
        })
    }

    fn forward(&self, x: &Var) -> TensorResult<Var> {
        let mut x = self.conv_in.forward(x)?;
        for stage in &self.stages {
            x = match stage {
                Stage::Resnet(resnet) => resnet.forward(&x, None)?,
                Stage::Downsample(downsample) => downsample.forward(&x)?,
                Stage::Upsample(upsample) => upsample.forward(&x)?,
                Stage::Attention { norm, attention } => {
                    let (_, _, height, width) = ops::map_size(&x)?;
                    let tokens = ops::map_to_tokens(&norm.forward(&x)?)?;
                    let y = attention.forward(&tokens, &tokens)?;
                    ops::add(&x, &ops::tokens_to_map(&y, height, width)?)?
                }
            };
        }
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)?)
    }
}

const EPS: f64 = 1e-6;

fn resnet(
    b: &Builder,
    j: usize,
    inputs: usize,
    outputs: usize,
    config: &VaeConfig,
) -> Result<Stage> {
    let style = ResnetStyle { groups: config.norm_num_groups, eps: EPS, time_embed_dim: None };
    let b = b.at(format_args!("resnets.{j}"));
    Ok(Stage::Resnet(ResnetBlock::new(&b, inputs, outputs, style)?))
}

fn middle(b: &Builder, width: usize, config: &VaeConfig) -> Result<Vec<Stage>> {
    let mut stages = vec![resnet(b, 0, width, width, config)?];
    if config.mid_block_add_attention {
        let b = b.at("attentions.0");
        stages.push(Stage::Attention {
            norm: GroupNorm::new(&b.at("group_norm"), config.norm_num_groups, width, EPS)?,
            attention: Attention::with_bias(&b, width)?,
        });
    }
    stages.push(resnet(b, 1, width, width, config)?);
    Ok(stages)
}
