//! Maps of the words of an image in a file: safetensors with one tensor `maps` [words, height, width] in
//! f32, and the words in its metadata as a list in JSON under `words`.

use std::path::Path;

use ndarray::{Array2, Axis};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::WordMap;
use crate::{Error, Result, readfile, safefile};

const MAPS: &str = "maps";
const WORDS: &str = "words";

/// The largest file that is read: a hundred words of an image of 4096 × 4096 pixels have less.
const MAX_BYTES: u64 = 128 << 20;

/// Writes the maps of one image's words, at least one, which have one size.
///
/// # Errors
/// [`Error::Input`] if there is no map or they differ in size, [`Error::Io`].
pub fn save_maps(path: &Path, maps: &[WordMap]) -> Result<()> {
    let bad = |what: &str| Error::input(format!("{}: {what}", path.display()));
    let (height, width) = maps.first().ok_or_else(|| bad("no map to write"))?.map.dim();
    if maps.iter().any(|m| m.map.dim() != (height, width)) {
        return Err(bad("maps of one image differ in size"));
    }
    let values = maps.iter().flat_map(|m| m.map.iter());
    let bytes: Vec<u8> = values.flat_map(|x| x.to_le_bytes()).collect();
    let words: Vec<&str> = maps.iter().map(|m| m.word.as_str()).collect();
    let words = serde_json::to_string(&words).map_err(|e| bad(&e.to_string()))?;
    let view = TensorView::new(Dtype::F32, vec![maps.len(), height, width], &bytes)
        .map_err(|e| bad(&e.to_string()))?;
    let metadata = Some([(WORDS.to_owned(), words)].into());
    let file = safetensors::serialize([(MAPS, view)], metadata).map_err(|e| bad(&e.to_string()))?;
    safefile::write(path, file)
}

/// Reads what [`save_maps`] wrote.
///
/// # Errors
/// [`Error::Input`] naming the file and what of it is not as it should be: one map for each word, of
/// numbers that are finite and not negative; [`Error::Io`].
pub fn load_maps(path: &Path) -> Result<Vec<WordMap>> {
    let bytes = readfile::bytes(path, MAX_BYTES)?;
    read(&bytes).map_err(|what| {
        Error::input_hint(
            format!("{}: {what}", path.display()),
            "remove it, and sample its image again",
        )
    })
}

fn read(bytes: &[u8]) -> std::result::Result<Vec<WordMap>, String> {
    let foreign = |e: safetensors::SafeTensorError| format!("not a safetensors file: {e}");
    let file = SafeTensors::deserialize(bytes).map_err(foreign)?;
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(foreign)?;
    let words = metadata.metadata().as_ref().and_then(|pairs| pairs.get(WORDS));
    let words = words.ok_or(format!("its metadata has no `{WORDS}`"))?;
    let words: Vec<String> =
        serde_json::from_str(words).map_err(|e| format!("`{WORDS}` is no list of words: {e}"))?;
    let tensor = file.tensor(MAPS).map_err(|_| format!("it has no tensor `{MAPS}`"))?;
    let (shape, dtype) = (tensor.shape(), tensor.dtype());
    let [count, height, width] = match *shape {
        [count, height, width] if dtype == Dtype::F32 && height * width > 0 => {
            [count, height, width]
        }
        _ => {
            return Err(format!("`{MAPS}` is {dtype:?} {shape:?}, not F32 [words, height, width]"));
        }
    };
    if count != words.len() {
        return Err(format!("it has {count} maps of {} words", words.len()));
    }
    let (numbers, _) = tensor.data().as_chunks::<4>();
    let values: Vec<f32> = numbers.iter().map(|b| f32::from_le_bytes(*b)).collect();
    if let Some(value) = values.iter().find(|x| !x.is_finite() || **x < 0.0) {
        return Err(format!("`{MAPS}` has the value {value}, which is no probability"));
    }
    let maps =
        Array2::from_shape_vec((count, height * width), values).map_err(|e| e.to_string())?;
    let map = |(word, row): (String, ndarray::ArrayView1<f32>)| {
        let map = Array2::from_shape_vec((height, width), row.to_vec());
        Ok(WordMap { word, map: map.map_err(|e| e.to_string())? })
    };
    words.into_iter().zip(maps.axis_iter(Axis(0))).map(map).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps() -> Vec<WordMap> {
        let map = |word: &str, by: f32| WordMap {
            word: word.into(),
            map: Array2::from_shape_fn((2, 3), |(i, j)| by * (i * 3 + j) as f32),
        };
        vec![map("<new1> dog", 0.1), map("\"é\"", 0.03)]
    }

    #[test]
    fn maps_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.attention.safetensors");
        save_maps(&path, &maps()).unwrap();
        assert_eq!(load_maps(&path).unwrap(), maps());
        assert!(save_maps(&path, &[]).is_err());
        let mut uneven = maps();
        uneven[1].map = Array2::zeros((3, 2));
        assert!(save_maps(&path, &uneven).is_err());
        assert_eq!(load_maps(&path).unwrap(), maps(), "what failed left the file alone");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.attention.safetensors");
        let refused = |name: &str, dtype, shape: &[usize], words: Option<&str>, bytes: &[u8]| {
            let view = TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
            let metadata = words.map(|words| [(WORDS.to_owned(), words.to_owned())].into());
            std::fs::write(&path, safetensors::serialize([(name, view)], metadata).unwrap())
                .unwrap();
            let error = load_maps(&path).unwrap_err();
            assert_eq!(error.exit_code(), 3, "{error}");
            assert!(error.to_string().contains("0.attention.safetensors"), "{error}");
            error.to_string()
        };
        let (f32s, one) = (Dtype::F32, Some("[\"dog\"]"));
        let bytes: Vec<u8> = [0.5f32; 4].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert!(refused("map", f32s, &[1, 2, 2], one, &bytes).contains("no tensor `maps`"));
        assert!(refused(MAPS, f32s, &[1, 2, 2], None, &bytes).contains("no `words`"));
        assert!(refused(MAPS, f32s, &[1, 2, 2], Some("dog"), &bytes).contains("no list of words"));
        assert!(refused(MAPS, f32s, &[2, 2, 1], one, &bytes).contains("2 maps of 1 words"));
        assert!(refused(MAPS, f32s, &[2, 2], one, &bytes).contains("F32 [2, 2]"));
        assert!(refused(MAPS, f32s, &[1, 0, 2], one, &[]).contains("F32 [1, 0, 2]"));
        assert!(refused(MAPS, Dtype::F16, &[1, 2, 4], one, &bytes).contains("F16"));
        for value in [f32::NAN, f32::INFINITY, -0.5] {
            let bytes = [&bytes[..12], &value.to_le_bytes()].concat();
            assert!(refused(MAPS, f32s, &[1, 2, 2], one, &bytes).contains("no probability"));
        }
        std::fs::write(&path, "words").unwrap();
        let error = load_maps(&path).unwrap_err().to_string();
        assert!(error.contains("not a safetensors file"), "{error}");
    }
}
