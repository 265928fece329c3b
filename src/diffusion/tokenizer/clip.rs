//! CLIP's word pieces, compiled in: for backbones that come without a tokenizer.

use std::io::Read;

use flate2::read::GzDecoder;
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Vocab};

use super::files::{END, START, Settings, clip_pipeline};
use super::{DEFAULT_MAX_LEN, Tokenizer};
use crate::{Error, Result};

/// The merges that CLIP uses, a line each, as transformers' `merges.txt` has them: see the folder's README.
static MERGES: &[u8] = include_bytes!("../../../assets/clip/merges.txt.gz");

/// What fills prompts up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipPadding {
    /// The end token, as in CLIP itself and SD 1.x.
    End,
    /// `!`, the token 0, as in SD 2.x; in a prompt it is then cut out whole.
    ExclamationMark,
}

impl Tokenizer {
    /// CLIP's own tokenizer.
    ///
    /// # Errors
    /// None but a bug's.
    pub fn clip(padding: ClipPadding) -> Result<Self> {
        let bad = |e: &dyn std::fmt::Display| Error::input(format!("CLIP's tokenizer: {e}"));
        let mut text = String::new();
        GzDecoder::new(MERGES).read_to_string(&mut text).map_err(|e| bad(&e))?;
        let lines = text.lines().filter(|line| !line.starts_with("#version"));
        let merges: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(' '))
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .collect();
        let letters: Vec<String> = letters().map(String::from).collect();
        let ends = letters.iter().map(|letter| format!("{letter}</w>"));
        let joined = merges.iter().map(|(a, b)| format!("{a}{b}"));
        let special = [START, END].map(str::to_owned);
        let pieces = letters.iter().cloned().chain(ends).chain(joined).chain(special);
        let pieces = BPE::builder().vocab_and_merges(pieces.zip(0..).collect::<Vocab>(), merges);

        let pad = match padding {
            ClipPadding::End => END,
            ClipPadding::ExclamationMark => "!",
        };
        let roles =
            [("bos_token", START), ("eos_token", END), ("unk_token", END), ("pad_token", pad)];
        let settings = Settings {
            special: roles.map(|(role, token)| (role, AddedToken::from(token, true))).to_vec(),
            added: vec![],
            max_len: Some(DEFAULT_MAX_LEN),
            class: "CLIPTokenizer".into(),
        };
        let inner = clip_pipeline(pieces, &settings).map_err(|e| bad(&e))?;
        Self::new(inner, settings, "CLIP's tokenizer".as_ref())
    }
}

/// The letters that stand for bytes, in the order of their tokens: first the bytes that are printable
/// characters themselves, then the others in the place of characters from 256 on (GPT-2's).
fn letters() -> impl Iterator<Item = char> {
    let printable = ('!'..='~').chain('\u{a1}'..='\u{ac}').chain('\u{ae}'..='\u{ff}');
    printable.chain((256..324).filter_map(char::from_u32))
}
