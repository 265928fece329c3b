//! What transformers reads from a tokenizer folder, in the order it reads it.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::models::bpe::{BPE, BpeBuilder};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{
    Lowercase, NFC, NormalizerWrapper, Replace, Sequence as Normalizers,
};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::LARGEST_MAX_LEN;
use crate::diffusion::config::read_object;
use crate::{Error, Result, readfile};

pub(super) const START: &str = "<|startoftext|>";
pub(super) const END: &str = "<|endoftext|>";

/// Bytes of a `tokenizer.json`; the largest vocabularies take some tens of millions.
const MAX_TOKENIZER: u64 = 256 << 20;

/// The roles of special tokens, in transformers' order.
const ROLES: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];

/// CLIP's words: contractions, runs of letters, single digits, runs of anything else.
const CLIP_WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// What `tokenizer_config.json` and its companions say.
pub(super) struct Settings {
    /// Special tokens with their roles.
    pub(super) special: Vec<(&'static str, AddedToken)>,
    /// Tokens beside the model's vocabulary, by id.
    pub(super) added: Vec<(u32, AddedToken)>,
    pub(super) max_len: Option<usize>,
    pub(super) class: String,
}

impl Settings {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let config_file = dir.join("tokenizer_config.json");
        let mut config = optional(&config_file)?;
        let mut added = Vec::new();
        match config.get("added_tokens_decoder").cloned() {
            Some(Value::Object(tokens)) => {
                for (id, token) in tokens {
                    let id = id.parse().ok().zip(as_token(&token, false));
                    added.push(
                        id.ok_or_else(|| wrong(&config_file, "added_tokens_decoder", &token))?,
                    );
                }
            }
            // the layout of the years before: here, this file has the last word (SD 2.x pads with
            // "!" by it)
            _ => {
                config.extend(optional(&dir.join("special_tokens_map.json"))?);
                let file = dir.join("added_tokens.json");
                for (token, id) in optional(&file)? {
                    let special = ROLES.iter().any(|role| {
                        config
                            .get(*role)
                            .and_then(|t| as_token(t, true))
                            .is_some_and(|t| t.content == token)
                    });
                    let id_number = id.as_u64().and_then(|id| u32::try_from(id).ok());
                    let id = id_number.ok_or_else(|| wrong(&file, &token, &id))?;
                    added.push((id, AddedToken::from(token, special)));
                }
            }
        }
        added.sort_by_key(|(id, _)| *id);

        let class = match config.get("tokenizer_class").and_then(Value::as_str) {
            Some(class) => class.to_owned(),
            None if dir.join("tokenizer.json").is_file() => "PreTrainedTokenizerFast".to_owned(),
            None => "CLIPTokenizer".to_owned(),
        };
        let mut special = Vec::new();
        for role in ROLES {
            match config.get(role) {
                None | Some(Value::Null) if class.starts_with("CLIP") => {
                    let token = if role == "bos_token" { START } else { END };
                    special.push((role, AddedToken::from(token, true)));
                }
                None | Some(Value::Null) => {}
                Some(value) => match as_token(value, true) {
                    Some(token) => special.push((role, token)),
                    None => return Err(wrong(&config_file, role, value)),
                },
            }
        }
        let max_len = match config.get("model_max_length") {
            None | Some(Value::Null) => None,
            Some(value) => match value.as_f64() {
                // transformers writes 10³⁰ for "unknown"
                Some(length) if length > 1e9 => None,
                Some(length) if length >= 1.0 && length <= LARGEST_MAX_LEN as f64 => {
                    Some(length as usize)
                }
                _ => return Err(wrong(&config_file, "model_max_length", value)),
            },
        };
        Ok(Settings { special, added, max_len, class })
    }

    pub(super) fn named(&self, role: &str) -> Option<&str> {
        self.special.iter().find(|(r, _)| *r == role).map(|(_, token)| token.content.as_str())
    }
}

/// The tokenizer itself: `tokenizer.json`, or CLIP's pipeline on `vocab.json` and `merges.txt`.
pub(super) fn pipeline(dir: &Path, settings: &Settings) -> Result<tokenizers::Tokenizer> {
    let file = dir.join("tokenizer.json");
    if file.is_file() {
        let bad = |e: &dyn std::fmt::Display| {
            Error::input(format!("{}: not a tokenizer: {e}", file.display()))
        };
        let text = readfile::text(&file, MAX_TOKENIZER)?;
        // the library panics on some of what is no JSON
        serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|e| bad(&e))?;
        return text.parse().map_err(|e: tokenizers::Error| bad(&e));
    }
    let [vocab, merges] = ["vocab.json", "merges.txt"].map(|name| dir.join(name));
    if !vocab.is_file() || !merges.is_file() {
        return Err(Error::input_hint(
            format!("{}: no tokenizer is here", dir.display()),
            "it needs tokenizer.json, or vocab.json and merges.txt",
        ));
    }
    let (Some(vocab_path), Some(merges_path)) = (vocab.to_str(), merges.to_str()) else {
        return Err(Error::input(format!("{}: the path is not UTF-8", dir.display())));
    };
    let bad = |e: &dyn std::fmt::Display| {
        Error::input(format!("{} with {}: {e}", vocab.display(), merges.display()))
    };
    let model = BPE::from_file(vocab_path, merges_path);
    clip_pipeline(model, settings).map_err(|e| bad(&e))
}

/// CLIP's pipeline on its word pieces.
pub(super) fn clip_pipeline(
    pieces: BpeBuilder,
    settings: &Settings,
) -> tokenizers::Result<tokenizers::Tokenizer> {
    let role = |role| settings.named(role).unwrap_or(END).to_owned();
    let model = pieces
        .end_of_word_suffix("</w>".into())
        .continuing_subword_prefix(String::new())
        .unk_token(role("unk_token"))
        .build()?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let whitespace = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ")?;
    let normalizers: Vec<NormalizerWrapper> = vec![NFC.into(), whitespace.into(), Lowercase.into()];
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers)))?;
    let words =
        Split::new(SplitPattern::Regex(CLIP_WORDS.into()), SplitDelimiterBehavior::Removed, true);
    let pre_tokenizers: Vec<PreTokenizerWrapper> =
        vec![words?.into(), ByteLevel::new(false, true, true).into()];
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(pre_tokenizers)));

    let (bos, eos) = (role("bos_token"), role("eos_token"));
    let id = |token: &str| -> tokenizers::Result<u32> {
        let missing = || format!("the vocabulary has no token `{token}`").into();
        tokenizer.token_to_id(token).ok_or_else(missing)
    };
    let (bos_id, eos_id) = (id(&bos)?, id(&eos)?);
    tokenizer.with_post_processor(Some(bos_eos((&bos, bos_id), (&eos, eos_id))));
    Ok(tokenizer)
}

/// Puts a start token before and an end token after.
pub(super) fn bos_eos(bos: (&str, u32), eos: (&str, u32)) -> RobertaProcessing {
    RobertaProcessing::new((eos.0.into(), eos.1), (bos.0.into(), bos.1))
        .trim_offsets(false)
        .add_prefix_space(false)
}

/// A token as transformers writes it: its text, or an object with its options.
fn as_token(value: &Value, special: bool) -> Option<AddedToken> {
    let fields = match value {
        Value::String(text) => return Some(AddedToken::from(text.clone(), special)),
        Value::Object(fields) => fields,
        _ => return None,
    };
    let flag = |name: &str, default| fields.get(name).and_then(Value::as_bool).unwrap_or(default);
    let special = flag("special", special);
    Some(
        AddedToken::from(fields.get("content")?.as_str()?, special)
            .single_word(flag("single_word", false))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .normalized(flag("normalized", !special)),
    )
}

fn optional(file: &Path) -> Result<Map<String, Value>> {
    if file.exists() { read_object(file) } else { Ok(Map::new()) }
}

fn wrong(file: &Path, key: &str, found: &Value) -> Error {
    Error::input(format!("{}: `{key}` cannot be {found}", file.display()))
}
