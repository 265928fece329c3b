//! The numbers of CPU tensors, to read and to write.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};

/// Calls `f` with the numbers of an f32 tensor on the CPU.
pub fn read<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("not a CPU tensor") };
    Ok(f(&storage.as_slice::<f32>()?[range(layout)?]))
}

/// Calls `f` with the numbers of a contiguous f32 tensor on the CPU. Every tensor that shares its
/// storage changes with it.
pub fn write<R>(tensor: &Tensor, f: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    let op = Write(Cell::new(Some(f)), Cell::new(None));
    tensor.inplace_op1(&op)?;
    Ok(op.1.take().expect("the operation ran"))
}

struct Write<F, R>(Cell<Option<F>>, Cell<Option<R>>);

impl<R, F: FnOnce(&mut [f32]) -> R> InplaceOp1 for Write<F, R> {
    fn name(&self) -> &'static str {
        "write"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let range = range(layout)?;
        let CpuStorage::F32(values) = storage else { bail!("not an f32 tensor") };
        let f = self.0.take().expect("called once");
        self.1.set(Some(f(&mut values[range])));
        Ok(())
    }
}

fn range(layout: &Layout) -> Result<std::ops::Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!("not a contiguous tensor"),
    }
}
