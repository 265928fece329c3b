//! The protocol of an experiment: all that a number depends on besides the method that it is of.

use serde_json::{Value, json};

use super::key::Key;
use super::plan::subjects;
use super::resources::Resources;
use super::stage::ScoreWork;
use crate::Result;
use crate::metrics::{Chosen, Need};
use crate::spec::{Experiment, GroupName, Scale};

/// What numbers must share to be compared: its id, and in words.
pub fn protocol(
    experiment: &Experiment,
    scale: &Scale,
    resources: &Resources,
) -> Result<(String, String)> {
    let meaning = meaning(experiment, scale, resources)?;
    Ok((Key::of(&meaning).short().to_owned(), words(experiment, scale, resources)?))
}

/// How images of prompts are judged: what `cdbench evaluate` and an experiment have in common, whatever made
/// the images.
pub struct Evaluation {
    /// Of each metric [all that its numbers depend on](crate::metrics::Chosen::meaning).
    pub metrics: Vec<Value>,
    /// The prompts without modifier tokens, and how many images each has.
    pub prompts: Vec<(String, usize)>,
    /// The hashes of each concept's targets.
    pub targets: Vec<Vec<String>>,
    /// The hashes of real images that the images themselves are compared with.
    pub real: Vec<String>,
}

impl Evaluation {
    /// Its id. Nothing has an order here.
    pub fn id(mut self) -> Key {
        self.metrics.sort_by_cached_key(Value::to_string);
        self.prompts.sort();
        self.targets.iter_mut().for_each(|hashes| hashes.sort());
        self.targets.sort();
        self.real.sort();
        Key::of(&json!({
            "evaluation": 1,
            "metrics": self.metrics,
            "prompts": self.prompts,
            "targets": self.targets,
            "real": self.real,
        }))
    }
}

/// How the images of a cell's prompts are judged.
///
/// # Errors
/// As [`Resources::meaning_of`].
pub fn evaluation(work: &ScoreWork, resources: &Resources) -> Result<Evaluation> {
    let of_images = |m: &&Chosen| {
        let need = m.measure.need();
        need.of_prompts() && !need.of_a_model()
    };
    let metrics = work.metrics.iter().filter(of_images);
    let metrics = metrics.map(|m| resources.meaning_of_one(m)).collect::<Result<_>>()?;
    let count = |group: usize| work.groups.iter().filter(|g| **g == group).count();
    let prompts = work.texts.iter().enumerate().map(|(i, text)| (text.clone(), count(i)));
    let mut targets = vec![];
    for concept in &work.concepts {
        let concept = resources.concept(concept)?;
        targets.push(concept.targets.iter().map(|t| t.hash.clone()).collect());
    }
    Ok(Evaluation { metrics, prompts: prompts.collect(), targets, real: vec![] })
}

/// The concepts stand there by what they are: prompts and targets, not names, and in no order.
fn meaning(experiment: &Experiment, scale: &Scale, resources: &Resources) -> Result<Value> {
    let mut evaluated = vec![];
    for subject in subjects(scale, resources)? {
        let concepts: Vec<_> =
            subject.concepts.iter().map(|c| resources.concept(c)).collect::<Result<_>>()?;
        let words: Vec<String> = concepts.iter().map(|c| c.category.clone()).collect();
        let targets: Vec<Vec<&String>> =
            concepts.iter().map(|c| c.targets.iter().map(|t| &t.hash).collect()).collect();
        let (images, sampling) = match subject.group {
            GroupName::Single => (scale.images, GroupName::Single),
            GroupName::Multi => (scale.pair_images, GroupName::Multi),
        };
        evaluated.push(json!({
            "prompts": subject.prompts.iter().map(|p| p.fill(&words)).collect::<Vec<_>>(),
            "targets": targets,
            "images": images,
            "sampling": scale.sampling(&experiment.sampling, sampling),
        }));
    }
    evaluated.sort_by_cached_key(Value::to_string);
    let real = match real_images(scale, resources) {
        0 => None,
        count => {
            let corpora =
                [&experiment.regularization.validation, &experiment.regularization.corpus];
            let identity = |name: &String| Ok(resources.corpus(name)?.identity());
            let corpora: Vec<String> = corpora.into_iter().map(identity).collect::<Result<_>>()?;
            Some(json!({
                "corpora": corpora,
                "chosen_by": resources.embedder()?.identity(),
                "count": count,
            }))
        }
    };
    let (width, height) = resources.size();
    Ok(json!({
        "protocol": 2,
        "backbone": resources.backbone_identity(),
        "size": [width, height],
        "metrics": resources.meaning_of(resources.metrics())?,
        "evaluated": evaluated,
        "real": real,
        "seeds": scale.seeds,
    }))
}

/// How many real images something is compared with.
fn real_images(scale: &Scale, resources: &Resources) -> usize {
    let asked = resources.metrics().iter().any(|m| m.measure.need() == Need::RealImages);
    if asked { scale.real_images } else { 0 }
}

fn words(experiment: &Experiment, scale: &Scale, resources: &Resources) -> Result<String> {
    let sampling = scale.sampling(&experiment.sampling, GroupName::Single);
    let pair_steps = scale.sampling(&experiment.sampling, GroupName::Multi).steps;
    let (width, height) = resources.size();
    let steps = match (scale.pairs.is_empty(), pair_steps == sampling.steps) {
        (false, false) => format!("{} ({pair_steps} for pairs)", sampling.steps),
        _ => sampling.steps.to_string(),
    };
    let short = |identity: &str| identity.chars().take(12).collect::<String>();
    let mut extractors: Vec<String> = vec![];
    let mut metrics = vec![];
    for chosen in resources.metrics() {
        if let Some(name) = &chosen.metric.extractor {
            let said = format!("{name} {}…", short(resources.extractor(name)?.identity()));
            if !extractors.contains(&said) {
                extractors.push(said);
            }
        }
        metrics.push(format!("{}: {}", chosen.metric.column(), chosen.measure.definition()));
    }
    let real = match real_images(scale, resources) {
        0 => String::new(),
        n => format!(
            " Compared with {n} held-out real images of the category are {n} images generated from \
             their captions."
        ),
    };
    let features = match extractors.is_empty() {
        true => String::new(),
        false => format!(" Features by {}.", extractors.join(", ")),
    };
    Ok(format!(
        "Backbone {} ({}…), {width}×{height}; {steps} steps of {}, guidance {}.{features} {}.{real} \
         Training and sampling seeds 0 to {}.",
        resources.backbone_name(),
        short(resources.backbone_identity()),
        sampling.scheduler,
        sampling.guidance,
        metrics.join("; "),
        scale.seeds - 1,
    ))
}
