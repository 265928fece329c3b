//! What a prompt asks for, drawn by the renderer with the concepts in it: the most that a customisation
//! can reach, since no method knows a concept better than the program that draws it.

use super::concepts::Concept;
use super::names::names;
use super::reading::{Noun, read};
use super::sample::{BARE, WorldConfig, place, random_pattern};
use super::spec::{Background, ObjectSpec, Said, SceneSpec};
use super::sprite::Art;
use super::{ColorWord, Scene};
use crate::rng::Rng;

/// A scene of what `prompt` says. `tokens` are the modifier tokens in it, each with the concept that it
/// stands for; a colour in front of a token replaces that of the concept's body. What the prompt leaves
/// open is drawn from `seed`. `None` if the prompt has no object, more than two, or a word that the
/// world does not know.
pub fn rendered_truth(prompt: &str, tokens: &[(&str, Concept)], seed: u64) -> Option<Scene> {
    Some(Scene::new(true_scene(prompt, tokens, seed)?, prompt.to_owned()))
}

/// The scene of [`rendered_truth`], not drawn.
pub fn true_scene(prompt: &str, tokens: &[(&str, Concept)], seed: u64) -> Option<SceneSpec> {
    let reading = read(prompt);
    let mut rng = Rng::new(seed, &format!("truth {prompt}"));
    if reading.unread {
        return None;
    }
    let objects = reading.objects.iter().map(|noun| object(noun, tokens, &mut rng));
    let mut objects: Vec<ObjectSpec> = objects.collect::<Option<_>>()?;
    let relation = match objects.len() {
        1 => None,
        2 => reading.relation.or(Some(super::Relation::NextTo)),
        _ => return None,
    };
    let size_word = reading.size_word.filter(|_| relation.is_none());
    let config = WorldConfig::default();
    place(&config, &mut objects, relation, size_word, reading.style, &mut rng);
    let any = Background::ALL[rng.below(Background::ALL.len())];
    Some(SceneSpec {
        objects,
        relation,
        size_word,
        background: reading.background.unwrap_or(any),
        background_named: reading.background.is_some(),
        style: reading.style,
        seed: rng.below(1 << 48) as u64,
    })
}

fn object(noun: &Noun, tokens: &[(&str, Concept)], rng: &mut Rng) -> Option<ObjectSpec> {
    let concept = tokens.iter().find(|(token, _)| Some(*token) == noun.name).map(|(_, c)| c);
    let name = names().iter().position(|n| Some(n.word.as_str()) == noun.name);
    let mut object = match (concept, name) {
        (Some(concept), _) => concept.object(),
        (None, Some(at)) => {
            let look = &names()[at];
            ObjectSpec { color: Some(look.color), pattern: look.pattern, name, ..BARE }
        }
        (None, None) if noun.name.is_some() => return None,
        (None, None) => BARE,
    };
    object.category = noun.category;
    if let Some(color) = noun.color {
        object.color = Some(color.sample(rng));
    }
    if noun.pattern.is_some() || noun.ink.is_some() {
        let body = object.color.map_or(Art::Object(object.category).sprite().main, |c| c.rgb());
        let mut pattern = object.pattern.unwrap_or_else(|| random_pattern(body, rng));
        pattern.kind = noun.pattern.unwrap_or(pattern.kind);
        pattern.color = noun.ink.map_or(pattern.color, |ink: ColorWord| ink.sample(rng));
        object.pattern = Some(pattern);
    }
    object.said = Said {
        color: noun.color.is_some(),
        pattern: noun.pattern.is_some(),
        ink: noun.ink.is_some(),
    };
    object.tilt = rng.uniform(-0.03, 0.03);
    object.aspect = rng.uniform(0.95, 1.05);
    object.flip = rng.chance(0.5);
    Some(object)
}
