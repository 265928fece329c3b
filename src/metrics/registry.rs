//! All measures, and the metrics of an experiment: measures by their extractors, as in
//! `metrics = ["text-alignment", "image-alignment@dino"]`.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Better, Estimate, Gives, Measure, Need, Sees, measures};
use crate::clip::Embed;
use crate::error::nearest;
use crate::{Error, Result};

/// What is measured where an experiment does not say: the paper's Table 1.
const DEFAULT: [&str; 3] = ["text-alignment", "image-alignment", "kid"];

/// Between the names of a measure and its extractor.
const BY: char = '@';

/// The measure of a metric's name.
pub fn measure_of(metric: &str) -> &str {
    metric.split_once(BY).map_or(metric, |(measure, _)| measure)
}

/// The measures that an experiment can name. Starts with all that the program has; a program that uses
/// this one as a library may [add](Registry::add) its own.
#[derive(Clone)]
pub struct Registry(Vec<Arc<dyn Measure>>);

impl Default for Registry {
    fn default() -> Self {
        Registry(measures())
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|m| m.name())).finish()
    }
}

/// What reports know of a metric: enough to show it and to compare it, and kept with the results, so
/// that they can be read by a program that has no such measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// What files call it: the measure's name, with the extractor's where that is not the usual one.
    pub name: String,
    /// The measure's name.
    pub measure: String,
    /// The extractor's name; none for what sees the pictures themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extractor: Option<String>,
    /// What tables call it.
    pub title: String,
    /// Which values are the better ones.
    pub better: Better,
    /// Whether each image has a value.
    pub gives: Gives,
    /// What a value is multiplied with to be shown.
    pub scale: f64,
    /// What stands behind the title for that.
    pub unit: String,
    /// Digits behind the point.
    pub digits: usize,
    /// A difference that nobody minds.
    pub tolerance: f64,
    /// Metrics of one family are drawn as the bars of one figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
}

impl Metric {
    /// The head of its column: title and unit.
    pub fn column(&self) -> String {
        match self.unit.is_empty() {
            true => self.title.clone(),
            false => format!("{} {}", self.title, self.unit),
        }
    }

    /// An estimate as it is shown.
    pub fn scaled(&self, found: Estimate) -> Estimate {
        let Estimate { mean, se, low, high, .. } = found;
        let [mean, se, low, high] = [mean, se, low, high].map(|value| self.scale * value);
        Estimate { mean, se, low, high, ..found }
    }

    /// Whether each image has a value.
    pub fn of_images(&self) -> bool {
        self.gives == Gives::Images
    }
}

/// A metric with what measures it.
#[derive(Clone)]
pub struct Chosen {
    /// How it is shown.
    pub metric: Metric,
    /// What measures it.
    pub measure: Arc<dyn Measure>,
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.metric.name)
    }
}

impl Chosen {
    fn new(measure: Arc<dyn Measure>, extractor: Option<&str>) -> Self {
        let extractor = match measure.sees() {
            Sees::Features => Some(extractor.unwrap_or(measure.extractor())),
            Sees::Files => None,
        };
        let (own_name, own_title) = (measure.name().to_owned(), measure.title().to_owned());
        let (name, title) = match extractor {
            None => (own_name, own_title),
            Some(by) => {
                let usual = by == measure.extractor();
                let titled = !usual || measure.titled_by_extractor();
                (
                    if usual { own_name } else { format!("{own_name}{BY}{by}") },
                    if titled { format!("{own_title} ({by})") } else { own_title },
                )
            }
        };
        let shown = measure.shown();
        let metric = Metric {
            name,
            measure: measure.name().to_owned(),
            extractor: extractor.map(str::to_owned),
            title,
            better: measure.better(),
            gives: measure.gives(),
            scale: shown.scale,
            unit: shown.unit.to_owned(),
            digits: shown.digits,
            tolerance: measure.tolerance(),
            family: measure.family().map(str::to_owned),
        };
        Chosen { metric, measure }
    }

    /// All that its numbers depend on besides the images.
    ///
    /// # Errors
    /// A measure of prompts by an extractor that reads no texts.
    pub fn meaning(&self, extractor: Option<&dyn Embed>) -> Result<Value> {
        let blind = extractor.filter(|by| !by.reads_texts());
        if let (Need::Prompts, Some(_)) = (self.measure.need(), blind) {
            let Metric { name, extractor, .. } = &self.metric;
            let by = extractor.as_deref().unwrap_or_default();
            return Err(Error::input_hint(
                format!("`{name}`: the extractor `{by}` reads no prompts"),
                "a measure of prompts needs a CLIP",
            ));
        }
        Ok(json!({
            "measure": self.measure.name(),
            "definition": self.measure.definition(),
            "extractor": extractor.map(Embed::identity),
        }))
    }
}

impl Registry {
    /// Adds a measure, or takes the place of the one with its name.
    pub fn add(&mut self, measure: Arc<dyn Measure>) {
        self.0.retain(|m| m.name() != measure.name());
        self.0.push(measure);
    }

    /// Its measures.
    pub fn measures(&self) -> impl Iterator<Item = &dyn Measure> {
        self.0.iter().map(|m| &**m)
    }

    /// The metrics of the names given, in their order; the paper's three where none are given.
    ///
    /// # Errors
    /// An unknown measure; a metric that is there twice.
    pub fn choose(&self, names: Option<&[String]>) -> Result<Vec<Chosen>> {
        let default: Vec<String>;
        let names = match names {
            Some(names) => names,
            None => {
                default = DEFAULT.map(str::to_owned).into();
                &default
            }
        };
        if names.is_empty() {
            return Err(Error::input("`metrics` is empty: at least one is wanted"));
        }
        let mut chosen: Vec<Chosen> = vec![];
        for name in names {
            let measure = measure_of(name);
            let extractor = name.split_once(BY).map(|(_, extractor)| extractor);
            let Some(found) = self.0.iter().find(|m| m.name() == measure) else {
                let message = format!("`metrics`: there is no measure `{measure}`");
                return Err(Error::input_hint(message, nearest(measure, self.names())));
            };
            if extractor == Some("") {
                let message = format!("`metrics`: `{name}` names no extractor behind its {BY}");
                return Err(Error::input(message));
            }
            if let (Sees::Files, Some(_)) = (found.sees(), extractor) {
                let message = format!("`metrics`: `{name}`: `{measure}` has no extractor");
                return Err(Error::input(message));
            }
            let new = Chosen::new(found.clone(), extractor);
            if chosen.iter().any(|c| c.metric.name == new.metric.name) {
                return Err(Error::input(format!("`metrics`: `{name}` is there twice")));
            }
            chosen.push(new);
        }
        Ok(chosen)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|m| m.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An extractor of pictures.
    struct Eyes;

    impl Embed for Eyes {
        fn images(&self, _: &[&image::RgbImage]) -> Result<ndarray::Array2<f32>> {
            unreachable!()
        }

        fn identity(&self) -> &str {
            "weights"
        }
    }

    fn choose(names: &[&str]) -> Result<Vec<Chosen>> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        Registry::default().choose(Some(&names))
    }

    #[test]
    fn a_metric_is_a_measure_by_an_extractor() {
        let found = choose(&["image-alignment@dino", "image-alignment@clip", "kid"]).unwrap();
        let names: Vec<&str> = found.iter().map(|c| c.metric.name.as_str()).collect();
        assert_eq!(names, ["image-alignment@dino", "image-alignment", "kid"]);
        let titles: Vec<String> = found.iter().map(|c| c.metric.column()).collect();
        assert_eq!(titles, ["image alignment (dino)", "image alignment", "KID (clip) ×10³"]);
        let meaning = |i: usize| found[i].meaning(Some(&Eyes)).unwrap().to_string();
        assert_eq!(meaning(0), meaning(1), "what a number depends on is not its extractor's name");
        assert_ne!(meaning(0), meaning(2));
        let text = &choose(&["text-alignment@dino"]).unwrap()[0];
        assert!(
            text.meaning(Some(&Eyes)).unwrap_err().to_string().contains("`dino` reads no prompts")
        );
    }

    #[test]
    fn what_cannot_be_measured_is_named() {
        let error = choose(&["image-alignmant"]).unwrap_err();
        assert!(error.hint().unwrap().starts_with("did you mean image-alignment"), "{error}");
        assert!(choose(&["kid", "kid@clip"]).unwrap_err().to_string().contains("twice"));
        assert!(choose(&["kid@"]).is_err() && choose(&[]).is_err());
    }

    #[test]
    fn names_and_titles_are_their_own() {
        let registry = Registry::default();
        for (i, a) in registry.0.iter().enumerate() {
            let others = || registry.0.iter().skip(i + 1);
            assert!(others().all(|b| a.name() != b.name() && a.title() != b.title()));
            assert!(!a.name().contains(BY) && a.tolerance() >= 0.0);
            assert!(a.gives() == Gives::Images || !a.need().in_turn(), "{}", a.name());
        }
        let names = |c: Vec<Chosen>| c.into_iter().map(|c| c.metric.name).collect::<Vec<_>>();
        assert_eq!(names(registry.choose(None).unwrap()), DEFAULT);
    }
}
