//! Differentiable layers on candle tensors, for the CPU and for GPUs.
//!
//! [`Var`] records how gradients flow back, [`ops`] are the operations, [`layers`](Linear) hold
//! [`Param`]s. `kernels` has the CPU implementations, `backend` says when they run.

mod autograd;
mod backend;
pub(crate) mod device;
mod finite;
pub mod flops;
mod kernels;
mod layers;
pub mod ops;
pub mod parallel;
mod param;

pub use autograd::{Flow, Gradients, Var, checkpoint, no_grad};
pub(crate) use backend::fast as on_cpu_kernels;
pub use backend::reference;
pub(crate) use backend::whole_batches;
pub use device::gpu::{device_memory, open_cuda, room, rounded_room, tensor_cores};
pub use finite::all_finite;
pub use layers::{Conv2d, GroupNorm, LayerNorm, Linear};
pub use ops::Padding;
pub use param::{Builder, Init, Keeping, Param, RandomSource, Source};
