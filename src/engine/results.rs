//! What the store has of a plan, as the data of a report.

use serde_json::json;

use super::cell::{Cell, CellKind};
use super::key::Key;
use super::plan::Plan;
use super::resources::Resources;
use super::run::survey;
use super::scores::Scores;
use super::stage::{Kind, Work};
use super::store::Store;
use crate::Result;
use crate::clip::Embed as _;
use crate::metrics::estimate;
use crate::report::{self, ImageRow, Results};
use crate::spec::{Experiment, GroupName, Scale};

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
        cells: vec![],
        images: vec![],
        failed: vec![],
    };
    for cell in &plan.cells {
        let stage = &plan.stages[cell.scores];
        let path = store.dir(stage.kind.folder(), &stage.folder).join("scores.json");
        if todo[cell.scores] != super::Todo::Nothing {
            let reason = format!("{} is not in the store", cell.name());
            results.failed.push((id(cell, plan), reason));
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
fn id(cell: &Cell, plan: &Plan) -> String {
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
    let stage = &plan.stages[cell.scores];
    let id = id(cell, plan);
    let mut row = report::Cell {
        id: id.clone(),
        group: cell.group.as_str().to_owned(),
        concepts: cell.concepts.clone(),
        method: cell.kind.as_str().to_owned(),
        label: cell.label.clone(),
        paper_row: cell.paper.clone(),
        anchor: !matches!(cell.kind, CellKind::Method(_)),
        seed: cell.seed,
        kid: scores.kid,
        steps: cell.steps,
        ..report::Cell::default()
    };
    if let Some(at) = cell.checkpoint {
        (row.train_seconds, row.peak_mb, row.jobs) = cost(plan, store, at)?;
        let own = store.provenance(Kind::Checkpoint.folder(), &plan.stages[at].folder)?;
        row.stored_bytes = own.map_or(0, |p| p.bytes);
    }
    let Work::Score(work) = &stage.work else { return Ok((row, vec![])) };
    if scores.files.is_empty() {
        anchor(&mut row, scores, work.texts.len());
        return Ok((row, vec![]));
    }
    let mut images = vec![];
    for (i, file) in scores.files.iter().enumerate() {
        let prompt = scores.groups[i];
        images.push(ImageRow {
            cell: id.clone(),
            prompt,
            text_prompt: work.texts.get(prompt).cloned().unwrap_or_default(),
            seed: scores.seeds[i],
            text: scores.text[i],
            image: scores.image.iter().map(|each| each[i]).collect(),
            file: file.clone(),
        });
    }
    row.measure(&images.iter().collect::<Vec<_>>());
    Ok((row, images))
}

/// Alignments of real images, which are of no prompt: every image is a group of its own, or, where
/// every prompt was compared with every copy, every prompt.
fn anchor(row: &mut report::Cell, scores: &Scores, prompts: usize) {
    let of = |values: &[f64], groups: usize| {
        let per_group = values.len().div_ceil(groups.max(1)).max(1);
        let groups: Vec<usize> = (0..values.len()).map(|i| i / per_group).collect();
        (!values.is_empty()).then(|| estimate(values, &groups, report::SEED))
    };
    let copies = row.method == CellKind::Copies.as_str();
    row.text = of(&scores.text, if copies { prompts } else { scores.text.len() });
    row.image_each = scores.image.iter().filter_map(|v| of(v, v.len())).collect();
    let count = scores.image.iter().map(Vec::len).min().unwrap_or(0);
    let mean =
        |i: usize| scores.image.iter().map(|v| v[i]).sum::<f64>() / scores.image.len() as f64;
    let means: Vec<f64> = (0..count).map(mean).collect();
    row.image = of(&means, count);
    row.images = count;
}

/// Seconds of all trainings behind a checkpoint, the most memory of any, and the most stages that ran
/// beside each other meanwhile.
fn cost(plan: &Plan, store: &Store, at: usize) -> Result<(f64, f64, usize)> {
    let stage = &plan.stages[at];
    let own = store.provenance(Kind::Checkpoint.folder(), &stage.folder)?;
    let (mut seconds, mut peak, mut jobs) =
        own.map_or((0.0, 0.0, 1), |p| (p.seconds, p.peak_mb, p.jobs));
    for &input in stage.inputs.iter().filter(|&&i| plan.stages[i].kind == Kind::Checkpoint) {
        let before = cost(plan, store, input)?;
        (seconds, peak, jobs) = (seconds + before.0, peak.max(before.1), jobs.max(before.2));
    }
    Ok((seconds, peak, jobs))
}

/// What numbers must share to be compared: its id, and in words.
fn protocol(
    experiment: &Experiment,
    scale: &Scale,
    resources: &Resources,
) -> Result<(String, String)> {
    let sampling = scale.sampling(&experiment.sampling, GroupName::Single);
    let pair_steps = scale.sampling(&experiment.sampling, GroupName::Multi).steps;
    let embedder = resources.embedder()?.identity();
    let (width, height) = resources.size();
    let meaning = json!({
        "backbone": resources.backbone_identity(),
        "embedder": embedder,
        "sampling": sampling,
        "pair_steps": pair_steps,
        "size": [width, height],
        "text_factor": 2.5,
        "tokens": "stripped",
        "kid": { "kernel": "(x·y/d + 1)³", "images": scale.kid_images },
    });
    let steps = match (scale.pairs.is_empty(), pair_steps == sampling.steps) {
        (false, false) => format!("{} ({pair_steps} for pairs)", sampling.steps),
        _ => sampling.steps.to_string(),
    };
    let kid = match scale.kid_images {
        0 => String::new(),
        n => format!(
            " KID ×10³ on the judge's image features, kernel (x·y/d + 1)³, of {n} images generated \
             from the captions of {n} held-out real images against those images."
        ),
    };
    let text = format!(
        "Backbone {} ({}…), {width}×{height}; {} steps of {}, guidance {}; judge {}…; text \
         alignment 2.5·max(cos, 0) with modifier tokens removed from the prompt; image alignment: \
         mean cosine over all pairs of generated and target images.{kid} Training and sampling seeds \
         0 to {}.",
        resources.backbone_name(),
        &resources.backbone_identity()[..12],
        steps,
        sampling.scheduler,
        sampling.guidance,
        &embedder[..embedder.len().min(12)],
        scale.seeds - 1,
    );
    Ok((Key::of(&meaning).short().to_owned(), text))
}
