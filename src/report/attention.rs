//! Where the images of a concept set attend to its words: Figs. 11 and 19 of the paper.

use image::RgbImage;

use super::grid::Pictures;
use super::overlay::{Attended, attention_sheet};
use super::results::ImageRow;
use super::view::Group;
use crate::Result;
use crate::diffusion::WordMap;

/// Prompts that are shown of each row.
const PROMPTS: usize = 3;

/// The sheet of one concept set of a group: of every row the first image of the first prompts; none where
/// no map was kept.
///
/// # Errors
/// The drawing library's.
pub fn attention(
    group: &Group,
    concepts: &[String],
    finder: &dyn Pictures,
) -> Result<Option<RgbImage>> {
    let mut found: Vec<(String, RgbImage, Vec<WordMap>)> = vec![];
    for row in &group.rows {
        let cells = row.cells.iter().filter(|c| c.concepts == concepts);
        let Some(cell) = cells.min_by_key(|c| c.seed) else { continue };
        let mut images: Vec<&ImageRow> =
            row.images_of(cell).iter().copied().filter(|i| !i.maps.is_empty()).collect();
        images.sort_by_key(|i| (i.prompt, i.seed));
        images.dedup_by_key(|i| i.prompt);
        for image in images.into_iter().take(PROMPTS) {
            let maps = finder.maps(image);
            if let Some(picture) = finder.sample(image).filter(|_| !maps.is_empty()) {
                found.push((format!("{}: {}", row.label, image.text_prompt), picture, maps));
            }
        }
    }
    let Some((_, _, maps)) = found.first() else { return Ok(None) };
    let words: Vec<String> = maps.iter().map(|m| m.word.clone()).collect();
    let lines: Vec<Attended> = found
        .iter()
        .map(|(label, image, maps)| Attended {
            label,
            image,
            maps: maps.iter().map(|m| m.map.view()).collect(),
        })
        .collect();
    attention_sheet(&words, &lines).map(Some)
}
