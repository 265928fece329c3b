//! The vision transformers of transformers' `ViTModel` (DINO's layout too) and `Dinov2Model` as graphs:
//! the class token behind the last norm.

use super::graph::{Attribute::*, Dim, Graph};
use super::proto::FLOAT;
use super::towers::{BATCH, Layers, Names, PIXELS, encoder, first, norm};
use crate::Result;
use crate::clip::interpolate;
use crate::clip::vit_embedder::{VitFacts, VitKind};
use crate::diffusion::weights::Weights;

/// The name of the output.
pub const FEATURES: &str = "features";

const VIT: Names = Names {
    layers: "encoder.layer",
    norms: ["layernorm_before", "layernorm_after"],
    query_key_value: [
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
    ],
    out: "attention.output.dense",
    inner: ["intermediate.dense", "output.dense"],
    scales: None,
};

const DINOV2: Names = Names {
    norms: ["norm1", "norm2"],
    inner: ["mlp.fc1", "mlp.fc2"],
    scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
    ..VIT
};

/// What is added to the rows in front of the first layer [patches + 1, width]: the class token with its
/// position, then the positions of the patches, interpolated as transformers does it where pictures of
/// another size than the model was trained on are taken.
pub(super) fn rows(config: &VitFacts, side: usize, weights: &Weights) -> Result<Vec<f32>> {
    let width = config.hidden_size;
    let (own, grid) = (config.image_size / config.patch_size, side / config.patch_size);
    let values = |key: &str, shape: &[usize]| -> Result<Vec<f32>> {
        Ok(weights.tensor(key, shape)?.flatten_all()?.to_vec1()?)
    };
    let class = values("embeddings.cls_token", &[1, 1, width])?;
    let positions = values("embeddings.position_embeddings", &[1, own * own + 1, width])?;
    let (of_class, of_patches) = positions.split_at(width);
    let mut rows: Vec<f32> = class.iter().zip(of_class).map(|(c, p)| c + p).collect();
    match grid == own {
        true => rows.extend(of_patches),
        false => rows.extend(interpolate::square(of_patches, own, grid, width)),
    }
    Ok(rows)
}

/// `pixel_values` [batch, 3, side, side] → `features` [batch, width]. `rows` is what [`rows`] gave.
pub(super) fn tower(config: &VitFacts, side: usize, rows: &[f32]) -> Graph {
    let (width, patch) = (config.hidden_size, config.patch_size);
    let patches = (side / patch).pow(2);
    let layers = Layers {
        count: config.num_hidden_layers,
        width,
        inner: config.inner(),
        heads: config.num_attention_heads,
        act: config.hidden_act,
        eps: config.layer_norm_eps,
        bias: config.qkv_bias,
        names: match config.kind() {
            VitKind::Vit => VIT,
            VitKind::Dinov2 => DINOV2,
        },
    };
    let mut g = Graph::new("vision transformer");
    let x = g.input(PIXELS, FLOAT, &[BATCH, Dim::Is(3), Dim::Is(side), Dim::Is(side)]);
    let key = "embeddings.patch_embeddings.projection";
    let weight = g.weight(&format!("{key}.weight"), &[width, 3, patch, patch]);
    let bias = g.weight(&format!("{key}.bias"), &[width]);
    let size = [patch as i64; 2];
    let attributes = [("kernel_shape", Ints(&size)), ("strides", Ints(&size))];
    let map = g.node("Conv", &[&x, &weight, &bias], &attributes);
    let shape = g.ints(&[0, width as i64, patches as i64], &[3]);
    let x = g.node("Reshape", &[&map, &shape], &[]);
    let x = g.node("Transpose", &[&x], &[("perm", Ints(&[0, 2, 1]))]);
    // an empty row before the patches, for the class token
    let pads = g.ints(&[0, 1, 0, 0, 0, 0], &[6]);
    let x = g.node("Pad", &[&x, &pads], &[]);
    let rows = g.floats(rows, &[patches + 1, width]);
    let x = g.node("Add", &[&x, &rows], &[]);
    let x = encoder(&mut g, "", x, &layers, patches + 1, None);
    // the norm is of each row by itself: that of the class token is enough
    let x = first(&mut g, &x);
    let x = norm(&mut g, "layernorm", &x, width, layers.eps);
    g.output(FEATURES, &x, &[BATCH, Dim::Is(width)]);
    g
}
