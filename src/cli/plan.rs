//! `cdbench plan`: what a run would do, for people and for schedulers.

use serde_json::{Value, json};

use super::experiment::{ExperimentArgs, Session};
use super::watch::human;
use crate::Result;
use crate::engine::{Todo, is_done, levels};

const EXAMPLES: &str = "\
Examples:
  cdbench plan experiments/table1.toml
  cdbench plan experiments/table1.toml --scale full --json | jq '.stages[] | select(.state == \"missing\")'

Any scheduler can run a plan: `cdbench run FILE --stage KEY` does one stage, once the stages that it needs are
there (or does those, too), and what another run is at is not done twice. `level` counts the missing stages
that must be done before, one after another: stages of a level need nothing of each other.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    experiment: ExperimentArgs,

    /// Print everything that is known, as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `cdbench plan`.
pub fn run(args: Args) -> Result<()> {
    let session = args.experiment.options.open_to_look(&args.experiment.file)?;
    let plan = described(&session)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&plan).unwrap_or_default());
        return Ok(());
    }
    for stage in plan["stages"].as_array().into_iter().flatten() {
        let text = |key: &str| stage[key].as_str().unwrap_or_default();
        let time = match (text("state"), stage["seconds"].as_f64()) {
            ("missing", Some(seconds)) => human(seconds),
            ("missing", None) => "?".into(),
            _ => String::new(),
        };
        println!("{}  {:10}  {time:>8}  {}", text("key"), text("state"), text("name"));
    }
    Ok(())
}

/// The plan, with what the store has of it.
fn described(session: &Session) -> Result<Value> {
    let (plan, store) = (&session.plan, &session.store);
    let todo = session.survey()?;
    let levels = levels(plan, &todo);
    let key = |at: usize| plan.stages[at].key.short();
    let mut stages = vec![];
    for (at, stage) in plan.stages.iter().enumerate() {
        let (reason, seconds) = match &todo[at] {
            Todo::Run { reason, estimate } => (Some(reason), *estimate),
            Todo::Nothing => (None, None),
        };
        let is_missing = reason.is_some();
        let state = match is_missing {
            true => "missing",
            false if is_done(plan, store, &session.resources, at)? => "done",
            false => "not needed",
        };
        let holder = store.holder(stage).filter(|_| is_missing);
        let failure = store.failure(&stage.key).filter(|_| is_missing);
        stages.push(json!({
            "key": key(at),
            "kind": stage.kind.folder(),
            "name": stage.name,
            "folder": format!("{}/{}", stage.kind.folder(), stage.folder),
            "inputs": stage.inputs.iter().map(|&i| key(i)).collect::<Vec<_>>(),
            "state": state,
            "reason": reason,
            "level": levels[at],
            "seconds": seconds,
            "held_by": holder.map(|holder| holder.to_string()),
            "failed": failure.map(|failure| failure.error),
        }));
    }
    let cells = plan.cells.iter().map(|cell| {
        json!({
            "name": cell.name(),
            "label": cell.label,
            "subject": cell.subject,
            "concepts": cell.concepts,
            "seed": cell.seed,
            "stage": key(cell.scores),
            "done": todo[cell.scores] == Todo::Nothing,
        })
    });
    Ok(json!({
        "experiment": session.experiment.name,
        "scale": session.scale.name,
        "store": store.root(),
        "cells": cells.collect::<Vec<_>>(),
        "stages": stages,
    }))
}
