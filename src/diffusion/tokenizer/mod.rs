//! The text encoder's tokenizer: prompts to token ids of fixed length.
//!
//! Reads `tokenizer.json` of any kind, or CLIP's `vocab.json` and `merges.txt`, for which it
//! builds the pipeline of transformers' `CLIPTokenizer`. Pads and truncates as transformers does
//! with `padding="max_length", truncation=True`: the end token is always kept.

mod clip;
mod files;
mod remarks;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::json;
use tokenizers::models::ModelWrapper;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::normalizers::Lowercase;
use tokenizers::pre_tokenizers::whitespace::Whitespace;
use tokenizers::{
    AddedToken, Model as _, PaddingParams, PaddingStrategy, PostProcessor, TruncationParams,
};

use crate::{Error, Result, safefile};
pub use clip::ClipPadding;
use files::Settings;

/// Length where the files give none: CLIP's.
const DEFAULT_MAX_LEN: usize = 77;

/// The longest prompt that is looked at: tokenizing takes about two seconds a megabyte.
const MAX_PROMPT_BYTES: usize = 1 << 20;

/// The longest length that is allowed.
const LARGEST_MAX_LEN: usize = 4096;

/// A tokenizer with its padding and length.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_len: usize,
    pad_id: u32,
    vocab_size: usize,
    class: String,
    /// `bos_token` and its like, for `tokenizer_config.json`.
    roles: Vec<(&'static str, String)>,
}

/// A prompt's ids, and whether all of it is in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Exactly [`Tokenizer::max_len`] ids.
    pub ids: Vec<u32>,
    /// Whether the prompt was too long, so that its end was cut off.
    pub truncated: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer` folder.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file and what is wrong with it.
    pub fn load(dir: &Path) -> Result<Self> {
        let settings = Settings::read(dir)?;
        let inner = files::pipeline(dir, &settings)?;
        Self::new(inner, settings, dir)
    }

    /// A tokenizer of whole words and punctuation marks, in lower case; `<unk>` stands for what is
    /// not among `words`. The special tokens `<pad>`, `<unk>`, `<start>` and `<end>` have the ids
    /// 0 to 3, the words the ids from 4. (transformers' CLIP takes an end token of id 2 for a mistake of
    /// old configurations, and the token of the highest id for the end.)
    ///
    /// # Errors
    /// [`Error::Input`] for a repeated word or an impossible length.
    pub fn word_level(words: &[&str], max_len: usize) -> Result<Self> {
        const SPECIAL: [&str; 4] = ["<pad>", "<unk>", "<start>", "<end>"];
        let bad = |e: &dyn std::fmt::Display| Error::input(format!("tokenizer: {e}"));
        let entries = SPECIAL.iter().chain(words).zip(0..).map(|(w, id)| (w.to_string(), id));
        let model = WordLevel::builder()
            .vocab(entries.collect())
            .unk_token("<unk>".into())
            .build()
            .map_err(|e| bad(&e))?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_normalizer(Some(Lowercase)).map_err(|e| bad(&e))?;
        inner.with_pre_tokenizer(Some(Whitespace));
        inner.with_post_processor(Some(files::bos_eos(("<start>", 2), ("<end>", 3))));
        if inner.get_vocab(false).len() != SPECIAL.len() + words.len() {
            return Err(bad(&"a word is repeated"));
        }
        let roles = ["pad_token", "unk_token", "bos_token", "eos_token"];
        let settings = Settings {
            special: roles.into_iter().zip(SPECIAL.map(|s| AddedToken::from(s, true))).collect(),
            added: Vec::new(),
            max_len: Some(max_len),
            class: "PreTrainedTokenizerFast".into(),
        };
        Self::new(inner, settings, Path::new("tokenizer"))
    }

    fn new(mut inner: tokenizers::Tokenizer, settings: Settings, dir: &Path) -> Result<Self> {
        let bad = |e: &dyn std::fmt::Display| Error::input(format!("{}: {e}", dir.display()));
        // ids are given out in order, so tokens must be added in order
        for (id, token) in &settings.added {
            inner.add_tokens([token.clone()]).map_err(|e| bad(&e))?;
            let found = inner.token_to_id(&token.content);
            if found != Some(*id) {
                let message = format!(
                    "the added token `{}` should have the id {id}, but gets {found:?}",
                    token.content
                );
                return Err(bad(&message));
            }
        }
        for (_, token) in &settings.special {
            // what is already there has its own way of matching
            if !inner.get_added_vocabulary().get_vocab().contains_key(&token.content) {
                inner.add_tokens([token.clone()]).map_err(|e| bad(&e))?;
            }
        }

        let pad_token = match (settings.named("pad_token"), inner.get_padding()) {
            (Some(name), _) => name.to_owned(),
            (None, Some(padding)) => padding.pad_token.clone(),
            (None, None) => settings.named("eos_token").unwrap_or_default().to_owned(),
        };
        let Some(pad_id) = inner.token_to_id(&pad_token) else {
            return Err(Error::input_hint(
                format!("{}: there is no padding token", dir.display()),
                "name one of the vocabulary as `pad_token` in tokenizer_config.json",
            ));
        };

        let max_len = settings
            .max_len
            .or(inner.get_truncation().map(|truncation| truncation.max_length))
            .unwrap_or(DEFAULT_MAX_LEN);
        let around = inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
        if max_len <= around || max_len > LARGEST_MAX_LEN {
            return Err(bad(&format!(
                "`model_max_length` is {max_len}, but must be from {} to {LARGEST_MAX_LEN}",
                around + 1
            )));
        }
        inner
            .with_truncation(Some(TruncationParams { max_length: max_len, ..Default::default() }))
            .map_err(|e| bad(&e))?;
        inner.with_padding(Some(PaddingParams {
            strategy: PaddingStrategy::Fixed(max_len),
            pad_id,
            pad_token,
            ..Default::default()
        }));
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        let roles = settings.special.into_iter().map(|(role, token)| (role, token.content));
        Ok(Tokenizer {
            roles: roles.collect(),
            class: settings.class,
            inner,
            max_len,
            pad_id,
            vocab_size,
        })
    }

    /// The ids of `prompt`: start token, words, end token, padding.
    ///
    /// # Errors
    /// [`Error::Input`] if the prompt is longer than a mebibyte, or the vocabulary has no token for
    /// a word and no unknown token either.
    pub fn encode(&self, prompt: &str) -> Result<Encoded> {
        let encoding = self.run(prompt, true)?;
        let truncated = !encoding.get_overflowing().is_empty();
        Ok(Encoded { ids: encoding.get_ids().to_vec(), truncated })
    }

    /// The ids of a few words alone: no start token, end token or padding.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_words(&self, words: &str) -> Result<Vec<u32>> {
        let encoding = self.run(words, false)?;
        let ids = encoding.get_ids().iter().zip(encoding.get_attention_mask());
        Ok(ids.filter(|(_, mask)| **mask == 1).map(|(id, _)| *id).collect())
    }

    /// Where `words` stand in `prompt` for the first time: the positions of their tokens among the ids of
    /// [`Tokenizer::encode`], behind the start token. None if they are not in it, or in the part that is
    /// cut off.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn positions(&self, prompt: &str, words: &str) -> Result<Option<RangeInclusive<usize>>> {
        let (all, own) = (self.encode_words(prompt)?, self.encode_words(words)?);
        let found = all.windows(own.len().max(1)).position(|window| window == own);
        let positions = found.map(|before| before + 1..=before + own.len());
        Ok(positions.filter(|positions| *positions.end() < self.max_len - 1))
    }

    fn run(&self, text: &str, around: bool) -> Result<tokenizers::Encoding> {
        if text.len() > MAX_PROMPT_BYTES {
            let size = text.len();
            return Err(Error::input(format!(
                "a prompt of {size} bytes is too long: at most {MAX_PROMPT_BYTES} are read"
            )));
        }
        self.inner
            .encode_fast(text, around)
            .map_err(|e| Error::input(format!("the prompt cannot be tokenized: {e}")))
    }

    /// Adds `token`, which from now on is one token wherever it stands, and returns its id: the
    /// old [`Tokenizer::vocab_size`].
    ///
    /// # Errors
    /// [`Error::Input`] if the token is empty or already there.
    pub fn add_token(&mut self, token: &str) -> Result<u32> {
        if token.trim() != token || token.is_empty() {
            let message =
                format!("`{token}` cannot be a modifier token: it is empty or has space around it");
            return Err(Error::input(message));
        }
        if self.token_id(token).is_some() {
            return Err(Error::input(format!("the tokenizer already has a token `{token}`")));
        }
        self.inner
            .add_tokens([AddedToken::from(token, false)])
            .map_err(|e| Error::input(format!("the token `{token}` cannot be added: {e}")))?;
        let id = self.token_id(token).filter(|id| *id as usize == self.vocab_size);
        let id = id.ok_or_else(|| {
            Error::input(format!("the tokenizer's ids have gaps: `{token}` cannot be added"))
        })?;
        self.vocab_size += 1;
        Ok(id)
    }

    /// Adds tokens that no prompt has until there are `size` ids, so that the next one added is `size`.
    ///
    /// # Errors
    /// [`Error::Input`] if ids are missing in between.
    pub(super) fn fill_up(&mut self, size: usize) -> Result<()> {
        let fillers = (self.vocab_size..size)
            .map(|id| AddedToken::from(format!("<|unused {id}|>"), false).normalized(false));
        self.inner
            .add_tokens(fillers)
            .map_err(|e| Error::input(format!("the tokenizer cannot be filled up: {e}")))?;
        let found = self.inner.get_vocab_size(true);
        if self.vocab_size < size && found != size {
            return Err(Error::input(format!(
                "the tokenizer's ids have gaps: {found} tokens where the text encoder has {size}"
            )));
        }
        self.vocab_size = self.vocab_size.max(size);
        Ok(())
    }

    /// The id of a token of the vocabulary, as it is written there (`dog</w>` in CLIP's).
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token with this id, as it is written in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// One more than the largest id, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The number of ids of every encoded prompt.
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// The id that fills prompts up.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// All that ids depend on.
    pub(super) fn meaning(&self) -> String {
        self.inner.to_string(false).unwrap_or_default()
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into `dir`, for this program and for
    /// transformers, and of word pieces the files that its `CLIPTokenizer` reads in their place.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let bad = |e: &dyn std::fmt::Display| Error::input(format!("{}: {e}", dir.display()));
        let text = self.inner.to_string(true).map_err(|e| bad(&e))?;
        safefile::write(&dir.join("tokenizer.json"), text)?;
        if let ModelWrapper::BPE(pieces) = self.inner.get_model() {
            pieces.save(dir, None).map_err(|e| bad(&e))?;
            let own = |id: &u32| self.inner.get_model().id_to_token(*id).is_none();
            let added = self.inner.get_added_vocabulary().get_vocab();
            let added: BTreeMap<&str, u32> =
                added.iter().filter(|(_, id)| own(id)).map(|(t, id)| (t.as_str(), *id)).collect();
            let text = serde_json::to_string_pretty(&added).map_err(|e| bad(&e))?;
            safefile::write(&dir.join("added_tokens.json"), text + "\n")?;
        }
        let mut config = json!({
            "model_max_length": self.max_len,
            "tokenizer_class": self.class,
            // what a text encoder takes; transformers' default for other tokenizers has one more
            "model_input_names": ["input_ids", "attention_mask"],
        });
        for (role, token) in &self.roles {
            config[role] = json!(token);
        }
        let text = serde_json::to_string_pretty(&config).map_err(|e| bad(&e))?;
        safefile::write(&dir.join("tokenizer_config.json"), text + "\n")
    }
}

#[cfg(test)]
mod tests;
