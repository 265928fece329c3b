//! transformers' `CLIPTextModel`, with a table of token embeddings that grows.

use candle_core::{DType, Result as TensorResult, Tensor};

use super::transformer_layer::{TransformerLayer, TransformerSize};
use crate::diffusion::config::TextEncoderConfig;
use crate::nn::{Builder, Init, LayerNorm, Param, Var, ops};
use crate::{Error, Result};

/// The text encoder. SD 2.x's use of the layer before the last needs nothing special: its files
/// leave the last layer out.
pub struct TextEncoder {
    config: TextEncoderConfig,
    params: Vec<Param>,
    token_embedding: Param,
    fixed: Option<Param>,
    added: Option<Param>,
    position_embedding: Param,
    layers: Vec<TransformerLayer>,
    final_layer_norm: LayerNorm,
}

impl TextEncoder {
    /// The file's name of the token embeddings.
    pub const TABLE: &'static str = "text_model.embeddings.token_embedding.weight";

    /// Builds the network that a checked configuration describes.
    ///
    /// # Errors
    /// Those of `b`'s source: a missing or misshapen tensor.
    pub fn new(b: &Builder, config: &TextEncoderConfig) -> Result<Self> {
        let text = b.at("text_model");
        let (width, embeddings) = (config.hidden_size, text.at("embeddings"));
        let table =
            |name, rows| embeddings.at(name).param("weight", &[rows, width], Init::Normal(0.02));
        let size = TransformerSize {
            width,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            act: config.hidden_act,
            eps: config.layer_norm_eps,
        };
        Ok(TextEncoder {
            token_embedding: table("token_embedding", config.vocab_size)?,
            position_embedding: table("position_embedding", config.max_position_embeddings)?,
            layers: (0..config.num_hidden_layers)
                .map(|i| TransformerLayer::new(&text.at(format_args!("encoder.layers.{i}")), size))
                .collect::<Result<_>>()?,
            final_layer_norm: LayerNorm::new(
                &text.at("final_layer_norm"),
                width,
                config.layer_norm_eps,
            )?,
            fixed: None,
            added: None,
            config: config.clone(),
            params: b.params(),
        })
    }

    /// The architecture, as read: added tokens do not count in `vocab_size`.
    pub fn config(&self) -> &TextEncoderConfig {
        &self.config
    }

    /// All parameters; those of added tokens last, as one parameter of their own, but for those that
    /// [`TextEncoder::fix_added`] took out of training.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The embeddings of the added tokens [added, features], if there are any that can train.
    pub fn added(&self) -> Option<&Param> {
        self.added.as_ref()
    }

    /// How many tokens were added, fixed ones included.
    pub fn added_count(&self) -> usize {
        [&self.fixed, &self.added].into_iter().flatten().map(|rows| rows.shape()[0]).sum()
    }

    /// The embedding of one token, f32.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no such token.
    pub fn token_embedding(&self, id: u32) -> Result<Tensor> {
        let mut row = id as usize;
        for table in self.tables() {
            if row < table.shape()[0] {
                return Ok(table.value().get(row)?.to_dtype(DType::F32)?);
            }
            row -= table.shape()[0];
        }
        Err(Error::input(format!("there is no token {id}")))
    }

    /// The embeddings of the vocabulary [vocabulary, features].
    pub fn vocabulary(&self) -> &Param {
        &self.token_embedding
    }

    /// Appends tokens with these embeddings [count, features] behind the vocabulary. They are a
    /// parameter of their own, so that training them leaves every other row alone.
    ///
    /// # Errors
    /// [`Error::Input`] if the embeddings have another width.
    pub fn add_tokens(&mut self, rows: &Tensor) -> Result<()> {
        let width = self.config.hidden_size;
        if rows.rank() != 2 || rows.dims()[1] != width {
            return Err(Error::input(format!(
                "embeddings of shape {:?} given to a text encoder of {width} features",
                rows.dims()
            )));
        }
        let old = self.added.take();
        let device = self.token_embedding.value().device().clone();
        let mut all = rows.to_dtype(DType::F32)?.to_device(&device)?;
        if let Some(old) = &old {
            self.params.pop();
            all = Tensor::cat(&[&old.value().to_dtype(DType::F32)?, &all], 0)?;
        }
        let name = Self::TABLE.replace("weight", "added");
        let added = Param::new(name, &all, DType::F32)?;
        added.set_trainable(old.is_some_and(|old| old.trainable()))?;
        self.params.push(added.clone());
        self.added = Some(added);
        Ok(())
    }

    /// Takes the tokens added so far out of training: they are part of no trainable set any more, and
    /// those added later train without them.
    ///
    /// # Errors
    /// Only candle's.
    pub fn fix_added(&mut self) -> Result<()> {
        let Some(added) = self.added.take() else { return Ok(()) };
        self.params.pop();
        let rows = match &self.fixed {
            Some(fixed) => Tensor::cat(&[fixed.value(), added.value()], 0)?,
            None => added.value(),
        };
        self.fixed = Some(Param::new(Self::TABLE.replace("weight", "fixed"), &rows, DType::F32)?);
        Ok(())
    }

    /// Whether a training that trains what is trainable now changes what becomes of these tokens.
    pub fn trains(&self, ids: &[u32]) -> bool {
        let added = self.added.as_ref().filter(|added| added.trainable());
        let is_added = |param: &Param| added.is_some_and(|added| added.is(param));
        let first =
            self.config.vocab_size + self.added_count() - added.map_or(0, |added| added.shape()[0]);
        self.params.iter().any(|param| param.trainable() && !is_added(param))
            || added.is_some() && ids.iter().any(|id| *id as usize >= first)
    }

    /// Takes all added tokens away.
    pub fn remove_added(&mut self) {
        if self.added.take().is_some() {
            self.params.pop();
        }
        self.fixed = None;
    }

    /// The tables of embeddings, in the order of their ids.
    fn tables(&self) -> impl Iterator<Item = &Param> {
        [&self.token_embedding].into_iter().chain(&self.fixed).chain(&self.added)
    }

    /// Parameters as files have them: added tokens are the table's last rows.
    ///
    /// # Errors
    /// Only candle's.
    pub fn to_file(&self) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = vec![];
        for param in &self.params {
            match (&self.added, param.name()) {
                (_, Self::TABLE) if self.added_count() > 0 => {
                    let dtype = param.value().dtype();
                    let rows: candle_core::Result<Vec<Tensor>> =
                        self.tables().map(|table| table.value().to_dtype(dtype)).collect();
                    tensors.push((Self::TABLE.to_owned(), Tensor::cat(&rows?, 0)?));
                }
                (Some(added), name) if name == added.name() => {}
                (_, name) => tensors.push((name.to_owned(), param.to_file()?)),
            }
        }
        Ok(tensors)
    }

    /// Token `ids` [batch, length] → hidden states [batch, length, features] after the final norm.
    pub fn forward(&self, ids: &[Vec<u32>]) -> TensorResult<Var> {
        let (batch, length, width) =
            (ids.len(), ids.first().map_or(0, Vec::len), self.config.hidden_size);
        if length > self.config.max_position_embeddings || ids.iter().any(|i| i.len() != length) {
            candle_core::bail!("prompts must be equally long, at most the model's length");
        }
        let tokens = self.embed(&ids.concat())?;
        let positions: Vec<u32> = (0..batch).flat_map(|_| 0..length as u32).collect();
        let device = self.token_embedding.value().device().clone();
        let positions = Tensor::from_vec(positions, batch * length, &device)?;
        let positions = ops::index_select(&self.position_embedding.var()?, &positions)?;
        let mut x = ops::reshape(&ops::add(&tokens, &positions)?, (batch, length, width))?;
        for layer in &self.layers {
            x = layer.forward(&x, true)?;
        }
        self.final_layer_norm.forward(&x)
    }

    /// [tokens, features]. Rows of added tokens come from their own tables.
    fn embed(&self, ids: &[u32]) -> TensorResult<Var> {
        let table = self.token_embedding.var()?;
        let (dtype, device) = (table.value().dtype(), table.value().device().clone());
        let end = self.config.vocab_size + self.added_count();
        if let Some(id) = ids.iter().find(|id| **id as usize >= end) {
            candle_core::bail!("there is no token {id}");
        }
        let select = |table: &Var, ids: Vec<u32>| {
            let count = ids.len();
            ops::index_select(table, &Tensor::from_vec(ids, count, &device)?)
        };
        if self.added_count() == 0 {
            return select(&table, ids.to_vec());
        }
        let mut first = 0;
        let mut embedded: Option<Var> = None;
        for table in self.tables() {
            let own = first..first + table.shape()[0] as u32;
            first = own.end;
            let rows = select(
                &ops::to_dtype(&table.var()?, dtype)?,
                ids.iter().map(|id| if own.contains(id) { id - own.start } else { 0 }).collect(),
            )?;
            let mask = ids.iter().map(|id| f32::from(u8::from(own.contains(id)))).collect();
            let mask = Tensor::from_vec(mask, (ids.len(), 1), &device)?.to_dtype(dtype)?;
            let mask = mask.broadcast_as(rows.value().shape())?.contiguous()?;
            let rows = ops::mul(&rows, &Var::constant(mask))?;
            embedded = Some(match embedded {
                Some(others) => ops::add(&others, &rows)?,
                None => rows,
            });
        }
        Ok(embedded.expect("there is a vocabulary"))
    }
}
