//! Weight files: safetensors, read through memory maps and written whole, and PyTorch's pickles, read
//! without running them; single or sharded.

mod file;
mod forms;
mod metadata;
mod pickle;
mod write_pickle;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::Value;

use self::file::WeightFile;
use super::config::read_object;
use crate::nn::Keeping;
use crate::{Error, Result, safefile};
use forms::forms;
pub(crate) use forms::{listed_weights, missing_weights};
pub use metadata::metadata;
pub use write_pickle::{Pickled, save_pickle};

/// Attention projections before diffusers 0.18, where files of the VAE still carry them.
const OLD_ATTENTION: [(&str, &str); 4] =
    [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];

/// The tensors of a model, in one file or several.
///
/// A tensor costs memory when it is asked for. A safetensors file that is cut short by someone else
/// while it is mapped ends the process, as with every memory map.
pub struct Weights {
    files: Vec<WeightFile>,
    /// Where each tensor lies.
    keys: BTreeMap<String, Place>,
    taken: Mutex<BTreeSet<String>>,
}

/// Where a tensor lies.
struct Place {
    /// Which file.
    file: usize,
    /// What it is called there.
    name: String,
    /// What of it is meant.
    piece: Piece,
}

/// What of a tensor in a file is meant by a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// All of it.
    Whole,
    /// One of several tensors of the same shape that lie one behind the other, in their first dimension.
    Stacked {
        /// Which.
        index: usize,
        /// Of how many.
        of: usize,
    },
}

impl Piece {
    /// The shape that a tensor of `shape` in the file gives.
    fn shape(self, mut shape: Vec<usize>) -> Vec<usize> {
        if let (Piece::Stacked { of, .. }, Some(rows)) = (self, shape.first_mut()) {
            *rows /= of;
        }
        shape
    }

    /// The shape that the file's tensor must have to give one of `shape`.
    fn whole(self, shape: &[usize]) -> Vec<usize> {
        let mut shape = shape.to_vec();
        if let (Piece::Stacked { of, .. }, Some(rows)) = (self, shape.first_mut()) {
            *rows *= of;
        }
        shape
    }

    /// Its numbers, of those of the file's tensor.
    fn of(self, bytes: &[u8]) -> &[u8] {
        match self {
            Piece::Whole => bytes,
            Piece::Stacked { index, of } => {
                let size = bytes.len() / of;
                &bytes[index * size..][..size]
            }
        }
    }
}

impl Weights {
    /// Opens the weights `stem` in `dir`: `stem.safetensors` or its shards, else a variant of theirs, else
    /// pickled ones.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none, or it is damaged; with a hint if there are only variants that are
    /// not known.
    pub fn open(dir: &Path, stem: &str) -> Result<Self> {
        for form in forms(stem) {
            let path = dir.join(&form.file);
            if !path.is_file() {
                continue;
            }
            if !form.variant.is_empty() {
                tracing::info!("{}: the variant {} is read", path.display(), form.variant);
            }
            return if form.sharded { Self::open_sharded(&path) } else { Self::open_file(&path) };
        }
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        let ours = |name: &&String| name.starts_with(stem) || name.starts_with("pytorch_model");
        let weights = |name: &&String| name.ends_with(".safetensors") || name.ends_with(".bin");
        let (dir, wanted) = (dir.display(), format!("{stem}.safetensors"));
        Err(match names.iter().filter(ours).find(weights) {
            Some(name) => Error::input_hint(
                format!("{dir}: {wanted} is missing; {name} is a variant that is not known"),
                format!("rename it to {wanted} if it is the whole model"),
            ),
            None => Error::input_hint(
                format!("{dir}: {wanted} is missing"),
                "the folder must have the weights, as save_pretrained writes them",
            ),
        })
    }

    /// Opens one file, safetensors or pickled. The keys of a pickle are those of its dictionaries, joined
    /// by dots.
    pub fn open_file(path: &Path) -> Result<Self> {
        Self::from_files(vec![WeightFile::open(path)?])
    }

    /// Opens the shards that an index file names.
    fn open_sharded(index: &Path) -> Result<Self> {
        let bad = |what: String| Error::input(format!("{}: {what}", index.display()));
        let object = read_object(index)?;
        let Some(Value::Object(weight_map)) = object.get("weight_map") else {
            return Err(bad("there is no `weight_map`".into()));
        };
        let mut shards = BTreeSet::new();
        for (key, shard) in weight_map {
            // the index is as untrusted as any download: shards lie beside it, nowhere else
            let name = shard.as_str().filter(|name| {
                Path::new(name).file_name().is_some_and(|plain| plain == *name)
                    && !name.contains(['/', '\\', ':'])
            });
            shards.insert(name.ok_or_else(|| {
                bad(format!("`{key}` is in {shard}, which is not a file beside it"))
            })?);
        }
        let dir = index.parent().unwrap_or(Path::new("."));
        let files = shards
            .iter()
            .map(|name| WeightFile::open(&dir.join(name)))
            .collect::<Result<Vec<_>>>()?;
        let weights = Self::from_files(files)?;
        match weight_map.keys().find(|key| !weights.keys.contains_key(*key)) {
            Some(key) => Err(bad(format!("no shard has the tensor `{key}`"))),
            None => Ok(weights),
        }
    }

    fn from_files(files: Vec<WeightFile>) -> Result<Self> {
        let mut keys = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for key in file.keys() {
                let place = Place { file: i, name: key.clone(), piece: Piece::Whole };
                if keys.insert(key.clone(), place).is_some() {
                    return Err(Error::input(format!(
                        "{}: the tensor `{key}` is in another shard, too",
                        file.path.display()
                    )));
                }
            }
        }
        Ok(Weights { files, keys, taken: Mutex::new(BTreeSet::new()) })
    }

    /// The same files under other names: `names` says what is meant by each of their keys, which may be
    /// several tensors or, where it plays no role, none.
    ///
    /// # Errors
    /// [`Error::Input`] if two keys mean the same tensor.
    pub fn renamed(self, names: impl Fn(&str) -> Vec<(String, Piece)>) -> Result<Self> {
        let mut keys: BTreeMap<String, Place> = BTreeMap::new();
        for (key, Place { file, name, piece: own }) in self.keys {
            for (meant, piece) in names(&key) {
                let piece = if piece == Piece::Whole { own } else { piece };
                let place = Place { file, name: name.clone(), piece };
                if let Some(other) = keys.insert(meant.clone(), place) {
                    return Err(Error::input(format!(
                        "{}: `{}` and `{name}` are both `{meant}`",
                        self.files[file].path.display(),
                        other.name
                    )));
                }
            }
        }
        Ok(Weights { keys, ..self })
    }

    /// The names of all tensors, sorted; of files that were not [renamed](Weights::renamed), as they have
    /// them.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// What a tensor that is called `key` in a file of older diffusers is called now.
    pub fn name_of(key: &str) -> String {
        let mut name = key.to_owned();
        for (new, old) in OLD_ATTENTION {
            if key.contains("mid_block.attentions.") {
                name = name.replace(&format!(".{old}."), &format!(".{new}."));
            }
        }
        name
    }

    /// Whether there is a tensor `key`, under this or an older name.
    pub fn contains(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The shape of tensor `key`, if there is one.
    pub fn shape(&self, key: &str) -> Option<Vec<usize>> {
        let Place { file, name, piece } = self.find(key)?.1;
        Some(piece.shape(self.files[*file].shape(name)?))
    }

    /// The tensor `key` on the CPU, in f32 whatever its type in the file.
    ///
    /// Names and shapes of older diffusers and of newer transformers are understood: see
    /// [`Weights::keys`] for what is in the file.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file, the key, the shape or type found and the one wanted, or saying
    /// that a value is not finite.
    pub fn tensor(&self, key: &str, want: &[usize]) -> Result<Tensor> {
        self.placed(key, want, &Keeping::file())
    }

    /// The same, kept as `keeping` says.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn placed(&self, key: &str, want: &[usize], keeping: &Keeping) -> Result<Tensor> {
        let Some((asked, Place { file, name, piece })) = self.find(key) else {
            return Err(Error::input(format!(
                "{}: the tensor `{key}` of shape {want:?} is missing",
                self.origin()
            )));
        };
        let file = &self.files[*file];
        let path = &file.path;
        let found = file.shape(name).unwrap_or_default();
        let whole = piece.whole(want);
        // projections of old VAEs are 1×1 convolutions
        let convolution =
            is_attention(key) && found.len() == 4 && found[..2] == *want && found[2..] == [1, 1];
        if found != whole && !convolution {
            let meant = if name == asked { String::new() } else { format!(", that is `{asked}`,") };
            return Err(Error::input(format!(
                "{}: the tensor `{name}`{meant} has the shape {found:?}, but the configuration asks for \
                 {whole:?}",
                path.display()
            )));
        }
        let dtype = match file.dtype(name) {
            Ok(dtype @ (DType::F32 | DType::F16 | DType::BF16 | DType::F64)) => dtype,
            found => {
                let found = found.map_or_else(|name| name, |dtype| format!("{dtype:?}"));
                return Err(Error::input(format!(
                    "{}: the tensor `{name}` is of type {found}, but F32, F16 or BF16 is wanted",
                    path.display()
                )));
            }
        };
        let tensor = keeping.keep_bytes(piece.of(&file.bytes(name)?), dtype, want)?;
        let tensor = tensor.ok_or_else(|| {
            Error::input_hint(
                format!("{}: the tensor `{name}` has values that are not finite", path.display()),
                "the file is damaged, or the training that wrote it diverged",
            )
        })?;
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(asked.clone());
        Ok(tensor)
    }

    /// Checks that every tensor was asked for, so that nothing of a model is silently dropped.
    ///
    /// # Errors
    /// [`Error::Input`] naming the first few that were not.
    pub fn finish(&self) -> Result<()> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let harmless =
            |key: &str| key.ends_with("position_ids") || key.ends_with("num_batches_tracked");
        let unused = self.keys.iter().filter(|(key, _)| !taken.contains(*key) && !harmless(key));
        let mut unused: Vec<&str> = unused.map(|(_, place)| place.name.as_str()).collect();
        // several names may stand for parts of one tensor
        unused.sort_unstable();
        unused.dedup();
        if unused.is_empty() {
            return Ok(());
        }
        let more = if unused.len() > 4 { ", …" } else { "" };
        Err(Error::input_hint(
            format!(
                "{}: {} tensors have no place in the configured model: {}{more}",
                self.origin(),
                unused.len(),
                unused[..unused.len().min(4)].join(", ")
            ),
            "the configurations and the weights must belong to the same model",
        ))
    }

    /// Where the weights come from, for messages.
    fn origin(&self) -> String {
        match self.files.first() {
            Some(file) if self.files.len() == 1 => file.path.display().to_string(),
            Some(file) => format!("{} and its other shards", file.path.display()),
            None => "no weights".into(),
        }
    }

    /// What `key` is called here, and where it lies.
    fn find(&self, key: &str) -> Option<(&String, &Place)> {
        let known = |name: &str| self.keys.get_key_value(name);
        known(key)
            // transformers 5 leaves out the prefix that version 4 wrote
            .or_else(|| known(key.strip_prefix("text_model.")?))
            .or_else(|| {
                let (new, old) = OLD_ATTENTION
                    .iter()
                    .find(|(new, _)| is_attention(key) && key.contains(&format!(".{new}.")))?;
                known(&key.replace(&format!(".{new}."), &format!(".{old}.")))
            })
    }
}

/// Whether `key` is a projection of an attention layer as the VAE has it.
fn is_attention(key: &str) -> bool {
    key.contains("mid_block.attentions.")
        && OLD_ATTENTION.iter().any(|(new, _)| key.contains(&format!(".{new}.")))
}

/// Writes tensors as safetensors, each in the type that stands beside it (f32, f16 or bf16), as
/// PyTorch's libraries expect it. Whole or not at all; tensors are converted one at a time.
///
/// # Errors
/// [`Error::Input`] for a repeated name or another type, [`Error::Io`] if writing fails.
pub fn save_weights(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, Tensor, DType)>,
) -> Result<()> {
    let bad = |what: String| Error::input(format!("{}: {what}", path.display()));
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    // wide types first, so that all are aligned
    tensors.sort_by(|(a, _, x), (b, _, y)| (y.size_in_bytes(), a).cmp(&(x.size_in_bytes(), b)));
    let mut names = BTreeSet::new();
    let mut infos = Vec::with_capacity(tensors.len());
    let mut end = 0;
    for (name, tensor, dtype) in &tensors {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(bad(format!("`{name}` cannot be written as {dtype:?}")));
        }
        if !names.insert(name) || name == "__metadata__" {
            return Err(bad(format!("the name `{name}` is used twice")));
        }
        let start = end;
        end += tensor.elem_count() * dtype.size_in_bytes();
        let info = TensorInfo {
            dtype: (*dtype).into(),
            shape: tensor.dims().to_vec(),
            data_offsets: (start, end),
        };
        infos.push((name.clone(), info));
    }
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos).map_err(|e| bad(e.to_string()))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| bad(e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');

    safefile::write_with(path, |out| {
        let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(Error::io(path));
        put(&(header.len() as u64).to_le_bytes())?;
        put(&header)?;
        for (_, tensor, dtype) in &tensors {
            put(&little_endian(&tensor.to_dtype(*dtype)?)?)?;
        }
        Ok(())
    })
}

fn little_endian(tensor: &Tensor) -> Result<Vec<u8>> {
    let flat = tensor.to_device(&Device::Cpu)?.flatten_all()?;
    Ok(match flat.dtype() {
        DType::F16 => flat.to_vec1::<half::f16>()?.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::BF16 => flat.to_vec1::<half::bf16>()?.iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => flat.to_vec1::<f32>()?.iter().flat_map(|x| x.to_le_bytes()).collect(),
    })
}

#[cfg(test)]
mod tests;
