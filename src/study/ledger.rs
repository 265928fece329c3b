//! The server's file of answers: a line each, on disk before the rater is told so.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::answers::{Answer, Question};
use super::key::{Key, Side};
use crate::{Error, Result, readfile};

/// Of the file that is read when the server starts.
const LARGEST: u64 = 1 << 30;
/// Somebody who begins again and again would fill the disk.
const MOST_RATERS: usize = 100_000;
/// Characters of a name.
const NAME: usize = 80;

/// The answers to a study, and who may give which.
pub struct Ledger {
    path: PathBuf,
    file: File,
    /// Bytes that are whole lines.
    whole: u64,
    study: String,
    /// The booklet of each trial.
    trials: HashMap<String, usize>,
    /// How many raters have each booklet.
    booklets: Vec<usize>,
    raters: HashMap<String, Began>,
    answers: HashMap<(String, String, Question), Side>,
}

/// A rater who began.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Began {
    rater: String,
    name: String,
    booklet: usize,
    at: u64,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Began { began: Began },
    Answer(Answer),
}

/// What a rater gets who begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ticket {
    /// What the rater shows with each answer; nobody can guess it, and the file has only its hash.
    pub token: String,
    /// The rater's id: that hash.
    pub rater: String,
    /// The booklet.
    pub booklet: usize,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of HTTP that says so.
    pub status: u16,
    /// In words.
    pub message: String,
}

impl Refusal {
    /// With a status and words.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Refusal { status, message: message.into() }
    }
}

impl Ledger {
    /// The file's name in a folder.
    pub const FILE: &str = "answers.jsonl";

    /// Opens the answers to a study, or starts them. The end of a line that was cut off is removed: nobody
    /// was told that it was kept.
    ///
    /// # Errors
    /// [`Error::Input`] for answers to another study, or a file that another server has; [`Error::Io`].
    pub fn open(path: &Path, key: &Key) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file =
            options.append(true).read(true).create(true).open(path).map_err(Error::io(path))?;
        if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::input_hint(
                format!("{}: another server writes into it", path.display()),
                "end that one, or name another file with --store",
            ));
        }
        let mut trials = HashMap::new();
        for (number, booklet) in key.booklets.iter().enumerate() {
            trials.extend(booklet.iter().map(|t| (t.id.clone(), number)));
        }
        let mut ledger = Ledger {
            path: path.to_owned(),
            file,
            whole: 0,
            study: key.study.clone(),
            trials,
            booklets: vec![0; key.booklets.len()],
            raters: HashMap::new(),
            answers: HashMap::new(),
        };
        // a device has no lines to read
        if ledger.file.metadata().map_err(Error::io(path))?.is_file() {
            ledger.load()?;
        }
        Ok(ledger)
    }

    fn load(&mut self) -> Result<()> {
        let path = self.path.clone();
        let bytes = readfile::bytes(&path, LARGEST)?;
        let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        for (number, line) in bytes[..end].split(|b| *b == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let bad = |what: String| {
                let place = format!("{}: line {}", path.display(), number + 1);
                Error::input_hint(format!("{place}: {what}"), "name another file with --store")
            };
            match serde_json::from_slice(line).map_err(|e| bad(e.to_string()))? {
                Line::Began { began } => match self.booklets.get_mut(began.booklet) {
                    Some(count) => {
                        *count += 1;
                        self.raters.insert(began.rater.clone(), began);
                    }
                    None => return Err(bad(format!("there is no booklet {}", began.booklet))),
                },
                Line::Answer(answer) if answer.study == self.study => {
                    let Answer { rater, trial, question, choice, .. } = answer;
                    self.answers.insert((rater, trial, question), choice);
                }
                Line::Answer(answer) => {
                    let study = answer.study;
                    return Err(bad(format!("an answer to another study, {study:?}")));
                }
            }
        }
        self.whole = end as u64;
        let rest = &bytes[end..];
        if rest.is_empty() {
            return Ok(());
        }
        if !self.starts(rest) {
            let message = format!("{}: its end is no answer to this study", path.display());
            return Err(Error::input_hint(message, "name another file with --store"));
        }
        tracing::warn!("{}: a line that was cut off is removed", path.display());
        self.file.set_len(self.whole).map_err(Error::io(&path))
    }

    /// Whether this is how a line of the file starts.
    fn starts(&self, bytes: &[u8]) -> bool {
        let answer = format!(r#"{{"study":"{}","#, self.study);
        let starts = [r#"{"began":{"rater":"#, answer.as_str()];
        starts.iter().any(|s| s.as_bytes().starts_with(bytes) || bytes.starts_with(s.as_bytes()))
    }

    /// How many raters began, and how many answers there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.raters.len(), self.answers.len())
    }

    /// Lets a rater begin, with the booklet that the fewest have.
    ///
    /// # Errors
    /// A [`Refusal`] to be told to the rater.
    pub fn begin(&mut self, name: &str, at: u64) -> std::result::Result<Ticket, Refusal> {
        if self.raters.len() >= MOST_RATERS {
            return Err(Refusal::new(503, "the study takes no more raters"));
        }
        let mut token = [0u8; 16];
        getrandom::fill(&mut token)
            .map_err(|e| Refusal::new(500, format!("no random numbers: {e}")))?;
        let token = hex(&token);
        let rater = rater_of(&token);
        let booklet = (0..self.booklets.len()).min_by_key(|b| self.booklets[*b]).unwrap_or(0);
        let plain = name.trim().chars().filter(|c| !c.is_control()).take(NAME);
        let began = Began { rater: rater.clone(), name: plain.collect(), booklet, at };
        self.append(&Line::Began { began: began.clone() })?;
        self.booklets[booklet] += 1;
        self.raters.insert(rater.clone(), began);
        Ok(Ticket { token, rater, booklet })
    }

    /// Keeps an answer of the rater who has this token. The same answer again is one answer.
    ///
    /// # Errors
    /// A [`Refusal`] to be told to the rater: no such token, a trial of another's booklet, a question that
    /// was answered differently before, a full disk.
    pub fn answer(
        &mut self,
        token: &str,
        trial: &str,
        question: Question,
        choice: Side,
        [ms, at]: [u64; 2],
    ) -> std::result::Result<(), Refusal> {
        let Some(began) = self.raters.get(&rater_of(token)) else {
            return Err(Refusal::new(403, "nobody began with this token"));
        };
        if self.trials.get(trial) != Some(&began.booklet) {
            return Err(Refusal::new(400, "this rater has no such trial"));
        }
        let place = (began.rater.clone(), trial.to_owned(), question);
        match self.answers.get(&place) {
            Some(before) if *before == choice => return Ok(()),
            Some(_) => return Err(Refusal::new(409, "this question was answered before")),
            None => {}
        }
        let answer = Answer {
            study: self.study.clone(),
            rater: began.rater.clone(),
            name: began.name.clone(),
            booklet: Some(began.booklet),
            trial: trial.to_owned(),
            question,
            choice,
            ms,
            at,
            check: String::new(),
        };
        self.append(&Line::Answer(answer.signed()))?;
        self.answers.insert(place, choice);
        Ok(())
    }

    /// Writes a line and waits for the disk. What could not be written whole is not there.
    fn append(&mut self, line: &Line) -> std::result::Result<(), Refusal> {
        let text = serde_json::to_string(line).expect("strings and numbers") + "\n";
        let written = self
            .file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_data())
            .and_then(|()| Ok(self.file.metadata()?.len()));
        match written {
            Ok(length) => {
                self.whole = length;
                Ok(())
            }
            Err(e) => {
                tracing::error!("{}: {e}", self.path.display());
                // appended next to half a line, the next answer would be lost with it
                if let Err(e) = self.file.set_len(self.whole) {
                    tracing::debug!("{}: {e}", self.path.display());
                }
                let message = "the answer could not be kept: please tell the researcher";
                Err(Refusal::new(507, message))
            }
        }
    }
}

/// The id of the rater who has a token.
fn rater_of(token: &str) -> String {
    hex(&Sha256::digest(token)[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
