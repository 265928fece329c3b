//! An experiment: what a TOML file under `experiments/` says, typed and checked.

mod command;
mod measure;
mod names;
mod overrides;
mod row;
mod scale;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clip::ExtractorSpec;
use crate::data::{DatasetSpec, FolderSource, PromptSource, check_name};
use crate::diffusion::config::PredictionType;
use crate::diffusion::scheduler::SchedulerKind;
use crate::diffusion::{BackboneSpec, GUIDANCE};
use crate::error::nearest;
use crate::metrics::Registry;
use crate::{Error, Result, mini, readfile};

pub use measure::{MeasureSpec, OF_MEASURES};
pub use overrides::Override;
pub use row::{Point, Row, RowSampling};
pub use scale::{Scale, ScaleSpec};

/// A sweep: rows of a table, over concepts and pairs of concepts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Its name: of the report's folder, and in the store.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// The paper's table that the report prints beside ours: a file of `metrics/paper/`.
    #[serde(default)]
    pub table: Option<String>,
    /// Labels of rows whose images a preference study sets beside those of every other method: the report
    /// lists the pairs.
    #[serde(default)]
    pub study: Vec<String>,
    /// Default of `--backbone`: `mini`, a diffusers folder, a single file or a hub id.
    #[serde(default = "built_in")]
    pub backbone: String,
    /// Of a single file: a folder with its configurations and its tokenizer.
    #[serde(default)]
    pub backbone_config: Option<PathBuf>,
    /// Of a single file: what its UNet predicts, `epsilon` or `v`.
    #[serde(default)]
    pub prediction: Option<Prediction>,
    /// Which defaults the methods take; by the backbone's image size where it is not given.
    #[serde(default)]
    pub profile: Option<crate::methods::Profile>,
    /// How images are sampled.
    #[serde(default)]
    pub sampling: SamplingSpec,
    /// What is measured, in the order of the table's columns: measures, each with `@` and an extractor
    /// where its usual one is not meant. The paper's Table 1 if not given.
    #[serde(default)]
    pub metrics: Option<Vec<String>>,
    /// What makes the features of metrics, by the names that `metrics` has behind an `@`: folders in
    /// transformers' layout, or ONNX files.
    #[serde(default)]
    pub extractors: BTreeMap<String, ExtractorSpec>,
    /// Measures that programs of others take, by the names that `metrics` has.
    #[serde(default)]
    pub measures: BTreeMap<String, MeasureSpec>,
    /// What judges them.
    #[serde(default)]
    pub evaluation: EvaluationSpec,
    /// Where regularisation images come from.
    #[serde(default)]
    pub regularization: RegularizationSpec,
    /// The rows of the table.
    pub rows: Vec<Row>,
    /// A data set as its authors publish it, whose concepts and sets are added to those below.
    #[serde(default)]
    pub dataset: Option<DatasetSpec>,
    /// Concepts that are not the mini world's.
    #[serde(default)]
    pub concepts: Vec<FolderSource>,
    /// Pairs and larger sets that are not the mini world's.
    #[serde(default, alias = "sets")]
    pub pairs: Vec<PairSpec>,
    /// How much is run, by name; `default` is what runs unless `--scale` says otherwise.
    pub scales: BTreeMap<String, ScaleSpec>,
    /// Concepts that a data set has in its sets alone: they are none of what a pattern stands for.
    #[serde(skip)]
    pub in_sets_only: Vec<String>,
    /// Where relative paths start: the file's folder.
    #[serde(skip)]
    pub base: PathBuf,
    /// The measures that `metrics` can name.
    #[serde(skip)]
    pub registry: Registry,
}

fn built_in() -> String {
    mini::NAME.into()
}

/// What a UNet predicts, in the words of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Prediction {
    /// The noise: SD 1.x, 2.x base.
    Epsilon,
    /// The velocity: SD 2.x for 768 pixels.
    V,
}

impl Prediction {
    /// Its word, where there is one: nobody publishes a Stable Diffusion that predicts the sample.
    pub fn of(kind: PredictionType) -> Option<Self> {
        match kind {
            PredictionType::Epsilon => Some(Prediction::Epsilon),
            PredictionType::VPrediction => Some(Prediction::V),
            PredictionType::Sample => None,
        }
    }

    /// In diffusers' words.
    pub fn kind(self) -> PredictionType {
        match self {
            Prediction::Epsilon => PredictionType::Epsilon,
            Prediction::V => PredictionType::VPrediction,
        }
    }
}

/// How many concepts a cell has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupName {
    /// One.
    Single,
    /// Two or more.
    Multi,
}

impl GroupName {
    /// As files and tables have it.
    pub fn as_str(self) -> &'static str {
        match self {
            GroupName::Single => "single",
            GroupName::Multi => "multi",
        }
    }
}

/// How images are sampled (the paper: DDPM, 50 or 200 steps, guidance 6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingSpec {
    /// The sampler: `ddpm`, `ddim` or `dpm++`.
    pub scheduler: SchedulerKind,
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance scale.
    pub guidance: f64,
}

impl Default for SamplingSpec {
    fn default() -> Self {
        SamplingSpec { scheduler: SchedulerKind::Ddpm, steps: 50, guidance: 6.0 }
    }
}

/// What judges the images.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationSpec {
    /// A folder in transformers' layout, or `mini`; the backbone's own judge if not given.
    pub clip: Option<String>,
}

/// Where regularisation images come from, and the real images that samples are compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegularizationSpec {
    /// A captioned corpus: `mini`, or a folder, CSV or webdataset.
    pub corpus: String,
    /// The least cosine of a caption with the concept's prompt; the paper's 0.85 (section 3.2) if not
    /// given, and less where a backbone's own CLIP judges.
    pub threshold: Option<f32>,
    /// The corpus of the real images that samples are compared with, disjoint from the first.
    pub validation: String,
}

impl Default for RegularizationSpec {
    fn default() -> Self {
        RegularizationSpec {
            corpus: "mini".into(),
            threshold: None,
            validation: "mini-validation".into(),
        }
    }
}

/// Concepts that are composed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairSpec {
    /// Its name in scales and tables.
    pub name: String,
    /// Two or more names of concepts.
    pub concepts: Vec<String>,
    /// A text file of prompts, or the prompts, with `{0}` and `{1}`.
    pub prompts: PromptSource,
}

/// Files larger than this are no experiments.
const MOST_BYTES: u64 = 1 << 20;

impl Experiment {
    /// One method with its options, on nothing yet: what runs without a file. Paths start where the
    /// program runs.
    ///
    /// # Errors
    /// An unknown method.
    pub fn of_method(method: &str, settings: toml::Table) -> Result<Self> {
        let row = Row { method: method.to_owned(), settings, ..Row::default() };
        let experiment = Experiment {
            name: row.method.clone(),
            title: row.title()?,
            table: None,
            study: vec![],
            backbone: built_in(),
            backbone_config: None,
            prediction: None,
            profile: None,
            sampling: SamplingSpec::default(),
            metrics: None,
            extractors: BTreeMap::new(),
            measures: BTreeMap::new(),
            evaluation: EvaluationSpec::default(),
            regularization: RegularizationSpec::default(),
            rows: vec![row],
            dataset: None,
            concepts: vec![],
            pairs: vec![],
            scales: [(DEFAULT_SCALE.to_owned(), ScaleSpec::default())].into(),
            in_sets_only: vec![],
            base: PathBuf::new(),
            registry: Registry::default(),
        };
        Ok(experiment)
    }

    /// Reads and checks a file, with values replaced by `overrides`.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file, the line, the key and what was wanted.
    pub fn read(path: &Path, overrides: &[Override]) -> Result<Self> {
        let text = readfile::text(path, MOST_BYTES).map_err(|e| match e {
            Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => no_such_file(path),
            e => e,
        })?;
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        Experiment::parse(&text, overrides, &base).map_err(|e| e.of_file(path))
    }

    /// As [`Experiment::read`], from the text of a file in `base`.
    ///
    /// # Errors
    /// As there.
    pub fn parse(text: &str, overrides: &[Override], base: &Path) -> Result<Self> {
        // the text itself first: its errors know their lines
        let mut experiment: Experiment = toml::from_str(text)?;
        if !overrides.is_empty() {
            let mut table: toml::Table = toml::from_str(text)?;
            overrides.iter().try_for_each(|o| o.apply(&mut table))?;
            experiment = table.try_into()?;
        }
        experiment.base = base.to_owned();
        experiment.add_dataset().map_err(|e| e.of("`dataset`"))?;
        experiment.check()?;
        Ok(experiment)
    }

    /// Adds the concepts and sets of the data set.
    fn add_dataset(&mut self) -> Result<()> {
        let Some(spec) = &self.dataset else { return Ok(()) };
        let found = spec.read(&self.base)?;
        self.in_sets_only.extend(found.in_sets.iter().map(|concept| concept.name.clone()));
        self.concepts.extend(found.concepts.into_iter().chain(found.in_sets));
        self.pairs.extend(found.sets.into_iter().map(|set| PairSpec {
            name: set.name,
            concepts: set.concepts,
            prompts: PromptSource::List(set.prompts),
        }));
        Ok(())
    }

    /// Its backbone, with paths that start where the program runs: in the file they start at its folder.
    ///
    /// # Errors
    /// [`Error::Input`] for a path that is there from where the program runs, and not from the file's folder.
    pub fn backbone(&self) -> Result<BackboneSpec> {
        let (given, full) = (&self.backbone, self.base.join(&self.backbone));
        if given != mini::NAME && !full.exists() && Path::new(given).exists() {
            return Err(Error::input_hint(
                format!("`backbone` is `{given}`, but there is no {}", full.display()),
                "paths in an experiment start at its file's folder; --backbone starts where you are",
            ));
        }
        // what is there is a path, and all else as it stands
        let path = given != mini::NAME && full.exists();
        Ok(BackboneSpec {
            name: if path { full.to_string_lossy().into_owned() } else { given.clone() },
            config: self.backbone_config.as_ref().map(|folder| self.base.join(folder)),
            prediction: self.prediction.map(Prediction::kind),
        })
    }

    fn check(&self) -> Result<()> {
        let names = [("name", &self.name)].into_iter();
        let names = names.chain(self.concepts.iter().map(|c| ("concepts.name", &c.name)));
        for (key, name) in names.chain(self.pairs.iter().map(|p| ("pairs.name", &p.name))) {
            check_name(name).map_err(|e| e.of(&format!("`{key}`")))?;
        }
        unique("concepts.name", self.concepts.iter().map(|c| c.name.as_str()))?;
        unique("pairs.name", self.pairs.iter().map(|p| p.name.as_str()))?;
        for (name, spec) in &self.measures {
            spec.check(name)?;
        }
        if self.rows.is_empty() {
            return Err(Error::input("`rows` is empty: an experiment needs at least one method"));
        }
        let mut labels = vec![];
        for row in &self.rows {
            let title = row.title()?;
            for point in row.points().map_err(|e| e.of(&format!("row `{title}`")))? {
                labels.push(point.row.title()?);
            }
        }
        unique("rows.label", labels.iter().map(String::as_str))?;
        if let Some(label) = self.study.iter().find(|label| !labels.contains(label)) {
            return Err(Error::input_hint(
                format!("`study`: no row is called `{label}`"),
                nearest(label, labels.iter().map(String::as_str)),
            ));
        }
        for pair in &self.pairs {
            if pair.concepts.len() < 2 {
                let message = format!("the pair `{}` needs at least two concepts", pair.name);
                return Err(Error::input(message));
            }
            unique(
                &format!("concepts of the pair `{}`", pair.name),
                pair.concepts.iter().map(String::as_str),
            )?;
        }
        if self.sampling.steps == 0 {
            return Err(Error::input("`sampling.steps` is 0: there must be one at least"));
        }
        check_guidance("sampling.guidance", self.sampling.guidance)?;
        if self.regularization.threshold.is_some_and(|t| !(-1.0..=1.0).contains(&t)) {
            return Err(Error::input("`regularization.threshold` is a cosine: -1 to 1"));
        }
        if !self.scales.contains_key(DEFAULT_SCALE) {
            return Err(Error::input_hint(
                format!("there is no scale `{DEFAULT_SCALE}`"),
                "add a table [scales.default] with the concepts that run by default",
            ));
        }
        self.scales.iter().try_for_each(|(name, scale)| scale.check(name))
    }
}

/// The scale that runs unless another is named.
pub const DEFAULT_SCALE: &str = "default";

fn check_guidance(key: &str, guidance: f64) -> Result<()> {
    if GUIDANCE.contains(&guidance) {
        return Ok(());
    }
    let (least, most) = (GUIDANCE.start(), GUIDANCE.end());
    Err(Error::input(format!("`{key}` is {guidance}, not {least} to {most}")))
}

/// The error about a file that is not there, with the experiment that its name comes nearest to: of those
/// in its folder, and in the folder where experiments are kept.
fn no_such_file(path: &Path) -> Error {
    let stem = |p: &Path| p.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let own = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut known = vec![];
    for folder in [own, Path::new("experiments")] {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        known.extend(
            entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "toml")),
        );
    }
    known.sort();
    known.dedup();
    let wanted = stem(path);
    let distance = |p: &PathBuf| strsim::osa_distance(&wanted, &stem(p));
    let nearest = known.iter().min_by_key(|p| distance(p));
    let hint = match nearest.filter(|p| distance(p) <= 1 + wanted.chars().count() / 3) {
        Some(near) => format!("did you mean {}?", near.display()),
        None => "an experiment is a TOML file, see experiments/".to_owned(),
    };
    Error::input_hint(format!("{}: there is no such file", path.display()), hint)
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Error::input(format!("`{what}`: `{name}` is there twice")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
