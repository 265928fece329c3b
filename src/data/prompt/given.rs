//! Prompts of images that are there already: which they are, and how CLIP should see them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::modifier_token;
use crate::{Error, Result, readfile};

const MAX_FILE: u64 = 64 << 20;

/// The prompts of a `prompts.json`, by the names of the images' files, with their extension or without.
///
/// # Errors
/// [`Error::Input`] if it is something else or empty; [`Error::Io`].
pub fn read_prompts_json(file: &Path) -> Result<BTreeMap<String, String>> {
    let hint = "it gives a prompt for every file: {\"0\": \"photo of a dog\"}";
    let text = readfile::text(file, MAX_FILE)?;
    let prompts: BTreeMap<String, String> = serde_json::from_str(&text)
        .map_err(|e| Error::input_hint(format!("{}: {e}", file.display()), hint))?;
    match prompts.is_empty() {
        true => {
            Err(Error::input_hint(format!("{}: there is no prompt in it", file.display()), hint))
        }
        false => Ok(prompts),
    }
}

/// The tokens of the paper's commands in a prompt: `<new1>`, `<new2>`, ….
pub fn numbered_tokens(prompt: &str) -> BTreeSet<&str> {
    let starts = prompt.match_indices('<');
    starts.filter_map(|(at, _)| Some(&prompt[at..at + modifier_token(&prompt[at..])?.1])).collect()
}

/// A prompt without modifier tokens: each of `tokens` is taken out wherever it stands, in letters of any
/// case as tokenizers find it, and nothing else is but the space that is left over.
pub fn without_tokens<S: AsRef<str>>(prompt: &str, tokens: &[S]) -> String {
    let starts = |text: &str, token: &str| {
        text.get(..token.len()).is_some_and(|start| start.eq_ignore_ascii_case(token))
    };
    let mut out = String::with_capacity(prompt.len());
    let mut rest = prompt;
    while let Some(c) = rest.chars().next() {
        let here = tokens.iter().map(AsRef::as_ref).filter(|t| !t.is_empty() && starts(rest, t));
        match here.max_by_key(|token| token.len()) {
            Some(token) => rest = &rest[token.len()..],
            None => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_removed_wherever_they_stand_and_nothing_else_is() {
        for (prompt, wanted) in [
            ("photo of a <new1> dog next to  a <new2> cat", "photo of a dog next to a cat"),
            ("photo of a (<new1>) dog", "photo of a () dog"),
            ("\"<new1> dog\"", "\" dog\""),
            ("<new1>dog, <NEW1> cat", "dog, cat"),
            ("<b>red</b> <new12> <new1", "<b>red</b> <new12> <new1"),
            ("a 3 < 4 cat", "a 3 < 4 cat"),
            ("é<new2>é", "éé"),
            ("my-cat-toy and my-cat", "and"),
        ] {
            let tokens = ["<new1>", "<new2>", "my-cat", "my-cat-toy", ""];
            assert_eq!(without_tokens(prompt, &tokens), wanted);
        }
        let found: Vec<_> =
            numbered_tokens("<new2>a<new1> <new0> <new> <new1>b").into_iter().collect();
        assert_eq!(found, ["<new1>", "<new2>"]);
    }

    #[test]
    fn prompts_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("prompts.json");
        std::fs::write(&file, "\u{feff}{\"0\": \"a dog\"}").unwrap();
        assert_eq!(read_prompts_json(&file).unwrap()["0"], "a dog");
        for text in ["{}", "[]", "{\"0\": 1}", "\u{1}"] {
            std::fs::write(&file, text).unwrap();
            let error = read_prompts_json(&file).unwrap_err();
            assert!(error.to_string().contains("prompts.json") && error.hint().is_some());
        }
    }
}
