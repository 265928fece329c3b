//! The tables of a report: in the paper's layout, as differences, and concept by concept.

use std::collections::BTreeSet;

use super::results::{Cell, Results};
use super::table::{Entry, Mark, Number, Section, Table, TableRow};
use super::view::{Group, Metric, Row, groups, paper_table};
use crate::metrics::Estimate;

/// More concepts than this are shown without intervals.
const WIDE: usize = 5;

/// All tables of the results.
pub fn tables(results: &Results) -> Vec<Table> {
    let groups = groups(results);
    let mut tables = vec![main(results, &groups), differences(results, &groups)];
    tables.extend(groups.iter().filter(|g| g.concepts.len() > 1).map(|g| concepts(results, g)));
    tables
}

/// The paper's layout, with its values where there are some.
fn main(results: &Results, groups: &[Group]) -> Table {
    let paper = paper_table(results);
    let mut columns = vec![];
    for metric in Metric::ALL {
        columns.push(metric.title().to_owned());
        if paper.is_some() {
            columns.push(format!("paper{}", if metric == Metric::Kid { " ×10³" } else { "" }));
        }
    }
    columns.extend(["stored (MB)".into(), "training (s)".into()]);
    let failed: BTreeSet<&str> = results.failed.iter().map(|(cell, _)| cell.as_str()).collect();
    let sections = groups.iter().map(|group| {
        let line = |row: &Row| {
            let mut entries = vec![];
            for metric in Metric::ALL {
                entries.push(value(group, row, metric, &failed));
                if let Some(paper) = paper {
                    let name = row.paper_row().unwrap_or(row.label);
                    let found = paper.row(group.name, name).and_then(|r| match metric {
                        Metric::Text => r.text,
                        Metric::Image => r.image,
                        Metric::Kid => r.kid,
                    });
                    let digits = metric.shown().1;
                    entries.push(
                        found.map_or(Entry::Empty, |v| Entry::Number(Number::new(v, digits))),
                    );
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
            entries.push(cost(row.mean(|c| c.train_seconds).filter(|_| alone(row))));
            TableRow { label: row.label.to_owned(), entries }
        };
        section(title(group), group, line)
    });
    let sections = sections.collect();
    let mut notes = vec![
        "Mean ± half of its 95 % interval. Alignments: bootstrap over prompts, within concepts. KID: \
         jackknife over images. Bold: best of its part. Italic: not told apart from the best (the 95 % \
         interval of the paired difference holds 0). Anchors do not compete."
            .to_owned(),
    ];
    if groups.iter().any(|g| g.rows.iter().any(|r| Metric::ALL.iter().any(|m| partial(g, r, *m)))) {
        notes.push(
            "† Not of all concepts: some cells failed or were not run. Does not compete.".into(),
        );
    }
    if !groups.iter().flat_map(|g| &g.rows).all(alone) {
        notes.push("Seconds of trainings that ran beside others are left out.".into());
    }
    if let Some(paper) = paper {
        notes.push(format!("Paper: {}; Stable Diffusion on the paper's concepts.", paper.source));
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
    let columns = Metric::ALL.map(|m| format!("Δ {}", m.title())).into();
    let sections = groups.iter().filter_map(|group| {
        let reference = group.reference()?;
        let line = |row: &Row| {
            let entry = |metric: Metric| {
                let Some(found) = row.difference(reference, metric) else { return Entry::Empty };
                let mark = if found.excludes_zero() { Mark::Strong } else { Mark::None };
                let paired = group.complete(row, metric) && group.complete(reference, metric);
                Entry::Number(Number {
                    signed: true,
                    mark,
                    partial: !paired,
                    ..number(found, metric)
                })
            };
            TableRow { label: row.label.to_owned(), entries: Metric::ALL.map(entry).into() }
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
    let mut notes = vec![
        "Paired: same concepts, prompts and seeds. Mean difference ± half of its 95 % interval (alignments: \
         bootstrap over prompts; KID: jackknife over generated images, given the real ones). Bold: the \
         interval excludes 0. † Not of all concepts. More is better for alignments, less for KID."
            .to_owned(),
    ];
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
        match what {
            What::Metric(metric) => row.estimate_where(metric, &keep).map(|e| number(e, metric)),
            What::ImageWith(i) => row.image_with(i, &keep).map(|e| number(e, Metric::Image)),
        }
    };
    let each = (0..width).filter(|_| width > 1).map(What::ImageWith);
    let mut whats = vec![What::Metric(Metric::Text), What::Metric(Metric::Image)];
    whats.extend(each);
    whats.push(What::Metric(Metric::Kid));
    let sets: Vec<Option<&[String]>> =
        group.concepts.iter().map(|s| Some(*s)).chain([None]).collect();
    let sections = whats.into_iter().map(|what| {
        let of_row = |row: &Row| -> Vec<Option<Number>> {
            let mut numbers: Vec<_> = sets.iter().map(|set| pick(what, row, *set)).collect();
            if let Some(Some(mean)) = numbers.last_mut() {
                mean.partial = partial(group, row, what.metric());
            }
            numbers
        };
        let mut found: Vec<(&Row, Vec<Option<Number>>)> =
            group.rows.iter().map(|r| (r, of_row(r))).collect();
        for column in 0..sets.len() {
            let rivals = found.iter_mut().filter(|(row, _)| !row.anchor);
            let rivals = rivals.filter_map(|(_, n)| n[column].as_mut()).filter(|n| !n.partial);
            let value = |n: &&mut Number| what.metric().sign() * n.value;
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
    let mut notes = vec![
        "Best of each column in bold; anchors do not compete. † Not of all concepts.".to_owned(),
    ];
    notes.extend(footing(results, std::slice::from_ref(group)));
    Table { name, caption, columns, sections, notes }
}

/// A section of the table by concepts.
#[derive(Clone, Copy)]
enum What {
    Metric(Metric),
    ImageWith(usize),
}

impl What {
    fn metric(self) -> Metric {
        match self {
            What::Metric(metric) => metric,
            What::ImageWith(_) => Metric::Image,
        }
    }

    fn title(self) -> String {
        match self {
            What::Metric(metric) => metric.title().to_owned(),
            What::ImageWith(i) => format!("image alignment with concept {}", i + 1),
        }
    }
}

fn section(title: String, group: &Group, line: impl Fn(&Row) -> TableRow) -> Section {
    let of = |anchor| group.rows.iter().filter(|r| r.anchor == anchor).map(&line).collect();
    Section { title, rows: of(false), anchors: of(true) }
}

/// A row's value with its mark.
fn value(group: &Group, row: &Row, metric: Metric, failed: &BTreeSet<&str>) -> Entry {
    let Some(found) = row.estimate(metric) else {
        let failed = metric != Metric::Kid && row.cells.iter().any(|c| failed.contains(&*c.id));
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

fn partial(group: &Group, row: &Row, metric: Metric) -> bool {
    row.measured(metric).next().is_some() && !group.complete(row, metric)
}

fn number(found: Estimate, metric: Metric) -> Number {
    let (scale, digits) = metric.shown();
    let interval = found.interval().map(|(low, high)| (scale * low, scale * high));
    Number { interval, ..Number::new(scale * found.mean, digits) }
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
    let mut notes: Vec<String> = groups.iter().map(counts).collect();
    notes.push(format!(
        "Experiment {}, scale {}, protocol {}. {}",
        results.experiment, results.scale, results.protocol, results.protocol_text
    ));
    notes
}

fn counts(group: &Group) -> String {
    let cells: Vec<&Cell> =
        group.rows.iter().filter(|r| !r.anchor).flat_map(|r| r.measured(Metric::Text)).collect();
    let seeds: BTreeSet<u64> = cells.iter().map(|c| c.seed).collect();
    let what = if group.concepts.iter().all(|c| c.len() == 1) { "concept" } else { "combination" };
    let mut text = format!(
        "{}: {}, {}; each with {} and {}.",
        title(group),
        many(group.concepts.len(), what),
        many(seeds.len(), "training seed"),
        range(cells.iter().map(|c| c.prompts), "prompt"),
        range(cells.iter().map(|c| c.images), "image"),
    );
    let kids: Vec<_> = cells.iter().filter_map(|c| c.kid).collect();
    if !kids.is_empty() {
        let of = |pick: fn(&crate::metrics::Kid) -> usize, what| range(kids.iter().map(pick), what);
        text += &format!(
            " KID: {} against {}, {} of m = {}.",
            of(|k| k.n[0], "generated image"),
            of(|k| k.n[1], "real image"),
            of(|k| k.subsets, "subset"),
            of(|k| k.m, ""),
        );
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
