//! The pairs of images that a preference study shows (Table 2 of the paper): a method's beside another's,
//! of the same concepts, prompt and noise.

use std::collections::HashMap;

use super::results::Results;
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

/// A row for each pair of the images of a row that the experiment's `study` names and of a method that it
/// does not: which method an image is of stands here and in no page that raters see.
pub fn pairs(results: &Results) -> (Vec<String>, Vec<sheet::Row>) {
    let studied = |row: &&Row| results.study.iter().any(|label| label == row.label);
    let mut lines = vec![];
    for group in &groups(results) {
        let methods = || group.rows.iter().filter(|r| !r.anchor);
        for own in methods().filter(studied) {
            for other in methods().filter(|r| !studied(r)) {
                for cell in &own.cells {
                    let twin = |c: &&&_| same(cell, c);
                    let Some(twin) = other.cells.iter().find(twin) else { continue };
                    let theirs: HashMap<_, _> =
                        other.images_of(twin).iter().map(|i| ((i.prompt, i.seed), i)).collect();
                    let evaluated = own.images_of(cell).iter().filter(|i| i.of.is_empty());
                    for image in evaluated {
                        let Some(pair) = theirs.get(&(image.prompt, image.seed)) else { continue };
                        let values = [
                            group.name.to_owned(),
                            cell.concepts.join(";"),
                            own.label.to_owned(),
                            other.label.to_owned(),
                            image.text_prompt.clone(),
                            cell.seed.to_string(),
                            image.seed.to_string(),
                            image.file.clone(),
                            pair.file.clone(),
                        ];
                        lines.push(COLUMNS.map(str::to_owned).into_iter().zip(values).collect());
                    }
                }
            }
        }
    }
    (COLUMNS.map(str::to_owned).into(), lines)
}
