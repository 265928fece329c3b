//! The random streams of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// The random streams of a run, by label. Checkpoints keep where each stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    seed: u64,
    started: BTreeMap<String, Rng>,
}

impl Streams {
    /// Streams of `seed`, none of them started.
    pub fn new(seed: u64) -> Self {
        Streams { seed, started: BTreeMap::new() }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The stream `label`, where it was left.
    pub fn stream(&mut self, label: &str) -> &mut Rng {
        let seed = self.seed;
        self.started.entry(label.to_owned()).or_insert_with(|| Rng::new(seed, label))
    }
}
