//! How a kernel is run: the code that it is in, its grid and its arguments.

use candle_core::cuda_backend::cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{DType, Result, Shape, Storage, Tensor, bail};

/// Threads of a block, where the kernel's shape does not say.
pub const THREADS: usize = 256;

/// Compiled kernels.
pub struct Code {
    pub module: &'static str,
    pub ptx: &'static str,
}

impl Code {
    /// Runs the kernel `name` for the type of the first tensor. It gets the tensors, then the numbers.
    pub fn launch(
        &self,
        name: &str,
        grid: Grid,
        tensors: &[&Tensor],
        numbers: &[Number],
    ) -> Result<()> {
        let pointers = tensors.iter().map(|x| pointer(x)).collect::<Result<Vec<_>>>()?;
        self.launch_at(name, grid, tensors[0], &pointers, numbers)
    }

    /// Runs the kernel `name` for the type of `like`, on its device.
    pub fn launch_at(
        &self,
        name: &str,
        grid: Grid,
        like: &Tensor,
        pointers: &[u64],
        numbers: &[Number],
    ) -> Result<()> {
        enum Value {
            Pointer(u64),
            Int(i32),
            Long(i64),
            Float(f32),
        }
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        let mut values: Vec<Value> = pointers.iter().map(|&x| Value::Pointer(x)).collect();
        for number in numbers {
            values.push(match *number {
                Number::Int(x) => Value::Int(i32::try_from(x).map_err(candle_core::Error::wrap)?),
                Number::Signed(x) => {
                    Value::Int(i32::try_from(x).map_err(candle_core::Error::wrap)?)
                }
                Number::Long(x) => Value::Long(x as i64),
                Number::Float(x) => Value::Float(x as f32),
            });
        }
        let device = like.device().as_cuda_device()?;
        let name = format!("{name}_{}", like.dtype().as_str());
        let kernel = device.get_or_load_custom_func(&name, self.module, self.ptx)?;
        let mut arguments = kernel.builder();
        for value in &values {
            match value {
                Value::Pointer(x) => arguments.arg(x),
                Value::Int(x) => arguments.arg(x),
                Value::Long(x) => arguments.arg(x),
                Value::Float(x) => arguments.arg(x),
            };
        }
        let [x, y] = grid.blocks.map(|n| n as u32);
        let config = LaunchConfig {
            grid_dim: (x, y, 1),
            block_dim: (grid.threads as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: each caller passes what its kernel takes, in order, and tensors of
        // the sizes that the numbers say.
        unsafe { arguments.launch(config) }.w()?;
        Ok(())
    }
}

/// A kernel's argument that is no tensor.
#[derive(Clone, Copy)]
pub enum Number {
    Int(usize),
    Signed(isize),
    Long(usize),
    Float(f64),
}

/// How many blocks run, and how many threads each has.
pub struct Grid {
    pub blocks: [usize; 2],
    pub threads: usize,
}

impl Grid {
    /// A warp for each of so many rows.
    pub fn warps(rows: usize) -> Self {
        Grid { blocks: [rows.div_ceil(THREADS / 32), 1], threads: THREADS }
    }

    /// Blocks that go over so many elements together.
    pub fn elements(count: usize) -> Self {
        Grid { blocks: [count.div_ceil(THREADS).min(1 << 16), 1], threads: THREADS }
    }

    /// A block for each row of `x` [..., 2 half].
    pub fn rows(x: &Tensor, half: usize) -> Self {
        Grid { blocks: [x.elem_count() / (2 * half).max(1), 1], threads: THREADS }
    }
}

/// Where a contiguous tensor lies.
pub fn pointer(x: &Tensor) -> Result<u64> {
    if !x.is_contiguous() {
        bail!("the kernels take contiguous tensors");
    }
    address(x)
}

/// Where a tensor starts. All work of a device is done on one stream ([`open_cuda`](crate::nn::open_cuda)), in
/// the order in which it is asked for, so that nothing needs to be waited for, and memory is not given to
/// others before a launch is done.
pub fn address(x: &Tensor) -> Result<u64> {
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("the kernels take tensors of a GPU") };
    let stream = storage.device.cuda_stream();
    let start = match &storage.slice {
        CudaStorageSlice::F32(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::F16(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::BF16(x) => x.device_ptr(&stream).0,
        _ => bail!("the kernels do not take {:?}", x.dtype()),
    };
    Ok(start + (layout.start_offset() * x.dtype().size_in_bytes()) as u64)
}

/// `x`, contiguous and of the type of `like`.
pub fn like(x: &Tensor, like: &Tensor) -> Result<Tensor> {
    x.to_dtype(like.dtype())?.contiguous()
}

/// Room for a kernel's result, of which it writes every number.
pub fn empty(shape: impl Into<Shape>, dtype: DType, like: &Tensor) -> Result<Tensor> {
    // SAFETY: nothing reads it before the kernel has run.
    unsafe { Tensor::empty(shape, dtype, like.device()) }
}
