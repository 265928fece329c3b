use candle_core::{Result, Tensor};

#[cfg(any(test, feature = "cuda"))]
use crate::nn::kernels::conv::Geometry;

/// The convolution of a contiguous map by a contiguous kernel, with as many zeros on each side.
pub fn conv2d(x: &Tensor, kernel: &Tensor, padding: usize, stride: usize) -> Result<Tensor> {
    // Without cuDNN candle unrolls the whole batch, with indices of 32 bits that large images exceed, and
    // by a kernel that is slower than the product that follows. With it, it has f16 summed in f16.
    #[cfg(feature = "cuda")]
    if super::cuda::takes(x)
        && (cfg!(not(feature = "cudnn")) || x.dtype() == candle_core::DType::F16)
    {
        return by_columns(x, kernel, padding, stride, COLUMNS);
    }
    x.conv2d(kernel, padding, stride, 1, 1)
}

/// Numbers of unrolled pixels that are held at a time: 1 GiB in f32.
#[cfg(feature = "cuda")]
const COLUMNS: usize = 1 << 28;

/// [`conv2d`] as products with columns, of some images at a time.
#[cfg(any(test, feature = "cuda"))]
fn by_columns(
    x: &Tensor,
    kernel: &Tensor,
    padding: usize,
    stride: usize,
    most: usize,
) -> Result<Tensor> {
    let (batch, inputs, height, width) = x.dims4()?;
    let (outputs, _, size, _) = kernel.dims4()?;
    let map = [batch, inputs, height, width];
    let g = Geometry::new(map, outputs, size, stride, [padding; 2]);
    let (places, pixels) = (inputs * size * size, g.out_height * g.out_width);
    let kernel = kernel.reshape((outputs, places))?;
    let images = (most / (places * pixels).max(1)).clamp(1, batch.max(1));
    let mut parts = vec![];
    for first in (0..batch).step_by(images) {
        let count = images.min(batch - first);
        let out = kernel.matmul(&super::columns(x, &g, first..first + count)?)?;
        let out = out.reshape((outputs, count, pixels))?.transpose(0, 1)?;
        parts.push(super::contiguous(&out)?);
    }
    Tensor::cat(&parts, 0)?.reshape((batch, outputs, g.out_height, g.out_width))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::rng::Rng;

    #[test]
    fn products_with_columns_are_the_convolution() {
        let mut rng = Rng::new(2, "columns");
        let x = rng.normal((3, 4, 7, 6), &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
        for (size, padding, stride) in [(3, 1, 1), (3, 1, 2), (3, 0, 1), (1, 0, 2), (5, 2, 1)] {
            let kernel = rng.normal((5, 4, size, size), &Device::Cpu).unwrap();
            let kernel = kernel.to_dtype(DType::F64).unwrap();
            let wanted = x.conv2d(&kernel, padding, stride, 1, 1).unwrap();
            // one image at a time, two, and all
            for most in [1, 2 * 4 * size * size * 42, usize::MAX] {
                let found = by_columns(&x, &kernel, padding, stride, most).unwrap();
                assert_eq!(found.dims(), wanted.dims());
                let apart = (found - &wanted).unwrap().abs().unwrap().flatten_all().unwrap();
                assert!(apart.max(0).unwrap().to_scalar::<f64>().unwrap() < 1e-12);
            }
        }
    }
}
