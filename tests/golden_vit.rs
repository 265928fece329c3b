//! Vision transformers and ONNX files against transformers, Pillow and torch: tests/golden/vit_towers.py
//! made the values. tract runs the networks; with ORT_DYLIB_PATH, ONNX Runtime does.

mod common;

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use cdbench::clip::{
    Embed, ExtractorSpec, FileSpec, FilterName, Opening, Preprocessor, Runtime, open_extractor,
};
use common::{Golden, assert_close, path};
use image::RgbImage;

const PICTURES: [&str; 3] = ["wide", "high", "small"];
/// Names, and the side that each was trained on.
const TOWERS: [(&str, usize); 3] = [("vit", 64), ("dino", 56), ("dinov2", 98)];

fn folder(tower: &str) -> String {
    path(&format!("vit_towers/{tower}"))
}

fn pictures() -> Vec<RgbImage> {
    let open = |name| image::open(path(&format!("clip_towers/{name}.png"))).unwrap().to_rgb8();
    PICTURES.map(open).into()
}

fn opening(cache: &Path) -> Opening {
    let runtime = match std::env::var_os("ORT_DYLIB_PATH") {
        Some(_) => Runtime::Native,
        None => Runtime::Tract,
    };
    Opening { runtime, cuda: false, cache: cache.to_owned(), workers: 2 }
}

fn open(folder: String, cache: &Path) -> cdbench::Result<Arc<dyn Embed>> {
    open_extractor(&ExtractorSpec::Folder(folder), &opening(cache))
}

fn rows(extractor: &dyn Embed) -> Vec<Tensor> {
    let pictures = pictures();
    let found = extractor.images(&pictures.iter().collect::<Vec<_>>()).unwrap();
    let row = |row: ndarray::ArrayView1<f32>| Tensor::from_iter(row.iter().copied(), &Device::Cpu);
    found.rows().into_iter().map(|r| row(r).unwrap()).collect()
}

#[test]
fn pictures_are_prepared_as_transformers_does() {
    for (tower, side) in TOWERS {
        let golden = Golden::load(&format!("vit_towers/{tower}.safetensors"));
        let preprocessor = Preprocessor::of_vit(Path::new(&folder(tower)), side).unwrap();
        for (name, picture) in PICTURES.into_iter().zip(pictures()) {
            let found = preprocessor.pixels(&[&picture]).unwrap();
            let found = found.slice(ndarray::s![0, .., ..;5, ..;3]).to_owned();
            let found = Tensor::from_iter(found.iter().copied(), &Device::Cpu).unwrap();
            let wanted = golden.get(&format!("pixels.{name}")).flatten_all().unwrap();
            let worst = (found - wanted).unwrap().abs().unwrap().max_all().unwrap();
            let worst: f32 = worst.to_scalar().unwrap();
            assert!(worst < 1e-6, "{tower} {name}: off by {worst}");
        }
    }
}

#[test]
fn features_are_those_of_transformers() {
    let cache = tempfile::tempdir().unwrap();
    for (tower, _) in TOWERS {
        let golden = Golden::load(&format!("vit_towers/{tower}.safetensors"));
        let extractor = open(folder(tower), cache.path()).unwrap();
        for (name, found) in PICTURES.into_iter().zip(rows(&*extractor)) {
            let wanted = golden.get(&format!("features.{name}"));
            // a relative error of 1e-4 is a cosine of more than 0.9999
            assert_close(&format!("{tower} {name}"), &found, wanted, 1e-4);
        }
        assert!(!extractor.reads_texts() && extractor.texts(&["a dog"]).is_err());
        assert_eq!(extractor.images(&[]).unwrap().dim().0, 0);
    }
}

#[test]
fn the_identity_is_that_of_the_numbers() {
    let cache = tempfile::tempdir().unwrap();
    let identity = |tower: &str, edits: &[(&str, &str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(folder(tower)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        for (file, from, to) in edits {
            let path = dir.path().join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{file} has no {from}");
            std::fs::write(path, text.replace(from, to)).unwrap();
        }
        let opened = open(dir.path().display().to_string(), cache.path());
        opened.map(|e| e.identity().to_owned()).map_err(|e| e.to_string())
    };
    let own = identity("dinov2", &[]).unwrap();
    let comment = ("config.json", "\"transformers_version\"", "\"comment\"");
    assert_eq!(identity("dinov2", &[comment]).unwrap(), own);
    let crop = ("preprocessor_config.json", "56", "42");
    assert_ne!(identity("dinov2", &[crop]).unwrap(), own, "another grid of positions");
    let eps = ("config.json", "1e-06", "1e-05");
    assert_ne!(identity("dinov2", &[eps]).unwrap(), own);
    for (file, from, to, words) in [
        ("config.json", "\"dinov2\"", "\"dinov3\"", "dinov3"),
        ("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "no place"),
        ("config.json", "\"hidden_size\": 48", "\"hidden_size\": 47", "num_attention_heads"),
        ("config.json", "\"patch_size\": 14", "\"patch_size\": 15", "patch_size"),
        ("config.json", "\"use_swiglu_ffn\": false", "\"use_swiglu_ffn\": true", "use_swiglu_ffn"),
        ("preprocessor_config.json", "56", "57", "57x57"),
        ("preprocessor_config.json", "BitImage", "BlipImage", "image_processor_type"),
    ] {
        let message = identity("dinov2", &[(file, from, to)]).unwrap_err();
        assert!(message.contains(words), "{to}: {message}");
    }
}

/// The network gives its pictures back: what comes out is how they were prepared.
fn given_back(keys: &str) -> FileSpec {
    let onnx = path("vit_towers/given_back.onnx");
    let table: String =
        format!("onnx = {onnx:?}\nsize = 16\nscale = 1.0\noutput = \"row\"\n{keys}");
    toml::from_str(&table).unwrap()
}

#[test]
fn an_onnx_file_takes_pictures_as_its_keys_say() {
    let cache = tempfile::tempdir().unwrap();
    let golden = Golden::load("vit_towers/resized.safetensors");
    for (kind, keys) in [
        ("pillow", "rounded = false"),
        ("torch.bilinear", "filter = \"bilinear\"\nantialias = false\nrounded = false"),
        ("torch.bicubic", "antialias = false\nrounded = false"),
    ] {
        let spec = ExtractorSpec::File(given_back(keys));
        let extractor = open_extractor(&spec, &opening(cache.path())).unwrap();
        for (name, found) in PICTURES.into_iter().zip(rows(&*extractor)) {
            let wanted = golden.get(&format!("{kind}.{name}"));
            assert_close(&format!("{kind} {name}"), &found, wanted, 1e-5);
        }
    }
    // a map of one pixel is a row; mean and deviation are of each colour
    let keys = "mean = [100.0, 0.0, 0.0]\nstd = [1.0, 2.0, 1.0]";
    let pooled = |keys: &str| {
        let spec = FileSpec { output: Some("pool".into()), ..given_back(keys) };
        let extractor = open_extractor(&ExtractorSpec::File(spec), &opening(cache.path())).unwrap();
        (rows(&*extractor)[0].to_vec1::<f32>().unwrap(), extractor.identity().to_owned())
    };
    let ((plain, own), (moved, other)) = (pooled(""), pooled(keys));
    assert!(own != other && plain.len() == 3);
    for (moved, wanted) in moved.iter().zip([plain[0] - 100.0, plain[1] / 2.0, plain[2]]) {
        assert!((moved - wanted).abs() < 1e-3, "{moved} {wanted}");
    }
}

#[test]
fn a_file_that_gives_no_rows_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    let refused = |spec: FileSpec| {
        let opened = open_extractor(&ExtractorSpec::File(spec), &opening(cache.path()));
        let error = opened.err().unwrap();
        assert_eq!(error.exit_code(), 3, "{error}");
        format!("{error} {}", error.hint().unwrap_or_default())
    };
    let plain = || given_back("");
    let map = refused(FileSpec { output: None, filter: FilterName::Bilinear, ..plain() });
    assert!(map.contains("[1, 3, 16, 16]") && map.contains("map, row, pool"), "{map}");
    let name = refused(FileSpec { output: Some("rows".into()), ..plain() });
    assert!(name.contains("did you mean row?"), "{name}");
    let size = refused(FileSpec { size: 17, ..plain() });
    assert!(size.contains("17x17"), "{size}");
    let shorter: FileSpec = given_back("resize = \"shorter\"");
    assert!(refused(shorter).contains("`crop`"));
    let missing = ExtractorSpec::File(FileSpec { onnx: "nowhere.onnx".into(), ..plain() });
    let error = open_extractor(&missing, &opening(cache.path())).err().unwrap();
    assert!(error.to_string().contains("nowhere.onnx"), "{error}");
}
