//! Colours as hue, saturation and value, and the words for them.

use serde::{Deserialize, Serialize};

use super::spec::worded;
use crate::rng::Rng;

/// A colour by hue (degrees, 0 to 360), saturation and value (both 0 to 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hsv {
    /// Degrees; red is 0, green 120, blue 240.
    pub h: f32,
    /// 0 is grey.
    pub s: f32,
    /// 0 is black.
    pub v: f32,
}

impl Hsv {
    /// The colour with this hue (wrapped into 0 to 360), saturation and value.
    pub const fn new(h: f32, s: f32, v: f32) -> Self {
        let h = if h < 0.0 {
            h + 360.0
        } else if h >= 360.0 {
            h - 360.0
        } else {
            h
        };
        Hsv { h, s, v }
    }

    /// Red, green and blue, 0 to 255.
    pub fn rgb(self) -> [f32; 3] {
        let channel = |n: f32| {
            let k = (n + self.h / 60.0) % 6.0;
            255.0 * self.v * (1.0 - self.s * k.min(4.0 - k).clamp(0.0, 1.0))
        };
        [channel(5.0), channel(3.0), channel(1.0)]
    }

    /// Any strong hue, every one as likely.
    pub fn any_hue(rng: &mut Rng) -> Self {
        let h = rng.uniform(0.0, 360.0);
        Hsv::new(h, rng.uniform(0.55, 0.95), rng.uniform(0.6, 0.98))
    }
}

/// Distance of two colours in RGB, 0 to 441.
pub fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    (0..3).map(|i| (a[i] - b[i]) * (a[i] - b[i])).sum::<f32>().sqrt()
}

worded! {
    /// The colour words of captions.
    ColorWord {
        /// Hues about 0.
        Red = "red",
        /// Hues about 28.
        Orange = "orange",
        /// Hues about 53.
        Yellow = "yellow",
        /// Hues from 80 to 155.
        Green = "green",
        /// Hues from 198 to 240.
        Blue = "blue",
        /// Hues from 255 to 292.
        Purple = "purple",
        /// Light reds and magentas.
        Pink = "pink",
        /// Dark oranges.
        Brown = "brown",
        /// Nearly no light.
        Black = "black",
        /// Light without hue.
        White = "white",
    }
}

impl ColorWord {
    /// A colour that this word describes, its hue, saturation and value drawn evenly from a range
    /// well inside what [`ColorWord::of`] calls by this word.
    pub fn sample(self, rng: &mut Rng) -> Hsv {
        let [(h0, h1), (s0, s1), (v0, v1)] = match self {
            ColorWord::Red => [(-10.0, 10.0), (0.75, 0.95), (0.75, 0.95)],
            ColorWord::Orange => [(20.0, 37.0), (0.78, 0.98), (0.88, 1.0)],
            ColorWord::Yellow => [(46.0, 62.0), (0.7, 0.95), (0.88, 1.0)],
            ColorWord::Green => [(80.0, 155.0), (0.55, 0.9), (0.5, 0.8)],
            ColorWord::Blue => [(198.0, 240.0), (0.6, 0.95), (0.6, 0.95)],
            ColorWord::Purple => [(255.0, 292.0), (0.45, 0.8), (0.55, 0.88)],
            ColorWord::Pink => [(304.0, 342.0), (0.35, 0.62), (0.9, 1.0)],
            ColorWord::Brown => [(12.0, 32.0), (0.5, 0.75), (0.34, 0.52)],
            ColorWord::Black => [(0.0, 360.0), (0.0, 0.2), (0.1, 0.18)],
            ColorWord::White => [(0.0, 360.0), (0.0, 0.04), (0.94, 1.0)],
        };
        let h = rng.uniform(h0, h1);
        Hsv::new(h, rng.uniform(s0, s1), rng.uniform(v0, v1))
    }

    /// The word for a colour; `None` for what lies between the words (greys, teal, olive).
    pub fn of(c: Hsv) -> Option<Self> {
        Some(match c.h {
            _ if c.v < 0.24 => ColorWord::Black,
            _ if c.s < 0.12 && c.v > 0.85 => ColorWord::White,
            _ if c.s < 0.2 => return None,
            h if (15.0..42.0).contains(&h) && c.v > 0.68 => ColorWord::Orange,
            h if (8.0..42.0).contains(&h) && c.v < 0.6 => ColorWord::Brown,
            h if !(15.0..346.0).contains(&h) && c.v > 0.6 => {
                if c.s < 0.6 && c.v > 0.8 {
                    ColorWord::Pink
                } else {
                    ColorWord::Red
                }
            }
            h if (42.0..70.0).contains(&h) && c.v > 0.75 => ColorWord::Yellow,
            h if (70.0..162.0).contains(&h) => ColorWord::Green,
            h if (192.0..247.0).contains(&h) => ColorWord::Blue,
            h if (247.0..298.0).contains(&h) => ColorWord::Purple,
            h if (298.0..346.0).contains(&h) && c.v > 0.6 => ColorWord::Pink,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hsv_to_rgb_at_known_colours() {
        assert_eq!(Hsv::new(0.0, 1.0, 1.0).rgb(), [255.0, 0.0, 0.0]);
        assert_eq!(Hsv::new(60.0, 1.0, 1.0).rgb(), [255.0, 255.0, 0.0]);
        assert_eq!(Hsv::new(120.0, 0.5, 1.0).rgb(), [127.5, 255.0, 127.5]);
        assert_eq!(Hsv::new(240.0, 1.0, 0.5).rgb(), [0.0, 0.0, 127.5]);
        assert_eq!(Hsv::new(-60.0, 1.0, 1.0).rgb(), [255.0, 0.0, 255.0]);
    }

    #[test]
    fn a_word_names_the_colours_drawn_for_it() {
        let mut rng = Rng::new(1, "colours");
        for &word in ColorWord::ALL {
            for _ in 0..500 {
                let c = word.sample(&mut rng);
                assert_eq!(ColorWord::of(c), Some(word), "{c:?}");
            }
        }
    }
}
