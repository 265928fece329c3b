//! Answers from files, put together: each rater once, each question of a trial once.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::answers::{Answer, Question};
use super::key::{Key, Side, What};
use crate::{Error, Result, readfile};

/// Of a file of answers.
const LARGEST: u64 = 1 << 30;
/// The columns of a file of answers.
const COLUMNS: [&str; 10] =
    ["study", "rater", "name", "booklet", "trial", "question", "choice", "ms", "at", "check"];
/// The columns of Mechanical Turk's results, if its form calls the two questions so.
const TURK: [&str; 5] = ["WorkerId", "Input.study", "Input.trial", "Answer.text", "Answer.image"];

/// All answers to a study.
pub struct Collected<'a> {
    key: &'a Key,
    /// Where each trial is.
    places: HashMap<&'a str, (usize, usize)>,
    /// Who answered.
    pub raters: Vec<Rater>,
    known: HashMap<String, usize>,
    /// What they answered.
    pub votes: Vec<Vote>,
    given: HashMap<(usize, (usize, usize), Question), usize>,
    /// Answers that were there more than once, and said the same.
    pub twice: usize,
}

/// Somebody who answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rater {
    /// The id.
    pub id: String,
    /// The name, which may be empty, and need not be the only one.
    pub name: String,
    /// The booklet, as the first answer has it.
    pub booklet: Option<usize>,
    /// Answers whose checksum is not theirs, or that are to trials of another booklet.
    pub edited: usize,
    /// Questions that were answered twice, and not the same.
    pub contradictions: usize,
}

/// An answer, by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Which of [`Collected::raters`].
    pub rater: usize,
    /// The trial: booklet and place in it.
    pub trial: (usize, usize),
    /// What was asked.
    pub question: Question,
    /// What was chosen.
    pub choice: Side,
    /// How long the pair was looked at.
    pub ms: u64,
    /// When it was given.
    pub at: u64,
}

/// A line of the server's file that says that a rater began.
#[derive(Deserialize)]
struct Began {
    #[serde(rename = "began")]
    _began: serde_json::Value,
}

impl<'a> Collected<'a> {
    /// No answers yet.
    pub fn new(key: &'a Key) -> Self {
        let trials = key.booklets.iter().enumerate().flat_map(|(b, booklet)| {
            booklet.iter().enumerate().map(move |(i, trial)| (trial.id.as_str(), (b, i)))
        });
        Collected {
            key,
            places: trials.collect(),
            raters: vec![],
            known: HashMap::new(),
            votes: vec![],
            given: HashMap::new(),
            twice: 0,
        }
    }

    /// Adds a file of answers: what the server wrote, a page's CSV or JSON, or Mechanical Turk's results.
    ///
    /// # Errors
    /// [`Error::Input`] for what is none of them, and for answers to another study; [`Error::Io`].
    pub fn read(&mut self, path: &Path) -> Result<()> {
        let text = readfile::text(path, LARGEST)?;
        let placed = |e: Error| e.of_file(path);
        match text.trim_start().chars().next() {
            None => Err(Error::input(format!("{}: there is no answer in it", path.display()))),
            Some('[') => {
                let answers: Vec<Answer> =
                    serde_json::from_str(&text).map_err(|e| placed(Error::input(e.to_string())))?;
                answers.into_iter().try_for_each(|a| self.add(a)).map_err(placed)
            }
            Some('{') => self.lines(&text).map_err(placed),
            Some(_) => self.csv(&text).map_err(placed),
        }
    }

    fn lines(&mut self, text: &str) -> Result<()> {
        for (number, line) in text.lines().enumerate() {
            let at = |e: Error| e.of(&format!("line {}", number + 1));
            if line.trim().is_empty() {
                continue;
            }
            match serde_json::from_str::<Answer>(line) {
                Ok(answer) => self.add(answer).map_err(at)?,
                Err(_) if serde_json::from_str::<Began>(line).is_ok() => {}
                // a write that the machine's end cut off was never confirmed to anybody
                Err(_) if number + 1 == text.lines().count() && !text.ends_with('\n') => {}
                Err(e) => return Err(at(Error::input(e.to_string()))),
            }
        }
        Ok(())
    }

    fn csv(&mut self, text: &str) -> Result<()> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
        let bad = |e: csv::Error| Error::input(e.to_string());
        let head = reader.headers().map_err(bad)?.clone();
        let turk = head.iter().any(|c| c == TURK[0]);
        let wanted: &[&str] = if turk { &TURK } else { &COLUMNS };
        let mut at = vec![];
        for column in wanted {
            let place = head.iter().position(|c| c.trim() == *column);
            at.push(place.ok_or_else(|| {
                let message = format!("there is no column `{column}`");
                let semicolons = head.len() == 1 && head[0].contains(';');
                match semicolons {
                    true => Error::input_hint(message, "save it with commas between the columns"),
                    false => Error::input(message),
                }
            })?);
        }
        for record in reader.records() {
            let record = record.map_err(bad)?;
            let line = record.position().map_or(0, csv::Position::line);
            let placed = |e: Error| e.of(&format!("line {line}"));
            let field = |i: usize| record.get(at[i]).unwrap_or_default().trim();
            match turk {
                true => self.turk(field).map_err(placed)?,
                false => self.add(from_csv(field).map_err(placed)?).map_err(placed)?,
            }
        }
        Ok(())
    }

    fn turk<'f>(&mut self, field: impl Fn(usize) -> &'f str) -> Result<()> {
        for (question, at) in Question::ALL.into_iter().zip([3, 4]) {
            let answer = Answer {
                study: field(1).to_owned(),
                rater: field(0).to_owned(),
                name: String::new(),
                booklet: None,
                trial: field(2).to_owned(),
                question,
                choice: one_of(TURK[at], field(at))?,
                // what the platform counts is how long its form was open
                ms: u64::MAX,
                at: 0,
                check: String::new(),
            };
            self.add(answer.signed())?;
        }
        Ok(())
    }

    /// Adds an answer. One that was changed is kept, and marks its rater.
    ///
    /// # Errors
    /// [`Error::Input`] if it is to another study, or to a trial that the key has not.
    pub fn add(&mut self, answer: Answer) -> Result<()> {
        if answer.study != self.key.study {
            return Err(Error::input_hint(
                format!("an answer to the study {:?}: this is {:?}", answer.study, self.key.study),
                "answers go with the folder of their own study",
            ));
        }
        let Some(&trial) = self.places.get(answer.trial.as_str()) else {
            return Err(Error::input(format!("the study has no trial {:?}", answer.trial)));
        };
        let rater = match self.known.get(&answer.rater) {
            Some(&rater) => rater,
            None => {
                self.raters.push(Rater {
                    id: answer.rater.clone(),
                    name: answer.name.clone(),
                    booklet: answer.booklet,
                    ..Rater::default()
                });
                self.known.insert(answer.rater.clone(), self.raters.len() - 1);
                self.raters.len() - 1
            }
        };
        let own = &mut self.raters[rater];
        let elsewhere =
            answer.booklet.is_some_and(|b| b != trial.0) || answer.booklet != own.booklet;
        own.edited += usize::from(elsewhere || answer.check != answer.checksum());
        let Answer { question, choice, ms, at, .. } = answer;
        let vote = Vote { rater, trial, question, choice, ms, at };
        match self.given.get(&(rater, trial, question)) {
            None => {
                self.given.insert((rater, trial, question), self.votes.len());
                self.votes.push(vote);
            }
            Some(&first) if self.votes[first].choice == choice => self.twice += 1,
            Some(&first) => {
                own.contradictions += 1;
                // what was said first counts
                if at < self.votes[first].at {
                    self.votes[first] = vote;
                }
            }
        }
        Ok(())
    }

    /// What a vote was about.
    pub fn what(&self, vote: &Vote) -> What {
        let (booklet, place) = vote.trial;
        self.key.booklets[booklet][place].what
    }

    /// The key of the study.
    pub fn key(&self) -> &'a Key {
        self.key
    }
}

fn from_csv<'f>(field: impl Fn(usize) -> &'f str) -> Result<Answer> {
    let number = |i: usize| -> Result<u64> {
        let bad = || Error::input(format!("`{}` is {:?}, and no count", COLUMNS[i], field(i)));
        field(i).parse().map_err(|_| bad())
    };
    let booklet = match field(3) {
        "" => None,
        _ => Some(number(3)? as usize),
    };
    Ok(Answer {
        study: field(0).to_owned(),
        rater: field(1).to_owned(),
        name: field(2).to_owned(),
        booklet,
        trial: field(4).to_owned(),
        question: one_of(COLUMNS[5], field(5))?,
        choice: one_of(COLUMNS[6], field(6))?,
        ms: number(7)?,
        at: number(8)?,
        check: field(9).to_owned(),
    })
}

/// One of a few words.
fn one_of<T: serde::de::DeserializeOwned>(column: &str, text: &str) -> Result<T> {
    let word = serde_json::Value::String(text.to_owned());
    serde_json::from_value(word).map_err(|e| Error::input(format!("`{column}`: {e}")))
}
