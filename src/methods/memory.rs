//! How much memory a method takes: an estimate from the shapes of the weights and from what the operations
//! keep for the backward pass. README.md says how near it comes.

use candle_core::DType;
use serde::Serialize;

use super::{Settings, trained};
use crate::Result;
use crate::diffusion::config::{TextEncoderConfig, UNetConfig};
use crate::diffusion::{BackboneFiles, Part};
use crate::train::images_per_part;

/// Bytes, by what needs them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The backbone, and other forms of its weights that kernels keep.
    pub weights: u64,
    /// Of what is trained: gradients, the optimiser's moments, the values before.
    pub trained: u64,
    /// What a step, or the autoencoder, holds meanwhile.
    pub working: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.trained + self.working
    }
}

/// What a run is done with.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// Where.
    pub device: candle_core::Device,
    /// The type of frozen weights and of forward passes.
    pub dtype: DType,
    /// Parts of a batch at once, on the CPU.
    pub threads: usize,
    /// Width and height of images.
    pub size: (usize, usize),
}

/// The sizes of a backbone.
pub struct Sizes<'a> {
    files: &'a BackboneFiles,
    /// Names, with their part's in front, and shapes.
    params: Vec<(String, Vec<usize>)>,
}

const F32: u64 = 4;
/// Of AdamW.
const MOMENTS: u64 = 2;

impl<'a> Sizes<'a> {
    /// Reads the weights' headers.
    ///
    /// # Errors
    /// As [`BackboneFiles::weights`].
    pub fn read(files: &'a BackboneFiles) -> Result<Self> {
        let mut params = vec![];
        for part in Part::ALL {
            let weights = files.weights(part)?;
            let named = weights.keys().map(|key| {
                (format!("{}.{key}", part.name()), weights.shape(key).unwrap_or_default())
            });
            params.extend(named);
        }
        Ok(Sizes { files, params })
    }

    /// How many numbers it has.
    pub fn parameters(&self) -> u64 {
        self.params.iter().map(|(_, shape)| numbers(shape)).sum()
    }

    /// For sampling.
    pub fn of_sampling(&self, at: &Conditions) -> Memory {
        // of two halves of guidance the widest maps: into a layer, inside, and out of it
        let (width, height) = self.latent(at);
        let unet = &self.files.blueprint.unet;
        let step = 2 * 12 * (unet.block_out_channels[0] * width * height) as u64 * bytes(at.dtype);
        Memory {
            weights: self.weights(at, false),
            trained: 0,
            working: (step * at_once(at, 8, width * height)).max(self.autoencoder(at)),
        }
    }

    /// For a training by these settings.
    ///
    /// # Errors
    /// Settings that train nothing.
    pub fn of_training(&self, settings: &Settings, at: &Conditions) -> Result<Memory> {
        let set = trained(settings)?;
        let blueprint = &self.files.blueprint;
        let chosen = self.params.iter().filter(|(name, _)| set.has(name));
        let (mut count, mut in_unet) = (0, 0);
        for (name, shape) in chosen {
            count += numbers(shape);
            in_unet += if name.starts_with("unet.") { numbers(shape) } else { 0 };
        }
        let unet = self.params.iter().filter(|(name, _)| name.starts_with("unet."));
        let all: u64 = unet.map(|(_, shape)| numbers(shape)).sum();
        let most = 2 * in_unet > all;
        let (width, height) = self.latent(at);
        let parts = at_once(at, settings.batch, width * height);
        // each part that is computed has gradients of its own until they are added
        let copies = 1 + MOMENTS + parts;
        let images = images_per_part(&at.device, width * height).min(settings.batch) as u64;
        let kept = kept_by_unet(&blueprint.unet, (width, height), most)
            + kept_by_text_encoder(&blueprint.text_encoder);
        let step = kept * bytes(at.dtype) * images * parts;
        Ok(Memory {
            weights: self.weights(at, true),
            trained: copies * count * F32,
            // what flows back is there beside what was kept
            working: (step + step / 4).max(self.autoencoder(at)),
        })
    }

    fn latent(&self, at: &Conditions) -> (usize, usize) {
        let unit = self.files.blueprint.vae.downscale();
        (at.size.0.div_ceil(unit), at.size.1.div_ceil(unit))
    }

    /// `backward`: gradients flow through all but the autoencoder.
    fn weights(&self, at: &Conditions, backward: bool) -> u64 {
        let own = |(name, shape): &(String, Vec<usize>)| {
            let vae = name.starts_with("vae.");
            let wide = if vae { F32 } else { bytes(at.dtype) };
            let kept = prepared(name, shape, backward && !vae);
            numbers(shape) * wide + if at.device.is_cpu() { kept } else { 0 }
        };
        self.params.iter().map(own).sum()
    }

    /// The autoencoder's widest maps: it decodes one image at a time on each thread.
    fn autoencoder(&self, at: &Conditions) -> u64 {
        let widest = 2 * self.files.blueprint.vae.block_out_channels[0];
        5 * F32 * (widest * at.size.0 * at.size.1) as u64
    }
}

/// How many parts of a batch are computed at once.
fn at_once(at: &Conditions, batch: usize, pixels: usize) -> u64 {
    if !at.device.is_cpu() {
        return 1;
    }
    let parts = batch.div_ceil(images_per_part(&at.device, pixels).min(batch).max(1));
    parts.min(at.threads).max(1) as u64
}

fn numbers(shape: &[usize]) -> u64 {
    shape.iter().product::<usize>() as u64
}

fn bytes(dtype: DType) -> u64 {
    dtype.size_in_bytes() as u64
}

/// The other forms of a weight that the CPU's kernels keep: a small matrix turned round, a small 3×3 kernel
/// as Winograd's algorithm has it, forward and backward.
fn prepared(name: &str, shape: &[usize], backward: bool) -> u64 {
    let ways = if backward { 2 } else { 1 };
    match shape {
        [rows, columns] if rows * columns <= 1 << 19 && !name.contains("embedding.") => {
            numbers(shape) * F32
        }
        [out, inputs, 3, 3] if out * inputs <= 1 << 17 => ways * 36 * (out * inputs) as u64 * F32,
        [out, inputs, 3, 3] if out * inputs <= 1 << 19 => ways * 16 * (out * inputs) as u64 * F32,
        _ => 0,
    }
}

/// How many numbers of one image the UNet keeps for the backward pass. `all`: its weights train, so that
/// their inputs are kept, too.
fn kept_by_unet(config: &UNetConfig, (width, height): (usize, usize), all: bool) -> u64 {
    let blocks = config.blocks();
    let pixels = |i: usize| (width.div_ceil(1 << i) * height.div_ceil(1 << i)) as u64;
    // norms keep their inputs, and what convolutions take is kept if they train
    let resnet = |inputs: usize, outputs: usize| {
        (inputs + outputs) as u64 * if all { 2 } else { 1 } + outputs as u64
    };
    // norms, queries, keys and values twice, the results of attention, the gates of the feed forward
    let transformer = |channels: usize| channels as u64 * if all { 29 } else { 18 };
    let layer = |i: usize, inputs: usize, attends: bool| {
        let outputs = config.block_out_channels[i];
        pixels(i) * (resnet(inputs, outputs) + if attends { transformer(outputs) } else { 0 })
    };
    let mut kept = 0;
    for i in 0..blocks {
        let outputs = config.block_out_channels[i];
        for j in 0..=config.layers_per_block.at(i) {
            if j > 0 {
                kept += layer(i, outputs, config.down_attends(i));
            }
            kept += layer(i, 2 * outputs, config.up_attends(i));
        }
    }
    let last = config.block_out_channels[blocks - 1];
    kept + layer(blocks - 1, last, true) + layer(blocks - 1, last, false)
}

/// The same of the text encoder: of one prompt.
fn kept_by_text_encoder(config: &TextEncoderConfig) -> u64 {
    let layer = 9 * config.hidden_size + 2 * config.intermediate_size;
    (config.num_hidden_layers * config.max_position_embeddings * layer) as u64
}
