//! Layers: parameters with the operation that uses them, built under the names of diffusers' files.

use candle_core::Result;

use super::autograd::Var;
use super::ops::{self, Padding};
use super::param::{Builder, Init, Param};

/// `y = x Wᵀ + b` on the last dimension.
pub struct Linear {
    weight: Param,
    bias: Option<Param>,
}

impl Linear {
    /// With bias.
    pub fn new(b: &Builder, inputs: usize, outputs: usize) -> crate::Result<Self> {
        let bias = b.param("bias", &[outputs], Init::FanIn(inputs))?;
        Ok(Linear { bias: Some(bias), ..Linear::no_bias(b, inputs, outputs)? })
    }

    /// Without bias.
    pub fn no_bias(b: &Builder, inputs: usize, outputs: usize) -> crate::Result<Self> {
        let weight = b.param("weight", &[outputs, inputs], Init::FanIn(inputs))?;
        Ok(Linear { weight, bias: None })
    }

    /// `x`: [..., inputs] → [..., outputs].
    pub fn forward(&self, x: &Var) -> Result<Var> {
        ops::linear_param(x, &self.weight, self.bias.as_ref())
    }
}

/// Convolution of a feature map.
pub struct Conv2d {
    weight: Param,
    bias: Param,
    stride: usize,
    padding: Padding,
}

impl Conv2d {
    /// A square kernel of `size`.
    pub fn new(
        b: &Builder,
        inputs: usize,
        outputs: usize,
        size: usize,
        stride: usize,
        padding: Padding,
    ) -> crate::Result<Self> {
        let fan_in = inputs * size * size;
        let weight = b.param("weight", &[outputs, inputs, size, size], Init::FanIn(fan_in))?;
        let bias = b.param("bias", &[outputs], Init::FanIn(fan_in))?;
        Ok(Conv2d { weight, bias, stride, padding })
    }

    /// 3×3, stride 1, same size.
    pub fn same(b: &Builder, inputs: usize, outputs: usize) -> crate::Result<Self> {
        Conv2d::new(b, inputs, outputs, 3, 1, Padding::same(1))
    }

    /// 1×1: a linear layer on each pixel.
    pub fn pointwise(b: &Builder, inputs: usize, outputs: usize) -> crate::Result<Self> {
        Conv2d::new(b, inputs, outputs, 1, 1, Padding::same(0))
    }

    /// Map → map.
    pub fn forward(&self, x: &Var) -> Result<Var> {
        ops::conv2d(x, &self.weight, &self.bias, self.stride, self.padding)
    }
}

/// Group normalisation of a feature map (Wu & He 2018), or of tokens.
pub struct GroupNorm {
    weight: Param,
    bias: Param,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// `groups` must divide `channels`.
    pub fn new(b: &Builder, groups: usize, channels: usize, eps: f64) -> crate::Result<Self> {
        let weight = b.param("weight", &[channels], Init::Constant(1.0))?;
        let bias = b.param("bias", &[channels], Init::Constant(0.0))?;
        Ok(GroupNorm { weight, bias, groups, eps })
    }

    /// Map → map of the same shape.
    pub fn forward(&self, x: &Var) -> Result<Var> {
        ops::group_norm(x, &self.weight.var()?, &self.bias.var()?, self.groups, self.eps, false)
    }

    /// As `forward`, followed by SiLU.
    pub fn forward_silu(&self, x: &Var) -> Result<Var> {
        ops::group_norm(x, &self.weight.var()?, &self.bias.var()?, self.groups, self.eps, true)
    }
}

/// Layer normalisation of the last dimension.
pub struct LayerNorm {
    weight: Param,
    bias: Param,
    eps: f64,
}

impl LayerNorm {
    /// Over `width` features.
    pub fn new(b: &Builder, width: usize, eps: f64) -> crate::Result<Self> {
        let weight = b.param("weight", &[width], Init::Constant(1.0))?;
        let bias = b.param("bias", &[width], Init::Constant(0.0))?;
        Ok(LayerNorm { weight, bias, eps })
    }

    /// [..., width] → the same shape.
    pub fn forward(&self, x: &Var) -> Result<Var> {
        ops::layer_norm(x, &self.weight.var()?, &self.bias.var()?, self.eps)
    }
}
