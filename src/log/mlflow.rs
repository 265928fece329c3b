//! Results as runs on an MLflow server: a run for each cell.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::rest::{Measured, Tracking};
use crate::engine::{self, Plan, Store, Work, curve};
use crate::report::{Cell, CellValue, Pictures, Results, first_images};
use crate::{Error, Result, process};

/// The tag by which a cell's run is found again.
const CELL: &str = "cdbench.cell";
/// The pictures that are kept with a run: the first of so many prompts.
const PROMPTS: usize = 8;

/// What became of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Runs that were made.
    pub made: usize,
    /// Runs that were there already.
    pub there: usize,
    /// Runs that an export began which was cut short, and which were made anew.
    pub mended: usize,
    /// Pictures that the server would not keep, because it leaves files to another place.
    pub left_out: usize,
}

/// Sends each measured cell to the server as a finished run with its settings, measures, costs, curves and
/// first pictures. A cell that is there as a finished run is left alone: the same results again send nothing.
///
/// # Errors
/// [`Error::Input`] if the server cannot be reached or refuses something; [`Error::Io`].
pub fn export_mlflow(
    server: &Tracking,
    results: &Results,
    plan: &Plan,
    store: &Store,
    pictures: &dyn Pictures,
) -> Result<Exported> {
    let experiment = server.experiment(&results.experiment)?;
    let images = results.by_cell();
    let mut done = Exported::default();
    for cell in results.cells.iter().filter(|cell| !cell.values.is_empty()) {
        let found = server.runs(&experiment, CELL, &cell.id)?;
        if found.iter().any(|(_, finished)| *finished) {
            done.there += 1;
            continue;
        }
        for (id, _) in &found {
            server.delete(id)?;
        }
        done.mended += usize::from(!found.is_empty());
        done.made += 1;
        let of = plan.cells.iter().find(|of| plan.id(of) == cell.id);
        let trainings = of.map(|of| trainings(of, plan)).unwrap_or_default();
        let mut metrics = measures(cell);
        for &at in &trainings {
            metrics.extend(curve_of(cell, plan, store, at, trainings.len() > 1));
        }
        let times = metrics.iter().map(|m| m.time).filter(|time| *time > 0.0);
        let (start, end) = times.fold((f64::INFINITY, 0.0f64), |(a, b), t| (a.min(t), b.max(t)));
        let (start, end) = if start.is_finite() { (start, end) } else { (now(), now()) };
        for measured in metrics.iter_mut().filter(|m| m.time == 0.0) {
            measured.time = end;
        }
        let name = format!("{} · {} · seed {}", cell.label, cell.concepts.join(" + "), cell.seed);
        let run = server.begin(&experiment, &name, start, &tags(results, cell))?;
        run.params(&params(results, cell, plan, &trainings))?;
        run.metrics(&metrics)?;
        let own = images.get(cell.id.as_str()).map_or(&[][..], Vec::as_slice);
        for image in first_images(own, PROMPTS) {
            let Some(file) = pictures.file(image) else { continue };
            let bytes = std::fs::read(&file).map_err(Error::io(&file))?;
            let kept = run.file(&format!("samples/{}-{}.png", image.prompt, image.seed), &bytes)?;
            done.left_out += usize::from(!kept);
        }
        run.finish(end)?;
    }
    Ok(done)
}

fn now() -> f64 {
    process::since_1970().as_secs_f64()
}

/// The trainings behind a cell's checkpoint.
fn trainings(cell: &engine::Cell, plan: &Plan) -> BTreeSet<usize> {
    let (mut found, mut open) = (BTreeSet::new(), Vec::from_iter(cell.checkpoint));
    while let Some(at) = open.pop() {
        let stage = &plan.stages[at];
        if matches!(stage.work, Work::Train { .. }) {
            found.insert(at);
        }
        let checkpoints = stage.inputs.iter();
        open.extend(checkpoints.filter(|&&i| plan.stages[i].kind == engine::Kind::Checkpoint));
    }
    found
}

fn tags(results: &Results, cell: &Cell) -> Vec<(String, String)> {
    let tag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    vec![
        tag(CELL, &cell.id),
        tag("cdbench.scale", &results.scale),
        tag("cdbench.protocol", &results.protocol),
        tag("cdbench.protocol_text", &results.protocol_text),
        tag("mlflow.source.name", "cdbench"),
        tag("mlflow.note.content", &results.title),
    ]
}

/// What the cell is and how it was trained, keys within keys with dots between them.
fn params(
    results: &Results,
    cell: &Cell,
    plan: &Plan,
    trainings: &BTreeSet<usize>,
) -> Vec<(String, String)> {
    let mut all = BTreeMap::<String, String>::new();
    let mut set = |name: &str, value: String| drop(all.insert(name.to_owned(), value));
    set("method", cell.method.clone());
    set("label", cell.label.clone());
    set("group", cell.group.clone());
    set("concepts", cell.concepts.join(" + "));
    set("seed", cell.seed.to_string());
    set("scale", results.scale.clone());
    for (key, value) in &cell.place {
        set(&format!("sweep.{key}"), value.clone());
    }
    // trainings of one cell have the same settings but for their steps' share of the whole
    if let Some(Work::Train { settings, .. }) = trainings.first().map(|&at| &plan.stages[at].work)
        && let Ok(Value::Object(settings)) = serde_json::to_value(settings)
    {
        for (key, value) in settings {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            set(&format!("settings.{key}"), text);
        }
    }
    all.into_iter().collect()
}

/// What was measured, with the ends of its interval, and what it took; at the number of training steps.
fn measures(cell: &Cell) -> Vec<Measured> {
    let mut all = vec![];
    let mut add = |key: String, value: f64| {
        all.push(Measured { key, value, time: 0.0, step: cell.steps });
    };
    for (name, value) in &cell.values {
        let found = value.estimate();
        add(name.clone(), found.mean);
        add(format!("{name}.low"), found.low);
        add(format!("{name}.high"), found.high);
        if let CellValue::Mean { parts, .. } = value {
            for (i, part) in parts.iter().enumerate() {
                add(format!("{name}.{}", i + 1), part.mean);
            }
        }
    }
    if !cell.anchor {
        add("cost/train_seconds".into(), cell.train_seconds);
        add("cost/peak_mb".into(), cell.peak_mb);
        add("cost/stored_bytes".into(), cell.stored_bytes as f64);
    }
    all
}

/// The curve of a training, up to the step that the cell's checkpoint is of.
fn curve_of(cell: &Cell, plan: &Plan, store: &Store, at: usize, several: bool) -> Vec<Measured> {
    let stage = &plan.stages[at];
    let Work::Train { concepts, .. } = &stage.work else { return vec![] };
    let of = if several { format!("/{}", concepts.join("+")) } else { String::new() };
    let points = curve(store, stage).into_iter().filter(|point| point.step <= cell.steps);
    let three = |p: engine::Point| {
        let values = [("loss", p.loss), ("learning_rate", p.lr), ("gradient_norm", p.grad_norm)];
        values.map(|(name, value)| Measured {
            key: format!("training/{name}{of}"),
            value,
            time: p.time,
            step: p.step,
        })
    };
    // a skipped step's are not, which its JSON has no word for
    points.flat_map(three).filter(|measured| measured.value.is_finite()).collect()
}
