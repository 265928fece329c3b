//! How much of an experiment runs.

use serde::Deserialize;

use super::{GroupName, RowSampling, SamplingSpec, check_guidance, names, unique};
use crate::diffusion::scheduler::SchedulerKind;
use crate::{Error, Result, world};

/// A scale as the file has it. What is not given is as in the scale `default`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScaleSpec {
    /// Names of single concepts, or patterns of names: `"*"`, `["cat_*", "dog"]`. All of a data set, and
    /// all of its pairs, where neither these nor pairs are named.
    #[serde(deserialize_with = "names::one_or_more")]
    pub concepts: Option<Vec<String>>,
    /// Names of pairs, and of larger sets, or patterns.
    #[serde(alias = "sets", deserialize_with = "names::one_or_more")]
    pub pairs: Option<Vec<String>>,
    /// How many seeds: 0, 1, … Training and sampling take them.
    pub seeds: Option<u64>,
    /// Evaluation prompts of a concept or pair, from the first; all if not given.
    pub prompts: Option<usize>,
    /// Images of a prompt, for single concepts.
    pub images: Option<usize>,
    /// Images of a prompt, for pairs.
    pub pair_images: Option<usize>,
    /// Real images of a concept, and as many generated from their captions to be compared with them; 0
    /// for none.
    #[serde(alias = "kid_images")]
    pub real_images: Option<usize>,
    /// Real images of everything that the corpus shows, and as many generated from their captions, for
    /// measures that ask for them; as many as `real_images` if not given.
    pub general_images: Option<usize>,
    /// Images of the bare category, and of captions without it, for measures that ask for them.
    pub drift_images: Option<usize>,
    /// Denoising steps, in place of the experiment's.
    pub steps: Option<usize>,
    /// Denoising steps for pairs, in place of the others'.
    pub pair_steps: Option<usize>,
    /// The sampler, in place of the experiment's.
    pub scheduler: Option<SchedulerKind>,
    /// The guidance scale, in place of the experiment's.
    pub guidance: Option<f64>,
    /// Multiplies the methods' training steps.
    pub train_steps: Option<f64>,
}

/// A scale with every value.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Its name.
    pub name: String,
    /// See [`ScaleSpec`], as all that follow.
    pub concepts: Vec<String>,
    #[allow(missing_docs)]
    pub pairs: Vec<String>,
    #[allow(missing_docs)]
    pub seeds: u64,
    #[allow(missing_docs)]
    pub prompts: Option<usize>,
    #[allow(missing_docs)]
    pub images: usize,
    #[allow(missing_docs)]
    pub pair_images: usize,
    #[allow(missing_docs)]
    pub real_images: usize,
    #[allow(missing_docs)]
    pub general_images: usize,
    #[allow(missing_docs)]
    pub drift_images: usize,
    #[allow(missing_docs)]
    pub steps: Option<usize>,
    #[allow(missing_docs)]
    pub pair_steps: Option<usize>,
    #[allow(missing_docs)]
    pub scheduler: Option<SchedulerKind>,
    #[allow(missing_docs)]
    pub guidance: Option<f64>,
    #[allow(missing_docs)]
    pub train_steps: f64,
}

/// Images of the bare category and of unrelated captions where a scale does not say.
const DRIFT_IMAGES: usize = 8;
/// The methods' training steps are not multiplied by more.
const MOST_TIMES: f64 = 1000.0;

impl ScaleSpec {
    pub(super) fn check(&self, name: &str) -> Result<()> {
        let at = |key: &str| format!("scales.{name}.{key}");
        for (key, names) in [("concepts", &self.concepts), ("pairs", &self.pairs)] {
            unique(&at(key), names.iter().flatten().map(String::as_str))?;
        }
        let counts = [
            ("seeds", self.seeds, 1, 1000),
            ("prompts", self.prompts.map(|n| n as u64), 1, 100_000),
            ("images", self.images.map(|n| n as u64), 1, 100_000),
            ("pair_images", self.pair_images.map(|n| n as u64), 1, 100_000),
            ("real_images", self.real_images.map(|n| n as u64), 0, 100_000),
            ("general_images", self.general_images.map(|n| n as u64), 2, 100_000),
            ("drift_images", self.drift_images.map(|n| n as u64), 1, 100_000),
            ("steps", self.steps.map(|n| n as u64), 1, 1000),
            ("pair_steps", self.pair_steps.map(|n| n as u64), 1, 1000),
        ];
        for (key, value, least, most) in counts {
            if let Some(value) = value
                && !(least..=most).contains(&value)
            {
                return Err(Error::input(format!(
                    "`{}` is {value}, not {least} to {most}",
                    at(key)
                )));
            }
        }
        if let Some(guidance) = self.guidance {
            check_guidance(&at("guidance"), guidance)?;
        }
        if self.real_images == Some(1) {
            return Err(Error::input(format!(
                "`{}` is 1: a set has at least two",
                at("real_images")
            )));
        }
        if let Some(factor) = self.train_steps
            && !(factor > 0.0 && factor <= MOST_TIMES)
        {
            return Err(Error::input(format!(
                "`{}` is {factor}: it multiplies steps, so above 0 and at most {MOST_TIMES}",
                at("train_steps")
            )));
        }
        Ok(())
    }
}

impl Scale {
    /// How images of single concepts or of pairs are sampled: `base`, the experiment's, but for what the
    /// scale says.
    pub fn sampling(&self, base: &SamplingSpec, group: GroupName) -> SamplingSpec {
        let steps = match group {
            GroupName::Single => self.steps,
            GroupName::Multi => self.pair_steps,
        };
        RowSampling { scheduler: self.scheduler, steps, guidance: self.guidance }.over(base)
    }
}

impl super::Experiment {
    /// The scale `name`, what it does not say taken from the scale `default`.
    ///
    /// # Errors
    /// There is no such scale; a pattern that matches no name.
    pub fn scale(&self, name: &str) -> Result<Scale> {
        let Some(own) = self.scales.get(name) else {
            let names: Vec<&str> = self.scales.keys().map(String::as_str).collect();
            return Err(Error::input_hint(
                format!("the experiment `{}` has no scale `{name}`", self.name),
                format!("it has {}", names.join(", ")),
            ));
        };
        let default = &self.scales[super::DEFAULT_SCALE];
        let images = own.images.or(default.images).unwrap_or(1);
        let real_images = own.real_images.or(default.real_images).unwrap_or(0);
        let given = |own: &Option<Vec<String>>, default: &Option<Vec<String>>| {
            own.clone().or(default.clone()).unwrap_or_default()
        };
        let matching = |key: &str, given: Vec<String>, known: Vec<&str>| {
            names::matching(&given, &known).map_err(|e| e.of(&format!("`scales.{name}.{key}`")))
        };
        let mut concepts = given(&own.concepts, &default.concepts);
        let mut pairs = given(&own.pairs, &default.pairs);
        let named = [own, default].iter().any(|s| s.concepts.is_some() || s.pairs.is_some());
        if self.dataset.is_some() && !named {
            (concepts, pairs) = (vec!["*".to_owned()], vec!["*".to_owned()]);
        }
        Ok(Scale {
            name: name.to_owned(),
            concepts: matching("concepts", concepts, self.concept_names())?,
            pairs: matching("pairs", pairs, self.pair_names())?,
            seeds: own.seeds.or(default.seeds).unwrap_or(1),
            prompts: own.prompts.or(default.prompts),
            images,
            pair_images: own.pair_images.or(default.pair_images).unwrap_or(images),
            real_images,
            general_images: own.general_images.or(default.general_images).unwrap_or(real_images),
            drift_images: own.drift_images.or(default.drift_images).unwrap_or(DRIFT_IMAGES),
            steps: own.steps.or(default.steps),
            pair_steps: own.pair_steps.or(default.pair_steps).or(own.steps).or(default.steps),
            scheduler: own.scheduler.or(default.scheduler),
            guidance: own.guidance.or(default.guidance),
            train_steps: own.train_steps.or(default.train_steps).unwrap_or(1.0),
        })
    }
    /// The concepts that patterns stand for: the experiment's own, or else the world's.
    fn concept_names(&self) -> Vec<&str> {
        let own = self.concepts.iter().map(|concept| &concept.name);
        let own = own.filter(|name| !self.in_sets_only.contains(name));
        match self.concepts.is_empty() {
            true => world::concepts().iter().map(|concept| concept.name).collect(),
            false => own.map(String::as_str).collect(),
        }
    }

    /// The same of pairs and larger sets.
    fn pair_names(&self) -> Vec<&str> {
        match self.pairs.is_empty() && self.concepts.is_empty() {
            true => world::pairs().into_iter().map(|pair| pair.name).collect(),
            false => self.pairs.iter().map(|pair| pair.name.as_str()).collect(),
        }
    }
}
