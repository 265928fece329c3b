//! The UNet and the text encoder that conditions it, trained together on the autoencoder's latents.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::config::{PretrainConfig, UNetRecipe};
use super::drive::Drive;
use super::scenes::{SceneStream, pictures_of_bytes};
use super::{adopt_autoencoder, model_folder, read_params, read_params_by_words};
use crate::data::{PAPER_SIZES, augment, scene_image};
use crate::diffusion::config::{Config as _, ModelIndex, VaeConfig};
use crate::diffusion::folder::DIFFUSERS_STEM;
use crate::diffusion::model::{TextEncoder, Vae};
use crate::diffusion::scheduler::{NoiseSchedule, SchedulerKind};
use crate::diffusion::tokenizer::Tokenizer;
use crate::diffusion::weights::{Weights, save_weights};
use crate::diffusion::{Backbone, BackboneFiles, Blueprint, Part as ModelPart, Request, Sampling};
use crate::nn::{Param, Var, no_grad, parallel};
use crate::rng::Rng;
use crate::train::{BatchSize, FixedTexts, Noised, Part, Streams, Task, loss};
use crate::world::{self, SIZE, Scene};
use crate::{Error, Result};

/// Trains UNet and text encoder on the exported autoencoder, from their latest state if there is one,
/// or else from the weights of `from`, and exports them, which completes the backbone's folder. Where
/// there is no autoencoder yet, that of `from` is taken over.
///
/// # Errors
/// [`Error::Input`] if there is no autoencoder, or `from` is another architecture; what reading and
/// writing gives; divergence.
pub fn pretrain_unet(
    config: &PretrainConfig,
    out: &Path,
    from: Option<&BackboneFiles>,
    device: &Device,
) -> Result<()> {
    let recipe = &config.unet;
    let folder = model_folder(out);
    if let Some(from) = from {
        adopt_autoencoder(from, out)?;
    }
    let backbone = backbone(recipe, &folder, device, config.seed)?;
    if let Some(from) = from {
        read_params(backbone.unet.params(), &from.weights(ModelPart::UNet)?)?;
        let words = [&from.blueprint.tokenizer, &backbone.tokenizer];
        let weights = from.weights(ModelPart::TextEncoder)?;
        read_params_by_words(backbone.text_encoder.params(), &weights, TextEncoder::TABLE, words)?;
    }
    let mut params = backbone.unet.params().to_vec();
    params.extend(backbone.text_encoder.params().to_vec());
    let identity = serde_json::to_string(&(&recipe.model, &recipe.text_encoder));
    let identity = identity.unwrap_or_default();
    let drive = Drive::new("unet", out, &recipe.recipe, params, &identity, config.seed)?;
    let stages = recipe.clone();
    let stream =
        SceneStream::new(config.seed, recipe.recipe.batch, move |step| stages.world(step).clone());
    let schedule = NoiseSchedule::new(&recipe.scheduler);
    let task = UNetTask { recipe, device, backbone, schedule, stream };
    drive.run(task, |task, step, dir| {
        task.draw(&dir.join(format!("samples-{step:06}.png")))?;
        export(&task.backbone, &folder)?;
        Ok(vec![])
    })
}

/// The backbone with random UNet and text encoder, and the autoencoder of `folder`.
fn backbone(recipe: &UNetRecipe, folder: &Path, device: &Device, seed: u64) -> Result<Backbone> {
    if !folder.join(VaeConfig::FILE).is_file() {
        return Err(Error::input_hint(
            format!("{}: there is no autoencoder", folder.display()),
            "train it first: cdbench pretrain vae",
        ));
    }
    let tokenizer = Tokenizer::word_level(&world::vocabulary(), recipe.tokens)?;
    let mut text_encoder = recipe.text_encoder.clone();
    text_encoder.vocab_size = tokenizer.vocab_size();
    for (role, token) in [("bos", "<start>"), ("eos", "<end>"), ("pad", "<pad>")] {
        text_encoder.extra.insert(format!("{role}_token_id"), tokenizer.token_id(token).into());
    }
    let weights = Weights::open(&folder.join("vae"), DIFFUSERS_STEM)?;
    let blueprint = Blueprint {
        index: index(),
        unet: recipe.model.clone(),
        vae: VaeConfig::read(folder)?,
        text_encoder,
        scheduler: recipe.scheduler.clone(),
        tokenizer,
    };
    let backbone = Backbone::random(blueprint, device, DType::F32, seed)?;
    read_params(backbone.vae.params(), &weights)?;
    Ok(backbone)
}

struct UNetTask<'a> {
    recipe: &'a UNetRecipe,
    device: &'a Device,
    backbone: Backbone,
    schedule: NoiseSchedule,
    stream: SceneStream,
}

impl Task for UNetTask<'_> {
    type Batch = Noised;

    fn next_batch(&mut self, step: u64, streams: &mut Streams) -> Result<Noised> {
        let scenes = self.stream.batch(step);
        let rng = streams.stream("augmentation");
        let shown: Vec<Shown> = scenes.into_iter().map(|scene| self.show(scene, rng)).collect();
        let images: Vec<&[u8]> = shown.iter().map(|s| s.image.as_slice()).collect();
        let latents = encode(&self.backbone.vae, &pictures_of_bytes(&images, self.device)?)?;
        let rng = streams.stream("caption dropout");
        let captions: Vec<String> = shown
            .iter()
            .map(|s| match rng.chance(self.recipe.caption_dropout) {
                true => String::new(),
                false => s.caption.clone(),
            })
            .collect();
        let (batch, channels, h, w) = latents.dims4()?;
        let masks: Vec<f32> = shown.into_iter().flat_map(|s| s.mask).collect();
        let weights = |timesteps: &[usize]| {
            let masks = Tensor::from_vec(masks, (batch, 1, h, w), &Device::Cpu)?;
            let weights = (loss::masked_weights(&masks)? / channels as f64)?;
            let weights = weights.to_device(self.device)?;
            Ok(match self.recipe.snr_gamma {
                0.0 => weights,
                gamma => {
                    let predicts = self.schedule.prediction_type();
                    let factor =
                        |&t: &usize| loss::min_snr_factor(self.schedule.snr(t), gamma, predicts);
                    loss::scale_images(&weights, &timesteps.iter().map(factor).collect::<Vec<_>>())?
                }
            })
        };
        let texts = &mut FixedTexts::default(); // all of them change
        Noised::draw(&self.backbone, &self.schedule, &latents, captions, weights, texts, streams)
    }

    fn size(&self, batch: &Noised) -> BatchSize {
        batch.size()
    }

    fn loss(&self, batch: &Noised, part: &Part) -> Result<Var> {
        batch.loss(&self.backbone, part)
    }

    fn describe(&self, batch: &Noised) -> Vec<String> {
        batch.captions.clone()
    }
}

/// A scene as a step sees it.
struct Shown {
    image: Vec<u8>,
    caption: String,
    /// 1 for every latent that counts.
    mask: Vec<f32>,
}

impl UNetTask<'_> {
    fn show(&self, scene: Scene, rng: &mut Rng) -> Shown {
        let latent = SIZE / self.backbone.vae.config().downscale();
        if scene.spec.size_word.is_some() || !rng.chance(self.recipe.augmented) {
            let mask = vec![1.0; latent * latent];
            return Shown { image: scene.image, caption: scene.caption, mask };
        }
        let shown = augment(&scene_image(&scene), SIZE, PAPER_SIZES, rng);
        let (caption, mask) = (shown.caption(&scene.caption), shown.mask(latent));
        Shown { image: shown.image.into_raw(), caption, mask }
    }
}

/// Pictures encoded together on a thread.
const TOGETHER: usize = 4;

/// The latents that the UNet sees: means of the posteriors, scaled.
fn encode(vae: &Vae, pictures: &Tensor) -> Result<Tensor> {
    let count = pictures.dim(0)?;
    let part = if pictures.device().is_cpu() { TOGETHER } else { count };
    let parts = parallel::parts(count.div_ceil(part), |i| {
        no_grad(|| {
            let some = pictures.narrow(0, i * part, part.min(count - i * part))?.contiguous()?;
            let mean = vae.encode(&Var::constant(some))?.mean;
            Ok::<_, Error>(vae.scale(&mean)?.value().clone())
        })
    })?;
    Ok(Tensor::cat(&parts, 0)?)
}

/// What the sample sheets show.
const PROMPTS: [&str; 24] = [
    "photo of a cat on the beach",
    "photo of a dog in the snow",
    "photo of a red car in the city",
    "a blue teddybear in the room",
    "photo of a green chair in the desert",
    "photo of a flower in the forest",
    "photo of a cup in the room",
    "photo of a robot at night",
    "photo of a purple fish underwater",
    "photo of a mushroom in the forest",
    "a pink umbrella on the beach",
    "photo of a boat underwater",
    "photo of a dotted purple and yellow dog in the city",
    "photo of a green cat with pink stripes in the snow",
    "watercolor painting of a cat in the forest",
    "pencil sketch of a chair in the room",
    "pixel art of a robot in the desert",
    "close up photo of a teddybear on the beach",
    "very small car in the snow",
    "photo of a cat next to a chair in the room",
    "a ktn dog on top of a car in the desert",
    "a striped red and white robot next to a dotted blue and yellow umbrella on the beach",
    "a flower next to a cup in the snow",
    "a boat next to a fish underwater",
];

/// How sample sheets are drawn.
const SHEET: Sampling = Sampling {
    steps: 20,
    guidance: 4.0,
    scheduler: SchedulerKind::DpmSolver,
    eta: 0.0,
    height: SIZE,
    width: SIZE,
    negative_prompt: String::new(),
};

impl UNetTask<'_> {
    fn draw(&self, path: &Path) -> Result<()> {
        let request = |(seed, prompt): (u64, &&str)| Request::new(*prompt, seed);
        let requests: Vec<Request> = (0..).zip(&PROMPTS).map(request).collect();
        let samples = self.backbone.sample(&requests, &SHEET, &|_| Ok(()))?;
        let cells: Vec<(&[u8], &str)> =
            samples.iter().zip(PROMPTS).map(|(s, p)| (s.image.as_raw().as_slice(), p)).collect();
        world::sheet(&cells, 8, path)
    }
}

/// Writes everything of the folder but the autoencoder, weights in f16.
fn export(backbone: &Backbone, folder: &Path) -> Result<()> {
    backbone.unet.config().write(folder)?;
    backbone.text_encoder.config().write(folder)?;
    backbone.scheduler.write(folder)?;
    backbone.tokenizer.save(&folder.join("tokenizer"))?;
    let f16 = |tensors: Vec<(String, Tensor)>| tensors.into_iter().map(|(n, t)| (n, t, DType::F16));
    let named = |params: &[Param]| -> Result<Vec<(String, Tensor)>> {
        params.iter().map(|p| Ok((p.name().to_owned(), p.to_file()?))).collect()
    };
    let unet = named(backbone.unet.params())?;
    save_weights(&folder.join("unet/diffusion_pytorch_model.safetensors"), f16(unet))?;
    let text = backbone.text_encoder.to_file()?;
    save_weights(&folder.join("text_encoder/model.safetensors"), f16(text))?;
    index().write(folder)
}

/// The tokenizer is of words: to transformers not a CLIP's, which would need files of pieces.
fn index() -> ModelIndex {
    let tokenizer = ["transformers", "PreTrainedTokenizerFast"].map(String::from);
    ModelIndex { tokenizer, ..ModelIndex::default() }
}
