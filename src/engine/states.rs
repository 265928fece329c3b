//! States of a training: what it had after some of its steps, for the stages that ask for them.
//!
//! A training puts them aside, below the store's `states/`, while it passes; the stage of a state takes
//! its own. That a training has no state which somebody wants is no part of its key: it is the same
//! training, and gives the same bits when it is run again for the state's sake.

use std::fs;
use std::path::{Path, PathBuf};

use super::plan::Plan;
use super::stage::{Kind, Stage, Work};
use super::store::Store;
use crate::methods::Delta;
use crate::{Error, Result};

/// The steps after which the states of a training are wanted by the plan, and are not there.
pub fn missing(plan: &Plan, store: &Store, training: &Stage) -> Result<Vec<u64>> {
    let mut steps = vec![];
    if !matches!(training.work, Work::Train { .. }) {
        return Ok(steps);
    }
    for stage in &plan.stages {
        let Work::State { of, step } = stage.work else { continue };
        if plan.stages[of].key != training.key || kept(plan, store, of, step).exists() {
            continue;
        }
        let kind = Kind::Checkpoint.folder();
        let there = match store.provenance(kind, &stage.folder)? {
            Some(_) => store.is_whole(kind, &stage.folder)?,
            // moved to its place as a whole, by a run that was killed before it said so
            None => has_weights(&store.dir(kind, &stage.folder)),
        };
        if !there {
            steps.push(step);
        }
    }
    Ok(steps)
}

/// Where the state of the training number `of` is put aside.
pub fn kept(plan: &Plan, store: &Store, of: usize, step: u64) -> PathBuf {
    folder(store, &plan.stages[of]).join(step.to_string())
}

/// Puts a state aside: whole or not at all.
pub fn keep(store: &Store, training: &Stage, step: u64, state: &Delta) -> Result<()> {
    let making = folder(store, training).join(format!("{step}.partial"));
    let whole = folder(store, training).join(step.to_string());
    // of a run that was killed
    let _ = fs::remove_dir_all(&making);
    state.save(&making)?;
    fs::rename(&making, &whole).map_err(Error::io(&whole))
}

/// Moves a state that was put aside to its stage's folder.
pub fn take(kept: &Path, stage: &Path) -> Result<()> {
    if !kept.exists() {
        return Ok(());
    }
    if stage.exists() {
        fs::remove_dir_all(stage).map_err(Error::io(stage))?;
    }
    let above = stage.parent().unwrap_or(stage);
    fs::create_dir_all(above).map_err(Error::io(above))?;
    fs::rename(kept, stage).map_err(Error::io(stage))
}

fn folder(store: &Store, training: &Stage) -> PathBuf {
    store.dir("states", &training.key)
}

fn has_weights(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.path()).any(|p| p.extension().is_some_and(|e| e == "safetensors"))
}
