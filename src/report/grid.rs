//! Samples of a concept or pair: methods × prompts, with the targets on the left.

use std::path::PathBuf;

use image::imageops::{FilterType, replace, resize};
use image::{Rgb, RgbImage};
use plotters::style::FontStyle;

use super::results::{Cell, ImageRow};
use super::view::{Group, Row};
use crate::Result;
use crate::diffusion::WordMap;
use crate::drawing::{wrap, write};

pub(super) const GAP: u32 = 4;
pub(super) const MARGIN: u32 = 12;
pub(super) const SIZE: u32 = 17;
pub(super) const LINE: u32 = 15;
const LABEL: u32 = 120;
/// Between the texts of neighbours.
const APART: u32 = 6;
/// Columns of samples.
const COLUMNS: usize = 8;
/// Side of a sample on the page, unless it is so small that it is doubled.
const SIDE: u32 = 160;
const DOUBLED: u32 = 80;
const EMPTY: Rgb<u8> = Rgb([238; 3]);

/// Finds the pictures of a report.
pub trait Pictures: Sync {
    /// The picture of a row; none if it is lost.
    fn sample(&self, row: &ImageRow) -> Option<RgbImage>;

    /// The targets of a concept.
    fn targets(&self, concept: &str) -> Vec<RgbImage>;

    /// Where the picture of a row attends to words; nothing if that was not kept.
    fn maps(&self, _row: &ImageRow) -> Vec<WordMap> {
        vec![]
    }

    /// The file of the picture of a row, if it has one: what is in it is not read again while the file is
    /// the same.
    fn file(&self, _row: &ImageRow) -> Option<PathBuf> {
        None
    }

    /// How the picture of a row was made, if that is known.
    fn origin(&self, _row: &ImageRow) -> Option<Origin> {
        None
    }
}

/// How a picture was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// What it was asked for by, with modifier tokens.
    pub prompt: String,
    /// The key of its checkpoint, or what made it without one.
    pub checkpoint: String,
    /// The command that makes it again.
    pub command: Again,
}

/// The command that makes a picture again.
#[derive(Clone, Debug, PartialEq)]
pub enum Again {
    /// It samples one picture: but for prompt, seed and where it goes.
    Sample(String),
    /// It makes all pictures of a cell that are not there.
    Run(String),
}

/// The grid of one concept set of a group, of the images that were asked for by `of`; none where no row
/// has a picture.
///
/// # Errors
/// The drawing library's.
pub fn grid(
    group: &Group,
    concepts: &[String],
    of: &str,
    finder: &dyn Pictures,
) -> Result<Option<RgbImage>> {
    let shown = columns(group, concepts, of);
    let mut rows: Vec<(&str, Vec<Option<RgbImage>>)> = vec![];
    for row in &group.rows {
        let Some(cell) = cell_of(row, concepts) else { continue };
        let images: Vec<_> = row.images_of(cell).iter().filter(|i| i.of == of).collect();
        let find = |(prompt, nth): &(usize, usize)| {
            let mut of_prompt: Vec<_> = images.iter().filter(|i| i.prompt == *prompt).collect();
            of_prompt.sort_by_key(|i| i.seed);
            of_prompt.get(*nth).and_then(|i| finder.sample(i))
        };
        let pictures: Vec<_> = shown.iter().map(|(column, _)| find(column)).collect();
        if pictures.iter().any(Option::is_some) {
            rows.push((row.label, pictures));
        }
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let size =
        rows.iter().flat_map(|(_, p)| p.iter().flatten()).map(|p| p.width().max(p.height())).max();
    let side = match size.unwrap_or(SIDE) {
        small if small <= DOUBLED => (2 * small).max(SIDE / 2),
        _ => SIDE,
    };
    let sets: Vec<Vec<RgbImage>> = concepts.iter().map(|c| finder.targets(c)).collect();

    let step = side + GAP;
    let head: Vec<Vec<String>> = shown
        .iter()
        .map(|(_, prompt)| wrap(prompt, side - APART, SIZE, FontStyle::Normal, 6))
        .collect();
    let lines = head.iter().map(Vec::len).max().unwrap_or(1).max(2) as u32;
    let top = MARGIN + lines * LINE + 8;
    let left = MARGIN + sets.len() as u32 * step + 8;
    let samples_left = left + LABEL + 8;
    let width = samples_left + shown.len() as u32 * step - GAP + MARGIN;
    let height = top + rows.len() as u32 * step - GAP + MARGIN;
    let mut page = RgbImage::from_pixel(width, height, Rgb([255; 3]));

    for (i, (name, pictures)) in concepts.iter().zip(&sets).enumerate() {
        let x = MARGIN + i as u32 * step;
        let title = wrap(&format!("targets of {name}"), side - APART, SIZE, FontStyle::Bold, 2);
        stack(&mut page, &title, (x, top - 8 - title.len() as u32 * LINE), FontStyle::Bold)?;
        for (j, picture) in pictures.iter().take(rows.len()).enumerate() {
            place(&mut page, picture, (x, top + j as u32 * step), side);
        }
    }
    for (i, prompt) in head.iter().enumerate() {
        let x = samples_left + i as u32 * step;
        stack(&mut page, prompt, (x, top - 8 - prompt.len() as u32 * LINE), FontStyle::Normal)?;
    }
    for (j, (label, pictures)) in rows.iter().enumerate() {
        let y = top + j as u32 * step;
        let label = wrap(label, LABEL, SIZE, FontStyle::Bold, 4);
        let middle = y + (side.saturating_sub(label.len() as u32 * LINE)) / 2;
        stack(&mut page, &label, (left, middle), FontStyle::Bold)?;
        for (i, picture) in pictures.iter().enumerate() {
            let at = (samples_left + i as u32 * step, y);
            match picture {
                Some(picture) => place(&mut page, picture, at, side),
                None => replace(
                    &mut page,
                    &RgbImage::from_pixel(side, side, EMPTY),
                    i64::from(at.0),
                    i64::from(at.1),
                ),
            }
        }
    }
    Ok(Some(page))
}

/// The row's first cell of the concepts.
fn cell_of<'a>(row: &Row<'a>, concepts: &[String]) -> Option<&'a Cell> {
    row.cells.iter().copied().filter(|c| c.concepts == concepts).min_by_key(|c| c.seed)
}

/// Which prompts are shown, each with the place among its images and its text: as many images of
/// each as there is room for.
fn columns(group: &Group, concepts: &[String], of: &str) -> Vec<((usize, usize), String)> {
    let mut prompts = std::collections::BTreeMap::<usize, (String, usize)>::new();
    for row in &group.rows {
        let Some(cell) = cell_of(row, concepts) else { continue };
        let mut own = std::collections::BTreeMap::<usize, usize>::new();
        for image in row.images_of(cell).iter().filter(|i| i.of == of) {
            let count = own.entry(image.prompt).or_default();
            *count += 1;
            let known = prompts.entry(image.prompt).or_insert((image.text_prompt.clone(), 0));
            known.1 = known.1.max(*count);
        }
    }
    let each = (COLUMNS / prompts.len().max(1)).max(1);
    let of = |(prompt, (text, count)): (usize, (String, usize))| {
        (0..count.min(each))
            .map(move |i| ((prompt, i), if i == 0 { text.clone() } else { String::new() }))
    };
    prompts.into_iter().flat_map(of).take(COLUMNS).collect()
}

/// Writes lines of text, the first of them at the place.
///
/// # Errors
/// The drawing library's.
pub(super) fn stack(
    page: &mut RgbImage,
    lines: &[String],
    (x, y): (u32, u32),
    style: FontStyle,
) -> Result<()> {
    for (i, line) in lines.iter().enumerate() {
        write(page, line, (x, y + i as u32 * LINE + 2), SIZE, style)?;
    }
    Ok(())
}

/// Draws a picture into a square.
pub(super) fn place(page: &mut RgbImage, picture: &RgbImage, (x, y): (u32, u32), side: u32) {
    let fitted = fit(picture, side);
    let (dx, dy) = ((side - fitted.width()) / 2, (side - fitted.height()) / 2);
    replace(page, &fitted, i64::from(x + dx), i64::from(y + dy));
}

/// A picture as large as fits a square: small ones keep their pixels, others are made to fit.
pub(super) fn fit(picture: &RgbImage, side: u32) -> RgbImage {
    let longer = picture.width().max(picture.height()).max(1);
    let scaled = |length: u32| (length * side / longer).max(1);
    let filter =
        if side.is_multiple_of(longer) { FilterType::Nearest } else { FilterType::Lanczos3 };
    resize(picture, scaled(picture.width()), scaled(picture.height()), filter)
}
