//! What a checkpoint is, as a pure description: methods write recipes, whoever has a backbone and
//! images follows them, and a recipe's JSON is part of the key that its result is stored under.

use serde::{Deserialize, Serialize};

use super::{MergeSettings, Modifier, Settings};

/// How a checkpoint comes about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Recipe {
    /// The backbone as it is.
    Pretrained,
    /// A training.
    Train {
        /// What it starts from.
        from: Box<Recipe>,
        /// The concepts that it learns, by name.
        concepts: Vec<String>,
        /// Everything else about it.
        settings: Settings,
        /// Decides all that is random.
        seed: u64,
        /// The number of each concept's modifier token: 1 for `<new1>`.
        tokens: Vec<usize>,
    },
    /// Checkpoints of single concepts, put together (section 3.3 of the paper). Parts may have the same
    /// modifier token: they are numbered again, in order.
    Merge {
        /// One for each concept.
        parts: Vec<Recipe>,
        /// How.
        settings: MergeSettings,
    },
}

impl Recipe {
    /// The names of the concepts that are learnt, in order of their tokens.
    pub fn concepts(&self) -> Vec<&str> {
        match self {
            Recipe::Pretrained => vec![],
            Recipe::Train { from, concepts, .. } => {
                let mut all = from.concepts();
                all.extend(concepts.iter().map(String::as_str));
                all
            }
            Recipe::Merge { parts, .. } => parts.iter().flat_map(Recipe::concepts).collect(),
        }
    }

    /// How each of [`Recipe::concepts`] is called: the kind and the number of its token.
    pub fn modifiers(&self) -> Vec<(Modifier, usize)> {
        match self {
            Recipe::Pretrained => vec![],
            Recipe::Train { from, settings, tokens, .. } => {
                let mut all = from.modifiers();
                all.extend(tokens.iter().map(|&number| (settings.modifier_token, number)));
                all
            }
            Recipe::Merge { parts, .. } => {
                let parts: Vec<_> = parts.iter().flat_map(Recipe::modifiers).collect();
                let first = parts.first().map_or(1, |(_, number)| *number);
                parts.into_iter().zip(first..).map(|((modifier, _), n)| (modifier, n)).collect()
            }
        }
    }

    /// The same for a backbone whose vocabulary [has](super::taken_tokens) so many modifier tokens already:
    /// all numbers of tokens are larger by that.
    pub fn after(mut self, taken: usize) -> Recipe {
        match &mut self {
            Recipe::Pretrained => {}
            Recipe::Train { from, tokens, .. } => {
                **from = std::mem::replace(&mut **from, Recipe::Pretrained).after(taken);
                tokens.iter_mut().for_each(|number| *number += taken);
            }
            Recipe::Merge { parts, .. } => {
                let all = std::mem::take(parts).into_iter();
                *parts = all.map(|part| part.after(taken)).collect();
            }
        }
        self
    }

    /// What stands for concepts of these categories in prompts, in order. What is not learnt is called
    /// by its category.
    pub fn phrases<S: AsRef<str>>(&self, categories: &[S]) -> Vec<String> {
        let modifiers = self.modifiers().into_iter().chain(std::iter::repeat((Modifier::None, 0)));
        let phrases = categories.iter().zip(modifiers);
        phrases.map(|(category, (kind, n))| phrase(kind, n, category.as_ref())).collect()
    }
}

/// The modifier token of this number.
pub fn token(number: usize) -> String {
    format!("<new{number}>")
}

/// What stands for a concept in a prompt.
pub fn phrase(modifier: Modifier, number: usize, category: &str) -> String {
    match modifier {
        Modifier::None => category.to_owned(),
        Modifier::Category => token(number),
        Modifier::Rare | Modifier::Normal | Modifier::Frozen => {
            format!("{} {category}", token(number))
        }
    }
}

/// The caption of a target image.
pub fn instance_prompt(phrase: &str) -> String {
    format!("photo of a {phrase}")
}

/// What generated class images show.
pub fn class_prompt(category: &str) -> String {
    format!("photo of a {category}")
}

#[cfg(test)]
mod tests {
    use super::super::{Profile, find};
    use super::*;

    fn recipe(method: &str, concepts: &[&str]) -> Recipe {
        let method = find(method).unwrap();
        let concepts: Vec<String> = concepts.iter().map(|c| c.to_string()).collect();
        let settings = method.defaults(Profile::Mini, concepts.len());
        method.recipe(&concepts, &settings, 7)
    }

    #[test]
    fn phrases_of_the_methods() {
        let two = ["cat", "wooden pot"];
        for (method, wanted) in [
            ("pretrained", ["cat", "wooden pot"]),
            ("textual-inversion", ["<new1>", "<new2>"]),
            ("dreambooth", ["<new1> cat", "<new2> wooden pot"]),
            ("custom-diffusion", ["<new1> cat", "<new2> wooden pot"]),
            ("sequential", ["<new1> cat", "<new2> wooden pot"]),
            ("merge", ["<new1> cat", "<new2> wooden pot"]),
        ] {
            let recipe = recipe(method, &["tabby", "pot"]);
            assert_eq!(recipe.phrases(&two), wanted, "{method}");
            if method != "pretrained" {
                assert_eq!(recipe.concepts(), ["tabby", "pot"], "{method}");
            }
        }
        assert_eq!(phrase(Modifier::None, 1, "moongate"), "moongate");
    }

    #[test]
    fn tokens_come_after_those_that_are_taken() {
        for method in ["custom-diffusion", "sequential", "merge"] {
            let recipe = recipe(method, &["tabby", "pot"]);
            assert_eq!(recipe.clone().after(0), recipe);
            let phrases = recipe.after(2).phrases(&["cat", "pot"]);
            assert_eq!(phrases, ["<new3> cat", "<new4> pot"], "{method}");
        }
    }

    #[test]
    fn parts_are_the_trainings_of_single_concepts() {
        let single = |concept| recipe("custom-diffusion", &[concept]);
        let Recipe::Merge { parts, .. } = recipe("merge", &["a", "b", "c"]) else { panic!() };
        assert_eq!(parts, [single("a"), single("b"), single("c")]);
        let Recipe::Train { from, tokens, .. } = recipe("sequential", &["a", "b"]) else {
            panic!()
        };
        assert_eq!((*from, tokens), (single("a"), vec![2]));
    }

    #[test]
    fn the_description_is_read_again() {
        for method in ["merge", "sequential", "pretrained"] {
            let recipe = recipe(method, &["a", "b"]);
            let text = serde_json::to_string(&recipe).unwrap();
            assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
        }
    }
}
