//! A baseline: what a later run of the same protocol is compared with, image by image.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files::check_size;
use super::results::Results;
use crate::metrics::Kid;
use crate::{Error, Result, safefile};

const VERSION: u32 = 1;

/// The values of a run, for `cdbench check`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    version: u32,
    /// The experiment's name.
    pub experiment: String,
    /// Its scale.
    pub scale: String,
    /// Its protocol's id.
    pub protocol: String,
    /// The protocol in words.
    pub protocol_text: String,
    /// What was measured.
    pub cells: Vec<BaselineCell>,
}

/// A cell of a baseline. Cells are found again by group, label, concepts and seed, not by their
/// keys, which change with the code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineCell {
    /// `single` or `multi`.
    pub group: String,
    /// Row of the table.
    pub label: String,
    /// Its concepts.
    pub concepts: Vec<String>,
    /// Seed of its training.
    pub seed: u64,
    /// KID.
    pub kid: Option<Kid>,
    /// Number of the prompt of each image.
    pub prompts: Vec<usize>,
    /// Seed of each image.
    pub seeds: Vec<u64>,
    /// Text alignment of each image.
    pub text: Vec<f64>,
    /// Image alignment of each image, the mean over concepts.
    pub image: Vec<f64>,
}

impl Baseline {
    /// Of all cells with images.
    pub fn of(results: &Results) -> Baseline {
        let images = results.by_cell();
        let cell = |c: &super::Cell| {
            let of = images.get(c.id.as_str())?;
            Some(BaselineCell {
                group: c.group.clone(),
                label: c.label.clone(),
                concepts: c.concepts.clone(),
                seed: c.seed,
                kid: c.kid,
                prompts: of.iter().map(|i| i.prompt).collect(),
                seeds: of.iter().map(|i| i.seed).collect(),
                text: of.iter().map(|i| i.text).collect(),
                image: of.iter().map(|i| i.image_mean()).collect(),
            })
        };
        Baseline {
            version: VERSION,
            experiment: results.experiment.clone(),
            scale: results.scale.clone(),
            protocol: results.protocol.clone(),
            protocol_text: results.protocol_text.clone(),
            cells: results.cells.iter().filter_map(cell).collect(),
        }
    }

    /// Reads a baseline.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another version.
    pub fn load(path: &Path) -> Result<Baseline> {
        let bad = |what: String| {
            let hint = "`cdbench check --update` writes a new baseline";
            Error::input_hint(format!("{}: {what}", path.display()), hint)
        };
        check_size(path)?;
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let baseline: Baseline = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if baseline.version != VERSION {
            return Err(bad(format!("version {} where {VERSION} is read", baseline.version)));
        }
        for cell in &baseline.cells {
            let n = cell.prompts.len();
            let lengths = [cell.seeds.len(), cell.text.len(), cell.image.len()];
            if lengths.iter().any(|l| *l != n) {
                let name = cell.concepts.join(" + ");
                return Err(bad(format!("{} on {name}: lists of different lengths", cell.label)));
            }
        }
        Ok(baseline)
    }

    /// Writes it, a line a cell.
    ///
    /// # Errors
    /// A value that is not finite; a file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let values = |c: &BaselineCell| {
            let kid = c.kid.into_iter().flat_map(|k| [k.mean, k.std, k.se, k.se_generated]);
            c.text.iter().chain(&c.image).copied().chain(kid).all(f64::is_finite)
        };
        if let Some(cell) = self.cells.iter().find(|c| !values(c)) {
            let name = cell.concepts.join(" + ");
            let message = format!("{} on {name}: a value is not finite", cell.label);
            return Err(Error::input(message));
        }
        let json = |s: &str| serde_json::to_string(s).expect("a string");
        let mut text = format!("{{\n\"version\": {},\n", self.version);
        for (key, value) in [
            ("experiment", &self.experiment),
            ("scale", &self.scale),
            ("protocol", &self.protocol),
            ("protocol_text", &self.protocol_text),
        ] {
            let _ = writeln!(text, "{}: {},", json(key), json(value));
        }
        let lines: Vec<String> = self
            .cells
            .iter()
            .map(|c| serde_json::to_string(c).expect("numbers and strings"))
            .collect();
        let _ = writeln!(text, "\"cells\": [\n{}\n]\n}}", lines.join(",\n"));
        safefile::write(path, text)
    }
}
