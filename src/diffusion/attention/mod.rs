//! Where in an image its words are: cross-attention maps of words, collected while it is sampled.
//!
//! A word's map is the mean, over denoising steps, cross attentions, their heads and the word's tokens, of
//! the probability with which a place of the image attends to it, in the half of the batch that has the
//! prompt. Layers of all resolutions count alike, each resized to the latents' size, as in DAAM (Tang et al.
//! 2022, arXiv:2210.04885), whose sum is here a mean, so that values do not grow with steps and layers:
//! Custom Diffusion's figures 11 and 19 show means over layers and steps, too. One resolution alone, as
//! Prompt-to-Prompt's 16 × 16, would have to be chosen anew for each backbone and size of image.

mod file;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use candle_core::{Device, Result as TensorResult, Tensor};
use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Luma};
use ndarray::Array2;

pub use file::{load_maps, save_maps};

use super::model::CrossAttention;

/// A word of a prompt, and where in the image it was attended to.
#[derive(Clone, Debug, PartialEq)]
pub struct WordMap {
    /// As it was asked for: several words in a row may be one.
    pub word: String,
    /// Probabilities in rows from the top, of the latents' height and width.
    pub map: Array2<f32>,
}

/// What the images of a batch attended to so far.
pub struct AttentionMaps {
    first: usize,
    layers: usize,
    /// By the height and width of layers: the sum of their probabilities, on the model's device.
    sums: BTreeMap<(usize, usize), Tensor>,
}

impl AttentionMaps {
    /// Of the batch from its element `first` on.
    pub fn new(first: usize) -> Self {
        AttentionMaps { first, layers: 0, sums: BTreeMap::new() }
    }

    /// Counts one more layer of a step.
    pub fn add(&mut self, attention: &CrossAttention) -> TensorResult<()> {
        let seen = attention.probabilities(self.first)?;
        let size = (attention.height, attention.width);
        let sum = match self.sums.get(&size) {
            Some(sum) => (sum + seen)?,
            None => seen,
        };
        self.sums.insert(size, sum);
        self.layers += 1;
        Ok(())
    }

    /// The mean so far of what image `image`, counted from the batch's element `first`, attended to at
    /// these positions of its prompt, at a height and width not below those of any layer.
    pub fn map(
        &self,
        image: usize,
        positions: RangeInclusive<usize>,
        (height, width): (usize, usize),
    ) -> TensorResult<Array2<f32>> {
        let (first, count) = (*positions.start(), positions.count());
        let mut map = Array2::zeros((height, width));
        for ((h, w), sum) in &self.sums {
            let own = (sum.get(image)?.narrow(1, first, count)?.mean(1)? / self.layers as f64)?;
            let own = own.to_device(&Device::Cpu)?.to_vec1::<f32>()?;
            let own: ImageBuffer<Luma<f32>, _> =
                ImageBuffer::from_raw(*w as u32, *h as u32, own).expect("a number for each place");
            // a sum of resized layers is their resized sum: the filter is linear, as long as it enlarges
            let resized =
                resize(&own, width as u32, height as u32, FilterType::Triangle).into_raw();
            map.iter_mut().zip(resized).for_each(|(sum, value)| *sum += value);
        }
        Ok(map)
    }
}
