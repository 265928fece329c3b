//! What the page shows, as data.

use serde_json::{Value, json};

use super::figures::{self, color, outline};
use super::samples;
use crate::Result;
use crate::metrics::Better;
use crate::report::curves;
use crate::report::folder::Folder;
use crate::report::grid::Pictures;
use crate::report::plot::Looks;
use crate::report::results::{Cell, Results};
use crate::report::table::{Entry, Mark, Number, Table, TableRow};
use crate::report::tables::title;
use crate::report::view::{Group, Row, groups};

/// All that the page shows. Samples are drawn into the folder.
///
/// # Errors
/// A file that cannot be written.
pub fn data(
    results: &Results,
    tables: &[Table],
    pictures: Option<&dyn Pictures>,
    folder: &Folder,
) -> Result<Value> {
    let groups = groups(results);
    let mut looks = Looks::default();
    let figures = figures::figures(results, &mut looks);
    let samples = pictures.map(|p| samples::samples(results, &groups, p, folder)).transpose()?;
    let metrics = results.metrics.iter().map(|m| {
        json!({
            "name": m.name, "title": m.column(), "scale": m.scale, "digits": m.digits,
            "more": m.better == Better::More, "images": m.of_images(),
        })
    });
    let failed = results.failed.iter().map(|(id, reason)| {
        let cell = results.cells.iter().find(|c| c.id == *id);
        [cell.map_or(id.clone(), name), reason.clone()]
    });
    Ok(json!({
        "experiment": results.experiment,
        "title": results.title,
        "scale": results.scale,
        "protocol": results.protocol,
        "metrics": metrics.collect::<Vec<_>>(),
        "keys": curves::keys(results),
        "tables": tables.iter().map(table).collect::<Vec<_>>(),
        "figures": figures,
        "groups": groups.iter().map(|g| group(g, &mut looks)).collect::<Vec<_>>(),
        "cells": results.cells.iter().map(cell).collect::<Vec<_>>(),
        "failed": failed.collect::<Vec<_>>(),
        "files": folder.names().into_iter().filter(|n| !n.starts_with("page/")).collect::<Vec<_>>(),
        "samples": samples,
    }))
}

fn name(c: &Cell) -> String {
    format!("{} on {}, seed {}", c.label, c.concepts.join(" + "), c.seed)
}

/// A part of the tables, with its rows as they look in figures.
fn group(group: &Group, looks: &mut Looks) -> Value {
    let labels: Vec<&str> = group.rows.iter().map(Row::series).collect();
    let mut row = |row: &Row| {
        let (rgb, marker) = looks.of(row.series(), row.method(), row.anchor, &labels);
        json!({
            "label": row.label, "series": row.series(), "place": row.place(), "anchor": row.anchor,
            "color": color(rgb), "marker": outline(marker),
        })
    };
    json!({
        "name": group.name,
        "title": title(group),
        "concepts": group.concepts,
        "rows": group.rows.iter().map(&mut row).collect::<Vec<_>>(),
    })
}

fn cell(c: &Cell) -> Value {
    json!({
        "id": c.id, "group": c.group, "label": c.label, "concepts": c.concepts, "seed": c.seed.to_string(),
        "images": c.images, "prompts": c.prompts, "steps": c.steps,
    })
}

fn table(table: &Table) -> Value {
    let rows = |rows: &[TableRow]| -> Vec<Value> {
        let row = |r: &TableRow| json!({ "label": r.label, "entries": r.entries.iter().map(entry).collect::<Vec<_>>() });
        rows.iter().map(row).collect()
    };
    let sections = table
        .sections
        .iter()
        .map(|s| json!({ "title": s.title, "rows": rows(&s.rows), "anchors": rows(&s.anchors) }));
    json!({
        "name": table.name, "caption": table.caption, "columns": table.columns,
        "sections": sections.collect::<Vec<_>>(), "notes": table.notes,
    })
}

fn entry(entry: &Entry) -> Value {
    match entry {
        Entry::Empty => Value::Null,
        Entry::Text(text) => text.as_str().into(),
        Entry::Number(number) => shown(number),
    }
}

/// A number to sort by, as it is shown, with its interval and marks.
fn shown(number: &Number) -> Value {
    let (value, half) = number.parts();
    let minus = |text: String| text.replace('-', "−");
    let ends = number
        .interval
        .filter(|_| !number.is_flat())
        .map(|(low, high)| [low, high].map(|end| minus(format!("{end:.*}", number.digits))));
    let mark = match number.mark {
        Mark::None => "",
        Mark::Strong => "best",
        Mark::Tied => "tied",
    };
    json!({
        "v": number.value, "text": minus(value), "half": half, "ends": ends, "mark": mark,
        "behind": number.signs(),
    })
}
