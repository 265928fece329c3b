//! The regression gate: results against a baseline of the same protocol.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::baseline::{Baseline, BaselineCell};
use super::results::{Cell, CellValue, ImageRow, Results};
use crate::metrics::{Estimate, Metric, Stratum, student};

/// Chance that a check of two runs that differ by nothing but noise finds something.
const ALARM: f64 = 0.05;

/// Differences that nobody minds, however sure they are, by the names of metrics; a metric that is not
/// here has its measure's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tolerance(pub BTreeMap<String, f64>);

impl Tolerance {
    fn of(&self, metric: &Metric) -> f64 {
        self.0.get(&metric.name).copied().unwrap_or(metric.tolerance)
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
pub fn check(results: &Results, baseline: &Baseline, tolerance: &Tolerance) -> CheckOutcome {
    let mut out = CheckOutcome::default();
    if results.protocol != baseline.protocol {
        out.protocols = Some([baseline.protocol.clone(), results.protocol.clone()]);
        return out;
    }
    let images = results.by_cell();
    let mut found: Vec<Compared> = vec![];
    let mut rows: Vec<((&str, &str), Vec<Pairs>)> = vec![];
    let metrics = &results.metrics;
    for old in &baseline.cells {
        let Some(new) = results.cells.iter().find(|c| same(c, old)) else {
            out.missing.push(name(old));
            continue;
        };
        let of = images.get(new.id.as_str()).map_or(&[][..], Vec::as_slice);
        let pairs = Pairs::new(old, of);
        if pairs.images < old.prompts.len() {
            let (n, all) = (pairs.images, old.prompts.len());
            out.missing.push(format!("{}: {n} of {all} images", name(old)));
        }
        for metric in metrics {
            let key = metric.name.as_str();
            let now = new.values.get(key).and_then(CellValue::set);
            if let (Some(k), Some(l)) = (old.sets.get(key), now) {
                let error = |se: Option<f64>| se.unwrap_or(f64::INFINITY);
                let se = error(k.se_images).hypot(error(l.se_images));
                let difference = Estimate::normal(l.value - k.value, se, l.n);
                found.push((name(old), metric.clone(), k.value, l.value, difference));
            }
        }
        let lost =
            old.images.keys().chain(old.sets.keys()).filter(|k| !new.values.contains_key(*k));
        out.missing.extend(lost.map(|key| format!("{}: {key}", name(old))));
        found.extend(compare(name(old), metrics, std::slice::from_ref(&pairs)));
        let key = (old.group.as_str(), old.label.as_str());
        match rows.iter_mut().find(|(k, _)| *k == key) {
            Some((_, all)) => all.push(pairs),
            None => rows.push((key, vec![pairs])),
        }
    }
    for ((group, label), all) in rows.iter().filter(|(_, all)| all.len() > 1) {
        let what = format!("{group}: {label}, all {} cells", all.len());
        found.extend(compare(what, metrics, all));
    }
    let added = results.cells.iter().filter(|c| images.contains_key(c.id.as_str()));
    let added = added.filter(|c| !baseline.cells.iter().any(|old| same(c, old)));
    out.added =
        added.map(|c| format!("{}: {} on {}", c.group, c.label, c.concepts.join(" + "))).collect();

    out.confidence = 1.0 - ALARM / found.len().max(1) as f64;
    for (what, metric, before, now, difference) in found {
        let interval = difference.t_interval(out.confidence);
        let allowed = tolerance.of(&metric);
        let sign = metric.better.sign();
        let change = Change { what, metric, before, now, interval };
        let certain = interval.0 > 0.0 || interval.1 < 0.0;
        let list = match sign * change.difference() {
            better if certain && better > allowed => &mut out.improvements,
            better if certain && -better > allowed => &mut out.regressions,
            _ => &mut out.unchanged,
        };
        list.push(change);
    }
    out
}

type Compared = (String, Metric, f64, f64, Estimate);

/// The images of a cell that both runs have.
struct Pairs {
    images: usize,
    /// Values before and now, by the names of metrics.
    values: BTreeMap<String, Vec<(f64, f64)>>,
}

impl Pairs {
    fn new(old: &BaselineCell, new: &[&ImageRow]) -> Self {
        let new: HashMap<(usize, u64), &ImageRow> =
            new.iter().map(|i| ((i.prompt, i.seed), *i)).collect();
        let mut pairs = Pairs { images: 0, values: BTreeMap::new() };
        for (i, key) in old.prompts.iter().copied().zip(old.seeds.iter().copied()).enumerate() {
            let Some(image) = new.get(&key) else { continue };
            pairs.images += 1;
            for (name, before) in &old.images {
                if let Some(now) = image.value(name) {
                    pairs.values.entry(name.clone()).or_default().push((before[i], now));
                }
            }
        }
        pairs
    }
}

/// Every metric that images have a value of, each cell counting the same.
fn compare(what: String, metrics: &[Metric], cells: &[Pairs]) -> Vec<Compared> {
    let of = |metric: &Metric| {
        let over = |value: fn(&(f64, f64)) -> f64| {
            let strata: Vec<Stratum> = cells
                .iter()
                .map(|c| {
                    let pairs = c.values.get(&metric.name);
                    let values: Vec<f64> = pairs.into_iter().flatten().map(value).collect();
                    Stratum { groups: (0..values.len()).collect(), values }
                })
                .collect();
            student(&strata)
        };
        let (before, now) = (over(|p| p.0).mean, over(|p| p.1).mean);
        (what.clone(), metric.clone(), before, now, over(|p| p.1 - p.0))
    };
    metrics.iter().map(of).filter(|c| !c.2.is_nan()).collect()
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
            let (scale, digits) = (c.metric.scale, c.metric.digits);
            let show = |v: f64| format!("{:.digits$}", scale * v);
            writeln!(
                f,
                "{word:<7} {:<wide$}  {:<15} {:>7} -> {:>7}   {:>+8.digits$} [{}, {}]",
                c.what,
                c.metric.column(),
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
