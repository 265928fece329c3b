//! The tables of a report: in the paper's layout, as differences, and concept by concept.

use std::collections::BTreeSet;

use super::results::{Cell, CellValue, Results};
use super::room::room;
use super::table::{Entry, Mark, Number, Section, Table, TableRow};
use super::view::{Group, Row, groups, paper_table};
use crate::metrics::{Better, Estimate, Metric, SetValue};

/// More concepts than this are shown without intervals.
const WIDE: usize = 5;

/// All tables of the results.
pub fn tables(results: &Results) -> Vec<Table> {
    let groups = groups(results);
    let mut tables = vec![main(results, &groups), differences(results, &groups)];
    tables.push(room(results, &groups));
    tables.extend(groups.iter().filter(|g| g.concepts.len() > 1).map(|g| concepts(results, g)));
    tables.into_iter().map(Table::with_signs_explained).collect()
}

/// The paper's layout, with its values where there are some.
fn main(results: &Results, groups: &[Group]) -> Table {
    let paper = paper_table(results);
    let beside = |metric: &Metric| paper.and_then(|p| p.beside(metric));
    let mut columns = vec![];
    for metric in &results.metrics {
        columns.push(metric.column());
        if let Some(paper) = beside(metric) {
            let other = paper.other.map(|name| format!(" ({name})")).unwrap_or_default();
            columns.push(format!("paper{other} {}", metric.unit).trim_end().to_owned());
        }
    }
    columns.extend(["stored (MB)".into(), "training (s)".into()]);
    let failed: BTreeSet<&str> = results.failed.iter().map(|(cell, _)| cell.as_str()).collect();
    let sections = groups.iter().map(|group| {
        let line = |row: &Row| {
            let mut entries = vec![];
            for metric in &results.metrics {
                entries.push(value(group, row, metric, &failed));
                if let (Some(paper), Some(beside)) = (paper, beside(metric)) {
                    let name = row.paper_row().unwrap_or(row.label);
                    let found = paper.row(group.name, name).and_then(|r| r.values.get(&beside.key));
                    let shown = |v: &f64| Entry::Number(Number::new(*v, metric.digits));
                    entries.push(found.map_or(Entry::Empty, shown));
                }
            }
            // an anchor stores and trains nothing
            let cost = |value: Option<f64>| match value.filter(|_| !row.anchor) {
                Some(v) => Entry::Number(Number::new(
                    v,
                    if v < 0.1 {
                        4
                    } else if v < 10.0 {
                        2
                    } else {
                        1
                    },
                )),
                None => Entry::Empty,
            };
            entries.push(cost(row.mean(|c| c.stored_bytes as f64 / 1e6)));
            let seconds = row.mean(|c| c.train_seconds).filter(|s| *s > 0.0 && alone(row));
            entries.push(cost(seconds));
            TableRow { label: row.label.to_owned(), entries }
        };
        section(title(group), group, line)
    });
    let sections = sections.collect();
    let mut notes = vec![format!(
        "Mean ± half of its 95 % interval{}. Bold: best of its part. Italic: not told apart from the \
         best (the 95 % interval of the paired difference holds 0). Anchors do not compete.",
        errors(results, "bootstrap over prompts, within concepts", "its own standard error"),
    )];
    if !groups.iter().flat_map(|g| &g.rows).all(alone) {
        notes.push("Seconds of trainings that ran beside others are left out.".into());
    }
    if let Some(paper) = paper {
        notes.push(format!("Paper: {}; Stable Diffusion on the paper's concepts.", paper.source));
        for metric in &results.metrics {
            let other = beside(metric).and_then(|b| b.other);
            if let (Some(other), Some(own)) = (other, &metric.extractor) {
                notes.push(format!(
                    "The paper's {} is of the features of {other}, another space than that of {own}: \
                     the numbers cannot be compared, their order can.",
                    metric.title.split(" (").next().unwrap_or(&metric.title),
                ));
            }
        }
    }
    notes.extend(footing(results, groups));
    Table { name: "table", caption: results.title.clone(), columns, sections, notes }
}

/// Whether the row's trainings had the machine for themselves, so that their seconds say something.
fn alone(row: &Row) -> bool {
    row.cells.iter().all(|cell| cell.jobs <= 1)
}

/// What every method is better or worse by than Custom Diffusion.
fn differences(results: &Results, groups: &[Group]) -> Table {
    let columns = results.metrics.iter().map(|m| format!("Δ {}", m.column())).collect();
    let sections = groups.iter().filter_map(|group| {
        let reference = group.reference()?;
        let line = |row: &Row| {
            let entry = |metric: &Metric| {
                let Some(found) = row.difference(reference, metric) else { return Entry::Empty };
                let number = number(found, metric);
                let sure = found.excludes_zero() && !number.is_flat();
                let mark = if sure { Mark::Strong } else { Mark::None };
                let paired = group.complete(row, metric) && group.complete(reference, metric);
                Entry::Number(Number { signed: true, mark, partial: !paired, ..number })
            };
            let entries = results.metrics.iter().map(entry).collect();
            TableRow { label: row.label.to_owned(), entries }
        };
        let rows = group
            .rows
            .iter()
            .filter(|r| !r.anchor && r.label != reference.label)
            .map(line)
            .collect();
        let title = format!("{}: difference to {}", title(group), reference.label);
        Some(Section { title, rows, anchors: vec![] })
    });
    let sections: Vec<Section> = sections.filter(|s| !s.rows.is_empty()).collect();
    let better = |m: &Metric| match m.better {
        Better::More => format!("more of {}", m.title),
        Better::Less => format!("less of {}", m.title),
    };
    let better: Vec<String> = results.metrics.iter().map(better).collect();
    let mut notes = vec![format!(
        "Paired: same concepts, prompts and seeds. Mean difference ± half of its 95 % interval{}. \
         Bold: the interval excludes 0. Better is {}.",
        errors(
            results,
            "bootstrap over prompts",
            "its standard error from what is measured, given what it is compared with"
        ),
        better.join(", "),
    )];
    notes.extend(footing(results, groups));
    let caption = format!("{}: differences to Custom Diffusion", results.title);
    Table { name: "differences", caption, columns, sections, notes }
}

/// Every concept or pair in a column of its own, as in Tables 7 and 8 of the paper.
fn concepts(results: &Results, group: &Group) -> Table {
    let mut columns: Vec<String> = group.concepts.iter().map(|c| c.join(" + ")).collect();
    columns.push("mean".into());
    let width = group.concepts.iter().map(|c| c.len()).max().unwrap_or(1);
    let pick = |what: What, row: &Row, set: Option<&[String]>| {
        let keep = |c: &Cell| set.is_none_or(|set| c.concepts == set);
        let found = match what.concept {
            None => row.estimate_where(what.metric, &keep),
            Some(i) => row.with_concept(what.metric, i, &keep),
        };
        found.map(|e| number(e, what.metric))
    };
    let whats = results.metrics.iter().flat_map(|metric| {
        let each = (0..width).filter(|_| width > 1).map(Some);
        [None].into_iter().chain(each).map(move |concept| What { metric, concept })
    });
    let sets: Vec<Option<&[String]>> =
        group.concepts.iter().map(|s| Some(*s)).chain([None]).collect();
    let sections = whats.map(|what| {
        let of_row = |row: &Row| -> Vec<Option<Number>> {
            let mut numbers: Vec<_> = sets.iter().map(|set| pick(what, row, *set)).collect();
            if let Some(Some(mean)) = numbers.last_mut() {
                mean.partial = partial(group, row, what.metric);
            }
            numbers
        };
        let mut found: Vec<(&Row, Vec<Option<Number>>)> =
            group.rows.iter().map(|r| (r, of_row(r))).collect();
        for column in 0..sets.len() {
            let rivals = found.iter_mut().filter(|(row, _)| !row.anchor);
            let rivals = rivals.filter_map(|(_, n)| n[column].as_mut()).filter(|n| !n.partial);
            let value = |n: &&mut Number| what.metric.better.sign() * n.value;
            if let Some(best) = rivals.max_by(|a, b| value(a).total_cmp(&value(b))) {
                best.mark = Mark::Strong;
            }
        }
        let shown = |n: &Option<Number>| match n {
            None => Entry::Empty,
            Some(n) => {
                let interval = n.interval.filter(|_| group.concepts.len() <= WIDE);
                Entry::Number(Number { interval, ..n.clone() })
            }
        };
        let line = |row: &Row| {
            let numbers = found.iter().find(|(r, _)| std::ptr::eq(*r, row)).map(|(_, n)| n);
            let entries = numbers.into_iter().flatten().map(shown).collect();
            TableRow { label: row.label.to_owned(), entries }
        };
        section(what.title(), group, line)
    });
    let filled = |s: &Section| {
        s.rows.iter().chain(&s.anchors).any(|r| r.entries.iter().any(|e| *e != Entry::Empty))
    };
    let sections = sections.filter(filled).collect();
    let single = group.name == "single";
    let caption = format!(
        "{}: {} by {}",
        results.title,
        title(group),
        if single { "concept" } else { "combination" }
    );
    let name = if single { "concepts-single" } else { "concepts-multi" };
    let mut notes = vec!["Best of each column in bold; anchors do not compete.".to_owned()];
    notes.extend(footing(results, std::slice::from_ref(group)));
    Table { name, caption, columns, sections, notes }
}

/// A section of the table by concepts: a metric, or its part with one concept of each set.
#[derive(Clone, Copy)]
struct What<'a> {
    metric: &'a Metric,
    concept: Option<usize>,
}

impl What<'_> {
    fn title(self) -> String {
        match self.concept {
            None => self.metric.column(),
            Some(i) => format!("{} with concept {}", self.metric.title, i + 1),
        }
    }
}

fn section(title: String, group: &Group, line: impl Fn(&Row) -> TableRow) -> Section {
    let of = |anchor| group.rows.iter().filter(move |r| r.anchor == anchor).map(&line);
    // an anchor that has nothing to be measured by says nothing
    let filled = |row: &TableRow| row.entries.iter().any(|e| *e != Entry::Empty);
    Section { title, rows: of(false).collect(), anchors: of(true).filter(filled).collect() }
}

/// A row's value with its mark.
fn value(group: &Group, row: &Row, metric: &Metric, failed: &BTreeSet<&str>) -> Entry {
    let Some(found) = row.estimate(metric) else {
        let failed = metric.of_images() && row.cells.iter().any(|c| failed.contains(&*c.id));
        return if failed { Entry::Text("failed".into()) } else { Entry::Empty };
    };
    let partial = partial(group, row, metric);
    let rivals = group.rows.iter().filter(|r| !r.anchor && r.estimate(metric).is_some()).count();
    let mark = match group.best(metric) {
        _ if row.anchor || partial || rivals < 2 => Mark::None,
        Some(best) if best.label == row.label => Mark::Strong,
        Some(best) => match row.difference(best, metric) {
            Some(difference) if !difference.excludes_zero() => Mark::Tied,
            _ => Mark::None,
        },
        None => Mark::None,
    };
    Entry::Number(Number { mark, partial, ..number(found, metric) })
}

fn partial(group: &Group, row: &Row, metric: &Metric) -> bool {
    row.measured(metric).next().is_some() && !group.complete(row, metric)
}

fn number(found: Estimate, metric: &Metric) -> Number {
    let shown = metric.scaled(found);
    Number { interval: shown.interval(), ..Number::new(shown.mean, metric.digits) }
}

/// What the intervals of the metrics are: in brackets, each kind only where there is one of it.
fn errors(results: &Results, of_images: &str, of_sets: &str) -> String {
    let sets: Vec<&str> =
        results.metrics.iter().filter(|m| !m.of_images()).map(|m| m.title.as_str()).collect();
    let images = (sets.len() < results.metrics.len()).then(|| of_images.to_owned());
    let sets = (!sets.is_empty()).then(|| format!("{}: {of_sets}", sets.join(", ")));
    format!(" ({})", images.into_iter().chain(sets).collect::<Vec<_>>().join("; "))
}

/// What a group is called.
pub(super) fn title(group: &Group) -> String {
    match group.name {
        "single" => "Single concept".into(),
        "multi" if group.concepts.iter().all(|c| c.len() == 2) => "Two concepts".into(),
        "multi" => "Several concepts".into(),
        other => other.into(),
    }
}

/// Counts and protocol: no number is shown without them.
pub(super) fn footing(results: &Results, groups: &[Group]) -> Vec<String> {
    let mut notes: Vec<String> = groups.iter().map(|g| counts(g, &results.metrics)).collect();
    notes.push(format!(
        "Experiment {}, scale {}, protocol {}. {}",
        results.experiment, results.scale, results.protocol, results.protocol_text
    ));
    notes
}

fn counts(group: &Group, metrics: &[Metric]) -> String {
    let methods = group.rows.iter().filter(|r| !r.anchor).flat_map(|r| &r.cells);
    let cells: Vec<&Cell> = methods.copied().filter(|c| !c.values.is_empty()).collect();
    let seeds: BTreeSet<u64> = cells.iter().map(|c| c.seed).collect();
    let what = if group.concepts.iter().all(|c| c.len() == 1) { "concept" } else { "combination" };
    let mut text = format!(
        "{}: {}, {}",
        title(group),
        many(group.concepts.len(), what),
        many(seeds.len(), "training seed"),
    );
    // an experiment whose measures all bring sets of their own has no images of the prompts
    if cells.iter().any(|c| c.images > 0) {
        let prompts = range(cells.iter().map(|c| c.prompts), "prompt");
        let images = range(cells.iter().map(|c| c.images), "image");
        text += &format!("; each with {prompts} and {images}");
    }
    text += ".";
    for metric in metrics.iter().filter(|m| !m.of_images()) {
        let of = |c: &&'_ Cell| c.values.get(&metric.name).and_then(CellValue::set).cloned();
        let sets: Vec<SetValue> = cells.iter().filter_map(of).collect();
        let Some(first) = sets.first() else { continue };
        let mut parts = vec![format!("n = {}", range(sets.iter().map(|s| s.n), ""))];
        for name in first.counts.keys() {
            let of = sets.iter().filter_map(|s| s.counts.get(name).copied());
            parts.push(format!("{name} = {}", range(of, "")));
        }
        text += &format!(" {}: {}.", metric.title, parts.join(", "));
    }
    text
}

fn many(n: usize, what: &str) -> String {
    range([n].into_iter(), what)
}

fn range(values: impl Iterator<Item = usize> + Clone, what: &str) -> String {
    let (low, high) = (values.clone().min().unwrap_or(0), values.max().unwrap_or(0));
    let count = if low == high { low.to_string() } else { format!("{low}–{high}") };
    match what {
        "" => count,
        what if high == 1 => format!("{count} {what}"),
        what => format!("{count} {what}s"),
    }
}
