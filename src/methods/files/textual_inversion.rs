//! Textual Inversions: tokens and nothing else. A token of several vectors stands for as many places of a
//! prompt.
//!
//! | of | keys | the token's name |
//! |---|---|---|
//! | diffusers (`<new1>.safetensors`, `learned_embeds.bin`) | the token: [vectors, features] or [features] | the key |
//! | A1111 (`.pt`) | `string_to_param.*`, and `string_to_token.*`, an id of its own vocabulary | the file's |
//! | kohya | `emb_params` | the file's |

use candle_core::Tensor;

use super::{File, Reader, Written};
use crate::diffusion::weights::Pickled;
use crate::methods::Delta;
use crate::{Error, Result};

pub(super) const READER: Reader = Reader { name: "Textual Inversion", knows: |_| true, read };

/// A token of more vectors than a prompt has places is taken for a mistake.
pub(in crate::methods) const MOST_VECTORS: usize = 75;

fn read(file: &File) -> Result<Delta> {
    let mut tokens = vec![];
    for key in file.keys.iter().filter(|key| !key.starts_with("string_to_token")) {
        let unnamed = matches!(*key, "emb_params" | "*") || key.starts_with("string_to_param");
        let token = if unnamed { file.stem() } else { key };
        tokens.push((token.to_owned(), rows(file, key)?));
    }
    Ok(Delta::new(Default::default(), tokens))
}

/// A token's embedding as [vectors, features].
pub(super) fn rows(file: &File, key: &str) -> Result<Tensor> {
    let shape = file.shape(key);
    let of_a_layer = key.ends_with(".weight") || key.ends_with(".bias");
    match shape[..] {
        [width] if !of_a_layer => Ok(file.tensor(key)?.reshape((1, width))?),
        [1..=MOST_VECTORS, _] if !of_a_layer => file.tensor(key),
        _ => Err(file.bad(format!(
            "`{key}` of shape {shape:?} is neither a weight of a known file nor the embedding of a token"
        ))),
    }
}

/// A file for each token, as `load_textual_inversion` reads it.
///
/// # Errors
/// [`Error::Input`] for a token that no file can be called.
pub(super) fn files(delta: &Delta) -> Result<Vec<Written>> {
    let file = |(token, rows): &(String, Tensor)| {
        check_name(token)?;
        Ok(Written::safetensors(token, vec![(token.clone(), rows.clone())]))
    };
    delta.tokens.iter().map(file).collect()
}

/// A file for each token, as A1111 reads it.
///
/// # Errors
/// As [`files`].
pub(super) fn a1111_files(delta: &Delta) -> Result<Vec<Written>> {
    // the id that `*` has in CLIP's vocabulary, where A1111 trains a token
    const STAR: i32 = 265;
    let star = |value| Pickled::Dict(vec![("*".to_owned(), value)]);
    let file = |(token, rows): &(String, Tensor)| {
        check_name(token)?;
        let all = [
            ("string_to_token", star(Pickled::Int(STAR))),
            ("string_to_param", star(Pickled::tensor(rows)?)),
            ("name", Pickled::Text(token.clone())),
            ("step", Pickled::Int(0)),
            ("sd_checkpoint", Pickled::None),
            ("sd_checkpoint_name", Pickled::None),
        ];
        let all = all.map(|(key, value)| (key.to_owned(), value));
        Ok(Written::pickle(&format!("{token}.pt"), Pickled::Dict(all.into())))
    };
    delta.tokens.iter().map(file).collect()
}

fn check_name(token: &str) -> Result<()> {
    match token.contains(['/', '\\', ':']) {
        true => Err(Error::input(format!("the token `{token}` cannot be a file's name"))),
        false => Ok(()),
    }
}
