//! An answer as pages and the server write it.

use serde::{Deserialize, Serialize};

use super::key::Side;

/// What is asked of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    /// Which follows the text better.
    Text,
    /// Which looks more like the targets.
    Image,
}

impl Question {
    /// Both, in the order in which they are asked.
    pub const ALL: [Question; 2] = [Question::Text, Question::Image];

    /// As answers have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Question::Text => "text",
            Question::Image => "image",
        }
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The study's id.
    pub study: String,
    /// Who answered: a random id, or the worker's of a crowd platform.
    pub rater: String,
    /// What the rater is called; may be empty, and two may have the same.
    #[serde(default)]
    pub name: String,
    /// The rater's booklet; none where a platform gave out single trials.
    pub booklet: Option<usize>,
    /// The trial's id.
    pub trial: String,
    /// What was asked.
    pub question: Question,
    /// What was chosen.
    pub choice: Side,
    /// How long the pair was looked at, in milliseconds.
    pub ms: u64,
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// The checksum of all this.
    #[serde(default)]
    pub check: String,
}

impl Answer {
    /// The checksum that it has to have: it shows what a spreadsheet or an editor changed. It is no seal:
    /// who reads the page can compute it.
    pub fn checksum(&self) -> String {
        let booklet = self.booklet.map(|b| b.to_string()).unwrap_or_default();
        let (ms, at) = (self.ms.to_string(), self.at.to_string());
        let (question, choice) = (self.question.as_str(), self.choice.as_str());
        let parts: [&str; 9] = [
            &self.study,
            &self.rater,
            &self.name,
            &booklet,
            &self.trial,
            question,
            choice,
            &ms,
            &at,
        ];
        format!("{:08x}", crc32fast::hash(parts.join("\n").as_bytes()))
    }

    /// With its checksum.
    pub fn signed(mut self) -> Self {
        self.check = self.checksum();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_pages() {
        let answer = Answer {
            study: "0123456789abcdef".into(),
            rater: "r1".into(),
            name: "Zoë".into(),
            booklet: Some(3),
            trial: "t1".into(),
            question: Question::Image,
            choice: Side::Left,
            ms: 1234,
            at: 1_700_000_000_000,
            check: String::new(),
        };
        // zlib.crc32("0123456789abcdef\nr1\nZoë\n3\nt1\nimage\nleft\n1234\n1700000000000".encode())
        assert_eq!(answer.checksum(), "b347e91e");
    }
}
