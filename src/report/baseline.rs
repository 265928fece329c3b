//! A baseline: what a later run of the same protocol is compared with, image by image.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::results::{ImageRow, Results};
use super::sheet::check_size;
use crate::metrics::SetValue;
use crate::{Error, Result, safefile};

const VERSION: u32 = 2;

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

/// What every version of the file has.
#[derive(Deserialize)]
struct Version {
    version: u32,
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
    /// Number of the prompt of each image.
    pub prompts: Vec<usize>,
    /// Seed of each image.
    pub seeds: Vec<u64>,
    /// The values of each image, the mean over concepts, by the names of metrics.
    pub images: BTreeMap<String, Vec<f64>>,
    /// The values of sets.
    pub sets: BTreeMap<String, SetValue>,
}

impl Baseline {
    /// Of all cells with images.
    pub fn of(results: &Results) -> Baseline {
        let images = results.by_cell();
        let cell = |c: &super::Cell| {
            let of = images.get(c.id.as_str())?;
            let own = of.first().into_iter().flat_map(|i| i.values.keys());
            let values = |of: &[&ImageRow], name: &str| {
                of.iter().map(|i| i.value(name).unwrap_or(f64::NAN)).collect()
            };
            Some(BaselineCell {
                group: c.group.clone(),
                label: c.label.clone(),
                concepts: c.concepts.clone(),
                seed: c.seed,
                prompts: of.iter().map(|i| i.prompt).collect(),
                seeds: of.iter().map(|i| i.seed).collect(),
                images: own.map(|name| (name.clone(), values(of, name))).collect(),
                sets: c
                    .values
                    .iter()
                    .filter_map(|(name, value)| Some((name.clone(), value.set()?.clone())))
                    .collect(),
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
    /// A file that is missing, damaged or of a newer version; [`Error::Protocol`] for an older one.
    pub fn load(path: &Path) -> Result<Baseline> {
        let bad = |what: String| {
            let hint = "`cdbench check --update` writes a new baseline";
            Error::input_hint(format!("{}: {what}", path.display()), hint)
        };
        check_size(path)?;
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let version: Version = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if version.version < VERSION {
            // its numbers are of another protocol, whatever they are
            return Err(Error::Protocol(format!(
                "{}: version {} of baselines, which another protocol measured, where {VERSION} is \
                 read; `cdbench check --update` writes a new one",
                path.display(),
                version.version
            )));
        }
        if version.version > VERSION {
            return Err(bad(format!("version {} where {VERSION} is read", version.version)));
        }
        let baseline: Baseline = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        for cell in &baseline.cells {
            let n = cell.prompts.len();
            let lengths = cell.images.values().map(Vec::len);
            if lengths.chain([cell.seeds.len()]).any(|l| l != n) {
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
            c.images.values().flatten().all(|v| v.is_finite())
                && c.sets.values().all(SetValue::is_finite)
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
