//! Words that mean a look: colours, pattern, its scale and slant, on whatever category follows.
//!
//! Stable Diffusion's vocabulary has thousands of rare words that mean something particular, which is
//! why a new word can be learnt and why the paper starts V* from a rare one (section 3.2). These words
//! give the mini backbone the same habit: a word it does not know, in front of a category, is an
//! appearance.

use std::sync::OnceLock;

use super::color::{ColorWord, Hsv};
use super::sample::random_pattern;
use super::spec::Pattern;
use crate::rng::Rng;

/// A word and the look that it means.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// Lower case, of no other meaning.
    pub word: String,
    /// Colour of the body.
    pub color: Hsv,
    /// The pattern on it; some looks have none.
    pub pattern: Option<Pattern>,
}

/// The rarest names, which modifier tokens (V*) start from.
pub const RARE_TOKENS: [&str; 16] = [
    "sks", "ktn", "pll", "ucd", "mth", "nxj", "zwx", "bsa", "phw", "qrl", "vdg", "oxi", "jkm",
    "fyr", "gtu", "rwb",
];

/// Names that are not [`RARE_TOKENS`].
const COMMON: usize = 224;
/// How much oftener than one of [`RARE_TOKENS`] another name is used.
const OFTENER: usize = 10;
/// Share of the looks that have a pattern.
const PATTERNED: f32 = 0.85;

/// All names, the rare ones last.
pub fn names() -> &'static [Name] {
    static NAMES: OnceLock<Vec<Name>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let mut rng = Rng::new(0, "names");
        let mut words: Vec<String> = vec![];
        while words.len() < COMMON {
            let word: String = (0..2).flat_map(|_| syllable(&mut rng)).collect();
            if !words.contains(&word) {
                words.push(word);
            }
        }
        words.extend(RARE_TOKENS.map(String::from));
        words.into_iter().map(|word| look(word, &mut rng)).collect()
    })
}

fn syllable(rng: &mut Rng) -> [char; 2] {
    let mut pick = |of: &str| of.as_bytes()[rng.below(of.len())] as char;
    [pick("bdfgjklmnprstvwz"), pick("aeiou")]
}

fn look(word: String, rng: &mut Rng) -> Name {
    let color = match rng.chance(0.2) {
        true => ColorWord::ALL[rng.below(ColorWord::ALL.len())].sample(rng),
        false => Hsv::any_hue(rng),
    };
    let pattern = rng.chance(PATTERNED).then(|| random_pattern(color.rgb(), rng));
    Name { word, color, pattern }
}

/// The place of a name, as often as names are used.
pub(super) fn draw(rng: &mut Rng) -> usize {
    let i = rng.below(COMMON * OFTENER + RARE_TOKENS.len());
    if i < COMMON * OFTENER { i / OFTENER } else { COMMON + i - COMMON * OFTENER }
}
