//! How each kind of stage is done.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::curve::{Curve, Point};
use super::images::{Asked, Images, attention_file, image_file};
use super::pictures::MANIFEST;
use super::plan::Plan;
use super::resources::Resources;
use super::scores::{Bench, Scored, score};
use super::stage::{Stage, Work};
use super::states;
use super::store::Store;
use super::truth::render;
use crate::data;
use crate::diffusion::png::Png;
use crate::diffusion::{Backbone, Request, Sample, Sampling, save_maps};
use crate::drawing::write_png;
use crate::methods::{self, Delta, Instance, Part, States, Training, Undo};
use crate::spec::SamplingSpec;
use crate::{Error, Result, mini, safefile};

/// One worker: does stages one after another, and keeps the backbone it used last.
pub struct Worker<'a> {
    pub plan: &'a Plan,
    pub store: &'a Store,
    pub resources: &'a Resources,
    pub stop: &'a AtomicBool,
    loaded: Option<Loaded>,
}

/// The backbone, and what was changed of it.
struct Loaded {
    backbone: Backbone,
    checkpoint: Option<(usize, Undo)>,
}

/// Goes on, until the user or another run says stop.
fn go_on(stop: &AtomicBool) -> Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(Error::Interrupted),
        false => Ok(()),
    }
}

/// Hears how far a stage is: units done, and in all.
pub type OnProgress<'a> = dyn Fn(u64, u64) + Sync + 'a;

/// Hears of each step of a training.
pub type OnPoint<'a> = dyn Fn(Point) + Sync + 'a;

/// What doing a stage took.
pub struct Effort {
    /// Units of work that were done.
    pub units: f64,
    /// Seconds that went into what was there already: the steps of a training that goes on.
    pub earlier: f64,
    /// The most memory that was held for it, in bytes, where that is not this process's.
    pub peak: Option<u64>,
}

impl From<f64> for Effort {
    fn from(units: f64) -> Self {
        Effort { units, earlier: 0.0, peak: None }
    }
}

impl<'a> Worker<'a> {
    pub fn new(
        plan: &'a Plan,
        store: &'a Store,
        resources: &'a Resources,
        stop: &'a AtomicBool,
    ) -> Self {
        Worker { plan, store, resources, stop, loaded: None }
    }

    /// Does a stage: its files are in its folder then.
    pub fn run(
        &mut self,
        stage: &Stage,
        progress: &OnProgress,
        on_point: &OnPoint,
    ) -> Result<Effort> {
        let dir = self.store.dir(stage.kind.folder(), &stage.folder);
        match &stage.work {
            Work::Retrieve { corpus, queries, count, threshold } => {
                let corpus = self.resources.corpus(corpus)?;
                let embedder = self.resources.embedder()?;
                let cache = mini::cache_folder()?.join("captions");
                let watch = |done: usize, of: usize| {
                    progress(done as u64, of as u64);
                    go_on(self.stop)
                };
                let features =
                    data::CaptionFeatures::new(&*embedder).kept_in(&cache).watched(&watch);
                let found = data::retrieve(&*corpus, queries, *count, *threshold, &features)?;
                found.save(&dir.join(MANIFEST))?;
                Ok(1.0.into())
            }
            Work::Spread { corpus, count } => {
                data::spread(&*self.resources.corpus(corpus)?, *count)?
                    .save(&dir.join(MANIFEST))?;
                Ok(1.0.into())
            }
            Work::Train { .. } => self.train(stage, &dir, progress, on_point),
            Work::TrainBy(told) => self.train_by(stage, told, &dir),
            Work::Merge { .. } => self.merge(stage, &dir),
            Work::State { of, step } => {
                states::take(&states::kept(self.plan, self.store, *of, *step), &dir)?;
                Ok(1.0.into())
            }
            Work::Compress { of, to } => {
                let whole = self.delta(*of)?;
                methods::compress(&whole, self.backbone(None)?, *to)?.save(&dir)?;
                Ok(1.0.into())
            }
            Work::Take(file) => {
                file.load()?.save(&dir)?;
                Ok(1.0.into())
            }
            Work::Sample { by: Some(told), .. } => self.sample_by(stage, told, &dir, progress),
            Work::Sample { checkpoint, images, sampling, by: None } => {
                self.sample(*checkpoint, images, sampling, &dir, progress)
            }
            Work::Attend { checkpoint, list, words, sampling } => {
                self.attend(*checkpoint, list, words, sampling, &dir, progress)
            }
            Work::Render { concepts, list } => {
                for (prompt, seed) in list {
                    let image = render(self.resources, concepts, prompt, *seed)?;
                    write_png(&dir.join(image_file(prompt, *seed)), &image)?;
                }
                Ok(1.0.into())
            }
            Work::Score(_) => self.score(stage, &dir),
        }
    }

    fn train(
        &mut self,
        stage: &Stage,
        dir: &Path,
        progress: &OnProgress,
        on_point: &OnPoint,
    ) -> Result<Effort> {
        let Work::Train { from, concepts, class, settings, tokens, seed } = &stage.work else {
            return Ok(0.0.into());
        };
        let mut instances = vec![];
        for (name, class) in concepts.iter().zip(class) {
            let concept = self.resources.concept(name)?;
            instances.push(Instance {
                name: name.clone(),
                category: concept.category.clone(),
                pictures: concept.targets.iter().map(|t| t.image.clone()).collect(),
                class: self.class_pictures(class)?,
            });
        }
        let from = from.map(|at| self.delta(at)).transpose()?;
        let work = self.store.work_dir(&stage.key);
        let training = Training {
            from: from.as_ref(),
            instances: &instances,
            settings,
            tokens,
            seed: *seed,
            dir: &work,
        };
        let stop = self.stop;
        let (mut steps, mut earlier) = (0u64, None);
        let (plan, store) = (self.plan, self.store);
        let delta = loop {
            let missing = states::missing(plan, store, stage)?;
            let mut states = States {
                steps: &missing,
                keep: &mut |step, delta| states::keep(store, stage, step, &delta),
            };
            let mut curve = Curve::new(store, stage);
            let backbone = self.backbone(None)?;
            let delta = methods::train_with_states(
                backbone,
                &training,
                stop,
                &mut |p| {
                    steps += 1;
                    earlier.get_or_insert(p.total_seconds - p.seconds);
                    on_point(curve.add(p));
                    progress(p.step, p.steps);
                },
                &mut states,
            )?;
            if states::missing(plan, store, stage)?.is_empty() {
                break delta;
            }
            // it had begun when nobody wanted the states that it passed
            store.forget_work(&stage.key);
        };
        delta.save(dir)?;
        Ok(Effort {
            units: (steps * settings.batch as u64) as f64,
            earlier: earlier.unwrap_or(0.0),
            peak: None,
        })
    }

    fn merge(&mut self, stage: &Stage, dir: &Path) -> Result<Effort> {
        let Work::Merge { parts, concepts, modifiers, settings, corpus } = &stage.work else {
            return Ok(0.0.into());
        };
        let deltas: Vec<Delta> = parts.iter().map(|&at| self.delta(at)).collect::<Result<_>>()?;
        let mut whole = vec![];
        for ((delta, name), &modifier) in deltas.iter().zip(concepts).zip(modifiers) {
            whole.push(Part { delta, modifier, category: &self.resources.concept(name)?.category });
        }
        let captions = self.resources.corpus(corpus)?.spread_captions(settings.captions);
        let (delta, report) = methods::merge(self.backbone(None)?, &whole, &captions, settings)?;
        delta.save(dir)?;
        if let Some(report) = report {
            tracing::info!("{}: {report}", stage.name);
            for warning in report.warnings() {
                tracing::warn!("{}: {warning}", stage.name);
            }
            let text = serde_json::to_string_pretty(&report).unwrap_or_default();
            safefile::write(&dir.join("merge.json"), text + "\n")?;
        }
        Ok(1.0.into())
    }

    fn sample(
        &mut self,
        checkpoint: Option<usize>,
        images: &Images,
        spec: &SamplingSpec,
        dir: &Path,
        progress: &OnProgress,
    ) -> Result<Effort> {
        let all = self.listed(images)?;
        let is_missing = |(p, s): &&(String, u64)| !Png::is_whole(&dir.join(image_file(p, *s)));
        let sampling = self.sampling(spec);
        let together = self.backbone(checkpoint)?.images_together(&sampling)?;
        let requests = in_company(&all, together, &is_missing);
        let requests: Vec<Request> = requests.map(|(p, s)| Request::new(p, *s)).collect();
        let (width, height) = self.resources.size();
        let keep = |Request { prompt, seed, .. }: &Request, sample: Sample| {
            if !is_missing(&&(prompt.clone(), *seed)) {
                return Ok(());
            }
            let png = Png {
                width,
                height,
                rgb: sample.image.into_raw(),
                text: vec![("prompt".into(), prompt.clone()), ("seed".into(), seed.to_string())],
            };
            png.write(&dir.join(image_file(prompt, *seed)))
        };
        self.sample_missing(checkpoint, &requests, all.len(), spec, &keep, progress)
    }

    /// Samples what is missing `of` so many images. Each is kept once it is made: a run that is killed
    /// loses those in the making.
    fn sample_missing(
        &mut self,
        checkpoint: Option<usize>,
        requests: &[Request],
        of: usize,
        spec: &SamplingSpec,
        keep: &(dyn Fn(&Request, Sample) -> Result<()> + Sync),
        progress: &OnProgress,
    ) -> Result<Effort> {
        if requests.is_empty() {
            return Ok(0.0.into());
        }
        let stop = self.stop;
        let on_step = |_| go_on(stop);
        let there = AtomicU64::new((of - requests.len()) as u64);
        let on_sample = |i: usize, sample: Sample| {
            keep(&requests[i], sample)?;
            progress(there.fetch_add(1, Ordering::Relaxed) + 1, of as u64);
            Ok(())
        };
        let sampling = self.sampling(spec);
        self.backbone(checkpoint)?.sample_each(requests, &sampling, &on_step, &on_sample)?;
        Ok(((requests.len() * spec.steps) as f64).into())
    }

    fn sampling(&self, spec: &SamplingSpec) -> Sampling {
        let (width, height) = self.resources.size();
        Sampling {
            steps: spec.steps,
            guidance: spec.guidance,
            scheduler: spec.scheduler,
            eta: 0.0,
            height,
            width,
            negative_prompt: String::new(),
        }
    }

    /// Samples again what another stage keeps the images of: they are the same bit for bit.
    fn attend(
        &mut self,
        checkpoint: Option<usize>,
        list: &[(String, u64)],
        words: &[String],
        spec: &SamplingSpec,
        dir: &Path,
        progress: &OnProgress,
    ) -> Result<Effort> {
        let missing = list.iter().filter(|(p, s)| !dir.join(attention_file(p, *s)).exists());
        let request = |(prompt, seed): &(String, u64)| Request {
            words: words.to_vec(),
            ..Request::new(prompt, *seed)
        };
        let requests: Vec<Request> = missing.map(request).collect();
        let keep = |Request { prompt, seed, .. }: &Request, sample: Sample| {
            save_maps(&dir.join(attention_file(prompt, *seed)), &sample.maps)
        };
        self.sample_missing(checkpoint, &requests, list.len(), spec, &keep, progress)
    }

    fn score(&mut self, stage: &Stage, dir: &Path) -> Result<Effort> {
        let Work::Score(work) = &stage.work else { return Ok(0.0.into()) };
        let weights = match work.checkpoint {
            Some(at) => methods::weight_changes(&self.delta(at)?, self.backbone(None)?)?,
            None => vec![],
        };
        let (folder, cache) = (&self.store.work_dir(&stage.key), &self.store.cache_dir());
        let bench = Bench { folder, cache: Some(cache), stop: self.stop };
        let mut scores = score(work, &weights, self, &bench)?;
        let samples = work.samples.as_ref().map(|(at, list)| (Asked::Prompts, *at, list));
        let class_words =
            work.class_words.as_ref().map(|(at, list)| (Asked::ClassWords, *at, list));
        let unrelated =
            work.unrelated.as_ref().map(|[(at, list), _]| (Asked::Unrelated, *at, list));
        for (of, at, list) in [samples, class_words, unrelated].into_iter().flatten() {
            let prompts = self.listed(list)?;
            // a number for each prompt over all kinds: the first are the evaluation prompts'
            let first = of as usize * work.texts.len();
            for (i, (path, seed)) in self.files(at, list)?.into_iter().enumerate() {
                let (prompt, text) = match of {
                    Asked::Prompts => (work.groups[i], work.texts[work.groups[i]].clone()),
                    _ => (first + i, prompts[i].0.clone()),
                };
                let file = path.strip_prefix(self.store.root()).unwrap_or(&path);
                let file = file.to_string_lossy().into_owned();
                let attended = work.attention.filter(|_| of == Asked::Prompts);
                let maps = attended.map(|at| {
                    let path = self.folder(at).join(attention_file(&prompts[i].0, seed));
                    let path = path.strip_prefix(self.store.root()).unwrap_or(&path);
                    path.to_string_lossy().into_owned()
                });
                scores.images.push(Scored { of, prompt, text, file, seed, maps });
            }
        }
        let text = serde_json::to_string(&scores).unwrap_or_default();
        safefile::write(&dir.join(SCORES), text)?;
        Ok(1.0.into())
    }

    /// Where a stage's files are.
    pub fn folder(&self, at: usize) -> PathBuf {
        let stage = &self.plan.stages[at];
        self.store.dir(stage.kind.folder(), &stage.folder)
    }

    /// The backbone with a checkpoint's weights: loaded once, changed and changed back.
    fn backbone(&mut self, at: Option<usize>) -> Result<&mut Backbone> {
        let mut loaded = match self.loaded.take() {
            Some(loaded) => loaded,
            None => Loaded { backbone: self.resources.load_backbone()?, checkpoint: None },
        };
        if loaded.checkpoint.as_ref().map(|(at, _)| *at) != at {
            if let Some((_, undo)) = loaded.checkpoint.take() {
                undo.restore(&mut loaded.backbone)?;
            }
            if let Some(at) = at {
                let undo = self.delta(at)?.apply(&mut loaded.backbone)?;
                loaded.checkpoint = Some((at, undo));
            }
        }
        Ok(&mut self.loaded.insert(loaded).backbone)
    }

    fn delta(&self, at: usize) -> Result<Delta> {
        Delta::load(&self.folder(at))
    }
}

/// The images of a list to sample: those that are missing and, where a run was killed while it wrote those
/// that it had sampled together, their company, so that they have the bits that they would have had. A list
/// that grew has more gaps than a run leaves, and images of it have other company anyway.
fn in_company<'a, T>(
    all: &'a [T],
    together: usize,
    is_missing: &dyn Fn(&&T) -> bool,
) -> impl Iterator<Item = &'a T> {
    let parts = || all.chunks(together.max(1));
    let is_cut = |part: &&[T]| (1..part.len()).contains(&part.iter().filter(is_missing).count());
    let of_killed_run = parts().filter(is_cut).count() <= rayon::current_num_threads();
    let mut chosen = vec![];
    for part in parts().filter(|part| part.iter().any(|image| is_missing(&image))) {
        chosen.extend(part.iter().filter(|image| of_killed_run || is_missing(image)));
    }
    chosen.into_iter()
}

/// In a score's folder.
const SCORES: &str = "scores.json";
