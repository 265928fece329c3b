use candle_core::{Result, Tensor};

use super::tally::{Kind, call, pad_map};
#[cfg(feature = "cuda")]
use super::{copy::View, cuda};
use crate::nn::kernels::conv::Geometry;

/// The pixels that each place of a convolution's kernel sees in images `images` of a contiguous map:
/// [in · size · size, images · outputs' pixels].
pub fn columns(x: &Tensor, g: &Geometry, images: std::ops::Range<usize>) -> Result<Tensor> {
    let x = x.narrow(0, images.start, images.len())?;
    let shape = (g.inputs * g.size * g.size, images.len() * g.out_height * g.out_width);
    call(Kind::Convolution, &[&x]).run(shape, x.dtype(), || {
        #[cfg(feature = "cuda")]
        if cuda::takes(&x) {
            return cuda::columns(&x, g);
        }
        // as far as the kernel's last row and column reach, with the stride's rest
        let after = |out: usize, len: usize| {
            (g.size - 1 + g.stride * out) as isize - (g.before + len) as isize
        };
        let before = g.before as isize;
        let x = pad_map(
            &x,
            [before, after(g.out_height, g.height)],
            [before, after(g.out_width, g.width)],
        )?;
        let every = |x: Tensor, dim: usize, start: usize, out: usize| {
            let x = x.narrow(dim, start, out * g.stride)?;
            if g.stride == 1 { Ok(x) } else { every_nth(&x, dim, g.stride) }
        };
        let mut seen = Vec::with_capacity(g.size * g.size);
        for i in 0..g.size {
            for j in 0..g.size {
                let rows = every(x.clone(), 2, i, g.out_height)?;
                seen.push(every(rows, 3, j, g.out_width)?.contiguous()?);
            }
        }
        // [batch, in, places, height, width]
        Tensor::stack(&seen, 2)?.permute((1, 2, 0, 3, 4))?.contiguous()?.reshape(shape)
    })
}

fn every_nth(x: &Tensor, dim: usize, n: usize) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    shape[dim] /= n;
    shape.insert(dim + 1, n);
    x.contiguous()?.reshape(shape)?.narrow(dim + 1, 0, 1)?.squeeze(dim + 1)
}

/// A kernel [out, in, size, size] as the one whose convolution is the input's gradient: turned by 180
/// degrees, [in, out, size, size].
pub fn turn(kernel: &Tensor) -> Result<Tensor> {
    let (outputs, inputs, size, _) = kernel.dims4()?;
    let shape = (inputs, outputs, size, size);
    call(Kind::Convolution, &[kernel]).run(shape, kernel.dtype(), || {
        #[cfg(feature = "cuda")]
        if cuda::takes(kernel) && kernel.is_contiguous() {
            let view = View::turned([outputs, inputs, size * size]);
            return cuda::copy(kernel, &view, &candle_core::Shape::from(shape));
        }
        let places = (size * size) as u32;
        let reversed: Vec<u32> = (0..places).rev().collect();
        let reversed = Tensor::from_vec(reversed, places as usize, kernel.device())?;
        let swapped = kernel.transpose(0, 1)?.reshape((inputs, outputs, size * size))?;
        swapped.index_select(&reversed, 2)?.reshape(shape)
    })
}
