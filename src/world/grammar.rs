//! Captions: a small grammar over a closed list of words.

use super::color::ColorWord;
use super::names::names;
use super::spec::{
    Background, Category, ObjectSpec, PatternKind, Relation, SceneSpec, SizeWord, Style,
};
use crate::rng::Rng;

/// No caption has more words.
pub const MAX_WORDS: usize = 20;

/// Words that hold captions together; the others are those of the enums and the names.
const FUNCTION_WORDS: [&str; 19] = [
    "photo", "of", "a", "an", "the", "in", "on", "at", "next", "to", "top", "and", "with", "style",
    "painting", "small", "far", "close", "zoomed",
];

/// Every word that a caption can have, the names last and of these the rarest; the same order in every
/// run.
pub fn vocabulary() -> Vec<&'static str> {
    let phrases = Category::ALL.iter().map(|c| c.word());
    let phrases = phrases
        .chain(ColorWord::ALL.iter().map(|c| c.word()))
        .chain(PatternKind::ALL.iter().map(|p| p.word()))
        .chain(Background::ALL.iter().flat_map(|&b| places(b).iter().copied()))
        .chain(Style::ALL.iter().map(|s| s.word()))
        .chain(SizeWord::ALL.iter().map(|s| s.word()))
        .chain(PatternKind::ALL.iter().map(|p| p.noun()))
        .chain(names().iter().map(|name| name.word.as_str()));
    let mut words = FUNCTION_WORDS.to_vec();
    for word in phrases.flat_map(str::split_whitespace) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

/// The phrases that put something into a background.
pub(super) fn places(background: Background) -> &'static [&'static str] {
    match background {
        Background::Beach => &["on the beach", "at the beach"],
        Background::Snow => &["in the snow"],
        Background::Forest => &["in the forest"],
        Background::City => &["in the city"],
        Background::Desert => &["in the desert"],
        Background::Night => &["at night", "in the night sky"],
        Background::Room => &["in the room", "in a room"],
        Background::Underwater => &["underwater"],
    }
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.below(of.len())]
}

/// A caption of `spec`: says what the specification's flags let it say, in words drawn from `rng`.
pub(super) fn caption(spec: &SceneSpec, rng: &mut Rng) -> String {
    let mut words: Vec<&str> = Vec::new();
    let say = |words: &mut Vec<&'static str>, phrase: &'static str| {
        words.extend(phrase.split_whitespace());
    };

    // the style in front, behind, or (a photo) not at all
    let front = match spec.style {
        Style::Photo if rng.chance(0.6) => Some("photo of"),
        Style::Photo => None,
        _ if rng.chance(0.35) => None,
        Style::Watercolor => Some(pick(rng, &["watercolor painting of", "watercolor of"])),
        Style::PencilSketch => Some("pencil sketch of"),
        Style::PixelArt => Some("pixel art of"),
    };
    let behind = match spec.style {
        Style::Photo => None,
        _ if front.is_some() => None,
        Style::Watercolor => Some("in watercolor style"),
        Style::PencilSketch => Some("in pencil sketch style"),
        Style::PixelArt => Some("in pixel art style"),
    };
    // the paper puts size words in front of the whole caption; people put them anywhere
    let size = spec.size_word.map(SizeWord::word);
    let size_at = if front.is_some() { rng.below(3) } else { 1 + rng.below(2) };
    let size_if = |place: usize| size.filter(|_| size_at == place);
    if let Some(front) = front {
        if rng.chance(0.3) {
            words.push("a");
        }
        say(&mut words, size_if(0).unwrap_or_default());
        say(&mut words, front);
    }
    for (i, object) in spec.objects.iter().enumerate() {
        if i > 0 {
            let phrase = match spec.relation {
                Some(Relation::OnTopOf) => "on top of",
                _ => pick(rng, &["next to", "next to", "next to", "and", "with"]),
            };
            say(&mut words, phrase);
        }
        let has_color = spec.style != Style::PencilSketch;
        let noun = noun(object, size_if(1), has_color, rng);
        let article = i > 0 || rng.chance(0.75);
        words.extend(&noun[usize::from(!article)..]);
    }
    if spec.background_named {
        say(&mut words, pick(rng, places(spec.background)));
    }
    say(&mut words, behind.unwrap_or_default());
    say(&mut words, size_if(2).unwrap_or_default());
    shorten(&mut words);
    words.join(" ")
}

/// Article, adjectives, name, category, and what it has on it: of a pattern with its colour,
/// `a striped green and pink cat`, `a green and pink striped cat` or `a green cat with pink stripes`.
fn noun(
    object: &ObjectSpec,
    size: Option<&'static str>,
    has_color: bool,
    rng: &mut Rng,
) -> Vec<&'static str> {
    let said = object.said;
    let color = object.color_word().filter(|_| said.color && has_color).map(ColorWord::word);
    let ink = object.ink_word().filter(|_| said.ink && has_color).map(ColorWord::word);
    let kind = object.pattern.filter(|_| said.pattern).map(|pattern| pattern.kind);
    // a pattern's colour without the body's in front of the category would be taken for the body's
    let behind = kind.is_some() && (rng.chance(0.35) || (ink.is_some() && color.is_none()));
    let kind_first = rng.chance(0.6);

    let mut words: Vec<&str> = size.unwrap_or_default().split_whitespace().collect();
    let adjective = kind.filter(|_| !behind).map(PatternKind::word);
    words.extend(adjective.filter(|_| kind_first));
    words.extend(color);
    if let (Some(ink), Some(_), false) = (ink, color, behind) {
        words.extend(["and", ink]);
    }
    words.extend(adjective.filter(|_| !kind_first));
    words.extend(object.name.map(|name| names()[name].word.as_str()));
    words.push(object.category.word());
    if let Some(kind) = kind.filter(|_| behind) {
        words.push("with");
        words.extend(ink);
        words.push(kind.noun());
    }
    let vowel = words[0].starts_with(['a', 'e', 'i', 'o', 'u']);
    let article = match rng.chance(0.1) {
        true => "the",
        false if vowel => "an",
        false => "a",
    };
    words.insert(0, article);
    words
}

/// Drops articles from the left until the caption fits.
fn shorten(words: &mut Vec<&str>) {
    while words.len() > MAX_WORDS {
        match words.iter().position(|w| ["a", "an", "the"].contains(w)) {
            Some(i) => drop(words.remove(i)),
            None => words.truncate(MAX_WORDS),
        }
    }
}
