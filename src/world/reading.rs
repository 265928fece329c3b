//! What a caption says: the grammar, read.

use super::color::ColorWord;
use super::grammar::places;
use super::spec::{Background, Category, PatternKind, Relation, SizeWord, Style};

/// What a caption says of a scene.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading<'a> {
    /// A photo where nothing else is said.
    pub style: Style,
    /// In their order.
    pub objects: Vec<Noun<'a>>,
    /// Where there are two.
    pub relation: Option<Relation>,
    pub background: Option<Background>,
    pub size_word: Option<SizeWord>,
    /// Whether words are left behind the last object that say nothing the grammar knows.
    pub unread: bool,
}

/// What it says of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noun<'a> {
    pub category: Category,
    pub color: Option<ColorWord>,
    pub pattern: Option<PatternKind>,
    pub ink: Option<ColorWord>,
    /// The last word in front of the category that is none of the grammar's: a name, or a modifier
    /// token.
    pub name: Option<&'a str>,
}

/// What is known of an object whose category has not come yet.
#[derive(Default)]
struct Adjectives<'a> {
    colors: Vec<ColorWord>,
    pattern: Option<PatternKind>,
    name: Option<&'a str>,
}

/// Reads a caption. Words that the grammar does not know are taken for names.
pub(super) fn read(caption: &str) -> Reading<'_> {
    let words: Vec<&str> = said(caption).collect();
    let mut found = Reading {
        style: Style::Photo,
        objects: vec![],
        relation: None,
        background: None,
        size_word: None,
        unread: false,
    };
    let mut before = Adjectives::default();
    let mut at = 0;
    while at < words.len() {
        let rest = &words[at..];
        at += match phrase(rest) {
            Some((Phrase::Background(background), length)) => {
                found.background = Some(background);
                length
            }
            Some((Phrase::Style(style), length)) => {
                found.style = style;
                length
            }
            Some((Phrase::Size(size), length)) => {
                found.size_word = Some(size);
                length
            }
            Some((Phrase::Relation(relation), length)) => {
                found.relation = Some(relation);
                length
            }
            None => match (rest, found.objects.last_mut()) {
                (["with", tail @ ..], Some(object)) if on_it(tail).is_some() => {
                    let (ink, pattern) = on_it(tail).expect("matched above");
                    (object.ink, object.pattern) = (ink, Some(pattern));
                    2 + usize::from(ink.is_some())
                }
                (["and", ..], _) if !before.colors.is_empty() => 1,
                (["and" | "with", ..], _) => {
                    found.relation = Some(Relation::NextTo);
                    1
                }
                _ => {
                    if let Some(noun) = before.take(rest[0]) {
                        found.objects.push(noun);
                    }
                    1
                }
            },
        };
    }
    found.unread = before.name.is_some() || before.pattern.is_some() || !before.colors.is_empty();
    found
}

impl<'a> Adjectives<'a> {
    /// Takes in a word; the category completes the object.
    fn take(&mut self, word: &'a str) -> Option<Noun<'a>> {
        if let Some(&category) = Category::ALL.iter().find(|c| c.word() == word) {
            let Adjectives { colors, pattern, name } = std::mem::take(self);
            let mut colors = colors.into_iter();
            return Some(Noun {
                category,
                color: colors.next(),
                ink: colors.next(),
                pattern,
                name,
            });
        }
        if let Some(&color) = ColorWord::ALL.iter().find(|c| c.word() == word) {
            self.colors.push(color);
        } else if let Some(&kind) = PatternKind::ALL.iter().find(|k| k.word() == word) {
            self.pattern = Some(kind);
        } else if !["of", "photo", "painting"].contains(&word) {
            self.name = Some(word);
        }
        None
    }
}

/// The words but for articles, which long captions leave out.
fn said(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace().filter(|word| !["a", "an", "the"].contains(word))
}

/// `pink stripes`, or `stripes`.
fn on_it(words: &[&str]) -> Option<(Option<ColorWord>, PatternKind)> {
    let kind = |word: &&str| PatternKind::ALL.iter().copied().find(|k| k.noun() == *word);
    let color = ColorWord::ALL.iter().copied().find(|c| words.first() == Some(&c.word()));
    match color {
        Some(color) => Some((Some(color), kind(words.get(1)?)?)),
        None => Some((None, kind(words.first()?)?)),
    }
}

enum Phrase {
    Background(Background),
    Style(Style),
    Size(SizeWord),
    Relation(Relation),
}

/// The phrase that `words` begin with, and how many words it has.
fn phrase(words: &[&str]) -> Option<(Phrase, usize)> {
    let starts = |phrase: &str| {
        let length = said(phrase).count();
        let same = said(phrase).zip(words).all(|(a, b)| a == *b);
        (same && length <= words.len()).then_some(length)
    };
    let background = Background::ALL.iter().find_map(|&background| {
        // `in the night sky` begins as no other does, so the order does not matter
        let length = places(background).iter().find_map(|phrase| starts(phrase))?;
        Some((Phrase::Background(background), length))
    });
    let style = || {
        Style::ALL.iter().filter(|&&s| s != Style::Photo).find_map(|&style| {
            let behind = format!("in {} style", style.word());
            let length = starts(&behind).or_else(|| starts(style.word()))?;
            Some((Phrase::Style(style), length))
        })
    };
    let size = || {
        let found = SizeWord::ALL.iter().find_map(|&s| Some((s, starts(s.word())?)));
        found.map(|(size, length)| (Phrase::Size(size), length))
    };
    let relation = || {
        let on_top = starts("on top of").map(|n| (Phrase::Relation(Relation::OnTopOf), n));
        on_top.or_else(|| starts("next to").map(|n| (Phrase::Relation(Relation::NextTo), n)))
    };
    background.or_else(style).or_else(size).or_else(relation)
}
