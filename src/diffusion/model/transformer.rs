//! Transformers on feature maps that attend to the text.

use candle_core::{Result as TensorResult, Tensor};

use crate::Result;
use crate::nn::{Builder, Conv2d, GroupNorm, LayerNorm, Linear, Var, ops};

/// diffusers' `Attention`: queries from `x`, keys and values from a context.
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
    upcast: bool,
    detach_first: bool,
}

impl Attention {
    /// As the UNet has it: `width` features in and out, keys and values from `context` features,
    /// no bias but at the end. With `upcast`, scores are f32 in half precision, too.
    pub fn new(
        b: &Builder,
        width: usize,
        context: usize,
        heads: usize,
        upcast: bool,
    ) -> Result<Self> {
        Ok(Attention {
            to_q: Linear::no_bias(&b.at("to_q"), width, width)?,
            to_k: Linear::no_bias(&b.at("to_k"), context, width)?,
            to_v: Linear::no_bias(&b.at("to_v"), context, width)?,
            to_out: Linear::new(&b.at("to_out.0"), width, width)?,
            heads,
            upcast,
            detach_first: false,
        })
    }

    /// As the VAE has it: one head, bias everywhere.
    pub fn with_bias(b: &Builder, width: usize) -> Result<Self> {
        Ok(Attention {
            to_q: Linear::new(&b.at("to_q"), width, width)?,
            to_k: Linear::new(&b.at("to_k"), width, width)?,
            to_v: Linear::new(&b.at("to_v"), width, width)?,
            to_out: Linear::new(&b.at("to_out.0"), width, width)?,
            heads: 1,
            upcast: false,
            detach_first: false,
        })
    }

    /// `x` [batch, n, width], `context` [batch, m, context width] → [batch, n, width].
    pub fn forward(&self, x: &Var, context: &Var) -> TensorResult<Var> {
        self.forward_seen(x, Context::Features(context), |_, _| Ok(()))
    }

    /// The same; `see` gets the queries and keys first.
    fn forward_seen(
        &self,
        x: &Var,
        context: Context,
        see: impl FnOnce(&Tensor, &Tensor) -> TensorResult<()>,
    ) -> TensorResult<Var> {
        let q = self.to_q.forward(x)?;
        let KeysValues { keys, values } = match context {
            Context::Features(features) => self.keys_values(features)?,
            Context::Made(made) => made.clone(),
        };
        see(q.value(), keys.value())?;
        self.to_out.forward(&match self.upcast {
            true => ops::attention_upcast(&q, &keys, &values, self.heads)?,
            false => ops::attention(&q, &keys, &values, self.heads, false)?,
        })
    }

    fn keys_values(&self, context: &Var) -> TensorResult<KeysValues> {
        let (mut keys, mut values) = (self.to_k.forward(context)?, self.to_v.forward(context)?);
        if self.detach_first {
            keys = ops::detach_first_token(&keys)?;
            values = ops::detach_first_token(&values)?;
        }
        Ok(KeysValues { keys, values })
    }
}

/// The keys and values that an attention makes of its context.
#[derive(Clone)]
pub struct KeysValues {
    keys: Var,
    values: Var,
}

/// What a cross attention attends to.
#[derive(Clone, Copy)]
pub enum Context<'a> {
    /// Features of a text [batch, length, width].
    Features(&'a Var),
    /// What it has made of them before.
    Made(&'a KeysValues),
}

/// A cross attention of a forward pass: the places of a map attend to the text.
pub struct CrossAttention<'a> {
    queries: &'a Tensor,
    keys: &'a Tensor,
    attention: &'a Attention,
    /// Of the map.
    pub height: usize,
    /// Of the map.
    pub width: usize,
}

impl CrossAttention<'_> {
    /// How much each place attends to each token, in the mean over heads, for the batch from its element
    /// `first` on: [batch − first, height · width, tokens], f32. Attention itself never holds all of it
    /// at once, so it is computed for whoever asks.
    pub fn probabilities(&self, first: usize) -> TensorResult<Tensor> {
        let wanted = |x: &Tensor| x.narrow(0, first, x.dim(0)?.saturating_sub(first));
        let (queries, keys) = (wanted(self.queries)?, wanted(self.keys)?);
        let Attention { heads, upcast, .. } = *self.attention;
        ops::attention_probabilities(&queries, &keys, heads, upcast)
    }
}

/// Sees each cross attention of a forward pass, in order.
pub type OnCrossAttention<'a> = &'a dyn Fn(&CrossAttention) -> TensorResult<()>;

/// diffusers' `Transformer2DModel` with one `BasicTransformerBlock`: self attention, cross attention
/// to the text, feed forward.
pub struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Projection,
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
    proj_out: Projection,
}

/// The same map of features, stored as a 1×1 convolution in SD 1.x and as a matrix in SD 2.x.
enum Projection {
    Conv(Conv2d),
    Linear(Linear),
}

impl Projection {
    fn new(b: &Builder, channels: usize, linear: bool) -> Result<Self> {
        Ok(if linear {
            Projection::Linear(Linear::new(b, channels, channels)?)
        } else {
            Projection::Conv(Conv2d::pointwise(b, channels, channels)?)
        })
    }

    fn to_tokens(&self, map: &Var) -> TensorResult<Var> {
        match self {
            Projection::Conv(conv) => ops::map_to_tokens(&conv.forward(map)?),
            Projection::Linear(linear) => linear.forward(&ops::map_to_tokens(map)?),
        }
    }

    fn to_map(&self, tokens: &Var, height: usize, width: usize) -> TensorResult<Var> {
        match self {
            Projection::Conv(conv) => conv.forward(&ops::tokens_to_map(tokens, height, width)?),
            Projection::Linear(linear) => {
                ops::tokens_to_map(&linear.forward(tokens)?, height, width)
            }
        }
    }
}

/// What all transformers of a UNet share.
#[derive(Clone, Copy)]
pub struct TransformerStyle {
    /// Groups of the group norm.
    pub groups: usize,
    /// Whether the projections are stored as matrices.
    pub linear_projection: bool,
    /// Whether scores of attention are f32 in half precision, too.
    pub upcast_attention: bool,
}

impl SpatialTransformer {
    /// On maps of `channels`, with `heads` heads, attending to text of `context` features.
    pub fn new(
        b: &Builder,
        channels: usize,
        context: usize,
        heads: usize,
        style: TransformerStyle,
    ) -> Result<Self> {
        let block = b.at("transformer_blocks.0");
        let upcast = style.upcast_attention;
        let norm = |name| LayerNorm::new(&block.at(name), channels, 1e-5);
        Ok(SpatialTransformer {
            norm: GroupNorm::new(&b.at("norm"), style.groups, channels, 1e-6)?,
            proj_in: Projection::new(&b.at("proj_in"), channels, style.linear_projection)?,
            norm1: norm("norm1")?,
            attn1: Attention::new(&block.at("attn1"), channels, channels, heads, upcast)?,
            norm2: norm("norm2")?,
            attn2: Attention::new(&block.at("attn2"), channels, context, heads, upcast)?,
            norm3: norm("norm3")?,
            ff_in: Linear::new(&block.at("ff.net.0.proj"), channels, 8 * channels)?,
            ff_out: Linear::new(&block.at("ff.net.2"), 4 * channels, channels)?,
            proj_out: Projection::new(&b.at("proj_out"), channels, style.linear_projection)?,
        })
    }

    /// Whether training leaves the key and value of the text's first token out of the gradient.
    pub fn set_detach_start_of_text(&mut self, on: bool) {
        self.attn2.detach_first = on;
    }

    /// What the cross attention makes of a text [batch, length, context].
    pub fn keys_values(&self, text: &Var) -> TensorResult<KeysValues> {
        self.attn2.keys_values(text)
    }

    /// `map` and the text → map of the same shape.
    pub fn forward(
        &self,
        map: &Var,
        text: Context,
        on_cross_attention: Option<OnCrossAttention>,
    ) -> TensorResult<Var> {
        let (_, _, height, width) = ops::map_size(map)?;
        let x = self.proj_in.to_tokens(&self.norm.forward(map)?)?;
        let h = self.norm1.forward(&x)?;
        let x = ops::add(&x, &self.attn1.forward(&h, &h)?)?;
        let see = |queries: &Tensor, keys: &Tensor| match on_cross_attention {
            Some(see) => {
                see(&CrossAttention { queries, keys, attention: &self.attn2, height, width })
            }
            None => Ok(()),
        };
        let x = ops::add(&x, &self.attn2.forward_seen(&self.norm2.forward(&x)?, text, see)?)?;
        let h = ops::geglu(&self.ff_in.forward(&self.norm3.forward(&x)?)?)?;
        let x = ops::add(&x, &self.ff_out.forward(&h)?)?;
        ops::add(map, &self.proj_out.to_map(&x, height, width)?)
    }
}
