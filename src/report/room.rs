//! How much of what can be learnt was learnt: where methods stand between the pretrained model and the
//! prompts drawn with the concepts in them.

use super::results::Results;
use super::table::{Entry, Number, Section, Table, TableRow};
use super::tables::title;
use super::view::{Group, Row};
use crate::metrics::{Estimate, Metric};

/// Of every method the share (its value − the pretrained model's) ÷ (the rendered truth's − the
/// pretrained model's), for the metrics in which the truth is better than the pretrained model by more
/// than chance.
pub fn room(results: &Results, groups: &[Group]) -> Table {
    let metrics: Vec<&Metric> = results.metrics.iter().filter(|m| m.of_images()).collect();
    let sections = groups.iter().filter_map(|group| {
        let of =
            |method: &str| group.rows.iter().find(|r| r.cells.iter().all(|c| c.method == method));
        let (start, end) = (of("pretrained")?, of("truth")?);
        let line = |row: &Row| {
            let entry =
                |metric: &&Metric| covered(row, start, end, metric).map_or(Entry::Empty, share);
            TableRow { label: row.label.to_owned(), entries: metrics.iter().map(entry).collect() }
        };
        let rows: Vec<TableRow> = group.rows.iter().filter(|r| !r.anchor).map(line).collect();
        let filled = rows.iter().any(|r| r.entries.iter().any(|e| *e != Entry::Empty));
        filled.then(|| Section { title: title(group), rows, anchors: vec![] })
    });
    Table {
        name: "room",
        caption: format!("{}: room covered", results.title),
        columns: metrics.iter().map(|m| m.title.clone()).collect(),
        sections: sections.collect(),
        notes: vec![
            "Share of the way from the pretrained model (0) to the rendered truth (1), ± half of its \
             95 % interval: the paired difference to the pretrained model over that of the truth, by \
             the delta method. Empty where the truth is not better than the pretrained model."
                .into(),
        ],
    }
}

fn covered(row: &Row, start: &Row, end: &Row, metric: &Metric) -> Option<Estimate> {
    let whole = end.difference(start, metric)?;
    let part = row.difference(start, metric)?;
    if !whole.excludes_zero() || metric.better.sign() * whole.mean < 0.0 {
        return None;
    }
    let share = part.mean / whole.mean;
    let se = (part.se.powi(2) + (share * whole.se).powi(2)).sqrt() / whole.mean.abs();
    Some(Estimate::normal(share, se, part.n))
}

fn share(found: Estimate) -> Entry {
    Entry::Number(Number { interval: found.interval(), ..Number::new(found.mean, 2) })
}
