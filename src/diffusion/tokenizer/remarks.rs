//! What a person should know of a prompt: what the model does not see of it, or does not know.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokenizers::Encoding;

use super::{MAX_PROMPT_BYTES, Tokenizer};

/// Prompts of which a process says something; a corpus may have thousands.
const MOST: usize = 20;

/// What was said.
static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

impl Tokenizer {
    /// What a person should know of `prompt`, a sentence each: that it is empty, which tokens and words
    /// of it the vocabulary does not know, what of it is too long.
    pub fn remarks(&self, prompt: &str) -> Vec<String> {
        let mut remarks = vec![];
        if prompt.trim().is_empty() {
            remarks.push("the prompt is empty: nothing says what the images are to show".into());
        }
        let foreign: Vec<(usize, &str)> = marked(prompt)
            .filter(|(_, word)| {
                let lower = word.to_lowercase();
                self.token_id(word).or_else(|| self.token_id(&lower)).is_none()
            })
            .collect();
        for word in foreign.iter().map(|(_, word)| *word).collect::<BTreeSet<_>>() {
            remarks.push(format!(
                "prompt `{}`: `{word}` is no token of this model and is read letter by letter; \
                 --checkpoint brings the tokens that were trained",
                short(prompt)
            ));
        }
        let within = |at: usize| foreign.iter().any(|(s, w)| (*s..s + w.len()).contains(&at));
        let unknown = self.unknown(prompt).into_iter().filter(|(at, _)| !within(*at));
        let unknown: BTreeSet<&str> = unknown.map(|(_, word)| word).collect();
        if !unknown.is_empty() {
            let words: Vec<&str> = unknown.into_iter().collect();
            remarks.push(format!(
                "prompt `{}`: the model does not know `{}`",
                short(prompt),
                words.join("`, `")
            ));
        }
        remarks.extend(self.too_long(prompt));
        remarks
    }

    /// Whether the vocabulary has tokens for all of `words`: without, one token stands for all others.
    pub fn knows(&self, words: &str) -> bool {
        self.unknown(words).is_empty()
    }

    /// Warns of the [remarks](Tokenizer::remarks) on `prompt`, unless that has been done.
    pub fn warn(&self, prompt: &str) {
        once(prompt, || self.remarks(prompt));
    }

    /// Warns of the part of `prompt` that is too long, unless that has been done.
    pub fn warn_if_too_long(&self, prompt: &str) {
        once(prompt, || self.too_long(prompt).into_iter().collect());
    }

    fn too_long(&self, prompt: &str) -> Option<String> {
        let Some(unseen) = self.unseen(prompt) else {
            // what would fit if every token stood for one
            let cut = self.encode(prompt).is_ok_and(|encoded| encoded.truncated);
            return cut.then(|| {
                format!(
                    "prompt `{}` is longer than the {} tokens that the model reads, as some of its \
                     tokens have several vectors: its end is not seen",
                    short(prompt),
                    self.max_len
                )
            });
        };
        Some(format!(
            "prompt `{}` is longer than the {} tokens that the model reads: `{}` is not seen",
            short(prompt),
            self.max_len,
            short(unseen)
        ))
    }

    /// The part of `prompt` that is cut off.
    fn unseen<'a>(&self, prompt: &'a str) -> Option<&'a str> {
        let encoding = self.with_offsets(prompt)?;
        let rest = encoding.get_overflowing().first()?;
        let (at, _) = own(rest).next()?;
        prompt.get(at..)
    }

    /// The words that the vocabulary has no token for, with their places.
    fn unknown<'a>(&self, prompt: &'a str) -> Vec<(usize, &'a str)> {
        let role = |name: &str| self.roles.iter().find(|(r, _)| *r == name).map(|(_, t)| t);
        // CLIP's vocabulary, which has all bytes, calls its end token so
        let unk = role("unk_token").filter(|token| role("eos_token") != Some(token));
        let Some(unk) = unk.and_then(|token| self.token_id(token)) else { return vec![] };
        let Some(encoding) = self.with_offsets(prompt) else { return vec![] };
        let words = own(&encoding).filter(|(_, id)| *id == unk);
        let places: BTreeSet<usize> = words.map(|(at, _)| at).collect();
        let end = |at: usize| {
            let ends = encoding.get_offsets().iter().filter(|(start, _)| *start == at);
            ends.map(|(_, end)| *end).max()
        };
        places.into_iter().filter_map(|at| Some((at, prompt.get(at..end(at)?)?))).collect()
    }

    fn with_offsets(&self, prompt: &str) -> Option<Encoding> {
        if prompt.len() > MAX_PROMPT_BYTES {
            return None;
        }
        self.inner.encode(prompt, true).ok()
    }
}

/// The tokens of the text itself: where each starts, and its id.
fn own(encoding: &Encoding) -> impl Iterator<Item = (usize, u32)> {
    let special = encoding.get_special_tokens_mask().iter().zip(encoding.get_attention_mask());
    let all = encoding.get_offsets().iter().zip(encoding.get_ids()).zip(special);
    all.filter(|(_, (special, seen))| **special == 0 && **seen == 1)
        .map(|(((start, _), id), _)| (*start, *id))
}

/// Words in angle brackets, as modifier tokens are written.
fn marked(prompt: &str) -> impl Iterator<Item = (usize, &str)> {
    prompt.match_indices('<').filter_map(|(at, _)| {
        let inner = &prompt[at + 1..];
        let end = inner.find(|c: char| c == '>' || c == '<' || c.is_whitespace())?;
        let closed = end > 0 && inner[end..].starts_with('>');
        closed.then(|| (at, &prompt[at..at + end + 2]))
    })
}

fn short(prompt: &str) -> String {
    match prompt.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &prompt[..end]),
        None => prompt.to_owned(),
    }
}

fn once(prompt: &str, remarks: impl FnOnce() -> Vec<String>) {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.len() > MOST || said.contains(prompt) {
        return;
    }
    let remarks = remarks();
    if remarks.is_empty() {
        return;
    }
    said.insert(prompt.to_owned());
    match said.len() > MOST {
        true => tracing::warn!("there is something to say of more prompts; it is not said"),
        false => remarks.iter().for_each(|remark| tracing::warn!("{remark}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_does_not_see_or_know_is_said() {
        let words = ["a", "dog", "on", "the", "beach"];
        let mut tokenizer = Tokenizer::word_level(&words, 8).unwrap();
        let said = |tokenizer: &Tokenizer, prompt: &str| tokenizer.remarks(prompt).join("\n");
        assert_eq!(said(&tokenizer, "a dog on the beach"), "");
        assert!(said(&tokenizer, " ").contains("empty"));
        let long = said(&tokenizer, "a dog on the beach, Zebra dog, the end");
        assert!(long.contains("8 tokens") && long.contains("`Zebra dog, the end`"), "{long}");
        let unknown = said(&tokenizer, "a wolf, Ünï dog");
        assert!(unknown.contains("does not know `,`, `wolf`, `Ünï`"), "{unknown}");

        assert!(tokenizer.knows("the dog") && !tokenizer.knows("the wolf"));

        let foreign = said(&tokenizer, "a <new1> dog");
        assert!(foreign.contains("`<new1>` is no token"), "{foreign}");
        assert!(!foreign.contains("does not know"), "once is enough: {foreign}");
        tokenizer.add_token("<new1>").unwrap();
        assert_eq!(said(&tokenizer, "a <new1> dog <NEW1>"), "");
        assert!(said(&tokenizer, "a < b > c <>").contains("does not know"));
    }
}
