//! The regression gate: results against a baseline of the same protocol.

use std::collections::HashMap;
use std::fmt;

use super::baseline::{Baseline, BaselineCell};
use super::results::{Cell, ImageRow, Results};
use super::view::Metric;
use crate::metrics::{Estimate, Stratum, student};

/// Chance that a check of two runs that differ by nothing but noise finds something.
const ALARM: f64 = 0.05;

/// Differences that nobody minds, however sure they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Of text and image alignment.
    pub alignment: f64,
    /// Of KID, not scaled.
    pub kid: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Tolerance { alignment: 0.005, kid: 0.001 }
    }
}

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Group, label, concepts and seed.
    pub what: String,
    /// What was measured.
    pub metric: Metric,
    /// Its mean in the baseline.
    pub before: f64,
    /// Its mean now.
    pub now: f64,
    /// The interval of the difference, now − before, at the check's confidence.
    pub interval: (f64, f64),
}

impl Change {
    /// Now − before.
    pub fn difference(&self) -> f64 {
        self.now - self.before
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckOutcome {
    /// The baseline's and the results' protocols, where they differ: nothing is compared then.
    pub protocols: Option<[String; 2]>,
    /// Worse by more than noise and tolerance.
    pub regressions: Vec<Change>,
    /// Better by more than noise and tolerance.
    pub improvements: Vec<Change>,
    /// The others.
    pub unchanged: Vec<Change>,
    /// Cells, images or metrics of the baseline that the results lack.
    pub missing: Vec<String>,
    /// Cells that the baseline lacks.
    pub added: Vec<String>,
    /// Confidence of each interval, so that all of them together hold with 95 %.
    pub confidence: f64,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is worse, nothing is missing.
    Passed,
    /// Something is worse or missing.
    Failed,
    /// Numbers of different protocols, which are never compared.
    OtherProtocol,
}

impl CheckOutcome {
    /// How it ended.
    pub fn verdict(&self) -> Verdict {
        match self {
            _ if self.protocols.is_some() => Verdict::OtherProtocol,
            _ if self.regressions.is_empty() && self.missing.is_empty() => Verdict::Passed,
            _ => Verdict::Failed,
        }
    }
}

/// Compares every cell, and every row over all its concepts, with the baseline: the same prompts and
/// seeds, image by image. Worse is what is worse by more than the tolerance and whose interval lies
/// on the worse side of 0.
///
/// The prompts are the same in both, so that images are what noise comes from. Intervals are
/// Student's, at 1 − 5 % ÷ comparisons (Bonferroni): a check does not fail because it looks at much.
pub fn check(results: &Results, baseline: &Baseline, tolerance: Tolerance) -> CheckOutcome {
    let mut out = CheckOutcome::default();
    if results.protocol != baseline.protocol {
        out.protocols = Some([baseline.protocol.clone(), results.protocol.clone()]);
        return out;
    }
    let images = results.by_cell();
    let mut found: Vec<Compared> = vec![];
    let mut rows: Vec<((&str, &str), Vec<Pairs>)> = vec![];
    for old in &baseline.cells {
        let Some(new) = results.cells.iter().find(|c| same(c, old)) else {
            out.missing.push(name(old));
            continue;
        };
        let of = images.get(new.id.as_str()).map_or(&[][..], Vec::as_slice);
        let pairs = Pairs::new(old, of);
        if pairs.count() < old.prompts.len() {
            let (n, all) = (pairs.count(), old.prompts.len());
            out.missing.push(format!("{}: {n} of {all} images", name(old)));
        }
        match (&old.kid, &new.kid) {
            (Some(k), Some(l)) => {
                let se = k.se_generated.hypot(l.se_generated);
                let difference = Estimate::normal(l.mean - k.mean, se, l.n[0]);
                found.push((name(old), Metric::Kid, k.mean, l.mean, difference));
            }
            (Some(_), None) => out.missing.push(format!("{}: KID", name(old))),
            (None, _) => {}
        }
        found.extend(compare(name(old), std::slice::from_ref(&pairs)));
        let key = (old.group.as_str(), old.label.as_str());
        match rows.iter_mut().find(|(k, _)| *k == key) {
            Some((_, all)) => all.push(pairs),
            None => rows.push((key, vec![pairs])),
        }
    }
    for ((group, label), all) in rows.iter().filter(|(_, all)| all.len() > 1) {
        found.extend(compare(format!("{group}: {label}, all {} cells", all.len()), all));
    }
    let added = results.cells.iter().filter(|c| images.contains_key(c.id.as_str()));
    let added = added.filter(|c| !baseline.cells.iter().any(|old| same(c, old)));
    out.added =
        added.map(|c| format!("{}: {} on {}", c.group, c.label, c.concepts.join(" + "))).collect();

    out.confidence = 1.0 - ALARM / found.len().max(1) as f64;
    for (what, metric, before, now, difference) in found {
        let interval = difference.t_interval(out.confidence);
        let change = Change { what, metric, before, now, interval };
        let allowed = if metric == Metric::Kid { tolerance.kid } else { tolerance.alignment };
        let certain = interval.0 > 0.0 || interval.1 < 0.0;
        let list = match metric.sign() * change.difference() {
            better if certain && better > allowed => &mut out.improvements,
            better if certain && -better > allowed => &mut out.regressions,
            _ => &mut out.unchanged,
        };
        list.push(change);
    }
    out
}

type Compared = (String, Metric, f64, f64, Estimate);

/// The images of a cell that both runs have: values before and now.
struct Pairs {
    text: Vec<(f64, f64)>,
    image: Vec<(f64, f64)>,
}

impl Pairs {
    fn new(old: &BaselineCell, new: &[&ImageRow]) -> Self {
        let new: HashMap<(usize, u64), &ImageRow> =
            new.iter().map(|i| ((i.prompt, i.seed), *i)).collect();
        let mut pairs = Pairs { text: vec![], image: vec![] };
        for (i, key) in old.prompts.iter().copied().zip(old.seeds.iter().copied()).enumerate() {
            if let Some(image) = new.get(&key) {
                pairs.text.push((old.text[i], image.text));
                pairs.image.push((old.image[i], image.image_mean()));
            }
        }
        pairs
    }

    fn count(&self) -> usize {
        self.text.len()
    }
}

/// Both alignments, each cell counting the same.
fn compare(what: String, cells: &[Pairs]) -> Vec<Compared> {
    let of = |metric, pick: fn(&Pairs) -> &Vec<(f64, f64)>| {
        let over = |value: fn(&(f64, f64)) -> f64| {
            let strata: Vec<Stratum> = cells
                .iter()
                .map(|c| {
                    let values: Vec<f64> = pick(c).iter().map(value).collect();
                    Stratum { groups: (0..values.len()).collect(), values }
                })
                .collect();
            student(&strata)
        };
        let (before, now) = (over(|p| p.0).mean, over(|p| p.1).mean);
        (what.clone(), metric, before, now, over(|p| p.1 - p.0))
    };
    let all = [of(Metric::Text, |p| &p.text), of(Metric::Image, |p| &p.image)];
    all.into_iter().filter(|c| !c.2.is_nan()).collect()
}

fn same(new: &Cell, old: &BaselineCell) -> bool {
    let (a, b) = ((&new.group, &new.label, &new.concepts), (&old.group, &old.label, &old.concepts));
    a == b && new.seed == old.seed
}

fn name(cell: &BaselineCell) -> String {
    let seed = if cell.seed == 0 { String::new() } else { format!(", seed {}", cell.seed) };
    format!("{}: {} on {}{seed}", cell.group, cell.label, cell.concepts.join(" + "))
}

impl fmt::Display for CheckOutcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some([before, now]) = &self.protocols {
            return writeln!(
                f,
                "protocols differ: the baseline has {before}, the results have {now}"
            );
        }
        let changed = || {
            let worse = self.regressions.iter().map(|c| ("worse", c));
            worse.chain(self.improvements.iter().map(|c| ("better", c)))
        };
        let wide = changed().map(|(_, c)| c.what.chars().count()).max().unwrap_or(0);
        for (word, c) in changed() {
            let (scale, digits) = c.metric.shown();
            let show = |v: f64| format!("{:.digits$}", scale * v);
            writeln!(
                f,
                "{word:<7} {:<wide$}  {:<15} {:>7} -> {:>7}   {:>+8.digits$} [{}, {}]",
                c.what,
                c.metric.title(),
                show(c.before),
                show(c.now),
                scale * c.difference(),
                show(c.interval.0),
                show(c.interval.1)
            )?;
        }
        for what in &self.missing {
            writeln!(f, "missing {what}")?;
        }
        for what in &self.added {
            writeln!(f, "new     {what} (not in the baseline)")?;
        }
        writeln!(
            f,
            "{} worse, {} better, {} unchanged, {} missing; intervals at {:.2} %",
            self.regressions.len(),
            self.improvements.len(),
            self.unchanged.len(),
            self.missing.len(),
            100.0 * self.confidence
        )
    }
}
