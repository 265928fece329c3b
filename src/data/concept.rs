//! Concepts: what a customisation learns, and the prompts it is evaluated on.

mod argument;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::picture::{OnCorrupt, Picture, read_picture, read_pictures};
use super::prompt::{Prompt, read_prompts};
use crate::error::nearest;
use crate::world::{self, SIZE, Scene};
use crate::{Error, Result};

pub use argument::named_concepts;

/// What is learnt.
#[derive(Clone, Debug)]
pub struct Concept {
    /// Its name in files and tables.
    pub name: String,
    /// The class word: what stands in a prompt where there is no modifier token.
    pub category: String,
    /// The pictures that show it, upright and as large as they are.
    pub targets: Vec<Picture>,
    /// Evaluation prompts; empty where the source has none of its own.
    pub prompts: Vec<Prompt>,
    /// What draws it, for a concept of the embedded world.
    pub world: Option<world::Concept>,
}

/// Where a concept comes from. In TOML a string is a concept of the world, a table is a folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ConceptSource {
    /// A held-out instance of the embedded world, by name; it has its own prompts.
    World(String),
    /// A folder of pictures.
    Folder(FolderSource),
}

/// A concept in a folder of pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderSource {
    /// The folder, or the only picture.
    pub path: PathBuf,
    /// The class word, such as `dog`.
    pub category: String,
    /// Its name in files and tables: letters, digits, `-`, `_`.
    pub name: String,
    /// Evaluation prompts.
    #[serde(default)]
    pub prompts: Option<PromptSource>,
    /// What to do about a picture that cannot be read.
    #[serde(default)]
    pub on_corrupt: OnCorrupt,
}

/// Where prompts come from: in TOML a string is a file, a list is the prompts themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PromptSource {
    /// A text file, a prompt a line.
    File(PathBuf),
    /// The prompts.
    List(Vec<String>),
}

impl PromptSource {
    /// Reads and checks them for `concepts` concepts.
    ///
    /// # Errors
    /// As [`read_prompts`] and [`Prompt::parse`].
    pub fn load(&self, concepts: usize) -> Result<Vec<Prompt>> {
        match self {
            PromptSource::File(file) => read_prompts(file, concepts),
            PromptSource::List(list) if list.is_empty() => {
                Err(Error::input("the list of prompts is empty"))
            }
            PromptSource::List(list) => list.iter().map(|p| Prompt::parse(p, concepts)).collect(),
        }
    }
}

impl Concept {
    /// The targets' contents, as hashes.
    pub fn target_hashes(&self) -> Vec<&str> {
        self.targets.iter().map(|target| target.hash.as_str()).collect()
    }
}

impl ConceptSource {
    /// The concept's name.
    pub fn name(&self) -> &str {
        match self {
            ConceptSource::World(name) => name,
            ConceptSource::Folder(folder) => &folder.name,
        }
    }

    /// Reads relative paths from `base`: the folder of the file that names them.
    pub fn relative_to(&mut self, base: &Path) {
        if let ConceptSource::Folder(folder) = self {
            folder.path = base.join(&folder.path);
            if let Some(PromptSource::File(file)) = &mut folder.prompts {
                *file = base.join(&file);
            }
        }
    }

    /// Reads pictures and prompts.
    ///
    /// # Errors
    /// [`Error::Input`] with the nearest names for an unknown concept of the world, and as
    /// [`read_pictures`] and [`PromptSource::load`]; [`Error::Io`].
    pub fn load(&self) -> Result<Concept> {
        match self {
            ConceptSource::World(name) => {
                let concept = world_concept(name)?;
                let targets = concept.targets();
                let targets = targets.iter().enumerate();
                Ok(Concept {
                    name: name.clone(),
                    category: concept.class().into(),
                    targets: targets
                        .map(|(i, s)| Picture::new(format!("{i:02}.png"), scene_image(s)))
                        .collect(),
                    prompts: parse_all(&concept.prompts(), 1)?,
                    world: Some(concept),
                })
            }
            ConceptSource::Folder(source) => source.load(),
        }
    }
}

impl FolderSource {
    fn load(&self) -> Result<Concept> {
        check_name(&self.name)?;
        check_category(&self.name, &self.category)?;
        let named = |e: Error| match e {
            Error::Input { message, hint } => {
                Error::Input { message: format!("concept `{}`: {message}", self.name), hint }
            }
            e => e,
        };
        let prompts = self.prompts.as_ref().map(|p| p.load(1)).transpose().map_err(named)?;
        let targets = match self.path.is_file() {
            true => {
                let name = self.path.file_name().unwrap_or_default().to_string_lossy();
                read_picture(&self.path).map(|image| vec![Picture::new(name, image)])
            }
            false => read_pictures(&self.path, self.on_corrupt),
        };
        Ok(Concept {
            name: self.name.clone(),
            category: self.category.trim().into(),
            targets: targets.map_err(named)?,
            prompts: prompts.unwrap_or_default(),
            world: None,
        })
    }
}

/// Loads several concepts.
///
/// # Errors
/// [`Error::Input`] if two have the same name, and as [`ConceptSource::load`].
pub fn load_concepts(sources: &[ConceptSource]) -> Result<Vec<Concept>> {
    let mut names = HashSet::new();
    for source in sources {
        // names become folders: on some systems case does not tell them apart
        if !names.insert(source.name().to_lowercase()) {
            return Err(Error::input_hint(
                format!("the concept `{}` is named twice", source.name()),
                "give every concept a name of its own, and name it once",
            ));
        }
    }
    sources.iter().map(ConceptSource::load).collect()
}

/// A pair of the embedded world by name: its concepts and prompts.
///
/// # Errors
/// [`Error::Input`] with the nearest names.
pub fn world_pair(name: &str) -> Result<([ConceptSource; 2], Vec<Prompt>)> {
    let pairs = world::pairs();
    let pair = pairs.iter().find(|p| p.name == name).ok_or_else(|| {
        let hint = nearest(name, pairs.iter().map(|p| p.name));
        Error::input_hint(format!("the world has no pair `{name}`"), hint)
    })?;
    let source = |c: world::Concept| ConceptSource::World(c.name.into());
    Ok(([source(pair.first), source(pair.second)], parse_all(&pair.prompts(), 2)?))
}

/// Evaluation prompts for any two concepts of the world, `first` in the place of `{0}`.
///
/// # Errors
/// [`Error::Input`] with the nearest names, or if both are the same.
pub fn pair_prompts(first: &str, second: &str) -> Result<Vec<Prompt>> {
    if first == second {
        return Err(Error::input(format!("a pair needs two concepts, but `{first}` is both")));
    }
    let pair =
        world::Pair { name: "", first: world_concept(first)?, second: world_concept(second)? };
    parse_all(&pair.prompts(), 2)
}

fn parse_all(prompts: &[String], concepts: usize) -> Result<Vec<Prompt>> {
    prompts.iter().map(|p| Prompt::parse(p, concepts)).collect()
}

fn world_concept(name: &str) -> Result<world::Concept> {
    let all = || world::concepts().iter().chain(world::tuning_concepts());
    all().find(|c| c.name == name).copied().ok_or_else(|| {
        let hint = nearest(name, all().map(|c| c.name));
        let hint = format!(
            "{hint}; a folder of pictures is FOLDER:CATEGORY on the command line, and has `path`, \
             `category` and `name` in a file's [[concepts]]"
        );
        Error::input_hint(format!("the world has no concept `{name}`"), hint)
    })
}

/// A scene's picture.
pub fn scene_image(scene: &Scene) -> RgbImage {
    let side = SIZE as u32;
    RgbImage::from_raw(side, side, scene.image.clone()).expect("a scene is 64 × 64 × 3 bytes")
}

/// Whether a letter may stand in a concept's name: those of any script, and what is written with them.
fn fits_a_name(c: char) -> bool {
    let foreign = !c.is_ascii() && !c.is_control() && !c.is_whitespace();
    c.is_ascii_alphanumeric() || "-_".contains(c) || foreign
}

/// Whether `name` can name a concept, a pair or an experiment.
///
/// # Errors
/// [`Error::Input`] if it cannot be part of a file's name.
pub fn check_name(name: &str) -> Result<()> {
    let fits = |c: char| fits_a_name(c) || c == '.';
    let letters = name.chars().count();
    if (1..=64).contains(&letters) && name.chars().all(fits) && !name.starts_with('.') {
        return Ok(());
    }
    Err(Error::input_hint(
        format!("`{name}` is no name: it becomes part of file names"),
        "use up to 64 letters, digits, `-`, `_` and `.`, no point first",
    ))
}

/// Whether `category` can be the class word of the concept `name`.
///
/// # Errors
/// [`Error::Input`] if prompts could not have it in them.
pub fn check_category(name: &str, category: &str) -> Result<()> {
    let bad = |c: char| c.is_control() || "{}<>#".contains(c);
    if (1..=100).contains(&category.trim().len()) && !category.contains(bad) {
        return Ok(());
    }
    Err(Error::input_hint(
        format!("concept `{name}`: `{category}` is no category"),
        "give the word for its class, such as dog or wooden pot",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(
        path: &Path,
        name: &str,
        category: &str,
        prompts: Option<PromptSource>,
    ) -> Result<Concept> {
        ConceptSource::Folder(FolderSource {
            path: path.into(),
            category: category.into(),
            name: name.into(),
            prompts,
            on_corrupt: OnCorrupt::Refuse,
        })
        .load()
    }

    #[test]
    fn concepts_of_the_world_have_pictures_and_prompts() {
        let concept = ConceptSource::World("dog_plum".into()).load().unwrap();
        assert_eq!((concept.category.as_str(), concept.targets.len()), ("dog", world::TARGETS));
        assert!(concept.prompts.len() >= 12 && concept.prompts.iter().all(|p| p.names(0)));
        let hashes: HashSet<_> = concept.targets.iter().map(|t| &t.hash).collect();
        assert_eq!(hashes.len(), world::TARGETS, "no two targets are the same");
        let error = ConceptSource::World("dog_plumm".into()).load().unwrap_err();
        assert!(error.hint().unwrap().contains("dog_plum"));
    }

    #[test]
    fn pairs_of_the_world() {
        let (sources, prompts) = world_pair("bear_chair").unwrap();
        assert_eq!(sources.map(|s| s.name().to_owned()), ["bear_sky", "chair_rose"]);
        assert!(prompts.len() >= 8 && prompts.iter().all(|p| p.names(0) && p.names(1)));
        assert!(world_pair("bear_chairs").unwrap_err().hint().unwrap().contains("bear_chair"));
        assert_eq!(pair_prompts("dog_plum", "cup_fern").unwrap().len(), prompts.len());
        assert!(pair_prompts("dog_plum", "dog_plum").is_err());
        assert!(pair_prompts("dog_plum", "none").is_err());
    }

    #[test]
    fn folders_need_a_name_a_category_and_pictures() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            folder(dir.path(), "x", "dog", None).unwrap_err().to_string().contains("concept `x`")
        );
        RgbImage::new(3, 2).save(dir.path().join("a.png")).unwrap();
        let concept = folder(dir.path(), "rex", " dog ", None).unwrap();
        assert_eq!((concept.category.as_str(), concept.prompts.len()), ("dog", 0));
        assert_eq!(concept.targets[0].image.dimensions(), (3, 2));
        assert_eq!(folder(dir.path(), "café_猫", "cat", None).unwrap().name, "café_猫");
        for name in ["", "a/b", "..", "a b"] {
            assert_eq!(folder(dir.path(), name, "dog", None).unwrap_err().exit_code(), 3, "{name}");
        }
        for category in ["", " ", "<new1> dog", "a\nb"] {
            assert!(folder(dir.path(), "x", category, None).is_err(), "{category}");
        }
        let list = |p: &[&str]| Some(PromptSource::List(p.iter().map(|p| p.to_string()).collect()));
        assert_eq!(folder(dir.path(), "x", "dog", list(&["a {}"])).unwrap().prompts.len(), 1);
        assert!(folder(dir.path(), "x", "dog", list(&[])).is_err());
        assert!(folder(dir.path(), "x", "dog", list(&["a {1}"])).is_err());
    }

    #[test]
    fn sources_are_read_from_toml() {
        #[derive(Deserialize)]
        struct Concepts {
            concepts: Vec<ConceptSource>,
        }
        let text = r#"
            concepts = ["dog_plum", { path = "pot", category = "wooden pot", name = "pot", prompts = "p.txt" }]
        "#;
        let mut found = toml::from_str::<Concepts>(text).unwrap().concepts;
        found[1].relative_to(Path::new("/data"));
        let ConceptSource::Folder(pot) = &found[1] else { panic!() };
        assert_eq!(pot.path, Path::new("/data/pot"));
        assert_eq!(pot.prompts, Some(PromptSource::File("/data/p.txt".into())));
        assert_eq!(found[0], ConceptSource::World("dog_plum".into()));

        let twice = vec![found[0].clone(), ConceptSource::World("Dog_Plum".into())];
        assert!(load_concepts(&twice).unwrap_err().to_string().contains("named twice"));
        assert_eq!(load_concepts(&found[..1]).unwrap().len(), 1);
    }
}
