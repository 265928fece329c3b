//! Rows: a method with its options, and the points of a sweep.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::{GroupName, SamplingSpec, check_guidance};
use crate::diffusion::scheduler::SchedulerKind;
use crate::methods::{CHECKPOINT, COMMAND, Compression, modifier_of_row};
use crate::{Error, Result};

/// A row of the table: a method with its options.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What the table calls it; the method's title if not given.
    #[serde(default)]
    pub label: Option<String>,
    /// A method's name.
    pub method: String,
    /// The file or folder of a row whose method is `checkpoint`; `{concept}` and `{seed}` in it stand for
    /// the cell's.
    #[serde(default)]
    pub path: Option<String>,
    /// The row of the paper's table it stands beside; the label's if not given.
    #[serde(default)]
    pub paper: Option<String>,
    /// Options that differ from the method's defaults.
    #[serde(default)]
    pub settings: toml::Table,
    /// How its images are sampled, where that is not as those of the other rows.
    #[serde(default)]
    pub sampling: RowSampling,
    /// What is left of its checkpoint; all of it if not given.
    #[serde(default)]
    pub compress: Option<Compression>,
    /// Keys with the values that they take in turn: `{ steps = [50, 100] }`. A key is one of `settings`,
    /// or `path`, `sampling.KEY` or `compress.KEY`; several keys are a grid.
    #[serde(default)]
    pub sweep: BTreeMap<String, Vec<toml::Value>>,
    /// Whether it is run for single concepts, for pairs, or both; by what the method takes if not
    /// given.
    #[serde(default)]
    pub groups: Option<Vec<GroupName>>,
    /// Of `method = "command"`: the program that trains, and its arguments.
    #[serde(default)]
    pub train: Option<Vec<String>>,
    /// Of `method = "command"`: the program that samples, and its arguments.
    #[serde(default)]
    pub sample: Option<Vec<String>>,
    /// Of `method = "command"`: the programs' version. Results of another version are made again.
    #[serde(default)]
    pub version: Option<String>,
    /// Of `method = "command"`: a program that prints the version.
    #[serde(default)]
    pub version_command: Option<Vec<String>>,
    /// Of `method = "command"`: files and folders of which a change changes the results; arguments that
    /// are files are among them.
    #[serde(default)]
    pub inputs: Vec<PathBuf>,
    /// Of `method = "command"`: the seconds that one run of a program may take; any if not given.
    #[serde(default)]
    pub timeout: Option<f64>,
}

/// How a row's images are sampled. What is not given is as for the other rows.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RowSampling {
    /// The sampler.
    pub scheduler: Option<SchedulerKind>,
    /// Denoising steps.
    pub steps: Option<usize>,
    /// Classifier-free guidance scale.
    pub guidance: Option<f64>,
}

impl RowSampling {
    /// `base` but for what the row says.
    pub fn over(&self, base: &SamplingSpec) -> SamplingSpec {
        SamplingSpec {
            scheduler: self.scheduler.unwrap_or(base.scheduler),
            steps: self.steps.unwrap_or(base.steps),
            guidance: self.guidance.unwrap_or(base.guidance),
        }
    }

    fn check(&self) -> Result<()> {
        if self.steps == Some(0) {
            return Err(Error::input("`sampling.steps` is 0: there must be one at least"));
        }
        self.guidance.map_or(Ok(()), |guidance| check_guidance("sampling.guidance", guidance))
    }
}

/// A point of a row's sweep: the row with the point's values, and where it stands. A row without a sweep
/// is its only point.
#[derive(Clone, Debug)]
pub struct Point {
    /// The row, with no sweep left.
    pub row: Row,
    /// What the table calls the row that is swept.
    pub series: String,
    /// Its values, key by key.
    pub place: BTreeMap<String, String>,
    /// The training steps of which its checkpoint is the state, where steps are swept: the row's own
    /// are the most of the sweep.
    pub state: Option<u64>,
}

impl Row {
    /// What the table calls it.
    ///
    /// # Errors
    /// An unknown method.
    pub fn title(&self) -> Result<String> {
        let method = crate::methods::find(&self.method)?;
        Ok(self.label.clone().unwrap_or_else(|| method.title().to_owned()))
    }

    /// The points of its sweep, the last key's values first in turn.
    ///
    /// # Errors
    /// A key without values, one that is set beside the sweep, or values that do not fit.
    pub fn points(&self) -> Result<Vec<Point>> {
        let series = self.title()?;
        let bare = Row { sweep: BTreeMap::new(), ..self.clone() };
        let of = |key: &str, what: &str| Error::input(format!("`sweep.{key}`: {what}"));
        let mut points =
            vec![Point { row: bare, series: series.clone(), place: BTreeMap::new(), state: None }];
        for (key, values) in &self.sweep {
            if values.is_empty() {
                return Err(of(key, "no values: write at least one"));
            }
            let mut more = vec![];
            for point in &points {
                for value in values {
                    let mut point = point.clone();
                    let clash =
                        point.row.set(key, value).map_err(|e| e.of(&format!("`sweep.{key}`")))?;
                    if clash {
                        return Err(of(key, "the row sets this key itself"));
                    }
                    let shown = shown(value);
                    if more.iter().any(|m: &Point| {
                        m.place.get(key) == Some(&shown)
                            && point.place.iter().all(|(k, v)| m.place.get(k) == Some(v))
                    }) {
                        return Err(of(key, &format!("{shown} is there twice")));
                    }
                    point.place.insert(key.clone(), shown);
                    more.push(point);
                }
            }
            points = more;
        }
        if let Some(values) = self.sweep.get(STEPS).filter(|_| self.method != COMMAND) {
            let whole = |v: &toml::Value| v.as_integer().and_then(|n| u64::try_from(n).ok());
            let steps: Option<Vec<u64>> = values.iter().map(whole).collect();
            let steps = steps.filter(|s| !s.contains(&0));
            let steps = steps.ok_or_else(|| of(STEPS, "whole numbers above 0"))?;
            let most = steps.iter().max().copied().unwrap_or(1);
            for point in &mut points {
                point.state = point.row.settings.get(STEPS).and_then(whole);
                point.row.settings.insert(STEPS.into(), (most as i64).into());
            }
        }
        for point in &mut points {
            point.row.check_path()?;
            point.row.sampling.check()?;
            point.row.check_command()?;
            point.row.compress.map_or(Ok(()), Compression::check)?;
            if !point.place.is_empty() {
                let values = point.place.iter().map(|(key, value)| format!("{key} = {value}"));
                let values: Vec<String> = values.collect();
                point.row.label = Some(format!("{series}, {}", values.join(", ")));
                // the paper's rows have no points
                point.row.paper = None;
            }
        }
        Ok(points)
    }

    fn check_path(&self) -> Result<()> {
        match (self.method == CHECKPOINT, &self.path) {
            (true, Some(_)) => modifier_of_row(&self.settings).map(|_| ()),
            (true, None) => Err(Error::input_hint(
                "`path` is missing: which checkpoint",
                "path = \"checkpoints/{concept}\": a file or folder, from the experiment's folder",
            )),
            (false, Some(path)) => Err(Error::input_hint(
                format!("`path = \"{path}\"` means nothing to `{}`", self.method),
                format!("a row of a checkpoint has `method = \"{CHECKPOINT}\"`"),
            )),
            (false, None) => Ok(()),
        }
    }

    /// Sets a key of a sweep; whether it was set already.
    fn set(&mut self, key: &str, value: &toml::Value) -> Result<bool> {
        let bad = |e: toml::de::Error| Error::input(format!("{}: {}", shown(value), e.message()));
        let one = |key: &str| toml::Table::from_iter([(key.to_owned(), value.clone())]);
        match key.split_once('.') {
            Some(("sampling", key)) => {
                let new: RowSampling = one(key).try_into().map_err(bad)?;
                let old = self.sampling.clone();
                let clash = new.scheduler.and(old.scheduler).is_some()
                    || new.steps.and(old.steps).is_some()
                    || new.guidance.and(old.guidance).is_some();
                self.sampling = RowSampling {
                    scheduler: new.scheduler.or(old.scheduler),
                    steps: new.steps.or(old.steps),
                    guidance: new.guidance.or(old.guidance),
                };
                Ok(clash)
            }
            Some(("compress", key)) => {
                let new: Compression = one(key).try_into().map_err(bad)?;
                Ok(self.compress.replace(new).is_some())
            }
            Some(("settings", key)) => {
                Ok(self.settings.insert(key.into(), value.clone()).is_some())
            }
            Some((other, _)) => Err(Error::input_hint(
                format!("there is nothing called `{other}` to sweep over"),
                "sweep over a setting (lr, steps, class_images, …), sampling.KEY or compress.KEY",
            )),
            None if key == "path" => {
                let path = value.as_str().ok_or_else(|| Error::input("`path` is a text"))?;
                Ok(self.path.replace(path.to_owned()).is_some())
            }
            None => Ok(self.settings.insert(key.into(), value.clone()).is_some()),
        }
    }
}

const STEPS: &str = "steps";

/// A value as people write it.
fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Row {
        toml::from_str(&format!("method = \"custom-diffusion\"\n{text}")).unwrap()
    }

    #[test]
    fn a_grid_has_all_points_and_each_knows_its_place() {
        let row = row("sweep = { lr = [1e-3, 2e-3], \"sampling.guidance\" = [2.0, 4.0, 6.0] }");
        let points = row.points().unwrap();
        assert_eq!(points.len(), 6);
        let labels: Vec<String> = points.iter().map(|p| p.row.title().unwrap()).collect();
        assert_eq!(labels[1], "Custom Diffusion, lr = 0.001, sampling.guidance = 4.0");
        assert_eq!(points[5].row.sampling.guidance, Some(6.0));
        assert_eq!(points[5].row.settings["lr"].as_float(), Some(2e-3));
        assert_eq!(points[5].place["lr"], "0.002");
        assert!(points.iter().all(|p| p.series == "Custom Diffusion" && p.state.is_none()));
    }

    #[test]
    fn points_over_steps_are_states_of_one_training() {
        let points = row("sweep = { steps = [50, 200, 100] }").points().unwrap();
        let states: Vec<_> = points.iter().map(|p| p.state).collect();
        assert_eq!(states, [Some(50), Some(200), Some(100)]);
        assert!(points.iter().all(|p| p.row.settings["steps"].as_integer() == Some(200)));
    }

    #[test]
    fn a_row_without_a_sweep_is_its_only_point() {
        let points = row("label = \"ours\"\npaper = \"Ours\"").points().unwrap();
        assert_eq!((points.len(), points[0].series.as_str()), (1, "ours"));
        assert_eq!(points[0].row.paper.as_deref(), Some("Ours"));
    }

    #[test]
    fn rows_of_checkpoints_say_where_they_are() {
        let row = |text: &str| -> Row {
            toml::from_str(&format!("method = \"checkpoint\"\n{text}")).unwrap()
        };
        assert!(row("path = \"a/{concept}.bin\"").points().is_ok());
        let several = row("sweep = { path = [\"a.bin\", \"b\"] }").points().unwrap();
        assert_eq!(several[1].row.path.as_deref(), Some("b"));
        assert_eq!(several[1].row.title().unwrap(), "Checkpoint, path = b");
        for (text, wanted) in [
            ("", "`path` is missing"),
            ("path = \"a\"\nsettings = { lr = 1.0 }", "no setting `lr`"),
            ("path = \"a\"\nsweep = { steps = [1, 2] }", "no setting `steps`"),
        ] {
            let error = row(text).points().unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_swept_is_said() {
        for (text, wanted) in [
            ("sweep = { lr = [] }", "no values"),
            ("sweep = { steps = [10, 0] }", "whole numbers"),
            ("sweep = { lr = [1e-3, 1e-3] }", "twice"),
            ("settings = { lr = 1e-3 }\nsweep = { lr = [1e-3] }", "sets this key itself"),
            ("sweep = { \"sampling.guidence\" = [1.0] }", "guidence"),
            ("sweep = { \"compress.share\" = [2.0] }", "compress.share"),
            ("sweep = { \"training.steps\" = [2] }", "nothing called `training`"),
            ("path = \"a.bin\"", "means nothing to `custom-diffusion`"),
        ] {
            let error = row(text).points().unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
