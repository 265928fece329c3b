//! Extractors: what turns pictures into features. A folder in transformers' layout is known by its
//! `model_type`; any other network comes as an ONNX file with a few keys.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::file::{File, FileSpec};
use super::vit_embedder::VitEmbedder;
use super::{Embed, Embedder, Runtime, folder};
use crate::diffusion::config::read_object;
use crate::error::nearest;
use crate::{Error, Result, hub};

/// How extractors are opened.
#[derive(Clone, Debug)]
pub struct Opening {
    /// What runs them.
    pub runtime: Runtime,
    /// On the GPU.
    pub cuda: bool,
    /// Where exported networks are kept.
    pub cache: PathBuf,
    /// At most so many batches run at once, each with a copy of the weights.
    pub workers: usize,
}

/// Where an extractor is, as an experiment says it: `dino = "PATH"`, `dino = "owner/name"` or `inception = { onnx = "FILE", … }`.
#[derive(Clone, Debug, PartialEq)]
pub enum ExtractorSpec {
    /// A folder in transformers' layout, a hub id, or `mini`.
    Folder(String),
    /// An ONNX file.
    File(FileSpec),
}

type Open = fn(&Path, &Opening) -> Result<Arc<dyn Embed>>;

/// The folders that can be opened, by the `model_type` of their configuration.
const LAYOUTS: [(&str, Open); 3] = [
    ("clip", |folder, o| {
        Ok(Arc::new(Embedder::open(folder, o.runtime, o.cuda, &o.cache, o.workers)?))
    }),
    ("vit", |folder, opening| Ok(Arc::new(VitEmbedder::open(folder, opening)?))),
    ("dinov2", |folder, opening| Ok(Arc::new(VitEmbedder::open(folder, opening)?))),
];

/// Where published weights of well-known extractors are: for the hint where one is missing.
const PUBLISHED: [(&str, &str); 3] = [
    ("dino", "facebook/dino-vits16 is CustomConcept101's and DreamBooth's"),
    ("dinov2", "facebook/dinov2-small is DreamBench++'s, facebook/dinov2-base PEFT's"),
    ("inception", "clean-fid's Inception as an ONNX file: size = 299, rounded = false, scale = 1"),
];

/// What to give for an extractor that is missing.
pub fn how_to_give(name: &str) -> String {
    let known = PUBLISHED.iter().find(|(known, _)| *known == name);
    let known = known.map(|(_, where_)| format!(" ({where_})")).unwrap_or_default();
    format!(
        "in the experiment: [extractors] {name} = \"PATH\", a folder in transformers' layout or a hub id, or \
         {name} = {{ onnx = \"FILE\", size = 224 }}{known}"
    )
}

/// Opens the extractor that `spec` describes.
///
/// # Errors
/// [`Error::Input`] naming the file and what is wrong with it; [`Error::Device`] if the runtime or CUDA
/// is asked for and not there.
pub fn open_extractor(spec: &ExtractorSpec, opening: &Opening) -> Result<Arc<dyn Embed>> {
    let folder = match spec {
        ExtractorSpec::Folder(given) => &folder::find(given)?,
        ExtractorSpec::File(file) => return Ok(Arc::new(File::open(file, opening)?)),
    };
    let path = folder.join("config.json");
    let object = read_object(&path)?;
    let kind = object.get("model_type").and_then(|kind| kind.as_str()).unwrap_or("missing");
    match LAYOUTS.iter().find(|(known, _)| *known == kind) {
        Some((_, open)) => open(folder, opening),
        None => Err(Error::input_hint(
            format!("{}: `model_type` is {kind}, which is no extractor known here", path.display()),
            nearest(kind, LAYOUTS.iter().map(|(known, _)| *known)),
        )),
    }
}

impl ExtractorSpec {
    /// The same, with relative paths starting at `base`. What is no path there may be a hub id.
    pub fn relative_to(&self, base: &Path) -> Self {
        match self {
            ExtractorSpec::Folder(given) => ExtractorSpec::Folder(hub::below(base, given)),
            ExtractorSpec::File(file) => {
                ExtractorSpec::File(FileSpec { onnx: base.join(&file.onnx), ..file.clone() })
            }
        }
    }
}

impl<'de> Deserialize<'de> for ExtractorSpec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ExtractorSpec;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a folder, or a table with `onnx`")
            }

            fn visit_str<E>(self, folder: &str) -> std::result::Result<ExtractorSpec, E> {
                Ok(ExtractorSpec::Folder(folder.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                map: A,
            ) -> std::result::Result<ExtractorSpec, A::Error> {
                FileSpec::deserialize(MapAccessDeserializer::new(map)).map(ExtractorSpec::File)
            }
        }
        from.deserialize_any(Either)
    }
}
