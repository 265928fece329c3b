//! Operations where the CPU kernels do not run, of several passes over memory in candle's own.
//!
//! Each but attention on the chip is written twice: as one or two CUDA kernels (`cuda/kernels.cu`), and as a
//! composition of candle's operations with as few passes as they allow, which runs on any other device and
//! type and is what the tests compare. Gradients are written out: nothing is differentiated by candle.

mod activation;
mod attention;
mod bias;
mod columns;
mod convolution;
mod copy;
mod counted;
#[cfg(feature = "cuda")]
mod cuda;
pub mod gpu;
mod norm;
mod softmax;
mod tally;
mod update;

pub use activation::{Activation, activate, activate_backward, geglu, geglu_backward};
pub use attention::OnChip;
pub use bias::add_bias;
pub use columns::{columns, turn};
pub use convolution::conv2d;
pub use counted::{Shapes, count_attention, count_linear};
pub use norm::{
    Needs, NormGradients, group_norm, group_norm_backward, layer_norm, layer_norm_backward,
};
pub use softmax::{softmax, softmax_backward};
pub use tally::{
    Kind, Launches, call, contiguous, count, counting, hollow, pad, pad_map, to_dtype, zeros_like,
};
pub use update::{Factors, adamw, sum_of_squares};
