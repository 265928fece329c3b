//! What the golden tests share.
#![allow(dead_code)] // not every test uses all of it

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

/// A file under tests/golden, by its tensors.
pub struct Golden(HashMap<String, Tensor>);

impl Golden {
    pub fn load(name: &str) -> Self {
        Golden(candle_core::safetensors::load(path(name), &Device::Cpu).unwrap())
    }

    /// With the tensors of another file.
    pub fn and(mut self, name: &str) -> Self {
        self.0.extend(Golden::load(name).0);
        self
    }

    pub fn get(&self, key: &str) -> &Tensor {
        self.0.get(key).unwrap_or_else(|| panic!("no golden {key}"))
    }

    /// The keys that start with `prefix`, with what follows it.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
        self.0.iter().filter_map(move |(key, tensor)| Some((key.strip_prefix(prefix)?, tensor)))
    }
}

/// tests/golden/NAME
pub fn path(name: &str) -> String {
    format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))
}

pub fn floats(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// ‖found − wanted‖ / ‖wanted‖
pub fn relative_error(found: &Tensor, wanted: &Tensor) -> f64 {
    assert_eq!(found.dims(), wanted.dims());
    let (found, wanted) = (floats(found), floats(wanted));
    let square = |x: f64| x * x;
    let error: f64 =
        found.iter().zip(&wanted).map(|(f, w)| square(f64::from(*f) - f64::from(*w))).sum();
    let norm: f64 = wanted.iter().map(|w| square(f64::from(*w))).sum();
    (error / norm).sqrt()
}

#[track_caller]
pub fn assert_close(what: &str, found: &Tensor, wanted: &Tensor, tolerance: f64) {
    let error = relative_error(found, wanted);
    assert!(
        error <= tolerance,
        "{what}: relative error {error:.2e}, at most {tolerance:.0e} wanted"
    );
    println!("{what}: {error:.2e}");
}
