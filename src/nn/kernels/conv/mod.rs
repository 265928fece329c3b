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

    /// The convolution whose input gradient this one is, where it has so few outputs that it is
    /// better seen that way: unrolling the map with few channels is cheap. Its kernel is [`mirror`]
    /// of this one's.
    fn mirrored(&self) -> Option<Geometry> {
        let few = self.outputs < FEW_CHANNELS && self.outputs < self.inputs;
        (few && self.stride == 1 && self.size > 1 && self.before < self.size).then(|| Geometry {
            height: self.out_height,
            width: self.out_width,
            inputs: self.outputs,
            outputs: self.inputs,
            before: self.size - 1 - self.before,
            out_height: self.height,
            out_width: self.width,
            ..*self
        })
    }
}

/// Below this many channels, a matrix with one column for each is too narrow for vectors.
const FEW_CHANNELS: usize = 16;

/// What [`forward`] and [`input_gradient`] want to have made of the kernel by [`prepare`], if anything.
pub fn wants_preparation(g: &Geometry) -> bool {
    winograd::suits(g)
}

/// The kernel `w` as the faster algorithm wants it. Uses this thread alone: a caller that holds a
/// lock must not be lent other work meanwhile.
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
    match (prepared, g.mirrored()) {
        (Some(u), _) => winograd::forward(g, x, u, bias),
        (None, Some(mirrored)) => {
            let mut out = im2col::input_gradient(&mirrored, x, &mirror(g, w));
            gemm::add_to_rows(&mut out, bias);
            out
        }
        (None, None) => im2col::forward(g, x, w, bias),
    }
}

/// The gradient of `x`, from `dy` of the output.
pub fn input_gradient(g: &Geometry, dy: &[f32], w: &[f32], prepared: Option<&[f32]>) -> Vec<f32> {
    match (prepared, g.mirrored()) {
        (Some(u), _) => winograd::input_gradient(g, dy, u),
        (None, Some(mirrored)) => {
            im2col::forward(&mirrored, dy, &mirror(g, w), &vec![0.0; g.inputs])
        }
        (None, None) => im2col::input_gradient(g, dy, w),
    }
}

/// The gradient of `w`, from `dy` of the output.
pub fn kernel_gradient(g: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    if winograd::suits_kernel_gradient(g) {
        return winograd::kernel_gradient(g, x, dy);
    }
    match g.mirrored() {
        Some(mirrored) => mirror(&mirrored, &im2col::kernel_gradient(&mirrored, dy, x)),
        None => im2col::kernel_gradient(g, x, dy),
    }
}

/// The gradient of the bias, from `dy` of the output.
pub fn bias_gradient(g: &Geometry, dy: &[f32]) -> Vec<f32> {
    gemm::sum_rows(dy, g.outputs)
}

/// The kernel `w` of `g` turned by 180°, inputs and outputs swapped.
fn mirror(g: &Geometry, w: &[f32]) -> Vec<f32> {
    let taps = w.chunks_exact((g.inputs * g.outputs).max(1)).rev();
    taps.flat_map(|tap| gemm::Mat::new(tap, g.inputs, g.outputs).t().to_rows()).collect()
}
