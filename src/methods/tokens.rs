//! Modifier tokens: where their embeddings start.

use candle_core::{DType, Tensor};

use super::{Modifier, token};
use crate::diffusion::Backbone;
use crate::diffusion::tokenizer::Tokenizer;
use crate::rng::Rng;
use crate::{Error, Result};

/// Entries of vocabularies that mean next to nothing, the first for the first concept. The mini world
/// has them all as words; CLIP's has `ktn` (42170), `pll` (47629), `ucd` (44746) and `oxi` (33731) as
/// pieces, the first two of which the paper names, and `sks` (48136), `mth` (48151) and `bsa` (46619)
/// as words.
const RARE: [&str; 16] = [
    "ktn", "pll", "ucd", "sks", "mth", "bsa", "oxi", "nxj", "zwx", "phw", "qrl", "vdg", "jkm",
    "fyr", "gtu", "rwb",
];

/// The largest number that is looked for in a vocabulary.
const MOST_TAKEN: usize = 1000;

/// The ids of rare entries of the vocabulary, in order: those of [`RARE`] that it has, then its last
/// words, which in a vocabulary ordered by frequency are the rarest.
pub(super) fn rare_ids(tokenizer: &Tokenizer) -> impl Iterator<Item = u32> {
    let named = RARE.iter().filter_map(|word| {
        tokenizer.token_id(word).or_else(|| tokenizer.token_id(&format!("{word}</w>")))
    });
    let named: Vec<u32> = named.collect();
    let last = (0..tokenizer.vocab_size() as u32).rev().filter(|id| {
        let word = tokenizer.token(*id).unwrap_or_default();
        let word = word.strip_suffix("</w>").unwrap_or(&word);
        word.len() > 1 && word.chars().all(|c| c.is_ascii_lowercase())
    });
    let last: Vec<u32> = last.filter(|id| !named.contains(id)).collect();
    named.into_iter().chain(last)
}

/// How many of `<new1>`, `<new2>`, … a vocabulary has before any concept is learnt, by the highest number:
/// new ones are counted on from there.
pub fn taken_tokens(tokenizer: &Tokenizer) -> usize {
    (1..=MOST_TAKEN).rev().find(|&n| tokenizer.token_id(&token(n)).is_some()).unwrap_or(0)
}

/// Where in the vocabulary the token of this number starts; none where its start is drawn.
///
/// # Errors
/// [`Error::Input`] if the vocabulary has no rare words left, or does not know the category.
pub fn start_of_token(
    tokenizer: &Tokenizer,
    modifier: Modifier,
    number: usize,
    category: &str,
) -> Result<Option<u32>> {
    match modifier {
        Modifier::Normal => Ok(None),
        Modifier::Rare | Modifier::Frozen | Modifier::None => {
            let id = rare_ids(tokenizer).nth(number.saturating_sub(1));
            let none = || format!("the vocabulary has no rare word for modifier token {number}");
            id.map(Some).ok_or_else(|| Error::input(none()))
        }
        Modifier::Category => {
            let ids = tokenizer.encode_words(category)?;
            let known = |id: &&u32| Some(**id) != tokenizer.token_id("<unk>");
            let id = ids.last().filter(known).ok_or_else(|| {
                Error::input_hint(
                    format!("the backbone's vocabulary does not know the category `{category}`"),
                    "name a category that it knows, or set `modifier_token = \"rare\"`",
                )
            })?;
            Ok(Some(*id))
        }
    }
}

/// The embedding [vectors, features] that the token of this number starts with, on an untouched vocabulary.
///
/// # Errors
/// As [`start_of_token`].
pub(super) fn initial_row(
    backbone: &Backbone,
    modifier: Modifier,
    number: usize,
    category: &str,
    vectors: usize,
    seed: u64,
) -> Result<Tensor> {
    let text = &backbone.text_encoder;
    let rows = match start_of_token(&backbone.tokenizer, modifier, number, category)? {
        Some(id) => text.token_embedding(id)?.unsqueeze(0)?.repeat((vectors, 1))?,
        None => {
            let table = text.vocabulary().value().to_dtype(DType::F32)?;
            let mean = table.mean_keepdim(0)?;
            let deviation = table.broadcast_sub(&mean)?.sqr()?.mean_keepdim(0)?.sqrt()?;
            let mut rng = Rng::new(seed, &format!("modifier token {number}"));
            let draw = rng.normal((vectors, mean.dims()[1]), table.device())?;
            draw.broadcast_mul(&deviation)?.broadcast_add(&mean)?
        }
    };
    Ok(rows)
}

/// The embedding [vectors, features] that an added token has.
///
/// # Errors
/// [`Error::Input`] if there is no such token.
pub(super) fn rows_of(backbone: &Backbone, token: &str) -> Result<Tensor> {
    let missing = || Error::input(format!("there is no token `{token}`"));
    let first = backbone.tokenizer.token_id(token).ok_or_else(missing)?;
    let ids = first..first + backbone.tokenizer.vectors(first) as u32;
    let rows = ids.map(|id| backbone.text_encoder.token_embedding(id));
    Ok(Tensor::stack(&rows.collect::<Result<Vec<_>>>()?, 0)?)
}

/// Adds tokens with rows [vectors, features] to tokenizer and text encoder.
///
/// # Errors
/// [`Error::Input`] for a token that is there already, or a row of another backbone; nothing has
/// changed then.
pub(super) fn add(backbone: &mut Backbone, tokens: &[(String, Tensor)]) -> Result<()> {
    if tokens.is_empty() {
        return Ok(());
    }
    let text = &backbone.text_encoder;
    let width = text.config().hidden_size;
    let mut tokenizer = backbone.tokenizer.clone();
    let mut place = text.config().vocab_size + text.added_count();
    for (token, rows) in tokens {
        let vectors = match *rows.dims() {
            [vectors, found] if vectors > 0 && found == width => vectors,
            ref shape => {
                return Err(Error::input(format!(
                    "the token `{token}` has an embedding of shape {shape:?}, but a vector of this \
                     backbone has {width} numbers"
                )));
            }
        };
        if tokenizer.token_id(token).is_some() {
            return Err(Error::input_hint(
                format!("the backbone's vocabulary has a token `{token}` of its own"),
                format!(
                    "train on this backbone, where the first free one is {}; or rename the file, where \
                     the token has its name from there",
                    super::token(taken_tokens(&backbone.tokenizer) + 1)
                ),
            ));
        }
        let id = tokenizer.add_token_of(token, vectors)? as usize;
        if id != place {
            return Err(Error::input(format!(
                "the tokenizer gives `{token}` the id {id}, but the text encoder's next is {place}: \
                 they do not belong together"
            )));
        }
        place += vectors;
    }
    let rows: Vec<&Tensor> = tokens.iter().map(|(_, row)| row).collect();
    backbone.text_encoder.add_tokens(&Tensor::cat(&rows, 0)?)?;
    backbone.tokenizer = tokenizer;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world;

    #[test]
    fn tokens_are_counted_on_from_those_that_are_there() {
        let mut tokenizer = Tokenizer::word_level(&world::vocabulary(), 20).unwrap();
        assert_eq!(taken_tokens(&tokenizer), 0);
        tokenizer.add_token("<new1>").unwrap();
        tokenizer.add_token("<new3>").unwrap();
        assert_eq!(taken_tokens(&tokenizer), 3);
    }

    #[test]
    fn a_category_that_the_vocabulary_lacks_is_known_before_a_training() {
        let tokenizer = Tokenizer::word_level(&world::vocabulary(), 20).unwrap();
        let start = |modifier| start_of_token(&tokenizer, modifier, 1, "xylophone");
        assert!(start(Modifier::Category).unwrap_err().to_string().contains("xylophone"));
        assert!(start(Modifier::Rare).unwrap().is_some());
        assert!(start(Modifier::Normal).unwrap().is_none());
    }

    #[test]
    fn rare_words_of_the_world_come_first_and_never_twice() {
        let tokenizer = Tokenizer::word_level(&world::vocabulary(), 20).unwrap();
        let ids: Vec<u32> = rare_ids(&tokenizer).collect();
        let word = |i: usize| tokenizer.token(ids[i]).unwrap();
        assert_eq!([word(0), word(1)], ["ktn", "pll"]);
        assert!((0..16).all(|i| world::RARE_TOKENS.contains(&word(i).as_str())));
        assert!(ids.iter().collect::<std::collections::HashSet<_>>().len() == ids.len());
    }
}
