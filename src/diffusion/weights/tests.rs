use std::path::PathBuf;

use super::*;
use proptest::prelude::*;

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// A folder with one file of two tensors.
fn saved() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let a = tensor(&[1.0, -2.5, 3.25, 0.1, 0.0, 7.0], &[2, 3]);
    let b = tensor(&[1.0, 1e-3, -65504.0], &[3]);
    save_weights(&path, [("b".into(), b, DType::F16), ("a".into(), a, DType::F32)]).unwrap();
    (dir, path)
}

fn message<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("it was taken"),
        Err(Error::Input { message, .. }) => message,
        Err(other) => panic!("{other:?} is no input error"),
    }
}

#[test]
fn tensors_come_back_in_f32() {
    let (dir, path) = saved();
    let weights = Weights::open(dir.path(), "model").unwrap();
    assert_eq!(weights.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(weights.shape("a"), Some(vec![2, 3]));
    let a = weights.tensor("a", &[2, 3]).unwrap();
    assert_eq!(flat(&a), [1.0, -2.5, 3.25, 0.1, 0.0, 7.0]);
    let b = weights.tensor("b", &[3]).unwrap();
    assert_eq!(b.dtype(), DType::F32);
    assert_eq!(flat(&b), [1.0, half::f16::from_f32(1e-3).to_f32(), -65504.0]);
    weights.finish().unwrap();

    let header = std::fs::read(&path).unwrap();
    let header = String::from_utf8_lossy(&header[8..]).into_owned();
    assert!(header.starts_with(r#"{"__metadata__":{"format":"pt"},"a""#), "{header}");
}

#[test]
fn bf16_keeps_what_bf16_can_hold() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let values = [1.0, -3.0e38, 0.33203125];
    save_weights(&path, [("x".into(), tensor(&values, &[3]), DType::BF16)]).unwrap();
    let weights = Weights::open_file(&path).unwrap();
    let x = flat(&weights.tensor("x", &[3]).unwrap());
    assert_eq!((x[0], x[2]), (1.0, 0.33203125));
    assert!((x[1] / values[1] - 1.0).abs() < 0.004);
}

#[test]
fn what_does_not_fit_is_named() {
    let (dir, _) = saved();
    let weights = Weights::open(dir.path(), "model").unwrap();
    let error = message(weights.tensor("a", &[3, 2]));
    for part in ["model.safetensors", "`a`", "[2, 3]", "[3, 2]"] {
        assert!(error.contains(part), "{error}");
    }
    let error = message(weights.tensor("c", &[4]));
    for part in ["model.safetensors", "`c`", "[4]", "missing"] {
        assert!(error.contains(part), "{error}");
    }
    // a refused tensor does not count as used
    let error = message(weights.finish());
    assert!(error.contains("2 tensors") && error.contains("a, b"), "{error}");
}

#[test]
fn known_leftovers_are_tolerated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let one = || tensor(&[1.0], &[1]);
    let names = ["text_model.embeddings.position_ids", "bn.num_batches_tracked", "w"];
    save_weights(&path, names.map(|n| (n.to_owned(), one(), DType::F32))).unwrap();
    let weights = Weights::open_file(&path).unwrap();
    assert!(weights.finish().is_err());
    weights.tensor("w", &[1]).unwrap();
    weights.finish().unwrap();
}

#[test]
fn older_and_newer_names_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let square = tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 2, 1, 1]);
    let bias = tensor(&[5.0, 6.0], &[2]);
    let at = "encoder.mid_block.attentions.0";
    save_weights(
        &path,
        [
            (format!("{at}.query.weight"), square.clone(), DType::F32),
            (format!("{at}.proj_attn.bias"), bias.clone(), DType::F32),
            ("embeddings.token_embedding.weight".into(), bias, DType::F32),
            ("conv.weight".into(), square, DType::F32),
        ],
    )
    .unwrap();
    let weights = Weights::open_file(&path).unwrap();
    let query = weights.tensor(&format!("{at}.to_q.weight"), &[2, 2]).unwrap();
    assert_eq!(query.dims(), [2, 2]);
    assert_eq!(flat(&query), [1.0, 2.0, 3.0, 4.0]);
    assert!(weights.tensor(&format!("{at}.to_q.weight"), &[4, 1]).is_err());
    weights.tensor(&format!("{at}.to_out.0.bias"), &[2]).unwrap();
    weights.tensor("text_model.embeddings.token_embedding.weight", &[2]).unwrap();
    // elsewhere, a convolution is not a matrix
    assert!(weights.tensor("conv.weight", &[2, 2]).is_err());
    weights.tensor("conv.weight", &[2, 2, 1, 1]).unwrap();
    weights.finish().unwrap();
}

#[test]
fn what_is_not_finite_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    for (value, dtype) in [(f32::NAN, DType::F32), (f32::INFINITY, DType::F16), (1e9, DType::F16)] {
        save_weights(&path, [("w".into(), tensor(&[1.0, value], &[2]), dtype)]).unwrap();
        let error = message(Weights::open_file(&path).unwrap().tensor("w", &[2]));
        assert!(error.contains("`w`") && error.contains("m.safetensors"), "{error}");
    }
}

#[test]
fn integers_are_not_weights() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    Tensor::zeros(2, DType::I64, &Device::Cpu).unwrap().save_safetensors("n", &path).unwrap();
    let error = message(Weights::open_file(&path).unwrap().tensor("n", &[2]));
    assert!(error.contains("I64") && error.contains("`n`"), "{error}");
}

#[test]
fn files_are_found_in_order() {
    let (dir, path) = saved();
    let variant = dir.path().join("model.fp16.safetensors");
    std::fs::rename(&path, &variant).unwrap();
    assert!(Weights::open(dir.path(), "model").unwrap().contains("a"));
    save_weights(&path, [("plain".into(), tensor(&[1.0], &[1]), DType::F32)]).unwrap();
    assert!(Weights::open(dir.path(), "model").unwrap().contains("plain"));

    let empty = tempfile::tempdir().unwrap();
    assert!(message(Weights::open(empty.path(), "model")).contains("model.safetensors"));
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(&path, other.path().join("model.fp8.safetensors")).unwrap();
    std::fs::write(other.path().join("optimizer.bin"), "").unwrap();
    let error = Weights::open(other.path(), "model").err().unwrap();
    assert!(error.to_string().contains("model.fp8.safetensors"), "{error}");
    assert!(error.hint().unwrap().contains("rename"));
    for variant in ["bf16", "non_ema"] {
        let name = format!("model.{variant}.safetensors");
        std::fs::copy(&path, other.path().join(name)).unwrap();
        assert!(Weights::open(other.path(), "model").unwrap().contains("plain"));
    }
    let pickled = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pickles/nested.pt");
    std::fs::copy(pickled, empty.path().join("pytorch_model.bin")).unwrap();
    assert!(Weights::open(empty.path(), "model").unwrap().contains("top"));
}

fn sharded(weight_map: serde_json::Value) -> (tempfile::TempDir, Result<Weights>) {
    let dir = tempfile::tempdir().unwrap();
    for (file, key) in [("model-1.safetensors", "a"), ("model-2.safetensors", "b")] {
        let one = tensor(&[1.0], &[1]);
        save_weights(&dir.path().join(file), [(key.to_owned(), one, DType::F32)]).unwrap();
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": weight_map });
    std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let weights = Weights::open(dir.path(), "model");
    (dir, weights)
}

#[test]
fn shards_are_one_model() {
    let (_dir, weights) =
        sharded(serde_json::json!({"a": "model-1.safetensors", "b": "model-2.safetensors"}));
    let weights = weights.unwrap();
    weights.tensor("a", &[1]).unwrap();
    assert!(message(weights.finish()).contains("b"));
    weights.tensor("b", &[1]).unwrap();
    weights.finish().unwrap();
}

#[test]
fn shards_lie_beside_their_index() {
    for name in ["../model-1.safetensors", "/etc/passwd", "..", "", "sub/x", "a\\b", "c:x"] {
        let (_dir, weights) = sharded(serde_json::json!({"a": name}));
        assert!(message(weights).contains("not a file beside it"), "{name}");
    }
    let (_dir, weights) = sharded(serde_json::json!({"a": 1}));
    assert!(message(weights).contains("`a`"));
    let (_dir, weights) = sharded(serde_json::json!({"z": "model-1.safetensors"}));
    assert!(message(weights).contains("`z`"));
    let (_dir, weights) = sharded(serde_json::json!({"a": "model-9.safetensors"}));
    assert!(weights.err().unwrap().to_string().contains("model-9.safetensors"));
    let (_dir, weights) = sharded(serde_json::json!([]));
    assert!(message(weights).contains("weight_map"));
}

#[test]
fn every_truncation_is_an_error() {
    let (dir, path) = saved();
    let bytes = std::fs::read(&path).unwrap();
    let cut = dir.path().join("cut.safetensors");
    for length in 0..bytes.len() {
        std::fs::write(&cut, &bytes[..length]).unwrap();
        assert!(message(Weights::open_file(&cut)).contains("cut.safetensors"), "{length}");
    }
}

#[test]
fn a_header_may_begin_as_pickles_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let mut first = BTreeSet::new();
    for n in 0..32 {
        let name = "w".repeat(1 + 8 * n);
        save_weights(&path, [(name.clone(), tensor(&[1.0], &[1]), DType::F32)]).unwrap();
        Weights::open_file(&path).unwrap().tensor(&name, &[1]).unwrap();
        first.insert(std::fs::read(&path).unwrap()[0]);
    }
    assert!(first.contains(&0x80), "{first:?}");
}

#[test]
fn files_can_have_other_names_and_stacked_tensors() {
    let (_dir, path) = saved();
    let stacked = |key: &str| match key {
        "a" => (0..2).map(|i| (format!("row{i}"), Piece::Stacked { index: i, of: 2 })).collect(),
        _ => vec![],
    };
    let weights = Weights::open_file(&path).unwrap().renamed(stacked).unwrap();
    assert_eq!(weights.keys().collect::<Vec<_>>(), ["row0", "row1"]);
    assert_eq!(weights.shape("row1"), Some(vec![1, 3]));
    assert_eq!(flat(&weights.tensor("row1", &[1, 3]).unwrap()), [0.1, 0.0, 7.0]);
    // under both names
    let error = message(weights.tensor("row0", &[2, 3]));
    assert!(error.contains("`a`") && error.contains("`row0`"), "{error}");
    assert!(message(weights.finish()).contains(": a"), "what is not used has the file's name");
    weights.tensor("row0", &[1, 3]).unwrap();
    weights.finish().unwrap();
    let twice = |_: &str| vec![("x".to_owned(), Piece::Whole)];
    let error = message(Weights::open_file(&path).unwrap().renamed(twice));
    assert!(error.contains("`a`") && error.contains("`b`") && error.contains("`x`"), "{error}");
}

#[test]
fn lying_headers_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    for header in [
        // more than the file has
        r#"{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}"#,
        r#"{"a":{"dtype":"F32","shape":[18446744073709551615,4],"data_offsets":[0,8]}}"#,
        // shape and bytes differ
        r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        // two tensors in the same bytes
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"Q7","shape":[2],"data_offsets":[0,8]}}"#,
        "[]",
        "",
    ] {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 8]);
        std::fs::write(&path, bytes).unwrap();
        assert!(message(Weights::open_file(&path)).contains("m.safetensors"), "{header}");
    }
    // a header of 2⁶⁴ − 1 bytes
    std::fs::write(&path, [0xff; 64]).unwrap();
    assert!(message(Weights::open_file(&path)).contains("64 bytes"));
}

#[test]
fn saving_refuses_what_would_be_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let one = || tensor(&[1.0], &[1]);
    let twice = ["w", "w"].map(|n| (n.to_owned(), one(), DType::F32));
    assert!(message(save_weights(&path, twice)).contains("twice"));
    let wide = [("w".to_owned(), one(), DType::F64)];
    assert!(message(save_weights(&path, wide)).contains("F64"));
    assert!(!path.exists());
}

#[test]
fn mixed_types_stay_aligned() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let x = || tensor(&[1.0, 2.0, 3.0], &[3]);
    let types = [("a", DType::F16), ("b", DType::F32), ("c", DType::BF16)];
    save_weights(&path, types.map(|(n, d)| (n.to_owned(), x(), d))).unwrap();
    let weights = Weights::open_file(&path).unwrap();
    for (name, _) in types {
        assert_eq!(flat(&weights.tensor(name, &[3]).unwrap()), [1.0, 2.0, 3.0]);
    }
    let bytes = std::fs::read(&path).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.info("b").unwrap().data_offsets.0, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..Default::default() })]

    /// Whatever happens to a file's bytes, reading it ends in tensors of the shape asked for or in
    /// an error.
    #[test]
    fn damaged_bytes_never_panic(
        edits in proptest::collection::vec((0usize..256, any::<u8>()), 1..8),
    ) {
        static WHOLE: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| {
                let (_dir, path) = saved();
                std::fs::read(path).unwrap()
            });
        let mut bytes = WHOLE.clone();
        for (at, value) in edits {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let dir = tempfile::tempdir().unwrap();
        let damaged = dir.path().join("damaged.safetensors");
        std::fs::write(&damaged, bytes).unwrap();
        if let Ok(weights) = Weights::open_file(&damaged) {
            let keys: Vec<_> = weights.keys().map(str::to_owned).collect();
            for key in keys {
                let shape = weights.shape(&key).unwrap();
                if let Ok(tensor) = weights.tensor(&key, &shape) {
                    prop_assert_eq!(tensor.dims(), &shape[..]);
                }
            }
        }
    }
}
