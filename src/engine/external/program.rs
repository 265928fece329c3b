//! Which program it is: its version and its files, by their contents.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::data::is_clutter;
use crate::engine::key::hex;
use crate::engine::store::file_hash;
use crate::process::Order;
use crate::{Error, Result};

/// What a program may take to say its version.
const LONGEST_TO_SAY: Duration = Duration::from_secs(60);
/// Letters of a version.
const MOST_LETTERS: usize = 1000;

/// A program as an experiment names it.
pub(super) struct Wanted<'a> {
    /// It and its arguments.
    pub args: Vec<&'a str>,
    /// Files and folders that it consists of.
    pub inputs: &'a [PathBuf],
    pub version: Option<&'a str>,
    pub version_command: Option<&'a [String]>,
}

impl Wanted<'_> {
    /// Its version, and the hashes of its files by the names that they have there; paths start at `folder`.
    ///
    /// # Errors
    /// An input that cannot be read, a program that does not say its version.
    pub fn found(self, folder: &Path, hashes: &Path) -> Result<(String, BTreeMap<String, String>)> {
        let mut inputs = BTreeMap::new();
        for name in self.inputs {
            let path = folder.join(name);
            if !path.exists() {
                let message = format!("`inputs`: {}: this is not there", path.display());
                return Err(Error::input_hint(message, "paths start at the experiment's folder"));
            }
            inputs.insert(name.display().to_string(), hash_of(&path, hashes)?);
        }
        // what is forgotten among the inputs is a script, as a rule
        for arg in self.args {
            let path = folder.join(arg);
            if !arg.is_empty() && path.is_file() {
                inputs.insert(arg.to_owned(), file_hash(&path, hashes)?);
            }
        }
        let version = match self.version_command {
            Some(args) => said_version(args, folder).map_err(|e| e.of("`version_command`"))?,
            None => self.version.unwrap_or_default().to_owned(),
        };
        Ok((version, inputs))
    }
}

/// The hash of a file, or of all files below a folder with their names.
fn hash_of(path: &Path, cache: &Path) -> Result<String> {
    if !path.is_dir() {
        return file_hash(path, cache);
    }
    let mut entries = vec![];
    for entry in fs::read_dir(path).map_err(Error::io(path))? {
        let entry = entry.map_err(Error::io(path))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_clutter(&name) && name != "__pycache__" {
            entries.push((name, entry.path()));
        }
    }
    entries.sort();
    let mut text = String::new();
    for (name, path) in entries {
        text += &format!("{name} {}\n", hash_of(&path, cache)?);
    }
    Ok(hex(text))
}

fn said_version(args: &[String], folder: &Path) -> Result<String> {
    let said = tempfile::tempdir().map_err(Error::io(&std::env::temp_dir()))?;
    let (timeout, stop) = (Some(LONGEST_TO_SAY), &AtomicBool::new(false));
    Order { args, folder, said: said.path(), timeout, stop }.run(&mut || {})?;
    let path = said.path().join("stdout.txt");
    let text = fs::read(&path).map_err(Error::io(&path))?;
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    match text.is_empty() {
        true => Err(Error::input_hint(
            format!("`{}` prints nothing", args.join(" ")),
            "it prints the version on stdout; or give it as `version`",
        )),
        false => Ok(text.chars().take(MOST_LETTERS).collect()),
    }
}
