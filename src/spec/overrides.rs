//! `--set a.b=c`.

use std::str::FromStr;

use crate::{Error, Result};

/// A value given on the command line in place of the file's: `sampling.steps=20`,
/// `rows.2.settings.lr=1e-4`.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    path: Vec<String>,
    value: toml::Value,
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (path, value) =
            text.split_once('=').ok_or("use KEY=VALUE, such as sampling.steps=20")?;
        let path: Vec<String> = path.trim().split('.').map(|p| p.trim().to_owned()).collect();
        if path.iter().any(String::is_empty) {
            return Err(format!("`{text}`: a key is empty"));
        }
        // whatever TOML does not read as a value is a string
        let value = value.trim();
        let parsed = toml::from_str::<toml::Table>(&format!("v = {value}"));
        let value = match parsed.ok().and_then(|mut t| t.remove("v")) {
            Some(parsed) => parsed,
            None => toml::Value::String(value.to_owned()),
        };
        Ok(Override { path, value })
    }
}

/// As `--set` takes it.
impl std::fmt::Display for Override {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}={}", self.path.join("."), self.value)
    }
}

impl Override {
    /// A text for the value at `path`.
    pub fn text(path: &[&str], text: &str) -> Self {
        let path = path.iter().map(|key| (*key).to_owned()).collect();
        Override { path, value: toml::Value::String(text.to_owned()) }
    }

    /// Puts the value into `table`.
    ///
    /// # Errors
    /// A path through something that has no keys.
    pub fn apply(&self, table: &mut toml::Table) -> Result<()> {
        let whole = self.path.join(".");
        let bad = |at: &str, what: &str| Error::input(format!("--set {whole}: `{at}` {what}"));
        let (last, way) = self.path.split_last().expect("checked when it was parsed");
        let entry = |values: &[toml::Value], key: &str| match key.parse::<usize>() {
            Ok(i) if i < values.len() => Ok(i),
            _ => Err(bad(key, "is not the number of an entry, counted from 0")),
        };
        let no_keys = |key: &str| bad(key, "is below a value that has no keys");
        let mut whole = toml::Value::Table(std::mem::take(table));
        let put = |whole: &mut toml::Value| {
            let mut here = whole;
            for key in way {
                here = match here {
                    toml::Value::Table(t) => {
                        t.entry(key.clone()).or_insert_with(|| toml::Table::new().into())
                    }
                    toml::Value::Array(a) => {
                        let i = entry(a, key)?;
                        &mut a[i]
                    }
                    _ => return Err(no_keys(key)),
                };
            }
            match here {
                toml::Value::Table(t) => drop(t.insert(last.clone(), self.value.clone())),
                toml::Value::Array(a) => {
                    let i = entry(a, last)?;
                    a[i] = self.value.clone();
                }
                _ => return Err(no_keys(last)),
            }
            Ok(())
        };
        let outcome = put(&mut whole);
        if let toml::Value::Table(whole) = whole {
            *table = whole;
        }
        outcome
    }
}
