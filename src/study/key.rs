//! What each trial is: the file that stays with the researcher.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{Error, Result, readfile};

const VERSION: u32 = 1;
/// Of a key that is read.
const LARGEST: u64 = 1 << 30;

/// What a study asks, and which image is whose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    version: u32,
    /// The study's id, which every answer carries: a hash of what is below.
    pub study: String,
    /// The experiment whose images are shown.
    pub experiment: String,
    /// Its scale.
    pub scale: String,
    /// Its protocol.
    pub protocol: String,
    /// How long a pair is looked at before the page takes an answer, in milliseconds.
    pub minimum_ms: u64,
    /// The measures of images that people are compared with.
    pub metrics: Vec<KeyMetric>,
    /// The rows that are compared.
    pub comparisons: Vec<Rows>,
    /// The pairs of images.
    pub pairs: Vec<KeyPair>,
    /// What raters are asked, a list each.
    pub booklets: Vec<Vec<Trial>>,
}

/// A measure of images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyMetric {
    /// Its name.
    pub name: String,
    /// How tables call it.
    pub title: String,
    /// Whether large values are better.
    pub more: bool,
}

/// Two rows of the experiment's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// `single` or `multi`.
    pub group: String,
    /// The label of the row whose preference is counted.
    pub own: String,
    /// The label of the other.
    pub other: String,
    /// The paper's name of the first.
    pub paper_own: Option<String>,
    /// The paper's name of the other.
    pub paper_other: Option<String>,
}

/// Two images of the same concepts, prompt and noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyPair {
    /// Which of [`Key::comparisons`].
    pub comparison: usize,
    /// Their concepts.
    pub concepts: Vec<String>,
    /// Their prompt.
    pub prompt: String,
    /// The seed of the training.
    pub training_seed: u64,
    /// The seed of the noise.
    pub image_seed: u64,
    /// The values of both by the names of metrics: the own and the other one.
    pub values: BTreeMap<String, [f64; 2]>,
}

/// Two images on a rater's screen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// What answers call it by.
    pub id: String,
    /// What it is.
    pub what: What,
}

/// What a trial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum What {
    /// To learn what is asked; never counted.
    Practice,
    /// A pair.
    Pair {
        /// Which of [`Key::pairs`].
        pair: usize,
        /// Where the own image is.
        own: Side,
    },
    /// A pair that the same rater has seen before, with the sides changed.
    Repeat {
        /// Which of [`Key::pairs`].
        pair: usize,
        /// Where the own image is.
        own: Side,
    },
    /// Two images of which anybody who looks knows the answer.
    Catch {
        /// Where the right one is.
        good: Side,
    },
}

/// A side of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The first image.
    Left,
    /// The second image.
    Right,
}

impl Side {
    /// The other side.
    pub fn turned(self) -> Self {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }

    /// As answers have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Left => "left",
            Side::Right => "right",
        }
    }
}

impl Key {
    /// The name of its file.
    pub const FILE: &str = "key.json";

    /// A key without pairs and trials.
    pub fn new(experiment: &str, scale: &str, protocol: &str) -> Self {
        Key {
            version: VERSION,
            study: String::new(),
            experiment: experiment.to_owned(),
            scale: scale.to_owned(),
            protocol: protocol.to_owned(),
            minimum_ms: 0,
            metrics: vec![],
            comparisons: vec![],
            pairs: vec![],
            booklets: vec![],
        }
    }

    /// Gives it the id of its contents.
    pub fn seal(mut self) -> Self {
        self.study = self.id();
        self
    }

    /// The hash of what is asked. Measured values are no part of it.
    fn id(&self) -> String {
        let pairs: Vec<_> = self
            .pairs
            .iter()
            .map(|p| json!([p.comparison, p.concepts, p.prompt, p.training_seed, p.image_seed]))
            .collect();
        let meaning = json!([
            self.version,
            self.experiment,
            self.scale,
            self.protocol,
            self.minimum_ms,
            self.comparisons,
            pairs,
            self.booklets,
        ]);
        let hash = Sha256::digest(meaning.to_string());
        hash[..8].iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The key of a study's folder.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Input`] for a file that is no key, or that was changed.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(Key::FILE);
        let text = readfile::text(&path, LARGEST)?;
        let bad = |what: String| {
            let message = format!("{}: {what}", path.display());
            Error::input_hint(message, "the key is the file that `cdbench study make` wrote")
        };
        let key: Key = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if key.version != VERSION {
            return Err(bad(format!(
                "`version` is {}, and this program reads {VERSION}",
                key.version
            )));
        }
        if key.study != key.id() {
            return Err(bad(format!(
                "`study` is {:?}, and the contents are not its own",
                key.study
            )));
        }
        let mut ids = HashSet::new();
        for trial in key.booklets.iter().flatten() {
            if !ids.insert(&trial.id) {
                return Err(bad(format!("the trial {:?} is there twice", trial.id)));
            }
            if trial.what.pair().is_some_and(|pair| pair >= key.pairs.len()) {
                return Err(bad(format!(
                    "the trial {:?} is of a pair that is not there",
                    trial.id
                )));
            }
        }
        if key.pairs.iter().any(|p| p.comparison >= key.comparisons.len()) {
            return Err(bad("a pair is of a comparison that is not there".into()));
        }
        Ok(key)
    }

    /// The key as text.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers") + "\n"
    }
}

impl What {
    /// The pair that is shown.
    pub fn pair(self) -> Option<usize> {
        match self {
            What::Pair { pair, .. } | What::Repeat { pair, .. } => Some(pair),
            What::Practice | What::Catch { .. } => None,
        }
    }
}
