//! The structured truth of a scene: everything the renderer needs, and what an evaluation may ask.

use serde::{Deserialize, Serialize};

use super::color::{ColorWord, Hsv};

/// Declares an enum whose variants are listed in `ALL`, each with its word and its serde name.
macro_rules! worded {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every value, in a fixed order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// Its name in tables, and in captions where one word says it.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }
    };
}
pub(super) use worded;

worded! {
    /// What an object is.
    Category {
        /// A cat's face.
        Cat = "cat",
        /// A dog's face.
        Dog = "dog",
        /// One word, as in the paper's prompts.
        Teddybear = "teddybear",
        /// A wooden chair.
        Chair = "chair",
        /// A tulip.
        Flower = "flower",
        /// A car, seen from its side.
        Car = "car",
        /// A cup of coffee on its saucer.
        Cup = "cup",
        /// A tropical fish.
        Fish = "fish",
        /// A robot's head.
        Robot = "robot",
        /// A toadstool.
        Mushroom = "mushroom",
        /// An open umbrella.
        Umbrella = "umbrella",
        /// A sailing boat.
        Boat = "boat",
    }
}

worded! {
    /// Where a scene plays.
    Background {
        /// Sky, sea and sand.
        Beach = "beach",
        /// White hills and falling snow.
        Snow = "snow",
        /// Firs and grass.
        Forest = "forest",
        /// A skyline and a street.
        City = "city",
        /// Sun, dunes and a cactus.
        Desert = "desert",
        /// Stars and a moon.
        Night = "night",
        /// A wall, a picture and a wooden floor.
        Room = "room",
        /// Bubbles, coral and sand.
        Underwater = "underwater",
    }
}

worded! {
    /// How a scene is drawn.
    Style {
        /// As it is.
        Photo = "photo",
        /// Wet colours on white paper.
        Watercolor = "watercolor",
        /// Grey lines on white paper.
        PencilSketch = "pencil sketch",
        /// Blocks of 4 × 4 pixels.
        PixelArt = "pixel art",
    }
}

worded! {
    /// How the first object stands to the second.
    Relation {
        /// Side by side, the first on the left.
        NextTo = "next to",
        /// The first above, touching.
        OnTopOf = "on top of",
    }
}

worded! {
    /// The size words of the paper's augmentation (section 3.2): the first two for objects shrunk,
    /// the last two for objects enlarged.
    SizeWord {
        /// Below 20 pixels.
        VerySmall = "very small",
        /// Below 20 pixels.
        FarAway = "far away",
        /// Above 58 pixels.
        CloseUp = "close up",
        /// Above 58 pixels.
        ZoomedIn = "zoomed in",
    }
}

impl SizeWord {
    /// Whether it says that the object is small.
    pub fn is_small(self) -> bool {
        matches!(self, SizeWord::VerySmall | SizeWord::FarAway)
    }
}

worded! {
    /// The kind of a pattern.
    PatternKind {
        /// Parallel bands.
        Stripes = "striped",
        /// Discs on a hexagonal grid.
        Dots = "dotted",
    }
}

impl PatternKind {
    /// What the pattern is made of: `a cat with pink stripes`.
    pub fn noun(self) -> &'static str {
        match self {
            PatternKind::Stripes => "stripes",
            PatternKind::Dots => "dots",
        }
    }
}

/// A pattern on an object's body, in the object's own frame: it turns and grows with the object.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// Stripes or dots.
    pub kind: PatternKind,
    /// Colour of the stripes or dots.
    pub color: Hsv,
    /// Repeats along the object's longer side.
    pub frequency: f32,
    /// Direction of the stripes or of the rows of dots, in turns (1 is a full circle).
    pub angle: f32,
    /// Shift, in repeats.
    pub phase: f32,
}

/// Which parts of an object's look its caption says. Pencil sketches have no colours to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// The body's colour.
    pub color: bool,
    /// The kind of the pattern.
    pub pattern: bool,
    /// The pattern's colour.
    pub ink: bool,
}

impl Said {
    /// Everything.
    pub const ALL: Self = Said { color: true, pattern: true, ink: true };
}

/// One object of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectSpec {
    /// What it is.
    pub category: Category,
    /// Colour of its body; `None` leaves the natural palette.
    pub color: Option<Hsv>,
    /// Pattern on its body.
    pub pattern: Option<Pattern>,
    /// What the caption says of its look.
    pub said: Said,
    /// The word that means its look, by its place in [`super::names`]; the caption has it in front of
    /// the category.
    pub name: Option<usize>,
    /// Centre, in pixels from the left.
    pub x: f32,
    /// Centre, in pixels from the top.
    pub y: f32,
    /// Longer side before tilt and aspect, in pixels.
    pub size: f32,
    /// Clockwise, in turns.
    pub tilt: f32,
    /// Stretch: width times its root, height divided by it.
    pub aspect: f32,
    /// Mirrored left to right.
    pub flip: bool,
}

impl ObjectSpec {
    /// The word for its body's colour, where it was recoloured and one word fits.
    pub fn color_word(&self) -> Option<ColorWord> {
        self.color.and_then(ColorWord::of)
    }

    /// The word for its pattern's colour, where it has a pattern and one word fits.
    pub fn ink_word(&self) -> Option<ColorWord> {
        self.pattern.and_then(|pattern| ColorWord::of(pattern.color))
    }
}

/// Everything that is true of a scene. [`super::render`] is a pure function of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SceneSpec {
    /// One or two; the first is the caption's subject. Drawn from the last to the first.
    pub objects: Vec<ObjectSpec>,
    /// How the first stands to the second, where there are two.
    pub relation: Option<Relation>,
    /// The size word of a single object.
    pub size_word: Option<SizeWord>,
    /// Where it plays.
    pub background: Background,
    /// Whether the caption names the background.
    pub background_named: bool,
    /// How it is drawn.
    pub style: Style,
    /// Decides props, colour jitter and the grain of the style.
    pub seed: u64,
}
