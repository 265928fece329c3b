mod channels_first;

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};

use super::half::widened_on_cpu;
use crate::nn::backend::fast;
use crate::nn::kernels::buffer::slice;
use crate::nn::kernels::conv::{self, Geometry, Prepared};
use crate::nn::param::Derived;
use crate::nn::{Param, Var, flops};

/// Zero pixels around a map: `before` at the top and left, `after` at the bottom and right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    /// Rows above and columns to the left.
    pub before: usize,
    /// Rows below and columns to the right.
    pub after: usize,
}

impl Padding {
    /// The same on all sides.
    pub const fn same(pixels: usize) -> Self {
        Padding { before: pixels, after: pixels }
    }
}

/// Convolution of a map by a square `kernel` [out, in, k, k], with `bias` [out].
pub fn conv2d(
    x: &Var,
    kernel: &Param,
    bias: &Param,
    stride: usize,
    padding: Padding,
) -> Result<Var> {
    conv2d_by(x, kernel, &kernel.var()?, &bias.var()?, stride, padding)
}

/// As [`conv2d`], with the values of kernel and bias that take part.
pub(super) fn conv2d_by(
    x: &Var,
    kernel: &Param,
    w: &Var,
    b: &Var,
    stride: usize,
    padding: Padding,
) -> Result<Var> {
    let g = geometry(x, w.value(), b.value(), stride, padding)?;
    if fast(x.value()) {
        let derived = |form: Option<Prepared>| -> Result<_> {
            let Some(form) = form else { return Ok(None) };
            Ok(Some((form, kernel.derived(Derived::Kernel(form))?)))
        };
        let trained = w.needs_grad();
        let forward = derived(Prepared::forward(&g, trained))?;
        let backward = Prepared::input_gradient(&g, trained).filter(|_| x.needs_grad());
        let backward = derived(backward)?;
        return channels_last(x, w, [forward, backward], b, g);
    }
    widened_on_cpu([x, w, b], |[x, w, b]| channels_first::conv2d(x, kernel, w, b, g))
}

/// Channels last, on the project's kernels.
fn channels_last(
    x: &Var,
    w: &Var,
    [forward, backward]: [Option<(Prepared, Arc<Vec<f32>>)>; 2],
    b: &Var,
    g: Geometry,
) -> Result<Var> {
    let (x_dims, w_dims) = (x.value().shape().clone(), w.value().shape().clone());
    let input = x.value().contiguous()?;
    let kernel = w.value().clone();
    let products = g.batch * g.out_height * g.out_width * kernel.elem_count();
    flops::add(products);
    let out = {
        let prepared = forward.as_ref().map(|(form, u)| (*form, u.as_slice()));
        conv::forward(&g, &slice(&input)?, &slice(&kernel)?, prepared, &slice(b.value())?)
    };
    let out = Tensor::from_vec(out, (g.batch, g.out_height, g.out_width, g.outputs), &Device::Cpu)?;
    // A frozen kernel's gradient is never formed, so the input need not be kept either.
    let kept = w.needs_grad().then_some(input);
    Ok(Var::record(out, [x, w, b], move |dy, flow| {
        let dy = dy.contiguous()?;
        let dy = slice(&dy)?;
        flow.add_with(0, || {
            flops::add(products);
            let prepared = backward.as_ref().map(|(form, u)| (*form, u.as_slice()));
            let dx = conv::input_gradient(&g, &dy, &slice(&kernel)?, prepared);
            Tensor::from_vec(dx, x_dims, &Device::Cpu)
        })?;
        if let Some(input) = kept {
            flow.add_with(1, || {
                flops::add(products);
                let dw = conv::kernel_gradient(&g, &slice(&input)?, &dy);
                Tensor::from_vec(dw, w_dims, &Device::Cpu)
            })?;
        }
        flow.add_with(2, || Tensor::from_vec(conv::bias_gradient(&g, &dy), g.outputs, &Device::Cpu))
    }))
}

fn geometry(x: &Var, w: &Tensor, b: &Tensor, stride: usize, padding: Padding) -> Result<Geometry> {
    let (batch, channels, height, width) = super::map_size(x)?;
    let (size, size2, inputs, outputs) = if fast(x.value()) {
        w.dims4()?
    } else {
        let (outputs, inputs, size, size2) = w.dims4()?;
        (size, size2, inputs, outputs)
    };
    let padded = padding.before + padding.after;
    if size != size2 || channels != inputs || b.dims() != [outputs] || stride == 0 {
        bail!("a map {:?} does not suit a kernel {:?}, bias {:?}", x.dims(), w.dims(), b.dims());
    }
    if size == 0 || height + padded < size || width + padded < size {
        bail!("a map {:?} is smaller than a kernel {:?}", x.dims(), w.dims());
    }
    let Padding { before, after } = padding;
    Ok(Geometry::new([batch, channels, height, width], outputs, size, stride, [before, after]))
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use proptest::prelude::*;

    use super::*;
    use crate::nn::{ops, parallel};
    use crate::rng::Rng;

    #[derive(Clone, Debug)]
    struct Case {
        // batch, height, width
        map: [usize; 3],
        inputs: usize,
        outputs: usize,
        size: usize,
        stride: usize,
        padding: Padding,
    }

    impl Case {
        fn same3x3(map: [usize; 3], inputs: usize, outputs: usize) -> Self {
            Case { map, inputs, outputs, size: 3, stride: 1, padding: Padding::same(1) }
        }

        fn random(&self, name: &str, shape: [usize; 4]) -> Tensor {
            Rng::new(7, name).normal(&shape, &Device::Cpu).unwrap()
        }

        /// The output and the gradients of input, kernel and bias under a random weighting of the
        /// output, in the order of files; only the first two of a kernel that is not `trained`.
        fn run(&self, dtype: DType, trained: bool) -> Vec<Tensor> {
            let [batch, height, width] = self.map;
            let x = self.random("x", [batch, self.inputs, height, width]).to_dtype(dtype).unwrap();
            let w = self.random("w", [self.outputs, self.inputs, self.size, self.size]);
            let b = self.random("b", [1, 1, 1, self.outputs]).flatten_all().unwrap();
            let x = Var::leaf(x);
            let [w, b] = [w, b].map(|value| {
                let param = Param::new("p", &value, dtype).unwrap();
                param.set_trainable(trained).unwrap();
                param
            });
            let y = conv2d(&ops::from_image(&x).unwrap(), &w, &b, self.stride, self.padding);
            let y = ops::to_image(&y.unwrap()).unwrap();
            let weights = self.random("dy", y.value().dims4().unwrap().into());
            let weights = Var::constant(weights.to_dtype(dtype).unwrap());
            let product = ops::mul(&y, &weights).unwrap();
            let loss = ops::composed([&product], |[p]| p.sum_all()).unwrap();
            let out = y.value().clone();
            drop((y, product));
            let grads = loss.backward(1.0).unwrap();
            let of = |param: &Param| param.grad_to_file(&grads).unwrap();
            let dx = grads.get(&x).unwrap().clone();
            [out, dx].into_iter().chain(of(&w)).chain(of(&b)).collect()
        }

        fn check(&self) {
            let exact = self.run(DType::F64, true);
            // A frozen kernel may go another way.
            let frozen = self.run(DType::F32, false);
            assert_eq!(frozen.len(), 2);
            let fast = self.run(DType::F32, true).into_iter().enumerate();
            for (i, fast) in fast.chain(frozen.into_iter().enumerate()) {
                let exact = &exact[i];
                let name = ["output", "∂x", "∂w", "∂b"][i];
                let limit = if i == 0 { 1e-5 } else { 1e-4 };
                assert_eq!(fast.dims(), exact.dims(), "{name} of {self:?}");
                let error = relative_error(&fast, exact);
                assert!(error <= limit, "{name} of {self:?}: {error:e}");
            }
        }
    }

    /// The largest difference, relative to the largest value.
    fn relative_error(a: &Tensor, exact: &Tensor) -> f64 {
        let [a, exact] = [a, exact].map(|t| t.to_dtype(DType::F64).unwrap());
        let max = |x: Tensor| x.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        let difference = max((&a - &exact).unwrap()).to_scalar::<f64>().unwrap();
        difference / max(exact).to_scalar::<f64>().unwrap().max(f64::MIN_POSITIVE)
    }

    fn bits(tensors: &[Tensor]) -> Vec<Vec<u32>> {
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        tensors.iter().map(|t| values(t).into_iter().map(f32::to_bits).collect()).collect()
    }

    fn channels() -> impl Strategy<Value = usize> {
        prop_oneof![Just(1), Just(3), Just(4), Just(5), 6..40usize, Just(64)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

        #[test]
        fn agrees_with_the_definition(
            map in [1..4usize, 1..14usize, 1..14usize],
            (inputs, outputs) in (channels(), channels()),
            size in prop_oneof![Just(1usize), Just(3), 1..6usize],
            stride in 1..4usize,
            (before, after) in (0..3usize, 0..3usize),
        ) {
            let padding = Padding { before, after };
            prop_assume!(map[1].min(map[2]) + before + after >= size);
            Case { map, inputs, outputs, size, stride, padding }.check();
        }

        #[test]
        fn same_3x3_agrees_with_the_definition(
            map in [1..6usize, 1..18usize, 1..18usize],
            (inputs, outputs) in (channels(), channels()),
        ) {
            Case::same3x3(map, inputs, outputs).check();
        }
    }

    #[test]
    fn a_stride_that_passes_over_all_of_the_map_agrees_with_the_definition() {
        let padding = Padding { before: 2, after: 0 };
        let one = Case { map: [1, 1, 1], inputs: 1, outputs: 1, size: 1, stride: 3, padding };
        let wide = Case { map: [2, 1, 7], inputs: 3, ..one.clone() };
        let behind = Case { padding: Padding { before: 0, after: 2 }, ..wide.clone() };
        [one, wide, behind].iter().for_each(Case::check);
    }

    #[test]
    fn network_sizes_agree_with_the_definition() {
        let down = |padding| Case { stride: 2, padding, ..Case::same3x3([2, 16, 16], 64, 64) };
        let wide = Case::same3x3([1, 8, 8], 320, 192);
        let first = Case::same3x3([2, 16, 16], 4, 128);
        let last = Case::same3x3([2, 16, 16], 128, 4);
        let point = Case { size: 1, padding: Padding::same(0), ..wide.clone() };
        let vae = down(Padding { before: 0, after: 1 });
        let large_tiles = Case::same3x3([4, 17, 16], 64, 128);
        for case in [down(Padding::same(1)), vae, wide, first, last, point, large_tiles] {
            case.check();
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads_or_parts() {
        let stride = |stride| Case { stride, ..Case::same3x3([4, 15, 16], 70, 66) };
        let point = Case { size: 1, padding: Padding::same(0), ..stride(1) };
        for case in [stride(1), stride(2), point, Case::same3x3([8, 16, 16], 128, 128)] {
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                bits(&pool.install(|| case.run(DType::F32, true)))
            };
            let one = run(1);
            assert!(one == run(2), "{case:?}");
            let inside =
                parallel::parts(2, |_| candle_core::Result::Ok(bits(&case.run(DType::F32, true))))
                    .unwrap();
            assert!(inside.iter().all(|part| *part == one), "{case:?} within a part of a batch");
        }
    }

    #[test]
    fn forms_no_gradient_of_frozen_operands() {
        let tensor = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let kernel = Param::new("w", &tensor(&[8, 8, 3, 3]), DType::F32).unwrap();
        let bias = Param::new("b", &tensor(&[8]), DType::F32).unwrap();
        let run = |x: &Var| {
            let y = conv2d(x, &kernel, &bias, 1, Padding::same(1)).unwrap();
            ops::composed([&y], |[y]| y.sum_all()).unwrap()
        };
        let x = Var::leaf(tensor(&[1, 4, 4, 8]));
        let grads = run(&x).backward(1.0).unwrap();
        assert!(kernel.grad(&grads).is_none() && bias.grad(&grads).is_none());
        assert!(grads.get(&x).is_some());
        assert!(!run(&x.detach()).needs_grad());
        kernel.set_trainable(true).unwrap();
        let grads = run(&x.detach()).backward(1.0).unwrap();
        assert!(kernel.grad(&grads).is_some() && grads.get(&x).is_none());
    }

    #[test]
    fn refuses_sizes_that_do_not_suit() {
        let tensor = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let bias = Param::new("b", &tensor(&[8]), DType::F32).unwrap();
        let x = Var::constant(tensor(&[1, 2, 2, 4]));
        for shape in [[8, 5, 3, 3], [8, 4, 5, 5], [7, 4, 3, 3], [8, 4, 3, 2]] {
            let kernel = Param::new("w", &tensor(&shape), DType::F32).unwrap();
            let result = conv2d(&x, &kernel, &bias, 1, Padding::same(1));
            assert!(result.is_err(), "{shape:?}");
        }
    }
}
