use candle_core::{Device, Tensor};

use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pickles").join(name)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

fn load(pickle: &Pickle, key: &str) -> Tensor {
    let (dtype, shape) = pickle.describe(key).unwrap();
    Tensor::from_raw_buffer(&pickle.bytes(key).unwrap(), dtype, shape, &Device::Cpu).unwrap()
}

#[test]
fn what_pytorch_writes_is_read() {
    let wanted =
        candle_core::safetensors::load(golden("nested.safetensors"), &Device::Cpu).unwrap();
    let pickle = Pickle::open(&golden("nested.pt")).unwrap();
    let mut keys: Vec<&str> = wanted.keys().map(String::as_str).collect();
    keys.sort();
    assert_eq!(pickle.keys().collect::<Vec<_>>(), keys);
    for key in keys {
        let found = load(&pickle, key);
        assert_eq!(found.dims(), wanted[key].dims(), "{key}");
        assert_eq!(values(&found), values(&wanted[key]), "{key}");
    }
    assert_eq!(pickle.describe("state_dict.half").unwrap().0, DType::F16);
}

/// Everything that is wrong with a file, whether it shows when it is opened or when it is read.
fn fault(name: &str) -> String {
    match Pickle::open(&golden(name)).and_then(|pickle| pickle.bytes("x")) {
        Err(error @ Error::Input { .. }) => error.to_string(),
        Err(other) => panic!("{name}: {other:?} is no input error"),
        Ok(bytes) => panic!("{name} was read: {} bytes", bytes.len()),
    }
}

#[test]
fn nothing_is_called() {
    let error = fault("calls.pt");
    assert!(error.contains(".system`; nothing was run"), "{error}");
    assert!(!Path::new("/tmp/cdbench-was-here").exists());
    assert!(fault("calls_builtin.pt").contains("`__builtin__.eval`"));
}

#[test]
fn what_a_file_promises_is_not_believed() {
    assert_eq!(
        values(&load(&Pickle::open(&golden("whole.pt")).unwrap(), "x")),
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    );
    for (name, wanted) in [
        ("beyond.pt", "beyond its numbers"),
        ("behind.pt", "beyond its numbers"),
        ("repeated.pt", "beyond its numbers"),
        ("huge.pt", "beyond its numbers"),
        ("overflowing.pt", "beyond its numbers"),
        ("negative.pt", "whole numbers"),
        ("liar.pt", "does not hold 1099511627776 numbers"),
        ("lost.pt", "cannot be read"),
        ("bomb_of_numbers.pt", "`x`"),
        ("short_call.pt", "known"),
    ] {
        let error = fault(name);
        assert!(error.contains(wanted) && error.contains(name), "{name}: {error}");
    }
    fault("bomb.pt");
}

#[test]
fn programs_cost_no_more_than_their_files() {
    let started = std::time::Instant::now();
    for (name, wanted) in [
        ("deep.pt", "nests or copies"),
        ("deep_tuples.pt", "nests or copies"),
        ("doubling.pt", "nests or copies"),
        ("long_text.pt", "longer than the pickle"),
        ("newer_protocol.pt", "newer protocol"),
        ("old.pt", "before version 1.6"),
    ] {
        let error = fault(name);
        assert!(error.contains(wanted), "{name}: {error}");
    }
    assert!(started.elapsed().as_secs() < 20);
}

#[test]
fn a_file_that_is_cut_is_an_error() {
    let whole = std::fs::read(golden("nested.pt")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.pt");
    for share in [0, 1, 4, 40, 99] {
        std::fs::write(&path, &whole[..whole.len() * share / 100]).unwrap();
        assert!(matches!(Pickle::open(&path), Err(Error::Input { .. })), "{share} %");
    }
}
