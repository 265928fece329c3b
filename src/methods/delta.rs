//! What a training or a merge changed of a backbone: absolute weights, factors of what is added to
//! weights, and the added tokens.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

use super::{Factors, tokens};
use crate::diffusion::Backbone;
use crate::diffusion::tokenizer::Tokenizer;
use crate::metrics::WeightChange;
use crate::nn::Param;
use crate::train::Component;
use crate::{Error, Result};

/// The difference between a checkpoint and its backbone, f32 on the CPU.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    pub(super) tensors: BTreeMap<String, Tensor>,
    pub(super) factors: BTreeMap<String, Factors>,
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

/// The parameter that a tensor of a delta belongs to.
pub(super) fn parameter(backbone: &Backbone, name: &str) -> Result<Param> {
    find(backbone, name).ok_or_else(|| of_another(format!("the backbone has no weight `{name}`")))
}

fn find(backbone: &Backbone, name: &str) -> Option<Param> {
    let param = components(backbone).into_iter().find_map(|(model, params)| {
        let name = name.strip_prefix(model)?.strip_prefix('.')?;
        params.iter().find(|p| p.name() == name)
    });
    param.cloned()
}

/// How far a weight is from what it is in the backbone, f32 on the CPU.
pub(super) fn change(backbone: &Backbone, name: &str, weight: &Tensor) -> Result<Tensor> {
    let before = parameter(backbone, name)?.to_file()?.to_dtype(DType::F32)?;
    check_shape(name, weight.dims(), before.dims())?;
    Ok((weight - before.to_device(&Device::Cpu)?)?)
}

fn check_shape(name: &str, found: &[usize], wanted: &[usize]) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    let message = format!("`{name}` has the shape {found:?}, but the backbone's is {wanted:?}");
    Err(of_another(message))
}

/// What is added to a weight of the shape `wanted`. A matrix and a kernel of 1×1 are the same to whoever
/// trains factors of them.
fn fitted(name: &str, factors: &Factors, wanted: &[usize]) -> Result<Tensor> {
    let bare = |shape: &[usize]| match shape {
        [out, inputs, 1, 1] => vec![*out, *inputs],
        shape => shape.to_vec(),
    };
    // before the product, which may be larger than any memory
    check_shape(name, &bare(&factors.shape()), &bare(wanted))?;
    Ok(factors.product()?.reshape(wanted)?)
}

fn of_another(message: String) -> Error {
    Error::input_hint(message, "these weights belong to another backbone")
}

/// Names of weights in an error are as many; of more it says how many there are.
const MOST_NAMES: usize = 10;

/// Refuses changes of weights that are not there.
///
/// # Errors
/// [`Error::Input`] with the list of them.
pub fn refuse_missing<'a>(
    changed: impl Iterator<Item = &'a String>,
    is_there: impl Fn(&str) -> bool,
) -> Result<()> {
    let (mut missing, mut all) = (vec![], 0);
    for name in changed {
        all += 1;
        if !is_there(name) {
            missing.push(format!("`{name}`"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let more = match missing.len().saturating_sub(MOST_NAMES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let listed = missing[..missing.len().min(MOST_NAMES)].join(", ");
    Err(of_another(format!(
        "the backbone lacks {} of the {all} weights that the checkpoint changes: {listed}{more}",
        missing.len()
    )))
}

impl Delta {
    /// A change of these tensors, called as their parameters with the model's name in front
    /// (`unet.conv_in.weight`), and these added tokens with rows [vectors, features], in the order of their
    /// ids. A token of several vectors stands for as many places of a prompt.
    pub fn new(tensors: BTreeMap<String, Tensor>, tokens: Vec<(String, Tensor)>) -> Self {
        Delta { tensors, factors: BTreeMap::new(), tokens }
    }

    /// With these matrices changed by the products of factors.
    pub fn with_factors(self, factors: BTreeMap<String, Factors>) -> Self {
        Delta { factors, ..self }
    }

    /// The matrices that are changed by a product of factors, by name.
    pub fn factors(&self) -> &BTreeMap<String, Factors> {
        &self.factors
    }

    /// The changed tensors by name, but for those changed by [`Delta::factors`].
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The added tokens and their embeddings [vectors, features].
    pub fn tokens(&self) -> &[(String, Tensor)] {
        &self.tokens
    }

    /// What the added tokens are called in prompts.
    pub fn token_names(&self) -> Vec<&str> {
        self.tokens.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.changed().next().is_none() && self.tokens.is_empty()
    }

    /// Whether no weights changed but keys and values of cross attention.
    pub fn keys_and_values_only(&self) -> bool {
        self.changed().all(|name| is_key_or_value(name))
    }

    /// The names of all tensors that are changed.
    pub fn changed(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys().chain(self.factors.keys())
    }

    /// The same change of an untouched backbone with whole tensors in place of factors.
    ///
    /// # Errors
    /// [`Error::Input`] if it is of another backbone.
    pub fn whole(mut self, backbone: &Backbone) -> Result<Delta> {
        for (name, factors) in std::mem::take(&mut self.factors) {
            let before = parameter(backbone, &name)?.to_file()?.to_dtype(DType::F32)?;
            let change = fitted(&name, &factors, before.dims())?;
            self.tensors.insert(name, (before.to_device(&Device::Cpu)? + change)?);
        }
        Ok(self)
    }

    /// This change on top of an earlier one.
    pub fn over(mut self, earlier: &Delta) -> Delta {
        for (name, tensor) in &earlier.tensors {
            self.tensors.entry(name.clone()).or_insert_with(|| tensor.clone());
        }
        for (name, factors) in &earlier.factors {
            if !self.tensors.contains_key(name) {
                self.factors.insert(name.clone(), factors.clone());
            }
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
    /// [`Error::Input`] if the change is of another backbone, naming the tensors, or the backbone has
    /// changes already; nothing has changed then.
    pub fn apply(&self, backbone: &mut Backbone) -> Result<Undo> {
        let mut undo = Undo::new(backbone)?;
        refuse_missing(self.changed(), |name| find(backbone, name).is_some())?;
        let mut changes = vec![];
        for (name, tensor) in &self.tensors {
            let param = parameter(backbone, name)?;
            check_shape(name, tensor.dims(), param.shape())?;
            changes.push((param, tensor.to_device(backbone.device())?));
        }
        for (name, factors) in &self.factors {
            let param = parameter(backbone, name)?;
            let change = fitted(name, factors, param.shape())?.to_device(backbone.device())?;
            let before = param.to_file()?;
            changes.push((param, (&before + change.to_dtype(before.dtype())?)?));
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
        let whole = self.tensors.values().chain(rows).map(Tensor::elem_count);
        let numbers: usize = whole.chain(self.factors.values().map(Factors::count)).sum();
        4 * numbers as u64
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
        for (name, factors) in &self.factors {
            hash.update(name.as_bytes());
            hash.update([1]);
            hash_tensor(&mut hash, &factors.u)?;
            hash_tensor(&mut hash, &factors.v)?;
        }
        Ok(format!("{:x}", hash.finalize()))
    }
}

/// How far each weight of the UNet is from what it is in an untouched backbone (section 3.1 of the paper,
/// Fig. 3), in the backbone's order. Weights of zeros, of which nothing is a share, are left out.
///
/// # Errors
/// [`Error::Input`] for a change of another backbone.
pub fn weight_changes(delta: &Delta, backbone: &Backbone) -> Result<Vec<WeightChange>> {
    let delta = delta.clone().whole(backbone)?;
    let mut changes = vec![];
    for param in backbone.unet.params() {
        let before = param.to_file()?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        let norm = norm(&before)?;
        if norm == 0.0 {
            continue;
        }
        let name = format!("unet.{}", param.name());
        let moved = match delta.tensors.get(&name) {
            Some(after) => norm_of_change(&name, after, &before)?,
            None => 0.0,
        };
        changes.push(WeightChange { name: param.name().to_owned(), change: moved / norm });
    }
    Ok(changes)
}

fn norm_of_change(name: &str, after: &Tensor, before: &Tensor) -> Result<f64> {
    check_shape(name, after.dims(), before.dims())?;
    norm(&(after - before)?)
}

/// The Euclidean norm of all values.
fn norm(values: &Tensor) -> Result<f64> {
    let sum = values.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
    Ok(sum.sqrt())
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
