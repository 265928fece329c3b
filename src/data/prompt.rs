//! Prompts with places for concepts.

mod given;

use std::path::Path;

use serde::{Serialize, Serializer};

use crate::{Error, Result, readfile};

pub use given::{numbered_tokens, read_prompts_json, without_tokens};

const MAX_FILE: u64 = 4 << 20;
const MAX_PROMPTS: usize = 10_000;
/// Bytes of one prompt: every tokenizer cuts long before.
const MAX_PROMPT: usize = 2_000;

/// A prompt that names concepts:
///
/// - `{}`: the concept; with several concepts, the first `{}` is the first concept and so on;
/// - `{0}`, `{1}`, …: concepts by number;
/// - `<new1>`, `<new2>`, …: concepts by modifier token, as the paper's own commands write them. The
///   category word may follow (`a <new1> dog in the snow`): it is not said twice.
///
/// `{{` and `}}` stand for braces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prompt {
    template: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Part {
    Text(String),
    /// A concept's number, and whether it was written as a modifier token.
    Slot(usize, bool),
}

impl Prompt {
    /// Reads a template that may name `concepts` concepts.
    ///
    /// # Errors
    /// [`Error::Input`] if it is empty or too long, names a concept that does not exist, or has a brace
    /// without its other half.
    pub fn parse(template: &str, concepts: usize) -> Result<Prompt> {
        let wrong = |what: String, hint: &str| {
            let shown: String = template.chars().take(100).collect();
            Error::input_hint(format!("prompt `{shown}`: {what}"), hint)
        };
        const HINT: &str = "write {} where the concept goes, {0} and {1} where there are several; \
            {{ and }} are plain braces";
        let template = template.trim();
        if template.is_empty() {
            return Err(Error::input("a prompt is empty"));
        }
        if template.len() > MAX_PROMPT {
            return Err(wrong(format!("it has more than {MAX_PROMPT} bytes"), "shorten it"));
        }
        let mut parts: Vec<Part> = vec![];
        let text = |parts: &mut Vec<Part>, c: char| match parts.last_mut() {
            Some(Part::Text(text)) => text.push(c),
            _ => parts.push(Part::Text(c.into())),
        };
        let (mut plain, mut numbered) = (0, false);
        let mut rest = template;
        while let Some(c) = rest.chars().next() {
            let (slot, length) = match c {
                '{' | '}' if rest[1..].starts_with(c) => {
                    text(&mut parts, c);
                    rest = &rest[2..];
                    continue;
                }
                '{' => {
                    let end = rest.find('}').ok_or_else(|| wrong("a { has no }".into(), HINT))?;
                    let number = match rest[1..end].trim() {
                        "" => {
                            plain += 1;
                            if concepts == 1 { 0 } else { plain - 1 }
                        }
                        number => {
                            numbered = true;
                            let named = || wrong(format!("{{{number}}} is no number"), HINT);
                            number.parse().map_err(|_| named())?
                        }
                    };
                    (Some((number, false)), end + 1)
                }
                '}' => return Err(wrong("a } has no {".into(), HINT)),
                '<' => match modifier_token(rest) {
                    Some((number, length)) => (Some((number, true)), length),
                    None => (None, 1),
                },
                c => (None, c.len_utf8()),
            };
            match slot {
                None => text(&mut parts, c),
                Some((number, token)) => {
                    if number >= concepts {
                        let what = &rest[..length];
                        let there = match concepts {
                            0 => "there is no concept".to_owned(),
                            1 => "there is one concept".to_owned(),
                            n => format!("there are {n} concepts"),
                        };
                        return Err(wrong(
                            format!("{what} names concept {}, but {there}", number + 1),
                            HINT,
                        ));
                    }
                    parts.push(Part::Slot(number, token));
                }
            }
            rest = &rest[length..];
        }
        if plain > 0 && numbered && concepts > 1 {
            return Err(wrong("it mixes {} with numbers".into(), HINT));
        }
        Ok(Prompt { template: template.to_owned(), parts })
    }

    /// The prompt with `phrases[i]` in the places of concept `i`: `<new1> dog` to sample, `dog` for
    /// CLIP. An empty phrase, or one that is not there, leaves no gap.
    pub fn fill<S: AsRef<str>>(&self, phrases: &[S]) -> String {
        let mut out = String::new();
        for (i, part) in self.parts.iter().enumerate() {
            match part {
                Part::Text(text) => {
                    let after_gap = out.is_empty() || out.ends_with(char::is_whitespace);
                    if after_gap && i > 0 && text.starts_with([',', '.', ';', ':', '!', '?']) {
                        out.truncate(out.trim_end().len());
                    }
                    out.push_str(text);
                }
                Part::Slot(number, token) => {
                    let phrase = phrases.get(*number).map_or("", |p| p.as_ref().trim());
                    let behind = match self.parts.get(i + 1) {
                        Some(Part::Text(text)) if *token => text,
                        _ => "",
                    };
                    out.push_str(without_repetition(phrase, behind));
                }
            }
        }
        out.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// As it was written.
    pub fn template(&self) -> &str {
        &self.template
    }

    /// Whether it names concept `number`.
    pub fn names(&self, number: usize) -> bool {
        self.parts.iter().any(|p| matches!(p, Part::Slot(n, _) if *n == number))
    }
}

impl Serialize for Prompt {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.template)
    }
}

/// `<new1>` at the start of `text`: the concept's number from 0, and the token's length.
fn modifier_token(text: &str) -> Option<(usize, usize)> {
    let rest = text.strip_prefix("<new")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    rest[digits..].strip_prefix('>')?;
    let number: usize = rest[..digits].parse().ok()?;
    Some((number.checked_sub(1)?, "<new".len() + digits + 1))
}

/// `phrase` without the words at its end that `behind` starts with. Brackets and quotation marks that close
/// around a token alone, and what stands behind a word, do not hide it.
fn without_repetition<'a>(phrase: &'a str, behind: &str) -> &'a str {
    let behind = behind.trim_start_matches([')', ']', '}', '"', '\'', '’', '”', '»', '›']);
    let alone = |word: &str| word.trim_end_matches(|c: char| !c.is_alphanumeric()).to_owned();
    let starts = |words: &str| {
        let (mut there, mut wanted) = (behind.split_whitespace(), words.split_whitespace());
        wanted.all(|w| there.next().is_some_and(|t| alone(t) == alone(w)))
    };
    let words = phrase.char_indices().filter(|&(i, c)| {
        !c.is_whitespace() && (i == 0 || phrase[..i].ends_with(char::is_whitespace))
    });
    let at = words.map(|(i, _)| i).find(|&i| starts(&phrase[i..]));
    at.map_or(phrase, |i| phrase[..i].trim_end())
}

/// The prompts of a text file, one a line; empty lines and lines that start with `#` are passed over.
///
/// # Errors
/// [`Error::Input`] naming file and line: no prompt, none that names a concept, a prompt that cannot
/// be used; [`Error::Io`].
pub fn read_prompts(file: &Path, concepts: usize) -> Result<Vec<Prompt>> {
    let bad = |what: String, hint: Option<String>| Error::Input {
        message: format!("{}: {what}", file.display()),
        hint,
    };
    let text = readfile::text(file, MAX_FILE)?;
    let mut prompts = vec![];
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        prompts.push(
            Prompt::parse(line, concepts)
                .map_err(|e| bad(format!("line {}: {e}", i + 1), e.hint().map(str::to_owned)))?,
        );
        if prompts.len() > MAX_PROMPTS {
            return Err(bad(format!("more than {MAX_PROMPTS} prompts"), None));
        }
    }
    let hint = "write one prompt a line, with {} where the concept goes";
    if prompts.is_empty() {
        return Err(bad("there is no prompt in it".into(), Some(hint.into())));
    }
    if concepts > 0 && !prompts.iter().any(|p| (0..concepts).any(|n| p.names(n))) {
        return Err(bad("no prompt names a concept".into(), Some(hint.into())));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fill(template: &str, phrases: &[&str]) -> String {
        Prompt::parse(template, phrases.len()).unwrap().fill(phrases)
    }

    fn refused(template: &str, concepts: usize) -> String {
        Prompt::parse(template, concepts).unwrap_err().to_string()
    }

    #[test]
    fn concepts_take_their_places() {
        assert_eq!(
            fill("photo of a {} at night", &["<new1> dog"]),
            "photo of a <new1> dog at night"
        );
        assert_eq!(fill("{} and {}", &["a", "b"]), "a and b");
        assert_eq!(fill("{1} on top of a {0}", &["cat", "chair"]), "chair on top of a cat");
        assert_eq!(fill("<new2> next to <new1>", &["cat", "chair"]), "chair next to cat");
        assert_eq!(fill("a {{}} {} <b> ünï", &["x"]), "a {} x <b> ünï");
        assert_eq!(fill("{} {}", &["x"]), "x x", "one concept may be named twice");
    }

    #[test]
    fn a_category_behind_a_modifier_token_is_said_once() {
        let template = "a <new1> stuffed animal in the snow";
        let full = "a <new1> stuffed animal in the snow";
        assert_eq!(fill(template, &["<new1> stuffed animal"]), full);
        assert_eq!(fill(template, &["stuffed animal"]), "a stuffed animal in the snow");
        assert_eq!(fill("a <new1> in the snow", &["sks dog"]), "a sks dog in the snow");
        assert_eq!(fill("a <new1> doghouse", &["sks dog"]), "a sks dog doghouse");
        assert_eq!(fill("a <new1> dog, sleeping", &["sks dog"]), "a sks dog, sleeping");
        // and what CLIP sees has no token, wherever it stood
        for (template, full, alone) in [
            ("a (<new1>) dog", "a (<new1>) dog", "a () dog"),
            ("\"<new1> dog\"", "\"<new1> dog\"", "\" dog\""),
            ("<new1>dog!", "<new1>dog!", "dog!"),
            ("a <new1>, dog", "a <new1> dog, dog", "a dog, dog"),
        ] {
            assert_eq!(fill(template, &["<new1> dog"]), full);
            assert_eq!(fill(template, &["dog"]), alone);
        }
    }

    #[test]
    fn empty_phrases_leave_no_gap() {
        assert_eq!(fill("photo of a {} dog", &[""]), "photo of a dog");
        assert_eq!(fill("{} in the snow", &[" "]), "in the snow");
        assert_eq!(fill("a {}, at night", &[""]), "a, at night");
        assert_eq!(Prompt::parse("a {1} b", 2).unwrap().fill::<&str>(&[]), "a b");
    }

    #[test]
    fn places_that_do_not_exist() {
        assert!(refused("a {0} {1} in the jungle", 1).contains("{1} names concept 2"));
        assert!(refused("{} {} {}", 2).contains("there are 2 concepts"));
        assert!(refused("<new3>", 2).contains("<new3> names concept 3"));
        assert!(refused("a {}", 0).contains("there is no concept"));
        assert!(refused("a {dog}", 1).contains("{dog} is no number"));
        assert!(refused("a { dog", 1).contains("no }"));
        assert!(refused("a } dog", 1).contains("no {"));
        assert!(refused("{} and {1}", 2).contains("mixes"));
        assert!(refused("  ", 1).contains("empty"));
    }

    #[test]
    fn files_with_comments_and_empty_lines() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("prompts.txt");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("\u{feff}# scenes\n\n  photo of a {} in the snow \r\n{} at night\nan empty room\n");
        let prompts = read_prompts(&file, 1).unwrap();
        assert_eq!(prompts.len(), 3);
        assert_eq!(prompts[0].template(), "photo of a {} in the snow");
        assert!(prompts[1].names(0) && !prompts[2].names(0));

        write("# nothing\n\n");
        assert!(read_prompts(&file, 1).unwrap_err().to_string().contains("no prompt"));
        write("a dog\n");
        assert!(read_prompts(&file, 1).unwrap_err().to_string().contains("names a concept"));
        assert_eq!(read_prompts(&file, 0).unwrap().len(), 1);
        write("a {}\n\nb {2}\n");
        let error = read_prompts(&file, 1).unwrap_err().to_string();
        assert!(error.contains("prompts.txt: line 3"), "{error}");
        std::fs::write(&file, [0xff, 0xfe]).unwrap();
        assert_eq!(read_prompts(&file, 1).unwrap_err().exit_code(), 3);
        assert_eq!(read_prompts(&dir.path().join("none"), 1).unwrap_err().exit_code(), 4);
    }

    proptest! {
        #[test]
        fn any_text_is_a_prompt_or_an_error(text in "[a{}<>new01 ,é]{0,30}", concepts in 0usize..3) {
            if let Ok(prompt) = Prompt::parse(&text, concepts) {
                let filled = prompt.fill(&["", "x y"]);
                prop_assert!(!filled.contains("  "));
                prop_assert_eq!(filled.trim(), &filled);
            }
        }
    }
}
