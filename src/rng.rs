//! The project's only source of randomness: seeded, the same on every device and thread count.

use candle_core::{Device, Result, Shape, Tensor};
use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// A stream of random numbers. Streams of one seed and different labels are independent, so that
/// drawing more of one thing (noise, say) never moves another (augmentation).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "State", into = "State")]
pub struct Rng(ChaCha8Rng);

/// Where a stream stands, for checkpoints.
#[derive(Serialize, Deserialize)]
struct State {
    seed: [u8; 32],
    stream: u64,
    position: u64,
}

impl From<State> for Rng {
    fn from(state: State) -> Self {
        let mut rng = ChaCha8Rng::from_seed(state.seed);
        rng.set_stream(state.stream);
        rng.set_word_pos(state.position.into());
        Rng(rng)
    }
}

impl From<Rng> for State {
    fn from(Rng(rng): Rng) -> Self {
        State {
            seed: rng.get_seed(),
            stream: rng.get_stream(),
            position: rng.get_word_pos() as u64,
        }
    }
}

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

    /// A single standard normal value.
    pub fn gaussian(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
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

    /// How many of `n` come out, each with probability `p`, which is at least 0 and at most 1.
    pub fn binomial(&mut self, n: u64, p: f64) -> u64 {
        Binomial::new(n, p).map_or(0, |of| of.sample(&mut self.0))
    }

    /// Puts things into a random order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for i in (1..things.len()).rev() {
            things.swap(i, self.below(i + 1));
        }
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f32) -> bool {
        self.uniform(0.0, 1.0) < p
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_stream_goes_on_where_it_stood() {
        let mut rng = Rng::new(7, "noise");
        rng.uniform(0.0, 1.0);
        let saved = serde_json::to_string(&rng).unwrap();
        let mut restored: Rng = serde_json::from_str(&saved).unwrap();
        for _ in 0..100 {
            assert_eq!(rng.uniform(-1.0, 1.0), restored.uniform(-1.0, 1.0));
        }
    }

    #[test]
    fn labels_and_seeds_give_different_streams() {
        let first = |seed, label| Rng::new(seed, label).below(usize::MAX);
        assert_ne!(first(1, "noise"), first(1, "timesteps"));
        assert_ne!(first(1, "noise"), first(2, "noise"));
        assert_eq!(first(1, "noise"), first(1, "noise"));
    }
}
