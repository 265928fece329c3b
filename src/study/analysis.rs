//! What the answers say.

use std::collections::BTreeMap;

use serde::Serialize;

use super::agreement::{Agreement, agreement};
use super::answers::Question;
use super::collected::{Collected, Rater};
use super::key::{KeyMetric, Rows, What};
use super::preference::Share;
use super::screen::{Reason, Rules, even, screen};
use crate::metrics::{paper_study, verdict::holm};

/// What is found of a study.
#[derive(Clone, Debug, Serialize)]
pub struct Analysis {
    /// Its id.
    pub study: String,
    /// The experiment whose images were shown.
    pub experiment: String,
    /// Its scale.
    pub scale: String,
    /// Its protocol.
    pub protocol: String,
    /// Raters who answered anything.
    pub raters: usize,
    /// Answers, also to practice and catch trials.
    pub answers: usize,
    /// Answers that were there more than once.
    pub twice: usize,
    /// When raters are left out.
    pub rules: Rules,
    /// Who is left out.
    pub excluded: Vec<Excluded>,
    /// How many have each reason to be left out.
    pub reasons: BTreeMap<&'static str, usize>,
    /// Both questions of every comparison.
    pub comparisons: Vec<Comparison>,
    /// How far the raters who are kept agree.
    pub agreement: Vec<Agreement>,
    /// The measures that they are compared with.
    #[serde(skip)]
    pub metrics: Vec<KeyMetric>,
    /// What the reader has to know besides.
    pub notes: Vec<String>,
}

/// A rater who is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Excluded {
    /// The id.
    pub rater: String,
    /// The name, if any.
    pub name: String,
    /// Why.
    pub reasons: Vec<Reason>,
}

/// A question about two rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The rows.
    #[serde(flatten)]
    pub rows: Rows,
    /// The question.
    pub question: Question,
    /// Answers that prefer the own image.
    pub kept: Option<Share>,
    /// The same with all raters.
    pub all: Option<Share>,
    /// The exact binomial test against one half, as if all answers were of different raters.
    pub p: Option<f64>,
    /// The same, corrected by Holm for all comparisons.
    pub holm: Option<f64>,
    /// The paper's: of a hundred, and half of the 95 % interval.
    pub paper: Option<[f64; 2]>,
}

impl Comparison {
    /// Whether one is preferred: the interval over raters leaves one half out, and so does the corrected
    /// test.
    pub fn clear(&self) -> bool {
        let interval = self.kept.and_then(|s| s.interval);
        interval.is_some_and(|(low, high)| low > 0.5 || high < 0.5)
            && self.holm.is_some_and(|p| p < 0.05)
    }
}

/// Analyses the answers to a study.
pub fn analyze(collected: &Collected, rules: &Rules) -> Analysis {
    let key = collected.key();
    let reasons = screen(collected, rules);
    let kept: Vec<bool> = reasons.iter().map(Vec::is_empty).collect();
    let everybody = vec![true; kept.len()];
    let (chosen, all) = (shares(collected, &kept), shares(collected, &everybody));
    let mut comparisons = vec![];
    for (i, rows) in key.comparisons.iter().enumerate() {
        for (j, question) in Question::ALL.into_iter().enumerate() {
            let at = 2 * i + j;
            let kept = chosen[at];
            comparisons.push(Comparison {
                rows: rows.clone(),
                question,
                kept,
                all: all[at],
                p: kept.map(|s| even(s.hits, s.answers)),
                holm: None,
                paper: paper(rows, question),
            });
        }
    }
    let p: Vec<f64> = comparisons.iter().filter_map(|c| c.p).collect();
    let tested = comparisons.iter_mut().filter(|c| c.p.is_some());
    tested.zip(holm(&p)).for_each(|(comparison, p)| comparison.holm = Some(p));

    let left_out = reasons.iter().zip(&collected.raters).filter(|(r, _)| !r.is_empty());
    let count = |reason: Reason| reasons.iter().filter(|r| r.contains(&reason)).count();
    Analysis {
        study: key.study.clone(),
        experiment: key.experiment.clone(),
        scale: key.scale.clone(),
        protocol: key.protocol.clone(),
        raters: collected.raters.len(),
        answers: collected.votes.len(),
        twice: collected.twice,
        rules: *rules,
        excluded: left_out
            .map(|(reasons, rater)| Excluded {
                rater: rater.id.clone(),
                name: rater.name.clone(),
                reasons: reasons.clone(),
            })
            .collect(),
        reasons: Reason::ALL.into_iter().map(|r| (r.as_str(), count(r))).collect(),
        comparisons,
        agreement: Question::ALL.into_iter().map(|q| agreement(collected, &kept, q)).collect(),
        metrics: key.metrics.clone(),
        notes: notes(collected),
    }
}

/// The share of every comparison's questions, of the raters who are kept.
fn shares(collected: &Collected, kept: &[bool]) -> Vec<Option<Share>> {
    let key = collected.key();
    let mut counts = vec![vec![(0u64, 0u64); kept.len()]; 2 * key.comparisons.len()];
    for vote in collected.votes.iter().filter(|v| kept[v.rater]) {
        let What::Pair { pair, own } = collected.what(vote) else { continue };
        let second = usize::from(vote.question == Question::Image);
        let count = &mut counts[2 * key.pairs[pair].comparison + second][vote.rater];
        count.0 += u64::from(vote.choice == own);
        count.1 += 1;
    }
    counts.into_iter().map(Share::of).collect()
}

fn paper(rows: &Rows, question: Question) -> Option<[f64; 2]> {
    let (own, other) = (rows.paper_own.as_deref()?, rows.paper_other.as_deref()?);
    let found = paper_study().of(&rows.group, own, other)?;
    Some(match question {
        Question::Text => found.text,
        Question::Image => found.image,
    })
}

fn notes(collected: &Collected) -> Vec<String> {
    let mut notes = vec![];
    if collected.twice > 0 {
        notes.push(format!(
            "{} answers were there more than once, and count once.",
            collected.twice
        ));
    }
    let contradictions: usize = collected.raters.iter().map(|r| r.contradictions).sum();
    if contradictions > 0 {
        notes.push(format!(
            "{contradictions} questions were answered twice by the same rater, and not the same: the \
             first answer counts."
        ));
    }
    let mut names = BTreeMap::<&str, usize>::new();
    for Rater { name, .. } in collected.raters.iter().filter(|r| !r.name.is_empty()) {
        *names.entry(name).or_default() += 1;
    }
    for (name, count) in names.into_iter().filter(|(_, count)| *count > 1) {
        notes.push(format!(
            "{count} raters are called {name:?}: they count as {count}, since a rater is told by an id."
        ));
    }
    notes
}
