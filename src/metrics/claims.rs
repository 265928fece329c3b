//! The paper's claims: `metrics/paper/claims.toml`, compiled in.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::verdict::Direction;
use crate::error::nearest;
use crate::{Error, Result};

/// Between a metric's name and the number of one of several concepts, as in `image-alignment#1`.
const PART: char = '#';

/// Something that the paper says, and that a run can decide.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Its number.
    pub number: usize,
    /// What is claimed, in our words.
    pub text: String,
    /// Where it stands in the paper.
    pub place: String,
    /// What has to be so for the claim to hold.
    pub comparisons: Vec<Comparison>,
}

/// A difference between two rows of an experiment, side `a` minus side `b`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The experiment's name.
    pub experiment: String,
    /// The part of its table; all where none is given.
    #[serde(default)]
    pub group: Option<String>,
    /// What is compared.
    pub metric: String,
    /// What is held against `b`.
    pub a: Side,
    /// What it is held against.
    pub b: Side,
    /// Which way the difference is claimed to lie.
    pub direction: Direction,
    /// The smallest difference that counts.
    #[serde(default)]
    pub margin: f64,
}

/// A side of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "SideFile")]
pub struct Side {
    /// A row's label.
    pub row: String,
    /// In place of the comparison's metric.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// The concept sets that it is restricted to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sets: Option<Vec<Vec<String>>>,
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum SideFile {
    Row(String),
    Full {
        row: String,
        #[serde(default)]
        metric: Option<String>,
        #[serde(default)]
        sets: Option<Vec<Vec<String>>>,
    },
}

impl From<SideFile> for Side {
    fn from(file: SideFile) -> Self {
        match file {
            SideFile::Row(row) => Side { row, metric: None, sets: None },
            SideFile::Full { row, metric, sets } => Side { row, metric, sets },
        }
    }
}

impl Side {
    /// Whether it has a concept set, whose concepts may come in any order.
    pub fn takes(&self, concepts: &[String]) -> bool {
        self.sets.as_ref().is_none_or(|sets| {
            let same = |set: &Vec<String>| {
                set.len() == concepts.len() && concepts.iter().all(|c| set.contains(c))
            };
            sets.iter().any(same)
        })
    }
}

impl Comparison {
    /// The metric of a side, and which of several concepts it is with, counted from 0.
    pub fn metric_of<'a>(&'a self, side: &'a Side) -> (&'a str, Option<usize>) {
        let name = side.metric.as_deref().unwrap_or(&self.metric);
        match name.split_once(PART) {
            Some((name, part)) => (name, part.parse().ok().and_then(|n: usize| n.checked_sub(1))),
            None => (name, None),
        }
    }

    /// Whether what is compared on both sides is the same: concepts, trainings, prompts and noise.
    pub fn is_paired(&self) -> bool {
        self.a.sets == self.b.sets
    }

    /// Refuses rows and metrics that an experiment with these has not.
    ///
    /// # Errors
    /// [`Error::Input`] with what is missing, and what comes nearest to it.
    pub fn check(&self, rows: &[&str], metrics: &[&str]) -> Result<()> {
        let wanted = |what: &str, name: &str, known: &[&str]| {
            if known.contains(&name) {
                return Ok(());
            }
            let message = format!("`{}` has no {what} `{name}`", self.experiment);
            Err(Error::input_hint(message, nearest(name, known.iter().copied())))
        };
        for side in [&self.a, &self.b] {
            wanted("row", &side.row, rows)?;
            wanted("metric", self.metric_of(side).0, metrics)?;
        }
        Ok(())
    }

    /// Refuses what has no meaning.
    fn make_sense(&self) -> Result<()> {
        if !self.margin.is_finite() || (self.direction == Direction::Same && self.margin <= 0.0) {
            let hint = "what is called the same needs a margin above zero";
            return Err(Error::input_hint(format!("`margin` is {}", self.margin), hint));
        }
        let shared = |a: &Side, b: &Side| a.sets.iter().flatten().any(|set| b.takes(set));
        if !self.is_paired() && (shared(&self.a, &self.b) || shared(&self.b, &self.a)) {
            return Err(Error::input_hint(
                "`sets` of the two sides have some in common",
                "name the same sets on both sides, or sets of which none is on both",
            ));
        }
        for side in [&self.a, &self.b] {
            let name = side.metric.as_ref().unwrap_or(&self.metric);
            if name.contains(PART) && self.metric_of(side).1.is_none() {
                let hint = "the concepts of a set are counted from 1, as in `image-alignment#1`";
                return Err(Error::input_hint(
                    format!("no concept has the number of `{name}`"),
                    hint,
                ));
            }
        }
        Ok(())
    }
}

/// The paper's claims.
pub fn claims() -> &'static [Claim] {
    static CLAIMS: LazyLock<Vec<Claim>> = LazyLock::new(|| {
        let text = include_str!("../../metrics/paper/claims.toml");
        parse(text).expect("a test reads the paper's claims")
    });
    &CLAIMS
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    claim: Vec<Claim>,
}

fn parse(text: &str) -> Result<Vec<Claim>> {
    let File { claim } = toml::from_str(text)?;
    let mut numbers = HashSet::new();
    for claim in &claim {
        let of = |e: Error| e.of(&format!("claim {}", claim.number));
        if !numbers.insert(claim.number) {
            return Err(of(Error::input("the number is there twice")));
        }
        if claim.comparisons.is_empty() {
            return Err(of(Error::input("`comparisons` is empty: nothing would decide it")));
        }
        claim.comparisons.iter().try_for_each(Comparison::make_sense).map_err(of)?;
    }
    Ok(claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"
        [[claim]]
        number = 1
        text = "More is more."
        place = "Table 1"
        comparisons = [{ experiment = "table1", metric = "kid", a = "A", b = "B", direction = "more" }]
    "#;

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_papers_claims_are_eleven() {
        let numbers: Vec<usize> = claims().iter().map(|c| c.number).collect();
        assert_eq!(numbers, (1..=11).collect::<Vec<_>>());
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        parse(ONE).unwrap();
        assert!(refused(&format!("{ONE}{ONE}")).contains("claim 1: the number is there twice"));
        assert!(refused(&ONE.replace("\"more\"", "\"same\"")).contains("`margin` is 0"));
        assert!(refused(&ONE.replace("\"more\"", "\"more\", margin = nan")).contains("`margin`"));
        assert!(refused(&ONE.replace("\"kid\"", "\"kid#0\"")).contains("`kid#0`"));
        assert!(refused(&ONE.replace("\"more\"", "\"moar\"")).contains("moar"));
        let sets = |a: &str, b: &str| {
            let side = |row: &str, sets: &str| format!("{{ row = \"{row}\", sets = {sets} }}");
            ONE.replace("\"A\"", &side("A", a)).replace("\"B\"", &side("B", b))
        };
        parse(&sets(r#"[["x"]]"#, r#"[["y"], ["z"]]"#)).unwrap();
        let paired = &parse(&sets(r#"[["x"]]"#, r#"[["x"]]"#)).unwrap()[0].comparisons[0];
        assert!(
            paired.is_paired() && paired.a.takes(&["x".into()]) && !paired.a.takes(&["y".into()])
        );
        assert!(refused(&sets(r#"[["x", "y"]]"#, r#"[["y", "x"], ["z"]]"#)).contains("in common"));
        assert!(
            refused(&ONE.replace("\"B\"", r#"{ row = "B", sets = [["x"]] }"#)).contains("`sets`")
        );
    }

    #[test]
    fn a_row_or_metric_that_is_not_there_is_named_with_what_comes_nearest() {
        let mut one = parse(ONE).unwrap().remove(0).comparisons.remove(0);
        one.a.row = "w/o Augm".into();
        one.metric = "kid#2".into();
        let refused = |rows: &[&str], metrics: &[&str]| one.check(rows, metrics).unwrap_err();
        let error = refused(&["w/o Aug", "w/o Reg", "B"], &["kid"]);
        assert_eq!(error.to_string(), "`table1` has no row `w/o Augm`");
        assert_eq!(error.hint(), Some("did you mean w/o Aug or w/o Reg?"));
        let error = refused(&["w/o Augm", "B"], &["kid@dino"]);
        assert_eq!(error.to_string(), "`table1` has no metric `kid`");
        one.check(&["w/o Augm", "B"], &["kid"]).unwrap();
    }
}
