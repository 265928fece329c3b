//! LoRA as diffusers and PEFT save it: `unet.….to_q.lora.down.weight`, of the text encoder
//! `….q_proj.lora_linear_layer.down.weight`. Read are PEFT's `lora_A`, `lora_B`, and the processors of older
//! versions, too. The scale is in tensors `….alpha`, or in the metadata `lora_adapter_metadata`, or in PEFT's
//! `adapter_config.json` beside the file, or 1.

use serde_json::{Map, Value};

use super::lora::{self, Part, Parts, fold, halves, usual_scale};
use super::{File, Reader, Written};
use crate::diffusion::weights::metadata;
use crate::methods::Delta;
use crate::{Error, Result, readfile};

pub(super) const READER: Reader =
    Reader { name: "a LoRA of diffusers", knows: |key| place(key).is_some(), read };

/// Behind a module's name.
const ENDS: [(&str, Part); 11] = [
    (".lora.up.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora_A.weight", Part::Down),
    (".lora_B.default.weight", Part::Up),
    (".lora_A.default.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    (".lora_linear_layer.down.weight", Part::Down),
    ("_lora.up.weight", Part::Up),
    ("_lora.down.weight", Part::Down),
    (".alpha", Part::Alpha),
];

/// In front of all names of PEFT's own files.
const PEFT: &str = "base_model.model.";
/// In front of a module's name, with the model; the UNet alone had none.
const STARTS: [(&str, &str); 3] = [
    ("unet.", "unet."),
    ("text_encoder.", "text_encoder."),
    ("text_model.", "text_encoder.text_model."),
];

/// A text encoder's projections as the processors of older versions call them.
const OLD_TEXT: [(&str, &str); 4] = [
    ("self_attn.to_q", "self_attn.q_proj"),
    ("self_attn.to_k", "self_attn.k_proj"),
    ("self_attn.to_v", "self_attn.v_proj"),
    ("self_attn.to_out", "self_attn.out_proj"),
];

/// The weight that a key's tensor changes, and which part of the LoRA it is.
fn place(key: &str) -> Option<(String, Part)> {
    let (module, end, part) =
        ENDS.iter().find_map(|(end, part)| Some((key.strip_suffix(end)?, *end, *part)))?;
    let module = module.strip_prefix(PEFT).unwrap_or(module);
    let start =
        STARTS.iter().find_map(|(start, model)| Some((*model, module.strip_prefix(start)?)));
    let (model, module) = match start {
        Some((model, module)) => (model, module),
        // a scale that names no model may be anybody's
        None if part == Part::Alpha => return None,
        None => ("unet.", module),
    };
    let mut module = module.replace(".processor.", ".");
    if end.starts_with('_') {
        match OLD_TEXT.iter().find(|(old, _)| module.ends_with(old)) {
            Some((old, new)) => module = module.replace(old, new),
            None if module.ends_with(".to_out") => module += ".0",
            None => {}
        }
    }
    Some((format!("{model}{module}.weight"), part))
}

fn read(file: &File) -> Result<Delta> {
    let mut parts = Parts::new();
    for &key in &file.keys {
        let (name, part) = place(key).expect("the reader knows its keys");
        if let Some(other) = parts.entry(name).or_default().insert(part, key) {
            return Err(file.bad(format!("`{key}` and `{other}` are the same half of a LoRA")));
        }
    }
    let adapters = Adapters::of(file)?;
    fold(file, parts, &|name, rank, alpha| match alpha {
        None => adapters.scale(name, rank),
        alpha => usual_scale(rank, alpha),
    })
}

/// What is said of how a LoRA was trained: PEFT's configuration, with `unet.` and `text_encoder.` before its
/// keys where it is of both.
struct Adapters(Map<String, Value>);

/// Bytes of a configuration.
const MOST_BYTES: u64 = 1 << 20;

impl Adapters {
    fn of(file: &File) -> Result<Self> {
        const KEY: &str = "lora_adapter_metadata";
        let beside = file.path.with_file_name("adapter_config.json");
        let (text, from) = match metadata(file.path)?.remove(KEY) {
            Some(text) => (text, format!("{}: the metadata `{KEY}`", file.path.display())),
            None if beside.is_file() => {
                (readfile::text(&beside, MOST_BYTES)?, beside.display().to_string())
            }
            None => return Ok(Adapters(Map::new())),
        };
        let bad = |e| Error::input(format!("{from}: {e}"));
        let adapters = Adapters(serde_json::from_str(&text).map_err(bad)?);
        let dora = |key: &&str| adapters.0.get(*key).and_then(Value::as_bool) == Some(true);
        let keys = ["use_dora", "unet.use_dora", "text_encoder.use_dora"];
        if let Some(key) = keys.iter().find(|key| dora(key)) {
            return Err(Error::input_hint(
                format!("{from} says `{key}`, and DoRA is not read"),
                "LoRA of two factors is read: train a plain LoRA",
            ));
        }
        Ok(adapters)
    }

    /// What the product of a weight's factors is multiplied with.
    fn scale(&self, name: &str, rank: usize) -> f64 {
        let (model, module) = name.split_once('.').unwrap_or((name, ""));
        let module = module.strip_suffix(".weight").unwrap_or(module);
        let own = |key: &str| self.0.get(&format!("{model}.{key}")).or(self.0.get(key));
        let pattern = own("alpha_pattern").and_then(Value::as_object).and_then(|patterns| {
            let of = |p: &str| module == p || module.ends_with(&format!(".{p}"));
            patterns.iter().find(|(pattern, _)| of(pattern))?.1.as_f64()
        });
        let alpha = pattern.or_else(|| own("lora_alpha")?.as_f64());
        let stable = own("use_rslora").and_then(Value::as_bool) == Some(true);
        match alpha {
            Some(alpha) if stable => alpha / (rank as f64).sqrt(),
            alpha => usual_scale(rank, alpha),
        }
    }
}

/// `pytorch_lora_weights.safetensors`, of a scale of 1.
pub(super) fn write(delta: &Delta) -> Result<Vec<Written>> {
    let mut all = vec![];
    for (name, factors) in &delta.factors {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let kind = if lora::of_text(name) { "lora_linear_layer" } else { "lora" };
        for (half, tensor) in ["up", "down"].into_iter().zip(halves(factors)?) {
            all.push((format!("{module}.{kind}.{half}.weight"), tensor));
        }
    }
    Ok(vec![Written::safetensors("pytorch_lora_weights", all)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_all_ages_name_the_weights() {
        let layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1";
        let text = "text_model.encoder.layers.0.self_attn";
        for (key, name, part) in [
            (
                format!("unet.{layer}.to_q.lora.down.weight"),
                format!("unet.{layer}.to_q"),
                Part::Down,
            ),
            (
                format!("unet.{layer}.to_out.0.lora.up.weight"),
                format!("unet.{layer}.to_out.0"),
                Part::Up,
            ),
            (format!("unet.{layer}.to_k.lora_A.weight"), format!("unet.{layer}.to_k"), Part::Down),
            (
                format!("{layer}.processor.to_v_lora.up.weight"),
                format!("unet.{layer}.to_v"),
                Part::Up,
            ),
            (
                format!("{layer}.processor.to_out_lora.up.weight"),
                format!("unet.{layer}.to_out.0"),
                Part::Up,
            ),
            (
                format!("base_model.model.{layer}.to_q.lora_B.weight"),
                format!("unet.{layer}.to_q"),
                Part::Up,
            ),
            (
                format!("text_encoder.{text}.q_proj.lora_linear_layer.down.weight"),
                format!("text_encoder.{text}.q_proj"),
                Part::Down,
            ),
            (
                format!("text_encoder.{text}.to_out_lora.down.weight"),
                format!("text_encoder.{text}.out_proj"),
                Part::Down,
            ),
            (format!("unet.{layer}.to_q.alpha"), format!("unet.{layer}.to_q"), Part::Alpha),
        ] {
            assert_eq!(place(&key), Some((format!("{name}.weight"), part)), "{key}");
        }
        assert_eq!(place("<new1>"), None);
        assert_eq!(place(&format!("unet.{layer}.to_q.weight")), None);
    }

    #[test]
    fn metadata_scale_as_peft_does() {
        let adapters = |text: &str| Adapters(serde_json::from_str(text).unwrap());
        let own = adapters(
            r#"{"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_k": 2.0}, "unet.use_rslora": false}"#,
        );
        assert_eq!(own.scale("unet.a.attn1.to_k.weight", 4), 2.0);
        assert_eq!(own.scale("unet.a.attn2.to_k.weight", 4), 0.5);
        assert_eq!(own.scale("text_encoder.a.q_proj.weight", 4), 1.0);
        let peft = adapters(r#"{"lora_alpha": 8, "r": 4}"#);
        assert_eq!(peft.scale("unet.a.attn1.to_k.weight", 4), 2.0);
        let stable = adapters(r#"{"unet.lora_alpha": 8, "unet.use_rslora": true}"#);
        assert_eq!(stable.scale("unet.a.attn1.to_k.weight", 4), 4.0);
    }
}
