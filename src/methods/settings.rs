//! The options of a method. A method's defaults are of this type, an experiment changes single keys of
//! them, and what they are written as is hashed into the key of what is trained.
//!
//! An option that is added is not written where it changes nothing (`serde(default,
//! skip_serializing_if)`, as `token_lr` has it), so that what was trained before keeps its key.

use std::fmt;

use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files::MOST_VECTORS;
use crate::error::hint_of_unknown;
use crate::train::{Decay, Trainable};
use crate::{Error, Result};

/// What a training is made of; every value is written out in reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Which parameters train.
    pub train: Trainable,
    /// How many steps.
    pub steps: u64,
    /// The learning rate.
    pub lr: f64,
    /// The learning rate of modifier tokens, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_lr: Option<f64>,
    /// How both rates fall over the training.
    pub decay: Decay,
    /// Images a step, class images included: half of them where there is regularisation.
    pub batch: usize,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// Gradients of a larger norm are scaled down to it; 0 for no clipping.
    pub max_grad_norm: f64,
    /// Which class images there are.
    pub regularization: Regularization,
    /// How many class images a concept has.
    pub class_images: usize,
    /// What the loss of class images is multiplied with.
    pub prior_weight: f64,
    /// Whether target images are shown at random sizes: see [`crate::data::augment`].
    pub augmentation: bool,
    /// The least and the largest of these sizes, as parts of an image's own.
    pub augmentation_sizes: [f64; 2],
    /// Whether images, target and class, are mirrored half of the time.
    pub hflip: bool,
    /// How modifier tokens start, and whether they train.
    pub modifier_token: Modifier,
    /// Whether keys and values of the start-of-text token give no gradient.
    pub detach_start_of_text: bool,
    /// How many vectors a modifier token has: places of a prompt that it stands for.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub vectors: usize,
}

fn one() -> usize {
    1
}

fn is_one(vectors: &usize) -> bool {
    *vectors == 1
}

/// Which images keep a training from forgetting the category (section 3.2 of the paper).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Regularization {
    /// Real images whose captions are like the target's.
    Real,
    /// Samples of the pretrained model from `photo of a {category}`.
    Generated,
    /// None.
    None,
}

/// What stands for a concept in captions, and how its embedding starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Modifier {
    /// `<new1> category`; starts at the embedding of a rare word.
    Rare,
    /// `<new1> category`; starts at a draw from a normal distribution with the mean and deviation of the
    /// vocabulary's embeddings.
    Normal,
    /// `<new1> category`; the embedding of a rare word, which does not train.
    Frozen,
    /// `<new1>`, in the place of the category; starts at the embedding of the category's last word.
    Category,
    /// The category alone, for words that mean nothing else to the model (moongate).
    None,
}

impl Modifier {
    /// The setting that says it.
    pub const KEY: &'static str = "modifier_token";

    /// What the settings of a row say, where its method has no others of ours.
    ///
    /// # Errors
    /// [`Error::Input`] for a value that there is not.
    pub fn in_settings(settings: &toml::Table) -> Result<Option<Self>> {
        let Some(value) = settings.get(Self::KEY) else { return Ok(None) };
        let found = Modifier::deserialize(value.clone().into_deserializer());
        found.map(Some).map_err(|e: toml::de::Error| Error::Input {
            message: format!("the setting `{} = {value}`: {}", Self::KEY, e.message()),
            hint: hint_of_unknown(e.message()),
        })
    }

    /// Whether a token is added.
    pub fn has_token(self) -> bool {
        self != Modifier::None
    }

    /// Whether the token trains.
    pub fn trains(self) -> bool {
        !matches!(self, Modifier::None | Modifier::Frozen)
    }
}

impl fmt::Display for Regularization {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Regularization::Real => "real",
            Regularization::Generated => "generated",
            Regularization::None => "none",
        })
    }
}

impl Settings {
    /// These settings with single keys changed, as an experiment's TOML gives them. Taking the
    /// regularisation away halves the steps, as in the paper, unless steps are given, too.
    ///
    /// # Errors
    /// [`Error::Input`] naming the key that is unknown, with those that come nearest, or whose value
    /// does not fit.
    pub fn with(&self, changes: &toml::Table) -> Result<Settings> {
        let mut all = to_json(self)?;
        for (key, value) in changes {
            all.insert(key.clone(), to_json_value(key, value)?);
            // one by one, so that the error is about this key
            serde_json::from_value::<Settings>(Value::Object(all.clone())).map_err(|e| {
                let (said, hint) = (e.to_string(), hint_of_unknown(&e.to_string()));
                let message = match said.starts_with("unknown field") {
                    true => format!("a method has no setting `{key}`"),
                    false => format!("the setting `{key} = {value}`: {said}"),
                };
                Error::Input { message, hint }
            })?;
        }
        let mut settings: Settings = serde_json::from_value(Value::Object(all))
            .map_err(|e| Error::input(format!("the method's settings: {e}")))?;
        let unregularised = settings.regularization == Regularization::None
            && self.regularization != Regularization::None;
        if unregularised && !changes.contains_key("steps") {
            settings.steps = settings.steps.div_ceil(2);
        }
        settings.check()?;
        Ok(settings)
    }

    /// Whether the values make sense together.
    ///
    /// # Errors
    /// [`Error::Input`] naming the setting.
    pub fn check(&self) -> Result<()> {
        let bad = |key: &str, value: &dyn fmt::Display, wanted: &str| {
            Err(Error::input_hint(format!("the setting `{key} = {value}`"), wanted.to_owned()))
        };
        if !(1..=MOST_STEPS).contains(&self.steps) {
            return bad("steps", &self.steps, &format!("from 1 to {MOST_STEPS} steps"));
        }
        let token_lr = self.token_lr.unwrap_or(self.lr);
        for (key, x) in [
            ("lr", self.lr),
            ("token_lr", token_lr),
            ("weight_decay", self.weight_decay),
            ("max_grad_norm", self.max_grad_norm),
            ("prior_weight", self.prior_weight),
        ] {
            if !(x.is_finite() && x >= 0.0) {
                return bad(key, &x, "a finite number that is not negative");
            }
        }
        let regularised = self.regularization != Regularization::None;
        if !(1 + usize::from(regularised)..=4096).contains(&self.batch) {
            return bad(
                "batch",
                &self.batch,
                "from 1 to 4096 images; with regularisation at least one target and one class image",
            );
        }
        if !(1..=MOST_VECTORS).contains(&self.vectors) {
            return bad("vectors", &self.vectors, &format!("from 1 to {MOST_VECTORS}"));
        }
        let [least, most] = self.augmentation_sizes;
        if !(least > 0.0 && least <= 1.0 && (1.0..=4.0).contains(&most)) {
            return bad(
                "augmentation_sizes",
                &format!("[{least}, {most}]"),
                "the least above 0 and at most 1, the largest from 1 to 4; the paper's are [0.4, 1.4]",
            );
        }
        if regularised && !(1..=MOST_CLASS_IMAGES).contains(&self.class_images) {
            return bad(
                "class_images",
                &self.class_images,
                &format!("from 1 to {MOST_CLASS_IMAGES}, or `regularization = \"none\"`"),
            );
        }
        Ok(())
    }

    /// How many images of a batch are class images.
    pub fn class_batch(&self) -> usize {
        if self.regularization == Regularization::None { 0 } else { self.batch / 2 }
    }
}

/// More training steps are taken for a mistake.
const MOST_STEPS: u64 = 10_000_000;
/// More class images of a concept are taken for a mistake.
const MOST_CLASS_IMAGES: usize = 100_000;

fn to_json(settings: &Settings) -> Result<serde_json::Map<String, Value>> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(Error::input("settings with a number that is not finite")),
    }
}

/// JSON has no numbers that are not finite: they would be taken for a value that is not given.
fn to_json_value(key: &str, value: &toml::Value) -> Result<Value> {
    fn finite(value: &toml::Value) -> bool {
        match value {
            toml::Value::Float(x) => x.is_finite(),
            toml::Value::Array(all) => all.iter().all(finite),
            _ => true,
        }
    }
    if !finite(value) {
        return Err(Error::input(format!("the setting `{key} = {value}` is not finite")));
    }
    serde_json::to_value(value)
        .map_err(|e| Error::input(format!("the setting `{key} = {value}`: {e}")))
}

#[cfg(test)]
mod tests {
    use super::super::{Profile, find};
    use super::*;

    fn defaults() -> Settings {
        find("custom-diffusion").unwrap().defaults(Profile::Sd, 1)
    }

    fn with(text: &str) -> Result<Settings> {
        defaults().with(&toml::from_str(text).unwrap())
    }

    #[test]
    fn single_keys_change() {
        let settings =
            with("lr = 1\naugmentation = false\ntrain = ['kv']\ntoken_lr = 0.5").unwrap();
        let wanted = Settings {
            lr: 1.0,
            token_lr: Some(0.5),
            augmentation: false,
            train: "kv".parse().unwrap(),
            ..defaults()
        };
        assert_eq!(settings, wanted);
        assert_eq!(with("").unwrap(), defaults());
    }

    #[test]
    fn without_regularisation_half_the_steps() {
        assert_eq!(with("regularization = 'none'").unwrap().steps, defaults().steps / 2);
        assert_eq!(with("regularization = 'none'\nsteps = 9").unwrap().steps, 9);
        assert_eq!(with("regularization = 'generated'").unwrap().steps, defaults().steps);
        let inversion = find("textual-inversion").unwrap().defaults(Profile::Sd, 1);
        let same = inversion.with(&toml::from_str("regularization = 'none'").unwrap()).unwrap();
        assert_eq!(same, inversion, "had none before");
    }

    #[test]
    fn errors_name_the_key() {
        let error = with("regularisation = 'none'").unwrap_err();
        assert!(error.to_string().contains("regularisation"), "{error}");
        assert!(error.hint().unwrap().contains("regularization"));
        for (text, key) in [
            ("batch = 'many'", "batch"),
            ("modifier_token = 'rarest'", "rarest"),
            ("steps = 0", "steps"),
            ("batch = 1", "batch"),
            ("lr = -1.0", "lr"),
            ("train = 'kv,'", "train"),
            ("augmentation_sizes = [0.0, 1.4]", "augmentation_sizes"),
            ("augmentation_sizes = [0.4, 0.9]", "augmentation_sizes"),
            ("augmentation_sizes = [0.4]", "augmentation_sizes"),
            ("lr = nan", "lr"),
            ("lr = inf", "lr"),
            ("token_lr = nan", "token_lr"),
            ("token_lr = -1.0", "token_lr"),
            ("weight_decay = inf", "weight_decay"),
            ("max_grad_norm = nan", "max_grad_norm"),
            ("prior_weight = -inf", "prior_weight"),
            ("augmentation_sizes = [nan, 1.4]", "augmentation_sizes"),
            ("steps = 1000000000000", "steps"),
            ("class_images = 1000000000", "class_images"),
            ("vectors = 0", "vectors"),
            ("vectors = 1000", "vectors"),
        ] {
            let error = with(text).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn an_option_that_changes_nothing_is_not_written_and_still_known() {
        let text = serde_json::to_string(&defaults()).unwrap();
        assert!(!text.contains("token_lr") && !text.contains("vectors"), "{text}");
        assert_eq!(with("token_lr = 0.5").unwrap().token_lr, Some(0.5));
        let error = with("token_lrr = 0.5").unwrap_err();
        assert_eq!(error.hint(), Some("did you mean token_lr?"), "{error}");
        let error = with("regularization = 'reel'").unwrap_err();
        assert!(error.to_string().contains("regularization"), "{error}");
        assert_eq!(error.hint(), Some("did you mean real?"), "{error}");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = serde_json::to_string(&defaults()).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), defaults());
        let more = text.replacen('{', "{\"nonsense\":1,", 1);
        assert!(serde_json::from_str::<Settings>(&more).is_err());
    }
}
