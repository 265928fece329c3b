//! Training: from an untouched backbone and images to a [`Delta`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use candle_core::{DType, Device};
use sha2::{Digest, Sha256};

use super::delta::{components, hash_tensor};
use super::memory::Step;
use super::task::ImageTask;
use super::{Delta, Instance, Modifier, Settings, Undo, phrase, token, tokens};
use crate::diffusion::Backbone;
use crate::nn::Param;
use crate::train::{Checkpoints, Group, Progress, Schedule, TrainConfig, Trainable, Trainer};
use crate::{Error, Result};

/// A training, but for the backbone.
#[derive(Clone, Copy)]
pub struct Training<'a> {
    /// What it starts from; none: the backbone as it is.
    pub from: Option<&'a Delta>,
    /// The concepts.
    pub instances: &'a [Instance],
    /// How.
    pub settings: &'a Settings,
    /// The number of each concept's modifier token.
    pub tokens: &'a [usize],
    /// Decides all that is random.
    pub seed: u64,
    /// Where its states are kept, to go on from: one folder, one training.
    pub dir: &'a Path,
}

/// A state is saved when so much time has passed since the last.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// Trains, from the latest state in the run's folder if there is one, and gives what changed against the
/// untouched backbone. The backbone is untouched again afterwards, whatever the outcome: apply the
/// delta to use it.
///
/// A training that was stopped or killed and goes on gives the same bits as one that was not.
///
/// # Errors
/// [`Error::Input`] for settings, concepts or states that do not fit; [`Error::Interrupted`], with the
/// state saved, once `stop` is true; [`Error::Diverged`].
pub fn train(
    backbone: &mut Backbone,
    training: &Training,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Delta> {
    let mut none = States { steps: &[], keep: &mut |_, _| Ok(()) };
    train_with_states(backbone, training, stop, progress, &mut none)
}

/// What a training has after some of its steps.
pub struct States<'a> {
    /// After which steps.
    pub steps: &'a [u64],
    /// Takes it, before the next step.
    pub keep: &'a mut dyn FnMut(u64, Delta) -> Result<()>,
}

/// [`train`], with some of the states on the way. A training that goes on from a state of its own
/// passes over those before it.
///
/// # Errors
/// As [`train`]; what `states` gives.
pub fn train_with_states(
    backbone: &mut Backbone,
    training: &Training,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Progress),
    states: &mut States,
) -> Result<Delta> {
    training.check()?;
    let mut undo = match training.from {
        Some(from) => from.apply(backbone)?,
        None => Undo::new(backbone)?,
    };
    let outcome = run(backbone, training, &mut undo, stop, progress, states);
    backbone.unet.set_detach_start_of_text(false);
    backbone.unet.set_checkpointing(false);
    undo.restore(backbone)?;
    outcome
}

impl Training<'_> {
    fn check(&self) -> Result<()> {
        self.settings.check()?;
        let (instances, tokens) = (self.instances.len(), self.tokens.len());
        if instances == 0 || instances != tokens {
            return Err(Error::input(format!(
                "a training of {instances} concepts with {tokens} modifier tokens"
            )));
        }
        for (i, instance) in self.instances.iter().enumerate() {
            if instance.category.trim().is_empty() {
                return Err(Error::input(format!(
                    "the concept `{}` has no category",
                    instance.name
                )));
            }
            if self.settings.modifier_token.has_token()
                && self.tokens[..i].contains(&self.tokens[i])
            {
                return Err(Error::input(format!(
                    "two concepts are to share the modifier token {}",
                    token(self.tokens[i])
                )));
            }
        }
        Ok(())
    }
}

fn run(
    backbone: &mut Backbone,
    training: &Training,
    undo: &mut Undo,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Progress),
    states: &mut States,
) -> Result<Delta> {
    let Training { instances, settings, seed, dir, .. } = *training;
    // what was learnt before stays as it is
    backbone.text_encoder.fix_added()?;
    let phrases = add_tokens(backbone, training)?;
    backbone.unet.set_detach_start_of_text(settings.detach_start_of_text);

    let groups = groups(backbone, settings, undo)?;
    let checkpoints = Checkpoints {
        every: Some(SAVE_EVERY),
        ..Checkpoints::new(dir, identity(training, &phrases, &groups)?)
    };
    let config = TrainConfig {
        steps: settings.steps,
        max_grad_norm: settings.max_grad_norm,
        schedule: Schedule { decay: settings.decay, ..Schedule::default() },
        ..TrainConfig::default()
    };
    // the same numbers for more time
    let step = Step::of(backbone, settings);
    let (checkpointing, what_fits) = (step.needs_checkpointing(), step.what_fits());
    if checkpointing {
        tracing::info!("layers are computed again in the backward pass, to save memory");
        backbone.unet.set_checkpointing(true);
    }
    let mut trainer = Trainer::new(config, groups, seed)?
        .computing_in(backbone.unet.compute_dtype())
        .with_checkpoints(checkpoints)?;
    let mut task = ImageTask::new(backbone, settings, instances, &phrases)?;
    let mut failed = None;
    let outcome = trainer.run(&mut task, stop, |done| {
        progress(done);
        if failed.is_none() && states.steps.contains(&done.step) {
            let kept =
                changed(backbone, training).and_then(|delta| (states.keep)(done.step, delta));
            failed = kept.err();
        }
    });
    outcome.map_err(|error| match error {
        Error::Memory { message, .. } => Error::Memory { message, hint: Some(what_fits) },
        other => other,
    })?;
    failed.map_or_else(|| changed(backbone, training), Err)
}

/// What the training has changed so far, over what it started from.
fn changed(backbone: &Backbone, training: &Training) -> Result<Delta> {
    let mut tensors = BTreeMap::new();
    for (model, params) in components(backbone) {
        let added = backbone.text_encoder.added();
        for param in params.iter().filter(|p| p.trainable() && !added.is_some_and(|a| a.is(p))) {
            let value = param.to_file()?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
            tensors.insert(format!("{model}.{}", param.name()), value);
        }
    }
    let mut rows = vec![];
    let modifier = training.settings.modifier_token;
    for &number in training.tokens.iter().filter(|_| modifier.has_token()) {
        let token = token(number);
        let own = tokens::rows_of(backbone, &token)?.to_device(&Device::Cpu)?;
        rows.push((token, own));
    }
    let delta = Delta::new(tensors, rows);
    Ok(match training.from {
        Some(from) => delta.over(from),
        None => delta,
    })
}

/// Adds the concepts' modifier tokens, and returns what the concepts are called.
fn add_tokens(backbone: &mut Backbone, training: &Training) -> Result<Vec<String>> {
    let modifier = training.settings.modifier_token;
    let concepts = training.instances.iter().zip(training.tokens);
    if modifier.has_token() {
        let rows: Result<Vec<_>> = concepts
            .clone()
            .map(|(i, &number)| {
                let (vectors, seed) = (training.settings.vectors, training.seed);
                let rows =
                    tokens::initial_row(backbone, modifier, number, &i.category, vectors, seed)?;
                Ok((token(number), rows))
            })
            .collect();
        tokens::add(backbone, &rows?)?;
    }
    if modifier == Modifier::Frozen {
        backbone.text_encoder.fix_added()?;
    }
    Ok(concepts.map(|(i, &number)| phrase(modifier, number, &i.category)).collect())
}

/// Which parameters the settings train.
///
/// # Errors
/// [`Error::Input`] if that is none.
pub fn trained(settings: &Settings) -> Result<Trainable> {
    let set = match settings.modifier_token.trains() {
        true => Some(settings.train.clone()),
        false => settings.train.without_tokens(),
    };
    set.ok_or_else(|| {
        Error::input_hint(
            format!(
                "`train = \"{}\"` with a modifier token that does not train leaves nothing",
                settings.train
            ),
            "train weights, too, or set `modifier_token = \"rare\"`",
        )
    })
}

/// Makes what the settings name trainable: the tokens' rows with their own rate, last.
fn groups(backbone: &Backbone, settings: &Settings, undo: &mut Undo) -> Result<Vec<Group>> {
    let components = components(backbone);
    let set = trained(settings)?;
    let chosen = set.select(&components)?;
    let added = backbone.text_encoder.added();
    let is_token = |param: &Param| added.is_some_and(|added| added.is(param));
    for param in chosen.iter().filter(|p| !is_token(p)) {
        undo.remember(param);
    }
    set.apply(&components)?;
    let (tokens, weights): (Vec<Param>, Vec<Param>) =
        chosen.into_iter().partition(|param| is_token(param));
    let rate = settings.token_lr.unwrap_or(settings.lr);
    let groups = [(weights, settings.lr), (tokens, rate)];
    let groups = groups.into_iter().filter(|(params, _)| !params.is_empty());
    let weight_decay = settings.weight_decay;
    Ok(groups.map(|(params, lr)| Group { params, lr, weight_decay }).collect())
}

/// All that decides the training's numbers but the frozen weights, which shape decides for this purpose:
/// a store keeps trainings of different backbones apart.
fn identity(training: &Training, phrases: &[String], groups: &[Group]) -> Result<String> {
    let mut hash = Sha256::new();
    let settings = serde_json::to_string(training.settings).unwrap_or_default();
    hash.update(format!("{settings} {} {phrases:?}", training.seed));
    if let Some(from) = training.from {
        hash.update(from.hash()?);
    }
    for instance in training.instances {
        let class = instance.class.iter().map(|c| (&c.image, c.caption.as_str()));
        for (image, caption) in instance.pictures.iter().map(|p| (p, "")).chain(class) {
            hash.update(format!("{caption} {}x{} ", image.width(), image.height()));
            hash.update(image.as_raw());
        }
        hash.update([0]);
    }
    for param in groups.iter().flat_map(|g| &g.params) {
        hash.update(param.name());
        hash_tensor(&mut hash, &param.value())?;
    }
    Ok(format!("custom {:x}", hash.finalize()))
}
