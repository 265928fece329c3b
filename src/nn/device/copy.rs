use candle_core::{Result, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;

/// `x` in one piece. candle's kernel divides numbers of 64 bits for each dimension of each number, which
/// takes a GPU ten times as long as the memory does.
pub(super) fn in_order(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::takes(x)
        && let Some(view) = View::of(x)
    {
        return cuda::copy(x, &view, x.shape());
    }
    x.contiguous()
}

/// How numbers lie, as four dimensions.
#[cfg(any(test, feature = "cuda"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// How many along each.
    pub sizes: [usize; 4],
    /// From one to the next along each.
    pub strides: [isize; 4],
    /// Where the first one lies, behind the tensor's start.
    pub start: usize,
}

#[cfg(any(test, feature = "cuda"))]
impl View {
    /// How a tensor lies; none if that takes more dimensions, or more numbers than 32 bits count.
    pub fn of(x: &Tensor) -> Option<Self> {
        let mut folded: Vec<(usize, usize)> = vec![];
        for (&size, &stride) in x.dims().iter().zip(x.stride()) {
            match folded.last_mut() {
                _ if size == 1 => {}
                Some((outer, last)) if *last == size * stride => {
                    (*outer, *last) = (*outer * size, stride)
                }
                _ => folded.push((size, stride)),
            }
        }
        let reach: usize =
            folded.iter().map(|(size, stride)| size.saturating_sub(1) * stride).sum();
        let before = 4usize.checked_sub(folded.len())?;
        if x.elem_count().max(reach) > i32::MAX as usize {
            return None;
        }
        let (mut sizes, mut strides) = ([1; 4], [0; 4]);
        for (i, (size, stride)) in folded.into_iter().enumerate() {
            (sizes[before + i], strides[before + i]) = (size, stride as isize);
        }
        Some(View { sizes, strides, start: 0 })
    }

    /// How a contiguous kernel [out, in, size, size] lies seen as [in, out, size · size], turned by 180
    /// degrees.
    pub fn turned([outputs, inputs, places]: [usize; 3]) -> Self {
        View {
            sizes: [1, inputs, outputs, places],
            strides: [0, places as isize, (inputs * places) as isize, -1],
            start: places - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// What `kernels.cu` makes of a view.
    fn seen(x: &Tensor, view: &View) -> Vec<f32> {
        let all = x.storage_and_layout().1.start_offset();
        let flat: Vec<f32> = match &*x.storage_and_layout().0 {
            candle_core::Storage::Cpu(candle_core::CpuStorage::F32(values)) => {
                values[all..].to_vec()
            }
            _ => unreachable!("made below"),
        };
        let [a, b, c, d] = view.sizes;
        let mut out = vec![];
        for i in 0..a * b * c * d {
            let at = [i / d / c / b, i / d / c % b, i / d % c, i % d];
            let offset: isize = at.iter().zip(view.strides).map(|(&i, s)| i as isize * s).sum();
            out.push(flat[(view.start as isize + offset) as usize]);
        }
        out
    }

    fn numbers(shape: &[usize]) -> Tensor {
        let count: usize = shape.iter().product();
        Tensor::arange(0f32, count as f32, &Device::Cpu).unwrap().reshape(shape).unwrap()
    }

    #[test]
    fn views_are_what_tensors_show() {
        let x = numbers(&[2, 3, 4, 5]);
        for y in [
            x.transpose(1, 2).unwrap(),
            x.permute((3, 0, 2, 1)).unwrap(),
            x.narrow(1, 1, 2).unwrap().narrow(3, 2, 2).unwrap(),
            x.get(1).unwrap().t().unwrap(),
            x.reshape((2, 3, 2, 2, 5)).unwrap().narrow(2, 1, 1).unwrap(),
            x.reshape((6, 1, 20)).unwrap().transpose(0, 2).unwrap(),
            x.narrow(0, 0, 1).unwrap().broadcast_as((3, 3, 4, 5)).unwrap(),
        ] {
            let view = View::of(&y).unwrap();
            let wanted: Vec<f32> = y.flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(seen(&y, &view), wanted, "{:?} {:?}", y.dims(), y.stride());
        }
        let five = numbers(&[2, 2, 2, 2, 2]).permute((4, 3, 2, 1, 0)).unwrap();
        assert_eq!(View::of(&five), None);
        let many =
            Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap().broadcast_as((1 << 16, 1 << 16));
        assert_eq!(View::of(&many.unwrap()), None);
    }

    #[test]
    fn a_kernel_is_turned() {
        let kernel = numbers(&[3, 2, 2, 2]);
        let turned = super::super::turn(&kernel).unwrap().flatten_all().unwrap();
        assert_eq!(seen(&kernel, &View::turned([3, 2, 4])), turned.to_vec1::<f32>().unwrap());
    }
}
