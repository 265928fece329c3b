//! Residual blocks and changes of resolution, shared by the UNet and the VAE.

use candle_core::Result as TensorResult;

use crate::Result;
use crate::nn::{Builder, Conv2d, GroupNorm, Linear, Padding, Var, ops};

/// diffusers' `ResnetBlock2D`.
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

/// What all residual blocks of a network share.
#[derive(Clone, Copy)]
pub struct ResnetStyle {
    /// Groups of every group norm.
    pub groups: usize,
    /// Its epsilon.
    pub eps: f64,
    /// Width of the time embedding, for a network that has one.
    pub time_embed_dim: Option<usize>,
}

impl ResnetBlock {
    /// From `inputs` to `outputs` channels.
    pub fn new(b: &Builder, inputs: usize, outputs: usize, style: ResnetStyle) -> Result<Self> {
        let norm = |name, channels| GroupNorm::new(&b.at(name), style.groups, channels, style.eps);
        Ok(ResnetBlock {
            norm1: norm("norm1", inputs)?,
            conv1: Conv2d::same(&b.at("conv1"), inputs, outputs)?,
            time_emb_proj: style
                .time_embed_dim
                .map(|width| Linear::new(&b.at("time_emb_proj"), width, outputs))
                .transpose()?,
            norm2: norm("norm2", outputs)?,
            conv2: Conv2d::same(&b.at("conv2"), outputs, outputs)?,
            conv_shortcut: (inputs != outputs)
                .then(|| Conv2d::pointwise(&b.at("conv_shortcut"), inputs, outputs))
                .transpose()?,
        })
    }

    /// `x`: a map; `time`: the SiLU of the time embedding [batch, width], for a network that has one.
    pub fn forward(&self, x: &Var, time: Option<&Var>) -> TensorResult<Var> {
        let mut h = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        if let (Some(proj), Some(time)) = (&self.time_emb_proj, time) {
            h = ops::add_per_channel(&h, &proj.forward(time)?)?;
        }
        let h = self.conv2.forward(&self.norm2.forward_silu(&h)?)?;
        match &self.conv_shortcut {
            Some(shortcut) => ops::add(&shortcut.forward(x)?, &h),
            None => ops::add(x, &h),
        }
    }
}

/// Half the resolution, by a strided convolution.
pub struct Downsample(Conv2d);

impl Downsample {
    /// The UNet pads all sides, the VAE the right and bottom only.
    pub fn new(b: &Builder, channels: usize, padding: Padding) -> Result<Self> {
        Ok(Downsample(Conv2d::new(
            &b.at("downsamplers.0.conv"),
            channels,
            channels,
            3,
            2,
            padding,
        )?))
    }

    /// Map → map.
    pub fn forward(&self, x: &Var) -> TensorResult<Var> {
        self.0.forward(x)
    }
}

/// Twice the resolution: nearest neighbours, then a convolution.
pub struct Upsample(Conv2d);

impl Upsample {
    /// Keeps the number of channels.
    pub fn new(b: &Builder, channels: usize) -> Result<Self> {
        Ok(Upsample(Conv2d::same(&b.at("upsamplers.0.conv"), channels, channels)?))
    }

    /// Map → map.
    pub fn forward(&self, x: &Var) -> TensorResult<Var> {
        self.0.forward(&ops::upsample_nearest_2x(x)?)
    }

    /// As `forward`, cut to `height` × `width`: a map of odd size was rounded up on the way down.
    pub fn forward_to(&self, x: &Var, height: usize, width: usize) -> TensorResult<Var> {
        self.0.forward(&ops::crop(&ops::upsample_nearest_2x(x)?, height, width)?)
    }
}
