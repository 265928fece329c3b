//! Results as the rows of a table: cells of one label together, pooled over concepts and seeds.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use super::results::{Cell, CellValue, ImageRow, Results, SEED};
use crate::metrics::paper::{self, PaperTable};
use crate::metrics::{Estimate, Metric, SetValue, Stratum, pooled, student};

/// A part of the table: single concepts, pairs.
pub struct Group<'a> {
    /// `single` or `multi`.
    pub name: &'a str,
    /// The concept sets of its methods, in order.
    pub concepts: Vec<&'a [String]>,
    /// Its rows: methods in the paper's order, then others, then anchors.
    pub rows: Vec<Row<'a>>,
}

/// The cells of one label.
pub struct Row<'a> {
    /// Its label.
    pub label: &'a str,
    /// Below the rule.
    pub anchor: bool,
    /// All its cells, those that failed too.
    pub cells: Vec<&'a Cell>,
    images: HashMap<&'a str, Vec<&'a ImageRow>>,
    /// Place in the table.
    order: (bool, usize, usize),
    /// A bootstrap each: computed once, by the name of the metric.
    estimates: RefCell<BTreeMap<String, Option<Estimate>>>,
}

/// The groups of the results, with their rows.
pub fn groups(results: &Results) -> Vec<Group<'_>> {
    let mut images = results.by_cell();
    let table = paper_table(results);
    let mut names: Vec<&str> = vec![];
    for cell in &results.cells {
        if !names.contains(&cell.group.as_str()) {
            names.push(&cell.group);
        }
    }
    let rank = |name: &str| ["single", "multi"].iter().position(|g| *g == name).unwrap_or(2);
    names.sort_by_key(|name| rank(name));
    let mut group = |name| {
        let mut rows: Vec<Row> = vec![];
        let mut concepts: Vec<&[String]> = vec![];
        for cell in results.cells.iter().filter(|c| c.group == name) {
            if !cell.anchor && !concepts.contains(&&*cell.concepts) {
                concepts.push(&cell.concepts);
            }
            let at =
                match rows.iter().position(|r| r.label == cell.label && r.anchor == cell.anchor) {
                    Some(at) => at,
                    None => {
                        let order = (cell.anchor, place(table, cell), rows.len());
                        let (label, anchor) = (cell.label.as_str(), cell.anchor);
                        let (images, estimates) = Default::default();
                        rows.push(Row { label, anchor, cells: vec![], images, order, estimates });
                        rows.len() - 1
                    }
                };
            rows[at].cells.push(cell);
            rows[at].images.insert(&cell.id, images.remove(cell.id.as_str()).unwrap_or_default());
        }
        rows.sort_by_key(|r| r.order);
        Group { name, concepts, rows }
    };
    names.into_iter().map(&mut group).collect()
}

/// The paper's table beside the results, where there is one.
pub fn paper_table(results: &Results) -> Option<&'static PaperTable> {
    results.table.as_deref().and_then(|name| paper::table(name).ok())
}

fn place(table: Option<&PaperTable>, cell: &Cell) -> usize {
    let label = cell.paper_row.as_ref().unwrap_or(&cell.label);
    let found =
        table.and_then(|t| t.rows.iter().position(|r| r.group == cell.group && r.label == *label));
    found.unwrap_or(usize::MAX)
}

impl<'a> Group<'a> {
    /// What methods are compared with: Custom Diffusion, for several concepts trained jointly.
    pub fn reference(&self) -> Option<&Row<'a>> {
        let methods = || self.rows.iter().filter(|r| !r.anchor);
        let paper = |name: &str| methods().find(|r| r.paper_row() == Some(name));
        let named = |name: &str| methods().find(|r| r.cells.iter().all(|c| c.method == name));
        paper("Ours").or_else(|| paper("Ours (Joint)")).or_else(|| named("custom-diffusion"))
    }

    /// Whether a row has the metric for all concept sets of the group.
    pub fn complete(&self, row: &Row, metric: &Metric) -> bool {
        self.concepts.iter().all(|set| row.measured(metric).any(|c| c.concepts == *set))
    }

    /// Of the rows that are methods and complete, the one with the best mean.
    pub fn best(&self, metric: &Metric) -> Option<&Row<'a>> {
        let methods = self.rows.iter().filter(|r| !r.anchor && self.complete(r, metric));
        let scored =
            methods.filter_map(|r| Some((metric.better.sign() * r.estimate(metric)?.mean, r)));
        scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, row)| row)
    }
}

impl<'a> Row<'a> {
    /// The paper's row beside it.
    pub fn paper_row(&self) -> Option<&'a str> {
        self.cells.iter().find_map(|c| c.paper_row.as_deref())
    }

    /// What the row that it is a point of is called; its label where nothing is swept.
    pub fn series(&self) -> &'a str {
        self.cells.first().map_or(self.label, |c| c.series())
    }

    /// The values of its row's sweep, by their keys.
    pub fn place(&self) -> Option<&'a BTreeMap<String, String>> {
        self.cells.first().map(|c| &c.place).filter(|place| !place.is_empty())
    }

    /// The method's name.
    pub fn method(&self) -> &'a str {
        self.cells.first().map_or("", |c| c.method.as_str())
    }

    /// The images of a cell.
    pub fn images_of(&self, cell: &Cell) -> &[&'a ImageRow] {
        self.images.get(cell.id.as_str()).map_or(&[], Vec::as_slice)
    }

    /// The cells that have the metric.
    pub fn measured(&self, metric: &Metric) -> impl Iterator<Item = &'a Cell> {
        self.cells.iter().copied().filter(|c| c.values.contains_key(&metric.name))
    }

    /// The mean over concept sets of the mean over seeds; none where nothing is measured.
    pub fn estimate(&self, metric: &Metric) -> Option<Estimate> {
        let known = self.estimates.borrow().get(&metric.name).copied();
        known.unwrap_or_else(|| {
            let found = self.estimate_where(metric, &|_| true);
            self.estimates.borrow_mut().insert(metric.name.clone(), found);
            found
        })
    }

    /// The same, of some of its cells.
    pub fn estimate_where(
        &self,
        metric: &Metric,
        keep: &dyn Fn(&Cell) -> bool,
    ) -> Option<Estimate> {
        let cells: Vec<&Cell> = self.measured(metric).filter(|c| keep(c)).collect();
        if !metric.of_images() {
            return sets(&cells, metric, |s| s.se);
        }
        let value = |i: &ImageRow| i.value(&metric.name);
        if cells.iter().all(|c| self.images_of(c).iter().all(|i| value(i).is_none())) {
            return whole(&cells, metric);
        }
        self.pool(&cells, &value)
    }

    /// The metric with one concept of each cell.
    pub fn with_concept(
        &self,
        metric: &Metric,
        concept: usize,
        keep: &dyn Fn(&Cell) -> bool,
    ) -> Option<Estimate> {
        let cells: Vec<&Cell> = self.measured(metric).filter(|c| keep(c)).collect();
        let part = |i: &ImageRow| {
            i.values.get(&metric.name).filter(|parts| parts.len() > 1)?.get(concept).copied()
        };
        self.pool(&cells, &part)
    }

    fn pool(&self, cells: &[&Cell], value: &dyn Fn(&ImageRow) -> Option<f64>) -> Option<Estimate> {
        let mut strata = BTreeMap::<&[String], Stratum>::new();
        for cell in cells {
            let stratum = strata.entry(&cell.concepts).or_default();
            for image in self.images_of(cell) {
                // images of another kind have other metrics
                let Some(value) = value(image) else { continue };
                stratum.values.push(value);
                stratum.groups.push(image.prompt);
            }
        }
        let strata: Vec<Stratum> = strata.into_values().collect();
        let found = pooled(&strata, SEED);
        (!found.mean.is_nan()).then_some(found)
    }

    /// The difference to another row, over what both have: images of the same concepts, training
    /// seed, prompt and noise. Sets are compared with the same others.
    pub fn difference(&self, other: &Row, metric: &Metric) -> Option<Estimate> {
        if !metric.of_images() {
            let shared = |row: &Row<'a>, with: &Row| -> Vec<&'a Cell> {
                let has = |c: &&Cell| with.measured(metric).any(|o| same(c, o));
                row.measured(metric).filter(has).collect()
            };
            let theirs: Vec<&Cell> = other
                .measured(metric)
                .filter(|o| self.measured(metric).any(|c| same(c, o)))
                .collect();
            let a = sets(&shared(self, other), metric, |s| s.se_images)?;
            let b = sets(&theirs, metric, |s| s.se_images)?;
            return Some(Estimate::normal(a.mean - b.mean, a.se.hypot(b.se), a.n));
        }
        let mut strata = BTreeMap::<&[String], Stratum>::new();
        for cell in self.measured(metric) {
            let Some(twin) = other.cells.iter().find(|o| same(cell, o)) else { continue };
            let values: HashMap<(usize, u64), f64> = other
                .images_of(twin)
                .iter()
                .filter_map(|i| Some(((i.prompt, i.seed), i.value(&metric.name)?)))
                .collect();
            let stratum = strata.entry(&cell.concepts).or_default();
            for image in self.images_of(cell) {
                if let (Some(a), Some(b)) =
                    (image.value(&metric.name), values.get(&(image.prompt, image.seed)))
                {
                    stratum.values.push(a - b);
                    stratum.groups.push(image.prompt);
                }
            }
        }
        let found = pooled(&strata.into_values().collect::<Vec<_>>(), SEED);
        (!found.mean.is_nan()).then_some(found)
    }

    /// The mean of a number of the cells that were measured.
    pub fn mean(&self, value: impl Fn(&Cell) -> f64) -> Option<f64> {
        let measured = self.cells.iter().filter(|c| !c.values.is_empty());
        let values: Vec<f64> = measured.map(|c| value(c)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }
}

/// The mean of cells whose values are not of their own images, such as those of real images.
fn whole(cells: &[&Cell], metric: &Metric) -> Option<Estimate> {
    let of = |c: &&Cell| c.values.get(&metric.name).map(CellValue::estimate);
    let each: Vec<Estimate> = cells.iter().filter_map(of).collect();
    let n = each.len() as f64;
    let mean = each.iter().map(|e| e.mean).sum::<f64>() / n;
    let se = each.iter().map(|e| e.se * e.se).sum::<f64>().sqrt() / n;
    (!each.is_empty()).then(|| Estimate::normal(mean, se, each.iter().map(|e| e.n).sum()))
}

/// Whether two cells have the same concepts and training seed.
pub fn same(a: &Cell, b: &Cell) -> bool {
    a.concepts == b.concepts && a.seed == b.seed
}

/// Values of sets over concept sets. Seeds of one concept share what they are compared with, so that
/// their errors are averaged as if they were one; those of concepts are independent. Where values have no
/// error of their own, the spread between concept sets is all that is known.
fn sets(cells: &[&Cell], metric: &Metric, se: fn(&SetValue) -> Option<f64>) -> Option<Estimate> {
    let mut sets = BTreeMap::<&[String], Vec<(f64, f64)>>::new();
    for cell in cells {
        if let Some(set) = cell.values.get(&metric.name).and_then(CellValue::set) {
            let se = se(set).unwrap_or(f64::INFINITY);
            sets.entry(&cell.concepts).or_default().push((set.value, se));
        }
    }
    if !sets.is_empty() && sets.values().flatten().all(|(_, se)| se.is_infinite()) {
        let means = sets.values().map(|v| v.iter().map(|k| k.0).sum::<f64>() / v.len() as f64);
        let values: Vec<f64> = means.collect();
        let groups = (0..values.len()).collect();
        return Some(Estimate { n: cells.len(), ..student(&[Stratum { values, groups }]) });
    }
    let count = sets.len() as f64;
    let mean = |v: &[(f64, f64)], pick: fn(&(f64, f64)) -> f64| {
        v.iter().map(pick).sum::<f64>() / v.len() as f64
    };
    let value = sets.values().map(|v| mean(v, |k| k.0)).sum::<f64>() / count;
    let se = sets.values().map(|v| mean(v, |k| k.1).powi(2)).sum::<f64>().sqrt() / count;
    (!sets.is_empty()).then(|| Estimate::normal(value, se, cells.len()))
}
