//! The autoencoder: pictures to latents and back, sharp at edges and true in hue.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::config::{PretrainConfig, Recipe, VaeLoss, VaeRecipe};
use super::drive::{Drive, Findings, started};
use super::scenes::{SceneStream, bytes, held_out, pictures};
use super::{VAE_WEIGHTS, adopt_autoencoder, model_folder, read_params};
use crate::diffusion::config::{Config as _, VaeConfig};
use crate::diffusion::model::Vae;
use crate::diffusion::weights::{Weights, save_weights};
use crate::diffusion::{BackboneFiles, Part as ModelPart};
use crate::nn::{Builder, Param, RandomSource, Var, no_grad, ops, parallel};
use crate::train::{BatchSize, Part, Streams, Task};
use crate::world::{self, SIZE, Scene};
use crate::{Error, Result};

/// Trains the autoencoder, from its latest state if there is one, or else from the weights of `from`,
/// and exports it.
///
/// # Errors
/// [`Error::Input`] if `from` is another architecture; what reading and writing the run folder gives;
/// divergence.
pub fn pretrain_vae(
    config: &PretrainConfig,
    out: &Path,
    from: Option<&BackboneFiles>,
    device: &Device,
) -> Result<()> {
    let builder = Builder::new(RandomSource { seed: config.seed }, device, DType::F32);
    let vae = Vae::new(&builder, &config.vae.model)?;
    if let Some(from) = from {
        read_params(vae.params(), &from.weights(ModelPart::Vae)?)?;
    }
    let params = vae.params().to_vec();
    run("vae", &config.vae.recipe, vae, params, config, out, device)
}

/// Goes on with the decoder alone, on the exported autoencoder's latents, which do not change: a UNet
/// may be trained on them meanwhile. Where there is no autoencoder yet, that of `from` is taken over.
///
/// # Errors
/// [`Error::Input`] if there is no autoencoder; as [`pretrain_vae`].
pub fn pretrain_decoder(
    config: &PretrainConfig,
    out: &Path,
    from: Option<&BackboneFiles>,
    device: &Device,
) -> Result<()> {
    if let Some(from) = from {
        adopt_autoencoder(from, out)?;
    }
    let folder = model_folder(out);
    let weights = Weights::open(&folder.join("vae"), "diffusion_pytorch_model")?;
    let builder = Builder::new(Arc::new(weights), device, DType::F32);
    let vae = Vae::new(&builder, &VaeConfig::read(&folder)?)?;
    let decodes = |name: &str| name.starts_with("decoder.") || name.starts_with("post_quant_conv");
    let params = vae.params().iter().filter(|p| decodes(p.name())).cloned().collect();
    run("decoder", &config.decoder, vae, params, config, out, device)
}

fn run(
    name: &'static str,
    recipe: &Recipe,
    vae: Vae,
    params: Vec<Param>,
    config: &PretrainConfig,
    out: &Path,
    device: &Device,
) -> Result<()> {
    let identity = serde_json::to_string(&config.vae.model).unwrap_or_default();
    let drive = Drive::new(name, out, recipe, params, &identity, config.seed)?;
    if name == "vae" && drive.unfinished() && started("unet", out)? {
        return Err(Error::input_hint(
            format!("{}: a UNet is being trained on the latents as they are", out.display()),
            "`cdbench pretrain decoder` leaves the latents alone; to start from better latents use \
             another --out, or delete unet/ in this one",
        ));
    }
    let world = config.vae.world.clone();
    // another sequence for each run
    let seed = config.seed + name.len() as u64;
    let stream = SceneStream::new(seed, recipe.batch, move |_| world.clone());
    let task = VaeTask { recipe: &config.vae, device, vae, stream };
    let held_out = held_out(recipe.look_scenes);
    let targets: Vec<Scene> =
        world::concepts().iter().flat_map(|c| c.targets()).take(recipe.look_scenes).collect();
    drive.run(task, |task, step, dir| task.look(step, dir, out, [&held_out, &targets]))
}

/// Scenes on the contact sheet, half of them concepts.
const SHOWN: usize = 16;

struct VaeTask<'a> {
    recipe: &'a VaeRecipe,
    device: &'a Device,
    vae: Vae,
    stream: SceneStream,
}

struct Batch {
    pictures: Tensor,
    noise: Tensor,
    captions: Vec<String>,
}

impl Task for VaeTask<'_> {
    type Batch = Batch;

    fn next_batch(&mut self, step: u64, streams: &mut Streams) -> Result<Batch> {
        let scenes = self.stream.batch(step);
        let side = SIZE / self.recipe.model.downscale();
        let shape = (scenes.len(), self.recipe.model.latent_channels, side, side);
        let noise = streams.stream("posterior").normal(shape, self.device)?;
        let pictures = pictures(&scenes, self.device)?;
        Ok(Batch { pictures, noise, captions: scenes.into_iter().map(|s| s.caption).collect() })
    }

    fn size(&self, batch: &Batch) -> BatchSize {
        BatchSize { images: batch.captions.len(), pixels: SIZE * SIZE }
    }

    fn loss(&self, batch: &Batch, part: &Part) -> Result<Var> {
        let (first, count) = (part.images.start, part.images.len());
        let pictures = batch.pictures.narrow(0, first, count)?.contiguous()?;
        let noise = batch.noise.narrow(0, first, count)?.contiguous()?;
        let posterior = self.vae.encode(&Var::constant(pictures.clone()))?;
        let restored = self.vae.decode(&posterior.sample(&noise)?)?;
        let difference = difference(&restored, &pictures, self.recipe.loss)?;
        let kl = ops::scale(&posterior.kl()?, self.recipe.loss.kl / noise.elem_count() as f64)?;
        Ok(ops::scale(&ops::add(&difference, &kl)?, part.fraction())?)
    }

    fn describe(&self, batch: &Batch) -> Vec<String> {
        batch.captions.clone()
    }
}

/// How far pictures are from what they should be, but for the divergence.
fn difference(restored: &Var, pictures: &Tensor, loss: VaeLoss) -> candle_core::Result<Var> {
    let pictures = pictures.clone();
    ops::composed([restored], move |[restored]| {
        let d = (restored - &pictures)?;
        let (n, c, h, w) = d.dims4()?;
        let across = (d.narrow(3, 1, w - 1)? - d.narrow(3, 0, w - 1)?)?.abs()?.mean_all()?;
        let down = (d.narrow(2, 1, h - 1)? - d.narrow(2, 0, h - 1)?)?.abs()?.mean_all()?;
        let squares = d.reshape((n * c, h / 4, 4, w / 4, 4))?.mean((2, 4))?.abs()?.mean_all()?;
        let terms = [
            d.abs()?.mean_all()? * loss.absolute,
            d.sqr()?.mean_all()? * loss.squared,
            (across + down)? * loss.edges,
            squares * loss.colour,
        ];
        let mut sum = d.zeros_like()?.mean_all()?;
        for term in terms {
            sum = (sum + term?)?;
        }
        Ok(sum)
    })
}

impl VaeTask<'_> {
    fn look(&self, step: u64, dir: &Path, out: &Path, sets: [&[Scene]; 2]) -> Result<Findings> {
        let mut found: Findings = vec![];
        let mut shown: Vec<(Vec<u8>, String)> = vec![];
        for (name, scenes) in ["psnr", "psnr_concepts"].into_iter().zip(sets) {
            let restored = restore(&self.vae, scenes, self.device)?;
            let each: Vec<f64> =
                scenes.iter().zip(&restored).map(|(s, r)| psnr(&s.image, r)).collect();
            found.push((name, each.iter().sum::<f64>() / each.len() as f64));
            let apart = (scenes.len() / (SHOWN / 2)).max(1);
            for i in (0..scenes.len()).step_by(apart).take(SHOWN / 2) {
                shown.push((scenes[i].image.clone(), String::new()));
                shown.push((restored[i].clone(), format!("{:.1} dB", each[i])));
            }
        }
        let cells: Vec<(&[u8], &str)> =
            shown.iter().map(|(b, t)| (b.as_slice(), t.as_str())).collect();
        world::sheet(&cells, 8, &dir.join(format!("restored-{step:06}.png")))?;
        let latents = statistics(&self.vae, sets[0], self.device)?;
        found.push(("latent_std", latents.overall));
        if self.vae.params().iter().any(|p| p.name().starts_with("encoder.") && p.trainable()) {
            export(&self.vae, &latents, &model_folder(out), DType::F16)?;
        } else {
            let as_they_are = Statistics::unit(latents.mean.len());
            export(&self.vae, &as_they_are, &model_folder(out), DType::F16)?;
        }
        Ok(found)
    }
}

/// Pictures encoded together, so that the threads have parts to share out.
const TOGETHER: usize = 4;

/// The pictures after encoding and decoding, as bytes.
pub(super) fn restore(vae: &Vae, scenes: &[Scene], device: &Device) -> Result<Vec<Vec<u8>>> {
    let chunks: Vec<&[Scene]> = scenes.chunks(TOGETHER).collect();
    let done = parallel::parts(chunks.len(), |i| {
        no_grad(|| -> Result<_> {
            let mean = vae.encode(&Var::constant(pictures(chunks[i], device)?))?.mean;
            bytes(vae.decode(&mean)?.value())
        })
    })?;
    Ok(done.into_iter().flatten().collect())
}

/// Peak signal-to-noise ratio of 8-bit pictures, in dB; the mean over pictures is reported.
pub(super) fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    10.0 * (255.0f64.powi(2) * a.len() as f64 / squares.max(1e-9)).log10()
}

/// Of the latents, by channel.
struct Statistics {
    mean: Vec<f64>,
    std: Vec<f64>,
    overall: f64,
}

impl Statistics {
    /// Of latents that are to stay as they are.
    fn unit(channels: usize) -> Self {
        Statistics { mean: vec![0.0; channels], std: vec![1.0; channels], overall: 1.0 }
    }
}

fn statistics(vae: &Vae, scenes: &[Scene], device: &Device) -> Result<Statistics> {
    let chunks: Vec<&[Scene]> = scenes.chunks(TOGETHER).collect();
    let latents = parallel::parts(chunks.len(), |i| {
        no_grad(|| -> Result<Tensor> {
            let mean = vae.encode(&Var::constant(pictures(chunks[i], device)?))?.mean;
            Ok(mean.value().to_device(&Device::Cpu)?)
        })
    })?;
    let latents = Tensor::cat(&latents, 0)?.to_dtype(DType::F64)?;
    let (_, channels, ..) = latents.dims4()?;
    let by_channel = latents.transpose(0, 1)?.contiguous()?.reshape((channels, ()))?;
    let mean = by_channel.mean(1)?;
    let variance = by_channel.broadcast_sub(&mean.unsqueeze(1)?)?.sqr()?.mean(1)?;
    let std = variance.sqrt()?.to_vec1::<f64>()?;
    let overall = (std.iter().map(|s| s * s).sum::<f64>() / channels as f64).sqrt();
    Ok(Statistics { mean: mean.to_vec1()?, std, overall })
}

/// Writes `vae/` in `dtype`, with latents that are centred and of unit variance in every channel: shift
/// and scale are made part of the 1×1 convolutions on both sides of the latents, so that
/// `scaling_factor` is 1 and every program that reads the folder agrees.
fn export(vae: &Vae, latents: &Statistics, folder: &Path, dtype: DType) -> Result<()> {
    let n = latents.mean.len();
    let config = VaeConfig { scaling_factor: 1.0, shift_factor: None, ..vae.config().clone() };
    let column = |values: Vec<f64>| {
        let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
        let count = values.len();
        Tensor::from_vec(values, count, &Device::Cpu)
    };
    let scale = column(latents.std.iter().map(|s| 1.0 / s).collect())?;
    let std = column(latents.std.clone())?;
    let mean = column(latents.mean.clone())?;
    let mut tensors = vec![];
    for param in vae.params() {
        let value = param.to_file()?.to_device(&Device::Cpu)?;
        let value = match param.name() {
            "quant_conv.weight" => {
                let means = value.narrow(0, 0, n)?.broadcast_mul(&scale.reshape((n, 1, 1, 1))?)?;
                Tensor::cat(&[&means, &value.narrow(0, n, n)?], 0)?
            }
            "quant_conv.bias" => {
                let means = ((value.narrow(0, 0, n)? - &mean)? * &scale)?;
                let logvars = (value.narrow(0, n, n)? + (scale.log()? * 2.0)?)?;
                Tensor::cat(&[&means, &logvars], 0)?
            }
            "post_quant_conv.weight" => value.broadcast_mul(&std.reshape((1, n, 1, 1))?)?,
            "post_quant_conv.bias" => {
                let weight = vae.params().iter().find(|p| p.name() == "post_quant_conv.weight");
                let weight = weight.expect("beside its bias").to_file()?.to_device(&Device::Cpu)?;
                (value + weight.reshape((n, n))?.matmul(&mean.reshape((n, 1))?)?.reshape(n)?)?
            }
            _ => value,
        };
        tensors.push((param.name().to_owned(), value, dtype));
    }
    config.write(folder)?;
    save_weights(&folder.join(VAE_WEIGHTS), tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> PretrainConfig {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/mini/pretrain.toml");
        PretrainConfig::read(&path).unwrap()
    }

    #[test]
    fn exported_latents_are_centred_and_scaled_and_decode_to_the_same() {
        let config = config();
        let builder = Builder::new(RandomSource { seed: 5 }, &Device::Cpu, DType::F32);
        let vae = Vae::new(&builder, &config.vae.model).unwrap();
        let scenes = held_out(8);
        let before = statistics(&vae, &scenes, &Device::Cpu).unwrap();
        let dir = tempfile::tempdir().unwrap();
        export(&vae, &before, dir.path(), DType::F32).unwrap();

        let weights = Weights::open(&dir.path().join("vae"), "diffusion_pytorch_model").unwrap();
        let read = VaeConfig::read(dir.path()).unwrap();
        assert_eq!((read.scaling_factor, read.shift_factor), (1.0, None));
        let builder = Builder::new(Arc::new(weights), &Device::Cpu, DType::F32);
        let exported = Vae::new(&builder, &read).unwrap();
        let after = statistics(&exported, &scenes, &Device::Cpu).unwrap();
        for (mean, std) in after.mean.iter().zip(&after.std) {
            assert!(mean.abs() < 1e-3 && (std - 1.0).abs() < 1e-3, "{mean} {std}");
        }
        let picture = Var::constant(pictures(&scenes[..1], &Device::Cpu).unwrap());
        let restored = |vae: &Vae| {
            let posterior = vae.encode(&picture).unwrap();
            let decoded = vae.decode(&posterior.mean).unwrap();
            decoded.value().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        for (a, b) in restored(&vae).iter().zip(restored(&exported)) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }

    #[test]
    fn peak_signal_to_noise_at_known_values() {
        assert!((psnr(&[0, 0], &[255, 255])).abs() < 1e-9);
        assert!((psnr(&[10, 10], &[11, 9]) - 48.1308).abs() < 1e-3);
    }

    #[test]
    fn a_killed_run_goes_on() {
        let mut config = config();
        config.vae.recipe.batch = 2;
        config.vae.recipe.look_scenes = 4;
        config.vae.recipe.train.steps = 2;
        config.vae.recipe.train.schedule.warmup = 0;
        let dir = tempfile::tempdir().unwrap();
        pretrain_vae(&config, dir.path(), None, &Device::Cpu).unwrap();
        config.vae.recipe.train.steps = 4;
        pretrain_vae(&config, dir.path(), None, &Device::Cpu).unwrap();
        let log = std::fs::read_to_string(dir.path().join("vae/log.csv")).unwrap();
        let steps: Vec<&str> = log.lines().skip(1).filter_map(|l| l.split(',').next()).collect();
        assert_eq!(steps, ["2", "4"]);
        assert!(dir.path().join("mini/vae/diffusion_pytorch_model.safetensors").is_file());
    }
}
