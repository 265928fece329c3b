//! What a checkpoint's folder says of itself: `checkpoint.json`, beside the weights.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files::is_part;
use super::recipe::{phrase, token};
use super::settings::Modifier;
use crate::{Error, Result, safefile};

const FILE: &str = "checkpoint.json";

/// What a checkpoint holds and what it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The method's name.
    pub method: String,
    /// What it has learnt.
    pub concepts: Vec<Learnt>,
    /// The hash of the backbone's files.
    pub backbone: String,
    /// The hash of all that the weights depend on: equal for the same training or merge.
    pub key: String,
    /// The backbone's name, where it is one that others know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// How it was trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Value>,
}

/// A concept that a checkpoint has learnt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learnt {
    /// Its name.
    pub name: String,
    /// What it is one of.
    pub category: String,
    /// Its modifier token, if it has one.
    pub token: Option<String>,
    /// What stands for it in prompts, where that is not the token before the category.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phrase: Option<String>,
    /// How many pictures of it there were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures: Option<usize>,
}

impl Learnt {
    /// A concept that is called by a token before its category, or by the category alone.
    pub fn plain(name: &str, category: &str, token: Option<&str>) -> Self {
        let [name, category] = [name, category].map(str::to_owned);
        Learnt { name, category, token: token.map(str::to_owned), phrase: None, pictures: None }
    }

    /// A concept that is called as a training calls it, by the token of this number.
    pub fn called(name: &str, category: &str, modifier: Modifier, number: usize) -> Self {
        let token = modifier.has_token().then(|| token(number));
        let learnt = Learnt::plain(name, category, token.as_deref());
        let called = phrase(modifier, number, category);
        match learnt.phrase() == called {
            true => learnt,
            false => Learnt { phrase: Some(called), ..learnt },
        }
    }

    /// What stands for it in prompts.
    pub fn phrase(&self) -> String {
        match (&self.phrase, &self.token) {
            (Some(phrase), _) => phrase.clone(),
            (None, Some(token)) => format!("{token} {}", self.category),
            (None, None) => self.category.clone(),
        }
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let learnt = self.concepts.iter().map(|c| match &c.token {
            Some(token) => format!("{token} {} ({})", c.category, c.name),
            None => format!("{} ({})", c.category, c.name),
        });
        write!(f, "{} of {}", self.method, learnt.collect::<Vec<_>>().join(" and "))
    }
}

impl Description {
    /// What the checkpoint in a folder says of itself; none where it says nothing, as those of other
    /// programs.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that is damaged; [`Error::Io`].
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| {
                Error::input_hint(
                    format!("{}: {e}", path.display()),
                    "delete it: the weights do without",
                )
            }),
            // a checkpoint may be a single file, too
            Err(_) if !path.exists() => Ok(None),
            Err(e) => Err(Error::io(&path)(e)),
        }
    }

    /// Writes it into the checkpoint's folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        safefile::write(&folder.join(FILE), text + "\n")
    }

    /// Whether the checkpoint may be written into `folder`: there is none, or this very one.
    ///
    /// # Errors
    /// [`Error::Input`] naming the checkpoint that is there.
    pub fn check_room(&self, folder: &Path) -> Result<()> {
        let hint = "name another folder, or replace what is there with --force";
        let taken =
            |by: String| Err(Error::input_hint(format!("{}: {by}", folder.display()), hint));
        if folder.exists() && !folder.is_dir() {
            return Err(Error::input_hint(
                format!("{}: this is a file, and a checkpoint is a folder", folder.display()),
                "name another",
            ));
        }
        if let Ok(Some(other)) = Self::read(folder) {
            return match other.key == self.key {
                true => Ok(()),
                false => taken(format!("another checkpoint is here, {other}")),
            };
        }
        match weights(folder)?.first() {
            Some(name) => taken(format!("another checkpoint is here, with {name}")),
            None => Ok(()),
        }
    }
}

/// Removes the checkpoint that is in a folder, and nothing else.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_checkpoint(folder: &Path) -> Result<()> {
    let beside = [FILE, "merge.json", "stage.json"].map(str::to_owned);
    for name in weights(folder)?.into_iter().chain(beside) {
        let path = folder.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if path.exists() => return Err(Error::io(&path)(e)),
            _ => {}
        }
    }
    Ok(())
}

/// The files of a folder that would be read as parts of one checkpoint.
fn weights(folder: &Path) -> Result<Vec<String>> {
    if !folder.exists() {
        return Ok(vec![]);
    }
    let mut names = vec![];
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        if is_part(&entry.path()) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(name: &str) -> Description {
        let learnt = Learnt::plain(name, "dog", Some("<new1>"));
        Description {
            method: "custom-diffusion".into(),
            concepts: vec![learnt],
            backbone: "b".into(),
            key: name.into(),
            ..Description::default()
        }
    }

    #[test]
    fn a_folder_has_room_for_one_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("dog");
        let (own, other) = (description("rex"), description("bello"));
        assert_eq!(Description::read(&folder).unwrap(), None);
        own.check_room(&folder).unwrap();
        own.write(&folder).unwrap();
        assert_eq!(Description::read(&folder).unwrap().as_ref(), Some(&own));
        own.check_room(&folder).unwrap();
        let error = other.check_room(&folder).unwrap_err();
        assert!(error.to_string().contains("custom-diffusion of <new1> dog (rex)"), "{error}");
        assert!(error.hint().unwrap().contains("--force"));

        std::fs::write(folder.join("notes.txt"), "mine").unwrap();
        std::fs::write(folder.join("unet.safetensors"), "weights").unwrap();
        remove_checkpoint(&folder).unwrap();
        other.check_room(&folder).unwrap();
        assert!(folder.join("notes.txt").is_file() && !folder.join("unet.safetensors").exists());

        // weights that say nothing of themselves
        std::fs::write(folder.join("unet.safetensors"), "weights").unwrap();
        let error = own.check_room(&folder).unwrap_err();
        assert!(error.to_string().contains("unet.safetensors"), "{error}");
        assert!(own.check_room(&folder.join("notes.txt")).is_err());
    }
}
