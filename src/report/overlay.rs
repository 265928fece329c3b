//! What words of a prompt attend to, over the image that came of it: the paper's Figs. 11 and 19.

use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Luma, Rgb, RgbImage};
use ndarray::ArrayView2;
use plotters::style::FontStyle;

use super::grid::{GAP, LINE, MARGIN, SIZE, fit, place, stack};
use crate::Result;
use crate::drawing::{width, wrap, write};

/// matplotlib's inferno at even distances. Its lightness grows evenly from black to light yellow, so that it
/// can be read in grey and by the colour-blind.
const HEAT: [[u8; 3]; 11] = [
    [0, 0, 4],
    [22, 11, 57],
    [66, 10, 104],
    [106, 23, 110],
    [147, 38, 103],
    [188, 55, 84],
    [221, 81, 58],
    [243, 120, 25],
    [252, 165, 10],
    [246, 215, 70],
    [252, 255, 164],
];
/// What shows through of the image, in grey: enough to know its things by, little enough that lightness is
/// the map's.
const IMAGE: f32 = 0.3;

/// Sides of images on the page: small ones are enlarged, large ones made smaller.
const SIDES: (u32, u32) = (128, 256);
const SMALL: u32 = 14;
/// What labels are broken at.
const LABEL: u32 = 120;
const BAR: u32 = 10;

/// An image, and maps of what its words attend to.
pub struct Attended<'a> {
    /// What stands before the line, such as a method; may be empty.
    pub label: &'a str,
    /// The image.
    pub image: &'a RgbImage,
    /// One for each word, of any height and width.
    pub maps: Vec<ArrayView2<'a, f32>>,
}

/// The colour of a value from 0 to 1.
fn heat(value: f32) -> [f32; 3] {
    let at = value.clamp(0.0, 1.0) * (HEAT.len() - 1) as f32;
    let below = (at as usize).min(HEAT.len() - 2);
    let part = at - below as f32;
    let mix =
        |c: usize| f32::from(HEAT[below][c]) * (1.0 - part) + f32::from(HEAT[below + 1][c]) * part;
    [mix(0), mix(1), mix(2)]
}

/// The least and the greatest value.
fn range(map: ArrayView2<f32>) -> (f32, f32) {
    map.iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)))
}

/// `image` in grey under the colours of `map`, from its least value to its greatest: words differ in how much
/// they are attended to at all, and what counts is where.
pub fn overlay(image: &RgbImage, map: ArrayView2<f32>) -> RgbImage {
    let (low, high) = range(map);
    let share = |x: &f32| if high > low { (x - low) / (high - low) } else { 0.0 };
    let (rows, columns) = map.dim();
    let shares: Vec<f32> = map.iter().map(share).collect();
    let shares: ImageBuffer<Luma<f32>, _> =
        ImageBuffer::from_raw(columns as u32, rows as u32, shares)
            .expect("a number for each place");
    let shares = resize(&shares, image.width(), image.height(), FilterType::Triangle);
    let grey = image::imageops::grayscale(image);
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let under = f32::from(grey.get_pixel(x, y).0[0]);
        Rgb(heat(shares.get_pixel(x, y).0[0])
            .map(|over| (IMAGE * under + (1.0 - IMAGE) * over).round() as u8))
    })
}

/// A line for each image: the image, and what each of `words` attends to over it, with the least and the
/// greatest probability below.
///
/// # Errors
/// The drawing library's.
pub fn attention_sheet(words: &[String], lines: &[Attended]) -> Result<RgbImage> {
    let longest = lines.iter().map(|l| l.image.width().max(l.image.height())).max().unwrap_or(1);
    // a whole number of pixels for each of a small image's
    let side = (longest * SIDES.0.div_ceil(longest)).min(SIDES.1);
    let heads: Vec<Vec<String>> =
        words.iter().map(|word| wrap(word, side, SIZE, FontStyle::Bold, 3)).collect();
    let lines_of_heads = heads.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let top = MARGIN + lines_of_heads * LINE + 6;
    let labels: Vec<Vec<String>> =
        lines.iter().map(|l| wrap(l.label, LABEL, SIZE, FontStyle::Bold, 4)).collect();
    let label = labels.iter().flatten().map(|text| width(text, SIZE, FontStyle::Bold) + 10).max();
    let left = MARGIN + label.unwrap_or(0);
    let (across, down) = (side + GAP, side + 2 + LINE + GAP);
    let bar_at = top + lines.len() as u32 * down + 6;
    let page_width = left + (words.len() as u32 + 1) * across - GAP + MARGIN;
    let mut page = RgbImage::from_pixel(page_width, bar_at + LINE + MARGIN, Rgb([255; 3]));

    for (x, head) in (1..).map(|i| left + i * across).zip(&heads) {
        stack(&mut page, head, (x, top - 6 - head.len() as u32 * LINE), FontStyle::Bold)?;
    }
    for ((y, line), label) in (0..).map(|j| top + j * down).zip(lines).zip(&labels) {
        let middle = y + side.saturating_sub(label.len() as u32 * LINE) / 2;
        stack(&mut page, label, (MARGIN, middle), FontStyle::Bold)?;
        let image = fit(line.image, side);
        place(&mut page, &image, (left, y), side);
        for (x, map) in (1..).map(|i| left + i * across).zip(&line.maps) {
            place(&mut page, &overlay(&image, *map), (x, y), side);
            let (low, high) = range(*map);
            let digits = (2.0 - high.log10().floor()).clamp(2.0, 9.0) as usize;
            let said = format!("{low:.digits$} to {high:.digits$}");
            write(&mut page, &said, (x, y + side + 4), SMALL, FontStyle::Normal)?;
        }
    }
    if !words.is_empty() {
        scale(&mut page, (left + across, bar_at), side)?;
    }
    Ok(page)
}

/// What the colours mean.
fn scale(page: &mut RgbImage, (x, y): (u32, u32), side: u32) -> Result<()> {
    const LEAST: &str = "least";
    let text = width(LEAST, SMALL, FontStyle::Normal) + 6;
    write(page, LEAST, (x, y), SMALL, FontStyle::Normal)?;
    let bar = (side / 2).max(1);
    for i in 0..bar {
        let color = Rgb(heat(i as f32 / bar as f32).map(|c| c.round() as u8));
        (y..y + BAR).for_each(|y| page.put_pixel(x + text + i, y, color));
    }
    write(page, "most", (x + text + bar + 6, y), SMALL, FontStyle::Normal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, s};

    fn grey(side: u32) -> RgbImage {
        RgbImage::from_pixel(side, side, Rgb([128; 3]))
    }

    /// What is most attended to in grey.
    fn hottest() -> Rgb<u8> {
        Rgb(HEAT[10].map(|c| (IMAGE * 128.0 + (1.0 - IMAGE) * f32::from(c)).round() as u8))
    }

    fn lightness(Rgb([r, g, b]): Rgb<u8>) -> f32 {
        0.2126 * f32::from(r) + 0.7152 * f32::from(g) + 0.0722 * f32::from(b)
    }

    #[test]
    fn more_attention_is_lighter() {
        let map = Array2::from_shape_fn((1, 64), |(_, j)| 0.1 + j as f32 / 1000.0);
        let line = overlay(&RgbImage::from_pixel(64, 1, Rgb([200, 10, 90])), map.view());
        let steps: Vec<f32> = line.pixels().map(|p| lightness(*p)).collect();
        assert!(steps.windows(2).all(|pair| pair[0] <= pair[1]), "{steps:?}");
        assert!(steps[63] > steps[32] + 30.0 && steps[32] > steps[0] + 30.0, "{steps:?}");
        let flat = overlay(&grey(4), Array2::from_elem((2, 2), 0.3).view());
        assert!(flat.pixels().all(|p| p == flat.get_pixel(0, 0)), "nowhere more than elsewhere");
    }

    #[test]
    fn a_hot_spot_is_where_it_should_be() {
        let mut map = Array2::zeros((8, 4));
        map[(6, 1)] = 0.7;
        let drawn = overlay(&RgbImage::from_pixel(32, 64, Rgb([90; 3])), map.view());
        let (x, y, _) = drawn
            .enumerate_pixels()
            .max_by(|a, b| lightness(*a.2).total_cmp(&lightness(*b.2)))
            .unwrap();
        // row 6 of 8 of 64 pixels, column 1 of 4 of 32
        assert!((48..56).contains(&y) && (8..16).contains(&x), "{x} {y}");
    }

    #[test]
    fn a_sheet_has_a_line_for_each_image_and_a_column_for_each_word() {
        let (mut left, mut right) = (Array2::zeros((8, 8)), Array2::zeros((8, 8)));
        left.slice_mut(s![1..3, 0..3]).fill(0.2);
        right.slice_mut(s![5..7, 5..8]).fill(0.1);
        let image = grey(64);
        let line = |label, maps| Attended { label, image: &image, maps };
        let lines = [
            line("pretrained", vec![left.view(), right.view()]),
            line("", vec![right.view(), left.view()]),
        ];
        let words = ["dog".to_owned(), "wooden pot".to_owned()];
        let page = attention_sheet(&words, &lines).unwrap();
        let hottest = hottest();
        let found: Vec<(u32, u32)> =
            page.enumerate_pixels().filter(|p| *p.2 == hottest).map(|(x, y, _)| (x, y)).collect();
        // by the quarters of the part with the maps: which word, and which image
        let (x0, y0) = found.iter().fold((u32::MAX, u32::MAX), |a, b| (a.0.min(b.0), a.1.min(b.1)));
        let (mut corners, step) = (std::collections::BTreeSet::new(), 128 + GAP);
        for (x, y) in found {
            let (x, y) = (x - x0, y - y0);
            let (column, row) = (x / step, y / (step + 2 + LINE));
            let (x, y) = (x % step, y % (step + 2 + LINE));
            corners.insert((column, row, x > 64, y > 32));
        }
        let wanted =
            [(0, 0, false, false), (1, 0, true, true), (0, 1, true, true), (1, 1, false, false)];
        assert_eq!(corners, wanted.into());
        let unlabelled = attention_sheet(&words, &[line("", vec![left.view()])]).unwrap();
        assert!(unlabelled.width() < page.width() && unlabelled.height() < page.height());
        attention_sheet(&[], &[]).unwrap();
    }
}
