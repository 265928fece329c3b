//! Convolution of channels-last maps [batch, height, width, channels] by kernels [k, k, in, out].

mod im2col;
mod transform;
mod winograd;

use super::gemm;

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Images.
    pub batch: usize,
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// The kernel's height and width.
    pub size: usize,
    /// Pixels from one position of the kernel to the next.
    pub stride: usize,
    /// Zero rows above and columns to the left.
    pub before: usize,
    /// Rows of the output.
    pub out_height: usize,
    /// Columns of the output.
    pub out_width: usize,
}

impl Geometry {
    fn out_pixels(&self) -> usize {
        self.batch * self.out_height * self.out_width
    }

    fn is_pointwise(&self) -> bool {
        let padded =
            self.before > 0 || self.out_height > self.height || self.out_width > self.width;
        self.size == 1 && self.stride == 1 && !padded
    }
}

/// What [`forward`] and [`input_gradient`] want to have made of the kernel by [`prepare`], if anything.
pub fn wants_preparation(g: &Geometry) -> bool {
    winograd::suits(g)
}

/// The kernel `w` as the faster algorithm wants it.
pub fn prepare(inputs: usize, outputs: usize, w: &[f32]) -> Vec<f32> {
    winograd::transform_kernel(inputs, outputs, w)
}

/// `x` convolved by `w`, plus `bias`: [batch, out_height, out_width, outputs].
pub fn forward(
    g: &Geometry,
    x: &[f32],
    w: &[f32],
    prepared: Option<&[f32]>,
    bias: &[f32],
) -> Vec<f32> {
    match prepared {
        Some(u) => winograd::forward(g, x, u, bias),
        None => im2col::forward(g, x, w, bias),
    }
}

/// The gradient of `x`, from `dy` of the output.
pub fn input_gradient(g: &Geometry, dy: &[f32], w: &[f32], prepared: Option<&[f32]>) -> Vec<f32> {
    match prepared {
        Some(u) => winograd::input_gradient(g, dy, u),
        None => im2col::input_gradient(g, dy, w),
    }
}

/// The gradient of `w`, from `dy` of the output.
pub fn kernel_gradient(g: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    if winograd::suits(g) {
        winograd::kernel_gradient(g, x, dy)
    } else {
        im2col::kernel_gradient(g, x, dy)
    }
}

/// The gradient of the bias, from `dy` of the output.
pub fn bias_gradient(g: &Geometry, dy: &[f32]) -> Vec<f32> {
    gemm::sum_rows(dy, g.outputs)
}
