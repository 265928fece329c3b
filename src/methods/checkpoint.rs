//! A checkpoint that is there already: somebody's file or folder, which stands in the table like a method.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::recipe::phrase_with;
use super::{
    Delta, Description, MOST_CONCEPTS, Method, Modifier, Profile, Recipe, Settings, defaults,
};
use crate::{Error, Result};

/// The method: its rows say which file (`path`), and the planner makes the recipe of it.
pub(super) struct Checkpoint;

impl Method for Checkpoint {
    fn name(&self) -> &'static str {
        CHECKPOINT
    }

    fn title(&self) -> &'static str {
        "Checkpoint"
    }

    fn about(&self) -> &'static str {
        "a checkpoint from a file, of whoever trained it"
    }

    fn concepts(&self) -> RangeInclusive<usize> {
        1..=MOST_CONCEPTS
    }

    /// None of them is used.
    fn defaults(&self, profile: Profile, concepts: usize) -> Settings {
        defaults::custom_diffusion(profile, concepts)
    }

    /// Nothing is trained.
    fn recipe(&self, _: &[String], _: &Settings, _: u64) -> Recipe {
        Recipe::Pretrained
    }
}

/// As experiments call the method.
pub const CHECKPOINT: &str = "checkpoint";

/// How a row of the method says that concepts are called; none where the file tells.
///
/// # Errors
/// [`Error::Input`] for another setting than `modifier_token`, or a value that it has not.
pub fn modifier_of_row(settings: &toml::Table) -> Result<Option<Modifier>> {
    if let Some(other) = settings.keys().find(|key| *key != Modifier::KEY) {
        return Err(Error::input_hint(
            format!("a checkpoint has no setting `{other}`: it is trained already"),
            format!(
                "`{}` says how its concepts are called: \"rare\" for `<new1> dog`, \"category\" \
                     for `<new1>` in the place of `dog`, \"none\" for `dog`",
                Modifier::KEY
            ),
        ));
    }
    Modifier::in_settings(settings)
}

/// What is known of a checkpoint without holding its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Where it is.
    pub path: PathBuf,
    /// Of all that it holds: the same in every dialect that keeps all of it.
    pub hash: String,
    /// The weights that it changes.
    pub weights: Vec<String>,
    /// Its tokens, in their order.
    pub tokens: Vec<String>,
    /// What it says of itself.
    pub said: Option<Description>,
}

impl Known {
    /// Reads the checkpoint of a file or folder.
    ///
    /// # Errors
    /// As [`Delta::load`]; a description that is damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let delta = Delta::load(path)?;
        Ok(Known {
            path: path.to_owned(),
            hash: delta.hash()?,
            weights: delta.changed().cloned().collect(),
            tokens: delta.token_names().into_iter().map(str::to_owned).collect(),
            said: Description::read(path)?,
        })
    }

    /// The checkpoint itself.
    ///
    /// # Errors
    /// As [`Delta::load`]; [`Error::Input`] if it is another than was read before.
    pub fn load(&self) -> Result<Delta> {
        let delta = Delta::load(&self.path)?;
        match delta.hash()? == self.hash {
            true => Ok(delta),
            false => Err(Error::input_hint(
                format!("{}: it changed while the experiment ran", self.path.display()),
                "run the experiment again",
            )),
        }
    }

    /// What stands for concepts, given by their names and categories, in prompts to this checkpoint. Its
    /// tokens are theirs in order, unless it says itself which is whose. Without a word on it a token stands
    /// before the category, or in its place where the checkpoint has no weights.
    ///
    /// # Errors
    /// [`Error::Input`] if the tokens are not as many as the concepts, or it was trained on others.
    pub fn phrases(
        &self,
        concepts: &[(&str, &str)],
        modifier: Option<Modifier>,
    ) -> Result<Vec<String>> {
        let tokens = match &self.said {
            Some(said) => self.said_tokens(said, concepts)?,
            None if self.tokens.is_empty() => vec![None; concepts.len()],
            None if self.tokens.len() == concepts.len() => {
                self.tokens.iter().map(|token| Some(token.as_str())).collect()
            }
            None => {
                let (tokens, own) = (self.tokens.join(", "), concepts.len());
                return Err(self.bad(
                    &format!("it has {} tokens ({tokens}) for {own} concepts", self.tokens.len()),
                    "name a checkpoint with a token for each concept of the cell: `path` may have \
                     {concept}, and `groups` says whether the row is of single concepts or of several",
                ));
            }
        };
        let usual = if self.weights.is_empty() { Modifier::Category } else { Modifier::Rare };
        let modifier = modifier.unwrap_or(usual);
        let phrase = |(token, (_, category)): (Option<&str>, &(&str, &str))| match token {
            None => (*category).to_owned(),
            Some(token) => phrase_with(modifier, token, category),
        };
        Ok(tokens.into_iter().zip(concepts).map(phrase).collect())
    }

    /// The tokens of the concepts, as the checkpoint says.
    fn said_tokens<'a>(
        &self,
        said: &'a Description,
        concepts: &[(&str, &str)],
    ) -> Result<Vec<Option<&'a str>>> {
        let hint = "a row's checkpoint is of the cell's concepts: `path` may have {concept}";
        let mut tokens = vec![];
        for (i, (name, category)) in concepts.iter().enumerate() {
            let by_name = said.concepts.iter().find(|learnt| learnt.name == *name);
            let in_order = said.concepts.get(i).filter(|_| said.concepts.len() == concepts.len());
            let learnt = by_name.or(in_order);
            let learnt = learnt
                .ok_or_else(|| self.bad(&format!("it has not learnt `{name}`: {said}"), hint))?;
            if learnt.category != *category {
                let what = format!(
                    "it was trained on the category `{}`, and `{name}` is a `{category}`",
                    learnt.category
                );
                return Err(self.bad(&what, hint));
            }
            tokens.push(learnt.token.as_deref());
        }
        Ok(tokens)
    }

    fn bad(&self, what: &str, hint: &str) -> Error {
        Error::input_hint(format!("{}: {what}", self.path.display()), hint)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Learnt;
    use super::*;

    fn known(weights: &[&str], tokens: &[&str], said: Option<Description>) -> Known {
        let all = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let (weights, tokens) = (all(weights), all(tokens));
        Known { path: "x".into(), hash: String::new(), weights, tokens, said }
    }

    fn of(learnt: &[(&str, &str, &str)]) -> Description {
        let learnt = learnt.iter();
        let learnt =
            learnt.map(|(name, category, token)| Learnt::plain(name, category, Some(token)));
        Description { concepts: learnt.collect(), ..Description::default() }
    }

    #[test]
    fn tokens_are_the_concepts_in_order() {
        let two = [("rex", "dog"), ("tom", "cat")];
        let weights = known(&["unet.a.weight"], &["<a>", "<b>"], None);
        assert_eq!(weights.phrases(&two, None).unwrap(), ["<a> dog", "<b> cat"]);
        assert_eq!(weights.phrases(&two, Some(Modifier::None)).unwrap(), ["dog", "cat"]);
        let inversion = known(&[], &["<a>", "<b>"], None);
        assert_eq!(inversion.phrases(&two, None).unwrap(), ["<a>", "<b>"]);
        assert_eq!(inversion.phrases(&two, Some(Modifier::Rare)).unwrap(), ["<a> dog", "<b> cat"]);
        assert_eq!(known(&["unet.a"], &[], None).phrases(&two, None).unwrap(), ["dog", "cat"]);
        let error = weights.phrases(&two[..1], None).unwrap_err();
        assert!(error.to_string().contains("2 tokens (<a>, <b>) for 1 concepts"), "{error}");
    }

    #[test]
    fn a_checkpoint_that_says_whose_its_tokens_are_is_believed() {
        let said = of(&[("tom", "cat", "<new1>"), ("rex", "dog", "<new2>")]);
        let known = known(&["unet.a"], &["<new1>", "<new2>"], Some(said));
        let two = [("rex", "dog"), ("tom", "cat")];
        assert_eq!(known.phrases(&two, None).unwrap(), ["<new2> dog", "<new1> cat"]);
        assert_eq!(known.phrases(&two[..1], None).unwrap(), ["<new2> dog"]);
        let wrong = [("tom", "dog")];
        assert!(known.phrases(&wrong, None).unwrap_err().to_string().contains("category `cat`"));
        let other = [("bello", "dog")];
        assert!(known.phrases(&other, None).unwrap_err().to_string().contains("`bello`"));
    }

    #[test]
    fn a_row_says_how_concepts_are_called_and_nothing_else() {
        let of = |text: &str| modifier_of_row(&toml::from_str(text).unwrap());
        assert_eq!(of("").unwrap(), None);
        assert_eq!(of("modifier_token = 'category'").unwrap(), Some(Modifier::Category));
        assert!(of("steps = 5").unwrap_err().to_string().contains("`steps`"));
        let error = of("modifier_token = 'categry'").unwrap_err();
        assert!(error.hint().unwrap().contains("category"), "{error}");
    }
}
