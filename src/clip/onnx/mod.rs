//! From a folder of transformers to ONNX files, one for each tower, written once into a cache.

mod graph;
mod proto;
mod towers;
mod vit;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ClipConfig;
use super::vit_embedder::VitFacts;
use crate::Result;
use crate::diffusion::weights::Weights;
pub(super) use towers::{IDS, IMAGE_EMBEDS, MASK, PIXELS, POOL, POSITIONS, TEXT_EMBEDS};
pub(super) use vit::FEATURES;

/// Goes up when the graphs change, so that no cached file of an older program is taken.
const EXPORTER: u32 = 1;

/// A CLIP whose towers lie as ONNX files in a cache.
pub struct Exported {
    /// `pixel_values` → `image_embeds`.
    pub image: PathBuf,
    /// `input_ids` and what goes with them → `text_embeds`.
    pub text: PathBuf,
    /// Of the weights' values and of what else of the configuration the features depend on: the same
    /// for f16 and f32 files of the same values, single or sharded.
    pub hash: String,
}

/// Writes the two towers of the CLIP in `folder` into `cache`, unless they are there already.
///
/// # Errors
/// [`crate::Error::Input`] naming the file and the tensor that is missing, misshapen or unknown;
/// [`crate::Error::Io`].
pub fn export(folder: &Path, config: &ClipConfig, cache: &Path) -> Result<Exported> {
    let weights = Weights::open(folder, "model")?;
    let graphs = [("image", towers::image(config)), ("text", towers::text(config))];
    let (text, vision) = (&config.text_config, &config.vision_config);
    let facts = json!({
        "heads": [text.num_attention_heads, vision.num_attention_heads],
        "act": [text.hidden_act, vision.hidden_act],
        "eps": [text.layer_norm_eps, vision.layer_norm_eps],
        "eos": text.extra.get("eos_token_id"),
        "patch": vision.patch_size,
    });
    let hash = hash(&facts, graphs.iter().map(|(_, graph)| graph), &weights)?;
    // the temperature of training, no part of the features
    if weights.contains("logit_scale") {
        weights.tensor("logit_scale", &[])?;
    }
    weights.finish()?;
    let folder = cache.join(format!("clip-{hash}"));
    let [image, text] = graphs.map(|(name, graph)| {
        let path = folder.join(format!("{name}.v{EXPORTER}.onnx"));
        if !path.is_file() {
            tracing::info!("writing {}", path.display());
            graph.write(&weights, &path)?;
        }
        Ok::<_, crate::Error>(path)
    });
    Ok(Exported { image: image?, text: text?, hash })
}

/// Writes the vision transformer in `folder`, for pictures of `side` pixels, into `cache`, unless it is
/// there already: the file, and a hash as [`Exported`] has it.
///
/// # Errors
/// As [`export`].
pub(super) fn export_vit(
    folder: &Path,
    config: &VitFacts,
    side: usize,
    cache: &Path,
) -> Result<(PathBuf, String)> {
    let weights = Weights::open(folder, "model")?;
    let rows = vit::rows(config, side, &weights)?;
    let graph = vit::tower(config, side, &rows);
    let bytes: Vec<u8> = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
    let facts = json!({
        "kind": format!("{:?}", config.kind()),
        "heads": config.num_attention_heads,
        "act": config.hidden_act,
        "eps": config.layer_norm_eps,
        "patch": config.patch_size,
        "rows": format!("{:x}", Sha256::digest(bytes)),
    });
    let hash = hash(&facts, [&graph], &weights)?;
    // what only training, or only another head, needs
    for key in ["embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias"] {
        if let Some(shape) = weights.shape(key) {
            weights.tensor(key, &shape)?;
        }
    }
    weights.finish()?;
    let path = cache.join(format!("vit-{hash}/image.v{EXPORTER}.onnx"));
    if !path.is_file() {
        tracing::info!("writing {}", path.display());
        graph.write(&weights, &path)?;
    }
    Ok((path, hash))
}

fn hash<'a>(
    facts: &Value,
    graphs: impl IntoIterator<Item = &'a graph::Graph>,
    weights: &Weights,
) -> Result<String> {
    let used: BTreeMap<_, _> = graphs
        .into_iter()
        .flat_map(|graph| graph.weights())
        .map(|weight| (&weight.key, &weight.shape))
        .collect();
    let used: Vec<_> = used.into_iter().collect();
    let each: Vec<String> = used
        .par_iter()
        .map(|(key, shape)| {
            let bytes = graph::bytes(&weights.tensor(key, shape)?)?;
            Ok(format!("{key} {shape:?} {:x}\n", Sha256::digest(bytes)))
        })
        .collect::<Result<_>>()?;
    let mut hash = Sha256::new();
    hash.update(facts.to_string());
    each.iter().for_each(|line| hash.update(line));
    Ok(format!("{:x}", hash.finalize()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use candle_core::{DType, Device};
    use prost::Message;

    use super::proto::ModelProto;
    use super::*;
    use crate::clip::Clip;

    /// A checker's rules: one message, every value defined once and before it is used, the outputs given.
    #[test]
    fn files_are_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/clip");
        let cache = tempfile::tempdir().unwrap();
        let config = ClipConfig::read(&folder).unwrap();
        let exported = export(&folder, &config, cache.path()).unwrap();
        for (path, output) in [(&exported.image, IMAGE_EMBEDS), (&exported.text, TEXT_EMBEDS)] {
            let model = ModelProto::decode(&std::fs::read(path).unwrap()[..]).unwrap();
            assert_eq!((model.ir_version, model.opset_import[0].version), (Some(8), Some(17)));
            let graph = model.graph.unwrap();
            let mut known = HashSet::new();
            let inputs = graph.input.iter().map(|i| i.name().to_owned());
            let tensors = graph.initializer.iter().map(|i| i.name().to_owned());
            for name in inputs.chain(tensors) {
                assert!(known.insert(name.clone()), "{name} twice");
            }
            for node in &graph.node {
                let unknown = node.input.iter().find(|name| !known.contains(*name));
                assert_eq!(unknown, None, "{}", node.op_type());
                assert!(known.insert(node.output[0].clone()), "{} twice", node.output[0]);
            }
            assert_eq!(graph.output.len(), 1);
            assert!(graph.output[0].name() == output && known.contains(output));
            for tensor in &graph.initializer {
                let elements: i64 = tensor.dims.iter().product();
                let size = if tensor.data_type() == proto::FLOAT { 4 } else { 8 };
                assert_eq!(tensor.raw_data().len() as i64, elements * size, "{}", tensor.name());
            }
        }
    }

    #[test]
    fn the_hash_is_of_the_values_not_of_their_type() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/clip");
        let cache = tempfile::tempdir().unwrap();
        let hash = |folder: &Path| {
            let config = ClipConfig::read(folder).unwrap();
            export(folder, &config, cache.path()).unwrap().hash
        };
        let [full, half, again] = [(); 3].map(|_| tempfile::tempdir().unwrap());
        Clip::load(&golden, &Device::Cpu).unwrap().save(full.path(), DType::F32).unwrap();
        let clip = Clip::load(full.path(), &Device::Cpu).unwrap();
        clip.save(half.path(), DType::F16).unwrap();
        let clip = Clip::load(half.path(), &Device::Cpu).unwrap();
        clip.save(again.path(), DType::F32).unwrap();
        assert_eq!(hash(&golden), hash(full.path()));
        assert_ne!(hash(&golden), hash(half.path()), "f16 has rounded");
        assert_eq!(hash(half.path()), hash(again.path()));
    }
}
