//! LoRA, in whoever's names: of a weight [out, in] the product of `up` [out, rank] and `down` [rank, in]
//! times `alpha / rank` is added to it. Those are the factors that a [`Delta`] has, with the scale in `up`.
//! A convolution's `down` is a kernel [rank, in, height, width], its `up` one of 1×1.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::File;
use crate::Result;
use crate::methods::{Delta, Factors};
use crate::nn::all_finite;

/// Which part of a LoRA's module a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Up,
    Down,
    Alpha,
}

/// The tensors of a file, by the weight that they change and what they are of it.
pub(super) type Parts<'a> = BTreeMap<String, BTreeMap<Part, &'a str>>;

/// What the parts change. `scale` says what a product is multiplied with, given the weight's name, the
/// rank and the alpha that the file has for it.
pub(super) fn fold(
    file: &File,
    parts: Parts,
    scale: &dyn Fn(&str, usize, Option<f64>) -> f64,
) -> Result<Delta> {
    let mut factors = BTreeMap::new();
    for (name, parts) in parts {
        let (Some(up), Some(down)) = (parts.get(&Part::Up), parts.get(&Part::Down)) else {
            let there = parts.values().next().copied().unwrap_or_default();
            return Err(file.bad(format!("`{there}` has no other half: up and down make a LoRA")));
        };
        let alpha = parts.get(&Part::Alpha).map(|key| alpha(file, key)).transpose()?;
        let (outer, inner) = (file.tensor(up)?, file.tensor(down)?);
        let outer = match *outer.dims() {
            [out, rank] | [out, rank, 1, 1] => outer.reshape((out, rank))?,
            ref shape => {
                return Err(file.bad(format!("`{up}` has the shape {shape:?}, not [out, rank]")));
            }
        };
        let rank = outer.dims()[1];
        let outer = (outer * scale(&name, rank, alpha))?;
        if !all_finite(&outer)? {
            return Err(file.bad(format!("`{up}` times its scale is not finite")));
        }
        let made = Factors::new(outer, inner).map_err(|e| e.of(&format!("`{up}`")));
        factors.insert(name, made.map_err(|e| e.of_file(file.path))?);
    }
    Ok(Delta::default().with_factors(factors))
}

fn alpha(file: &File, key: &str) -> Result<f64> {
    let values = file.tensor(key)?.flatten_all()?.to_vec1::<f32>()?;
    match values[..] {
        [alpha] => Ok(f64::from(alpha)),
        _ => Err(file.bad(format!("`{key}` has {} numbers, not one", values.len()))),
    }
}

/// The scale of files that have no other word on it.
pub(super) fn usual_scale(rank: usize, alpha: Option<f64>) -> f64 {
    alpha.map_or(1.0, |alpha| alpha / rank as f64)
}

/// Whether a LoRA has a place for a weight, as `lora_unet` and `lora_te` have.
pub(super) fn takes(name: &str) -> bool {
    let model = ["unet.", "text_encoder."].iter().any(|model| name.starts_with(model));
    model && name.ends_with(".weight") && !name.contains("embedding")
}

/// Whether a weight is the text encoder's.
pub(super) fn of_text(name: &str) -> bool {
    name.starts_with("text_encoder.")
}

/// `up` and `down` of a weight as files have them.
pub(super) fn halves(factors: &Factors) -> Result<[Tensor; 2]> {
    let up = match factors.v.rank() {
        4 => factors.u.unsqueeze(2)?.unsqueeze(3)?,
        _ => factors.u.clone(),
    };
    Ok([up, factors.v.clone()])
}
