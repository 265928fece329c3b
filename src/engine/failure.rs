//! Stages that could not be made, and why: for people, and for the runs of a team, which do not each try
//! what one of them has tried.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::key::Key;
use super::store::{Store, read_if_there};
use crate::{Error, Result, process, safefile};

/// Why a stage could not be made, the last time that it was tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The stage's name.
    pub name: String,
    /// What went wrong.
    pub error: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// That of a command that ends with it.
    pub exit_code: u8,
    /// The machine.
    pub node: String,
    /// The team whose run tried.
    pub team: Option<String>,
}

impl Failure {
    /// What `error` made of the stage called `name`.
    pub fn new(name: &str, error: &Error, team: Option<&str>) -> Self {
        Failure {
            name: name.into(),
            error: error.to_string(),
            hint: error.hint().map(str::to_owned),
            exit_code: error.exit_code(),
            node: process::node(),
            team: team.map(str::to_owned),
        }
    }
}

impl Store {
    /// Why a stage could not be made; nothing if it was made since, or nobody tried.
    pub fn failure(&self, key: &Key) -> Option<Failure> {
        let text = read_if_there(&self.failure_file(key)).ok()??;
        serde_json::from_str(&text).ok()
    }

    /// Remembers why a stage could not be made.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remember_failure(&self, key: &Key, failure: &Failure) -> Result<()> {
        let text = serde_json::to_string_pretty(failure).unwrap_or_default();
        safefile::write(&self.failure_file(key), text + "\n")
    }

    /// Forgets it.
    pub fn forget_failure(&self, key: &Key) {
        // nobody reads it of a stage that is there
        let _ = std::fs::remove_file(self.failure_file(key));
    }

    fn failure_file(&self, key: &Key) -> PathBuf {
        self.root().join("failed").join(format!("{}.json", key.short()))
    }
}
