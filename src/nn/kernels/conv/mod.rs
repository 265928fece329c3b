//! Convolution of channels-last maps [batch, height, width, channels] by kernels [k, k, in, out].

mod im2col;
mod transform;
mod winograd;

use super::buffer::uninit;
use super::gemm;
use winograd::Tile;

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
    /// Of a kernel of `size` × `size` on a map [batch, in, height, width] that is no smaller than it with
    /// `before` and `after` zeros on its sides.
    pub fn new(
        [batch, inputs, height, width]: [usize; 4],
        outputs: usize,
        size: usize,
        stride: usize,
        [before, after]: [usize; 2],
    ) -> Self {
        let out = |len: usize| (len + before + after - size) / stride + 1;
        Geometry {
            batch,
            height,
            width,
            inputs,
            outputs,
            size,
            stride,
            before,
            out_height: out(height),
            out_width: out(width),
        }
    }

    fn out_pixels(&self) -> usize {
        self.batch * self.out_height * self.out_width
    }

    /// Whether it is a matrix applied to every pixel.
    pub fn is_pointwise(&self) -> bool {
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

/// A form of a kernel that suits a faster algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    tile: Tile,
    for_input_gradient: bool,
}

impl Prepared {
    /// What [`forward`] wants to have made of the kernel, if anything. One that is `trained` changes in
    /// each step.
    pub fn forward(g: &Geometry, trained: bool) -> Option<Self> {
        winograd::tile(g, trained).map(|tile| Prepared { tile, for_input_gradient: false })
    }

    /// What [`input_gradient`] wants to have made of the kernel, if anything.
    pub fn input_gradient(g: &Geometry, trained: bool) -> Option<Self> {
        winograd::tile(g, trained).map(|tile| Prepared { tile, for_input_gradient: true })
    }

    /// Makes it of the kernel `w`, on this thread alone.
    pub fn of(self, inputs: usize, outputs: usize, w: &[f32]) -> Vec<f32> {
        if self.for_input_gradient {
            let mirrored = mirror(inputs, outputs, w);
            winograd::transform_kernel(self.tile, outputs, inputs, &mirrored)
        } else {
            winograd::transform_kernel(self.tile, inputs, outputs, w)
        }
    }
}

/// `x` convolved by `w`, plus `bias`: [batch, out_height, out_width, outputs].
pub fn forward(
    g: &Geometry,
    x: &[f32],
    w: &[f32],
    prepared: Option<(Prepared, &[f32])>,
    bias: &[f32],
) -> Vec<f32> {
    match (prepared, g.mirrored()) {
        (Some((form, u)), _) => winograd::convolve(form.tile, g, x, u, Some(bias)),
        (None, Some(mirrored)) => {
            let mut out = im2col::input_gradient(&mirrored, x, &mirror(g.inputs, g.outputs, w));
            gemm::add_to_rows(&mut out, bias);
            out
        }
        (None, None) => im2col::forward(g, x, w, bias),
    }
}

/// The gradient of `x`, from `dy` of the output.
pub fn input_gradient(
    g: &Geometry,
    dy: &[f32],
    w: &[f32],
    prepared: Option<(Prepared, &[f32])>,
) -> Vec<f32> {
    match (prepared, g.mirrored()) {
        (Some((form, u)), _) => {
            // The convolution by the kernel turned round.
            let swapped = Geometry { inputs: g.outputs, outputs: g.inputs, ..*g };
            winograd::convolve(form.tile, &swapped, dy, u, None)
        }
        (None, Some(mirrored)) => {
            let w = mirror(g.inputs, g.outputs, w);
            im2col::forward(&mirrored, dy, &w, &vec![0.0; g.inputs])
        }
        (None, None) => im2col::input_gradient(g, dy, w),
    }
}

/// The gradient of `w`, from `dy` of the output.
pub fn kernel_gradient(g: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    if let Some(tile) = winograd::kernel_gradient_tile(g) {
        return winograd::kernel_gradient(tile, g, x, dy);
    }
    match g.mirrored() {
        Some(mirrored) => {
            let dw = im2col::kernel_gradient(&mirrored, dy, x);
            mirror(mirrored.inputs, mirrored.outputs, &dw)
        }
        None => im2col::kernel_gradient(g, x, dy),
    }
}

/// The gradient of the bias, from `dy` of the output.
pub fn bias_gradient(g: &Geometry, dy: &[f32]) -> Vec<f32> {
    gemm::sum_rows(dy, g.outputs)
}

/// The kernel `w` turned by 180°, inputs and outputs swapped; on this thread alone.
fn mirror(inputs: usize, outputs: usize, w: &[f32]) -> Vec<f32> {
    let tap = (inputs * outputs).max(1);
    let mut mirrored = uninit(w.len());
    for (from, to) in w.chunks_exact(tap).rev().zip(mirrored.chunks_exact_mut(tap)) {
        gemm::Mat::new(from, inputs, outputs).t().copy_to(to);
    }
    mirrored
}
