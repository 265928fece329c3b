//! Captioned contact sheets.

use std::path::Path;

use plotters::style::FontStyle;

use super::{SIZE, Scene, WorldConfig, concepts};
use crate::drawing::{wrap, write, write_png};
use crate::{Error, Result};

/// Side of a picture on a sheet: scenes are shown three times as large.
const ZOOM: usize = 3;
const PICTURE: usize = SIZE * ZOOM;
/// Of the text, in pixels.
const FONT: u32 = 13;
const LINE: usize = 15;
/// Lines of caption under a picture; the longest caption (18 words) fits.
const LINES: usize = 5;
const GAP: usize = 8;

/// Writes `count` scenes of the training sequence `seed` with their captions as a PNG.
pub fn preview(count: usize, seed: u64, out: &Path, config: &WorldConfig) -> Result<()> {
    config.check()?;
    if !(1..=1000).contains(&count) {
        return Err(Error::input(format!("a preview of {count} scenes: 1 to 1000 can be drawn")));
    }
    let scenes = Scene::sample_range(config, seed, 0..count as u64);
    let cells: Vec<_> = scenes.iter().map(|s| (s.image.as_slice(), s.caption.as_str())).collect();
    sheet(&cells, 8, out)
}

/// Writes the target images of every concept as a PNG: one row each, named at its left.
pub fn preview_concepts(out: &Path) -> Result<()> {
    let rows: Vec<_> = concepts().iter().map(|c| (c.name, c.targets())).collect();
    let cells: Vec<_> = rows
        .iter()
        .flat_map(|(name, scenes)| scenes.iter().map(|s| (s.image.as_slice(), *name)))
        .collect();
    sheet(&cells, super::TARGETS, out)
}

/// Writes pictures (64 × 64 × 3 bytes each) with a line of text under each as a PNG.
pub fn sheet(cells: &[(&[u8], &str)], columns: usize, out: &Path) -> Result<()> {
    let columns = columns.clamp(1, cells.len().max(1));
    let lines = |text: &str| wrap(text, PICTURE as u32, FONT, FontStyle::Normal, LINES);
    let texts: Vec<Vec<String>> = cells.iter().map(|(_, text)| lines(text)).collect();
    let text_lines = texts.iter().map(Vec::len).max().unwrap_or(0);
    let (cell_w, cell_h) = (PICTURE + GAP, PICTURE + text_lines * LINE + GAP);
    let (width, height) = (columns * cell_w, cells.len().div_ceil(columns) * cell_h);
    let mut page = image::RgbImage::from_pixel(width as u32, height as u32, image::Rgb([255; 3]));
    for (i, ((picture, _), lines)) in cells.iter().zip(&texts).enumerate() {
        if picture.len() != SIZE * SIZE * 3 {
            let message =
                format!("picture {i} has {} bytes, a scene has 64 × 64 × 3", picture.len());
            return Err(Error::input(message));
        }
        let (left, top) = (i % columns * cell_w, i / columns * cell_h);
        for y in 0..PICTURE {
            for x in 0..PICTURE {
                let at = 3 * (y / ZOOM * SIZE + x / ZOOM);
                let rgb = [picture[at], picture[at + 1], picture[at + 2]];
                page.put_pixel((left + x) as u32, (top + y) as u32, image::Rgb(rgb));
            }
        }
        for (n, line) in lines.iter().enumerate() {
            let at = (left as u32, (top + PICTURE + 4 + n * LINE) as u32);
            write(&mut page, line, at, FONT, FontStyle::Normal)?;
        }
    }
    write_png(out, &page)
}
