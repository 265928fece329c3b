//! Weights as PyTorch pickles them (`.bin`, `.pt`, `.pth`, `.ckpt`): a zip archive with a pickle that says
//! which tensors there are, and a file for each tensor's numbers.
//!
//! Nothing of a pickle is run. Its dictionaries are walked through and their tensors called by the keys on
//! the way, joined by dots: of `{"state_dict": {"a.b": …}}` the tensor is `state_dict.a.b`. Numbers are read
//! when they are asked for.

mod program;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::DType;
use candle_core::pickle::Object;
use zip::{CompressionMethod, ZipArchive};

use self::program::Checked;
use crate::{Error, Result};

/// Longest pickle that is followed, without the tensors' numbers. A Stable Diffusion's has 200 kB.
const LONGEST_PROGRAM: u64 = 64 << 20;
/// How deep dictionaries may lie in each other.
const DICTIONARIES: usize = 6;

/// Modules whose classes stand in checkpoints of trainers. They are not called, their values are passed over.
const KNOWN_MODULES: [&str; 9] = [
    "torch",
    "collections",
    "numpy",
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "omegaconf",
    "argparse",
    "_codecs",
];
/// Of Python's own names those that only hold values.
const KNOWN_BUILTINS: [&str; 10] =
    ["set", "frozenset", "list", "dict", "tuple", "int", "float", "bool", "complex", "bytearray"];

/// How a file that `torch.save` writes starts, and how those did that PyTorch wrote before version 1.6.
const ZIP: [u8; 4] = *b"PK\x03\x04";
const PICKLE: u8 = 0x80;

/// A pickled file, opened.
pub struct Pickle {
    path: PathBuf,
    archive: Mutex<ZipArchive<BufReader<File>>>,
    tensors: BTreeMap<String, Stored>,
}

/// Where a tensor's numbers are.
struct Stored {
    dtype: DType,
    shape: Vec<usize>,
    stride: Vec<usize>,
    /// In elements.
    offset: usize,
    /// The file in the archive.
    file: String,
    /// How many numbers that file has.
    numbers: usize,
}

impl Pickle {
    /// Whether a file with these first nine bytes is pickled. Those of a safetensors file are a number, which may
    /// begin with any byte, and a brace.
    pub fn is_one(first: &[u8]) -> bool {
        let safetensors = first.get(8) == Some(&b'{') && first[4..8] == [0; 4];
        !safetensors && (first.starts_with(&ZIP) || first.first() == Some(&PICKLE))
    }

    /// Opens a file and finds its tensors.
    ///
    /// # Errors
    /// [`Error::Input`] if it is damaged or compressed, older than PyTorch 1.6, or wants to call what no
    /// checkpoint calls.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |what: String| Error::input(format!("{}: {what}", path.display()));
        let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
        let mut first = [0];
        if file.read(&mut first).map_err(Error::io(path))? == 1 && first[0] == PICKLE {
            return Err(Error::input_hint(
                format!("{}: a pickle as PyTorch wrote them before version 1.6", path.display()),
                "load it in Python with torch.load(file, weights_only=True) and torch.save it again",
            ));
        }
        let damaged = |e: zip::result::ZipError| bad(format!("not a whole zip archive: {e}"));
        let mut archive = ZipArchive::new(file).map_err(damaged)?;
        let name = pickle_name(&archive).ok_or_else(|| {
            bad("there is no data.pkl in this archive: PyTorch did not write it".into())
        })?;
        let program = {
            let entry = archive.by_name(&name).map_err(damaged)?;
            if entry.compression() != CompressionMethod::Stored || entry.size() > LONGEST_PROGRAM {
                return Err(bad(format!(
                    "`{name}` is compressed or has more than {} MB, which PyTorch never writes",
                    LONGEST_PROGRAM >> 20
                )));
            }
            let mut program = vec![];
            entry.take(LONGEST_PROGRAM).read_to_end(&mut program).map_err(Error::io(path))?;
            program
        };
        let value = program::run(&program).map_err(bad)?;
        if let Some(call) = foreign_call(&value) {
            return Err(Error::input_hint(
                format!("{}: the pickle wants to call `{call}`; nothing was run", path.display()),
                "no checkpoint needs that: do not open this file with anything else either",
            ));
        }
        let folder = name.strip_suffix("data.pkl").unwrap_or_default();
        let mut tensors = BTreeMap::new();
        collect(&value, "", folder, DICTIONARIES, &mut tensors).map_err(bad)?;
        Ok(Pickle { path: path.to_owned(), archive: Mutex::new(archive), tensors })
    }

    /// The names of the tensors.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor's type and shape.
    pub fn describe(&self, key: &str) -> Option<(DType, &[usize])> {
        self.tensors.get(key).map(|stored| (stored.dtype, stored.shape.as_slice()))
    }

    /// Reads a tensor's numbers, little-endian and in the order of its shape.
    ///
    /// # Errors
    /// [`Error::Input`] if the archive does not have them, or not as they should be.
    pub fn bytes(&self, key: &str) -> Result<Vec<u8>> {
        let bad = |what: String| Error::input(format!("{}: `{key}`: {what}", self.path.display()));
        let stored = self.tensors.get(key).ok_or_else(|| bad("is not there".into()))?;
        let span =
            stored.span().ok_or_else(|| bad("its shape reaches beyond its numbers".into()))?;
        let size = stored.dtype.size_in_bytes();
        let mut archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = |e: zip::result::ZipError| bad(format!("its numbers cannot be read: {e}"));
        let entry = archive.by_name(&stored.file).map_err(lost)?;
        let whole = entry.compression() == CompressionMethod::Stored
            && entry.size() == entry.compressed_size()
            && Some(entry.size()) == (stored.numbers as u64).checked_mul(size as u64);
        drop(entry);
        if !whole {
            return Err(bad(format!(
                "`{}` is compressed or does not hold {} numbers",
                stored.file, stored.numbers
            )));
        }
        let mut entry = archive.by_name_seek(&stored.file).map_err(lost)?;
        let io = Error::io(&self.path);
        entry.seek(SeekFrom::Start((stored.offset * size) as u64)).map_err(io)?;
        // no more than the archive really has is ever reserved
        let mut bytes = vec![];
        entry.take((span * size) as u64).read_to_end(&mut bytes).map_err(Error::io(&self.path))?;
        if bytes.len() != span * size {
            return Err(bad("the archive is cut short".into()));
        }
        drop(archive);
        Ok(stored.in_order(bytes))
    }
}

impl Stored {
    /// How many numbers lie between its first and its last, both included, if the file has them; a tensor
    /// that shows its numbers more than once is none that a checkpoint has.
    fn span(&self) -> Option<usize> {
        let elements = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        if elements == 0 {
            return (self.offset <= self.numbers).then_some(0);
        }
        let mut last = 0usize;
        for (dim, stride) in self.shape.iter().zip(&self.stride) {
            last = last.checked_add((dim - 1).checked_mul(*stride)?)?;
        }
        let span = last.checked_add(1)?;
        let end = self.offset.checked_add(span)?;
        (self.shape.len() == self.stride.len() && end <= self.numbers && elements <= span)
            .then_some(span)
    }

    /// The numbers in the order of the shape, from those that lie as the strides say.
    fn in_order(&self, bytes: Vec<u8>) -> Vec<u8> {
        let mut dense = 1;
        let contiguous = self.shape.iter().zip(&self.stride).rev().all(|(&dim, &stride)| {
            let fits = dim == 1 || stride == dense;
            dense *= dim;
            fits
        });
        if contiguous || bytes.is_empty() {
            return bytes;
        }
        let size = self.dtype.size_in_bytes();
        let elements: usize = self.shape.iter().product();
        let mut out = Vec::with_capacity(elements * size);
        let mut index = vec![0; self.shape.len()];
        for _ in 0..elements {
            let at: usize = index.iter().zip(&self.stride).map(|(i, stride)| i * stride).sum();
            out.extend_from_slice(&bytes[at * size..][..size]);
            for (i, dim) in index.iter_mut().zip(&self.shape).rev() {
                *i += 1;
                if *i < *dim {
                    break;
                }
                *i = 0;
            }
        }
        out
    }
}

/// The archive's `data.pkl`, which lies in a folder of any name.
fn pickle_name(archive: &ZipArchive<BufReader<File>>) -> Option<String> {
    let names = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned()));
    names.min_by_key(|name| (!is_pickle(name), name.len())).filter(|name| is_pickle(name))
}

fn is_pickle(name: &str) -> bool {
    name == "data.pkl" || name.ends_with("/data.pkl")
}

/// A class in the value that is none of a checkpoint.
fn foreign_call(value: &Object) -> Option<String> {
    if let Object::Class { module_name, class_name } = value {
        let root = module_name.split('.').next().unwrap_or_default();
        let known = match root {
            "builtins" | "__builtin__" => KNOWN_BUILTINS.contains(&class_name.as_str()),
            _ => KNOWN_MODULES.contains(&root),
        };
        return (!known).then(|| format!("{module_name}.{class_name}"));
    }
    program::inner(value).into_iter().find_map(foreign_call)
}

/// Adds the tensors in a dictionary and in those in it.
fn collect(
    value: &Object,
    at: &str,
    folder: &str,
    depth: usize,
    out: &mut BTreeMap<String, Stored>,
) -> Checked<()> {
    let Object::Dict(items) = value else {
        if let Some(stored) = stored(value, folder).map_err(|what| format!("`{at}`: {what}"))?
            && out.insert(at.to_owned(), stored).is_some()
        {
            return Err(format!("the tensor `{at}` is there twice"));
        }
        return Ok(());
    };
    if depth == 0 {
        return Err(format!("`{at}`: dictionaries lie too deep in each other"));
    }
    for (key, value) in items {
        // the keys of an optimiser's state are numbers; `_metadata` is PyTorch's own
        let Object::Unicode(key) = key else { continue };
        if key != "_metadata" {
            let name = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            collect(value, &name, folder, depth - 1, out)?;
        }
    }
    Ok(())
}

/// The tensor that a call makes, if it is one that makes tensors.
fn stored(value: &Object, folder: &str) -> Checked<Option<Stored>> {
    let Object::Reduce { callable, args } = value else { return Ok(None) };
    let (Object::Class { module_name, class_name }, Object::Tuple(args)) =
        (callable.as_ref(), args.as_ref())
    else {
        return Ok(None);
    };
    match (module_name.as_str(), class_name.as_str(), args.as_slice()) {
        ("torch._utils", "_rebuild_parameter", [tensor, ..]) => stored(tensor, folder),
        ("torch._utils", "_rebuild_tensor_v2", [storage, offset, shape, stride, ..]) => {
            let (dtype, file, numbers) = storage_of(storage)?;
            let broken = || "its place in the file is not given in whole numbers".to_owned();
            Ok(Some(Stored {
                dtype,
                shape: sizes(shape).ok_or_else(broken)?,
                stride: sizes(stride).ok_or_else(broken)?,
                offset: size(offset).ok_or_else(broken)?,
                file: format!("{folder}data/{file}"),
                numbers,
            }))
        }
        ("torch._utils", name, _) if name.starts_with("_rebuild") => {
            Err(format!("a tensor made by torch._utils.{name} is none that is known"))
        }
        _ => Ok(None),
    }
}

/// Type, file and count of a storage: `("storage", torch.FloatStorage, "0", "cpu", 12)`.
fn storage_of(value: &Object) -> Checked<(DType, &str, usize)> {
    let broken = || "its storage is not described as PyTorch does".to_owned();
    let Object::PersistentLoad(id) = value else { return Err(broken()) };
    let Object::Tuple(parts) = id.as_ref() else { return Err(broken()) };
    let [_, Object::Class { class_name, .. }, Object::Unicode(file), _, numbers] = parts.as_slice()
    else {
        return Err(broken());
    };
    let dtype = match class_name.as_str() {
        "FloatStorage" => DType::F32,
        "DoubleStorage" => DType::F64,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "ByteStorage" | "BoolStorage" => DType::U8,
        "ShortStorage" => DType::I16,
        "IntStorage" => DType::I32,
        "LongStorage" => DType::I64,
        other => return Err(format!("its numbers are a {other}, which is not known")),
    };
    Ok((dtype, file, size(numbers).ok_or_else(broken)?))
}

fn sizes(value: &Object) -> Option<Vec<usize>> {
    let Object::Tuple(values) = value else { return None };
    values.iter().map(size).collect()
}

fn size(value: &Object) -> Option<usize> {
    match value {
        Object::Int(n) => usize::try_from(*n).ok(),
        Object::Long(n) => usize::try_from(*n).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
