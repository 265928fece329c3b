//! The gradients that are written out for devices without CPU kernels, against candle's own
//! differentiation of the definitions, over random shapes in f64; and the same code in half precision.

use candle_core::{D, DType, Device, Result, Tensor};
use proptest::prelude::*;

use super::*;
use crate::nn::{Param, Var};
use crate::rng::Rng;

/// Types, and how far results may be off in them; the last has no matrix product on candle's CPU device.
const TYPES: [(DType, f64); 4] =
    [(DType::F64, 1e-6), (DType::F32, 1e-4), (DType::F16, 2e-2), (DType::BF16, 6e-2)];

/// Operands of a product with random weights, whose gradients are compared.
struct Case {
    inputs: Vec<Tensor>,
    seed: u64,
}

impl Case {
    fn new(shapes: &[&[usize]], seed: u64) -> Self {
        let mut rng = Rng::new(seed, "operands");
        let inputs = shapes.iter().map(|&s| rng.normal(s, &Device::Cpu).unwrap()).collect();
        Case { inputs, seed }
    }

    /// The result, and the gradients of all operands, in f64.
    fn run(&self, dtype: DType, f: impl Fn(&[Var]) -> Result<Var>) -> Vec<Tensor> {
        let leaf = |x: &Tensor| Var::leaf(x.to_dtype(dtype).unwrap());
        let vars: Vec<Var> = self.inputs.iter().map(leaf).collect();
        let y = f(&vars).unwrap();
        let out = y.value().clone();
        let weights = Rng::new(self.seed, "weights").normal(y.dims(), &Device::Cpu).unwrap();
        let weights = Var::constant(weights.to_dtype(dtype).unwrap());
        let product = mul(&y, &weights).unwrap();
        let loss = composed([&product], |[y]| y.sum_all()).unwrap();
        drop((y, product));
        let gradients = loss.backward(1.0).unwrap();
        let gradients = vars.iter().map(|v| gradients.get(v).unwrap().clone());
        let results = [out].into_iter().chain(gradients);
        results.map(|x| x.to_dtype(DType::F64).unwrap()).collect()
    }

    fn check(
        &self,
        types: &[(DType, f64)],
        f: impl Fn(&[Var]) -> Result<Var>,
        definition: impl Fn(&[Var]) -> Result<Var>,
    ) {
        let wanted = self.run(DType::F64, definition);
        for &(dtype, tolerance) in types {
            let found = crate::nn::reference(|| self.run(dtype, &f));
            for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                assert_eq!(found.dims(), wanted.dims());
                let largest = |x: &Tensor| {
                    x.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>()
                };
                let error = largest(&(found - wanted).unwrap()).unwrap();
                let scale = largest(wanted).unwrap().max(1.0);
                assert!(error <= tolerance * scale, "{dtype:?}, result {i}: {error:e} of {scale}");
            }
        }
    }
}

fn normalised(x: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    ((x.neg()?.exp()? + 1.0)?).recip()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn group_norms(
        (b, h, w) in (1usize..4, 1usize..8, 2usize..8),
        (groups, width) in (1usize..4, 1usize..6),
        (silu, seed) in any::<(bool, u64)>(),
    ) {
        let c = groups * width;
        Case::new(&[&[b, c, h, w], &[c], &[c]], seed).check(
            &TYPES,
            |x| group_norm(&x[0], &x[1], &x[2], groups, 1e-1, silu),
            |x| composed([&x[0], &x[1], &x[2]], move |[x, weight, bias]| {
                let y = normalised(&x.reshape((b, groups, width * h * w))?, 1e-1)?;
                let y = y
                    .reshape((b, c, h, w))?
                    .broadcast_mul(&weight.reshape((1, c, 1, 1))?)?
                    .broadcast_add(&bias.reshape((1, c, 1, 1))?)?;
                if silu { &y * sigmoid(&y)? } else { Ok(y) }
            }),
        );
    }

    #[test]
    fn layer_norms((b, n, width) in (1usize..4, 1usize..20, 2usize..60), seed: u64) {
        Case::new(&[&[b, n, width], &[width], &[width]], seed).check(
            &TYPES,
            |x| layer_norm(&x[0], &x[1], &x[2], 1e-1),
            |x| composed([&x[0], &x[1], &x[2]], |[x, weight, bias]| {
                normalised(x, 1e-1)?.broadcast_mul(weight)?.broadcast_add(bias)
            }),
        );
    }

    #[test]
    fn activations((rows, half) in (1usize..20, 1usize..20), seed: u64) {
        let case = Case::new(&[&[rows, 2 * half]], seed);
        case.check(&TYPES, |x| silu(&x[0]), |x| composed([&x[0]], |[x]| x * sigmoid(x)?));
        case.check(&TYPES, |x| gelu(&x[0]), |x| composed([&x[0]], |[x]| x.gelu_erf()));
        case.check(
            &TYPES,
            |x| quick_gelu(&x[0]),
            |x| composed([&x[0]], |[x]| x * sigmoid(&(x * 1.702)?)?),
        );
        case.check(&TYPES, |x| geglu(&x[0]), |x| composed([&x[0]], move |[x]| {
            x.narrow(1, 0, half)? * x.narrow(1, half, half)?.contiguous()?.gelu_erf()?
        }));
    }

    /// Against the definition: a sum over the kernel's places, each of the map shifted.
    #[test]
    fn convolutions(
        (b, h, w) in (1usize..3, 3usize..9, 3usize..9),
        (inputs, outputs) in (1usize..5, 1usize..5),
        (size, stride) in (1usize..4, 1usize..4),
        (before, after) in (0usize..3, 0usize..3),
        seed: u64,
    ) {
        let padding = Padding { before, after };
        let out = |len: usize| (len + before + after - size) / stride + 1;
        let (rows, columns) = (out(h), out(w));
        let shapes: [&[usize]; 3] =
            [&[b, inputs, h, w], &[outputs, inputs, size, size], &[outputs]];
        let frozen = Case::new(&shapes, seed);
        // Trained parameters are leaves of their own: their gradients are looked at one by one.
        for operand in 0..3 {
            let one = Case { inputs: vec![frozen.inputs[operand].clone()], seed };
            let others = frozen.inputs.clone();
            let all = move |x: &Var| -> [Var; 3] {
                std::array::from_fn(|i| match i == operand {
                    true => x.clone(),
                    false => Var::constant(others[i].to_dtype(x.value().dtype()).unwrap()),
                })
            };
            one.check(
                &TYPES[..3],
                |x| {
                    let [map, w, b] = all(&x[0]);
                    conv2d_of(&map, &w, &b, stride, padding)
                },
                |x| {
                    let [map, w, bias] = all(&x[0]);
                    composed([&map, &w, &bias], move |[x, w, bias]| {
                        let reach = size + stride * rows.max(columns);
                        let x = x
                            .pad_with_zeros(2, before, after + reach)?
                            .pad_with_zeros(3, before, after + reach)?;
                        let mut sum = bias.reshape((1, outputs, 1, 1))?.broadcast_as((b, outputs, rows, columns))?;
                        for i in 0..size {
                            for j in 0..size {
                                let every = |x: &Tensor, dim: usize, start: usize, n: usize| {
                                    let ids: Vec<u32> = (0..n).map(|k| (start + k * stride) as u32).collect();
                                    x.contiguous()?.index_select(&Tensor::new(ids, &Device::Cpu)?, dim)
                                };
                                let seen = every(&every(&x, 2, i, rows)?, 3, j, columns)?;
                                let seen = seen.permute((0, 2, 3, 1))?.reshape((b * rows * columns, inputs))?;
                                let place = w.narrow(2, i, 1)?.narrow(3, j, 1)?.reshape((outputs, inputs))?;
                                let part = seen.matmul(&place.t()?)?.reshape((b, rows, columns, outputs))?;
                                sum = (sum + part.permute((0, 3, 1, 2))?)?;
                            }
                        }
                        Ok(sum)
                    })
                },
            );
        }
    }
}

/// A convolution by operands that need not be parameters.
fn conv2d_of(x: &Var, w: &Var, b: &Var, stride: usize, padding: Padding) -> Result<Var> {
    let param = |x: &Var| Param::new("p", x.value(), x.value().dtype());
    conv::conv2d_by(x, &param(w)?, w, b, stride, padding)
}

#[test]
fn a_changed_kernel_is_turned_again() {
    crate::nn::reference(|| {
        let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let kernel = Param::new("w", &ones(&[2, 2, 3, 3]), DType::F32).unwrap();
        let bias = Param::new("b", &ones(&[2]), DType::F32).unwrap();
        let gradient = || {
            let x = Var::leaf(ones(&[1, 2, 4, 4]));
            let y = conv2d(&x, &kernel, &bias, 1, Padding::same(1)).unwrap();
            let loss = composed([&y], |[y]| y.sum_all()).unwrap();
            let gradients = loss.backward(1.0).unwrap();
            gradients.get(&x).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()
        };
        let before = gradient();
        kernel.set_value((ones(&[2, 2, 3, 3]) * 2.0).unwrap());
        assert_eq!(gradient(), 2.0 * before);
        kernel.set_trainable(true).unwrap();
        kernel.update_in_place(|_| Ok(())).unwrap();
        assert_eq!(gradient(), 2.0 * before);
    });
}
