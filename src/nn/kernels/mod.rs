//! CPU kernels on f32 slices; what they compute is said by the operation in `ops` that uses them.

pub mod activation;
pub mod attention;
pub mod buffer;
pub mod conv;
pub mod gemm;
pub mod load;
pub mod map;
pub mod norm;
pub mod simd;
