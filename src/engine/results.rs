//! What the store has of a plan, as the data of a report.

use std::collections::BTreeMap;

use super::cell::{Cell, CellKind};
use super::key::Key;
use super::plan::Plan;
use super::protocol::protocol;
use super::resources::Resources;
use super::run::survey;
use super::scores::{Measured, Scores};
use super::stage::{Kind, Work};
use super::store::Store;
use crate::Result;
use crate::metrics::{Estimate, estimate};
use crate::report::{self, CellValue, ImageRow, Results};
use crate::spec::{Experiment, Scale};

use serde_json::json;

/// Collects all cells; those whose scores are not in the store are listed as missing.
///
/// # Errors
/// A store that cannot be read.
pub fn results(
    experiment: &Experiment,
    scale: &Scale,
    plan: &Plan,
    store: &Store,
    resources: &Resources,
) -> Result<Results> {
    let scores: Vec<usize> = plan.cells.iter().map(|c| c.scores).collect();
    let todo = survey(plan, store, resources, &scores)?;
    let (protocol, protocol_text) = protocol(experiment, scale, resources)?;
    let mut results = Results {
        experiment: experiment.name.clone(),
        title: experiment.title.clone(),
        scale: scale.name.clone(),
        protocol,
        protocol_text,
        table: experiment.table.clone(),
        study: experiment.study.clone(),
        metrics: resources.metrics().iter().map(|m| m.metric.clone()).collect(),
        cells: vec![],
        images: vec![],
        failed: vec![],
    };
    for cell in &plan.cells {
        let stage = &plan.stages[cell.scores];
        let path = store.dir(stage.kind.folder(), &stage.folder).join("scores.json");
        if todo[cell.scores] != super::Todo::Nothing {
            let reason = format!("{} is not in the store", cell.name());
            results.failed.push((cell_id(cell, plan), reason));
            continue;
        }
        let scores = Scores::read(&path)?;
        let (row, images) = measured(cell, plan, store, &scores)?;
        results.cells.push(row);
        results.images.extend(images);
    }
    Ok(results)
}

/// What a cell is known by in reports: what it measures, and where it stands in the table.
pub fn cell_id(cell: &Cell, plan: &Plan) -> String {
    let scores = &plan.stages[cell.scores].key;
    Key::of(&json!([scores, cell.label, cell.subject, cell.seed])).short().to_owned()
}

/// A row of each table.
fn measured(
    cell: &Cell,
    plan: &Plan,
    store: &Store,
    scores: &Scores,
) -> Result<(report::Cell, Vec<ImageRow>)> {
    let id = cell_id(cell, plan);
    let mut row = report::Cell {
        id: id.clone(),
        group: cell.group.as_str().to_owned(),
        concepts: cell.concepts.clone(),
        method: cell.kind.as_str().to_owned(),
        label: cell.label.clone(),
        series: if cell.place.is_empty() { String::new() } else { cell.series.clone() },
        place: cell.place.clone(),
        paper_row: cell.paper.clone(),
        anchor: !matches!(cell.kind, CellKind::Method(_)),
        seed: cell.seed,
        steps: cell.steps,
        ..report::Cell::default()
    };
    if let Some(at) = cell.checkpoint {
        (row.train_seconds, row.peak_mb, row.jobs) = cost(plan, store, at)?;
        let own = store.provenance(Kind::Checkpoint.folder(), &plan.stages[at].folder)?;
        row.stored_bytes = own.map_or(0, |p| p.bytes);
    }
    let mut images: Vec<ImageRow> = vec![];
    for image in &scores.images {
        images.push(ImageRow {
            cell: id.clone(),
            of: image.of.as_str().to_owned(),
            prompt: image.prompt,
            text_prompt: image.text.clone(),
            seed: image.seed,
            values: BTreeMap::new(),
            file: image.file.clone(),
            maps: image.maps.clone().unwrap_or_default(),
        });
    }
    for (name, measured) in &scores.values {
        match measured {
            Measured::Images { of, parts } => {
                let own = images.iter_mut().filter(|image| image.of == of.as_str());
                for (i, image) in own.enumerate() {
                    image.values.insert(name.clone(), parts.iter().map(|part| part[i]).collect());
                }
            }
            Measured::Others { parts, groups } => {
                row.values.insert(name.clone(), others(parts, groups));
                row.images = row.images.max(parts.iter().map(Vec::len).min().unwrap_or(0));
            }
            Measured::Set(set) => {
                row.values.insert(name.clone(), CellValue::Set(set.clone()));
            }
        }
    }
    row.measure(&images.iter().collect::<Vec<_>>());
    Ok((row, images))
}

/// Values of images that are not the cell's own, such as real ones. With each of several concepts they
/// may be as many as it has targets: the mean is over those that all have.
fn others(parts: &[Vec<f64>], groups: &[usize]) -> CellValue {
    let of =
        |values: &[f64]| -> Estimate { estimate(values, &groups[..values.len()], report::SEED) };
    let count = parts.iter().map(Vec::len).min().unwrap_or(0);
    let mean = |i: usize| parts.iter().map(|v| v[i]).sum::<f64>() / parts.len() as f64;
    let several = parts.iter().filter(|_| parts.len() > 1);
    CellValue::Mean {
        mean: of(&(0..count).map(mean).collect::<Vec<_>>()),
        parts: several.map(|v| of(v)).collect(),
    }
}

/// Seconds of all trainings behind a checkpoint, the most memory of any, and the most stages that ran
/// beside each other meanwhile.
fn cost(plan: &Plan, store: &Store, at: usize) -> Result<(f64, f64, usize)> {
    let stage = &plan.stages[at];
    let own = store.provenance(Kind::Checkpoint.folder(), &stage.folder)?;
    let (mut seconds, mut peak, mut jobs) =
        own.map_or((0.0, 0.0, 1), |p| (p.seconds, p.peak_mb, p.jobs));
    if let Work::Take(_) = stage.work {
        // nobody here knows what its training took
        return Ok((0.0, 0.0, 1));
    }
    for &input in stage.inputs.iter().filter(|&&i| plan.stages[i].kind == Kind::Checkpoint) {
        let before = cost(plan, store, input)?;
        // a state took the steps up to it
        let share = match (&stage.work, &plan.stages[input].work) {
            (Work::State { step, .. }, Work::Train { settings, .. }) => {
                *step as f64 / settings.steps as f64
            }
            _ => 1.0,
        };
        seconds += share * before.0;
        (peak, jobs) = (peak.max(before.1), jobs.max(before.2));
    }
    Ok((seconds, peak, jobs))
}
