//! The two towers of transformers' `CLIPModel` as graphs.
//!
//! Batch and text length are open, everything else is fixed. What depends on the length alone comes in
//! from outside (positions, causal mask), and so does the place of the end token: the graphs then need
//! no arithmetic on shapes, which is what runtimes differ in.

use super::graph::{Attribute::*, Dim, Graph, Value};
use super::proto::{FLOAT, INT64};
use crate::clip::ClipConfig;
use crate::diffusion::config::HiddenAct;

/// Names of the graphs' inputs and outputs.
pub const PIXELS: &str = "pixel_values";
pub const IMAGE_EMBEDS: &str = "image_embeds";
pub const IDS: &str = "input_ids";
pub const POSITIONS: &str = "position_ids";
pub const MASK: &str = "causal_mask";
pub const POOL: &str = "pool";
pub const TEXT_EMBEDS: &str = "text_embeds";

pub(super) const BATCH: Dim = Dim::Any("batch");
const LENGTH: Dim = Dim::Any("length");

/// The transformer layers of a tower.
pub(super) struct Layers {
    pub(super) count: usize,
    pub(super) width: usize,
    pub(super) inner: usize,
    pub(super) heads: usize,
    pub(super) act: HiddenAct,
    pub(super) eps: f64,
    /// Queries, keys and values have one.
    pub(super) bias: bool,
    pub(super) names: Names,
}

/// What a checkpoint calls the parts of its layers.
pub(super) struct Names {
    /// The list of layers.
    pub(super) layers: &'static str,
    pub(super) norms: [&'static str; 2],
    pub(super) query_key_value: [&'static str; 3],
    pub(super) out: &'static str,
    pub(super) inner: [&'static str; 2],
    /// What the outcome of the attention and of the inner layers is multiplied with.
    pub(super) scales: Option<[&'static str; 2]>,
}

const CLIP: Names = Names {
    layers: "encoder.layers",
    norms: ["layer_norm1", "layer_norm2"],
    query_key_value: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    out: "self_attn.out_proj",
    inner: ["mlp.fc1", "mlp.fc2"],
    scales: None,
};

/// `pixel_values` [batch, 3, side, side] → `image_embeds` [batch, projected].
pub(super) fn image(config: &ClipConfig) -> Graph {
    let vision = &config.vision_config;
    let layers = Layers {
        count: vision.num_hidden_layers,
        width: vision.hidden_size,
        inner: vision.intermediate_size,
        heads: vision.num_attention_heads,
        act: vision.hidden_act,
        eps: vision.layer_norm_eps,
        bias: true,
        names: CLIP,
    };
    let (width, patch, patches) = (layers.width, vision.patch_size, vision.patches());
    let side = Dim::Is(vision.image_size);

    let mut g = Graph::new("CLIP image tower");
    let x = g.input(PIXELS, FLOAT, &[BATCH, Dim::Is(3), Dim::Is(vision.image_size), side]);
    let weight =
        g.weight("vision_model.embeddings.patch_embedding.weight", &[width, 3, patch, patch]);
    let size = [patch as i64; 2];
    let map =
        g.node("Conv", &[&x, &weight], &[("kernel_shape", Ints(&size)), ("strides", Ints(&size))]);
    let shape = g.ints(&[0, width as i64, patches as i64], &[3]);
    let x = g.node("Reshape", &[&map, &shape], &[]);
    let x = g.node("Transpose", &[&x], &[("perm", Ints(&[0, 2, 1]))]);
    // an empty row before the patches, where the first position gets the class embedding
    let pads = g.ints(&[0, 1, 0, 0, 0, 0], &[6]);
    let x = g.node("Pad", &[&x, &pads], &[]);
    let class = g.weight("vision_model.embeddings.class_embedding", &[width]);
    let shape = g.ints(&[1, width as i64], &[2]);
    let class = g.node("Reshape", &[&class, &shape], &[]);
    let pads = g.ints(&[0, 0, patches as i64, 0], &[4]);
    let class = g.node("Pad", &[&class, &pads], &[]);
    let positions =
        g.weight("vision_model.embeddings.position_embedding.weight", &[patches + 1, width]);
    let added = g.node("Add", &[&positions, &class], &[]);
    let x = g.node("Add", &[&x, &added], &[]);

    // transformers' spelling
    let x = norm(&mut g, "vision_model.pre_layrnorm", &x, width, layers.eps);
    let x = encoder(&mut g, "vision_model.", x, &layers, patches + 1, None);
    let x = first(&mut g, &x);
    let x = norm(&mut g, "vision_model.post_layernorm", &x, width, layers.eps);
    let x = g.linear("visual_projection", &x, [width, config.projection_dim], false, 1.0);
    g.output(IMAGE_EMBEDS, &x, &[BATCH, Dim::Is(config.projection_dim)]);
    g
}

/// `input_ids` [batch, length], `position_ids` [length], `causal_mask` [length, length] (added to the
/// scores), `pool` [batch, 1, length] (1 at the end token, else 0) → `text_embeds` [batch, projected].
pub(super) fn text(config: &ClipConfig) -> Graph {
    let text = &config.text_config;
    let layers = Layers {
        count: text.num_hidden_layers,
        width: text.hidden_size,
        inner: text.intermediate_size,
        heads: text.num_attention_heads,
        act: text.hidden_act,
        eps: text.layer_norm_eps,
        bias: true,
        names: CLIP,
    };
    let width = layers.width;

    let mut g = Graph::new("CLIP text tower");
    let ids = g.input(IDS, INT64, &[BATCH, LENGTH]);
    let positions = g.input(POSITIONS, INT64, &[LENGTH]);
    let mask = g.input(MASK, FLOAT, &[LENGTH, LENGTH]);
    let pool = g.input(POOL, FLOAT, &[BATCH, Dim::Is(1), LENGTH]);
    let table = g.weight("text_model.embeddings.token_embedding.weight", &[text.vocab_size, width]);
    let tokens = g.node("Gather", &[&table, &ids], &[]);
    let rows = [text.max_position_embeddings, width];
    let table = g.weight("text_model.embeddings.position_embedding.weight", &rows);
    let positions = g.node("Gather", &[&table, &positions], &[]);
    let x = g.node("Add", &[&tokens, &positions], &[]);
    let x = encoder(&mut g, "text_model.", x, &layers, 0, Some(&mask));
    // a product with a row of one 1 takes one state out of each text
    let x = g.node("MatMul", &[&pool, &x], &[]);
    let x = first(&mut g, &x);
    let x = norm(&mut g, "text_model.final_layer_norm", &x, width, layers.eps);
    let x = g.linear("text_projection", &x, [width, config.projection_dim], false, 1.0);
    g.output(TEXT_EMBEDS, &x, &[BATCH, Dim::Is(config.projection_dim)]);
    g
}

/// The first of a sequence: [batch, length, width] → [batch, width].
pub(super) fn first(g: &mut Graph, x: &Value) -> Value {
    let zero = g.ints(&[0], &[]);
    g.node("Gather", &[x, &zero], &[("axis", Int(1))])
}

pub(super) fn norm(g: &mut Graph, key: &str, x: &Value, width: usize, eps: f64) -> Value {
    let scale = g.weight(&format!("{key}.weight"), &[width]);
    let bias = g.weight(&format!("{key}.bias"), &[width]);
    let attributes = [("axis", Int(-1)), ("epsilon", Float(eps as f32))];
    g.node("LayerNormalization", &[x, &scale, &bias], &attributes)
}

/// The transformer layers: [batch, length, width] → the same. Length 0 stands for an open one.
pub(super) fn encoder(
    g: &mut Graph,
    prefix: &str,
    mut x: Value,
    layers: &Layers,
    length: usize,
    mask: Option<&Value>,
) -> Value {
    let (width, inner, names) = (layers.width, layers.inner, &layers.names);
    for i in 0..layers.count {
        let key = |part: &str| format!("{prefix}{}.{i}.{part}", names.layers);
        let scaled = |g: &mut Graph, y: Value, which: usize| match names.scales {
            None => y,
            Some(scales) => {
                let scale = g.weight(&key(scales[which]), &[width]);
                g.node("Mul", &[&y, &scale], &[])
            }
        };
        let y = norm(g, &key(names.norms[0]), &x, width, layers.eps);
        let y = attention(g, &key, &y, layers, length, mask);
        let y = scaled(g, y, 0);
        x = g.node("Add", &[&x, &y], &[]);
        let y = norm(g, &key(names.norms[1]), &x, width, layers.eps);
        let y = g.linear(&key(names.inner[0]), &y, [width, inner], true, 1.0);
        let y = activation(g, &y, layers.act);
        let y = g.linear(&key(names.inner[1]), &y, [inner, width], true, 1.0);
        let y = scaled(g, y, 1);
        x = g.node("Add", &[&x, &y], &[]);
    }
    x
}

fn attention(
    g: &mut Graph,
    key: &dyn Fn(&str) -> String,
    x: &Value,
    layers: &Layers,
    length: usize,
    mask: Option<&Value>,
) -> Value {
    let (width, heads) = (layers.width, layers.heads);
    let each = width / heads;
    // 0: as it was
    let shape = g.ints(&[0, length as i64, heads as i64, each as i64], &[4]);
    let mut project = |name: &str, scale: f64, perm: [i64; 4]| {
        let y = g.linear(&key(name), x, [width, width], layers.bias, scale);
        let y = g.node("Reshape", &[&y, &shape], &[]);
        g.node("Transpose", &[&y], &[("perm", Ints(&perm))])
    };
    let [queries, keys, values] = layers.names.query_key_value;
    let q = project(queries, (each as f64).powf(-0.5), [0, 2, 1, 3]);
    let k = project(keys, 1.0, [0, 2, 3, 1]);
    let v = project(values, 1.0, [0, 2, 1, 3]);
    let mut scores = g.node("MatMul", &[&q, &k], &[]);
    if let Some(mask) = mask {
        scores = g.node("Add", &[&scores, mask], &[]);
    }
    let weights = g.node("Softmax", &[&scores], &[("axis", Int(-1))]);
    let y = g.node("MatMul", &[&weights, &v], &[]);
    let y = g.node("Transpose", &[&y], &[("perm", Ints(&[0, 2, 1, 3]))]);
    let shape = g.ints(&[0, length as i64, width as i64], &[3]);
    let y = g.node("Reshape", &[&y, &shape], &[]);
    g.linear(&key(layers.names.out), &y, [width, width], true, 1.0)
}

fn activation(g: &mut Graph, x: &Value, act: HiddenAct) -> Value {
    match act {
        HiddenAct::QuickGelu => {
            let factor = g.floats(&[1.702], &[]);
            let y = g.node("Mul", &[x, &factor], &[]);
            let y = g.node("Sigmoid", &[&y], &[]);
            g.node("Mul", &[x, &y], &[])
        }
        // opset 17 has no Gelu; runtimes know this form of it
        HiddenAct::Gelu => {
            let root = g.floats(&[std::f32::consts::SQRT_2], &[]);
            let y = g.node("Div", &[x, &root], &[]);
            let y = g.node("Erf", &[&y], &[]);
            let one = g.floats(&[1.0], &[]);
            let y = g.node("Add", &[&y, &one], &[]);
            let y = g.node("Mul", &[x, &y], &[]);
            let half = g.floats(&[0.5], &[]);
            g.node("Mul", &[&y, &half], &[])
        }
    }
}
