//! Concepts that were learnt apart, put together without training (section 3.3, equation 4): new keys
//! and values that do to each concept's words what its own checkpoint does, and as little else as
//! possible to the words of ordinary captions.
//!
//! As in the authors' code the target words of a concept are the tokens of `<new1> dog` and of
//! `photo of a <new1> dog` from the modifier token to the end-of-text token, which is where the encoder
//! gathers what a prompt says; and the regularisation features are all tokens of each caption behind
//! the start-of-text token, up to and with its end.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use nalgebra::DMatrix;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::constrained::{Problem, matrix, tensor};
use super::delta::is_key_or_value;
use super::{
    Delta, MOST_CONCEPTS, Method, Modifier, Profile, Recipe, Settings, defaults, phrase, separate,
    taken_tokens, token,
};
use crate::diffusion::Backbone;
use crate::nn::{all_finite, no_grad, parallel};
use crate::{Error, Result};

/// The method: single-concept Custom Diffusion for each, then [`merge`].
pub(super) struct Merge;

impl Method for Merge {
    fn name(&self) -> &'static str {
        "merge"
    }

    fn title(&self) -> &'static str {
        "Custom Diffusion (Optimization)"
    }

    fn about(&self) -> &'static str {
        "Custom Diffusion on each concept alone, merged in closed form"
    }

    fn concepts(&self) -> RangeInclusive<usize> {
        2..=MOST_CONCEPTS
    }

    fn defaults(&self, profile: Profile, _: usize) -> Settings {
        defaults::custom_diffusion(profile, 1)
    }

    fn recipe(&self, concepts: &[String], settings: &Settings, seed: u64) -> Recipe {
        separate(concepts, settings, seed)
    }
}

/// How checkpoints are merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MergeSettings {
    /// How many regularisation captions there are to be; whoever merges brings them.
    pub captions: usize,
    /// Prompts whose words are kept, with `{}` for the concept.
    pub prompts: Vec<String>,
    /// Whether the end-of-text token behind the concept is one of them.
    pub end_of_text: bool,
    /// Added to the diagonal of `C_regᵀ C_reg`, as a share of its largest eigenvalue.
    pub ridge: f64,
}

impl Default for MergeSettings {
    fn default() -> Self {
        MergeSettings {
            captions: 1000,
            prompts: vec!["{}".into(), "photo of a {}".into()],
            end_of_text: true,
            ridge: 0.0,
        }
    }
}

/// One concept's checkpoint.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// What its training changed: keys and values, and one token at most.
    pub delta: &'a Delta,
    /// How the concept is called.
    pub modifier: Modifier,
    /// What it is one of.
    pub category: &'a str,
}

/// How well a merge went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeReport {
    /// How many matrices were solved for.
    pub layers: usize,
    /// How many regularisation features there were.
    pub features: usize,
    /// How many target words there were.
    pub targets: usize,
    /// How many of them were independent; fewer, if concepts share words.
    pub rank: usize,
    /// `‖W Cᵀ − V‖ / ‖V‖`, the largest over the layers, of the weights as stored. Up to about 1e-5 all
    /// is well; more means that concepts share words and disagree on them.
    pub residual: f64,
    /// `‖(W − W₀) C_regᵀ‖ / ‖W₀ C_regᵀ‖` over all layers: how much ordinary captions changed.
    pub drift: f64,
    /// The condition number of `C_regᵀ C_reg`; none if it is singular.
    pub condition: Option<f64>,
    /// What was added to its diagonal, as a share of its largest eigenvalue.
    pub ridge: f64,
    /// How long it took.
    pub seconds: f64,
}

impl std::fmt::Display for MergeReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} matrices in {:.2} s: constraints met to {:.1e}, ordinary captions changed by {:.1e}",
            self.layers, self.seconds, self.residual, self.drift
        )
    }
}

impl MergeReport {
    /// What a person should know, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![];
        if self.rank < self.targets {
            warnings.push(format!(
                "{} of {} target words depend on the others",
                self.targets - self.rank,
                self.targets
            ));
        }
        if self.residual > 1e-4 {
            warnings.push(format!(
                "the target words are met to {:.1e} only: the concepts disagree on words they share",
                self.residual
            ));
        }
        if self.ridge > 0.0 && self.condition.is_none_or(|c| c > 1e12) {
            warnings.push(format!(
                "the captions' features are near-singular; a ridge of {:.0e} was added",
                self.ridge
            ));
        }
        warnings
    }
}

/// Merges checkpoints of single concepts on an untouched backbone, which is untouched again afterwards.
/// The modifier tokens are numbered again, in order of the parts: `<new1>`, `<new2>`, …, or on from those
/// that the backbone has. Where no part changed weights (Textual Inversion) their tokens are put side by
/// side, and there is no report.
///
/// # Errors
/// [`Error::Input`] for no parts, parts that changed more than keys and values or have several tokens,
/// too few captions; [`Error::Diverged`] if a weight comes out that is not finite; what encoding text
/// gives.
pub fn merge(
    backbone: &mut Backbone,
    parts: &[Part],
    captions: &[String],
    settings: &MergeSettings,
) -> Result<(Delta, Option<MergeReport>)> {
    let start = Instant::now();
    let deltas: Vec<Delta> =
        parts.iter().map(|p| p.delta.clone().whole(backbone)).collect::<Result<_>>()?;
    let parts: Vec<Part> =
        parts.iter().zip(&deltas).map(|(part, delta)| Part { delta, ..*part }).collect();
    let parts = parts.as_slice();
    check(parts, settings)?;
    let first = taken_tokens(&backbone.tokenizer) + 1;
    let rows: Vec<(String, Tensor)> = parts
        .iter()
        .zip(first..)
        .filter_map(|(part, number)| {
            let (_, row) = part.delta.tokens().first()?;
            Some((token(number), row.clone()))
        })
        .collect();
    let mut merged = Delta::new(BTreeMap::new(), rows);
    let layers: Vec<&String> = {
        let mut names: Vec<&String> = parts.iter().flat_map(|p| p.delta.tensors().keys()).collect();
        names.sort();
        names.dedup();
        names
    };
    if layers.is_empty() {
        return Ok((merged, None));
    }
    if captions.is_empty() {
        return Err(Error::input("a merge without regularisation captions"));
    }

    let undo = merged.apply(backbone)?;
    let features = features(backbone, parts, first, captions, settings);
    undo.restore(backbone)?;
    let (regularization, targets) = features?;
    let words = stack(&targets);
    let count = words.nrows();
    let problem = Problem::new(&regularization, words, settings.ridge)?;

    let one = |name: &&String| solve(backbone, name, parts, &targets, &problem);
    let solved = layers.par_iter().map(one).collect::<Result<Vec<Layer>>>()?;
    let (mut residual, mut moved, mut norm) = (0f64, 0.0, 0.0);
    for (name, layer) in layers.iter().zip(solved) {
        residual = residual.max(layer.residual);
        moved += layer.moved;
        norm += layer.norm;
        merged.tensors.insert((*name).clone(), layer.weight);
    }
    let report = MergeReport {
        layers: layers.len(),
        features: regularization.nrows(),
        targets: count,
        rank: problem.rank,
        residual,
        drift: (moved / norm.max(f64::MIN_POSITIVE)).sqrt(),
        condition: Some(problem.condition).filter(|c| c.is_finite()),
        ridge: problem.ridge,
        seconds: start.elapsed().as_secs_f64(),
    };
    Ok((merged, Some(report)))
}

struct Layer {
    weight: Tensor,
    residual: f64,
    moved: f64,
    norm: f64,
}

/// Solves for the matrix `name`. `targets` are each part's words.
fn solve(
    backbone: &Backbone,
    name: &str,
    parts: &[Part],
    targets: &[DMatrix<f64>],
    problem: &Problem,
) -> Result<Layer> {
    let pretrained = weight_of(backbone, name)?;
    let mut values = vec![];
    for (part, words) in parts.iter().zip(targets) {
        // a part that left this layer alone keeps what it does
        let own = part.delta.tensors().get(name).unwrap_or(&pretrained);
        if own.dims() != pretrained.dims() {
            return Err(Error::input(format!(
                "`{name}` has the shape {:?}, but the backbone's is {:?}",
                own.dims(),
                pretrained.dims()
            )));
        }
        values.push(words * matrix(own)?.transpose());
    }
    let values = stack(&values);
    let solved = problem.solve(&matrix(&pretrained)?, &values);
    let weight = tensor(&solved.weight)?;
    if !all_finite(&weight)? {
        return Err(Error::Diverged(format!(
            "the merge of `{name}` has values that are not finite"
        )));
    }
    // of the weights as stored, f32
    let residual = problem.residual(&matrix(&weight)?, &values);
    Ok(Layer { weight, residual, moved: solved.moved, norm: solved.norm })
}

fn check(parts: &[Part], settings: &MergeSettings) -> Result<()> {
    if parts.is_empty() {
        return Err(Error::input("a merge of no checkpoints"));
    }
    if settings.prompts.is_empty() || settings.prompts.iter().any(|p| !p.contains("{}")) {
        return Err(Error::input_hint(
            "the setting `prompts` of a merge: each needs a `{}`",
            "for example [\"{}\", \"photo of a {}\"]",
        ));
    }
    for (i, part) in parts.iter().enumerate() {
        if let Some(other) = part.delta.tensors().keys().find(|name| !is_key_or_value(name)) {
            return Err(Error::input_hint(
                format!("checkpoint {} of a merge changed `{other}`", i + 1),
                "only keys and values of cross attention can be merged: train with `train = \"kv,tokens\"`",
            ));
        }
        let wanted = usize::from(part.modifier.has_token());
        if part.delta.tokens().len() != wanted {
            return Err(Error::input(format!(
                "checkpoint {} of a merge has {} modifier tokens, not {wanted}",
                i + 1,
                part.delta.tokens().len()
            )));
        }
    }
    Ok(())
}

/// The regularisation features [tokens, features], and each part's target words; the first part's token
/// has the number `first`.
fn features(
    backbone: &Backbone,
    parts: &[Part],
    first: usize,
    captions: &[String],
    settings: &MergeSettings,
) -> Result<(DMatrix<f64>, Vec<DMatrix<f64>>)> {
    let last = backbone.tokenizer.max_len() - 1;
    let whole = |caption: &String| -> Result<(String, RangeInclusive<usize>)> {
        let end = backbone.tokenizer.encode_words(caption)?.len() + 1;
        Ok((caption.clone(), 1..=end.min(last)))
    };
    let regularization = captions.iter().map(whole).collect::<Result<Vec<_>>>()?;
    let regularization = words(backbone, &regularization)?;
    let targets = parts
        .iter()
        .zip(first..)
        .map(|(part, number)| {
            let phrase = phrase(part.modifier, number, part.category);
            let prompts: Result<Vec<_>> =
                settings.prompts.iter().map(|p| target(backbone, p, &phrase, settings)).collect();
            words(backbone, &prompts?)
        })
        .collect::<Result<_>>()?;
    Ok((regularization, targets))
}

/// A prompt with the concept in it, and the positions of the concept's words.
fn target(
    backbone: &Backbone,
    prompt: &str,
    phrase: &str,
    settings: &MergeSettings,
) -> Result<(String, RangeInclusive<usize>)> {
    let tokenizer = &backbone.tokenizer;
    let text = prompt.replace("{}", phrase);
    if tokenizer.encode(&text)?.truncated {
        return Err(Error::input(format!("the prompt `{text}` is too long for the backbone")));
    }
    let (first, last) = tokenizer
        .positions(&text, phrase)?
        .ok_or_else(|| {
            Error::input(format!("the words of `{phrase}` are not found in the prompt `{text}`"))
        })?
        .into_inner();
    let end_of_text = tokenizer.encode_words(&text)?.len() + 1;
    Ok((text, first..=if settings.end_of_text { end_of_text } else { last }))
}

/// Prompts encoded together on a thread.
const TOGETHER: usize = 16;

/// The features of these positions of these prompts, one after the other.
fn words(backbone: &Backbone, prompts: &[(String, RangeInclusive<usize>)]) -> Result<DMatrix<f64>> {
    let chunks: Vec<_> = prompts.chunks(TOGETHER).collect();
    let one = |i: usize| -> Result<Vec<Vec<f32>>> {
        let texts: Vec<&str> = chunks[i].iter().map(|(text, _)| text.as_str()).collect();
        let states = no_grad(|| backbone.encode_text(&texts))?;
        let states = states.value().to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        let mut rows = vec![];
        for (state, (_, positions)) in states.to_vec3::<f32>()?.into_iter().zip(chunks[i]) {
            rows.extend(
                state
                    .into_iter()
                    .enumerate()
                    .filter_map(|(at, row)| positions.contains(&at).then_some(row)),
            );
        }
        Ok(rows)
    };
    let rows: Vec<Vec<f32>> = if backbone.device().is_cpu() {
        parallel::parts(chunks.len(), one)?.concat()
    } else {
        (0..chunks.len()).map(one).collect::<Result<Vec<_>>>()?.concat()
    };
    let width = rows.first().map_or(0, Vec::len);
    Ok(DMatrix::from_fn(rows.len(), width, |i, j| f64::from(rows[i][j])))
}

fn weight_of(backbone: &Backbone, name: &str) -> Result<Tensor> {
    let param = name
        .strip_prefix("unet.")
        .and_then(|name| backbone.unet.params().iter().find(|p| p.name() == name));
    let param = param.ok_or_else(|| {
        Error::input_hint(
            format!("the backbone has no weight `{name}`"),
            "the checkpoints belong to another backbone",
        )
    })?;
    Ok(param.to_file()?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?)
}

fn stack(parts: &[DMatrix<f64>]) -> DMatrix<f64> {
    let rows: usize = parts.iter().map(DMatrix::nrows).sum();
    let mut all = DMatrix::zeros(rows, parts.first().map_or(0, DMatrix::ncols));
    let mut first = 0;
    for part in parts {
        all.rows_mut(first, part.nrows()).copy_from(part);
        first += part.nrows();
    }
    all
}
