//! CLIP through ort, against transformers: tests/golden/clip_towers.py made the values. tract runs the
//! networks; with ORT_DYLIB_PATH, ONNX Runtime does.

mod common;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use cdbench::clip::{Clip, Embed, Embedder, Preprocessor, Runtime};
use cdbench::diffusion::tokenizer::Tokenizer;
use cdbench::nn::Var;
use common::{Golden, assert_close, path};
use image::RgbImage;

const TOWERS: [(&str, usize); 2] = [("patch32", 224), ("patch8", 64)];
const PICTURES: [&str; 3] = ["wide", "high", "small"];
const TOLERANCE: f64 = 1e-4;

fn texts() -> [String; 4] {
    let long = "two dogs, one cat & a teddybear on the beach ".repeat(12);
    ["a duck".into(), "photo of a wooden pot in the snow".into(), String::new(), long]
}

fn folder(tower: &str) -> String {
    path(&format!("clip_towers/{tower}"))
}

fn golden(tower: &str) -> Golden {
    Golden::load(&format!("clip_towers/{tower}.safetensors"))
}

fn pictures() -> Vec<RgbImage> {
    let open = |name| image::open(path(&format!("clip_towers/{name}.png"))).unwrap().to_rgb8();
    PICTURES.map(open).into()
}

fn runtime() -> Runtime {
    match std::env::var_os("ORT_DYLIB_PATH") {
        Some(_) => Runtime::Native,
        None => Runtime::Tract,
    }
}

fn open(tower: &str, cache: &Path) -> Embedder {
    Embedder::open(Path::new(&folder(tower)), runtime(), false, cache, 2).unwrap()
}

fn tensor<D: ndarray::Dimension>(array: &ndarray::Array<f32, D>) -> Tensor {
    Tensor::from_iter(array.iter().copied(), &Device::Cpu).unwrap()
}

#[track_caller]
fn assert_same(what: &str, found: &Tensor, wanted: &Tensor) {
    assert_close(what, found, wanted, TOLERANCE);
    let dot = |a: &Tensor, b: &Tensor| -> f32 {
        (a * b).unwrap().sum_all().unwrap().to_scalar().unwrap()
    };
    let cosine = dot(found, wanted) / (dot(found, found) * dot(wanted, wanted)).sqrt();
    assert!(cosine >= 0.9999, "{what}: cosine {cosine}");
}

/// With Pillow's resizing pixels are equal but for the last bit of the normalisation.
#[test]
fn pixels() {
    for (tower, side) in TOWERS {
        let golden = golden(tower);
        let preprocessor = Preprocessor::read(Path::new(&folder(tower)), side).unwrap();
        for (name, picture) in PICTURES.into_iter().zip(pictures()) {
            let found = preprocessor.pixels(&[&picture]).unwrap();
            let found = found.slice(ndarray::s![0, .., ..;5, ..;3]).to_owned();
            let wanted = golden.get(&format!("pixels.{name}"));
            let worst = (tensor(&found) - wanted.flatten_all().unwrap()).unwrap().abs().unwrap();
            let worst: f32 = worst.max_all().unwrap().to_scalar().unwrap();
            assert!(worst < 1e-6, "{tower} {name}: off by {worst}");
        }
    }
}

#[test]
fn images_and_texts() {
    let cache = tempfile::tempdir().unwrap();
    for (tower, _) in TOWERS {
        let (golden, clip) = (golden(tower), open(tower, cache.path()));
        println!("{tower} on {}", clip.runtime_name());
        let pictures = pictures();
        // more than a batch
        let many: Vec<&RgbImage> = pictures.iter().cycle().take(20).collect();
        let found = clip.images(&many).unwrap();
        for (i, row) in found.rows().into_iter().enumerate() {
            let name = PICTURES[i % 3];
            let wanted = golden.get(&format!("image.{name}"));
            assert_same(&format!("{tower} {name}"), &tensor(&row.to_owned()), wanted);
        }
        if runtime() == Runtime::Tract {
            let again = found.rows().into_iter().enumerate().skip(3);
            again.for_each(|(i, row)| assert_eq!(row, found.row(i % 3), "the same bits anywhere"));
        }
        let texts = texts();
        let tokenizer = Tokenizer::load(Path::new(&folder(tower))).unwrap();
        for (i, text) in texts.iter().enumerate() {
            let wanted = golden.get(&format!("ids.{i}")).to_dtype(DType::U32).unwrap();
            assert_eq!(tokenizer.encode(text).unwrap().ids, wanted.to_vec1::<u32>().unwrap());
        }
        let many: Vec<&str> = texts.iter().map(String::as_str).cycle().take(22).collect();
        let found = clip.texts(&many).unwrap();
        for (i, row) in found.rows().into_iter().enumerate() {
            let wanted = golden.get(&format!("text.{}", i % 4));
            assert_same(&format!("{tower} text {}", i % 4), &tensor(&row.to_owned()), wanted);
        }
        assert_eq!(clip.images(&[]).unwrap().dim(), (0, clip.width()));
        assert_eq!(clip.texts(&[]).unwrap().dim(), (0, clip.width()));
    }
}

/// The network that is trained and the one that measures are one.
#[test]
fn our_own_network_agrees() {
    let cache = tempfile::tempdir().unwrap();
    let (tower, side) = TOWERS[1];
    let folder = folder(tower);
    let folder = Path::new(&folder);
    let (embedder, clip) = (open(tower, cache.path()), Clip::load(folder, &Device::Cpu).unwrap());
    let pictures = pictures();
    let pictures: Vec<&RgbImage> = pictures.iter().collect();
    let pixels = Preprocessor::read(folder, side).unwrap().pixels(&pictures).unwrap();
    let pixels = tensor(&pixels).reshape((3, 3, side, side)).unwrap();
    let own = clip.encode_images(&Var::constant(pixels)).unwrap();
    let found = tensor(&embedder.images(&pictures).unwrap());
    assert_same("images", &found, &own.value().flatten_all().unwrap());

    let (tokenizer, texts) = (Tokenizer::load(folder).unwrap(), texts());
    let ids: Vec<_> = texts.iter().map(|text| tokenizer.encode(text).unwrap().ids).collect();
    let own = clip.encode_texts(&ids).unwrap();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let found = tensor(&embedder.texts(&texts).unwrap());
    assert_same("texts", &found, &own.value().flatten_all().unwrap());
}

fn copy(tower: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder(tower)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

fn edit(dir: &Path, file: &str, from: &str, to: &str) {
    let path = dir.join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn files_are_written_once_and_the_identity_is_that_of_the_numbers() {
    let cache = tempfile::tempdir().unwrap();
    let names = || {
        let mut names: Vec<_> = walk(cache.path()).into_iter().collect();
        names.sort();
        names
    };
    let first = open("patch8", cache.path()).identity().to_owned();
    let written = names();
    assert_eq!(written.len(), 2, "{written:?}");
    // another place, a comment more: the same numbers
    let dir = copy("patch8");
    edit(dir.path(), "config.json", "\"transformers_version\"", "\"comment\"");
    let open = |dir: &Path| Embedder::open(dir, runtime(), false, cache.path(), 1).unwrap();
    assert_eq!(open(dir.path()).identity(), first);
    assert_eq!(names(), written);
    // what changes pictures changes the identity, and needs no other file
    edit(dir.path(), "preprocessor_config.json", "\"shortest_edge\": 70", "\"shortest_edge\": 71");
    assert_ne!(open(dir.path()).identity(), first);
    assert_eq!(names(), written);
    // what changes the network changes both
    edit(dir.path(), "config.json", "1e-06", "1e-05");
    assert_ne!(open(dir.path()).identity(), first);
    assert_eq!(names().len(), 4);
}

fn walk(dir: &Path) -> Vec<(std::path::PathBuf, std::time::SystemTime)> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .flat_map(|entry| match entry.metadata().unwrap() {
            data if data.is_dir() => walk(&entry.path()),
            data => vec![(entry.path(), data.modified().unwrap())],
        })
        .collect()
}

/// OpenAI's files give null for what is not there.
#[test]
fn nulls_are_defaults() {
    let (cache, dir) = (tempfile::tempdir().unwrap(), copy("patch8"));
    let nulls = "\"text_config\": {\"architectures\": null, \"torch_dtype\": null,";
    edit(dir.path(), "config.json", "\"text_config\": {", nulls);
    edit(
        dir.path(),
        "config.json",
        "\"model_type\": \"clip\"",
        "\"x\": null, \"model_type\": \"clip\"",
    );
    Embedder::open(dir.path(), runtime(), false, cache.path(), 1).unwrap();
}

#[test]
fn what_is_wrong_is_named() {
    let cache = tempfile::tempdir().unwrap();
    for (file, from, to, words) in [
        ("config.json", "\"vocab_size\": 912", "\"vocab_size\": 911", "`text_config.vocab_size`"),
        ("config.json", "\"vocab_size\": 912", "\"vocab_size\": 913", "token_embedding.weight"),
        ("config.json", "_embeddings\": 77", "_embeddings\": 76", "max_position_embeddings"),
        ("config.json", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2", "no place"),
        ("config.json", "\"eos_token_id\": 911", "\"eos_token_id\": -1", "eos_token_id"),
        ("config.json", "\"hidden_size\": 48", "\"hidden_size\": 51", "shape"),
        ("config.json", "\"projection_dim\": 20", "\"projection_dim\": 0", "projection_dim"),
        ("preprocessor_config.json", "\"height\": 64", "\"height\": 65", "`crop_size`"),
    ] {
        let dir = copy("patch8");
        edit(dir.path(), file, from, to);
        let opened = Embedder::open(dir.path(), runtime(), false, cache.path(), 1);
        let message = opened.err().unwrap_or_else(|| panic!("{to} was taken")).to_string();
        assert!(message.contains(words), "{to}: {message}");
        assert!(message.contains(dir.path().to_str().unwrap()), "{message}");
    }
    let dir = copy("patch8");
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let opened = Embedder::open(dir.path(), runtime(), false, cache.path(), 1);
    assert!(opened.err().unwrap().to_string().contains("model.safetensors"));
    assert!(walk(cache.path()).is_empty());
}

#[test]
fn cuda_is_refused_where_there_is_none() {
    let cache = tempfile::tempdir().unwrap();
    let opened = Embedder::open(Path::new(&folder("patch8")), runtime(), true, cache.path(), 1);
    assert!(matches!(opened, Err(cdbench::Error::Device { .. })));
}
