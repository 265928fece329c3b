//! A measure that a program of others takes: what an experiment says of it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::command::{check_args, check_names, check_timeout, check_version};
use crate::data::check_name;
use crate::metrics::{Better, Gives, Need, Registry};
use crate::{Error, Result};

/// What its arguments may name besides its settings, and must.
pub const OF_MEASURES: [&str; 2] = ["images", "out"];

/// A measure that a program of others takes. `docs/external-methods.md` is the contract.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasureSpec {
    /// The program and its arguments, with `{images}`, `{out}` and `{KEY}` of the settings in them.
    pub command: Vec<String>,
    /// What tables call it; its name if not given.
    #[serde(default)]
    pub title: Option<String>,
    /// How it is defined, in words.
    #[serde(default)]
    pub definition: Option<String>,
    /// Which values are the better ones: `more` or `less`.
    pub better: Better,
    /// Which images it is given, and with what: `images` (of the evaluation prompts), `prompts` (the same with
    /// their prompts), `targets` (the same with each concept's targets in turn), `all-targets`, `real-images`,
    /// `general-images`, `class-words` or `unrelated`.
    #[serde(default = "images")]
    pub of: Need,
    /// Whether it gives a value of each image, `images`, or one of all, `set`.
    #[serde(default = "each")]
    pub gives: Gives,
    /// What a value is multiplied with to be shown.
    #[serde(default = "one")]
    pub scale: f64,
    /// What stands behind the title for that, such as `×10³`.
    #[serde(default)]
    pub unit: String,
    /// Digits behind the point.
    #[serde(default = "three")]
    pub digits: usize,
    /// A difference that nobody minds.
    #[serde(default)]
    pub tolerance: f64,
    /// For arguments, and told to the program.
    #[serde(default)]
    pub settings: toml::Table,
    /// Files and folders that it consists of.
    #[serde(default)]
    pub inputs: Vec<PathBuf>,
    /// Its version.
    #[serde(default)]
    pub version: Option<String>,
    /// A program that prints its version.
    #[serde(default)]
    pub version_command: Option<Vec<String>>,
    /// Seconds that one run of it may take.
    #[serde(default)]
    pub timeout: Option<f64>,
}

fn images() -> Need {
    Need::Images
}

fn each() -> Gives {
    Gives::Images
}

fn one() -> f64 {
    1.0
}

fn three() -> usize {
    3
}

/// More digits are of no number.
const MOST_DIGITS: usize = 9;

impl MeasureSpec {
    /// Checks it under the name that it has.
    ///
    /// # Errors
    /// [`Error::Input`] naming the key and what was wanted.
    pub fn check(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let of_key = |e: Error| e.of(&format!("`measures.{name}`"));
        self.check_keys(name).map_err(of_key)
    }

    fn check_keys(&self, name: &str) -> Result<()> {
        let own = Registry::default();
        if own.measures().any(|measure| measure.name() == name) {
            let message = format!("there is a measure `{name}` already");
            return Err(Error::input_hint(message, "call this one otherwise"));
        }
        check_names(&self.settings, &OF_MEASURES)?;
        check_args(&self.command, &OF_MEASURES, &OF_MEASURES, &self.settings)
            .map_err(|e| e.of("`command`"))?;
        if matches!(self.of, Need::Weights | Need::Attention) {
            return Err(Error::input_hint(
                "`of`: a program is given pictures",
                "images, prompts, targets, all-targets, real-images, general-images, class-words, unrelated",
            ));
        }
        if self.gives == Gives::Set && self.of.in_turn() {
            return Err(Error::input_hint(
                "gives = \"set\" with each concept's targets in turn would be several values",
                "of = \"all-targets\" gives the targets of all concepts together",
            ));
        }
        if !self.scale.is_finite() || self.scale == 0.0 {
            return Err(Error::input("`scale` is a number other than 0"));
        }
        if !(self.tolerance >= 0.0 && self.tolerance.is_finite()) {
            return Err(Error::input("`tolerance` is a number, 0 or more"));
        }
        if self.digits > MOST_DIGITS {
            return Err(Error::input(format!("`digits` is at most {MOST_DIGITS}")));
        }
        check_version(self.version.as_deref(), self.version_command.as_deref())?;
        check_timeout(self.timeout)
    }
}
