//! How much memory a method takes: an estimate from the shapes of the weights and from what the operations
//! keep for the backward pass. README.md says how near it comes.

use candle_core::{DType, Device};
use serde::Serialize;

use super::{Settings, trained};
use crate::diffusion::config::{TextEncoderConfig, UNetConfig};
use crate::diffusion::{Backbone, BackboneFiles, Part, batches, encoding_dtype};
use crate::nn::device::OnChip;
use crate::nn::{Param, device_memory, rounded_room, tensor_cores};
use crate::train::images_per_part;
use crate::{Result, process};

/// Bytes, by what needs them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The backbone, and other forms of its weights that kernels keep.
    pub weights: u64,
    /// Of what is trained: gradients, the optimiser's moments, the values before.
    pub trained: u64,
    /// What a step, or the autoencoder, holds meanwhile.
    pub working: u64,
    /// The same where a step keeps the inputs of the UNet's layers alone and computes the rest again.
    pub checkpointed: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.trained + self.working
    }

    /// All of it, where layers are computed again.
    pub fn least(&self) -> u64 {
        self.weights + self.trained + self.checkpointed
    }
}

/// What a run is done with.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// Whether on a GPU, which takes whole batches.
    pub gpu: bool,
    /// Whether that has the [`tensor_cores`] that keep attention's scores on the chip.
    pub tensor_cores: bool,
    /// What is free there, in bytes, where that is known.
    pub free: Option<u64>,
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
        let weights = self.weights(at, false);
        let latent = self.latent(at);
        let image = batches::denoising(&self.files.blueprint.unet, latent, at.dtype);
        let images = match at.gpu {
            true => batches::fitting(latent, image, room(at, weights)) as u64,
            false => at_once(at, 8, latent.0 * latent.1),
        };
        let decoding = self.autoencoder(at, DType::F32, weights, usize::MAX);
        let working = (image * images).max(decoding);
        Memory { weights, trained: 0, working, checkpointed: working }
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
        let load = Load {
            unet: &blueprint.unet,
            text_encoder: &blueprint.text_encoder,
            latent: self.latent(at),
            batch: settings.batch,
            trained: count,
            most: 2 * in_unet > all,
        };
        let (weights, trained) = (self.weights(at, true), load.trained(at));
        let encoding = encoding_dtype(at.dtype, at.gpu);
        let least = self.autoencoder(at, encoding, weights, settings.batch);
        Ok(Memory {
            weights,
            trained,
            working: load.step(at, false).max(least),
            checkpointed: load.step(at, true).max(least),
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
            let wide = match name {
                name if name.starts_with("vae.encoder.") => bytes(encoding_dtype(at.dtype, at.gpu)),
                _ if vae => F32,
                _ => bytes(at.dtype),
            };
            let kept = match at.gpu {
                false => prepared(name, shape, backward && !vae),
                // turned round for the gradient of its input
                true if backward && !vae && shape.ends_with(&[3, 3]) => numbers(shape) * wide,
                true => 0,
            };
            numbers(shape) * wide + kept
        };
        self.params.iter().map(own).sum()
    }

    /// The autoencoder's widest maps, in `dtype`: of one image on each thread, of at most `images` on a GPU
    /// that has such weights already.
    fn autoencoder(&self, at: &Conditions, dtype: DType, weights: u64, images: usize) -> u64 {
        let latent = self.latent(at);
        let image = batches::coding(&self.files.blueprint.vae, latent, dtype);
        match at.gpu {
            true => image * batches::fitting(latent, image, room(at, weights)).min(images) as u64,
            false => image,
        }
    }
}

/// What a training step works on.
#[derive(Clone, Copy)]
struct Load<'a> {
    unet: &'a UNetConfig,
    text_encoder: &'a TextEncoderConfig,
    /// Width and height.
    latent: (usize, usize),
    batch: usize,
    /// Numbers that are trained.
    trained: u64,
    /// Whether those are most of the UNet.
    most: bool,
}

impl Load<'_> {
    fn pixels(&self) -> usize {
        self.latent.0 * self.latent.1
    }

    /// Gradients, moments, and the values before.
    fn trained(&self, at: &Conditions) -> u64 {
        // each part that is computed has gradients of its own until they are added
        (1 + MOMENTS + at_once(at, self.batch, self.pixels())) * self.trained * F32
    }

    /// What is kept for the backward pass, and what flows back.
    fn step(&self, at: &Conditions, checkpointing: bool) -> u64 {
        let images = per_part(at, self.batch, self.pixels()) as u64;
        let kept = kept_by_unet(self.unet, self.latent, self.most, checkpointing)
            + kept_by_text_encoder(self.text_encoder);
        let step = kept * bytes(at.dtype) * images * at_once(at, self.batch, self.pixels());
        step + step / 4 + if at.gpu { self.unrolled(at, images) } else { 0 }
    }

    /// What only candle's operations make: the scores of a self attention that has no kernel, of which
    /// blocks are formed that take an eighth of the memory at most, or the columns of a convolution.
    fn unrolled(&self, at: &Conditions, images: u64) -> u64 {
        let (pixels, widest) = (self.pixels() as u64, 3 * self.unet.block_out_channels[0] as u64);
        let heads = self.unet.heads(0) as u64;
        let each = if self.unet.upcast_attention { F32 } else { bytes(at.dtype) };
        let scores = 4 * each * images * heads * pixels * pixels;
        let scores = at.free.map_or(scores, |free| scores.min(free / 8));
        let width = OnChip::width(at.dtype, self.unet.block_out_channels[0] / self.unet.heads(0));
        let scores = if at.tensor_cores && width.is_some() { 0 } else { scores };
        scores.max(9 * widest * pixels * images * bytes(at.dtype))
    }
}

/// A training step of a backbone that is loaded, against the memory that is free before it.
pub(super) struct Step<'a> {
    load: Load<'a>,
    at: Conditions,
}

impl<'a> Step<'a> {
    /// Of what is trainable now.
    pub fn of(backbone: &'a Backbone, settings: &Settings) -> Self {
        let device = backbone.device();
        let memory = if device.is_cpu() { process::memory().map(|(_, free)| free) } else { None };
        let count = |params: &mut dyn Iterator<Item = &Param>| {
            params.map(|param| param.elem_count() as u64).sum::<u64>()
        };
        let of_unet = || backbone.unet.params().iter();
        let at = Conditions {
            gpu: !device.is_cpu(),
            tensor_cores: tensor_cores(device),
            free: memory.or_else(|| device_memory(device).map(|(free, _)| free)),
            dtype: backbone.unet.compute_dtype(),
            threads: rayon::current_num_threads(),
            size: backbone.default_size(),
        };
        let unit = backbone.vae.config().downscale();
        let side = at.size.0.min(at.size.1).div_ceil(unit);
        let load = Load {
            unet: backbone.unet.config(),
            text_encoder: backbone.text_encoder.config(),
            latent: (side, side),
            batch: settings.batch,
            trained: count(&mut backbone.params().filter(|param| param.trainable())),
            most: 2 * count(&mut of_unet().filter(|p| p.trainable())) > count(&mut of_unet()),
        };
        Step { load, at }
    }

    /// Whether layers are to be computed again in the backward pass: where all that they would keep is more
    /// than what is free, as far as that is known.
    pub fn needs_checkpointing(&self) -> bool {
        self.at.free.is_some_and(|free| self.takes(self.load.batch, false) > free)
    }

    /// For a person whose step did not fit: what would.
    pub fn what_fits(&self) -> String {
        let batch = self.load.batch;
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
        let mut text =
            format!("a step of {batch} images takes about {}", gib(self.takes(batch, true)));
        if let Some(free) = self.at.free {
            text += &format!(" beside the weights, of {} that were free", gib(free));
            let fitting = (1..batch).rev().find(|&fewer| self.takes(fewer, true) <= free);
            text += &match fitting {
                Some(fewer) => format!(": `batch = {fewer}` should fit"),
                None => ": no batch fits".to_owned(),
            };
        }
        if self.at.dtype == DType::F32 {
            text += "; --dtype bf16 halves most of it";
        }
        text + "; `cdbench doctor` says what each method needs"
    }

    fn takes(&self, batch: usize, checkpointing: bool) -> u64 {
        let load = Load { batch, ..self.load };
        load.trained(&self.at) + load.step(&self.at, checkpointing)
    }
}

/// The room for batches on a GPU beside the weights.
fn room(at: &Conditions, weights: u64) -> Option<u64> {
    at.free.map(|free| rounded_room(free.saturating_sub(weights)))
}

/// How many images of a batch are computed together.
fn per_part(at: &Conditions, batch: usize, pixels: usize) -> usize {
    if at.gpu { batch } else { images_per_part(&Device::Cpu, pixels).min(batch) }
}

/// How many parts of a batch are computed at once.
fn at_once(at: &Conditions, batch: usize, pixels: usize) -> u64 {
    let parts = batch.div_ceil(per_part(at, batch, pixels).max(1));
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
/// their inputs are kept, too. `checkpointing`: of each layer its input, and all of one layer at a time.
fn kept_by_unet(
    config: &UNetConfig,
    (width, height): (usize, usize),
    all: bool,
    checkpointing: bool,
) -> u64 {
    let blocks = config.blocks();
    let pixels = |i: usize| (width.div_ceil(1 << i) * height.div_ceil(1 << i)) as u64;
    // norms keep their inputs, and what convolutions take is kept if they train
    let resnet = |inputs: usize, outputs: usize| {
        (inputs + outputs) as u64 * if all { 2 } else { 1 } + outputs as u64
    };
    // norms, queries, keys and values twice, the results of attention, the gates of the feed forward
    let transformer = |channels: usize| channels as u64 * if all { 29 } else { 18 };
    let (mut kept, mut inputs_kept, mut most) = (0, 0, 0);
    let mut layer = |i: usize, inputs: usize, attends: bool| {
        let outputs = config.block_out_channels[i];
        let transformer = if attends { transformer(outputs) } else { 0 };
        let own = pixels(i) * (resnet(inputs, outputs) + transformer);
        kept += own;
        inputs_kept += pixels(i) * inputs as u64;
        most = own.max(most);
    };
    for i in 0..blocks {
        let outputs = config.block_out_channels[i];
        for j in 0..=config.layers_per_block.at(i) {
            if j > 0 {
                layer(i, outputs, config.down_attends(i));
            }
            layer(i, 2 * outputs, config.up_attends(i));
        }
    }
    let last = config.block_out_channels[blocks - 1];
    layer(blocks - 1, last, true);
    layer(blocks - 1, last, false);
    if checkpointing { inputs_kept + most } else { kept }
}

/// The same of the text encoder: of one prompt.
fn kept_by_text_encoder(config: &TextEncoderConfig) -> u64 {
    let layer = 9 * config.hidden_size + 2 * config.intermediate_size;
    (config.num_hidden_layers * config.max_position_embeddings * layer) as u64
}

#[cfg(test)]
mod tests {
    use super::super::{Profile, find};
    use super::*;

    #[test]
    fn what_does_not_fit_is_checkpointed_and_what_would_is_said() {
        let folder = format!("{}/tests/golden/sd1", env!("CARGO_MANIFEST_DIR"));
        let backbone = Backbone::load(&folder, &Device::Cpu, DType::F32).unwrap();
        let defaults = find("custom-diffusion").unwrap().defaults(Profile::Mini, 1);
        let mut step = Step::of(&backbone, &Settings { batch: 8, ..defaults });
        assert!(!step.needs_checkpointing(), "a toy fits");
        (step.at.gpu, step.at.free) = (true, None);
        // so few places that the scores of attention, which follow what is free, do not count
        step.load.latent = (4, 4);
        assert!(!step.needs_checkpointing(), "nobody knows");
        let (all, least) = (step.takes(8, false), step.takes(8, true));
        assert!(least < all);
        step.at.free = Some(all);
        assert!(!step.needs_checkpointing());
        step.at.free = Some(least);
        assert!(step.needs_checkpointing());

        step.at.free = Some(step.takes(5, true));
        let said = step.what_fits();
        assert!(said.contains("`batch = 5` should fit") && said.contains("bf16"), "{said}");
        step.at.free = Some(1);
        assert!(step.what_fits().contains("no batch fits"));
    }
}
