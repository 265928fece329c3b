//! Files of kinds that this program does not know, told by their keys: to be refused by name, and not by
//! whatever of them comes first that does not fit.

use std::path::Path;

use crate::{Error, Result};

/// Parts of keys of adapters that are not the product of two factors.
const ADAPTERS: [(&str, &str); 7] = [
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    (".hada_", "LoHa"),
    (".lokr_", "LoKr"),
    (".oft_", "OFT"),
    (".lora_mid.", "a LoRA of three factors"),
    (".on_input", "IA³"),
];

/// Parts of keys of other architectures.
const ARCHITECTURES: [(&str, &str); 11] = [
    ("lora_te1_", XL),
    ("lora_te2_", XL),
    ("text_encoder_2.", XL),
    ("add_embedding", XL),
    ("label_emb", XL),
    ("conditioner.embedders.", XL),
    ("lora_te3_", TRANSFORMER),
    ("lora_transformer_", TRANSFORMER),
    ("double_blocks", TRANSFORMER),
    ("joint_blocks", TRANSFORMER),
    ("single_transformer_blocks", TRANSFORMER),
];

const XL: &str = "Stable Diffusion XL";
const TRANSFORMER: &str = "a diffusion transformer (Stable Diffusion 3, FLUX)";
/// What its text encoders give to cross attention.
const XL_WIDTH: usize = 2048;

/// Refuses a file by one of its keys.
///
/// # Errors
/// [`Error::Input`] that says what it is.
pub(super) fn refuse(path: &Path, key: &str, shape: &[usize]) -> Result<()> {
    let of = |table: &[(&str, &'static str)]| {
        table.iter().find(|(part, _)| key.contains(part)).map(|(_, name)| *name)
    };
    let whole = [".diff", ".diff_b"].iter().any(|end| key.ends_with(end));
    if let Some(adapter) = of(&ADAPTERS).or(whole.then_some("LyCORIS of whole differences")) {
        return Err(Error::input_hint(
            format!("{}: `{key}` is of {adapter}", path.display()),
            "LoRA of two factors is read: merge the adapter into a model with the program that made it, or \
             train a plain LoRA",
        ));
    }
    let architecture = of(&ARCHITECTURES)
        .or_else(|| key.starts_with("transformer.").then_some(TRANSFORMER))
        .or_else(|| is_xl(key, shape).then_some(XL));
    match architecture {
        None => Ok(()),
        Some(name) => Err(Error::input_hint(
            format!("{}: `{key}` is of {name}", path.display()),
            "this program knows Stable Diffusion 1.x and 2.x",
        )),
    }
}

/// Whether only SDXL has it: tokens of both its encoders, attentions of several layers, wide keys and values.
fn is_xl(key: &str, shape: &[usize]) -> bool {
    let deep = ["transformer_blocks.", "transformer_blocks_"].iter().any(|name| {
        let layer = key.split_once(name).map(|(_, rest)| rest);
        layer.is_some_and(|rest| {
            !rest.starts_with('0') && rest.starts_with(|c: char| c.is_ascii_digit())
        })
    });
    let cross = key.contains("attn2") && (key.contains("to_k") || key.contains("to_v"));
    ["clip_l", "clip_g"].contains(&key) || deep || cross && shape.get(1) == Some(&XL_WIDTH)
}
