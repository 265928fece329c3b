//! Methods of others: programs that train, sample, or both. `docs/external-methods.md` says what they are
//! given and what they give back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Method, Modifier, Profile, Recipe, Settings, defaults};
use crate::{Error, Result};

/// The method of a row that names programs; the row says which.
pub(super) struct Command;

/// What a row of it is called.
pub const COMMAND: &str = "command";

impl Method for Command {
    fn name(&self) -> &'static str {
        COMMAND
    }

    fn title(&self) -> &'static str {
        "Command"
    }

    fn about(&self) -> &'static str {
        "a program of others trains or samples"
    }

    /// None of them is used.
    fn defaults(&self, profile: Profile, concepts: usize) -> Settings {
        defaults::custom_diffusion(profile, concepts)
    }

    /// Without a row that names programs there is nothing to run.
    fn recipe(&self, _: &[String], _: &Settings, _: u64) -> Recipe {
        Recipe::Pretrained
    }
}

/// Programs of others as a row names them, with all that their results depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct External {
    /// The trainer and its arguments.
    pub train: Option<Vec<String>>,
    /// The sampler and its arguments; what the trainer wrote is a checkpoint of ours where there is none.
    pub sample: Option<Vec<String>>,
    /// What the row sets, for arguments such as `{lr}`.
    pub settings: BTreeMap<String, Value>,
    /// How concepts are called in prompts.
    pub modifier: Modifier,
    /// Training steps, where the row says how many.
    pub steps: u64,
    /// Which version the programs have.
    pub version: String,
    /// Hashes of the files that they consist of, by the names that the row gives them.
    pub inputs: BTreeMap<String, String>,
    /// Where they run.
    pub folder: PathBuf,
    /// Seconds that one run of them may take.
    pub timeout: Option<f64>,
}

impl External {
    /// All that the results of one of the programs depend on; not where it runs, or for how long it may.
    pub fn meaning(&self, args: Option<&Vec<String>>) -> Value {
        json!({
            "args": args,
            "settings": self.settings,
            "modifier": self.modifier,
            "version": self.version,
            "inputs": self.inputs,
        })
    }
}

/// What arguments of a trainer may name besides the row's settings.
pub const OF_TRAINERS: [&str; 5] = ["concepts", "out", "seed", "backbone", "device"];
/// The same of a sampler.
pub const OF_SAMPLERS: [&str; 7] =
    ["concepts", "prompts", "out", "seed", "backbone", "checkpoint", "device"];

/// An argument with what `value` gives in the place of each `{name}`; `{{` and `}}` are braces.
///
/// # Errors
/// [`Error::Input`] for a name that has no value, with the names that there are, or a brace without its
/// other half.
pub fn fill(
    argument: &str,
    known: &[&str],
    value: &dyn Fn(&str) -> Option<String>,
) -> Result<String> {
    let wrong = |what: String| {
        let names: Vec<String> = known.iter().map(|name| format!("{{{name}}}")).collect();
        Error::input_hint(
            format!("the argument `{argument}`: {what}"),
            format!("there are {}, and the row's settings; {{{{ is a brace", names.join(", ")),
        )
    };
    let mut out = String::new();
    let mut rest = argument;
    while let Some(at) = rest.find(['{', '}']) {
        out += &rest[..at];
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix(brace) {
            out += brace;
            rest = behind;
            continue;
        }
        let (name, behind) = rest
            .split_once('}')
            .filter(|_| brace == "{")
            .ok_or_else(|| wrong(format!("a {brace} is alone")))?;
        out += &value(name).ok_or_else(|| wrong(format!("nothing is called {{{name}}} here")))?;
        rest = behind;
    }
    Ok(out + rest)
}

/// A setting as an argument has it.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_braces_are_filled() {
        let value = |name: &str| (name == "lr").then(|| "0.1".to_owned());
        let fill = |argument: &str| fill(argument, &["out"], &value);
        assert_eq!(fill("--lr={lr},{lr}").unwrap(), "--lr=0.1,0.1");
        assert_eq!(fill("{{lr}} é}}{{").unwrap(), "{lr} é}{");
        let error = fill("{lrr}").unwrap_err();
        assert!(error.to_string().contains("{lrr}"), "{error}");
        assert!(error.hint().unwrap().contains("{out}"));
        assert!(fill("{lr").is_err() && fill("lr}").is_err() && fill("{").is_err());
    }
}
