//! What a training or a merge changed of a backbone: absolute weights, and the added tokens.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use sha2::{Digest, Sha256};

use super::tokens;
use crate::diffusion::Backbone;
use crate::diffusion::tokenizer::Tokenizer;
use crate::nn::Param;
use crate::train::Component;
use crate::{Error, Result};

/// The difference between a checkpoint and its backbone, f32 on the CPU.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    pub(super) tensors: BTreeMap<String, Tensor>,
    pub(super) tokens: Vec<(String, Tensor)>,
}

/// What a backbone was before it was changed.
#[must_use = "the backbone stays changed unless this is restored"]
pub struct Undo {
    tokenizer: Tokenizer,
    values: Vec<(Param, Tensor)>,
}

impl Undo {
    /// # Errors
    /// [`Error::Input`] if the backbone is changed already.
    pub(super) fn new(backbone: &Backbone) -> Result<Self> {
        if backbone.text_encoder.added_count() > 0 {
            return Err(Error::input_hint(
                "this backbone has modifier tokens already",
                "start from an untouched backbone",
            ));
        }
        Ok(Undo { tokenizer: backbone.tokenizer.clone(), values: vec![] })
    }

    /// Remembers a parameter's value; the first time only.
    pub(super) fn remember(&mut self, param: &Param) {
        if !self.values.iter().any(|(p, _)| p.is(param)) {
            self.values.push((param.clone(), param.value()));
        }
    }

    /// Makes the backbone what it was, bit for bit.
    ///
    /// # Errors
    /// Only candle's.
    pub fn restore(self, backbone: &mut Backbone) -> Result<()> {
        backbone.text_encoder.remove_added();
        backbone.tokenizer = self.tokenizer;
        for (param, value) in self.values {
            param.set_trainable(false)?;
            param.set_value(value);
        }
        Ok(())
    }
}

/// The parts of a backbone, by the names that start a tensor's.
pub(super) fn components(backbone: &Backbone) -> [Component<'_>; 3] {
    [
        ("unet", backbone.unet.params()),
        ("text_encoder", backbone.text_encoder.params()),
        ("vae", backbone.vae.params()),
    ]
}

impl Delta {
    /// A change of these tensors, called as their parameters with the model's name in front
    /// (`unet.conv_in.weight`), and these added tokens with rows [1, features], in the order of their
    /// ids.
    pub fn new(tensors: BTreeMap<String, Tensor>, tokens: Vec<(String, Tensor)>) -> Self {
        Delta { tensors, tokens }
    }

    /// The changed tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The added tokens and their embeddings [1, features].
    pub fn tokens(&self) -> &[(String, Tensor)] {
        &self.tokens
    }

    /// What the added tokens are called in prompts.
    pub fn token_names(&self) -> Vec<&str> {
        self.tokens.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty() && self.tokens.is_empty()
    }

    /// Whether no weights changed but keys and values of cross attention.
    pub fn keys_and_values_only(&self) -> bool {
        self.tensors.keys().all(|name| is_key_or_value(name))
    }

    /// This change on top of an earlier one.
    pub fn over(mut self, earlier: &Delta) -> Delta {
        for (name, tensor) in &earlier.tensors {
            self.tensors.entry(name.clone()).or_insert_with(|| tensor.clone());
        }
        let own = |name: &String| self.tokens.iter().any(|(n, _)| n == name);
        let mut tokens: Vec<_> =
            earlier.tokens.iter().filter(|(name, _)| !own(name)).cloned().collect();
        tokens.append(&mut self.tokens);
        Delta { tokens, ..self }
    }

    /// Changes an untouched backbone. What comes back takes the change away again.
    ///
    /// # Errors
    /// [`Error::Input`] if the change is of another backbone, naming the tensor, or the backbone has
    /// changes already; nothing has changed then.
    pub fn apply(&self, backbone: &mut Backbone) -> Result<Undo> {
        let mut undo = Undo::new(backbone)?;
        let mut changes = vec![];
        for (name, tensor) in &self.tensors {
            let param = components(backbone).into_iter().find_map(|(model, params)| {
                let name = name.strip_prefix(model)?.strip_prefix('.')?;
                params.iter().find(|p| p.name() == name)
            });
            let other =
                |what: String| Error::input_hint(what, "these weights belong to another backbone");
            let param =
                param.ok_or_else(|| other(format!("the backbone has no weight `{name}`")))?;
            if param.shape() != tensor.dims() {
                return Err(other(format!(
                    "`{name}` has the shape {:?}, but the backbone's is {:?}",
                    tensor.dims(),
                    param.shape()
                )));
            }
            changes.push((param.clone(), tensor.to_device(backbone.device())?));
        }
        tokens::add(backbone, &self.tokens)?;
        for (param, value) in changes {
            undo.remember(&param);
            param.set_from_file(&value)?;
        }
        Ok(undo)
    }

    /// What it takes to store it, but for names: four bytes a number.
    pub fn bytes(&self) -> u64 {
        let rows = self.tokens.iter().map(|(_, row)| row);
        self.tensors.values().chain(rows).map(|t| 4 * t.elem_count() as u64).sum()
    }

    /// SHA-256 of names, shapes and values.
    ///
    /// # Errors
    /// Only candle's.
    pub fn hash(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let tokens = self.tokens.iter().map(|(name, row)| (name, row));
        for (name, tensor) in self.tensors.iter().chain(tokens) {
            hash.update(name.as_bytes());
            hash.update([0]);
            hash_tensor(&mut hash, tensor)?;
        }
        Ok(format!("{:x}", hash.finalize()))
    }
}

/// Adds a tensor's shape and values.
pub(super) fn hash_tensor(hash: &mut Sha256, tensor: &Tensor) -> Result<()> {
    for size in tensor.dims() {
        hash.update((*size as u64).to_le_bytes());
    }
    for values in tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?.chunks(1 << 12) {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        hash.update(bytes);
    }
    Ok(())
}

/// Whether a tensor, named as in a delta, is a key or value projection of cross attention.
pub(super) fn is_key_or_value(name: &str) -> bool {
    name.starts_with("unet.")
        && (name.ends_with("attn2.to_k.weight") || name.ends_with("attn2.to_v.weight"))
}
