//! Custom Diffusion as diffusers has it, and our own folder, which is that as far as diffusers has names:
//!
//! | file | holds |
//! |---|---|
//! | `pytorch_custom_diffusion_weights.safetensors` | of cross attention keys and values, and queries and outputs where they were trained, too (`freeze_model = crossattn`): `….attn2.processor.to_k_custom_diffusion.weight`; `unet.load_attn_procs` reads it (diffusers 0.35 uses what it read only if called with `_pipeline=pipe`) |
//! | `unet.safetensors` | where other weights of the UNet changed: all that did, under diffusers' names |
//! | `text_encoder.safetensors`, `vae.safetensors` | those of the other models |
//! | `compressed.safetensors` | the factors of changes, `unet.….to_k.weight.u` and `.v`, as the authors' code names them |
//! | `<new1>.safetensors` | a modifier token: see `textual_inversion.rs` |

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};

use super::{File, Reader, Written, authors, textual_inversion};
use crate::methods::Delta;
use crate::{Error, Result};

pub(super) const READER: Reader = Reader {
    name: "diffusers",
    knows: |key| {
        parameter_name(key).is_some() || key.ends_with(".processor") || model_of(key).is_some()
    },
    read,
};

const WEIGHTS: &str = "pytorch_custom_diffusion_weights";
const COMPRESSED: &str = "compressed";
/// How names of parameters start, of each model.
const MODELS: [(&str, &[&str]); 3] = [
    (
        "unet",
        &[
            "down_blocks.",
            "up_blocks.",
            "mid_block.",
            "conv_in.",
            "conv_out.",
            "conv_norm_out.",
            "time_embedding.",
        ],
    ),
    ("text_encoder", &["text_model."]),
    ("vae", &["encoder.", "decoder.", "quant_conv.", "post_quant_conv."]),
];
/// What a processor holds: its own name and the layer's.
const PROJECTIONS: [(&str, &str); 5] = [
    ("to_k_custom_diffusion.weight", "to_k.weight"),
    ("to_v_custom_diffusion.weight", "to_v.weight"),
    ("to_q_custom_diffusion.weight", "to_q.weight"),
    ("to_out_custom_diffusion.0.weight", "to_out.0.weight"),
    ("to_out_custom_diffusion.0.bias", "to_out.0.bias"),
];

fn read(file: &File) -> Result<Delta> {
    let mut tensors = BTreeMap::new();
    for &key in &file.keys {
        let tensor = file.tensor(key)?;
        if let Some(name) = parameter_name(key) {
            // older versions gave keys and values a bias of zeros, which Stable Diffusion has not
            let bias =
                ["to_k.bias", "to_v.bias", "to_q.bias"].iter().any(|end| name.ends_with(end));
            if !(bias && tensor.abs()?.sum_all()?.to_scalar::<f32>()? == 0.0) {
                tensors.insert(format!("unet.{name}"), tensor);
            }
        } else if let Some(model) = model_of(key) {
            tensors.insert(format!("{model}.{key}"), tensor);
        } else {
            return Err(file.bad(format!("`{key}` is no weight of a Custom Diffusion")));
        }
    }
    Ok(Delta::new(tensors, vec![]))
}

/// The files of our own folder.
pub(super) fn own_folder(delta: &Delta) -> Result<Vec<Written>> {
    let mut files = vec![];
    for (model, _) in MODELS {
        let own: Vec<(String, Tensor)> = delta
            .tensors
            .iter()
            .filter_map(|(name, t)| {
                let name = name.strip_prefix(model)?.strip_prefix('.')?;
                Some((name.to_owned(), t.clone()))
            })
            .collect();
        if own.is_empty() {
            continue;
        }
        let narrow = |(name, _): &(String, Tensor)| {
            processor_name(name).is_some_and(|n| n.contains("to_k") || n.contains("to_v"))
        };
        match model == "unet" && own.iter().all(narrow) {
            true => files.push(Written::safetensors(WEIGHTS, processors(own)?)),
            false => files.push(Written::safetensors(model, own)),
        }
    }
    if !delta.factors.is_empty() {
        files.push(Written::safetensors(COMPRESSED, authors::named_factors(delta).collect()));
    }
    files.extend(textual_inversion::files(delta)?);
    Ok(files)
}

/// Whether diffusers' Custom Diffusion has a place for a weight.
pub(super) fn takes(name: &str) -> bool {
    name.strip_prefix("unet.").is_some_and(|name| processor_name(name).is_some())
}

/// The file that `load_attn_procs` reads.
///
/// # Errors
/// [`Error::Input`] for a layer of which it wants more than changed.
pub(super) fn write(delta: &Delta) -> Result<Vec<Written>> {
    if delta.tensors.is_empty() {
        return Ok(vec![]);
    }
    let own = delta.tensors.iter().map(|(name, tensor)| {
        (name.strip_prefix("unet.").unwrap_or(name).to_owned(), tensor.clone())
    });
    let own: Vec<(String, Tensor)> = own.collect();
    let names: BTreeSet<&str> = own.iter().map(|(name, _)| name.as_str()).collect();
    let outer = names.iter().any(|n| n.contains("attn2.to_q.") || n.contains("attn2.to_out."));
    for layer in names.iter().filter_map(|name| Some(name.split_once(".attn2.")?.0)) {
        for (_, part) in &PROJECTIONS[..if outer { 5 } else { 2 }] {
            let wanted = format!("{layer}.attn2.{part}");
            if !names.contains(wanted.as_str()) {
                return Err(Error::input_hint(
                    format!("diffusers reads whole layers, and `unet.{wanted}` did not change"),
                    "--to cdbench or --to authors writes what changed alone",
                ));
            }
        }
    }
    Ok(vec![Written::safetensors(WEIGHTS, processors(own)?)])
}

/// Weights as diffusers has them. An entry of no numbers stands for each self attention, which keeps its
/// weights: `load_attn_procs` wants to hear of every attention.
fn processors(own: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>> {
    let mut all = vec![];
    for (name, tensor) in own {
        let name = processor_name(&name).expect("checked");
        if name.ends_with("to_k_custom_diffusion.weight") {
            let own = name.split(".processor.").next().unwrap_or_default();
            let other = format!("{}.processor", own.replace("attn2", "attn1"));
            all.push((other, Tensor::zeros(0, DType::F32, &Device::Cpu)?));
        }
        all.push((name, tensor));
    }
    Ok(all)
}

/// `….attn2.to_k.weight` as diffusers' Custom Diffusion calls it.
fn processor_name(name: &str) -> Option<String> {
    let (layer, part) = name.split_once(".attn2.")?;
    let (theirs, _) = PROJECTIONS.iter().find(|(_, own)| *own == part)?;
    Some(format!("{layer}.attn2.processor.{theirs}"))
}

/// The UNet's name of what diffusers' Custom Diffusion calls `key`.
fn parameter_name(key: &str) -> Option<String> {
    let (layer, rest) = key.split_once(".processor.")?;
    rest.contains("_custom_diffusion")
        .then(|| format!("{layer}.{}", rest.replace("_custom_diffusion", "")))
}

/// The model that a parameter of this bare name is of.
fn model_of(key: &str) -> Option<&'static str> {
    let of = |(_, starts): &&(&str, &[&str])| starts.iter().any(|start| key.starts_with(start));
    MODELS.iter().find(of).map(|(model, _)| *model)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: &str = "mid_block.attentions.0.transformer_blocks.0";

    #[test]
    fn names_are_those_of_diffusers() {
        for (theirs, own) in PROJECTIONS {
            let own = format!("{LAYER}.attn2.{own}");
            let theirs = format!("{LAYER}.attn2.processor.{theirs}");
            assert_eq!(processor_name(&own).as_ref(), Some(&theirs));
            assert_eq!(parameter_name(&theirs), Some(own));
        }
        assert_eq!(processor_name(&format!("{LAYER}.attn1.to_k.weight")), None);
        assert_eq!(model_of("encoder.conv_in.weight"), Some("vae"));
        assert_eq!(model_of("text_model.encoder.layers.0.mlp.fc1.bias"), Some("text_encoder"));
        assert_eq!(model_of("<new1>"), None);
    }
}
