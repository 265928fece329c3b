//! The paper's augmentation of target images (section 4, "training details"): the size that an image
//! is shown at goes with a word for it in the caption, and the loss counts only what is shown.

use std::ops::Range;

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use crate::rng::Rng;

/// What the caption of an image that is larger than life starts with.
pub const PREFIXES_NEAR: [&str; 2] = ["zoomed in", "close up"];
/// What the caption of a small image starts with.
pub const PREFIXES_FAR: [&str; 2] = ["far away", "very small"];

/// The paper's range of sizes, as parts of an image's own.
pub const PAPER_SIZES: [f64; 2] = [0.4, 1.4];
/// The least size of an image that is shown larger than life.
const NEAR: f64 = 1.2;
/// Sizes below this have a prefix.
const FAR: f32 = 0.6;
/// The canvas around a small image: zero, once pixels are in [−1, 1].
const CANVAS: Rgb<u8> = Rgb([128; 3]);

/// A target image as one step of a training sees it.
#[derive(Clone, Debug)]
pub struct Augmented {
    /// Square.
    pub image: RgbImage,
    /// How large the target is shown, 1 for the image's own size.
    pub ratio: f32,
    /// What the caption starts with.
    pub prefix: Option<&'static str>,
    /// The columns and rows that show the target, in pixels.
    pub shown: [Range<usize>; 2],
}

/// The middle of `image`, `side` × `side`: the shorter side is resized to it (bicubic), the rest is
/// cut off.
pub fn fit(image: &RgbImage, side: usize) -> RgbImage {
    let (width, height) = image.dimensions();
    let short = width.min(height).max(1);
    let square = imageops::crop_imm(image, (width - short) / 2, (height - short) / 2, short, short);
    resize(&square.to_image(), side)
}

fn resize(square: &RgbImage, side: usize) -> RgbImage {
    if square.width() as usize == side {
        return square.clone();
    }
    imageops::resize(square, side as u32, side as u32, FilterType::CatmullRom)
}

/// Shows the middle of `image` at a random size and place on a canvas of `side` × `side`. Of the sizes
/// from `least` to `most`, those from 1.2 on come one time in three, otherwise those up to 1; none from
/// 1.2 on if `most` is less.
pub fn augment(image: &RgbImage, side: usize, [least, most]: [f64; 2], rng: &mut Rng) -> Augmented {
    let near = most > NEAR && rng.below(3) == 0;
    let (from, to) = if near { (NEAR, most) } else { (least, 1.0) };
    place(image, side, rng.uniform(from as f32, to as f32), rng)
}

/// Shows the middle of `image` at `ratio` times its size, at a random place.
pub fn place(image: &RgbImage, side: usize, ratio: f32, rng: &mut Rng) -> Augmented {
    let scaled = ((side as f32 * ratio).round() as usize).max(1);
    let image = fit(image, scaled);
    // where the larger of canvas and image is cut, or the smaller lies
    let room = scaled.abs_diff(side) + 1;
    let (left, top) = (rng.below(room), rng.below(room));
    let prefixes = match scaled {
        _ if scaled > side => Some(PREFIXES_NEAR),
        _ if (scaled as f32) < FAR * side as f32 => Some(PREFIXES_FAR),
        _ => None,
    };
    let prefix = prefixes.map(|words| words[rng.below(words.len())]);
    let (image, shown) = if scaled > side {
        let side = side as u32;
        let cut = imageops::crop_imm(&image, left as u32, top as u32, side, side).to_image();
        (cut, [0..side as usize, 0..side as usize])
    } else {
        let mut canvas = RgbImage::from_pixel(side as u32, side as u32, CANVAS);
        imageops::replace(&mut canvas, &image, left as i64, top as i64);
        (canvas, [left..left + scaled, top..top + scaled])
    };
    Augmented { image, ratio, prefix, shown }
}

impl Augmented {
    /// The caption with the word for the size.
    pub fn caption(&self, caption: &str) -> String {
        match self.prefix {
            Some(prefix) => format!("{prefix} {caption}"),
            None => caption.to_owned(),
        }
    }

    /// 1 where a latent of an image shows the target, 0 elsewhere; row by row, `latent` × `latent`. As in
    /// the authors' scripts the border of the shown region, one latent pixel wide, does not count: its
    /// latents see the canvas. All counts of an image that fills the canvas.
    pub fn mask(&self, latent: usize) -> Vec<f32> {
        shown_mask(&self.shown, self.image.width() as usize, latent)
    }
}

/// See [`Augmented::mask`].
pub fn shown_mask(shown: &[Range<usize>; 2], side: usize, latent: usize) -> Vec<f32> {
    let unit = (side / latent.max(1)).max(1);
    let inner = |range: &Range<usize>| {
        if *range == (0..side) {
            return 0..latent;
        }
        let (start, end) = (range.start / unit + 1, (range.end / unit).saturating_sub(1));
        // a region of two latent pixels or less keeps its middle: an empty mask has no loss
        if start < end { start..end } else { middle(range, unit, latent) }
    };
    let [columns, rows] = [inner(&shown[0]), inner(&shown[1])];
    let at = |i: usize| rows.contains(&(i / latent)) && columns.contains(&(i % latent));
    (0..latent * latent).map(|i| f32::from(u8::from(at(i)))).collect()
}

fn middle(range: &Range<usize>, unit: usize, latent: usize) -> Range<usize> {
    let middle = ((range.start + range.end) / 2 / unit).min(latent - 1);
    middle..middle + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn red(width: u32, height: u32) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb([200, 10, 10]))
    }

    #[test]
    fn the_word_goes_with_the_size() {
        let mut rng = Rng::new(1, "augment");
        let (mut near, mut far, mut plain) = (0, 0, 0);
        for _ in 0..600 {
            let a = augment(&red(64, 64), 64, PAPER_SIZES, &mut rng);
            assert_eq!(a.image.dimensions(), (64, 64));
            match a.prefix {
                Some(word) if a.ratio > 1.0 => {
                    assert!(PREFIXES_NEAR.contains(&word) && (1.2..1.4).contains(&a.ratio));
                    assert!(a.mask(16).iter().all(|&m| m == 1.0));
                    near += 1;
                }
                Some(word) => {
                    assert!(PREFIXES_FAR.contains(&word) && (0.39..0.61).contains(&a.ratio));
                    far += 1;
                }
                None => {
                    assert!((0.59..=1.0).contains(&a.ratio), "{}", a.ratio);
                    plain += 1;
                }
            }
        }
        // a third, then a third and two thirds of the rest
        assert!((160..240).contains(&near), "{near}");
        assert!((95..175).contains(&far), "{far}");
        assert!(plain > far);
    }

    #[test]
    fn sizes_stay_in_their_range() {
        let mut rng = Rng::new(3, "augment");
        for (sizes, near) in [([0.7, 1.3], true), ([0.7, 1.0], false), ([1.0, 1.2], false)] {
            let ratios: Vec<f64> =
                (0..200).map(|_| augment(&red(64, 64), 64, sizes, &mut rng).ratio.into()).collect();
            let inside =
                |r: &f64| (sizes[0] - 1e-6..=1.0).contains(r) || (1.2..sizes[1]).contains(r);
            assert!(ratios.iter().all(inside), "{sizes:?} {ratios:?}");
            assert_eq!(ratios.iter().any(|&r| r > 1.0), near, "{sizes:?}");
        }
    }

    #[test]
    fn the_mask_shows_nothing_but_the_target() {
        let mut rng = Rng::new(2, "augment");
        for _ in 0..200 {
            let a = augment(&red(50, 90), 64, PAPER_SIZES, &mut rng);
            let mask = a.mask(16);
            let counted = mask.iter().filter(|&&m| m == 1.0).count();
            for (i, _) in mask.iter().enumerate().filter(|(_, m)| **m == 1.0) {
                let (x, y) = (i % 16 * 4, i / 16 * 4);
                for (dx, dy) in [(0, 0), (3, 0), (0, 3), (3, 3)] {
                    let pixel = a.image.get_pixel((x + dx) as u32, (y + dy) as u32);
                    assert_eq!(pixel.0, [200, 10, 10], "ratio {} at {x}, {y}", a.ratio);
                }
            }
            let whole = (a.ratio.min(1.0) * 16.0).powi(2);
            assert!(counted as f32 <= whole.ceil() + 1.0);
            assert!(counted as f32 >= (a.ratio.min(1.0) * 16.0 - 4.0).powi(2).floor());
        }
    }

    #[test]
    fn masks_are_those_of_the_script() {
        // mask[top // 8 + 1 : (top + scale) // 8 - 1] of train_custom_diffusion.py, 512 and 64
        let mask = shown_mask(&[100..330, 17..247], 512, 64);
        let at = |x: usize, y: usize| mask[y * 64 + x] == 1.0;
        assert!(at(13, 3) && at(39, 28) && !at(12, 3) && !at(40, 28) && !at(13, 2) && !at(39, 29));
        assert_eq!(mask.iter().sum::<f32>(), (40.0 - 13.0) * (29.0 - 3.0));
        assert_eq!(shown_mask(&[3..9, 3..9], 64, 16).iter().sum::<f32>(), 1.0, "never empty");
    }

    #[test]
    fn an_image_of_any_shape_is_cut_to_its_middle() {
        let mut image = red(90, 30);
        image.put_pixel(45, 15, Rgb([0, 255, 0]));
        let square = fit(&image, 30);
        assert_eq!(square.dimensions(), (30, 30));
        assert_eq!(square.get_pixel(15, 15).0, [0, 255, 0]);
        assert_eq!(fit(&image, 64).dimensions(), (64, 64));
        let a = place(&image, 16, 1.0, &mut Rng::new(1, "x"));
        assert_eq!((a.shown.clone(), a.caption("photo")), ([0..16, 0..16], "photo".into()));
    }
}
