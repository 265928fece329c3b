//! Which parameters train, by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Group;
use crate::nn::Param;
use crate::{Error, Result};

/// A set of parameters, given by words and patterns.
///
/// The words are `kv` (keys and values of the cross-attention layers), `tokens` (the rows of added
/// tokens), `unet`, `vae`, `text_encoder` and `all`. Anything else is a pattern, in which `*` stands
/// for any characters, of a parameter's name with or without its model's: `*.attn2.*`,
/// `vae.decoder.*`. Several are separated by commas, or stand in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Words", into = "Words")]
pub struct Trainable(Vec<String>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

/// A model's name, as in a backbone's folder (`unet`, `vae`, `text_encoder`), and its parameters.
pub type Component<'a> = (&'a str, &'a [Param]);

const WORDS: [&str; 6] = ["kv", "tokens", "unet", "vae", "text_encoder", "all"];

fn patterns(word: &str) -> Vec<&str> {
    match word {
        "kv" => vec!["*attn2.to_k.weight", "*attn2.to_v.weight"],
        "tokens" => vec!["*token_embedding.added"],
        "unet" => vec!["unet.*"],
        "vae" => vec!["vae.*"],
        "text_encoder" => vec!["text_encoder.*"],
        "all" => vec!["*"],
        pattern => vec![pattern],
    }
}

impl FromStr for Trainable {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Words::One(text.to_owned()).try_into()
    }
}

impl TryFrom<Words> for Trainable {
    type Error = Error;

    fn try_from(words: Words) -> Result<Self> {
        let words: Vec<String> = match words {
            Words::One(text) => text.split(',').map(|w| w.trim().to_owned()).collect(),
            Words::Many(words) => words,
        };
        if words.is_empty() || words.iter().any(String::is_empty) {
            let hint = format!("one or more of {}, or name patterns", WORDS.join(", "));
            return Err(Error::input_hint("an empty set of parameters to train", hint));
        }
        Ok(Trainable(words))
    }
}

impl From<Trainable> for Words {
    fn from(Trainable(mut words): Trainable) -> Self {
        if words.len() == 1 { Words::One(words.remove(0)) } else { Words::Many(words) }
    }
}

impl fmt::Display for Trainable {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl Trainable {
    /// The parameters of the set, in order; changes none.
    ///
    /// # Errors
    /// A word or pattern that is no parameter's, with the names that come nearest.
    pub fn select(&self, components: &[Component]) -> Result<Vec<Param>> {
        let params: Vec<(String, &Param)> = components
            .iter()
            .flat_map(|(model, params)| {
                params.iter().map(move |p| (format!("{model}.{}", p.name()), p))
            })
            .collect();
        let mut chosen = vec![false; params.len()];
        for word in &self.0 {
            for pattern in patterns(word) {
                let mut found = false;
                for ((full, param), chosen) in params.iter().zip(&mut chosen) {
                    if distance(pattern, full) == 0 || distance(pattern, param.name()) == 0 {
                        (found, *chosen) = (true, true);
                    }
                }
                if !found {
                    let names = params.iter().map(|(full, _)| full.as_str());
                    return Err(nothing_matches(word, pattern, names));
                }
            }
        }
        Ok(params.iter().zip(chosen).filter(|(_, c)| *c).map(|((_, p), _)| (*p).clone()).collect())
    }

    /// Whether a parameter of this name, which has its model's in front, is of the set.
    pub fn has(&self, name: &str) -> bool {
        let patterns = self.0.iter().flat_map(|word| patterns(word));
        both_names(name).any(|name| patterns.clone().any(|p| distance(p, name) == 0))
    }

    /// Whether every word is a parameter's among `names`, which have their models' in front: what
    /// [`Trainable::select`] will say of a model that is not loaded yet.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self, names: &[String]) -> Result<()> {
        for word in &self.0 {
            for pattern in patterns(word) {
                let own = |name: &String| both_names(name).any(|name| distance(pattern, name) == 0);
                if !names.iter().any(own) {
                    let names = names.iter().map(String::as_str);
                    return Err(nothing_matches(word, pattern, names));
                }
            }
        }
        Ok(())
    }

    /// The set without the word `tokens`, for where none can train; none if nothing is left.
    pub fn without_tokens(&self) -> Option<Self> {
        let words: Vec<String> = self.0.iter().filter(|w| *w != "tokens").cloned().collect();
        (!words.is_empty()).then_some(Trainable(words))
    }

    /// Makes the parameters of the set trainable, freezes all others, and returns the former.
    ///
    /// # Errors
    /// As [`Trainable::select`]; nothing has changed then.
    pub fn apply(&self, components: &[Component]) -> Result<Vec<Param>> {
        let spec = GroupSpec { train: self.clone(), lr: 0.0, weight_decay: 0.0 };
        Ok(apply_groups(components, &[spec])?.remove(0).params)
    }
}

/// A set of parameters with its learning rate and weight decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// Which parameters.
    pub train: Trainable,
    /// The learning rate, before the schedule.
    pub lr: f64,
    /// The weight decay.
    #[serde(default)]
    pub weight_decay: f64,
}

/// Makes the parameters of all `specs` trainable, freezes all others, and returns the groups for the
/// optimiser.
///
/// # Errors
/// As [`Trainable::select`], and for a parameter of two groups; nothing has changed then.
pub fn apply_groups(components: &[Component], specs: &[GroupSpec]) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = vec![];
    for spec in specs {
        let params = spec.train.select(components)?;
        for param in &params {
            if groups.iter().flat_map(|g| &g.params).any(|p| p.is(param)) {
                return Err(Error::input_hint(
                    format!("`{}` is in two groups of parameters to train", param.name()),
                    "a parameter has one learning rate: let the groups' patterns not overlap",
                ));
            }
        }
        groups.push(Group { params, lr: spec.lr, weight_decay: spec.weight_decay });
    }
    for param in components.iter().flat_map(|(_, params)| *params) {
        param.set_trainable(groups.iter().flat_map(|g| &g.params).any(|p| p.is(param)))?;
    }
    Ok(groups)
}

/// A parameter's name with its model's in front, and without.
fn both_names(full: &str) -> impl Iterator<Item = &str> {
    [Some(full), full.split_once('.').map(|(_, name)| name)].into_iter().flatten()
}

fn nothing_matches<'a>(word: &str, pattern: &str, names: impl Iterator<Item = &'a str>) -> Error {
    let mut near: Vec<(usize, &str)> = names
        .flat_map(both_names)
        .chain(WORDS)
        .map(|name| (distance(pattern, name), name))
        .collect();
    near.sort();
    near.dedup();
    let near: Vec<&str> = near.iter().take(5).map(|(_, name)| *name).collect();
    Error::input_hint(
        format!("nothing to train is called `{word}`"),
        format!("the nearest names are {}", near.join(", ")),
    )
}

/// How many characters must be inserted, deleted or replaced for `pattern`, whose stars stand for any
/// characters, to match `name`: none if it does.
fn distance(pattern: &str, name: &str) -> usize {
    let name = name.as_bytes();
    // for each prefix of the name, the distance of the pattern read so far
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for p in pattern.bytes() {
        let mut diagonal = row[0];
        if p != b'*' {
            row[0] += 1;
        }
        for (j, &n) in name.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if p == b'*' {
                above.min(row[j])
            } else {
                (diagonal + usize::from(p != n)).min(above + 1).min(row[j] + 1)
            };
            diagonal = above;
        }
    }
    row[name.len()]
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    fn params(names: &[&str]) -> Vec<Param> {
        let value = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
        names.iter().map(|n| Param::new(*n, &value, DType::F32).unwrap()).collect()
    }

    fn backbone() -> (Vec<Param>, Vec<Param>) {
        let unet = params(&[
            "conv_in.weight",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q.weight",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.weight",
        ]);
        let text = params(&[
            "text_model.embeddings.token_embedding.weight",
            "text_model.embeddings.token_embedding.added",
        ]);
        (unet, text)
    }

    fn chosen(words: &str) -> Vec<String> {
        let (unet, text) = backbone();
        let components: [Component; 2] = [("unet", &unet), ("text_encoder", &text)];
        let set: Trainable = words.parse().unwrap();
        let chosen = set.apply(&components).unwrap();
        let trainable: Vec<String> = unet
            .iter()
            .chain(&text)
            .filter(|p| p.trainable())
            .map(|p| p.name().rsplit_once("s.0.").map_or(p.name(), |(_, end)| end).to_owned())
            .collect();
        assert_eq!(chosen.len(), trainable.len());
        trainable
    }

    #[test]
    fn words_and_patterns() {
        assert_eq!(chosen("kv"), ["attn2.to_k.weight", "attn2.to_v.weight"]);
        assert_eq!(
            chosen("kv, tokens"),
            [
                "attn2.to_k.weight",
                "attn2.to_v.weight",
                "text_model.embeddings.token_embedding.added"
            ]
        );
        assert_eq!(chosen("unet").len(), 5);
        assert_eq!(chosen("all").len(), 7);
        assert_eq!(chosen("*.to_q.weight, unet.conv*").len(), 2);
    }

    #[test]
    fn choosing_again_freezes_the_rest() {
        let (unet, _) = backbone();
        let apply = |words: &str| {
            words.parse::<Trainable>().unwrap().apply(&[("unet", &unet)]).unwrap().len()
        };
        assert_eq!((apply("all"), apply("kv")), (5, 2));
        assert_eq!(unet.iter().filter(|p| p.trainable()).count(), 2);
    }

    #[test]
    fn an_unknown_name_lists_near_ones_and_changes_nothing() {
        let (unet, _) = backbone();
        for (words, near) in [("unt", "unet"), ("*.atn2.to_v.wieght", "attn2.to_v.weight")] {
            let set: Trainable = format!("conv_in.weight,{words}").parse().unwrap();
            let error = set.apply(&[("unet", &unet)]).err().unwrap();
            assert!(error.to_string().contains(words), "{error}");
            assert!(error.hint().unwrap().contains(near), "{:?}", error.hint());
            assert!(unet.iter().all(|p| !p.trainable()));
        }
    }

    #[test]
    fn groups_must_not_overlap() {
        let (unet, _) = backbone();
        let spec =
            |train: &str| GroupSpec { train: train.parse().unwrap(), lr: 1.0, weight_decay: 0.0 };
        let error = apply_groups(&[("unet", &unet)], &[spec("kv"), spec("*.to_v.weight")]);
        assert!(error.err().unwrap().to_string().contains("attn2.to_v.weight"));
        assert!(apply_groups(&[("unet", &unet)], &[spec("kv"), spec("conv_in*")]).is_ok());
    }

    #[test]
    fn in_configurations_a_word_or_a_list() {
        let one: Trainable = serde_json::from_str(r#""kv""#).unwrap();
        let many: Trainable = serde_json::from_str(r#"["kv", "tokens"]"#).unwrap();
        assert_eq!(many, "kv,tokens".parse().unwrap());
        assert_eq!(serde_json::to_string(&one).unwrap(), r#""kv""#);
        assert!(serde_json::from_str::<Trainable>("[]").is_err());
    }
}
