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
    added: Option<Param>,
    position_embedding: Param,
    layers: Vec<TransformerLayer>,
    final_layer_norm: LayerNorm,
}

/// The file's name of the token embeddings.
const TABLE: &str = "text_model.embeddings.token_embedding.weight";

impl TextEncoder {
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
            added: None,
            config: config.clone(),
            params: b.params(),
        })
    }

    /// The architecture, as read: added tokens do not count in `vocab_size`.
    pub fn config(&self) -> &TextEncoderConfig {
        &self.config
    }

    /// All parameters; those of added tokens last, as one parameter of their own.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The embeddings of the added tokens [added, features], if there are any.
    pub fn added(&self) -> Option<&Param> {
        self.added.as_ref()
    }

    /// The embedding of one token, f32.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no such token.
    pub fn token_embedding(&self, id: u32) -> Result<Tensor> {
        let id = id as usize;
        let (table, row) = match (&self.added, id.checked_sub(self.config.vocab_size)) {
            (_, None) => (&self.token_embedding, id),
            (Some(added), Some(row)) if row < added.shape()[0] => (added, row),
            _ => return Err(Error::input(format!("there is no token {id}"))),
        };
        Ok(table.value().get(row)?.to_dtype(DType::F32)?)
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
        let name = TABLE.replace("weight", "added");
        let added = Param::new(name, &all, DType::F32)?;
        added.set_trainable(old.is_some_and(|old| old.trainable()))?;
        self.params.push(added.clone());
        self.added = Some(added);
        Ok(())
    }

    /// Parameters as files have them: added tokens are the table's last rows.
    ///
    /// # Errors
    /// Only candle's.
    pub fn to_file(&self) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = vec![];
        for param in &self.params {
            match (&self.added, param.name()) {
                (Some(added), TABLE) => {
                    let rows = added.value().to_dtype(param.value().dtype())?;
                    tensors.push((TABLE.to_owned(), Tensor::cat(&[&param.to_file()?, &rows], 0)?));
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

    /// [tokens, features]. Rows of added tokens come from their own table.
    fn embed(&self, ids: &[u32]) -> TensorResult<Var> {
        let table = self.token_embedding.var()?;
        let device = table.value().device().clone();
        let select = |table: &Var, ids: Vec<u32>| {
            let count = ids.len();
            ops::index_select(table, &Tensor::from_vec(ids, count, &device)?)
        };
        let vocabulary = self.config.vocab_size as u32;
        let Some(added) = &self.added else {
            return select(&table, ids.to_vec());
        };
        let dtype = table.value().dtype();
        let is_added = |id: &u32| *id >= vocabulary;
        let known =
            select(&table, ids.iter().map(|id| if is_added(id) { 0 } else { *id }).collect())?;
        let new = select(
            &ops::to_dtype(&added.var()?, dtype)?,
            ids.iter().map(|id| id.saturating_sub(vocabulary)).collect(),
        )?;
        let mask = |added: bool| {
            let values = ids.iter().map(|id| f32::from(u8::from(is_added(id) == added)));
            Tensor::from_vec(values.collect(), (ids.len(), 1), &device)?
                .to_dtype(dtype)?
                .broadcast_as(known.value().shape())?
                .contiguous()
                .map(Var::constant)
        };
        ops::add(&ops::mul(&known, &mask(false)?)?, &ops::mul(&new, &mask(true)?)?)
    }
}
