//! Slices of tensors, and memory for results and for intermediate values.

use std::cell::RefCell;
use std::ops::{Deref, Range};

use candle_core::{CpuStorage, DType, Result, Storage, StorageRef, Tensor, bail};

/// The elements of a contiguous f32 tensor on the CPU.
pub struct Slice<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

/// Borrows the elements of `x`.
///
/// # Errors
/// If `x` is not a contiguous f32 tensor on the CPU.
pub fn slice(x: &Tensor) -> Result<Slice<'_>> {
    let (storage, layout) = x.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => {
            Ok(Slice { storage, range: start..end })
        }
        (_, None) => bail!("the kernels take contiguous tensors"),
        _ => bail!("the kernels take {:?} on the CPU, not {:?}", DType::F32, x.dtype()),
    }
}

impl Deref for Slice<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("checked when it was borrowed"),
        }
    }
}

/// A vector of `len` numbers of which every one must be written before it is read.
///
/// Zeroing a result that a kernel writes in full would cost as much as a cheap kernel does.
pub fn uninit(len: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    // SAFETY: the capacity is there, and any bits are a valid f32. The kernels write each element
    // before anything reads it: this module is private to them.
    #[allow(clippy::uninit_vec)]
    unsafe {
        values.set_len(len)
    };
    values
}

/// Numbers in a line of the cache, at which scratch memory begins.
const LINE: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(vec![]) };
}

/// Runs `f` with `len` numbers of any value, from memory that the thread keeps.
pub fn with_scratch<T>(len: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    // Taken out while in use: `f` may need scratch of its own, or wait in rayon and meanwhile be lent
    // another piece of work that does.
    let mut buffer = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len + LINE {
        buffer = vec![0.0; len + LINE];
    }
    let start = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let result = f(&mut buffer[start..start + len]);
    SCRATCH.with_borrow_mut(|buffers| buffers.push(buffer));
    result
}
