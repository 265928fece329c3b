//! The identity extractor: a vision transformer in DINO's layout whose class tokens are near for
//! pictures of the same instance and far for other instances of its category. The renderer knows which
//! are which, so it learns from that alone; it never sees a caption, a concept or a generated picture.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::json;

use super::config::PretrainConfig;
use super::drive::{Drive, Findings};
use super::judge::unit_features;
use super::scenes::{SceneStream, pictures};
use super::{model_folder, part_of, read_params, whole_batch};
use crate::clip::{Vit, contrastive_loss};
use crate::diffusion::BackboneFiles;
use crate::diffusion::weights::Weights;
use crate::nn::{Builder, RandomSource, Var};
use crate::train::{BatchSize, Part, Streams, Task};
use crate::world::{self, Category, Concept, ObjectSpec, SIZE, Scene, WorldConfig};
use crate::{Result, safefile};

/// Apart from every other run's seed.
const SEED_OFFSET: u64 = 9_000_011;
/// Its folder below the backbone's.
const FOLDER: &str = "dino";

/// Trains the identity extractor, from its latest state if there is one, or else from that of `from`
/// where it has one, and exports it in transformers' layout.
///
/// # Errors
/// [`Error::Input`] if that of `from` is another architecture; what reading and writing the run folder
/// gives; divergence.
pub fn pretrain_identity(
    config: &PretrainConfig,
    out: &Path,
    from: Option<&BackboneFiles>,
    device: &Device,
) -> Result<()> {
    let recipe = &config.identity;
    let seed = config.seed + SEED_OFFSET;
    let builder = Builder::new(RandomSource { seed }, device, DType::F32);
    let vit = Vit::new(&builder, &recipe.model)?;
    let from = from.map(|from| part_of(from, FOLDER)).transpose()?;
    if let Some(from) = from.filter(|dir| dir.is_dir()) {
        read_params(vit.params(), &Weights::open(&from, "model")?)?;
    }
    let params = vit.params().to_vec();
    let identity = serde_json::to_string(&recipe.model).unwrap_or_default();
    let drive = Drive::new("identity", out, &recipe.recipe, params, &identity, seed)?;
    let (world, batch) = (recipe.world.clone(), recipe.recipe.batch as u64);
    let stream = SceneStream::of(move |step| {
        let first = step * batch;
        let views = (first..first + batch)
            .map(|i| Scene::two_views(&world, category(step, i, &world), seed, i));
        // the first views, then the second
        let (mut scenes, others): (Vec<_>, Vec<_>) = views.map(|[a, b]| (a, b)).unzip();
        scenes.extend(others);
        scenes
    });
    let scale = Tensor::new(recipe.scale.ln() as f32, device)?;
    let task = IdentityTask { device, vit, scale: Var::constant(scale), stream };
    let folder = model_folder(out).join(FOLDER);
    drive.run(task, |task, _, _| {
        export(&task.vit, &folder)?;
        let area = held_out_area(&task.vit, &config.identity.world, LOOKED_AT, device)?;
        Ok(Findings::from([("held_out_area", area)]))
    })
}

/// Views of each concept at a look, and as many of other instances of its category.
const LOOKED_AT: usize = 20;

/// Every other step shows one category alone, in its turn: what is left to tell apart is instances.
fn category(step: u64, index: u64, world: &WorldConfig) -> Category {
    let turn = if step.is_multiple_of(2) { index } else { step / 2 };
    world.categories[turn as usize % world.categories.len()]
}

struct IdentityTask<'a> {
    device: &'a Device,
    vit: Vit,
    scale: Var,
    stream: SceneStream,
}

struct Batch {
    pictures: Tensor,
    same: Tensor,
    captions: Vec<String>,
}

impl Task for IdentityTask<'_> {
    type Batch = Batch;

    fn next_batch(&mut self, step: u64, _: &mut Streams) -> Result<Batch> {
        let scenes = self.stream.batch(step);
        let pairs = scenes.len() / 2;
        // a photo of one object: the instance
        let instances: Vec<ObjectSpec> =
            scenes[..pairs].iter().map(|s| s.spec.objects[0]).collect();
        let same = (0..pairs * pairs).map(|k| {
            let (i, j) = (k / pairs, k % pairs);
            f32::from(u8::from(i != j && alike(&instances[i], &instances[j])))
        });
        let same = Tensor::from_vec(same.collect::<Vec<_>>(), (pairs, pairs), self.device)?;
        let pictures = pictures(&scenes, self.device)?;
        Ok(Batch { pictures, same, captions: scenes.into_iter().map(|s| s.caption).collect() })
    }

    fn size(&self, batch: &Batch) -> BatchSize {
        BatchSize { images: batch.captions.len() / 2, pixels: SIZE * SIZE }
    }

    fn loss(&self, batch: &Batch, part: &Part) -> Result<Var> {
        let pairs = batch.captions.len() / 2;
        whole_batch(part, pairs, "identity")?;
        let views = |first: usize| -> Result<Var> {
            let some = batch.pictures.narrow(0, first, pairs)?.contiguous()?;
            Ok(self.vit.forward(&Var::constant(some))?)
        };
        Ok(contrastive_loss(&views(0)?, &views(pairs)?, &self.scale, &batch.same)?)
    }

    fn describe(&self, batch: &Batch) -> Vec<String> {
        batch.captions.clone()
    }
}

/// Whether two instances are too much alike to be told apart in another scene.
fn alike(a: &ObjectSpec, b: &ObjectSpec) -> bool {
    /// In RGB, 0 to 441.
    const NEAR: f32 = 60.0;
    let near = |a: Option<world::Hsv>, b: Option<world::Hsv>| match (a, b) {
        (Some(a), Some(b)) => world::distance(a.rgb(), b.rgb()) < NEAR,
        (a, b) => a.is_none() && b.is_none(),
    };
    let kind = |o: &ObjectSpec| o.pattern.map(|p| p.kind);
    let ink = |o: &ObjectSpec| o.pattern.map(|p| p.color);
    a.category == b.category && kind(a) == kind(b) && near(a.color, b.color) && near(ink(a), ink(b))
}

/// Unit class tokens of scenes, a row each.
fn features(vit: &Vit, scenes: &[Scene], device: &Device) -> Result<Tensor> {
    unit_features(&pictures(scenes, device)?, |pictures| vit.forward(pictures))
}

/// Same instance or not, on the held-out concepts: the probability that a scene with the concept in it
/// is nearer to the concept's targets than a scene with another instance of its category is (the area
/// under the curve, by ranks). `each` scenes of either kind for each concept; the mean over concepts.
pub(super) fn held_out_area(
    vit: &Vit,
    world: &WorldConfig,
    each: usize,
    device: &Device,
) -> Result<f64> {
    let mut areas = vec![];
    for concept in world::concepts() {
        let targets = features(vit, &concept.targets(), device)?;
        let with = shown(concept, each);
        let others: Vec<Scene> = (0..each as u64)
            .map(|i| {
                let [_, other] = Scene::two_views(world, concept.category, u64::MAX, i);
                other
            })
            .collect();
        let nearness = |scenes: &[Scene]| -> Result<Vec<f32>> {
            let cosines = features(vit, scenes, device)?.matmul(&targets.t()?)?;
            Ok(cosines.mean(1)?.to_vec1()?)
        };
        let (own, other) = (nearness(&with)?, nearness(&others)?);
        let wins: usize = own.iter().map(|a| other.iter().filter(|b| a > b).count()).sum();
        areas.push(wins as f64 / (own.len() * other.len()) as f64);
    }
    Ok(areas.iter().sum::<f64>() / areas.len() as f64)
}

/// Scenes with a concept in them: its evaluation prompts, drawn by the renderer.
fn shown(concept: &Concept, count: usize) -> Vec<Scene> {
    let prompts = concept.prompts();
    let scene = |i: usize| {
        let text = prompts[i % prompts.len()].replace("{}", &format!("<it> {}", concept.class()));
        let round = (i / prompts.len()) as u64;
        world::rendered_truth(&text, &[("<it>", *concept)], round)
    };
    (0..count).filter_map(scene).collect()
}

/// The folder as transformers' `ViTModel` and `ViTImageProcessor` read it, weights in f16.
fn export(vit: &Vit, dir: &Path) -> Result<()> {
    vit.save(dir, DType::F16)?;
    let side = vit.config().image_size;
    let preprocessing = json!({
        "image_processor_type": "ViTImageProcessor",
        "do_resize": true, "size": { "height": side, "width": side }, "resample": 3,
        "do_rescale": true, "rescale_factor": 1.0 / 255.0,
        "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    });
    let text = serde_json::to_string_pretty(&preprocessing).unwrap_or_default();
    safefile::write(&dir.join("preprocessor_config.json"), text + "\n")
}
