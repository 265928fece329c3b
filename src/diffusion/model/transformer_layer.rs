//! The transformer layer of both towers of CLIP, and of a vision transformer.

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

/// What the parts of a layer are called in files.
pub struct LayerNames {
    norms: [&'static str; 2],
    q_k_v_out: [&'static str; 4],
    feed_forward: [&'static str; 2],
}

impl LayerNames {
    /// transformers' `CLIPEncoderLayer`.
    pub const CLIP: Self = LayerNames {
        norms: ["layer_norm1", "layer_norm2"],
        q_k_v_out: [
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.out_proj",
        ],
        feed_forward: ["mlp.fc1", "mlp.fc2"],
    };
    /// transformers' `ViTLayer`.
    pub const VIT: Self = LayerNames {
        norms: ["layernorm_before", "layernorm_after"],
        q_k_v_out: [
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
            "attention.output.dense",
        ],
        feed_forward: ["intermediate.dense", "output.dense"],
    };
}

impl TransformerLayer {
    /// Builds a CLIP's layer at `b`.
    ///
    /// # Errors
    /// Those of `b`'s source: a missing or misshapen tensor.
    pub fn new(b: &Builder, size: TransformerSize) -> Result<Self> {
        Self::named(b, size, &LayerNames::CLIP)
    }

    /// Builds the layer at `b`, its parts under `names`.
    ///
    /// # Errors
    /// As [`TransformerLayer::new`].
    pub fn named(b: &Builder, size: TransformerSize, names: &LayerNames) -> Result<Self> {
        let TransformerSize { width, inner, eps, .. } = size;
        let linear = |name| Linear::new(&b.at(name), width, width);
        let [q, k, v, out] = names.q_k_v_out;
        Ok(TransformerLayer {
            norm1: LayerNorm::new(&b.at(names.norms[0]), width, eps)?,
            q: linear(q)?,
            k: linear(k)?,
            v: linear(v)?,
            out: linear(out)?,
            norm2: LayerNorm::new(&b.at(names.norms[1]), width, eps)?,
            fc1: Linear::new(&b.at(names.feed_forward[0]), width, inner)?,
            fc2: Linear::new(&b.at(names.feed_forward[1]), inner, width)?,
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
