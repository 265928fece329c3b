//! The transformer layer of both towers of CLIP.

use candle_core::Result as TensorResult;

use crate::Result;
use crate::diffusion::config::HiddenAct;
use crate::nn::{Builder, LayerNorm, Linear, Var, ops};

/// transformers' `CLIPEncoderLayer`: norms before attention and before the feed-forward layers.
pub struct TransformerLayer {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    size: TransformerSize,
}

/// What all layers of a tower share.
#[derive(Clone, Copy)]
pub struct TransformerSize {
    /// Features of a token.
    pub width: usize,
    /// Features between the feed-forward layers.
    pub inner: usize,
    /// Attention heads.
    pub heads: usize,
    /// The activation between the feed-forward layers.
    pub act: HiddenAct,
    /// The norms' epsilon.
    pub eps: f64,
}

impl TransformerLayer {
    /// Builds the layer at `b`.
    ///
    /// # Errors
    /// Those of `b`'s source: a missing or misshapen tensor.
    pub fn new(b: &Builder, size: TransformerSize) -> Result<Self> {
        let TransformerSize { width, inner, eps, .. } = size;
        let linear = |name| Linear::new(&b.at(name), width, width);
        Ok(TransformerLayer {
            norm1: LayerNorm::new(&b.at("layer_norm1"), width, eps)?,
            q: linear("self_attn.q_proj")?,
            k: linear("self_attn.k_proj")?,
            v: linear("self_attn.v_proj")?,
            out: linear("self_attn.out_proj")?,
            norm2: LayerNorm::new(&b.at("layer_norm2"), width, eps)?,
            fc1: Linear::new(&b.at("mlp.fc1"), width, inner)?,
            fc2: Linear::new(&b.at("mlp.fc2"), inner, width)?,
            size,
        })
    }

    /// Tokens [batch, length, width] → the same shape. With `causal`, a token sees itself and those
    /// before it.
    pub fn forward(&self, x: &Var, causal: bool) -> TensorResult<Var> {
        let h = self.norm1.forward(x)?;
        let (q, k, v) = (self.q.forward(&h)?, self.k.forward(&h)?, self.v.forward(&h)?);
        let attended = ops::attention(&q, &k, &v, self.size.heads, causal)?;
        let x = ops::add(x, &self.out.forward(&attended)?)?;
        let h = self.fc1.forward(&self.norm2.forward(&x)?)?;
        let h = match self.size.act {
            HiddenAct::QuickGelu => ops::quick_gelu(&h)?,
            HiddenAct::Gelu => ops::gelu(&h)?,
        };
        ops::add(&x, &self.fc2.forward(&h)?)
    }
}
