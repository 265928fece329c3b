//! GPUs, and how much memory they have.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Result};

/// Opens NVIDIA's GPU `i`: with one stream, whichever threads use it. candle's own choice is a stream for
/// each thread, between which nothing waits for what another thread has asked for.
///
/// # Errors
/// Only candle's: no such GPU, or a build without them.
pub fn open_cuda(i: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(i)?;
    #[cfg(feature = "cuda")]
    cuda::prepare(device.as_cuda_device()?);
    Ok(device)
}

/// Free and total memory in bytes, where a GPU tells.
pub fn device_memory(device: &Device) -> Option<(u64, u64)> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::memory(device),
        _ => None,
    }
}

/// Whether a device has the tensor cores that kernels of ours are written for: compute capability 8.0 or
/// later.
pub fn tensor_cores(device: &Device) -> bool {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::capability(device).is_some_and(|(major, _)| major >= 8),
        _ => false,
    }
}

/// The memory in bytes by which batches and blocks are cut on a device, where it tells: what was free when
/// somebody first asked, as [`rounded_room`] rounds it.
pub fn room(device: &Device) -> Option<u64> {
    static KNOWN: Mutex<BTreeMap<String, Option<u64>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    *known
        .entry(format!("{:?}", device.location()))
        .or_insert_with(|| device_memory(device).map(|(free, _)| rounded_room(free)))
}

/// A power of two at most as large: what is free differs a little from run to run, and what is cut by it,
/// and with it the last bits of sums, should not.
pub fn rounded_room(free: u64) -> u64 {
    free.checked_ilog2().map_or(0, |log| 1 << log)
}

#[cfg(feature = "cuda")]
mod cuda {
    use candle_core::CudaDevice;
    use candle_core::cuda_backend::cudarc::driver::result::{device, mem_pool};
    use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute;
    use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute::{
        CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT,
        CU_MEMPOOL_ATTR_USED_MEM_CURRENT,
    };

    pub fn prepare(cuda: &CudaDevice) {
        // SAFETY: there is one stream, so that nothing needs events to wait for; each tensor would have two.
        unsafe { cuda.disable_event_tracking() };
        // By default the driver takes back all that is free whenever somebody waits for the device, which
        // is in each step, and maps it again in the next. Half is left to others, such as extractors.
        if let Some((_, total)) = memory(cuda) {
            attribute(cuda, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, Some(total / 2));
        }
    }

    pub fn capability(cuda: &CudaDevice) -> Option<(i32, i32)> {
        cuda.cuda_stream().context().compute_capability().ok()
    }

    pub fn memory(cuda: &CudaDevice) -> Option<(u64, u64)> {
        let (free, total) = cuda.cuda_stream().context().mem_get_info().ok()?;
        let pool = |kind| attribute(cuda, kind, None);
        // what tensors had before, and new ones get
        let reserved = pool(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT).unwrap_or(0);
        let used = pool(CU_MEMPOOL_ATTR_USED_MEM_CURRENT).unwrap_or(reserved);
        Some((free as u64 + reserved.saturating_sub(used), total as u64))
    }

    /// A number of the pool that tensors come from, as it is or as it is set; none where there is no pool.
    fn attribute(cuda: &CudaDevice, kind: CUmemPool_attribute, set: Option<u64>) -> Option<u64> {
        let stream = cuda.cuda_stream();
        let context = stream.context();
        context.bind_to_thread().ok()?;
        let mut value = set.unwrap_or(0);
        let place = (&raw mut value).cast();
        // SAFETY: the device is open, and all attributes asked for above are numbers of 64 bits.
        unsafe {
            let pool = device::get_default_mem_pool(context.cu_device()).ok()?;
            let done = match set {
                Some(_) => mem_pool::set_attribute(pool, kind, place),
                None => mem_pool::get_attribute(pool, kind, place),
            };
            done.ok()?;
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_little_less_memory_is_the_same_room() {
        let gib = |gib: f64| (gib * f64::from(1 << 30)) as u64;
        for (free, room) in [(23.4, 16.0), (22.9, 16.0), (75.0, 64.0), (16.0, 16.0)] {
            assert_eq!(rounded_room(gib(free)), gib(room));
        }
        assert_eq!((rounded_room(0), rounded_room(1)), (0, 1));
        assert_eq!(room(&Device::Cpu), None);
    }
}
