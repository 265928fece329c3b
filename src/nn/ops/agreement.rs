//! The CPU kernels against candle's operations, over random shapes: results, gradients of every
//! subset of operands, and bits for any number of threads.

use candle_core::{DType, Device, Result, Tensor};
use proptest::prelude::*;

use super::*;
use crate::nn::Var;
use crate::rng::Rng;

/// Results within 10⁻⁵ and gradients within 10⁻⁴ of the greatest magnitude.
const FORWARD: f32 = 1e-5;
const BACKWARD: f32 = 1e-4;

struct Case {
    inputs: Vec<Tensor>,
    /// Bit i: input i needs its gradient.
    needs: u8,
    rng: Rng,
}

impl Case {
    fn new(shapes: &[&[usize]], needs: u8, seed: u64) -> Self {
        let mut rng = Rng::new(seed, "agreement");
        let inputs = shapes.iter().map(|&s| rng.normal(s, &Device::Cpu).unwrap()).collect();
        Case { inputs, needs, rng }
    }

    /// The result, and the gradients of those operands that need them.
    fn run(&self, dtype: DType, f: impl Fn(&[Var]) -> Result<Var>) -> Vec<Tensor> {
        let wrap = |(i, x): (usize, &Tensor)| {
            let x = x.to_dtype(dtype).unwrap();
            if self.needs >> i & 1 == 1 { Var::leaf(x) } else { Var::constant(x) }
        };
        let vars: Vec<Var> = self.inputs.iter().enumerate().map(wrap).collect();
        let y = f(&vars).unwrap();
        let mut results = vec![y.value().clone()];
        let seed = self.rng.clone().normal(y.dims(), &Device::Cpu).unwrap();
        let seed = seed.to_dtype(dtype).unwrap();
        let loss = composed([&y], move |[y]| (y * &seed)?.sum_all()).unwrap();
        assert_eq!(loss.needs_grad(), vars.iter().any(Var::needs_grad));
        let gradients = loss.backward(1.0).unwrap();
        results.extend(vars.iter().filter_map(|v| gradients.get(v).cloned()));
        assert_eq!(results.len(), 1 + vars.iter().filter(|v| v.needs_grad()).count());
        results
    }

    fn check(&self, f: impl Fn(&[Var]) -> Result<Var> + Copy + Send + Sync) {
        let found = self.run(DType::F32, f);
        // The kernels are f32's only: this is candle's path, without f32's rounding.
        let wanted = self.run(DType::F64, f);
        for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            assert_eq!(found.dims(), wanted.dims());
            let (found, wanted) = (flat(found), flat(wanted));
            // Operands are of magnitude 1; a gradient that vanishes is what rounding leaves of it.
            let (tolerance, least) = if i == 0 { (FORWARD, 1e-2) } else { (BACKWARD, 1e-1) };
            let tolerance = tolerance * wanted.iter().fold(least, |a: f32, x| a.max(x.abs()));
            for (j, (f, w)) in found.iter().zip(&wanted).enumerate() {
                assert!((f - w).abs() <= tolerance, "output {i}, element {j}: {f}, wanted {w}");
            }
        }
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let again = pool.install(|| self.run(DType::F32, f));
            for (a, b) in found.iter().zip(&again) {
                assert!(flat(a).iter().zip(flat(b)).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }
}

fn flat(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// What the first attends to of the second, in their type.
fn probabilities(x: &[Var], heads: usize) -> Result<Var> {
    let found = attention_probabilities(x[0].value(), x[1].value(), heads, false)?;
    Ok(Var::constant(found.to_dtype(x[0].value().dtype())?))
}

/// `f` on maps, from and to images.
fn on_maps(x: &Var, f: impl FnOnce(&Var) -> Result<Var>) -> Result<Var> {
    to_image(&f(&from_image(x)?)?)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn group_norms(
        (b, h, w) in (1usize..4, 1usize..20, 1usize..20),
        (groups, width) in (1usize..6, 1usize..24),
        (offset, silu) in (-30f64..30.0, any::<bool>()),
        (needs, seed) in (0u8..8, any::<u64>()),
    ) {
        prop_assume!(h * w * width > 1);
        let c = groups * width;
        let mut case = Case::new(&[&[b, c, h, w], &[c], &[c]], needs, seed);
        case.inputs[0] = (&case.inputs[0] + offset).unwrap();
        case.check(|x| on_maps(&x[0], |map| group_norm(map, &x[1], &x[2], groups, 1e-2, silu)));
    }

    #[test]
    fn layer_norms(
        (b, n, width) in (1usize..4, 1usize..40, 2usize..400),
        offset in -30f64..30.0,
        (needs, seed) in (0u8..8, any::<u64>()),
    ) {
        let mut case = Case::new(&[&[b, n, width], &[width], &[width]], needs, seed);
        case.inputs[0] = (&case.inputs[0] + offset).unwrap();
        case.check(|x| layer_norm(&x[0], &x[1], &x[2], 1e-2));
    }

    #[test]
    fn activations(
        (rows, half, scale) in (1usize..200, 1usize..150, 0.1f64..10.0),
        (needs, seed) in (0u8..2, any::<u64>()),
    ) {
        let mut case = Case::new(&[&[rows, 2 * half]], needs, seed);
        case.inputs[0] = (&case.inputs[0] * scale).unwrap();
        case.check(|x| silu(&x[0]));
        case.check(|x| gelu(&x[0]));
        case.check(|x| quick_gelu(&x[0]));
        case.check(|x| geglu(&x[0]));
    }

    #[test]
    fn attentions(
        (batch, n, m) in (1usize..4, 1usize..150, 1usize..100),
        (heads, d) in (1usize..4, 1usize..40),
        (needs, seed) in (0u8..8, any::<u64>()),
    ) {
        let shapes: [&[usize]; 3] = [&[batch, n, heads * d], &[batch, m, heads * d], &[batch, m, heads * d]];
        Case::new(&shapes, needs, seed).check(|x| attention(&x[0], &x[1], &x[2], heads, false));
        Case::new(&shapes[..2], 0, seed).check(|x| probabilities(x, heads));
    }

    #[test]
    fn causal_attentions(
        (batch, n) in (1usize..4, 1usize..400),
        (heads, d) in (1usize..4, 1usize..24),
        (needs, seed) in (0u8..8, any::<u64>()),
    ) {
        let shape: &[usize] = &[batch, n, heads * d];
        let case = Case::new(&[shape; 3], needs, seed);
        case.check(|x| attention(&x[0], &x[1], &x[2], heads, true));
    }

    #[test]
    fn maps(
        (b, h, w) in (1usize..4, 1usize..20, 1usize..20),
        (c, d) in (1usize..40, 1usize..40),
        (needs, seed) in (0u8..4, any::<u64>()),
    ) {
        let two = Case::new(&[&[b, c, h, w], &[b, d, h, w]], needs, seed);
        two.check(|x| to_image(&concat_channels(&from_image(&x[0])?, &from_image(&x[1])?)?));
        let per_channel = Case::new(&[&[b, c, h, w], &[b, c]], needs, seed);
        per_channel.check(|x| on_maps(&x[0], |map| add_per_channel(map, &x[1])));
        let one = Case::new(&[&[b, c, h, w]], needs & 1, seed);
        one.check(|x| on_maps(&x[0], upsample_nearest_2x));
    }

    #[test]
    fn arithmetic(
        (rows, width) in (1usize..300, 1usize..100),
        (needs, seed) in (0u8..4, any::<u64>()),
    ) {
        let case = Case::new(&[&[rows, width], &[rows, width]], needs, seed);
        case.check(|x| add(&x[0], &x[1]));
        case.check(|x| sub(&x[0], &x[1]));
        case.check(|x| mul(&x[0], &x[1]));
        Case::new(&[&[rows, width]], needs & 1, seed).check(|x| scale(&x[0], 0.3));
    }
}

/// Shapes of Stable Diffusion, large enough to be cut into many pieces.
#[test]
fn large_shapes() {
    let case = Case::new(&[&[1, 320, 40, 40], &[320], &[320]], 7, 1);
    case.check(|x| on_maps(&x[0], |map| group_norm(map, &x[1], &x[2], 32, 1e-5, true)));
    let qkv: [&[usize]; 3] = [&[1, 1100, 80], &[1, 1100, 80], &[1, 1100, 80]];
    Case::new(&qkv, 7, 2).check(|x| attention(&x[0], &x[1], &x[2], 2, false));
    let cross: [&[usize]; 3] = [&[2, 1024, 160], &[2, 77, 160], &[2, 77, 160]];
    Case::new(&cross, 7, 3).check(|x| attention(&x[0], &x[1], &x[2], 1, false));
    Case::new(&cross[..2], 0, 4).check(|x| probabilities(x, 2));
}

#[test]
fn a_large_mean_costs_no_digits() {
    let values: Vec<f32> = (0..4096).map(|i| 4096.0 + (i % 7) as f32).collect();
    let x = Tensor::from_vec(values, (1, 64, 64, 1), &Device::Cpu).unwrap();
    let one = Var::constant(Tensor::ones(1, candle_core::DType::F32, &Device::Cpu).unwrap());
    let zero = Var::constant(one.value().zeros_like().unwrap());
    let y = group_norm(&Var::constant(x), &one, &zero, 1, 0.0, false).unwrap();
    let y = flat(y.value());
    let variance: f64 = y.iter().map(|y| f64::from(y * y)).sum::<f64>() / y.len() as f64;
    assert!((variance - 1.0).abs() < 1e-3, "{variance}");
}

#[test]
fn not_a_number_stays() {
    let run = |f: fn(&Var) -> Result<Var>| {
        let mut values = vec![1.0f32; 100];
        values[33] = f32::NAN;
        let x = Tensor::from_vec(values, (1, 10, 10), &Device::Cpu).unwrap();
        flat(f(&Var::constant(x)).unwrap().value())[33]
    };
    assert!(run(silu).is_nan());
    assert!(run(gelu).is_nan());
    assert!(run(quick_gelu).is_nan());
    assert!(run(|x| attention(x, x, x, 1, false)).is_nan());
    assert!(run(|x| attention(x, x, x, 2, true)).is_nan());
}

#[test]
fn misfits_are_errors() {
    let var = |shape: &[usize]| {
        Var::constant(Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap())
    };
    let (q, odd) = (var(&[2, 3, 8]), var(&[2, 5, 7]));
    assert!(attention(&q, &q, &q, 3, false).is_err(), "heads that do not divide");
    assert!(attention(&q, &q, &q, 0, false).is_err());
    assert!(attention(&q, &odd, &odd, 1, false).is_err());
    assert!(attention(&q, &var(&[2, 0, 8]), &var(&[2, 0, 8]), 1, false).is_err(), "no keys");
    assert!(geglu(&odd).is_err());
    assert!(layer_norm(&q, &var(&[7]), &var(&[7]), 1e-5).is_err());
    let map = var(&[1, 2, 2, 6]);
    assert!(group_norm(&map, &var(&[6]), &var(&[6]), 4, 1e-5, false).is_err());
    assert!(group_norm(&map, &var(&[5]), &var(&[6]), 2, 1e-5, false).is_err());
    assert!(concat_channels(&map, &var(&[1, 2, 3, 6])).is_err());
    assert!(add_per_channel(&map, &var(&[1, 5])).is_err());
}
