//! Weights as PyTorch pickles them, written: a zip of `archive/data.pkl`, a pickle of protocol 2 that names tensors, and
//! of `archive/data/N`, their bytes. Read by `torch.load`, with `weights_only=True`, too.

use std::io::{Cursor, Write};
use std::path::Path;

use candle_core::{DType, Tensor};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::little_endian;
use crate::{Error, Result, safefile};

/// What a pickle holds.
#[derive(Clone, Debug)]
pub enum Pickled {
    /// Entries by name, in order.
    Dict(Vec<(String, Pickled)>),
    /// A tensor, which is written in f32.
    Tensor(Tensor),
    /// A number.
    Int(i32),
    /// A text.
    Text(String),
    /// Python's `None`.
    None,
}

/// Writes `value` as `torch.save` does. Whole or not at all.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn save_pickle(path: &Path, value: &Pickled) -> Result<()> {
    let mut pickle = Pickle { code: vec![PROTO, 2], storages: vec![] };
    pickle.put(value);
    pickle.code.push(STOP);
    safefile::write(path, archive(&pickle).map_err(Error::io(path))?)
}

/// The file's bytes.
fn archive(pickle: &Pickle) -> std::io::Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    let mut put = |name: String, bytes: &[u8]| -> std::io::Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored)
            .large_file(bytes.len() > u32::MAX as usize);
        zip.start_file(name, options)?;
        zip.write_all(bytes)
    };
    put("archive/data.pkl".into(), &pickle.code)?;
    put("archive/byteorder".into(), b"little")?;
    for (number, tensor) in pickle.storages.iter().enumerate() {
        let bytes = little_endian(tensor).map_err(std::io::Error::other)?;
        put(format!("archive/data/{number}"), &bytes)?;
    }
    put("archive/version".into(), b"3\n")?;
    Ok(zip.finish()?.into_inner())
}

// The opcodes that are written, by Python's names for them.
const PROTO: u8 = 0x80;
const STOP: u8 = b'.';
const MARK: u8 = b'(';
const EMPTY_DICT: u8 = b'}';
const SETITEMS: u8 = b'u';
const BINUNICODE: u8 = b'X';
const BININT: u8 = b'J';
const NONE: u8 = b'N';
const FALSE: u8 = 0x89;
const GLOBAL: u8 = b'c';
const REDUCE: u8 = b'R';
const EMPTY_TUPLE: u8 = b')';
const TUPLE: u8 = b't';
const BINPERSID: u8 = b'Q';
const LONG1: u8 = 0x8a;

/// A pickle in the making.
struct Pickle {
    code: Vec<u8>,
    /// The tensors whose bytes it names by their numbers.
    storages: Vec<Tensor>,
}

impl Pickle {
    fn put(&mut self, value: &Pickled) {
        match value {
            Pickled::Dict(entries) => {
                self.code.extend([EMPTY_DICT, MARK]);
                for (name, value) in entries {
                    self.text(name);
                    self.put(value);
                }
                self.code.push(SETITEMS);
            }
            Pickled::Tensor(tensor) => self.tensor(tensor),
            Pickled::Int(number) => {
                self.code.push(BININT);
                self.code.extend(number.to_le_bytes());
            }
            Pickled::Text(text) => self.text(text),
            Pickled::None => self.code.push(NONE),
        }
    }

    /// `torch._utils._rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())`.
    fn tensor(&mut self, tensor: &Tensor) {
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.code.extend([MARK, MARK]);
        self.text("storage");
        self.global("torch", "FloatStorage");
        self.text(&self.storages.len().to_string());
        self.text("cpu");
        self.size(tensor.elem_count());
        self.code.extend([TUPLE, BINPERSID]);
        self.size(0);
        self.tuple(tensor.dims());
        let dims = tensor.dims();
        let strides = (1..=dims.len()).map(|behind| dims[behind..].iter().product());
        self.tuple(&strides.collect::<Vec<usize>>());
        self.code.push(FALSE);
        self.global("collections", "OrderedDict");
        self.code.extend([EMPTY_TUPLE, REDUCE, TUPLE, REDUCE]);
        self.storages.push(tensor.clone());
    }

    fn tuple(&mut self, sizes: &[usize]) {
        self.code.push(MARK);
        sizes.iter().for_each(|&size| self.size(size));
        self.code.push(TUPLE);
    }

    fn size(&mut self, size: usize) {
        match i32::try_from(size) {
            Ok(size) => self.put(&Pickled::Int(size)),
            // eight bytes hold the sign, too: no tensor has so many numbers
            Err(_) => {
                self.code.extend([LONG1, 8]);
                self.code.extend((size as u64).to_le_bytes());
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.code.push(BINUNICODE);
        self.code.extend((text.len() as u32).to_le_bytes());
        self.code.extend(text.as_bytes());
    }

    fn global(&mut self, module: &str, name: &str) {
        self.code.push(GLOBAL);
        self.code.extend(format!("{module}\n{name}\n").as_bytes());
    }
}

impl Pickled {
    /// A tensor, in f32.
    ///
    /// # Errors
    /// Only candle's.
    pub fn tensor(tensor: &Tensor) -> Result<Self> {
        Ok(Pickled::Tensor(tensor.to_dtype(DType::F32)?))
    }
}
