//! What stages need besides each other: the backbone, the judge, concepts, corpora.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device};
use serde_json::Value;

use super::key::hex;
use super::store::Store;
use crate::clip::{Embed, ExtractorSpec, Opening, Runtime, how_to_give, open_extractor};
use crate::data::{self, Concept, ConceptSource, Corpus, Prompt, PromptSource};
use crate::diffusion::Backbone;
use crate::diffusion::folder::Folder;
use crate::methods::Profile;
use crate::metrics::Chosen;
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

impl Machine {
    /// How extractors are opened on it.
    ///
    /// # Errors
    /// No folder to keep exported networks in.
    pub fn opening(&self) -> Result<Opening> {
        Ok(Opening {
            runtime: self.runtime,
            cuda: self.device.is_cuda(),
            cache: mini::cache_folder()?.join("clip"),
            workers: rayon::current_num_threads(),
        })
    }
}

/// See the module.
pub struct Resources {
    machine: Machine,
    backbone: String,
    identity: String,
    profile: Profile,
    size: (usize, usize),
    concepts: BTreeMap<String, Concept>,
    pairs: BTreeMap<String, (Vec<String>, Vec<Prompt>)>,
    metrics: Vec<Chosen>,
    threshold: f32,
    /// Where they are, by their names, and those that are open.
    extractors: BTreeMap<String, ExtractorSpec>,
    open: Mutex<BTreeMap<String, Arc<dyn Embed>>>,
    corpora: Mutex<BTreeMap<String, Arc<dyn Corpus>>>,
    base: PathBuf,
}

/// The extractor that also chooses captions.
const CLIP: &str = "clip";
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
        let metrics = experiment.registry.choose(experiment.metrics.as_deref())?;
        let clip = ExtractorSpec::Folder(clip.to_string_lossy().into_owned());
        if experiment.extractors.contains_key(CLIP) {
            return Err(Error::input_hint(
                format!("`extractors.{CLIP}`: this one also chooses captions"),
                format!("give it as `evaluation.{CLIP}` or with --{CLIP}"),
            ));
        }
        let mut extractors = BTreeMap::from([(CLIP.to_owned(), clip)]);
        for chosen in &metrics {
            let name = &chosen.metric.extractor;
            if extractors.contains_key(name) {
                continue;
            }
            let own = folder.root.join(name);
            let spec = match experiment.extractors.get(name) {
                Some(ExtractorSpec::Folder(path)) if path == mini::NAME => {
                    ExtractorSpec::Folder(mini::folder()?.join(name).to_string_lossy().into_owned())
                }
                Some(spec) => spec.relative_to(&experiment.base),
                // what comes with a backbone needs no words
                None if own.join("config.json").is_file() => {
                    ExtractorSpec::Folder(own.to_string_lossy().into_owned())
                }
                None => {
                    let metric = &chosen.metric.name;
                    return Err(Error::input_hint(
                        format!("nothing says where the extractor `{name}` of `{metric}` is"),
                        how_to_give(name),
                    ));
                }
            };
            extractors.insert(name.clone(), spec);
        }
        let mut resources = Resources {
            size: folder.default_size(),
            profile: Profile::Mini,
            machine,
            backbone,
            identity,
            concepts: BTreeMap::new(),
            pairs: BTreeMap::new(),
            metrics,
            threshold: experiment.regularization.threshold.unwrap_or(threshold),
            extractors,
            open: Mutex::default(),
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

    /// What is measured.
    pub fn metrics(&self) -> &[Chosen] {
        &self.metrics
    }

    /// What the numbers of all metrics depend on besides the images.
    ///
    /// # Errors
    /// As [`Resources::extractor`]; a metric of prompts whose extractor reads none.
    pub fn metrics_meaning(&self) -> Result<Value> {
        let meaning = |m: &Chosen| m.meaning(&*self.extractor(&m.metric.extractor)?);
        Ok(Value::Array(self.metrics.iter().map(meaning).collect::<Result<_>>()?))
    }

    /// The CLIP that chooses captions, and that judges unless a metric names another extractor.
    ///
    /// # Errors
    /// As [`Resources::extractor`].
    pub fn embedder(&self) -> Result<Arc<dyn Embed>> {
        self.extractor(CLIP)
    }

    /// An extractor by its name, opened when it is first asked for.
    ///
    /// # Errors
    /// An extractor that is not given; what opening it gives.
    pub fn extractor(&self, name: &str) -> Result<Arc<dyn Embed>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = open.get(name) {
            return Ok(known.clone());
        }
        let missing =
            || Error::input_hint(format!("no extractor `{name}` is given"), how_to_give(name));
        let spec = self.extractors.get(name).ok_or_else(missing)?;
        let opened = open_extractor(spec, &self.machine.opening()?)?;
        Ok(open.entry(name.to_owned()).or_insert(opened).clone())
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
            let path = entry.map_err(Error::io(&dir))?.path();
            let kept = ["json", "safetensors", "txt"];
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
