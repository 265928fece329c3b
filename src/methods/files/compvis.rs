//! The authors' code on CompVis's: `delta*.ckpt`, a pickle of `{"state_dict": {name: weight, "embed": rows}}`.
//! Names are CompVis's, row i of `embed` is `<new{i+1}>`. A compressed one has factors as in `authors.rs`.

use std::collections::BTreeMap;

use super::{File, Reader, Written};
use crate::diffusion::compvis_names::{LAYERS, attention_from_compvis, attention_to_compvis};
use crate::diffusion::weights::Pickled;
use crate::methods::{Delta, token};
use crate::{Error, Result};

pub(super) const READER: Reader = Reader {
    name: "the authors' code (delta.ckpt)",
    knows: |key| key == TOKENS || STARTS.iter().any(|start| key.starts_with(start)),
    read,
};

/// Where a checkpoint of CompVis's code has all that is in it.
const OUTER: &str = "state_dict.";
const UNET: &str = "model.diffusion_model.";
const TOKENS: &str = "embed";
const STARTS: [&str; 5] = [OUTER, UNET, "first_stage_model.", "cond_stage_model.", "model_ema."];

fn read(file: &File) -> Result<Delta> {
    let (mut tensors, mut factors, mut tokens) = (BTreeMap::new(), BTreeMap::new(), vec![]);
    let bare = |key: &'_ str| key.strip_prefix(OUTER).unwrap_or(key).to_owned();
    if let Some(key) = file.keys.iter().find(|key| bare(key).starts_with("first_stage_model.")) {
        return Err(Error::input_hint(
            format!("{}: `{key}` is of a whole model, not of a checkpoint", file.path.display()),
            "give it as the backbone: --backbone FILE",
        ));
    }
    for &key in &file.keys {
        let own = bare(key);
        if own == TOKENS {
            tokens = rows(file, key)?;
            continue;
        }
        let unknown = || file.bad(format!("`{key}` is no weight of an attention"));
        let name = own.strip_prefix(UNET).ok_or_else(unknown)?;
        let name = attention_from_compvis(name, LAYERS).ok_or_else(unknown)?;
        let name = format!("unet.{name}");
        if let Some(name) = name.strip_suffix(".u") {
            let (stem, _) = key.rsplit_once('.').unwrap_or((key, ""));
            factors.insert(name.to_owned(), file.factors(key, &format!("{stem}.v"))?);
        } else if let Some(stem) = key.strip_suffix(".v") {
            file.factors(&format!("{stem}.u"), key)?;
        } else {
            tensors.insert(name, file.tensor(key)?);
        }
    }
    Ok(Delta::new(tensors, tokens).with_factors(factors))
}

/// The tokens of `embed` [tokens, features], or of one token [features].
fn rows(file: &File, key: &str) -> Result<Vec<(String, candle_core::Tensor)>> {
    let table = file.tensor(key)?;
    let table = match table.dims() {
        [_] => table.unsqueeze(0)?,
        [_, _] => table,
        shape => return Err(file.bad(format!("`{key}` of shape {shape:?} is no table of tokens"))),
    };
    let row = |i: usize| Ok((token(i + 1), table.narrow(0, i, 1)?));
    (0..table.dims()[0]).map(row).collect()
}

/// Whether CompVis's code has a name for a weight.
pub(super) fn takes(name: &str) -> bool {
    compvis_name(name).is_some()
}

/// Whether a token is one that `embed` has a row for: it knows them by their numbers.
pub(super) fn takes_token(name: &str) -> bool {
    (1..=crate::methods::MOST_CONCEPTS).any(|number| token(number) == name)
}

/// `delta.ckpt`.
///
/// # Errors
/// [`Error::Input`] for tokens that are not numbered from one.
pub(super) fn write(delta: &Delta) -> Result<Vec<Written>> {
    let mut all = vec![];
    for (name, tensor) in &delta.tensors {
        all.push((compvis_name(name).expect("checked"), Pickled::tensor(tensor)?));
    }
    if let Some((i, (name, _))) =
        delta.tokens.iter().enumerate().find(|(i, (name, _))| *name != token(i + 1))
    {
        return Err(Error::input_hint(
            format!("the token `{name}` would be read as `{}`", token(i + 1)),
            "CompVis's files number tokens from <new1>: --to authors keeps their names",
        ));
    }
    if !delta.tokens.is_empty() {
        let rows: Vec<_> = delta.tokens.iter().map(|(_, row)| row).collect();
        let table = candle_core::Tensor::cat(&rows, 0)?;
        all.push((TOKENS.to_owned(), Pickled::tensor(&table)?));
    }
    let state = Pickled::Dict(vec![("state_dict".to_owned(), Pickled::Dict(all))]);
    Ok(vec![Written::pickle("delta.ckpt", state)])
}

fn compvis_name(name: &str) -> Option<String> {
    let name = attention_to_compvis(name.strip_prefix("unet.")?, LAYERS)?;
    Some(format!("{UNET}{name}"))
}
