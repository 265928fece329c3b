//! What a prompt with concepts of the embedded world in it asks for, drawn.

use image::RgbImage;

use super::resources::Resources;
use crate::data::scene_image;
use crate::methods::{Modifier, phrase, token};
use crate::world::{self, Scene, SceneSpec};
use crate::{Error, Result};

/// How the concepts are called in the prompts that [`truth`] reads, by their categories.
pub fn truth_phrases(categories: &[String]) -> Vec<String> {
    categories.iter().zip(1..).map(|(word, n)| phrase(Modifier::Rare, n, word)).collect()
}

/// What a prompt with concepts of the embedded world in it asks for; concept number i is `<new{i+1}>`.
///
/// # Errors
/// [`Error::Input`] if a concept is not of the world, or the prompt is not in its words.
pub fn truth(
    resources: &Resources,
    concepts: &[String],
    prompt: &str,
    seed: u64,
) -> Result<SceneSpec> {
    let mut looks = vec![];
    for (name, number) in concepts.iter().zip(1..) {
        let look = resources.concept(name)?.world;
        let look = look.ok_or_else(|| Error::input(format!("`{name}` is not of the world")))?;
        looks.push((token(number), look));
    }
    let looks: Vec<_> = looks.iter().map(|(token, look)| (token.as_str(), *look)).collect();
    world::true_scene(prompt, &looks, seed)
        .ok_or_else(|| Error::input(format!("`{prompt}`: not in the world's words")))
}

/// The picture of [`truth`].
///
/// # Errors
/// As [`truth`].
pub fn render(
    resources: &Resources,
    concepts: &[String],
    prompt: &str,
    seed: u64,
) -> Result<RgbImage> {
    let spec = truth(resources, concepts, prompt, seed)?;
    Ok(scene_image(&Scene::new(spec, prompt.to_owned())))
}
