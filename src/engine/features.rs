//! Features of a set of pictures by an extractor: computed once, and kept in the store's cache.

use std::path::Path;

use ndarray::Array2;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

use super::key::Key;
use super::store::Store;
use crate::clip::Embed;
use crate::{Error, Result, safefile};

use image::RgbImage;

/// The tensor's name in its file.
const NAME: &str = "features";

/// The features of the pictures that `meaning` stands for: from the cache, or by `extractor` from what
/// `pictures` reads.
pub fn features(
    store: &Store,
    extractor: &dyn Embed,
    meaning: &Value,
    pictures: impl FnOnce() -> Result<Vec<RgbImage>>,
) -> Result<Array2<f32>> {
    let key = Key::of(&json!({
        "features": 1,
        "extractor": extractor.identity(),
        "pictures": meaning,
    }));
    let path = store.cache_dir().join(NAME).join(format!("{}.safetensors", key.short()));
    if let Some(found) = read(&path) {
        return Ok(found);
    }
    let pictures = pictures()?;
    let found = extractor.images(&pictures.iter().collect::<Vec<_>>())?;
    write(&path, &found)?;
    Ok(found)
}

/// A file that is not there or damaged is made again.
fn read(path: &Path) -> Option<Array2<f32>> {
    let bytes = std::fs::read(path).ok()?;
    let file = SafeTensors::deserialize(&bytes).ok()?;
    let tensor = file.tensor(NAME).ok()?;
    let [rows, width] = *tensor.shape() else { return None };
    let (numbers, _) = tensor.data().as_chunks::<4>();
    let values = numbers.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let found = Array2::from_shape_vec((rows, width), values).ok()?;
    (tensor.dtype() == Dtype::F32 && found.iter().all(|x| x.is_finite())).then_some(found)
}

fn write(path: &Path, features: &Array2<f32>) -> Result<()> {
    let bad = |e: safetensors::SafeTensorError| Error::input(format!("{}: {e}", path.display()));
    let bytes: Vec<u8> = features.iter().flat_map(|x| x.to_le_bytes()).collect();
    let shape = vec![features.nrows(), features.ncols()];
    let view = TensorView::new(Dtype::F32, shape, &bytes).map_err(bad)?;
    safefile::write(path, safetensors::serialize([(NAME, view)], None).map_err(bad)?)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// The mean red of a picture, and how often it was asked.
    struct Red(&'static str, AtomicUsize);

    impl Embed for Red {
        fn images(&self, images: &[&RgbImage]) -> Result<Array2<f32>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Ok(Array2::from_shape_fn((images.len(), 2), |(i, j)| {
                f32::from(images[i].get_pixel(0, 0).0[0]) + j as f32
            }))
        }

        fn identity(&self) -> &str {
            self.0
        }
    }

    #[test]
    fn they_are_computed_once_for_a_set_and_an_extractor() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (one, other) = (Red("one", 0.into()), Red("other", 0.into()));
        let of = |extractor: &Red, set: u8| {
            let pictures = || Ok(vec![RgbImage::from_pixel(2, 2, image::Rgb([set; 3]))]);
            features(&store, extractor, &json!({ "set": set }), pictures).unwrap()
        };
        let first = of(&one, 7);
        assert_eq!(first, ndarray::array![[7.0, 8.0]]);
        assert_eq!(of(&one, 7), first);
        assert_eq!(one.1.load(Ordering::Relaxed), 1);
        of(&one, 8);
        of(&other, 7);
        assert_eq!([&one, &other].map(|r| r.1.load(Ordering::Relaxed)), [2, 1]);

        for entry in std::fs::read_dir(store.cache_dir().join(NAME)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        }
        assert_eq!(of(&one, 7), first, "a damaged file is made again");
        assert_eq!(one.1.load(Ordering::Relaxed), 3);
    }
}
