//! The JSON configurations of a diffusers folder: read with diffusers' defaults for what is
//! missing, checked before anything is allocated, written so that diffusers reads them again.
//!
//! Keys this crate does not know are kept and written back. Known keys that would change the
//! architecture in a way this crate does not implement are errors.

mod index;
mod scheduler;
mod text_encoder;
mod unet;
mod vae;

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use index::ModelIndex;
pub use scheduler::{BetaSchedule, PredictionType, SchedulerConfig, TimestepSpacing};
pub use text_encoder::{HiddenAct, TextEncoderConfig};
pub use unet::{DownBlock, UNetConfig, UpBlock};
pub use vae::VaeConfig;

use crate::{Error, Result, readfile, safefile};

/// The keys of a JSON object that no typed field takes.
pub type Extra = Map<String, Value>;

/// Version written as `_diffusers_version`: the one whose configurations this module follows.
const DIFFUSERS_VERSION: &str = "0.35.0";

/// Configurations larger than this are not read at all.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// A value for all blocks, or one for each.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum PerBlock<T> {
    /// The same for every block.
    All(T),
    /// One a block, from the outermost to the innermost.
    Each(Vec<T>),
}

impl<T: Copy> PerBlock<T> {
    /// The value of block `i`; `i` must be below the number of blocks of a checked configuration.
    pub fn at(&self, i: usize) -> T {
        match self {
            PerBlock::All(value) => *value,
            PerBlock::Each(values) => values[i],
        }
    }

    fn values(&self) -> &[T] {
        match self {
            PerBlock::All(value) => std::slice::from_ref(value),
            PerBlock::Each(values) => values,
        }
    }

    fn fits(&self, blocks: usize) -> bool {
        matches!(self, PerBlock::All(_)) || self.values().len() == blocks
    }
}

/// What all configurations share.
pub trait Config: DeserializeOwned + Serialize {
    /// Where the file lies in a backbone folder.
    const FILE: &'static str;

    /// Checks values and their relations; [`Problem`] names the key.
    fn check(&self) -> std::result::Result<(), Problem>;

    /// Reads and checks `folder/FILE`.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file, the key and the value, [`Error::Io`] if it cannot be read.
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(Self::FILE);
        Self::from_object(read_object(&path)?, &path)
    }

    /// Parses and checks a JSON text; `origin` stands for the file in errors.
    fn parse(text: &str, origin: &Path) -> Result<Self> {
        Self::from_object(parse_object(text, origin)?, origin)
    }

    /// Takes and checks a JSON object; `origin` stands for the file in errors.
    fn from_object(object: Map<String, Value>, origin: &Path) -> Result<Self> {
        let config: Self = match serde_json::from_value(Value::Object(object.clone())) {
            Ok(config) => config,
            Err(whole) => return Err(culprit::<Self>(object, whole, origin)),
        };
        match config.check() {
            Ok(()) => Ok(config),
            Err(Problem { key, found, want }) => {
                Err(Error::input(format!("{}: `{key}` is {found}, but {want}", origin.display())))
            }
        }
    }

    /// Writes `folder/FILE`.
    fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(Self::FILE);
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
        safefile::write(&path, text + "\n")
    }
}

/// A value that cannot be used: shown as "`key` is found, but want".
#[derive(Debug)]
pub struct Problem {
    key: String,
    found: String,
    want: String,
}

impl Problem {
    fn new(key: &str, found: impl Serialize, want: impl Into<String>) -> Self {
        Problem { key: key.into(), found: shown(&found), want: want.into() }
    }
}

/// A JSON value as it is shown in messages, cut to a line's length.
fn shown(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Requires every value to lie in `1..=max`.
fn bounded(key: &str, values: &[usize], max: usize) -> std::result::Result<(), Problem> {
    match values.iter().find(|v| !(1..=max).contains(*v)) {
        Some(v) => Err(Problem::new(key, v, format!("it must be from 1 to {max}"))),
        None => Ok(()),
    }
}

/// Requires keys that this crate does not implement to hold the value that switches them off.
fn only(extra: &Extra, supported: &[(&str, &[Value])]) -> std::result::Result<(), Problem> {
    for (key, values) in supported {
        let Some(found) = extra.get(*key) else { continue };
        // JSON tells 1 from 1.0, Python does not
        let same = |v: &Value| v == found || (v.is_number() && v.as_f64() == found.as_f64());
        let list_of_same = || {
            found.as_array().is_some_and(|list| {
                !list.is_empty() && list.iter().all(|f| values.iter().any(|v| v == f))
            })
        };
        if !values.iter().any(same) && !list_of_same() {
            let values: Vec<_> = values.iter().map(shown).collect();
            return Err(Problem::new(
                key,
                found,
                format!("only {} is supported", values.join(" or ")),
            ));
        }
    }
    Ok(())
}

/// The first key whose value alone cannot be taken: serde does not tell which one it was.
fn culprit<T: DeserializeOwned>(
    object: Map<String, Value>,
    whole: serde_json::Error,
    origin: &Path,
) -> Error {
    for (key, value) in object {
        let found = shown(&value);
        let alone = Value::Object(Map::from_iter([(key.clone(), value)]));
        if let Err(e) = serde_json::from_value::<T>(alone) {
            return Error::input(format!("{}: `{key}` is {found}: {e}", origin.display()));
        }
    }
    Error::input(format!("{}: {whole}", origin.display()))
}

/// Reads a JSON object from a file of reasonable size.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    parse_object(&readfile::text(path, MAX_CONFIG_BYTES)?, path)
}

fn parse_object(text: &str, origin: &Path) -> Result<Map<String, Value>> {
    match serde_json::from_str(&python_constants_to_null(text)) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(Error::input(format!(
            "{}: {} where a JSON object was wanted",
            origin.display(),
            shown(&other)
        ))),
        Err(e) => Err(Error::input(format!("{}: not valid JSON: {e}", origin.display()))),
    }
}

/// Python writes `-Infinity`, `Infinity` and `NaN`, which JSON has not; diffusers does so for
/// `lambda_min_clipped`, where no limit is meant.
fn python_constants_to_null(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut in_string) = (text, false);
    'next: while let Some(c) = rest.chars().next() {
        if !in_string {
            for constant in ["-Infinity", "Infinity", "NaN"] {
                if let Some(after) = rest.strip_prefix(constant) {
                    out.push_str("null");
                    rest = after;
                    continue 'next;
                }
            }
        }
        let mut taken = c.len_utf8();
        match c {
            '"' => in_string = !in_string,
            '\\' => taken += rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => {}
        }
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests;
