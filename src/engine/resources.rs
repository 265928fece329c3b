//! What stages need besides each other: the backbone, the judge, concepts, corpora.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device};
use serde_json::Value;

use super::external::MeasureProgram;
use super::key::hex;
use super::store::{Store, file_hash};
use crate::clip::{Embed, ExtractorSpec, Opening, Runtime, how_to_give, open_extractor};
use crate::data::{self, Concept, ConceptSource, Corpus, Prompt, PromptSource, is_clutter};
use crate::diffusion::config::SchedulerConfig;
use crate::diffusion::tokenizer::Tokenizer;
use crate::diffusion::weights::Weights;
use crate::diffusion::{Backbone, BackboneFiles, BackboneSpec, Content, Part};
use crate::error::nearest;
use crate::methods::{Profile, taken_tokens};
use crate::metrics::{Chosen, measure_of};
use crate::spec::Experiment;
use crate::{Error, Result, mini, world};

/// How a run computes; nothing of it is part of a key but the type of the weights and of products.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Where the models are.
    pub device: Device,
    /// What runs CLIP.
    pub runtime: Runtime,
    /// The type of frozen weights and of forward passes.
    pub dtype: DType,
    /// Whether operands of f32's products are rounded to TF32.
    pub tf32: bool,
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
    /// What it was given as.
    name: String,
    backbone: BackboneFiles,
    files: String,
    identity: String,
    profile: Profile,
    size: (usize, usize),
    taken_tokens: usize,
    parameters: Vec<String>,
    numbers: Numbers,
    concepts: BTreeMap<String, Concept>,
    pairs: BTreeMap<String, (Vec<String>, Vec<Prompt>)>,
    metrics: Vec<Chosen>,
    threshold: f32,
    /// Where they are, by their names, and those that are open.
    extractors: BTreeMap<String, ExtractorSpec>,
    open: Mutex<BTreeMap<String, Arc<dyn Embed>>>,
    /// Where hashes of files are kept.
    hashes: PathBuf,
    corpora: Mutex<BTreeMap<String, Arc<dyn Corpus>>>,
    base: PathBuf,
}

/// The extractor that also chooses captions.
const CLIP: &str = "clip";

/// How many numbers the UNet has, and how many of them are keys and values of cross attention.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// All.
    pub unet: u64,
    /// Keys and values of cross attention.
    pub kv: u64,
}

/// The least similarity of a regularisation caption: the paper's (section 3.2), for ViT-B/32.
const THRESHOLD: f32 = 0.85;
/// The same for the judge that comes with a backbone, whose cosines spread wider.
const OWN_THRESHOLD: f32 = 0.7;

impl Resources {
    /// Finds what `experiment` names, for the concepts and pairs given; `backbone` is the experiment's own
    /// or replaces it.
    ///
    /// # Errors
    /// What is missing or cannot be read, by name.
    pub fn new(
        experiment: &Experiment,
        backbone: &BackboneSpec,
        concepts: &[String],
        pairs: &[String],
        machine: Machine,
        store: &Store,
    ) -> Result<Self> {
        let (name, backbone) = (backbone.name.clone(), BackboneFiles::open(backbone)?);
        // headers alone: a file that is missing or cut is named before anything runs
        let [unet, vae, text_encoder] = [
            backbone.weights(Part::UNet)?,
            backbone.weights(Part::Vae)?,
            backbone.weights(Part::TextEncoder)?,
        ];
        let files = backbone_hash(&backbone, &store.hashes())?;
        let identity = match (machine.dtype, machine.tf32) {
            (DType::F32, false) => files.clone(),
            (dtype, tf32) => hex(format!("{files} {dtype:?}{}", if tf32 { " TF32" } else { "" })),
        };
        let folder = |path: PathBuf| ExtractorSpec::Folder(path.to_string_lossy().into_owned());
        let (clip, threshold) = match experiment.evaluation.clip.as_deref() {
            Some(mini::NAME) => (Some(folder(mini::clip_folder()?)), OWN_THRESHOLD),
            Some(given) => {
                let given = ExtractorSpec::Folder(given.to_owned());
                (Some(given.relative_to(&experiment.base)), THRESHOLD)
            }
            // a training may do without
            None => match backbone.companion(CLIP) {
                Some(own) => (Some(folder(own)), OWN_THRESHOLD),
                None => (None, THRESHOLD),
            },
        };
        let mut registry = experiment.registry.clone();
        for (name, spec) in &experiment.measures {
            // a program that nobody asks is not asked for its version
            if experiment.metrics.iter().flatten().any(|metric| measure_of(metric) == name) {
                let (base, hashes) = (&experiment.base, &store.hashes());
                registry.add(Arc::new(MeasureProgram::find(name, spec, base, hashes)?));
            }
        }
        let metrics = registry.choose(experiment.metrics.as_deref())?;
        if experiment.extractors.contains_key(CLIP) {
            return Err(Error::input_hint(
                format!("`extractors.{CLIP}`: this one also chooses captions"),
                format!("give it as `evaluation.{CLIP}` or with --{CLIP}"),
            ));
        }
        let mut extractors: BTreeMap<String, ExtractorSpec> =
            clip.into_iter().map(|clip| (CLIP.to_owned(), clip)).collect();
        for chosen in &metrics {
            let Some(name) = &chosen.metric.extractor else { continue };
            if name == CLIP || extractors.contains_key(name) {
                continue;
            }
            let spec = match experiment.extractors.get(name) {
                Some(ExtractorSpec::Folder(path)) if path == mini::NAME => {
                    folder(mini::folder()?.join(name))
                }
                Some(spec) => spec.relative_to(&experiment.base),
                // what comes with a backbone needs no words
                None => backbone.companion(name).map(folder).ok_or_else(|| {
                    let metric = &chosen.metric.name;
                    Error::input_hint(
                        format!("nothing says where the extractor `{name}` of `{metric}` is"),
                        how_to_give(name),
                    )
                })?,
            };
            extractors.insert(name.clone(), spec);
        }
        let mut resources = Resources {
            size: backbone.blueprint.default_size(),
            profile: Profile::Mini,
            machine,
            name,
            files,
            identity,
            taken_tokens: taken_tokens(&backbone.blueprint.tokenizer),
            backbone,
            numbers: numbers(&unet),
            parameters: parameters(&unet, &vae, &text_encoder),
            concepts: BTreeMap::new(),
            pairs: BTreeMap::new(),
            metrics,
            threshold: experiment.regularization.threshold.unwrap_or(threshold),
            extractors,
            open: Mutex::default(),
            hashes: store.hashes(),
            corpora: Mutex::default(),
            base: experiment.base.clone(),
        };
        let usual = Profile::of_size(resources.size.0.max(resources.size.1));
        resources.profile = experiment.profile.unwrap_or(usual);
        let regularization = &experiment.regularization;
        if usual == Profile::Sd
            && [&regularization.corpus, &regularization.validation]
                .iter()
                .any(|c| c.starts_with("mini"))
        {
            tracing::warn!(
                "`{}` is regularised with, or compared to, the mini world's pictures of 64 pixels; \
                 `regularization.corpus` and `regularization.validation` take captioned photographs",
                resources.name
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
                let concept = find_concept(experiment, place.key())?.load()?;
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
        &self.name
    }

    /// The backbone's folder, or its file, for programs of others.
    ///
    /// # Errors
    /// [`Error::Io`] where there is no working folder.
    pub fn backbone_path(&self) -> Result<PathBuf> {
        let path = self.backbone.path();
        std::path::absolute(path).map_err(Error::io(path))
    }

    /// Where hashes of files are kept.
    pub fn hashes(&self) -> &Path {
        &self.hashes
    }

    /// The hash of the backbone's configurations and weights, and of the types that are computed in.
    pub fn backbone_identity(&self) -> &str {
        &self.identity
    }

    /// The hash of the backbone's files alone: see [`backbone_hash`].
    pub fn backbone_files(&self) -> &str {
        &self.files
    }

    /// The noise schedule that the backbone was trained with.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.backbone.blueprint.scheduler
    }

    /// The backbone's tokenizer, as it is before any concept is learnt.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.backbone.blueprint.tokenizer
    }

    /// The names of the backbone's parameters, each with its model's in front.
    pub fn parameters(&self) -> &[String] {
        &self.parameters
    }

    /// How large what is trained can be.
    pub fn numbers(&self) -> Numbers {
        self.numbers
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
    /// As [`Backbone::read`].
    pub fn load_backbone(&self) -> Result<Backbone> {
        Backbone::read(&self.backbone, &self.machine.device, self.machine.dtype)
    }

    /// What is measured.
    pub fn metrics(&self) -> &[Chosen] {
        &self.metrics
    }

    /// What the numbers of these metrics depend on besides the images.
    ///
    /// # Errors
    /// As [`Resources::extractor`]; a metric of prompts whose extractor reads none.
    pub fn meaning_of(&self, metrics: &[Chosen]) -> Result<Value> {
        Ok(Value::Array(metrics.iter().map(|m| self.meaning_of_one(m)).collect::<Result<_>>()?))
    }

    /// As [`Resources::meaning_of`], of one.
    ///
    /// # Errors
    /// As there.
    pub fn meaning_of_one(&self, metric: &Chosen) -> Result<Value> {
        let extractor = metric.metric.extractor.as_deref().map(|by| self.extractor(by));
        metric.meaning(extractor.transpose()?.as_deref())
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
        let missing = || match name {
            CLIP => Error::input_hint(
                format!("nothing says which CLIP judges images of `{}`", self.name),
                "give --clip, or `evaluation.clip` in an experiment, with a hub id or a folder in \
                 transformers' layout (openai/clip-vit-base-patch32 is the paper's)",
            ),
            _ => Error::input_hint(format!("no extractor `{name}` is given"), how_to_give(name)),
        };
        let spec = self.extractors.get(name).ok_or_else(missing)?;
        let opened = open_extractor(spec, &self.machine.opening()?)?;
        Ok(open.entry(name.to_owned()).or_insert(opened).clone())
    }

    /// A path of the experiment.
    pub fn path(&self, path: &str) -> PathBuf {
        below(&self.base, Path::new(path))
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

fn find_concept(experiment: &Experiment, name: &str) -> Result<ConceptSource> {
    let own = experiment.concepts.iter().find(|c| c.name == name);
    let mut of_the_world = world::concepts().iter().chain(world::tuning_concepts());
    let mut source = match own {
        Some(folder) => ConceptSource::Folder(folder.clone()),
        None if experiment.concepts.is_empty() || of_the_world.any(|c| c.name == name) => {
            ConceptSource::World(name.to_owned())
        }
        None => {
            let own = experiment.concepts.iter().map(|c| c.name.as_str());
            return Err(Error::input_hint(
                format!("neither the experiment nor the world has a concept `{name}`"),
                nearest(name, own.chain(world::concepts().iter().map(|c| c.name))),
            ));
        }
    };
    source.relative_to(&experiment.base);
    Ok(source)
}

fn find_pair(experiment: &Experiment, name: &str) -> Result<(Vec<String>, Vec<Prompt>)> {
    if let Some(own) = experiment.pairs.iter().find(|p| p.name == name) {
        let mut prompts = own.prompts.clone();
        if let PromptSource::File(path) = &mut prompts {
            *path = below(&experiment.base, path);
        }
        return Ok((own.concepts.clone(), prompts.load(own.concepts.len())?));
    }
    let (sources, prompts) =
        data::world_pair(name).map_err(|e| match experiment.pairs.is_empty() {
            true => e,
            false => Error::input_hint(
                format!("neither the experiment nor the world has a pair `{name}`"),
                nearest(name, experiment.pairs.iter().map(|pair| pair.name.as_str())),
            ),
        })?;
    Ok((sources.map(|s| s.name().to_owned()).to_vec(), prompts))
}

/// The hash of all that is computed with: configurations, tokenizer and weights of a backbone, by their
/// names. `cache` keeps the hashes of files.
///
/// # Errors
/// A file that cannot be read.
pub fn backbone_hash(backbone: &BackboneFiles, cache: &Path) -> Result<String> {
    let mut hashes = vec![];
    for (name, content) in backbone.contents()? {
        if is_clutter(&name) {
            continue;
        }
        let hash = match content {
            Content::File(path) => file_hash(&path, cache)?,
            Content::Text(text) => hex(text),
        };
        hashes.push((name, hash));
    }
    hashes.sort();
    Ok(hex(hashes.iter().map(|(name, hash)| format!("{name} {hash}\n")).collect::<String>()))
}

fn numbers(unet: &Weights) -> Numbers {
    let count = |key: &str| unet.shape(key).unwrap_or_default().iter().product::<usize>() as u64;
    let kv = |key: &&str| key.ends_with("attn2.to_k.weight") || key.ends_with("attn2.to_v.weight");
    Numbers { unet: unet.keys().map(count).sum(), kv: unet.keys().filter(kv).map(count).sum() }
}

fn parameters(unet: &Weights, vae: &Weights, text_encoder: &Weights) -> Vec<String> {
    let mut names: Vec<String> = unet.keys().map(|key| format!("unet.{key}")).collect();
    names.extend(vae.keys().map(|key| format!("vae.{}", Weights::name_of(key))));
    // transformers 5 leaves out the prefix that version 4 wrote
    let bare = |key: &str| key.strip_prefix("text_model.").unwrap_or(key).to_owned();
    names.extend(text_encoder.keys().map(|key| format!("text_encoder.text_model.{}", bare(key))));
    // where modifier tokens will be
    names.push("text_encoder.text_model.embeddings.token_embedding.added".to_owned());
    names
}
