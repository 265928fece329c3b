//! The pairs of images that a preference study shows (Table 2 of the paper): a method's beside another's,
//! of the same concepts, prompt and noise.

use std::collections::HashMap;

use super::results::{Cell, ImageRow, Results};
use super::sheet;
use super::view::{Row, groups, same};

/// The columns of the manifest.
const COLUMNS: [&str; 9] = [
    "group",
    "concepts",
    "method",
    "other",
    "prompt",
    "training_seed",
    "image_seed",
    "method_file",
    "other_file",
];

/// An image of a row that the experiment's `study` names, and that of a row that it does not.
pub struct Pair<'a> {
    /// Part of the table: `single` or `multi`.
    pub group: &'a str,
    /// The cell of the first.
    pub own: &'a Cell,
    /// The cell of the second: the same concepts and training seed.
    pub other: &'a Cell,
    /// The first image.
    pub own_image: &'a ImageRow,
    /// The second: the same prompt and noise.
    pub other_image: &'a ImageRow,
}

/// All pairs, those of two rows together.
pub fn study_pairs(results: &Results) -> Vec<Pair<'_>> {
    let studied = |row: &&Row| results.study.iter().any(|label| label == row.label);
    let mut pairs = vec![];
    for group in groups(results) {
        let methods = || group.rows.iter().filter(|r| !r.anchor);
        for own in methods().filter(studied) {
            for other in methods().filter(|r| !studied(r)) {
                for &cell in &own.cells {
                    let Some(&twin) = other.cells.iter().find(|c| same(cell, c)) else { continue };
                    let theirs: HashMap<_, _> =
                        other.images_of(twin).iter().map(|i| ((i.prompt, i.seed), *i)).collect();
                    for &image in own.images_of(cell).iter().filter(|i| i.of.is_empty()) {
                        let Some(&pair) = theirs.get(&(image.prompt, image.seed)) else { continue };
                        pairs.push(Pair {
                            group: group.name,
                            own: cell,
                            other: twin,
                            own_image: image,
                            other_image: pair,
                        });
                    }
                }
            }
        }
    }
    pairs
}

/// A row for each pair: which method an image is of stands here and in no page that raters see.
pub fn pairs(results: &Results) -> (Vec<String>, Vec<sheet::Row>) {
    let line = |pair: Pair| {
        let values = [
            pair.group.to_owned(),
            pair.own.concepts.join(";"),
            pair.own.label.clone(),
            pair.other.label.clone(),
            pair.own_image.text_prompt.clone(),
            pair.own.seed.to_string(),
            pair.own_image.seed.to_string(),
            pair.own_image.file.clone(),
            pair.other_image.file.clone(),
        ];
        COLUMNS.map(str::to_owned).into_iter().zip(values).collect()
    };
    (COLUMNS.map(str::to_owned).into(), study_pairs(results).into_iter().map(line).collect())
}
