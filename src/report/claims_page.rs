//! All claims of the paper on one page, from the reports that there are.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::claims::{Evidence, Finding, findings};
use super::claims_table::{alone, experiments, missing, notes, p_value, table, verdict};
use super::csv::Csv;
use super::md::{Markdown, escape};
use super::results::Results;
use super::table::{Entry, Export, Section, Table, TableRow};
use crate::metrics::claims::{Claim, claims};
use crate::metrics::verdict::Verdict;

/// Reports, and what they say of the paper's claims.
pub struct ClaimsPage {
    /// One of each experiment, with its folder.
    used: Vec<(PathBuf, Results)>,
    /// Folders of reports that are not used, with the reason.
    unused: Vec<(PathBuf, String)>,
}

impl ClaimsPage {
    /// What the page starts with, so that no other file is taken for one.
    pub const MARK: &str = "<!-- Written by `cdbench claims`: it replaces this file. -->";

    /// Chooses among reports: of those of one experiment, the one with the most cells that were
    /// measured. `unread` could not be read, for the reason given.
    pub fn new(reports: Vec<(PathBuf, Results)>, unread: Vec<(PathBuf, String)>) -> Self {
        let mut page = ClaimsPage { used: vec![], unused: unread };
        for (folder, results) in reports {
            let rival = page.used.iter().position(|(_, r)| r.experiment == results.experiment);
            let Some(at) = rival else {
                page.used.push((folder, results));
                continue;
            };
            let mut less = (folder, results);
            if cells(&less.1) > cells(&page.used[at].1) {
                std::mem::swap(&mut less, &mut page.used[at]);
            }
            let (kept, (folder, results)) = (&page.used[at], less);
            let reason = format!(
                "scale {}, {} cells: {} has {}",
                results.scale,
                cells(&results),
                kept.0.display(),
                cells(&kept.1)
            );
            page.unused.push((folder, reason));
        }
        page.used.sort_by(|a, b| a.1.experiment.cmp(&b.1.experiment));
        page
    }

    /// The claims, judged by the reports.
    pub fn findings(&self) -> Vec<Finding<'static>> {
        let results: Vec<&Results> = self.used.iter().map(|(_, r)| r).collect();
        findings(claims(), &results)
    }

    /// The page as Markdown, for a file in `folder`.
    pub fn markdown(&self, found: &[Finding], folder: &Path) -> String {
        let mut text =
            format!("{}\n\n# The paper's claims\n\n{}\n\n", Self::MARK, self.summary(found));
        text += "A verdict is about the backbones, concepts and scales below, and about nothing else.\n\n";
        text += "## Verdicts\n\n";
        text += &Markdown.table(&self.verdicts(found));
        text += "\n## Claim by claim\n";
        for finding in found {
            text += &self.claim(finding, folder);
        }
        text += "\n## How to read it\n";
        for note in notes(found) {
            let _ = write!(text, "\n{}\n", escape(&note));
        }
        text += "\n## Reports\n\n";
        for (at, results) in &self.used {
            let _ = writeln!(text, "- {}", source(at, results, folder));
        }
        for (at, reason) in &self.unused {
            let _ = writeln!(
                text,
                "- Not used: {} ({})",
                escape(&at.display().to_string()),
                escape(reason)
            );
        }
        text
    }

    /// The comparisons as CSV.
    pub fn csv(&self, found: &[Finding]) -> String {
        Csv.table(&table(found, "The paper's claims".into()))
    }

    /// Everything as JSON.
    pub fn json(&self, found: &[Finding]) -> Value {
        let claim = |f: &Finding| {
            json!({
                "number": f.claim.number,
                "claim": f.claim.text,
                "place": f.claim.place,
                "verdict": f.verdict,
                "p_holm": f.p,
                "comparisons": f.evidence.iter().map(comparison).collect::<Vec<_>>(),
            })
        };
        let report = |(at, r): &(PathBuf, Results)| {
            json!({
                "experiment": r.experiment,
                "folder": at,
                "scale": r.scale,
                "protocol": r.protocol,
                "protocol_text": r.protocol_text,
                "cells": cells(r),
            })
        };
        json!({
            "claims": found.iter().map(claim).collect::<Vec<_>>(),
            "reports": self.used.iter().map(report).collect::<Vec<_>>(),
        })
    }

    /// How many claims have which verdict, in a sentence.
    pub fn summary(&self, found: &[Finding]) -> String {
        let all =
            [Verdict::Reproduced, Verdict::NotReproduced, Verdict::Inconclusive, Verdict::NotRun];
        let count = |v: Verdict| found.iter().filter(|f| f.verdict == v).count();
        let counts = all.map(|v| format!("{} {}", count(v), v.as_str()));
        let paper = "Multi-Concept Customization of Text-to-Image Diffusion (CVPR 2023)";
        format!("{} claims of {paper}: {}.", found.len(), counts.join(", "))
    }

    /// The claims, a row each.
    pub fn verdicts(&self, found: &[Finding]) -> Table {
        let row = |f: &Finding| {
            let Claim { number, text, place, .. } = f.claim;
            let entries = [
                place.clone(),
                f.verdict.as_str().to_owned(),
                f.p.map_or("–".into(), p_value),
                self.stands_on(f),
            ];
            TableRow {
                label: format!("{number}. {text}"),
                entries: entries.map(Entry::Text).into(),
            }
        };
        let columns = ["in the paper", "verdict", "p (Holm)", "stands on"];
        let rows = found.iter().map(row).collect();
        Table {
            name: "verdicts",
            caption: "The paper's claims".into(),
            columns: columns.map(str::to_owned).into(),
            sections: vec![Section { title: String::new(), rows, anchors: vec![] }],
            notes: vec![],
        }
    }

    fn stands_on(&self, finding: &Finding) -> String {
        let names = experiments(finding).into_iter().map(|name| match self.report(name) {
            Some((_, results)) => format!("{name} ({})", results.scale),
            None => format!("{name} (not run)"),
        });
        names.collect::<Vec<_>>().join(", ")
    }

    fn report(&self, experiment: &str) -> Option<&(PathBuf, Results)> {
        self.used.iter().find(|(_, r)| r.experiment == experiment)
    }

    fn claim(&self, finding: &Finding, folder: &Path) -> String {
        let Claim { number, text, place, .. } = finding.claim;
        let mut out = format!("\n### {number}. {}\n\n", escape(text));
        let verdict = format!("{place}: {}", verdict(finding));
        let experiments = experiments(finding);
        match missing(finding).len() < experiments.len() {
            true => out += &Markdown.table(&alone(finding, verdict)),
            false => out += &format!("**{}**\n", escape(&verdict)),
        }
        for name in experiments {
            let _ = match self.report(name) {
                Some((at, results)) => {
                    writeln!(out, "\nBy {}", source(at, results, folder))
                }
                None => writeln!(out, "\nTo run it: `{}`", command(name)),
            };
        }
        out + &more(finding)
    }
}

/// Concept sets below which a verdict is seldom to be had.
const FEW: usize = 4;

/// What would tell more about a claim that was run on few concepts.
fn more(finding: &Finding) -> String {
    let few = |e: &&Evidence| {
        e.found().is_some_and(|m| m.counts.concept_sets.iter().sum::<usize>() < FEW)
    };
    let few = finding.evidence.iter().filter(few).map(|e| e.comparison.experiment.as_str());
    let mut few: Vec<&str> = few.filter(|_| finding.verdict == Verdict::Inconclusive).collect();
    few.dedup();
    let line = |name: &str| format!("\nMore concepts would tell more: `{}`\n", command(name));
    few.into_iter().map(line).collect()
}

/// Where numbers are from: a link to the report, its scale and protocol.
fn source(at: &Path, results: &Results, folder: &Path) -> String {
    format!(
        "{}, scale {}, protocol `{}`, {} cells. {}",
        link(&results.experiment, at, folder),
        escape(&results.scale),
        results.protocol,
        cells(results),
        escape(first_sentence(&results.protocol_text))
    )
}

/// What runs an experiment so that the page finds it.
fn command(experiment: &str) -> String {
    format!("cdbench run experiments/{experiment}.toml --scale full --out reports/{experiment}")
}

/// Cells that were measured.
fn cells(results: &Results) -> usize {
    results.cells.iter().filter(|c| !c.values.is_empty()).count()
}

/// Backbone, size and sampling.
fn first_sentence(text: &str) -> &str {
    text.find(". ").map_or(text, |end| &text[..=end])
}

/// A link to a report, from a page in `folder`.
fn link(name: &str, at: &Path, folder: &Path) -> String {
    let full = |path: &Path| std::path::absolute(path).unwrap_or(path.to_owned());
    let (mut up, there) = (PathBuf::new(), full(at));
    let from = full(folder);
    let shared = from.ancestors().find(|f| there.starts_with(f)).unwrap_or(Path::new(""));
    let below = from.strip_prefix(shared).unwrap_or(Path::new(""));
    below.components().for_each(|_| up.push(".."));
    let there = up.join(there.strip_prefix(shared).unwrap_or(&there)).join("README.md");
    let there = there.to_string_lossy().replace('\\', "/").replace(' ', "%20");
    format!("[{}]({there})", escape(name))
}

fn comparison(evidence: &Evidence) -> Value {
    let of = evidence.comparison;
    let mut value = json!({
        "experiment": of.experiment,
        "group": of.group,
        "metric": of.metric,
        "a": of.a,
        "b": of.b,
        "direction": of.direction,
        "margin": of.margin,
    });
    let found = match &evidence.measured {
        None => json!({"missing": "experiment"}),
        Some(Err(error)) => json!({"missing": error.to_string()}),
        Some(Ok(found)) => json!({
            "difference": found.spread.mean,
            "se": Some(found.spread.se).filter(|se| se.is_finite()),
            "interval": found.spread.interval(),
            "over_concepts": found.spread.over_concepts,
            "smallest_visible": found.spread.visible(),
            "p": found.tested.p,
            "points_as_claimed": found.tested.points,
            "counts": found.counts,
        }),
    };
    if let (Value::Object(value), Value::Object(found)) = (&mut value, found) {
        value.extend(found);
    }
    value
}
