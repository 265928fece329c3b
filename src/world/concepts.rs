//! Held-out instances: what a customisation has to learn, because pretraining never showed it.
//!
//! A concept is a category with a body colour and a pattern colour. Both are kept for it: the sampler
//! refuses every object of that category whose colours carry the same two words, or lie within [`KEPT`]
//! of the concept's, in either role and whatever the pattern's kind. So a concept is new by
//! construction, and so is what would pass for it.

use super::Scene;
use super::color::{ColorWord, Hsv, distance};
use super::sample::{BARE, WorldConfig, place, stands_out};
use super::spec::{Background, Category, ObjectSpec, Pattern, PatternKind, SceneSpec, Style};
use super::sprite::Art;
use crate::rng::Rng;

/// A held-out instance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Concept {
    /// Its name in files and tables, such as `dog_plum`.
    pub name: &'static str,
    /// Its category; the class word of its prompts.
    pub category: Category,
    /// Colour of its body.
    pub color: Hsv,
    /// The pattern on its body.
    pub pattern: Pattern,
}

/// Two concepts that are composed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Its name in files and tables.
    pub name: &'static str,
    /// The first concept: `{0}` of the prompts.
    pub first: Concept,
    /// The second concept: `{1}` of the prompts.
    pub second: Concept,
}

/// Pictures of each concept.
pub const TARGETS: usize = 8;

const fn concept(
    name: &'static str,
    category: Category,
    body: (f32, f32, f32),
    kind: PatternKind,
    color: (f32, f32, f32),
    (frequency, angle, phase): (f32, f32, f32),
) -> Concept {
    let color = Hsv::new(color.0, color.1, color.2);
    let pattern = Pattern { kind, color, frequency, angle, phase };
    Concept { name, category, color: Hsv::new(body.0, body.1, body.2), pattern }
}

const CONCEPTS: [Concept; 10] = {
    use Category::*;
    use PatternKind::{Dots, Stripes};
    [
        concept("dog_plum", Dog, (272., 0.62, 0.75), Dots, (53., 0.85, 0.98), (2.52, 0.05, 0.5)),
        concept("cat_mint", Cat, (135., 0.62, 0.74), Stripes, (325., 0.5, 0.98), (2.52, 0.12, 0.3)),
        concept("bear_sky", Teddybear, (212., 0.65, 0.9), Dots, (54., 0.85, 1.0), (2.8, 0.0, 0.2)),
        concept(
            "chair_rose",
            Chair,
            (326., 0.5, 0.98),
            Stripes,
            (262., 0.7, 0.65),
            (2.52, 0.25, 0.2),
        ),
        concept("flower_ink", Flower, (222., 0.8, 0.8), Dots, (54., 0.85, 1.0), (2.94, 0.08, 0.1)),
        concept("car_bee", Car, (52., 0.88, 0.98), Stripes, (272., 0.65, 0.65), (2.8, 0.06, 0.4)),
        concept("cup_fern", Cup, (112., 0.7, 0.66), Dots, (0., 0.85, 0.9), (2.94, 0.0, 0.4)),
        concept(
            "robot_rust",
            Robot,
            (26., 0.88, 0.95),
            Dots,
            (220., 0.85, 0.75),
            (2.66, 0.03, 0.0),
        ),
        concept(
            "mushroom_sea",
            Mushroom,
            (205., 0.7, 0.85),
            Stripes,
            (0., 0.0, 0.98),
            (2.52, 0.4, 0.15),
        ),
        concept(
            "boat_candy",
            Boat,
            (0., 0.85, 0.88),
            Stripes,
            (125., 0.75, 0.7),
            (2.66, 0.12, 0.0),
        ),
    ]
};

/// Concepts that settings are chosen on, so that no table shows what its settings were fitted to.
const TUNING: [Concept; 3] = {
    use Category::*;
    use PatternKind::{Dots, Stripes};
    [
        concept("fish_coral", Fish, (4., 0.85, 0.9), Stripes, (200., 0.45, 0.98), (2.6, 0.1, 0.2)),
        concept(
            "umbrella_lake",
            Umbrella,
            (218., 0.8, 0.82),
            Dots,
            (30., 0.9, 0.98),
            (2.8, 0.0, 0.1),
        ),
        concept("cup_plum", Cup, (276., 0.62, 0.7), Stripes, (130., 0.6, 0.75), (2.5, 0.15, 0.4)),
    ]
};

/// The distance in RGB (0 to 441) within which both colours of an object have to be to a concept's for
/// the look to be kept for it.
pub const KEPT: f32 = 90.0;

/// Concepts that settings are chosen on.
pub fn tuning_concepts() -> &'static [Concept] {
    &TUNING
}

/// The held-out instances that tables show.
pub fn concepts() -> &'static [Concept] {
    &CONCEPTS
}

/// Pairs of concepts to compose; the first is of like categories.
pub fn pairs() -> Vec<Pair> {
    let find =
        |category| CONCEPTS[CONCEPTS.iter().position(|c| c.category == category).unwrap_or(0)];
    let pair = |name, a, b| Pair { name, first: find(a), second: find(b) };
    vec![
        pair("cat_dog", Category::Cat, Category::Dog),
        pair("bear_chair", Category::Teddybear, Category::Chair),
        pair("car_robot", Category::Car, Category::Robot),
        pair("flower_cup", Category::Flower, Category::Cup),
        pair("dog_mushroom", Category::Dog, Category::Mushroom),
    ]
}

/// Whether an object of this category, with these colours of body and pattern, is kept for a concept.
/// Plain objects never are.
pub(super) fn is_reserved(category: Category, body: Option<Hsv>, pattern: Option<Hsv>) -> bool {
    let Some(ink) = pattern else { return false };
    let words = (body.and_then(ColorWord::of), ColorWord::of(ink));
    let body = body.map_or(Art::Object(category).sprite().main, Hsv::rgb);
    let near = |a: [f32; 3], b: Hsv| distance(a, b.rgb()) < KEPT;
    CONCEPTS.iter().chain(&TUNING).filter(|c| c.category == category).any(|c| {
        let (own, its_ink) = (c.color, c.pattern.color);
        (near(body, own) && near(ink.rgb(), its_ink))
            || (near(body, its_ink) && near(ink.rgb(), own))
            || (ColorWord::of(own), ColorWord::of(its_ink)) == words
    })
}

/// Whether a scene shows what is kept for a concept; no scene of the distribution does.
pub fn is_held_out(spec: &SceneSpec) -> bool {
    spec.objects.iter().any(|o| is_reserved(o.category, o.color, o.pattern.map(|p| p.color)))
}

impl Concept {
    /// The class word: what `{}` of a prompt becomes without a modifier token.
    pub fn class(&self) -> &'static str {
        self.category.word()
    }

    /// The concept as an object that is not placed yet, of whose look no caption says anything.
    pub(super) fn object(&self) -> ObjectSpec {
        let (color, pattern) = (Some(self.color), Some(self.pattern));
        ObjectSpec { category: self.category, color, pattern, ..BARE }
    }

    /// The target images: [`TARGETS`] photos on different backgrounds, each with its own tilt, size
    /// and place. Their caption is `photo of a CLASS`, without the modifier token.
    pub fn targets(&self) -> Vec<Scene> {
        let mut rng = Rng::new(0, self.name);
        let config = WorldConfig { size: [34.0, 48.0], ..WorldConfig::default() };
        let mut object = self.object();
        // backgrounds that hide the object come last
        let mut backgrounds = Background::ALL.to_vec();
        backgrounds.sort_by_key(|&b| !stands_out(&object, b));
        let scene = |i: usize| {
            object.tilt = rng.uniform(-0.03, 0.03);
            object.aspect = rng.uniform(0.95, 1.05);
            object.flip = rng.chance(0.5);
            let mut objects = vec![object];
            place(&config, &mut objects, None, None, Style::Photo, &mut rng);
            let spec = SceneSpec {
                objects,
                relation: None,
                size_word: None,
                background: backgrounds[i % backgrounds.len()],
                background_named: false,
                style: Style::Photo,
                seed: rng.below(1 << 48) as u64,
            };
            Scene::new(spec, format!("photo of a {}", self.class()))
        };
        (0..TARGETS).map(scene).collect()
    }

    /// Evaluation prompts as in the paper: new scenes, other styles, a second object, a changed
    /// attribute. `{}` stands for the modifier token and the class word.
    pub fn prompts(&self) -> Vec<String> {
        let at = Category::ALL.iter().position(|&c| c == self.category).unwrap_or(0);
        let other = |step: usize| {
            let category = Category::ALL[(at + step) % Category::ALL.len()].word();
            let article = if category.starts_with('u') { "an" } else { "a" };
            format!("{article} {category}")
        };
        // colours far from the concept's own
        let own = self.color.rgb();
        let mut colors = [ColorWord::Red, ColorWord::Blue, ColorWord::Green, ColorWord::White];
        let far = |word: &ColorWord| {
            let typical = match word {
                ColorWord::Red => [220.0, 40.0, 40.0],
                ColorWord::Blue => [50.0, 110.0, 220.0],
                ColorWord::Green => [70.0, 170.0, 70.0],
                _ => [245.0; 3],
            };
            -super::color::distance(typical, own) as i32
        };
        colors.sort_by_key(far);
        vec![
            "photo of a {} in the snow".into(),
            "photo of a {} on the beach".into(),
            "{} in the forest".into(),
            "{} underwater".into(),
            "photo of a {} at night".into(),
            "{} in the city".into(),
            "watercolor painting of a {} on the beach".into(),
            "pencil sketch of a {} in the room".into(),
            "pixel art of a {} in the desert".into(),
            "{} in the forest in watercolor style".into(),
            format!("photo of a {{}} next to {} in the snow", other(3)),
            format!("{{}} next to {} on the beach", other(5)),
            format!("{{}} on top of {} in the desert", other(7)),
            format!("{} next to a {{}} in the room", other(9)),
            format!("photo of a {} {{}} in the snow", colors[0].word()),
            format!("{} {{}} in the desert", colors[1].word()),
            "very small {} in the snow".into(),
            "close up photo of a {} in the forest".into(),
        ]
    }
}

impl Pair {
    /// Evaluation prompts; `{0}` and `{1}` stand for the modifier tokens and class words.
    pub fn prompts(&self) -> Vec<String> {
        [
            "photo of a {0} next to a {1}",
            "{0} next to a {1} on the beach",
            "{1} next to a {0} in the snow",
            "photo of a {0} and a {1} in the room",
            "{0} on top of a {1} in the desert",
            "{1} on top of a {0} in the forest",
            "{0} with a {1} in the city",
            "watercolor painting of a {0} next to a {1} in the snow",
            "pixel art of a {1} next to a {0} on the beach",
            "pencil sketch of a {0} next to a {1}",
        ]
        .map(String::from)
        .into()
    }
}
