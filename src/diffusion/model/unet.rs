//! diffusers' `UNet2DConditionModel`: predicts the noise (or velocity) in latents from the timestep
//! and the text.

use std::cell::Cell;
use std::sync::Arc;

use candle_core::{DType, Result as TensorResult, Tensor, bail};

use super::resnet::{Downsample, ResnetBlock, ResnetStyle, Upsample};
use super::transformer::{
    Context, KeysValues, OnCrossAttention, SpatialTransformer, TransformerStyle,
};
use crate::Result;
use crate::diffusion::config::UNetConfig;
use crate::nn::{
    Builder, Conv2d, GroupNorm, Linear, Padding, Param, Var, checkpoint, no_grad, ops,
};

/// The UNet.
pub struct UNet {
    config: UNetConfig,
    params: Vec<Param>,
    compute: DType,
    time_linear_1: Linear,
    time_linear_2: Linear,
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    checkpointing: bool,
}

/// A residual block and, where the block attends to the text, the transformer behind it: the unit
/// that activation checkpointing recomputes.
struct Layer {
    resnet: ResnetBlock,
    attention: Option<SpatialTransformer>,
}

/// What a UNet's cross attentions made of a text, in the order of a forward pass.
pub struct TextKeys(Vec<KeysValues>);

struct DownBlock {
    layers: Vec<Arc<Layer>>,
    downsample: Option<Downsample>,
}

struct MidBlock {
    first: Arc<Layer>,
    last: Arc<Layer>,
}

struct UpBlock {
    layers: Vec<Arc<Layer>>,
    upsample: Option<Upsample>,
}

impl Layer {
    fn forward(
        &self,
        x: &Var,
        time: &Var,
        text: Context,
        on_cross_attention: Option<OnCrossAttention>,
    ) -> TensorResult<Var> {
        let x = self.resnet.forward(x, Some(time))?;
        match &self.attention {
            Some(attention) => attention.forward(&x, text, on_cross_attention),
            None => Ok(x),
        }
    }
}

/// Makes the layers of a UNet of one configuration.
struct Maker<'a> {
    config: &'a UNetConfig,
    resnet: ResnetStyle,
    transformer: TransformerStyle,
}

impl Maker<'_> {
    /// Layer `j` of the block at `b`; `attends`: the level whose attention it has, if any.
    fn layer(
        &self,
        b: &Builder,
        j: usize,
        (inputs, outputs): (usize, usize),
        attends: Option<usize>,
    ) -> Result<Arc<Layer>> {
        let attention = attends.map(|level| {
            let context = self.config.cross_attention_dim.at(level);
            let heads = self.config.heads(level);
            let b = b.at(format_args!("attentions.{j}"));
            SpatialTransformer::new(&b, outputs, context, heads, self.transformer)
        });
        let resnet = b.at(format_args!("resnets.{j}"));
        Ok(Arc::new(Layer {
            resnet: ResnetBlock::new(&resnet, inputs, outputs, self.resnet)?,
            attention: attention.transpose()?,
        }))
    }
}

impl UNet {
    /// Builds the network that a checked configuration describes.
    ///
    /// # Errors
    /// Those of `b`'s source: a missing or misshapen tensor.
    pub fn new(b: &Builder, config: &UNetConfig) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (blocks, first, last) = (config.blocks(), channels[0], channels[channels.len() - 1]);
        let time_embed_dim = config.time_embed_dim();
        let (groups, eps) = (config.norm_num_groups, config.norm_eps);
        let maker = Maker {
            config,
            resnet: ResnetStyle { groups, eps, time_embed_dim: Some(time_embed_dim) },
            transformer: TransformerStyle {
                groups,
                linear_projection: config.use_linear_projection,
                upcast_attention: config.upcast_attention,
            },
        };

        let mut down_blocks = vec![];
        // What the way down leaves for the way up: the channels of each skip connection.
        let mut skips = vec![first];
        for i in 0..blocks {
            let b = b.at(format_args!("down_blocks.{i}"));
            let inputs = if i == 0 { first } else { channels[i - 1] };
            let attends = config.down_attends(i).then_some(i);
            let layers = (0..config.layers_per_block.at(i))
                .map(|j| {
                    let inputs = if j == 0 { inputs } else { channels[i] };
                    maker.layer(&b, j, (inputs, channels[i]), attends)
                })
                .collect::<Result<Vec<_>>>()?;
            skips.extend(layers.iter().map(|_| channels[i]));
            let downsample = (i + 1 < blocks)
                .then(|| Downsample::new(&b, channels[i], Padding::same(1)))
                .transpose()?;
            skips.extend(downsample.iter().map(|_| channels[i]));
            down_blocks.push(DownBlock { layers, downsample });
        }

        let mid = b.at("mid_block");
        let mid_block = MidBlock {
            first: maker.layer(&mid, 0, (last, last), Some(blocks - 1))?,
            last: maker.layer(&mid, 1, (last, last), None)?,
        };

        let mut up_blocks = vec![];
        let mut inputs = last;
        for (j, i) in (0..blocks).rev().enumerate() {
            let b = b.at(format_args!("up_blocks.{j}"));
            let attends = config.up_attends(i).then_some(i);
            let layers = (0..=config.layers_per_block.at(i))
                .map(|j| {
                    let skip = skips.pop().expect("as many skips as layers on the way up");
                    let sizes = (inputs + skip, channels[i]);
                    inputs = channels[i];
                    maker.layer(&b, j, sizes, attends)
                })
                .collect::<Result<Vec<_>>>()?;
            let upsample = (i > 0).then(|| Upsample::new(&b, channels[i])).transpose()?;
            up_blocks.push(UpBlock { layers, upsample });
        }

        Ok(UNet {
            time_linear_1: Linear::new(&b.at("time_embedding.linear_1"), first, time_embed_dim)?,
            time_linear_2: Linear::new(
                &b.at("time_embedding.linear_2"),
                time_embed_dim,
                time_embed_dim,
            )?,
            conv_in: Conv2d::same(&b.at("conv_in"), config.in_channels, first)?,
            conv_norm_out: GroupNorm::new(&b.at("conv_norm_out"), groups, first, eps)?,
            conv_out: Conv2d::same(&b.at("conv_out"), first, config.out_channels)?,
            config: config.clone(),
            down_blocks,
            mid_block,
            up_blocks,
            params: b.params(),
            compute: b.compute_dtype(),
            checkpointing: false,
        })
    }

    /// The architecture.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// All parameters, under the names of the file.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The type that forward passes compute in.
    pub fn compute_dtype(&self) -> DType {
        self.compute
    }

    /// Whether training keeps only the inputs of each layer and computes the rest again in the
    /// backward pass: about a third more time for a fraction of the memory.
    pub fn set_checkpointing(&mut self, on: bool) {
        self.checkpointing = on;
    }

    /// Whether training leaves the keys and values of the start-of-text token, which is the same in all
    /// prompts, out of the gradient, as Custom Diffusion does.
    pub fn set_detach_start_of_text(&mut self, on: bool) {
        let down = self.down_blocks.iter_mut().flat_map(|block| &mut block.layers);
        let up = self.up_blocks.iter_mut().flat_map(|block| &mut block.layers);
        for layer in down.chain([&mut self.mid_block.first]).chain(up) {
            let layer = Arc::get_mut(layer).expect("shared only while a graph is alive");
            if let Some(attention) = &mut layer.attention {
                attention.set_detach_start_of_text(on);
            }
        }
    }

    /// `latents` [batch, in, h, w] noised to `timesteps` (one a sample), `text` [batch, length,
    /// features] → the prediction [batch, out, h, w], f32.
    pub fn forward(&self, latents: &Var, timesteps: &[f64], text: &Var) -> TensorResult<Var> {
        self.forward_seen(latents, timesteps, text, None)
    }

    /// The same; `on_cross_attention` sees each cross attention on the way, which changes nothing.
    pub fn forward_seen(
        &self,
        latents: &Var,
        timesteps: &[f64],
        text: &Var,
        on_cross_attention: Option<OnCrossAttention>,
    ) -> TensorResult<Var> {
        let text = &ops::to_dtype(text, self.compute)?;
        self.through(latents, timesteps, |layer, x, time| {
            // a layer that runs again in the backward pass would be seen twice
            if !self.checkpointing || on_cross_attention.is_some() {
                return layer.forward(x, time, Context::Features(text), on_cross_attention);
            }
            let layer = layer.clone();
            checkpoint(&[x, time, text], move |i| {
                layer.forward(&i[0], &i[1], Context::Features(&i[2]), None)
            })
        })
    }

    /// What all cross attentions make of `text`, for [`UNet::denoise`]. No gradient flows through it.
    pub fn keys_values(&self, text: &Var) -> TensorResult<TextKeys> {
        let text = ops::to_dtype(&text.detach(), self.compute)?;
        let attentions = self.layers().filter_map(|layer| layer.attention.as_ref());
        let made: TensorResult<Vec<_>> =
            no_grad(|| attentions.map(|attention| attention.keys_values(&text)).collect());
        Ok(TextKeys(made?))
    }

    /// [`UNet::forward_seen`] without gradients, for a text that is the same in many steps: the same bits for
    /// less work.
    pub fn denoise(
        &self,
        latents: &Tensor,
        timesteps: &[f64],
        text: &TextKeys,
        on_cross_attention: Option<OnCrossAttention>,
    ) -> TensorResult<Tensor> {
        let made = Cell::new(text.0.iter());
        let run = |layer: &Arc<Layer>, x: &Var, time: &Var| {
            let mut rest = made.take();
            let own = layer.attention.as_ref().and_then(|_| rest.next());
            made.set(rest);
            match own {
                Some(own) => layer.forward(x, time, Context::Made(own), on_cross_attention),
                None if layer.attention.is_none() => layer.resnet.forward(x, Some(time)),
                None => bail!("keys and values of a text that another network made"),
            }
        };
        let latents = Var::constant(latents.clone());
        Ok(no_grad(|| self.through(&latents, timesteps, run))?.value().clone())
    }

    /// All layers, in the order of a forward pass.
    fn layers(&self) -> impl Iterator<Item = &Arc<Layer>> {
        let down = self.down_blocks.iter().flat_map(|block| &block.layers);
        let up = self.up_blocks.iter().flat_map(|block| &block.layers);
        down.chain([&self.mid_block.first, &self.mid_block.last]).chain(up)
    }

    /// A forward pass in which `run` runs the layers, each on a map and the time.
    fn through(
        &self,
        latents: &Var,
        timesteps: &[f64],
        run: impl Fn(&Arc<Layer>, &Var, &Var) -> TensorResult<Var>,
    ) -> TensorResult<Var> {
        let latents = match self.config.center_input_sample {
            true => ops::composed([latents], |[x]| (x * 2.0)? - 1.0)?,
            false => latents.clone(),
        };
        let device = latents.value().device();
        let sinusoids = self.sinusoids(timesteps).to_device(device)?.to_dtype(self.compute)?;
        let time = self.time_linear_1.forward(&Var::constant(sinusoids))?;
        let time = self.time_linear_2.forward(&ops::silu(&time)?)?;
        let time = ops::silu(&time)?; // every residual block begins with it

        let mut x = ops::from_image(&ops::to_dtype(&latents, self.compute)?)?;
        x = self.conv_in.forward(&x)?;
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            for layer in &block.layers {
                x = run(layer, &x, &time)?;
                skips.push(x.clone());
            }
            if let Some(downsample) = &block.downsample {
                x = downsample.forward(&x)?;
                skips.push(x.clone());
            }
        }
        x = run(&self.mid_block.first, &x, &time)?;
        x = run(&self.mid_block.last, &x, &time)?;
        for block in &self.up_blocks {
            for layer in &block.layers {
                let skip = skips.pop().expect("as many skips as layers on the way up");
                x = run(layer, &ops::concat_channels(&x, &skip)?, &time)?;
            }
            if let Some(upsample) = &block.upsample {
                let next = skips.last().expect("the way up ends where the way down began");
                let (_, _, height, width) = ops::map_size(next)?;
                x = upsample.forward_to(&x, height, width)?;
            }
        }
        x = self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)?)?;
        ops::to_dtype(&ops::to_image(&x)?, DType::F32)
    }

    /// Sines and cosines of the timesteps [batch, channels] (Vaswani et al. 2017, as DDPM has them).
    fn sinusoids(&self, timesteps: &[f64]) -> Tensor {
        let half = self.config.block_out_channels[0] / 2;
        let step = -(10_000f64.ln()) / (half as f64 - self.config.freq_shift);
        let mut values = Vec::with_capacity(timesteps.len() * 2 * half);
        for t in timesteps {
            let angles = (0..half).map(|i| t * (step * i as f64).exp());
            let sines = angles.clone().map(|a| a.sin() as f32);
            let cosines = angles.map(|a| a.cos() as f32);
            if self.config.flip_sin_to_cos {
                values.extend(cosines.chain(sines));
            } else {
                values.extend(sines.chain(cosines));
            }
        }
        Tensor::from_vec(values, (timesteps.len(), 2 * half), &candle_core::Device::Cpu)
            .expect("the length is the shape's")
    }
}
