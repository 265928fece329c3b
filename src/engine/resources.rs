//! What stages need besides each other: the backbone, the judge, concepts, corpora.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{DType, Device};

use super::key::hex;
use super::store::Store;
use crate::clip::{Embedder, Runtime};
use crate::data::{self, Concept, ConceptSource, Corpus, Prompt, PromptSource, is_clutter};
use crate::diffusion::Backbone;
use crate::diffusion::folder::Folder;
use crate::methods::{Profile, taken_tokens};
use crate::spec::Experiment;
use crate::{Error, Result, mini};

/// How a run computes; nothing of it is part of a key but the type of the weights.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Where the models are.
    pub device: Device,
    /// What runs CLIP.
    pub runtime: Runtime,
    /// The type of frozen weights and of forward passes.
    pub dtype: DType,
}

/// See the module.
pub struct Resources {
    machine: Machine,
    backbone: String,
    identity: String,
    profile: Profile,
    size: (usize, usize),
    taken_tokens: usize,
    concepts: BTreeMap<String, Concept>,
    pairs: BTreeMap<String, (Vec<String>, Vec<Prompt>)>,
    clip: PathBuf,
    threshold: f32,
    embedder: OnceLock<Embedder>,
    opening: Mutex<()>,
    corpora: Mutex<BTreeMap<String, Arc<dyn Corpus>>>,
    base: PathBuf,
}

/// The least similarity of a regularisation caption: the paper's (section 3.2), for ViT-B/32.
const THRESHOLD: f32 = 0.85;
/// The same for the judge that comes with a backbone, whose cosines spread wider.
const OWN_THRESHOLD: f32 = 0.7;

/// The side in pixels up to which a backbone takes the mini backbone's defaults.
const SMALL: usize = 128;

impl Resources {
    /// Finds what `experiment` names, for the concepts and pairs given. `backbone` replaces the
    /// experiment's.
    ///
    /// # Errors
    /// What is missing or cannot be read, by name.
    pub fn new(
        experiment: &Experiment,
        backbone: Option<&str>,
        concepts: &[String],
        pairs: &[String],
        machine: Machine,
        store: &Store,
    ) -> Result<Self> {
        let backbone = backbone.unwrap_or(&experiment.backbone).to_owned();
        let folder = Folder::open(&backbone)?;
        let mut identity = identity(&folder.root, store)?;
        if machine.dtype != DType::F32 {
            identity = hex(format!("{identity} {:?}", machine.dtype));
        }
        let own = folder.root.join("clip");
        let (clip, threshold) = match experiment.evaluation.clip.as_deref() {
            Some("mini") => (mini::clip_folder()?, OWN_THRESHOLD),
            Some(path) => (below(&experiment.base, Path::new(path)), THRESHOLD),
            None if own.join("config.json").is_file() => (own, OWN_THRESHOLD),
            None => {
                return Err(Error::input_hint(
                    format!("nothing says which CLIP judges the images of `{backbone}`"),
                    "give --clip, or `evaluation.clip` in the file, a folder in transformers' layout \
                     (openai/clip-vit-base-patch32 is the paper's)",
                ));
            }
        };
        let mut resources = Resources {
            size: folder.default_size(),
            taken_tokens: taken_tokens(&folder.tokenizer),
            profile: Profile::Mini,
            machine,
            backbone,
            identity,
            concepts: BTreeMap::new(),
            pairs: BTreeMap::new(),
            clip,
            threshold: experiment.regularization.threshold.unwrap_or(threshold),
            embedder: OnceLock::new(),
            opening: Mutex::new(()),
            corpora: Mutex::default(),
            base: experiment.base.clone(),
        };
        let small = resources.size.0.max(resources.size.1) <= SMALL;
        resources.profile =
            experiment.profile.unwrap_or(if small { Profile::Mini } else { Profile::Sd });
        let regularization = &experiment.regularization;
        if !small
            && [&regularization.corpus, &regularization.validation]
                .iter()
                .any(|c| c.starts_with("mini"))
        {
            tracing::warn!(
                "`{}` is regularised with, or compared to, the mini world's pictures of 64 pixels; \
                 `regularization.corpus` and `regularization.validation` take captioned photographs",
                resources.backbone
            );
        }
        let mut wanted = concepts.to_vec();
        for name in pairs {
            let (names, prompts) = find_pair(experiment, name)?;
            wanted.extend(names.iter().cloned());
            resources.pairs.insert(name.clone(), (names, prompts));
        }
        for name in wanted {
            if let Entry::Vacant(place) = resources.concepts.entry(name) {
                let concept = find_concept(experiment, place.key()).load()?;
                place.insert(concept);
            }
        }
        Ok(resources)
    }

    /// A concept of the run.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn concept(&self, name: &str) -> Result<&Concept> {
        let missing = || Error::input(format!("`{name}` is no concept of this run"));
        self.concepts.get(name).ok_or_else(missing)
    }

    /// A pair's concepts and prompts.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn pair(&self, name: &str) -> Result<(Vec<String>, Vec<Prompt>)> {
        let missing = || Error::input(format!("`{name}` is no pair of this run"));
        self.pairs.get(name).cloned().ok_or_else(missing)
    }

    /// The name or path of the backbone.
    pub fn backbone_name(&self) -> &str {
        &self.backbone
    }

    /// The hash of the backbone's configurations and weights, and of their type.
    pub fn backbone_identity(&self) -> &str {
        &self.identity
    }

    /// Which defaults the methods take.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Width and height of images.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// How many modifier tokens the backbone's vocabulary has of its own.
    pub fn taken_tokens(&self) -> usize {
        self.taken_tokens
    }

    /// The least similarity of a regularisation caption with the concept's prompt.
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// How the run computes.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The backbone, freshly loaded.
    ///
    /// # Errors
    /// As [`Backbone::load`].
    pub fn load_backbone(&self) -> Result<Backbone> {
        Backbone::load(&self.backbone, &self.machine.device, self.machine.dtype)
    }

    /// The judge.
    ///
    /// # Errors
    /// As [`Embedder::open`].
    pub fn embedder(&self) -> Result<&Embedder> {
        if let Some(embedder) = self.embedder.get() {
            return Ok(embedder);
        }
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if self.embedder.get().is_none() {
            let cuda = self.machine.device.is_cuda();
            let workers = rayon::current_num_threads();
            let cache = mini::cache_folder()?.join("clip");
            let opened = Embedder::open(&self.clip, self.machine.runtime, cuda, &cache, workers)?;
            let _ = self.embedder.set(opened);
        }
        Ok(self.embedder.get().expect("set above"))
    }

    /// A corpus by the name an experiment gives it.
    ///
    /// # Errors
    /// As [`data::corpus`].
    pub fn corpus(&self, name: &str) -> Result<Arc<dyn Corpus>> {
        let mut corpora = self.corpora.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(corpus) = corpora.get(name) {
            return Ok(corpus.clone());
        }
        let corpus: Arc<dyn Corpus> = match name {
            "mini" | "mini-validation" => data::corpus(name)?.into(),
            path => data::corpus(&below(&self.base, Path::new(path)).to_string_lossy())?.into(),
        };
        corpora.insert(name.to_owned(), corpus.clone());
        Ok(corpus)
    }
}

/// A path of an experiment: relative to its file.
fn below(base: &Path, path: &Path) -> PathBuf {
    if path.is_absolute() { path.to_owned() } else { base.join(path) }
}

fn find_concept(experiment: &Experiment, name: &str) -> ConceptSource {
    let own = experiment.concepts.iter().find(|c| c.name == name);
    let mut source = match own {
        Some(folder) => ConceptSource::Folder(folder.clone()),
        None => ConceptSource::World(name.to_owned()),
    };
    source.relative_to(&experiment.base);
    source
}

fn find_pair(experiment: &Experiment, name: &str) -> Result<(Vec<String>, Vec<Prompt>)> {
    if let Some(own) = experiment.pairs.iter().find(|p| p.name == name) {
        let mut prompts = own.prompts.clone();
        if let PromptSource::File(path) = &mut prompts {
            *path = below(&experiment.base, path);
        }
        return Ok((own.concepts.clone(), prompts.load(own.concepts.len())?));
    }
    let (sources, prompts) = data::world_pair(name)?;
    Ok((sources.map(|s| s.name().to_owned()).to_vec(), prompts))
}

/// The hash of all that is computed with: configurations, tokenizer and weights, by their names.
fn identity(folder: &Path, store: &Store) -> Result<String> {
    let mut files = vec![];
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        let dir = folder.join(part);
        for entry in std::fs::read_dir(&dir).map_err(Error::io(&dir))? {
            let entry = entry.map_err(Error::io(&dir))?;
            let path = entry.path();
            let kept = ["json", "safetensors", "txt"];
            if is_clutter(&entry.file_name().to_string_lossy()) {
                continue;
            }
            if path.extension().is_some_and(|e| kept.iter().any(|k| e == *k)) {
                files.push((
                    format!("{part}/{}", path.file_name().unwrap_or_default().display()),
                    path,
                ));
            }
        }
    }
    files.sort();
    let mut text = String::new();
    for (name, path) in files {
        text += &format!("{name} {}\n", store.file_hash(&path)?);
    }
    Ok(hex(text))
}
