//! The distribution of scenes: what pretraining sees.

use serde::{Deserialize, Serialize};

use super::color::{ColorWord, Hsv, distance};
use super::concepts::is_reserved;
use super::spec::{
    Background, Category, ObjectSpec, Pattern, PatternKind, Relation, Said, SceneSpec, SizeWord,
    Style,
};
use super::sprite::Art;
use super::{SIZE, backdrop, grammar, names};
use crate::rng::Rng;
use crate::{Error, Result};

/// Shares and sizes of the scenes. Every key has a default; an unknown key is an error. Call
/// [`WorldConfig::check`] on what a user wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldConfig {
    /// Categories to draw from.
    pub categories: Vec<Category>,
    /// Backgrounds to draw from.
    pub backgrounds: Vec<Background>,
    /// Share of scenes that are watercolors.
    pub watercolor: f32,
    /// Share of scenes that are pencil sketches.
    pub pencil_sketch: f32,
    /// Share of scenes that are pixel art. What the three leave are photos.
    pub pixel_art: f32,
    /// Share of scenes with two objects.
    pub two_objects: f32,
    /// Share of the scenes with two objects where one is on top of the other.
    pub on_top: f32,
    /// Share of scenes with one object where it is very small or very large, and the caption says so.
    pub size_words: f32,
    /// Least and largest longer side of a single object, in pixels.
    pub size: [f32; 2],
    /// Least and largest longer side of each of two objects, in pixels.
    pub pair_size: [f32; 2],
    /// Share of objects whose body is recoloured.
    pub recolored: f32,
    /// Share of objects with stripes or dots.
    pub patterned: f32,
    /// Share of objects whose look has a name, which is all that the caption says of it.
    pub names: f32,
    /// Share of recoloured or patterned objects of whose look the caption says nothing: so a bare
    /// category word covers a spread of instances, most of them natural.
    pub unnamed: f32,
    /// Share of scenes whose caption does not name the background.
    pub background_unnamed: f32,
}

impl Default for WorldConfig {
    fn default() -> Self {
        WorldConfig {
            categories: Category::ALL.to_vec(),
            backgrounds: Background::ALL.to_vec(),
            watercolor: 0.1,
            pencil_sketch: 0.08,
            pixel_art: 0.1,
            two_objects: 0.35,
            on_top: 0.4,
            size_words: 0.15,
            size: [32.0, 50.0],
            pair_size: [27.0, 32.0],
            recolored: 0.6,
            patterned: 0.5,
            names: 0.12,
            unnamed: 0.12,
            background_unnamed: 0.1,
        }
    }
}

impl WorldConfig {
    /// Says which value cannot be used, and what could.
    pub fn check(&self) -> Result<()> {
        let shares = [
            ("watercolor", self.watercolor),
            ("pencil_sketch", self.pencil_sketch),
            ("pixel_art", self.pixel_art),
            ("all styles but photo", self.watercolor + self.pencil_sketch + self.pixel_art),
            ("two_objects", self.two_objects),
            ("on_top", self.on_top),
            ("size_words", self.size_words),
            ("recolored", self.recolored),
            ("patterned", self.patterned),
            ("names", self.names),
            ("unnamed", self.unnamed),
            ("background_unnamed", self.background_unnamed),
        ];
        for (key, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                let message = format!("world: {key} is {value}, a share must lie in 0..=1");
                return Err(Error::input(message));
            }
        }
        for (key, [low, high], most) in
            [("size", self.size, SIZES.1), ("pair_size", self.pair_size, 32.0)]
        {
            if !(SIZES.0 <= low && low <= high && high <= most) {
                return Err(Error::input_hint(
                    format!("world: {key} is [{low}, {high}]"),
                    format!("write [least, largest], both in {}..={most} pixels", SIZES.0),
                ));
            }
        }
        if self.categories.is_empty() || self.backgrounds.is_empty() {
            return Err(Error::input_hint(
                "world: categories and backgrounds need at least one entry each",
                "leave the key out to have all of them",
            ));
        }
        Ok(())
    }
}

/// The sizes that a configuration may ask for without a size word, in pixels.
const SIZES: (f32, f32) = (20.0, 56.0);
/// Sizes of what is very small or far away, in pixels.
const SMALL: (f32, f32) = (13.0, 19.0);
/// Sizes of what is seen close up or zoomed in, in pixels.
const LARGE: (f32, f32) = (60.0, 84.0);
/// Most tilt of an object, in turns.
const TILT: f32 = 0.04;

fn pick<T: Copy>(rng: &mut Rng, of: &[T], otherwise: &[T]) -> T {
    let of = if of.is_empty() { otherwise } else { of };
    of[rng.below(of.len())]
}

/// A scene's specification and its caption.
pub(super) fn sample(config: &WorldConfig, rng: &mut Rng) -> (SceneSpec, String) {
    sample_with(config, None, rng)
}

/// Two specifications that show the same instance of `category`: a photo of it alone, as targets are,
/// and any scene of the distribution with it as one of the objects.
pub(super) fn two_views(
    config: &WorldConfig,
    category: Category,
    rng: &mut Rng,
) -> [(SceneSpec, String); 2] {
    let object = instance(config, category, rng);
    let alone = WorldConfig {
        two_objects: 0.0,
        size_words: 0.0,
        watercolor: 0.0,
        pencil_sketch: 0.0,
        pixel_art: 0.0,
        ..config.clone()
    };
    [&alone, config].map(|config| sample_with(config, Some(object), rng))
}

/// A scene with this object as the first, or as the second of two, or with new ones alone.
fn sample_with(
    config: &WorldConfig,
    object: Option<ObjectSpec>,
    rng: &mut Rng,
) -> (SceneSpec, String) {
    let t = rng.uniform(0.0, 1.0);
    let (w, p) = (config.watercolor, config.watercolor + config.pencil_sketch);
    let style = match t {
        t if t < w => Style::Watercolor,
        t if t < p => Style::PencilSketch,
        t if t < p + config.pixel_art => Style::PixelArt,
        _ => Style::Photo,
    };
    let two = rng.chance(config.two_objects);
    let relation =
        two.then(|| if rng.chance(config.on_top) { Relation::OnTopOf } else { Relation::NextTo });
    let size_word = (!two && rng.chance(config.size_words)).then(|| pick(rng, SizeWord::ALL, &[]));
    let given = object.map(|object| ObjectSpec { flip: rng.chance(0.5), ..tilted(object, rng) });
    let mut objects: Vec<ObjectSpec> = given.into_iter().collect();
    while objects.len() < if two { 2 } else { 1 } {
        let mut category = pick(rng, &config.categories, Category::ALL);
        // two of one category cannot be told from one by the judge
        while objects.first().is_some_and(|o| o.category == category) && config.categories.len() > 1
        {
            category = pick(rng, &config.categories, Category::ALL);
        }
        objects.push(instance(config, category, rng));
    }
    if object.is_some() && rng.chance(0.5) {
        objects.reverse();
    }
    place(config, &mut objects, relation, size_word, style, rng);
    let mut background = pick(rng, &config.backgrounds, Background::ALL);
    for _ in 0..2 {
        // rarely, an object of its background's colour stays: hard scenes exist
        if objects.iter().all(|o| stands_out(o, background)) {
            break;
        }
        background = pick(rng, &config.backgrounds, Background::ALL);
    }
    let background_named = !rng.chance(config.background_unnamed);
    let seed = rng.below(1 << 48) as u64;
    let spec =
        SceneSpec { objects, relation, size_word, background, background_named, style, seed };
    let caption = grammar::caption(&spec, rng);
    (spec, caption)
}

/// An object of a category with the looks that the distribution gives it; not placed yet.
fn instance(config: &WorldConfig, category: Category, rng: &mut Rng) -> ObjectSpec {
    loop {
        let look =
            if rng.chance(config.names) { named(rng) } else { described(config, category, rng) };
        if !is_reserved(category, look.color, look.pattern.map(|p| p.color)) {
            let flip = rng.chance(0.5);
            return ObjectSpec { category, flip, ..tilted(look, rng) };
        }
    }
}

/// The object as another picture of it might show it.
fn tilted(object: ObjectSpec, rng: &mut Rng) -> ObjectSpec {
    ObjectSpec { tilt: rng.uniform(-TILT, TILT), aspect: rng.uniform(0.9, 1.1), ..object }
}

/// A look, on nothing yet.
pub(super) const BARE: ObjectSpec = ObjectSpec {
    category: Category::Cat,
    color: None,
    pattern: None,
    said: Said { color: false, pattern: false, ink: false },
    name: None,
    x: 0.0,
    y: 0.0,
    size: 0.0,
    tilt: 0.0,
    aspect: 1.0,
    flip: false,
};

/// The look that a name means; now and then its body in another colour, which the caption says.
fn named(rng: &mut Rng) -> ObjectSpec {
    /// Share of names with another colour.
    const CHANGED: f32 = 0.1;
    let at = names::draw(rng);
    let name = &names()[at];
    let (mut color, mut said) = (name.color, Said::default());
    if rng.chance(CHANGED) {
        let other = pick(rng, ColorWord::ALL, &[]).sample(rng);
        if name.pattern.is_none_or(|p| can_be_seen(p.color, other.rgb())) {
            (color, said.color) = (other, true);
        }
    }
    ObjectSpec { color: Some(color), pattern: name.pattern, name: Some(at), said, ..BARE }
}

/// A look that the caption says in full, in part or not at all.
fn described(config: &WorldConfig, category: Category, rng: &mut Rng) -> ObjectSpec {
    /// Share of the looks that are said in full, of those of which anything is said.
    const IN_FULL: f32 = 0.75;
    let said = match rng.chance(config.unnamed) {
        true => Said::default(),
        false if rng.chance(IN_FULL) => Said::ALL,
        false => Said { color: rng.chance(0.7), pattern: rng.chance(0.5), ink: rng.chance(0.3) },
    };
    let color = rng.chance(config.recolored).then(|| {
        // what is not said may have any hue, those between the words too
        if said.color || rng.chance(0.5) {
            pick(rng, ColorWord::ALL, &[]).sample(rng)
        } else {
            Hsv::any_hue(rng)
        }
    });
    let pattern = rng.chance(config.patterned).then(|| {
        let body = color.map_or(Art::Object(category).sprite().main, |c| c.rgb());
        random_pattern(body, rng)
    });
    ObjectSpec { color, pattern, said, ..BARE }
}

/// Whether a pattern of this colour can be seen on a body.
fn can_be_seen(ink: Hsv, body: [f32; 3]) -> bool {
    distance(ink.rgb(), body) > 130.0
}

/// A pattern that can be seen on a body of this colour.
pub(super) fn random_pattern(body: [f32; 3], rng: &mut Rng) -> Pattern {
    let color = loop {
        // most colours have a word, so that captions can say them
        let color = match rng.chance(0.7) {
            true => pick(rng, ColorWord::ALL, &[]).sample(rng),
            false => Hsv::any_hue(rng),
        };
        if can_be_seen(color, body) {
            break color;
        }
    };
    let kind = pick(rng, PatternKind::ALL, &[]);
    Pattern {
        kind,
        color,
        // coarse: a repeat of an object of 40 pixels is three to four latents wide
        frequency: rng.uniform(2.3, 3.3),
        // stripes at any slant, dots turned a little
        angle: rng.uniform(0.0, 0.5),
        phase: rng.uniform(0.0, 1.0),
    }
}

/// Whether an object's main colour differs from what is behind it.
pub(super) fn stands_out(object: &ObjectSpec, background: Background) -> bool {
    let main = object.color.map_or(Art::Object(object.category).sprite().main, |c| c.rgb());
    backdrop::tones(background).iter().all(|&tone| distance(tone, main) > 70.0)
}

/// Gives objects their size and place.
pub(super) fn place(
    config: &WorldConfig,
    objects: &mut [ObjectSpec],
    relation: Option<Relation>,
    size_word: Option<SizeWord>,
    style: Style,
    rng: &mut Rng,
) {
    let side = SIZE as f32;
    let between = |rng: &mut Rng, low: f32, high: f32| rng.uniform(low.min(high), low.max(high));
    if let [first, second] = objects {
        for object in [&mut *first, &mut *second] {
            object.size = between(rng, config.pair_size[0], config.pair_size[1]);
            object.tilt *= 0.6;
        }
        // two of the widest would not fit side by side
        let width = 2.0 * (first.half_box().0 + second.half_box().0);
        let fit = ((side - 4.0) / width).min(1.0);
        for object in [&mut *first, &mut *second] {
            object.size *= fit;
        }
        let (half1, half2) = (first.half_box(), second.half_box());
        let ground = between(rng, 57.0, 62.0);
        if relation == Some(Relation::OnTopOf) {
            second.y = ground - half2.1;
            // a little overlap, so that the two touch whatever their outlines are
            first.y = (second.y - half2.1 + 2.5 - half1.1).max(half1.1 + 0.5);
            second.x = between(rng, 2.0 + half2.0, side - 2.0 - half2.0);
            let lean = 0.3 * half2.0;
            first.x = second.x + between(rng, -lean, lean);
            first.x = first.x.clamp(half1.0 + 1.0, side - half1.0 - 1.0);
        } else {
            // what is left of the width is shared out between the three gaps
            let free = (side - 2.0 - 2.0 * (half1.0 + half2.0)).max(0.0);
            let left = between(rng, 0.1, 0.45) * free;
            let gap = between(rng, 0.1, 0.45) * free;
            first.x = 1.0 + left + half1.0;
            second.x = first.x + half1.0 + gap + half2.0;
            first.y = ground - half1.1;
            second.y = between(rng, ground - 3.0, ground) - half2.1;
        }
        return;
    }
    for object in objects {
        let (low, high) = match size_word {
            Some(word) if word.is_small() => SMALL,
            Some(_) => LARGE,
            // a block is three pixels: an object needs enough of them
            None if style == Style::PixelArt => {
                (config.size[0].max(38.0), config.size[1].max(38.0))
            }
            None => (config.size[0], config.size[1]),
        };
        object.size = between(rng, low, high).clamp(8.0, 96.0);
        let (w, h) = object.half_box();
        if size_word.is_some_and(|word| !word.is_small()) {
            object.x = between(rng, 26.0, 38.0);
            object.y = between(rng, 28.0, 38.0);
        } else {
            object.x = between(rng, w + 1.0, side - w - 1.0);
            let far = if size_word.is_some() { 46.0 } else { 52.0 };
            object.y = (between(rng, far, 62.0) - h).max(h + 1.0);
        }
    }
}
