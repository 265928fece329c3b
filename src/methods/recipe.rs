//! What a checkpoint is, as a pure description: methods write recipes, whoever has a backbone and
//! images follows them, and a recipe's JSON is part of the key that its result is stored under.

use serde::{Deserialize, Serialize};

use super::{Compression, External, Known, MergeSettings, Modifier, Settings};

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
    /// What a training has after some of its steps.
    State {
        /// The training, whole.
        of: Box<Recipe>,
        /// How many of its steps.
        step: u64,
    },
    /// What programs of others make of the concepts.
    External {
        /// The concepts, by name.
        concepts: Vec<String>,
        /// The programs.
        external: Box<External>,
        /// What they are told to be random by.
        seed: u64,
        /// The number of each concept's modifier token.
        tokens: Vec<usize>,
    },
    /// A checkpoint with less to store (section 4.3 of the paper's appendix, Figs. 14 and 21).
    Compressed {
        /// Which.
        of: Box<Recipe>,
        /// What is left of it.
        to: Compression,
    },
    /// A checkpoint that is there already.
    File {
        /// Which.
        file: Known,
        /// The concepts that it is of, by name.
        concepts: Vec<String>,
        /// What stands for each of them in prompts.
        phrases: Vec<String>,
    },
}

impl Recipe {
    /// The same with modifier tokens counted on from `taken`: of a backbone whose vocabulary
    /// [has](super::taken_tokens) so many already.
    pub fn after(self, taken: usize) -> Recipe {
        match self {
            // the tokens of a file have the names that they have
            Recipe::Pretrained | Recipe::File { .. } => self,
            Recipe::Train { from, concepts, settings, seed, tokens } => {
                let from = Box::new(from.after(taken));
                let tokens = tokens.into_iter().map(|number| number + taken).collect();
                Recipe::Train { from, concepts, settings, seed, tokens }
            }
            Recipe::External { concepts, external, seed, tokens } => {
                let tokens = tokens.into_iter().map(|number| number + taken).collect();
                Recipe::External { concepts, external, seed, tokens }
            }
            Recipe::Merge { parts, settings } => {
                let parts = parts.into_iter().map(|part| part.after(taken)).collect();
                Recipe::Merge { parts, settings }
            }
            Recipe::State { of, step } => Recipe::State { of: Box::new(of.after(taken)), step },
            Recipe::Compressed { of, to } => {
                Recipe::Compressed { of: Box::new(of.after(taken)), to }
            }
        }
    }

    /// The same after `step` steps of each of its trainings, as long as these all start from the
    /// backbone: one training then serves any number of states. A training that goes on from another
    /// (sequential training) is another training for each of the other's states; it and what it goes on
    /// from take `step` steps.
    pub fn at(self, step: u64) -> Recipe {
        match self {
            // programs and files of others have no states
            Recipe::Pretrained | Recipe::External { .. } | Recipe::File { .. } => self,
            Recipe::Train { ref from, ref settings, .. } if **from == Recipe::Pretrained => {
                match step < settings.steps {
                    true => Recipe::State { of: Box::new(self), step },
                    false => self,
                }
            }
            Recipe::Train { from, concepts, settings, seed, tokens } => {
                let settings = Settings { steps: step, ..settings };
                let from = Box::new(from.shortened(step));
                Recipe::Train { from, concepts, settings, seed, tokens }
            }
            Recipe::Merge { parts, settings } => {
                Recipe::Merge { parts: parts.into_iter().map(|p| p.at(step)).collect(), settings }
            }
            Recipe::State { of, .. } => of.at(step),
            Recipe::Compressed { of, to } => Recipe::Compressed { of: Box::new(of.at(step)), to },
        }
    }

    /// With every training of so many steps in all.
    fn shortened(self, steps: u64) -> Recipe {
        match self {
            Recipe::Train { from, concepts, settings, seed, tokens } => {
                let settings = Settings { steps, ..settings };
                let from = Box::new(from.shortened(steps));
                Recipe::Train { from, concepts, settings, seed, tokens }
            }
            other => other.at(steps),
        }
    }

    /// Training steps, over all that is trained for it.
    pub fn steps(&self) -> u64 {
        match self {
            Recipe::Pretrained | Recipe::File { .. } => 0,
            Recipe::Train { from, settings, .. } => from.steps() + settings.steps,
            Recipe::External { external, .. } => external.steps,
            Recipe::Merge { parts, .. } => parts.iter().map(Recipe::steps).sum(),
            Recipe::State { step, .. } => *step,
            Recipe::Compressed { of, .. } => of.steps(),
        }
    }

    /// Whether anything changes but the embeddings of modifier tokens.
    pub fn moves_weights(&self) -> bool {
        match self {
            Recipe::Pretrained => false,
            Recipe::Train { from, settings, .. } => {
                from.moves_weights() || settings.train.to_string() != "tokens"
            }
            Recipe::Merge { .. } | Recipe::External { .. } => true,
            Recipe::File { file, .. } => !file.weights.is_empty(),
            Recipe::State { of, .. } | Recipe::Compressed { of, .. } => of.moves_weights(),
        }
    }

    /// The names of the concepts that are learnt, in order of their tokens.
    pub fn concepts(&self) -> Vec<&str> {
        match self {
            Recipe::Pretrained => vec![],
            Recipe::Train { from, concepts, .. } => {
                let mut all = from.concepts();
                all.extend(concepts.iter().map(String::as_str));
                all
            }
            Recipe::External { concepts, .. } => concepts.iter().map(String::as_str).collect(),
            Recipe::Merge { parts, .. } => parts.iter().flat_map(Recipe::concepts).collect(),
            Recipe::File { concepts, .. } => concepts.iter().map(String::as_str).collect(),
            Recipe::State { of, .. } | Recipe::Compressed { of, .. } => of.concepts(),
        }
    }

    /// How each of [`Recipe::concepts`] is called: the kind and the number of its token. None of a file's,
    /// whose tokens have names of their own.
    pub fn modifiers(&self) -> Vec<(Modifier, usize)> {
        match self {
            Recipe::Pretrained | Recipe::File { .. } => vec![],
            Recipe::Train { from, settings, tokens, .. } => {
                let mut all = from.modifiers();
                all.extend(tokens.iter().map(|&number| (settings.modifier_token, number)));
                all
            }
            Recipe::External { external, tokens, .. } => {
                tokens.iter().map(|&number| (external.modifier, number)).collect()
            }
            Recipe::Merge { parts, .. } => {
                let parts: Vec<_> = parts.iter().flat_map(Recipe::modifiers).collect();
                let first = parts.iter().map(|(_, number)| *number).min().unwrap_or(1);
                parts.into_iter().zip(first..).map(|((modifier, _), n)| (modifier, n)).collect()
            }
            Recipe::State { of, .. } | Recipe::Compressed { of, .. } => of.modifiers(),
        }
    }

    /// What stands for concepts of these categories in prompts, in order. What is not learnt is called
    /// by its category.
    pub fn phrases<S: AsRef<str>>(&self, categories: &[S]) -> Vec<String> {
        if let Some(phrases) = self.own_phrases() {
            return phrases.to_vec();
        }
        let modifiers = self.modifiers().into_iter().chain(std::iter::repeat((Modifier::None, 0)));
        let phrases = categories.iter().zip(modifiers);
        phrases.map(|(category, (kind, n))| phrase(kind, n, category.as_ref())).collect()
    }

    /// What a file's concepts are called.
    fn own_phrases(&self) -> Option<&[String]> {
        match self {
            Recipe::File { phrases, .. } => Some(phrases),
            Recipe::State { of, .. } | Recipe::Compressed { of, .. } => of.own_phrases(),
            _ => None,
        }
    }
}

/// The modifier token of this number.
pub fn token(number: usize) -> String {
    format!("<new{number}>")
}

/// What stands for a concept in a prompt.
pub fn phrase(modifier: Modifier, number: usize, category: &str) -> String {
    phrase_with(modifier, &token(number), category)
}

/// The same with a token of any name.
pub(super) fn phrase_with(modifier: Modifier, token: &str, category: &str) -> String {
    match modifier {
        Modifier::None => category.to_owned(),
        Modifier::Category => token.to_owned(),
        Modifier::Rare | Modifier::Normal | Modifier::Frozen => format!("{token} {category}"),
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
    fn states_are_of_one_training() {
        let whole = recipe("custom-diffusion", &["a"]);
        let Recipe::State { of, step: 50 } = whole.clone().at(50) else { panic!() };
        assert_eq!(*of, whole);
        assert_eq!(whole.clone().at(whole.steps()), whole, "the last state is the training");
        assert_eq!(whole.clone().at(50).phrases(&["cat"]), ["<new1> cat"]);
        let Recipe::Merge { parts, .. } = recipe("merge", &["a", "b"]).at(50) else { panic!() };
        assert!(parts.iter().all(|p| matches!(p, Recipe::State { step: 50, .. })));
        let sequential = recipe("sequential", &["a", "b"]).at(50);
        assert!(matches!(sequential, Recipe::Train { .. }) && sequential.steps() == 100);
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
