//! The pictures of a session's report, and how each is made again.

use std::collections::HashMap;
use std::path::PathBuf;

use image::RgbImage;

use super::experiment::Session;
use super::words::quoted;
use crate::diffusion::{WordMap, load_maps};
use crate::engine::{self, Kind, Maker, origins};
use crate::report::{Again, ImageRow, Origin, Pictures};

/// What the store has of a session.
pub struct Stored<'a> {
    session: &'a Session,
    origins: HashMap<String, engine::Origin>,
}

impl<'a> Stored<'a> {
    pub fn new(session: &'a Session) -> Self {
        Stored { session, origins: origins(&session.plan) }
    }

    /// The command that makes an image of a cell again.
    fn command(&self, origin: &engine::Origin, cell: &str) -> Again {
        let Session { backbone, resources, store, .. } = self.session;
        let Maker::Sampler(sampling) = &origin.by else {
            return Again::Run(self.run_of(cell));
        };
        let mut line = CommandLine::new("sample");
        backbone.iter().for_each(|word| line.word(word));
        if let Some(key) = &origin.checkpoint {
            let folder = store.dir(Kind::Checkpoint.folder(), key);
            line.option("--checkpoint", folder.display());
        }
        let (width, height) = resources.size();
        line.option("--steps", sampling.steps);
        line.option("--guidance", sampling.guidance);
        line.option("--scheduler", sampling.scheduler);
        line.option("--size", format_args!("{width}x{height}"));
        Again::Sample(line.0)
    }

    /// The command that makes what a cell lacks.
    fn run_of(&self, id: &str) -> String {
        let mut line = self.session.again.clone();
        let plan = &self.session.plan;
        if let Some(cell) = plan.cells.iter().find(|cell| plan.id(cell) == id) {
            // a comma would be the next condition's
            let of = [
                ("label", &cell.label),
                ("concept", &cell.subject),
                ("seed", &cell.seed.to_string()),
            ];
            for (key, value) in of.iter().filter(|(_, value)| !value.contains(',')) {
                line.option("--filter", format_args!("{key}={value}"));
            }
        }
        line.word("--images");
        line.0
    }
}

/// A command as a shell takes it.
#[derive(Clone)]
pub struct CommandLine(String);

impl CommandLine {
    /// A command of this program.
    pub fn new(name: &str) -> Self {
        CommandLine(format!("cdbench {name}"))
    }

    /// Adds a word.
    pub fn word(&mut self, word: impl ToString) {
        self.0 += " ";
        self.0 += &quoted(&word.to_string());
    }

    /// Adds an option.
    pub fn option(&mut self, name: &str, value: impl ToString) {
        self.word(name);
        self.word(value);
    }
}

impl Pictures for Stored<'_> {
    fn sample(&self, row: &ImageRow) -> Option<RgbImage> {
        engine::read_image(&self.file(row)?).ok()
    }

    fn targets(&self, concept: &str) -> Vec<RgbImage> {
        let concept = self.session.resources.concept(concept);
        concept.map_or(vec![], |c| c.targets.iter().map(|t| t.image.clone()).collect())
    }

    fn maps(&self, row: &ImageRow) -> Vec<WordMap> {
        match row.maps.is_empty() {
            true => vec![],
            false => load_maps(&self.session.store.root().join(&row.maps)).unwrap_or_default(),
        }
    }

    fn file(&self, row: &ImageRow) -> Option<PathBuf> {
        Some(self.session.store.root().join(&row.file))
    }

    fn origin(&self, row: &ImageRow) -> Option<Origin> {
        let found = self.origins.get(&row.file)?;
        Some(Origin {
            prompt: found.prompt.clone(),
            checkpoint: match (&found.checkpoint, &found.by) {
                (Some(key), Maker::Program) => format!("{key}, sampled by a program of others"),
                (Some(key), _) => key.to_string(),
                (None, Maker::Sampler(_)) => "none: the backbone as it is".into(),
                (None, Maker::Program) => "none: a program of others made it".into(),
                (None, Maker::Renderer) => "none: drawn by the world's renderer".into(),
            },
            command: self.command(found, &row.cell),
        })
    }
}
