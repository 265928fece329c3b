//! How the images of a plan are made.

use std::collections::HashMap;

use super::images::{Images, image_file};
use super::key::Key;
use super::plan::Plan;
use super::stage::Work;
use crate::spec::SamplingSpec;

/// How an image was made.
#[derive(Clone, Debug)]
pub struct Origin {
    /// What it was asked for by, with modifier tokens.
    pub prompt: String,
    /// The folder of the checkpoint below the store's `checkpoints/`, if it is not of the backbone.
    pub checkpoint: Option<Key>,
    /// What made it.
    pub by: Maker,
}

/// What makes images.
#[derive(Clone, Debug)]
pub enum Maker {
    /// This program's sampler.
    Sampler(SamplingSpec),
    /// A program of others.
    Program,
    /// The renderer of the world.
    Renderer,
}

/// The images of a plan by their files, relative to the store.
pub fn origins(plan: &Plan) -> HashMap<String, Origin> {
    let mut found = HashMap::new();
    for stage in &plan.stages {
        let (checkpoint, list, by) = match &stage.work {
            Work::Sample { checkpoint, images: Images::Listed(list), sampling, by } => {
                let by = match by {
                    None => Maker::Sampler(sampling.clone()),
                    Some(_) => Maker::Program,
                };
                (*checkpoint, list, by)
            }
            Work::Render { list, .. } => (None, list, Maker::Renderer),
            _ => continue,
        };
        let checkpoint = checkpoint.map(|at| plan.stages[at].folder.clone());
        for (prompt, seed) in list {
            let name = image_file(prompt, *seed);
            let file = format!("{}/{}/{name}", stage.kind.folder(), stage.folder);
            let (prompt, checkpoint) = (prompt.clone(), checkpoint.clone());
            found.insert(file, Origin { prompt, checkpoint, by: by.clone() });
        }
    }
    found
}
