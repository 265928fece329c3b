//! One file of weights, of either kind.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::DType;
use candle_core::safetensors::MmapedSafetensors;

use super::pickle::Pickle;
use crate::{Error, Result};

/// A file whose tensors are known and read when they are asked for.
pub struct WeightFile {
    pub path: PathBuf,
    kind: Kind,
}

enum Kind {
    Safetensors(MmapedSafetensors),
    Pickled(Pickle),
}

impl WeightFile {
    /// Opens a file, of the kind that its first bytes say.
    ///
    /// # Errors
    /// [`Error::Input`] if it is damaged; [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let mut first = vec![];
        let file = File::open(path).map_err(Error::io(path))?;
        file.take(9).read_to_end(&mut first).map_err(Error::io(path))?;
        let kind = match Pickle::is_one(&first) {
            true => Kind::Pickled(Pickle::open(path)?),
            false => Kind::Safetensors(map(path)?),
        };
        Ok(WeightFile { path: path.to_owned(), kind })
    }

    /// The names of its tensors.
    pub fn keys(&self) -> Vec<String> {
        match &self.kind {
            Kind::Safetensors(file) => file.tensors().into_iter().map(|(key, _)| key).collect(),
            Kind::Pickled(file) => file.keys().map(str::to_owned).collect(),
        }
    }

    /// A tensor's shape.
    pub fn shape(&self, key: &str) -> Option<Vec<usize>> {
        match &self.kind {
            Kind::Safetensors(file) => Some(file.get(key).ok()?.shape().to_vec()),
            Kind::Pickled(file) => Some(file.describe(key)?.1.to_vec()),
        }
    }

    /// The type of a tensor that is there; the name of one that candle does not have.
    pub fn dtype(&self, key: &str) -> std::result::Result<DType, String> {
        let lost = || "none".to_owned();
        match &self.kind {
            Kind::Safetensors(file) => {
                let dtype = file.get(key).map_err(|_| lost())?.dtype();
                DType::try_from(dtype).map_err(|_| format!("{dtype:?}"))
            }
            Kind::Pickled(file) => file.describe(key).map(|(dtype, _)| dtype).ok_or_else(lost),
        }
    }

    /// A tensor's numbers in their own type, little-endian and in the order of its shape.
    pub fn bytes(&self, key: &str) -> Result<Cow<'_, [u8]>> {
        match &self.kind {
            Kind::Safetensors(file) => Ok(Cow::Borrowed(file.get(key)?.data())),
            Kind::Pickled(file) => Ok(Cow::Owned(file.bytes(key)?)),
        }
    }
}

fn map(path: &Path) -> Result<MmapedSafetensors> {
    // SAFETY: the map is only read; see the note at `Weights` for files that change meanwhile.
    let mapped = unsafe { MmapedSafetensors::new(path) };
    let size = std::fs::metadata(path).map_err(Error::io(path))?.len();
    mapped.map_err(|e| {
        Error::input_hint(
            format!(
                "{}: not a whole safetensors file ({size} bytes): {}",
                path.display(),
                plain(e)
            ),
            "the file is damaged or was cut short: fetch or copy it again",
        )
    })
}

/// The cause, without the path and the backtrace that candle adds.
fn plain(error: candle_core::Error) -> String {
    match error {
        candle_core::Error::WithPath { inner, .. } => plain(*inner),
        candle_core::Error::WithBacktrace { inner, .. } => plain(*inner),
        other => other.to_string(),
    }
}
