//! Programs of others: what they are told, and what is taken from them. `docs/external-methods.md` is the
//! contract.

mod measure;
mod program;
mod told;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_core::DeviceLocation;
use serde_json::{Value, json};

use super::images::image_file;
use super::plan::scaled;
use super::resources::Resources;
use super::stage::{Stage, Work};
use super::work::{Effort, OnProgress, Worker};
use crate::data::read_picture;
use crate::diffusion::png::Png;
use crate::drawing::write_png;
use crate::methods::{
    Delta, External, Modifier, OF_SAMPLERS, OF_TRAINERS, fill, instance_prompt, phrase, shown,
    token,
};
use crate::process::Order;
use crate::spec::{Experiment, Row, SamplingSpec, Scale};
use crate::{Error, Result, safefile};

pub use measure::MeasureProgram;
use program::Wanted;
pub use told::Told;

/// Of what programs are given; another number is given with another layout.
const CONTRACT: u32 = 1;
/// The setting that a scale's `train_steps` multiplies.
const STEPS: &str = "steps";

/// The programs that a row names, with all that their results depend on; none for a method of ours.
///
/// # Errors
/// An input that cannot be read, a program that does not say its version.
pub fn find(
    row: &Row,
    experiment: &Experiment,
    scale: &Scale,
    resources: &Resources,
) -> Result<Option<External>> {
    if row.train.is_none() && row.sample.is_none() {
        return Ok(None);
    }
    let folder = experiment.base.clone();
    let mut settings: BTreeMap<String, Value> = BTreeMap::new();
    for (key, value) in row.settings.iter().filter(|(key, _)| *key != Modifier::KEY) {
        let value =
            serde_json::to_value(value).map_err(|e| Error::input(format!("`{key}`: {e}")))?;
        settings.insert(key.clone(), value);
    }
    let modifier = Modifier::in_settings(&row.settings)?.unwrap_or(Modifier::Rare);
    let steps = settings.get(STEPS).and_then(Value::as_u64).map(|steps| scaled(steps, scale));
    if let Some(steps) = steps {
        settings.insert(STEPS.into(), steps.into());
    }
    let args = row.train.iter().chain(&row.sample).flatten();
    let (version, inputs) = Wanted {
        args: args.map(String::as_str).collect(),
        inputs: &row.inputs,
        version: row.version.as_deref(),
        version_command: row.version_command.as_deref(),
    }
    .found(&folder, resources.hashes())?;
    Ok(Some(External {
        train: row.train.clone(),
        sample: row.sample.clone(),
        settings,
        modifier,
        steps: if row.train.is_some() { steps.unwrap_or(0) } else { 0 },
        version,
        inputs,
        folder,
        timeout: row.timeout,
    }))
}

impl Worker<'_> {
    /// Lets a program train. What it wrote becomes the checkpoint once it has ended well.
    pub(super) fn train_by(&mut self, stage: &Stage, told: &Told, dir: &Path) -> Result<Effort> {
        let args = told.external.train.as_deref().unwrap_or_default();
        let desk = Desk::new(self, stage, told)?;
        let peak = desk.run("train", args, &OF_TRAINERS, &[], &mut || {})?;
        let out = desk.out();
        if fs::read_dir(&out).map_err(Error::io(&out))?.next().is_none() {
            return Err(Error::input_hint(
                "`train`: the program ended well and left nothing in {out}",
                "it writes its checkpoint into the folder that {out} stands for",
            ));
        }
        if told.external.sample.is_none() {
            told.check_tokens(&out)?;
        }
        if dir.exists() {
            fs::remove_dir_all(dir).map_err(Error::io(dir))?;
        }
        let above = dir.parent().unwrap_or(dir);
        fs::create_dir_all(above).map_err(Error::io(above))?;
        fs::rename(&out, dir).map_err(Error::io(dir))?;
        Ok(Effort { units: 1.0, earlier: 0.0, peak })
    }

    /// Lets a program sample the images that are missing. Whatever of them is as it was asked for is kept,
    /// however the program ends.
    pub(super) fn sample_by(
        &mut self,
        stage: &Stage,
        told: &Told,
        dir: &Path,
        progress: &OnProgress,
    ) -> Result<Effort> {
        let Work::Sample { checkpoint, images, sampling, .. } = &stage.work else {
            return Ok(0.0.into());
        };
        let args = told.external.sample.as_deref().unwrap_or_default();
        let all = self.listed(images)?;
        let is_missing =
            |(prompt, seed): &&(String, u64)| !Png::is_whole(&dir.join(image_file(prompt, *seed)));
        let mut missing: Vec<&(String, u64)> = all.iter().filter(is_missing).collect();
        missing.dedup();
        if missing.is_empty() {
            return Ok(0.0.into());
        }
        let desk = Desk::new(self, stage, told)?;
        let prompts = desk.write_prompts(&missing, sampling)?;
        let mut more = vec![("prompts", prompts.display().to_string())];
        if let Some(at) = checkpoint {
            let folder = self.folder(*at);
            let folder = std::path::absolute(&folder).map_err(Error::io(&folder))?;
            more.push(("checkpoint", folder.display().to_string()));
        }
        let (there, of) = (all.len() - missing.len(), all.len() as u64);
        let out = desk.out();
        let mut said = 0;
        let ran = desk.run("sample", args, &OF_SAMPLERS, &more, &mut || {
            let made = fs::read_dir(&out).map_or(0, |entries| entries.count()).min(missing.len());
            if made > std::mem::replace(&mut said, made) {
                progress((there + made) as u64, of);
            }
        });
        let size = self.resources.size();
        let take = |(prompt, seed): &&(String, u64)| {
            let file = image_file(prompt, *seed);
            take_image(&out.join(&file), size, prompt, *seed, &dir.join(&file)).err()
        };
        let bad: Vec<Error> = missing.iter().filter_map(take).collect();
        let peak = ran?;
        match bad.into_iter().enumerate().last() {
            None => {
                Ok(Effort { units: (missing.len() * sampling.steps) as f64, earlier: 0.0, peak })
            }
            Some((others, last)) => Err(Error::input_hint(
                format!(
                    "`sample`: of {} images {} are not as they were asked for: {last}",
                    missing.len(),
                    others + 1
                ),
                "the others are kept: the same command asks for these alone",
            )),
        }
    }
}

impl Told {
    /// Whether a checkpoint that this program is to read has the tokens that the prompts say.
    fn check_tokens(&self, folder: &Path) -> Result<()> {
        let what = "`train`: what the program left in {out}";
        let delta = Delta::load(folder).map_err(|e| e.of(what))?;
        let names = delta.token_names();
        let wanted = self.tokens.iter().map(|number| token(*number));
        let lacks = wanted.into_iter().find(|token| !names.contains(&token.as_str()));
        match lacks.filter(|_| self.external.modifier.has_token()) {
            None => Ok(()),
            Some(token) => Err(Error::input_hint(
                format!("{what} has no token `{token}`, but {}", names.join(", ")),
                "tokens are called as {concepts} says, in <new1>.safetensors, say; \
                 settings.modifier_token = \"none\" is for methods that have none",
            )),
        }
    }
}

/// An image that a program left, written as ours are.
fn take_image(
    from: &Path,
    (width, height): (usize, usize),
    prompt: &str,
    seed: u64,
    to: &Path,
) -> Result<()> {
    let name = from.file_name().unwrap_or_default().display();
    if !from.exists() {
        return Err(Error::input(format!("{name} is not there")));
    }
    if !Png::is_whole(from) {
        return Err(Error::input(format!("{name} is no PNG, or it is cut")));
    }
    let image = read_picture(from)?;
    if image.dimensions() != (width as u32, height as u32) {
        let (w, h) = image.dimensions();
        return Err(Error::input(format!("{name} has {w}×{h} pixels, not {width}×{height}")));
    }
    let text = vec![("prompt".into(), prompt.to_owned()), ("seed".into(), seed.to_string())];
    Png { width, height, rgb: image.into_raw(), text }.write(to)
}

/// Where a program works: below the store, for one run of it.
struct Desk<'a> {
    worker: &'a Worker<'a>,
    told: &'a Told,
    folder: PathBuf,
}

impl<'a> Desk<'a> {
    /// Writes what is said of the concepts, and their pictures as this program sees them.
    fn new(worker: &'a Worker<'a>, stage: &Stage, told: &'a Told) -> Result<Self> {
        let folder = worker.store.work_dir(&stage.key);
        // what another run left is not to be taken for this one's
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
        }
        let folder = std::path::absolute(&folder).map_err(Error::io(&folder))?;
        let desk = Desk { worker, told, folder };
        fs::create_dir_all(desk.out()).map_err(Error::io(&desk.out()))?;
        let (mut concepts, modifier) = (vec![], told.external.modifier);
        for (name, &number) in told.concepts.iter().zip(&told.tokens) {
            let concept = worker.resources.concept(name)?;
            let images = desk.folder.join("images").join(name);
            for (i, target) in concept.targets.iter().enumerate() {
                write_png(&images.join(format!("{i:02}.png")), &target.image)?;
            }
            let phrase = phrase(modifier, number, &concept.category);
            concepts.push(json!({
                "name": name,
                "category": concept.category,
                "token": modifier.has_token().then(|| token(number)),
                "phrase": phrase,
                "caption": instance_prompt(&phrase),
                "images": images,
            }));
        }
        desk.write(
            "concepts.json",
            &json!({
                "contract": CONTRACT,
                "concepts": concepts,
                "seed": told.seed,
                "size": worker.resources.size(),
                "settings": told.external.settings,
            }),
        )?;
        Ok(desk)
    }

    fn out(&self) -> PathBuf {
        self.folder.join("out")
    }

    fn write(&self, name: &str, value: &Value) -> Result<PathBuf> {
        let path = self.folder.join(name);
        safefile::write(&path, serde_json::to_string_pretty(value).unwrap_or_default() + "\n")?;
        Ok(path)
    }

    fn write_prompts(&self, images: &[&(String, u64)], sampling: &SamplingSpec) -> Result<PathBuf> {
        let image = |(prompt, seed): &&(String, u64)| json!({ "prompt": prompt, "seed": seed, "file": image_file(prompt, *seed) });
        self.write(
            "prompts.json",
            &json!({
                "contract": CONTRACT,
                "size": self.worker.resources.size(),
                "scheduler": sampling.scheduler,
                "steps": sampling.steps,
                "guidance": sampling.guidance,
                "images": images.iter().map(image).collect::<Vec<_>>(),
            }),
        )
    }

    fn run(
        &self,
        key: &str,
        args: &[String],
        known: &[&str],
        more: &[(&str, String)],
        meanwhile: &mut dyn FnMut(),
    ) -> Result<Option<u64>> {
        let device = match self.worker.resources.machine().device.location() {
            DeviceLocation::Cpu => "cpu".to_owned(),
            DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            DeviceLocation::Metal { .. } => "mps".to_owned(),
        };
        let backbone = self.worker.resources.backbone_path()?;
        let external = &self.told.external;
        let value = |name: &str| {
            let own = match name {
                "concepts" => self.folder.join("concepts.json").display().to_string(),
                "out" => self.out().display().to_string(),
                "seed" => self.told.seed.to_string(),
                "backbone" => backbone.display().to_string(),
                "device" => device.clone(),
                // of a sampler that nobody trained
                "checkpoint" if more.iter().all(|(given, _)| *given != name) => String::new(),
                name => {
                    let more = more.iter().find(|(given, _)| *given == name);
                    let setting = || external.settings.get(name).map(shown);
                    return more.map(|(_, value)| value.clone()).or_else(setting);
                }
            };
            Some(own)
        };
        let of_key = |e: Error| e.of(&format!("`{key}`"));
        let args = args.iter().map(|arg| fill(arg, known, &value)).collect::<Result<Vec<_>>>();
        let args = args.map_err(of_key)?;
        let timeout = external.timeout.map(Duration::from_secs_f64);
        let said = self.folder.join("said");
        let order = Order {
            args: &args,
            folder: &external.folder,
            said: &said,
            timeout,
            stop: self.worker.stop,
        };
        order.run(meanwhile).map_err(of_key)
    }
}
