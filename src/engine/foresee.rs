//! What is known of stages before the first of them runs: what they would refuse after hours, and what
//! room they take.

use std::collections::HashSet;

use super::plan::Plan;
use super::resources::Resources;
use super::stage::{Stage, Work};
use super::store::Store;
use super::survey::Todo;
use crate::methods::{Settings, refuse_missing, start_of_token, trained};
use crate::{Error, Result, process};

/// Looks at all that the plan's stages will ask of the backbone's schedule, parameters and vocabulary.
///
/// # Errors
/// What the first of them would refuse, with its name.
pub fn foresee(plan: &Plan, resources: &Resources) -> Result<()> {
    plan.stages.iter().try_for_each(|stage| look(stage, resources).map_err(|e| e.of(&stage.name)))
}

fn look(stage: &Stage, resources: &Resources) -> Result<()> {
    match &stage.work {
        Work::Sample { sampling, .. } | Work::Attend { sampling, .. } => {
            let made = sampling.scheduler.scheduler(resources.scheduler(), sampling.steps, 0.0);
            made.map(|_| ()).map_err(|e| match e {
                Error::Input { message, hint: None } => Error::input_hint(
                    message,
                    "see `sampling.steps`, and the scale's `steps` and `pair_steps`",
                ),
                other => other,
            })
        }
        Work::Train { concepts, settings, tokens, .. } => {
            trained(settings)?.check(resources.parameters()).map_err(|e| e.of("`train`"))?;
            let modifier = settings.modifier_token;
            concepts.iter().zip(tokens).filter(|_| modifier.has_token()).try_for_each(
                |(name, &number)| {
                    let category = &resources.concept(name)?.category;
                    start_of_token(resources.tokenizer(), modifier, number, category).map(|_| ())
                },
            )
        }
        Work::Take(file) => {
            let there: HashSet<&str> = resources.parameters().iter().map(String::as_str).collect();
            let missing = refuse_missing(file.weights.iter(), |name| there.contains(name));
            missing.map_err(|e| e.of_file(&file.path))?;
            let taken = |token: &&String| resources.tokenizer().token_id(token).is_some();
            match file.tokens.iter().find(taken) {
                None => Ok(()),
                Some(token) => Err(Error::input_hint(
                    format!(
                        "{}: the backbone's vocabulary has a token `{token}` of its own",
                        file.path.display()
                    ),
                    "rename the token: a Textual Inversion's key, or its file where the token is called \
                     after that",
                )),
            }
        }
        Work::Retrieve { .. }
        | Work::Spread { .. }
        | Work::TrainBy(_)
        | Work::Merge { .. }
        | Work::State { .. }
        | Work::Compress { .. }
        | Work::Render { .. }
        | Work::Score(_) => Ok(()),
    }
}

/// What a person should know about the room that is left for what is to be made; none where there is
/// enough, or nobody can tell.
pub fn shortage(
    plan: &Plan,
    todo: &[Todo],
    store: &Store,
    resources: &Resources,
) -> Option<String> {
    let free = process::free_space(store.root())?;
    let wanted = room(plan, todo, resources);
    (wanted > free).then(|| {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        format!(
            "{}: about {:.1} GB will be written, and {:.1} GB are free",
            store.root().display(),
            gb(wanted),
            gb(free)
        )
    })
}

/// Bytes of all results to be made, and of the states of the largest training.
fn room(plan: &Plan, todo: &[Todo], resources: &Resources) -> u64 {
    /// A state has each number with its two moments; two are kept while a third is written.
    const NUMBERS_OF_STATES: u64 = 9;
    const F32: u64 = 4;
    let (width, height) = resources.size();
    // sampled images compress by a third and more
    let image = (2 * width * height) as u64;
    let (mut results, mut states) = (0, 0);
    for (stage, _) in plan.stages.iter().zip(todo).filter(|(_, todo)| **todo != Todo::Nothing) {
        match &stage.work {
            Work::Train { settings, .. } => {
                let numbers = changed(settings, resources);
                results += F32 * numbers;
                states = states.max(NUMBERS_OF_STATES * F32 * numbers);
            }
            Work::Merge { .. } => results += F32 * resources.numbers().kv,
            Work::Sample { images, .. } => results += image * images.count() as u64,
            Work::Render { list, .. } => results += image * list.len() as u64,
            Work::State { of, .. } => {
                if let Work::Train { settings, .. } = &plan.stages[*of].work {
                    results += F32 * changed(settings, resources);
                }
            }
            // what a program of others writes, nobody knows before
            Work::TrainBy(_)
            | Work::Retrieve { .. }
            | Work::Spread { .. }
            | Work::Compress { .. }
            | Work::Take(_)
            | Work::Attend { .. }
            | Work::Score(_) => {}
        }
    }
    results + states
}

/// How many numbers a training changes, as far as the words for them tell.
fn changed(settings: &Settings, resources: &Resources) -> u64 {
    let numbers = resources.numbers();
    let of = |word: &str| match word {
        "unet" | "all" => numbers.unet,
        "kv" => numbers.kv,
        _ => 0,
    };
    settings.train.to_string().split(',').map(of).max().unwrap_or(0)
}
