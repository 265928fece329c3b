//! The original code's names of modules and tensors, and diffusers' for them.

use std::collections::BTreeMap;

use crate::diffusion::config::{UNetConfig, VaeConfig};
use crate::diffusion::weights::Piece;

/// Modules of a file, and what diffusers calls them. What is below a module has the same name in both.
#[derive(Default)]
pub(super) struct Modules(BTreeMap<String, String>);

impl Modules {
    /// What diffusers calls the tensor `key`.
    pub(super) fn rename(&self, key: &str) -> Option<String> {
        key.rmatch_indices('.').find_map(|(at, _)| {
            let module = self.0.get(&key[..at])?;
            Some(format!("{module}{}", &key[at..]))
        })
    }

    fn add(&mut self, file: impl Into<String>, diffusers: impl Into<String>) {
        self.0.insert(file.into(), diffusers.into());
    }

    /// A residual block of the UNet.
    fn resnet(&mut self, file: &str, diffusers: &str) {
        for (theirs, ours) in [
            ("in_layers.0", "norm1"),
            ("in_layers.2", "conv1"),
            ("emb_layers.1", "time_emb_proj"),
            ("out_layers.0", "norm2"),
            ("out_layers.3", "conv2"),
            ("skip_connection", "conv_shortcut"),
        ] {
            self.add(format!("{file}.{theirs}"), format!("{diffusers}.{ours}"));
        }
    }

    /// A residual block of the autoencoder.
    fn vae_resnet(&mut self, file: &str, diffusers: &str) {
        for same in ["norm1", "conv1", "norm2", "conv2"] {
            self.add(format!("{file}.{same}"), format!("{diffusers}.{same}"));
        }
        self.add(format!("{file}.nin_shortcut"), format!("{diffusers}.conv_shortcut"));
    }
}

/// The UNet's, below `model.diffusion_model.`: one list of blocks down and one up, which number layers and
/// changes of resolution in one row.
pub(super) fn unet(config: &UNetConfig) -> Modules {
    let mut modules = Modules::default();
    for (file, diffusers) in [
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("input_blocks.0.0", "conv_in"),
        ("middle_block.1", "mid_block.attentions.0"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
    ] {
        modules.add(file, diffusers);
    }
    modules.resnet("middle_block.0", "mid_block.resnets.0");
    modules.resnet("middle_block.2", "mid_block.resnets.1");

    let blocks = config.blocks();
    let mut n = 1;
    for i in 0..blocks {
        let to = format!("down_blocks.{i}");
        for j in 0..config.layers_per_block.at(i) {
            modules.resnet(&format!("input_blocks.{n}.0"), &format!("{to}.resnets.{j}"));
            if config.down_attends(i) {
                modules.add(format!("input_blocks.{n}.1"), format!("{to}.attentions.{j}"));
            }
            n += 1;
        }
        if i + 1 < blocks {
            modules.add(format!("input_blocks.{n}.0.op"), format!("{to}.downsamplers.0.conv"));
            n += 1;
        }
    }
    let mut n = 0;
    for (k, i) in (0..blocks).rev().enumerate() {
        let to = format!("up_blocks.{k}");
        let layers = config.layers_per_block.at(i) + 1;
        for j in 0..layers {
            let from = format!("output_blocks.{n}");
            modules.resnet(&format!("{from}.0"), &format!("{to}.resnets.{j}"));
            let mut next = 1;
            if config.up_attends(i) {
                modules.add(format!("{from}.1"), format!("{to}.attentions.{j}"));
                next = 2;
            }
            if j + 1 == layers && i > 0 {
                modules.add(format!("{from}.{next}.conv"), format!("{to}.upsamplers.0.conv"));
            }
            n += 1;
        }
    }
    modules
}

/// The autoencoder's, below `first_stage_model.`. Both ways number resolutions from the image's.
pub(super) fn vae(config: &VaeConfig) -> Modules {
    let mut modules = Modules::default();
    for same in ["quant_conv", "post_quant_conv"] {
        modules.add(same, same);
    }
    let blocks = config.block_out_channels.len();
    for coder in ["encoder", "decoder"] {
        for (file, diffusers) in [
            ("conv_in", "conv_in"),
            ("conv_out", "conv_out"),
            ("norm_out", "conv_norm_out"),
            ("mid.attn_1.norm", "mid_block.attentions.0.group_norm"),
            ("mid.attn_1.q", "mid_block.attentions.0.to_q"),
            ("mid.attn_1.k", "mid_block.attentions.0.to_k"),
            ("mid.attn_1.v", "mid_block.attentions.0.to_v"),
            ("mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0"),
        ] {
            modules.add(format!("{coder}.{file}"), format!("{coder}.{diffusers}"));
        }
        for (file, diffusers) in [("block_1", "resnets.0"), ("block_2", "resnets.1")] {
            modules.vae_resnet(
                &format!("{coder}.mid.{file}"),
                &format!("{coder}.mid_block.{diffusers}"),
            );
        }
    }
    for i in 0..blocks {
        let down = (format!("encoder.down.{i}"), format!("encoder.down_blocks.{i}"));
        let up = (format!("decoder.up.{}", blocks - 1 - i), format!("decoder.up_blocks.{i}"));
        for ((file, diffusers), layers) in
            [(&down, config.layers_per_block), (&up, config.layers_per_block + 1)]
        {
            for j in 0..layers {
                modules
                    .vae_resnet(&format!("{file}.block.{j}"), &format!("{diffusers}.resnets.{j}"));
            }
        }
        modules
            .add(format!("{}.downsample.conv", down.0), format!("{}.downsamplers.0.conv", down.1));
        modules.add(format!("{}.upsample.conv", up.0), format!("{}.upsamplers.0.conv", up.1));
    }
    modules
}

/// What the tensor `key`, below `cond_stage_model.`, is in a text encoder of so many layers: in SD 1.x
/// transformers' CLIP, of which older files leave out a prefix, in SD 2.x OpenCLIP. Nothing if it plays no
/// role, `None` if it is not known.
pub(super) fn text(key: &str, layers: usize) -> Option<Vec<(String, Piece)>> {
    // what only a comparison with pictures takes
    const HEADS: [&str; 4] =
        ["text_projection", "text_projection.weight", "logit_scale", "attn_mask"];
    let whole = |name: String| Some(vec![(name, Piece::Whole)]);
    let own = ["transformer.text_model.", "transformer.", "model."];
    if own.iter().chain(&[""]).any(|p| key.strip_prefix(p).is_some_and(|k| HEADS.contains(&k))) {
        return Some(vec![]);
    }
    let Some(key) = key.strip_prefix("model.") else {
        let own = key.strip_prefix("transformer.")?;
        return whole(format!("text_model.{}", own.strip_prefix("text_model.").unwrap_or(own)));
    };
    let plain = match key {
        "token_embedding.weight" => Some("embeddings.token_embedding.weight"),
        "positional_embedding" => Some("embeddings.position_embedding.weight"),
        "ln_final.weight" => Some("final_layer_norm.weight"),
        "ln_final.bias" => Some("final_layer_norm.bias"),
        _ => None,
    };
    if let Some(name) = plain {
        return whole(format!("text_model.{name}"));
    }
    let (block, name) = key.strip_prefix("transformer.resblocks.")?.split_once('.')?;
    let block: usize = block.parse().ok()?;
    if block == layers {
        // SD 2.x takes the states before the last block
        return Some(vec![]);
    }
    let layer = format!("text_model.encoder.layers.{block}");
    if let Some(kind) = name.strip_prefix("attn.in_proj_") {
        let stacked = ["q_proj", "k_proj", "v_proj"].iter().enumerate().map(|(index, proj)| {
            let piece = Piece::Stacked { index, of: 3 };
            (format!("{layer}.self_attn.{proj}.{kind}"), piece)
        });
        return Some(stacked.collect());
    }
    let (module, kind) = name.rsplit_once('.')?;
    let module = match module {
        "ln_1" => "layer_norm1",
        "ln_2" => "layer_norm2",
        "attn.out_proj" => "self_attn.out_proj",
        "mlp.c_fc" => "mlp.fc1",
        "mlp.c_proj" => "mlp.fc2",
        _ => return None,
    };
    whole(format!("{layer}.{module}.{kind}"))
}
