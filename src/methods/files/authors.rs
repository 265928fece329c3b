//! The authors' code on diffusers: `delta.bin`, a pickle of `{"unet": {name: weight}, "modifier_token":
//! {token: row}, "text_encoder": {name: weight}}`. Weights are absolute; a compressed one is two factors `u`
//! [out, r] and `v` [r, in], whose product is added to the backbone's.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::{File, Reader, Written};
use crate::Result;
use crate::diffusion::weights::Pickled;
use crate::methods::Delta;
use crate::methods::delta::is_key_or_value;

pub(super) const READER: Reader = Reader {
    name: "the authors' code (delta.bin)",
    knows: |key| PARTS.iter().any(|part| key.starts_with(part)),
    read,
};

const PARTS: [&str; 4] = ["unet.", "text_encoder.", "vae.", TOKENS];
const TOKENS: &str = "modifier_token.";

fn read(file: &File) -> Result<Delta> {
    let (mut tensors, mut factors, mut tokens) = (BTreeMap::new(), BTreeMap::new(), vec![]);
    for &key in &file.keys {
        if let Some(token) = key.strip_prefix(TOKENS) {
            tokens.push((token.to_owned(), super::textual_inversion::rows(file, key)?));
        } else if let Some(name) = key.strip_suffix(".u") {
            factors.insert(name.to_owned(), file.factors(key, &format!("{name}.v"))?);
        } else if let Some(name) = key.strip_suffix(".v") {
            // both are read for `.u`
            file.factors(&format!("{name}.u"), key)?;
        } else {
            tensors.insert(key.to_owned(), file.tensor(key)?);
        }
    }
    // the text encoder is saved whole, with the tokens as the last rows of its table
    for (name, table) in tensors.iter_mut().filter(|(n, _)| n.ends_with("token_embedding.weight")) {
        let (all, own) = (table.dims()[0], tokens.len());
        if name.starts_with("text_encoder.") && own > 0 && all > own {
            *table = table.narrow(0, 0, all - own)?;
        }
    }
    Ok(Delta::new(tensors, tokens).with_factors(factors))
}

/// Whether the authors' code has a place for a weight: it looks for cross attention alone.
pub(super) fn takes(name: &str) -> bool {
    name.starts_with("unet.") && name.contains(".attn2.")
}

/// Whether it has a place for factors.
pub(super) fn takes_factors(name: &str) -> bool {
    is_key_or_value(name)
}

/// `delta.bin`.
pub(super) fn write(delta: &Delta) -> Result<Vec<Written>> {
    let bare = |name: &String| name.strip_prefix("unet.").unwrap_or(name).to_owned();
    let mut unet = vec![];
    for (name, tensor) in &delta.tensors {
        unet.push((bare(name), Pickled::tensor(tensor)?));
    }
    for (name, factors) in &delta.factors {
        let pair = [("u", &factors.u), ("v", &factors.v)];
        let pair = pair.map(|(which, tensor)| Ok((which.to_owned(), Pickled::tensor(tensor)?)));
        let pair = pair.into_iter().collect::<Result<Vec<_>>>()?;
        unet.push((bare(name), Pickled::Dict(pair)));
    }
    let mut all = vec![("unet".to_owned(), Pickled::Dict(unet))];
    let mut tokens = vec![];
    for (token, row) in &delta.tokens {
        tokens.push((token.clone(), Pickled::tensor(&row.flatten_all()?)?));
    }
    if !tokens.is_empty() {
        all.push(("modifier_token".to_owned(), Pickled::Dict(tokens)));
    }
    Ok(vec![Written::pickle("delta.bin", Pickled::Dict(all))])
}

/// The factors by the names of a compressed file whose dictionaries are flattened.
pub(super) fn named_factors(delta: &Delta) -> impl Iterator<Item = (String, Tensor)> {
    delta.factors.iter().flat_map(|(name, f)| {
        [(format!("{name}.u"), f.u.clone()), (format!("{name}.v"), f.v.clone())]
    })
}
