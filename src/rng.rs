//! The project's only source of randomness: seeded, the same on every device and thread count.

use candle_core::{Device, Result, Shape, Tensor};
use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// A stream of random numbers. Streams of one seed and different labels are independent, so that
/// drawing more of one thing (noise, say) never moves another (augmentation).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The stream `label` of `seed`.
    pub fn new(seed: u64, label: &str) -> Self {
        // FNV-1a: only has to tell a handful of fixed labels apart, the same way for ever.
        let stream = label.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Rng(rng)
    }

    /// Standard normal values, drawn on the CPU and moved to `device`.
    pub fn normal(&mut self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let values: Vec<f32> =
            (0..shape.elem_count()).map(|_| StandardNormal.sample(&mut self.0)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_device(device)
    }

    /// Uniform in `[low, high)`.
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.0.random::<f32>()
    }

    /// Uniform in `0..n`; `n` must be positive.
    pub fn below(&mut self, n: usize) -> usize {
        // u64, so that a seed means the same on 32 and 64 bit machines
        self.0.random_range(0..n as u64) as usize
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f32) -> bool {
        self.uniform(0.0, 1.0) < p
    }
}
