//! What programs of others are told.

use serde_json::{Value, json};

use crate::Result;
use crate::engine::resources::Resources;
use crate::methods::External;

/// Programs of others, and what they are told.
#[derive(Clone, Debug)]
pub struct Told {
    /// The programs.
    pub external: External,
    /// Names of the concepts.
    pub concepts: Vec<String>,
    /// Numbers of their modifier tokens.
    pub tokens: Vec<usize>,
    /// Of the cell.
    pub seed: u64,
}

impl Told {
    /// The program's own name, for people.
    pub fn program(&self, args: &Option<Vec<String>>) -> String {
        args.iter().flatten().next().cloned().unwrap_or_default()
    }

    /// What the results of the program with these arguments depend on.
    pub fn meaning(&self, args: Option<&Vec<String>>, resources: &Resources) -> Result<Value> {
        let Told { external, concepts, tokens, seed } = self;
        let mut all = vec![];
        for name in concepts {
            let concept = resources.concept(name)?;
            all.push(json!({ "category": concept.category, "targets": concept.target_hashes() }));
        }
        Ok(json!({
            "command": external.meaning(args),
            "concepts": all,
            "tokens": tokens,
            "seed": seed,
        }))
    }
}
