//! LoRA as kohya's scripts save it: `lora_unet_…_to_q.lora_down.weight`, `.lora_up.weight`, `.alpha`, of the
//! text encoder `lora_te_…`. A module's name has `_` for its dots, and some tools go by CompVis's blocks.

use candle_core::{Device, Tensor};

use super::lora::{self, Part, Parts, fold, halves, usual_scale};
use super::{File, Reader, Written};
use crate::Result;
use crate::diffusion::compvis_names::{LAYERS, attention_from_compvis};
use crate::methods::Delta;

pub(super) const READER: Reader = Reader {
    name: "a LoRA of kohya's scripts",
    knows: |key| MODELS.iter().any(|(start, _)| key.starts_with(start)),
    read,
};

const MODELS: [(&str, &str); 2] = [("lora_unet_", "unet."), ("lora_te_", "text_encoder.")];
const PARTS: [(&str, Part); 3] =
    [("lora_up.weight", Part::Up), ("lora_down.weight", Part::Down), ("alpha", Part::Alpha)];

/// The parts of modules' names that have a `_` of their own.
const WORDS: [&str; 26] = [
    "down_blocks",
    "up_blocks",
    "mid_block",
    "input_blocks",
    "output_blocks",
    "middle_block",
    "transformer_blocks",
    "proj_in",
    "proj_out",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
    "time_embedding",
    "time_emb_proj",
    "linear_1",
    "linear_2",
    "conv_in",
    "conv_out",
    "conv_shortcut",
    "text_model",
    "self_attn",
    "q_proj",
    "k_proj",
    "v_proj",
    "out_proj",
];

/// A module's name with its dots.
fn dotted(module: &str) -> String {
    let mut parts = vec![];
    let mut rest = module;
    while !rest.is_empty() {
        let word = WORDS.iter().find(|word| {
            rest.strip_prefix(**word).is_some_and(|next| next.is_empty() || next.starts_with('_'))
        });
        let end = word.map_or_else(|| rest.find('_').unwrap_or(rest.len()), |word| word.len());
        parts.push(&rest[..end]);
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    parts.join(".")
}

/// The weight that a key's tensor changes, and which part of the LoRA it is.
fn place(key: &str) -> Option<(String, Part)> {
    let (model, module) =
        MODELS.iter().find_map(|(start, model)| Some((*model, key.strip_prefix(start)?)))?;
    let (module, part) = module.split_once('.')?;
    let (_, part) = PARTS.iter().find(|(name, _)| *name == part)?;
    let name = format!("{}.weight", dotted(module));
    let name = attention_from_compvis(&name, LAYERS).unwrap_or(name);
    Some((format!("{model}{name}"), *part))
}

fn read(file: &File) -> Result<Delta> {
    let mut parts = Parts::new();
    for &key in &file.keys {
        let place = place(key);
        let (name, part) =
            place.ok_or_else(|| file.bad(format!("`{key}` is no part of a LoRA")))?;
        if let Some(other) = parts.entry(name).or_default().insert(part, key) {
            return Err(file.bad(format!("`{key}` and `{other}` are the same half of a LoRA")));
        }
    }
    fold(file, parts, &|_, rank, alpha| usual_scale(rank, alpha))
}

/// One file, whose scale is 1.
pub(super) fn write(delta: &Delta) -> Result<Vec<Written>> {
    let mut all = vec![];
    for (name, factors) in &delta.factors {
        let (start, model) = MODELS[usize::from(lora::of_text(name))];
        let module = name.strip_prefix(model).and_then(|n| n.strip_suffix(".weight"));
        let module = format!("{start}{}", module.unwrap_or(name).replace('.', "_"));
        for (half, tensor) in ["lora_up", "lora_down"].into_iter().zip(halves(factors)?) {
            all.push((format!("{module}.{half}.weight"), tensor));
        }
        let alpha = Tensor::new(factors.rank() as f32, &Device::Cpu)?;
        all.push((format!("{module}.alpha"), alpha));
    }
    Ok(vec![Written::safetensors("lora", all)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_found_again() {
        for name in [
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
            "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0",
            "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
            "mid_block.attentions.0.proj_in",
            "down_blocks.1.resnets.0.conv_shortcut",
            "down_blocks.1.resnets.1.time_emb_proj",
            "down_blocks.0.downsamplers.0.conv",
            "time_embedding.linear_1",
            "conv_in",
            "text_model.encoder.layers.11.self_attn.out_proj",
            "text_model.encoder.layers.0.mlp.fc2",
            "input_blocks.4.1.transformer_blocks.0.attn2.to_k",
        ] {
            assert_eq!(dotted(&name.replace('.', "_")), name);
        }
    }

    #[test]
    fn blocks_of_compvis_are_those_of_diffusers() {
        let key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.alpha";
        let name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight";
        assert_eq!(place(key), Some((name.to_owned(), Part::Alpha)));
        assert_eq!(place("lora_te_text_model.lora_left.weight"), None);
    }
}
