//! States of a run on disk, to go on from as if nothing had happened.
//!
//! A state is one safetensors file, `step-00000250.safetensors`: the trained parameters, the
//! optimiser's moments and the averages as tensors, everything else as JSON in its metadata. The
//! file is written elsewhere, forced to disk and renamed, so a run that is killed at any moment
//! leaves the states that it had finished.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, View};
use serde::{Deserialize, Serialize};

use super::Streams;
use super::scale::LossScale;
use crate::{Error, Result};

/// Where the states of a run are kept, how many, and when they are saved.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    /// The folder; made when needed. One run at a time may write to it.
    pub dir: PathBuf,
    /// What the run is, in any form: a state of another is refused.
    pub run: String,
    /// How many of the latest states are kept; one at least.
    pub keep: usize,
    /// Save after every so many steps.
    pub every_steps: Option<u64>,
    /// Save when so much time has passed since the last.
    pub every: Option<Duration>,
}

/// All of a state but its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub run: String,
    pub step: u64,
    pub streams: Streams,
    pub ema_updates: Option<u64>,
    // Left out where there is none: so states are those of before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// Of all steps so far; whole, since JSON does not keep the last bit of a fraction.
    pub milliseconds: u64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    meta: Meta,
    // of the metadata and the tensors
    crc32: u32,
}

const VERSION: u32 = 2;
/// The key of the JSON among the metadata of the file.
const KEY: &str = "cdbench.training_state";
/// Where a file is written before it gets its name.
const PARTIAL: &str = ".partial";

impl Checkpoints {
    /// States in `dir` of the run `run`: the latest two, saved at the end and on interruption.
    pub fn new(dir: impl Into<PathBuf>, run: impl Into<String>) -> Self {
        Checkpoints { dir: dir.into(), run: run.into(), keep: 2, every_steps: None, every: None }
    }

    /// The finished states, the latest last. None if there is no folder.
    pub fn list(&self) -> Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            Err(e) => return Err(Error::io(&self.dir)(e)),
        };
        let mut found = vec![];
        for entry in entries {
            let path = entry.map_err(Error::io(&self.dir))?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let number = name.strip_prefix("step-").and_then(|n| n.strip_suffix(".safetensors"));
            if let Some(step) = number.and_then(|n| n.parse::<u64>().ok()) {
                found.push((step, path));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// Writes a state, then removes those that are too old. Tensors are f32, as files have them.
    pub(super) fn save(&self, meta: &Meta, tensors: &[(String, Tensor)]) -> Result<PathBuf> {
        let name = format!("step-{:08}.safetensors", meta.step);
        let partial = self.dir.join(PARTIAL);
        // what a killed run left
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(Error::io(&partial))?;
        }
        fs::create_dir_all(&partial).map_err(Error::io(&partial))?;
        let (written, path) = (partial.join(&name), self.dir.join(&name));

        let views = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        let header =
            Header { version: VERSION, meta: meta.clone(), crc32: checksum(meta, views.clone()) };
        let metadata = HashMap::from([(KEY.to_owned(), json(&header))]);
        safetensors::serialize_to_file(views, Some(metadata), &written).map_err(|e| match e {
            safetensors::SafeTensorError::IoError(e) => Error::io(&written)(e),
            e => Error::io(&written)(std::io::Error::other(e)),
        })?;
        File::open(&written).and_then(|f| f.sync_all()).map_err(Error::io(&written))?;
        fs::rename(&written, &path).map_err(Error::io(&path))?;
        // the new name is on disk once the folder is
        #[cfg(unix)]
        File::open(&self.dir).and_then(|f| f.sync_all()).map_err(Error::io(&self.dir))?;
        fs::remove_dir(&partial).map_err(Error::io(&partial))?;

        let mut old = self.list()?;
        old.truncate(old.len().saturating_sub(self.keep.max(1)));
        for path in old {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
        Ok(path)
    }

    /// Reads a state whose tensors are `wanted`, by name and shape, and no others.
    ///
    /// # Errors
    /// [`Error::Input`] if the file is damaged, or of another run or program; [`Error::Io`].
    pub(super) fn load(
        &self,
        path: &Path,
        wanted: &[(String, Vec<usize>)],
    ) -> Result<(Meta, HashMap<String, Tensor>)> {
        let bad = |what: String| {
            let hint = format!(
                "to go on from an earlier state delete this file; to start again delete {}",
                self.dir.display()
            );
            Error::input_hint(format!("{}: {what}", path.display()), hint)
        };
        let size = fs::metadata(path).map_err(Error::io(path))?.len();
        let numbers: u64 = wanted.iter().map(|(_, s)| s.iter().product::<usize>() as u64).sum();
        // names, shapes and metadata take a few hundred bytes a tensor
        let most = 4 * numbers + 4096 * (wanted.len() as u64 + 256);
        if size > most {
            return Err(bad(format!(
                "a training state of another run ({size} bytes; this run's has {most} at most)"
            )));
        }
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let damaged = |e: String| bad(format!("not a whole training state: {e}"));
        let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
        let (_, info) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
        let header = info.metadata().as_ref().and_then(|m| m.get(KEY));
        let header = header.ok_or_else(|| bad("not a training state of cdbench".into()))?;
        let header: Header = serde_json::from_str(header).map_err(|e| damaged(e.to_string()))?;
        if header.version != VERSION {
            let found = header.version;
            return Err(bad(format!("a training state of version {found}, not {VERSION}")));
        }
        let mut views = file.tensors();
        views.sort_by(|(a, _), (b, _)| a.cmp(b));
        let found = checksum(&header.meta, views.iter().map(|(name, v)| (name.as_str(), v)));
        if found != header.crc32 {
            return Err(damaged("the checksum does not agree".into()));
        }
        if header.meta.run != self.run {
            return Err(bad(format!(
                "a training state of another run ({}; this one is {})",
                header.meta.run, self.run
            )));
        }
        let mut tensors = HashMap::new();
        for (name, shape) in wanted {
            let view =
                file.tensor(name).map_err(|_| bad(format!("there is no tensor `{name}`")))?;
            if view.shape() != shape || view.dtype() != Dtype::F32 {
                return Err(bad(format!(
                    "the tensor `{name}` is {:?} of shape {:?}, but F32 of shape {shape:?} is wanted",
                    view.dtype(),
                    view.shape()
                )));
            }
            let tensor = Tensor::from_raw_buffer(view.data(), DType::F32, shape, &Device::Cpu)?;
            tensors.insert(name.clone(), tensor);
        }
        match views.iter().find(|(name, _)| !tensors.contains_key(name)) {
            Some((name, _)) => Err(bad(format!("the tensor `{name}` has no place in this run"))),
            None => Ok((header.meta, tensors)),
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and numbers only")
}

/// Of everything that a state holds; tensors in order of their names.
fn checksum<'a, V: View + 'a>(meta: &Meta, tensors: impl Iterator<Item = (&'a str, V)>) -> u32 {
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_by_key(|(name, _)| *name);
    let mut crc = crc32fast::Hasher::new();
    crc.update(json(meta).as_bytes());
    for (name, tensor) in tensors {
        crc.update(name.as_bytes());
        crc.update(json(&tensor.shape()).as_bytes());
        crc.update(&tensor.data());
    }
    crc.finalize()
}
