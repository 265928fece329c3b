//! Which implementation an operation uses, and how it lays out feature maps.
//!
//! On the CPU in f32 the project's own kernels run, on channels-last maps: an image's pixels are then
//! rows of a matrix product, and vector lanes run along channels. Everywhere else, candle's
//! operations run on channels-first maps, as cuDNN wants them. Tests run the second way on the CPU
//! too, as the reference for the first.

use std::cell::Cell;

use candle_core::{DType, Device, Tensor};

thread_local! {
    static REFERENCE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with candle's operations in place of the CPU kernels. A model must be built and run
/// under the same mode.
pub fn reference<T>(f: impl FnOnce() -> T) -> T {
    with_reference_mode(true, f)
}

pub(super) fn reference_mode() -> bool {
    REFERENCE.get()
}

pub(super) fn with_reference_mode<T>(on: bool, f: impl FnOnce() -> T) -> T {
    let outer = REFERENCE.replace(on);
    let result = f();
    REFERENCE.set(outer);
    result
}

/// Whether the CPU kernels take tensors of this device and type.
pub(super) fn has_kernels(device: &Device, dtype: DType) -> bool {
    device.is_cpu() && dtype == DType::F32 && !reference_mode()
}

/// Whether batches go through networks whole, as a GPU wants them: where no CPU kernels run, which share a
/// batch out to threads.
pub(crate) fn whole_batches(device: &Device) -> bool {
    !has_kernels(device, DType::F32)
}

/// Whether the CPU kernels take this tensor.
pub(crate) fn fast(x: &Tensor) -> bool {
    has_kernels(x.device(), x.dtype())
}
