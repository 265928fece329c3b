//! The pictures of a session's report, and how each is made again.

use std::collections::HashMap;
use std::path::PathBuf;

use image::RgbImage;

use super::experiment::Session;
use crate::diffusion::{WordMap, load_maps};
use crate::engine::{self, Kind, origins};
use crate::report::{ImageRow, Origin, Pictures};

/// What the store has of a session.
pub struct Stored<'a> {
    session: &'a Session,
    origins: HashMap<String, engine::Origin>,
}

impl<'a> Stored<'a> {
    pub fn new(session: &'a Session) -> Self {
        Stored { session, origins: origins(&session.plan) }
    }

    /// The command that samples images as one was, but for its prompt and seed.
    fn command(&self, origin: &engine::Origin) -> Option<String> {
        let sampling = origin.sampling.as_ref()?;
        let mut words = vec!["cdbench".to_owned(), "sample".into()];
        let mut option =
            |name: &str, value: String| words.extend([name.to_owned(), quoted(&value)]);
        option("--backbone", self.session.resources.backbone_name().to_owned());
        if let Some(key) = &origin.checkpoint {
            let folder = self.session.store.dir(Kind::Checkpoint.folder(), key);
            option("--checkpoint", folder.to_string_lossy().into_owned());
        }
        let (width, height) = self.session.resources.size();
        option("--steps", sampling.steps.to_string());
        option("--guidance", sampling.guidance.to_string());
        option("--scheduler", sampling.scheduler.to_string());
        option("--size", format!("{width}x{height}"));
        Some(words.join(" "))
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,./:@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
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
            checkpoint: found.checkpoint.as_ref().map(ToString::to_string),
            command: self.command(found),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_shell_reads_a_word_as_it_was() {
        assert_eq!(quoted("runs/a-b_1.5"), "runs/a-b_1.5");
        assert_eq!(quoted("my runs"), "'my runs'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }
}
