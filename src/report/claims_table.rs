//! The paper's claims as a table.

use super::claims::{Counts, Evidence, Finding, Measured, findings};
use super::results::Results;
use super::table::{Entry, Number, Section, Table, TableRow};
use crate::metrics::Metric;
use crate::metrics::claims::{Claim, Comparison, Side, claims};
use crate::metrics::verdict::{Direction, Verdict};

/// The claims that name the experiment, judged by its results alone; none where there is no such claim.
pub fn claims_table(results: &Results) -> Option<Table> {
    let names = |c: &&Claim| c.comparisons.iter().any(|c| c.experiment == results.experiment);
    let claims: Vec<Claim> = claims().iter().filter(names).cloned().collect();
    let found = findings(&claims, &[results]);
    let caption = format!("{}: claims of the paper", results.title);
    (!found.is_empty()).then(|| table(&found, caption))
}

/// Claims with their comparisons.
pub(super) fn table(found: &[Finding], caption: String) -> Table {
    let sections = found.iter().map(|f| section(f, heading(f))).collect();
    Table { notes: notes(found), ..bare(caption, sections) }
}

/// The comparisons of a single claim.
pub(super) fn alone(finding: &Finding, caption: String) -> Table {
    bare(caption, vec![section(finding, String::new())])
}

fn bare(caption: String, sections: Vec<Section>) -> Table {
    let columns = ["of", "claimed", "difference", "smallest visible", "p", "from", "found"];
    let columns = columns.map(str::to_owned).into();
    Table { name: "claims", caption, columns, sections, notes: vec![] }
}

fn section(finding: &Finding, title: String) -> Section {
    let row = |e: &Evidence| TableRow { label: sides(e), entries: entries(e) };
    Section { title, rows: finding.evidence.iter().map(row).collect(), anchors: vec![] }
}

/// Number, claim, place and verdict.
fn heading(finding: &Finding) -> String {
    let Claim { number, text, place, .. } = finding.claim;
    format!("{number}. {text} ({place}) {}", capital(&verdict(finding)))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// The verdict in words, with its p-value and what is missing.
pub(super) fn verdict(finding: &Finding) -> String {
    let p = finding.p.map(|p| format!(", p = {} after Holm's correction", p_value(p)));
    let mut words = format!("{}{}", finding.verdict.as_str(), p.unwrap_or_default());
    let missing = missing(finding);
    if finding.verdict == Verdict::NotRun && missing.len() < experiments(finding).len() {
        words = format!("not decided: also needs {}", missing.join(", "));
    } else if finding.verdict == Verdict::NotRun && missing.is_empty() {
        words = "not decided: see what is missing".into();
    }
    words + "."
}

/// The experiments that a claim needs.
pub(super) fn experiments<'a>(finding: &Finding<'a>) -> Vec<&'a str> {
    names(finding.evidence.iter())
}

/// Those of them that were not run.
pub(super) fn missing<'a>(finding: &Finding<'a>) -> Vec<&'a str> {
    names(finding.evidence.iter().filter(|e| e.measured.is_none()))
}

fn names<'a: 'b, 'b>(evidence: impl Iterator<Item = &'b Evidence<'a>>) -> Vec<&'a str> {
    let mut names: Vec<&str> = evidence.map(|e| e.comparison.experiment.as_str()).collect();
    names.dedup();
    names
}

/// A p-value as text.
pub(super) fn p_value(p: f64) -> String {
    if p < 0.001 { "<0.001".into() } else { format!("{p:.3}") }
}

/// What is held against what: `A − B`, or `A: this − that` within one row.
fn sides(evidence: &Evidence) -> String {
    let Comparison { a, b, .. } = evidence.comparison;
    let detail = |side: &Side| {
        let sets = side.sets.iter().flatten().map(|set| set.join(" + "));
        let sets: Vec<String> = sets.collect();
        let on = (!sets.is_empty()).then(|| format!("on {}", sets.join(", ")));
        let parts: Vec<String> = side.metric.clone().into_iter().chain(on).collect();
        parts.join(" ")
    };
    let (of_a, of_b) = (detail(a), detail(b));
    if a.row == b.row {
        let or_all = |text: String| if text.is_empty() { "as it is".into() } else { text };
        let of_a = if of_a.is_empty() { evidence.comparison.metric.clone() } else { of_a };
        return format!("{}: {of_a} − {}", a.row, or_all(of_b));
    }
    format!("{} {of_a} − {} {of_b}", a.row, b.row).replace("  ", " ").trim_end().to_owned()
}

fn entries(evidence: &Evidence) -> Vec<Entry> {
    let comparison = evidence.comparison;
    let text = |text: String| Entry::Text(text);
    let found = match &evidence.measured {
        Some(Ok(found)) => found,
        missing => {
            let why = match missing {
                Some(Err(error)) => format!("not run: {error}"),
                _ => format!("not run: experiment {}", comparison.experiment),
            };
            let mut entries = vec![text(what(comparison, None)), text(claimed(comparison, None))];
            entries.extend([const { Entry::Empty }; 4]);
            entries.push(text(why));
            return entries;
        }
    };
    let metric = &found.metric;
    let number = |x: f64| Number::new(metric.scale * x, metric.digits);
    let interval = found.spread.interval();
    let interval = interval.map(|(low, high)| (metric.scale * low, metric.scale * high));
    let difference = Number { interval, signed: true, ..number(found.spread.mean) };
    vec![
        text(what(comparison, Some(metric))),
        text(claimed(comparison, Some(metric))),
        Entry::Number(difference),
        found.spread.visible().map_or(Entry::Empty, |x| Entry::Number(number(x))),
        found.tested.p.map_or(Entry::Empty, |p| text(p_value(p))),
        text(counts(&found.counts)),
        text(outcome(found).into()),
    ]
}

/// What is compared.
fn what(comparison: &Comparison, metric: Option<&Metric>) -> String {
    let (name, part) = comparison.metric_of(&comparison.a);
    let name = metric.map_or(name.to_owned(), Metric::column);
    let part = part.map(|i| format!(" with concept {}", i + 1)).unwrap_or_default();
    let group = comparison.group.as_ref().map(|g| format!(", {g}")).unwrap_or_default();
    format!("{name}{part}{group}")
}

fn claimed(comparison: &Comparison, metric: Option<&Metric>) -> String {
    let scaled = comparison.margin * metric.map_or(1.0, |m| m.scale);
    let shown = |x: f64| {
        // what a scale adds behind the last digit is no part of a margin
        let x = (x * 1e9).round() / 1e9;
        if x == 0.0 { "0".into() } else { x.to_string().replace('-', "−") }
    };
    match comparison.direction {
        Direction::More => format!("> {}", shown(scaled)),
        Direction::Less => format!("< {}", shown(-scaled)),
        Direction::Same => format!("within ±{}", shown(scaled)),
    }
}

fn counts(counts: &Counts) -> String {
    let sets: Vec<String> = counts.concept_sets.iter().map(usize::to_string).collect();
    let many = |n: usize, what: &str| match n {
        0 => None,
        1 => Some(format!("1 {what}")),
        n => Some(format!("{n} {what}s")),
    };
    let sets = match counts.concept_sets[..] {
        [1] => "1 concept set".into(),
        _ => format!("{} concept sets", sets.join(" + ")),
    };
    let others =
        [many(counts.seeds, "seed"), many(counts.prompts, "prompt"), many(counts.images, "image")];
    [Some(sets)].into_iter().chain(others).flatten().collect::<Vec<_>>().join(", ")
}

/// What a comparison says on its own.
fn outcome(found: &Measured) -> &'static str {
    match (found.spread.over_concepts, found.tested.clear, found.tested.points) {
        (false, ..) => "open: one concept set",
        _ if found.tested.p.is_none() => "open: no spread",
        (_, false, _) => "open",
        (_, true, true) => "as claimed",
        (_, true, false) => "otherwise",
    }
}

/// What has to be known to read the table.
pub(super) fn notes(found: &[Finding]) -> Vec<String> {
    let decided = found.iter().filter(|f| f.p.is_some()).count();
    vec![
        "A difference is of means over concept sets, paired where both sides have the same concepts, \
         seeds, prompts and noise. ± is half of its 95 % interval over concepts, training seeds and \
         prompts: a hierarchical bootstrap, stretched to the width of Student's interval of the concept \
         sets' means, and therefore wide where there are few. Of a single concept set the interval is \
         that within it: it decides nothing about others."
            .into(),
        "Smallest visible: a difference that far from the margin would have been seen with a power of \
         80 % (two-sided, 5 %). p: two-sided, against the margin, by t of the standard error, of the \
         comparison alone. Found: the interval is all on the claim's side of the margin (as claimed), \
         all on the other (otherwise), or on both (open), without the correction."
            .into(),
        format!(
            "A claim is reproduced when all its comparisons are as claimed (its p is their largest), and \
             not reproduced when one is shown to be otherwise (its p is that comparison's times the \
             number of comparisons), by Holm's correction over the {decided} that could be decided here, \
             at 5 %."
        ),
    ]
}
