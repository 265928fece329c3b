//! Pairs of images of which anybody who looks knows the answer, made of the anchors: for catch trials and
//! for practice.

use image::RgbImage;

use crate::report::{Cell, ImageRow, Pictures, Results};
use crate::rng::Rng;

/// Two images, one of which is right in both questions.
pub struct Obvious {
    /// Whose targets are shown.
    pub concept: String,
    /// The text.
    pub prompt: String,
    /// The right one.
    pub good: RgbImage,
    /// An image of another concept.
    pub bad: RgbImage,
}

/// `count` of them; none where there are no two concepts of different categories. Every other one has the
/// drawn truth of a prompt against that of another concept's, where the truth can be drawn; the rest have a
/// copy of a target against a target of another concept, and the category as the text.
pub fn obvious(
    results: &Results,
    pictures: &dyn Pictures,
    category: &dyn Fn(&str) -> String,
    count: usize,
    rng: &mut Rng,
) -> Vec<Obvious> {
    let mut concepts: Vec<&str> = vec![];
    for cell in results.cells.iter().filter(|c| !c.anchor) {
        for concept in &cell.concepts {
            if !concepts.contains(&concept.as_str()) {
                concepts.push(concept);
            }
        }
    }
    let targets: Vec<Vec<RgbImage>> = concepts.iter().map(|c| pictures.targets(c)).collect();
    let mut two: Vec<(usize, usize)> = vec![];
    for (a, one) in concepts.iter().enumerate() {
        for (b, other) in concepts.iter().enumerate() {
            let shown = !targets[a].is_empty() && !targets[b].is_empty();
            if shown && category(one) != category(other) {
                two.push((a, b));
            }
        }
    }
    if two.is_empty() {
        return vec![];
    }
    let some = |of: &[RgbImage], rng: &mut Rng| of[rng.below(of.len())].clone();
    let make = |i: usize| {
        let (a, b) = two[rng.below(two.len())];
        let truth = (i.is_multiple_of(2))
            .then(|| truths(results, pictures, [concepts[a], concepts[b]], rng))
            .flatten();
        let concept = concepts[a].to_owned();
        match truth {
            Some((prompt, good, bad)) => Obvious { concept, prompt, good, bad },
            None => Obvious {
                prompt: format!("photo of a {}", category(&concept)),
                good: some(&targets[a], rng),
                bad: some(&targets[b], rng),
                concept,
            },
        }
    };
    (0..count).map(make).collect()
}

/// A prompt of a concept, drawn, and another prompt of another concept, drawn.
fn truths(
    results: &Results,
    pictures: &dyn Pictures,
    concepts: [&str; 2],
    rng: &mut Rng,
) -> Option<(String, RgbImage, RgbImage)> {
    let images = |concept: &str| -> Vec<&ImageRow> {
        let drawn = |c: &&Cell| c.anchor && c.method == "truth" && c.concepts == [concept];
        let Some(cell) = results.cells.iter().find(drawn) else { return vec![] };
        results.images.iter().filter(|i| i.cell == cell.id && i.of.is_empty()).collect()
    };
    let [own, other] = concepts.map(images);
    if own.is_empty() || other.is_empty() {
        return None;
    }
    let good = own[rng.below(own.len())];
    // the same place in both images would be a hint that misleads
    let others: Vec<_> = other.into_iter().filter(|i| i.prompt != good.prompt).collect();
    let bad = others.get(rng.below(others.len().max(1)))?;
    Some((good.text_prompt.clone(), pictures.sample(good)?, pictures.sample(bad)?))
}
