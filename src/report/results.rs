//! The data of a report: what was measured of every cell and every image.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use crate::metrics::{Estimate, Metric, SetValue, estimate};
use crate::{Error, Result};

/// Of every bootstrap of a report: the same data give the same page.
pub const SEED: u64 = 0;

/// All that a report shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Results {
    /// The experiment's name: that of its file.
    pub experiment: String,
    /// Its title.
    pub title: String,
    /// The scale it was run at.
    pub scale: String,
    /// Id of the protocol: numbers are comparable where it is equal.
    pub protocol: String,
    /// The protocol in words: weights, sampler, steps, guidance, metrics.
    pub protocol_text: String,
    /// Of each concept or set what `cdbench evaluate` calls the same judging of the images of its prompts.
    pub evaluations: BTreeMap<String, String>,
    /// The paper's table that this one reproduces, such as `table1`.
    pub table: Option<String>,
    /// Rows whose images a preference study sets beside those of every other method.
    pub study: Vec<String>,
    /// What was measured, in the order of the tables' columns.
    pub metrics: Vec<Metric>,
    /// A method on concepts with a seed, each.
    pub cells: Vec<Cell>,
    /// The images that the cells' values were measured on.
    pub images: Vec<ImageRow>,
    /// Cells that failed or were not run, by their id, with the reason.
    pub failed: Vec<(String, String)>,
}

/// One method on one concept set with one seed. What failed or was not measured has no value.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cell {
    /// Its key.
    pub id: String,
    /// Part of the table: `single` or `multi`.
    pub group: String,
    /// Its concepts.
    pub concepts: Vec<String>,
    /// The method's name, such as `custom-diffusion`.
    pub method: String,
    /// Row of the table.
    pub label: String,
    /// The row that it is a point of the sweep of; empty where nothing is swept.
    pub series: String,
    /// The values of the sweep, by their keys.
    pub place: BTreeMap<String, String>,
    /// Label of the paper's row to show beside it.
    pub paper_row: Option<String>,
    /// Not a method but something to judge methods by; shown below the rule.
    pub anchor: bool,
    /// Seed of the training.
    pub seed: u64,
    /// What was measured, by the names of metrics.
    pub values: BTreeMap<String, CellValue>,
    /// Images measured.
    pub images: usize,
    /// Prompts they are of.
    pub prompts: usize,
    /// Training steps.
    pub steps: u64,
    /// Seconds of training.
    pub train_seconds: f64,
    /// Bytes that have to be stored beside the backbone.
    pub stored_bytes: u64,
    /// The most memory the process held while it trained, in MB.
    pub peak_mb: f64,
    /// How many stages ran at the same time while it trained: with more than one, seconds and memory
    /// are not its own.
    pub jobs: usize,
}

/// What was measured of a cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum CellValue {
    /// Of values of images.
    Mean {
        /// The mean over images, each with the mean over its parts.
        #[serde(flatten)]
        mean: Estimate,
        /// With each concept, where there are several and the metric compares with each.
        parts: Vec<Estimate>,
    },
    /// A value of the whole set.
    Set(SetValue),
}

impl CellValue {
    /// The value with its error.
    pub fn estimate(&self) -> Estimate {
        match self {
            CellValue::Mean { mean, .. } => *mean,
            CellValue::Set(set) => set.estimate(),
        }
    }

    /// The value of a set.
    pub fn set(&self) -> Option<&SetValue> {
        match self {
            CellValue::Set(set) => Some(set),
            CellValue::Mean { .. } => None,
        }
    }
}

/// One image of a cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ImageRow {
    /// The cell's id.
    pub cell: String,
    /// What it was asked for by, such as `class words`; empty for the evaluation prompts.
    pub of: String,
    /// Number of its prompt.
    pub prompt: usize,
    /// The prompt as CLIP sees it.
    pub text_prompt: String,
    /// Seed of its noise.
    pub seed: u64,
    /// Its values by the names of metrics: one, or one with each concept.
    pub values: BTreeMap<String, Vec<f64>>,
    /// Where the image is.
    pub file: String,
    /// Where the maps are of what it attends to; empty where there are none.
    pub maps: String,
}

impl ImageRow {
    /// The value of a metric, the mean over its parts.
    pub fn value(&self, metric: &str) -> Option<f64> {
        let parts = self.values.get(metric)?;
        Some(parts.iter().sum::<f64>() / parts.len() as f64)
    }
}

impl Cell {
    /// What the row that it is a point of is called; its label where nothing is swept.
    pub fn series(&self) -> &str {
        if self.series.is_empty() { &self.label } else { &self.series }
    }

    /// Sets the values that its images have, and their counts. No image: nothing is set.
    pub fn measure(&mut self, images: &[&ImageRow]) {
        let mut parts = BTreeMap::<&String, usize>::new();
        for (name, values) in images.iter().flat_map(|i| &i.values) {
            parts.entry(name).or_insert(values.len());
        }
        for (name, parts) in parts {
            let own: Vec<&&ImageRow> =
                images.iter().filter(|i| i.values.contains_key(name)).collect();
            let groups: Vec<usize> = own.iter().map(|i| i.prompt).collect();
            let of = |value: &dyn Fn(&ImageRow) -> Option<f64>| {
                let values = own.iter().map(|i| value(i).unwrap_or(f64::NAN));
                estimate(&values.collect::<Vec<_>>(), &groups, SEED)
            };
            let part = |c: usize| of(&|i| i.values.get(name)?.get(c).copied());
            let several = (0..parts).filter(|_| parts > 1);
            let value = CellValue::Mean {
                mean: of(&|i| i.value(name)),
                parts: several.map(part).collect(),
            };
            self.values.insert(name.clone(), value);
        }
        let evaluated: Vec<usize> =
            images.iter().filter(|i| i.of.is_empty()).map(|i| i.prompt).collect();
        if !images.is_empty() {
            self.images = evaluated.len();
            self.prompts = evaluated.into_iter().collect::<HashSet<usize>>().len();
        }
    }
}

impl Results {
    /// The images of every cell.
    pub fn by_cell(&self) -> HashMap<&str, Vec<&ImageRow>> {
        let mut of = HashMap::<&str, Vec<&ImageRow>>::new();
        for image in &self.images {
            of.entry(&image.cell).or_default().push(image);
        }
        of
    }

    /// Adds what another run of the same experiment measured, on another machine perhaps. A cell that
    /// both measured stays as it is here.
    ///
    /// # Errors
    /// [`Error::Input`] if it is another experiment's; [`Error::Protocol`] if it was measured by
    /// another protocol.
    pub fn add(&mut self, other: Results) -> Result<()> {
        if other.experiment != self.experiment {
            let (here, there) = (&self.experiment, &other.experiment);
            return Err(Error::input(format!(
                "results of `{there}` cannot join those of `{here}`"
            )));
        }
        if other.protocol != self.protocol {
            return Err(Error::Protocol(format!(
                "results of protocol {} cannot join those of {}:\n  there: {}\n  here:  {}",
                other.protocol, self.protocol, other.protocol_text, self.protocol_text
            )));
        }
        let (ours, theirs) = (self.measured(), other.measured());
        self.cells.retain(|c| ours.contains(&c.id) || !theirs.contains(&c.id));
        let here: HashSet<String> = self.cells.iter().map(|c| c.id.clone()).collect();
        self.cells.extend(other.cells.into_iter().filter(|c| !here.contains(&c.id)));
        self.images.extend(other.images.into_iter().filter(|i| !here.contains(&i.cell)));
        self.failed.retain(|(cell, _)| !theirs.contains(cell));
        let failed: HashSet<String> = self.failed.iter().map(|(cell, _)| cell.clone()).collect();
        let known = |cell: &String| ours.contains(cell) || failed.contains(cell);
        self.failed.extend(other.failed.into_iter().filter(|(cell, _)| !known(cell)));
        Ok(())
    }

    /// Ids of the cells that something is known of.
    fn measured(&self) -> HashSet<String> {
        self.cells.iter().filter(|c| !c.values.is_empty()).map(|c| c.id.clone()).collect()
    }
}

/// Of the images of a cell the first of each evaluation prompt, for so many prompts.
pub fn first_images<'a>(images: &[&'a ImageRow], prompts: usize) -> Vec<&'a ImageRow> {
    let mut firsts = BTreeMap::<usize, &ImageRow>::new();
    for image in images.iter().filter(|image| image.of.is_empty()) {
        firsts.entry(image.prompt).or_insert(image);
    }
    firsts.into_values().take(prompts).collect()
}
