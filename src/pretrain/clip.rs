//! The judge: a CLIP of its own seed and scenes, which no other run ever sees.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::json;

use super::config::PretrainConfig;
use super::drive::{Drive, Findings};
use super::judge::Judge;
use super::scenes::{SceneStream, held_out, pictures};
use super::{model_folder, part_of, read_params_by_words, whole_batch};
use crate::clip::Clip;
use crate::diffusion::BackboneFiles;
use crate::diffusion::model::TextEncoder;
use crate::diffusion::tokenizer::Tokenizer;
use crate::diffusion::weights::Weights;
use crate::nn::{Builder, RandomSource, Var};
use crate::train::{BatchSize, Part, Streams, Task};
use crate::world::{self, SIZE, WorldConfig};
use crate::{Result, safefile};

/// Apart from every other run's seed.
const SEED_OFFSET: u64 = 7_000_003;

/// Trains the judge, from its latest state if there is one, or else from that of `from`, and exports it
/// in transformers' layout.
///
/// # Errors
/// [`Error::Input`] if `from` has none of this architecture; what reading and writing the run folder
/// gives; divergence.
pub fn pretrain_clip(
    config: &PretrainConfig,
    out: &Path,
    from: Option<&BackboneFiles>,
    device: &Device,
) -> Result<()> {
    let recipe = &config.clip;
    let seed = config.seed + SEED_OFFSET;
    let tokenizer = Tokenizer::word_level(&world::vocabulary(), recipe.tokens)?;
    let mut model = recipe.model.clone();
    let text = &mut model.text_config;
    text.vocab_size = tokenizer.vocab_size();
    for (role, token) in [("bos", "<start>"), ("eos", "<end>"), ("pad", "<pad>")] {
        text.extra.insert(format!("{role}_token_id"), tokenizer.token_id(token).into());
    }
    model.check(Path::new("clip.model"))?;
    let clip = Clip::new(&Builder::new(RandomSource { seed }, device, DType::F32), &model)?;
    if let Some(from) = from {
        let folder = part_of(from, "clip")?;
        let weights = Weights::open(&folder, "model")?;
        let words = [&Tokenizer::load(&folder)?, &tokenizer];
        read_params_by_words(clip.params(), &weights, TextEncoder::TABLE, words)?;
    }
    let params = clip.params().to_vec();
    let identity = serde_json::to_string(&recipe.model).unwrap_or_default();
    let drive = Drive::new("clip", out, &recipe.recipe, params, &identity, seed)?;
    let world = recipe.world.clone();
    let stream = SceneStream::new(seed, recipe.recipe.batch, move |step| alike(&world, step));
    let task = ClipTask { device, judge: Judge::new(clip, tokenizer, device)?, stream };
    let scenes = held_out(recipe.recipe.look_scenes);
    let folder = model_folder(out).join("clip");
    drive.run(task, |task, _, _| {
        let right = task.judge.zero_shot(&scenes)?;
        export(&task.judge, &folder)?;
        let share = |(hits, of): (usize, usize)| hits as f64 / of.max(1) as f64;
        Ok(Findings::from([
            ("category", share(right.category)),
            ("background", share(right.background)),
            ("style", share(right.style)),
            ("retrieval", share(task.judge.retrieval(&scenes)?)),
        ]))
    })
}

/// The scenes of a step: of every four batches one of all there is, one of a single background and
/// style with looks that captions do not name, one of a single category, one of a single category and
/// background. Where scenes are alike in what is easily told apart, the rest has to be.
fn alike(world: &WorldConfig, step: u64) -> WorldConfig {
    let mut world = world.clone();
    let turn = (step / 4) as usize;
    let backgrounds = world.backgrounds.len();
    if matches!(step % 4, 1 | 3) {
        world.backgrounds = vec![world.backgrounds[turn % backgrounds]];
    }
    if matches!(step % 4, 2 | 3) {
        world.categories = vec![world.categories[turn % world.categories.len()]];
        world.two_objects = 0.0;
    }
    let styles = match step % 4 {
        1 => {
            // nothing is left to tell but categories
            world.unnamed = 1.0;
            // one style; photos are the most, in their own turn as well
            [1, 3, 5].map(|own| f32::from(u8::from(turn / backgrounds % 6 == own)))
        }
        // nothing is left to tell but styles and looks
        3 => [0.25; 3],
        _ => return world,
    };
    [world.watercolor, world.pencil_sketch, world.pixel_art] = styles;
    world
}

struct ClipTask<'a> {
    device: &'a Device,
    judge: Judge,
    stream: SceneStream,
}

struct Batch {
    pictures: Tensor,
    ids: Vec<Vec<u32>>,
    same: Tensor,
    captions: Vec<String>,
}

impl Task for ClipTask<'_> {
    type Batch = Batch;

    fn next_batch(&mut self, step: u64, _: &mut Streams) -> Result<Batch> {
        let scenes = self.stream.batch(step);
        let pictures = pictures(&scenes, self.device)?;
        let captions: Vec<String> = scenes.into_iter().map(|s| s.caption).collect();
        // captions of the same words are no negatives of each other
        let mut seen: HashMap<Vec<&str>, Vec<usize>> = HashMap::new();
        for (i, caption) in captions.iter().enumerate() {
            seen.entry(words(caption)).or_default().push(i);
        }
        let batch = captions.len();
        let mut same = vec![0f32; batch * batch];
        for group in seen.values() {
            for &i in group {
                for &j in group.iter().filter(|&&j| j != i) {
                    same[i * batch + j] = 1.0;
                }
            }
        }
        let same = Tensor::from_vec(same, (batch, batch), self.device)?;
        let ids = captions.iter().map(|c| Ok(self.judge.tokenizer.encode(c)?.ids));
        let ids = ids.collect::<Result<_>>()?;
        Ok(Batch { pictures, ids, same, captions })
    }

    fn size(&self, batch: &Batch) -> BatchSize {
        BatchSize { images: batch.ids.len(), pixels: SIZE * SIZE }
    }

    fn loss(&self, batch: &Batch, part: &Part) -> Result<Var> {
        whole_batch(part, batch.ids.len(), "clip")?;
        let images = self.judge.clip.encode_images(&Var::constant(batch.pictures.clone()))?;
        let texts = self.judge.clip.encode_texts(&batch.ids)?;
        Ok(self.judge.clip.contrastive_loss(&images, &texts, &batch.same)?)
    }

    fn describe(&self, batch: &Batch) -> Vec<String> {
        batch.captions.clone()
    }
}

/// A caption without what carries no meaning.
fn words(caption: &str) -> Vec<&str> {
    let empty = ["a", "an", "the"];
    caption.split_whitespace().filter(|word| !empty.contains(word)).collect()
}

/// The folder as transformers' `CLIPModel` and `CLIPProcessor` read it, weights in f16.
fn export(judge: &Judge, dir: &Path) -> Result<()> {
    judge.clip.save(dir, DType::F16)?;
    judge.tokenizer.save(dir)?;
    let side = judge.clip.config().vision_config.image_size;
    let preprocessing = json!({
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": true, "size": { "shortest_edge": side }, "resample": 3,
        "do_center_crop": true, "crop_size": { "height": side, "width": side },
        "do_rescale": true, "rescale_factor": 1.0 / 255.0,
        "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": true,
    });
    let text = serde_json::to_string_pretty(&preprocessing).unwrap_or_default();
    safefile::write(&dir.join("preprocessor_config.json"), text + "\n")
}
