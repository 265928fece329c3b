//! `cdbench evaluate`: the metrics of any folder of images.

mod benchmark;
mod desk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use self::desk::{Desk, REAL, SAMPLES};
use super::experiment::stop_flag;
use crate::clip::{Embed, ExtractorSpec, Opening, Runtime, how_to_give, open_extractor};
use crate::data::{
    OnCorrupt, Picture, numbered_tokens, read_pictures, read_prompts_json, without_tokens,
};
use crate::engine::{Bench, CellKind, Images, MeasureProgram, Measured, ScoreWork, Side, score};
use crate::metrics::{
    Chosen, Estimate, Metric, Need, Protocol, Registry, Sees, estimate, measure_of,
};
use crate::spec::MeasureSpec;
use crate::{Error, Result, mini, readfile};

const EXAMPLES: &str = "\
Examples:
  cdbench evaluate out/dog --targets photos/dog --clip clip-vit-base-patch32
  cdbench evaluate out/both --targets photos/dog --targets photos/cat --clip clip-vit-base-patch32
  cdbench evaluate out/dog --targets photos/dog --real photos/many_dogs --clip clip-vit-base-patch32
  cdbench evaluate out/dog --targets photos/dog --metrics image-alignment@dino --extractor dino=dino-vits16
  cdbench evaluate out/dog --metrics sharpness --measures measures.toml
  cdbench evaluate out/dog --targets photos/dog --protocol customconcept101 --clip clip-vit-base-patch32
  cdbench evaluate out --dataset dreambooth/dataset --protocol dreambench --clip clip-vit-base-patch32 \\
    --extractor dino=dino-vits16
  cdbench evaluate samples/my_method --protocol dreambench++ --clip clip-vit-base-patch32 \\
    --extractor dino=dino-vits8 --extractor dinov2=dinov2-small

FOLDER holds samples/ and prompts.json, which gives the prompt of each file by its name, as
CustomConcept101's evaluation has it without the extension: {\"0\": \"photo of a <new1> dog\"}.
<new1>, <new2>, … and what --token names are removed from the prompts. With --dataset, FOLDER may hold such a
folder for each concept or set, called as it is. For dreambench++ it holds src_image/, tgt_image/ and text/, as
that benchmark's own program writes them.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A folder with samples/ and prompts.json
    folder: PathBuf,

    /// A folder of target images; once for each concept
    #[arg(long, value_name = "DIR")]
    targets: Vec<PathBuf>,

    /// A folder of real images that the samples as a set are compared with
    #[arg(long, value_name = "DIR")]
    real: Option<PathBuf>,

    /// A modifier token of another name than <new1>, such as <cat-toy>, that CLIP is not to see
    #[arg(long = "token", value_name = "TOKEN")]
    tokens: Vec<String>,

    /// The checkpoint that the samples are of: CLIP is not to see its tokens either
    #[arg(long, value_name = "PATH")]
    checkpoint: Option<PathBuf>,

    /// What is measured, as in an experiment's `metrics` [default: the paper's, as far as what they
    /// compare with is given]
    #[arg(long, value_name = "METRIC", value_delimiter = ',')]
    metrics: Option<Vec<String>>,

    /// Measure as a benchmark does, what it does, by its own conventions: customconcept101, dreambench or
    /// dreambench++
    #[arg(long, value_name = "NAME", conflicts_with_all = ["metrics", "real"])]
    protocol: Option<String>,

    /// The benchmark's data set, which has the targets of all concepts
    #[arg(long, value_name = "DIR", requires = "protocol", conflicts_with = "targets")]
    dataset: Option<PathBuf>,

    /// `mini`, a CLIP folder in transformers' layout, or a hub id
    #[arg(long, default_value = mini::NAME)]
    clip: String,

    /// Another extractor that `--metrics` names behind an @: a folder in transformers' layout or a hub id; may
    /// be given again
    #[arg(long, value_name = "NAME=DIR", value_parser = extractor)]
    extractor: Vec<(String, ExtractorSpec)>,

    /// A TOML file with the measures of programs of others that `--metrics` names, in tables [measures.NAME]
    /// as an experiment has them; see docs/external-methods.md
    #[arg(long, value_name = "FILE", requires = "metrics", conflicts_with = "protocol")]
    measures: Option<PathBuf>,

    /// What runs them: auto, tract or native
    #[arg(long, default_value = "auto")]
    ort: Runtime,

    /// Leave out images that cannot be read, in place of an error
    #[arg(long)]
    skip_corrupt: bool,
}

fn extractor(text: &str) -> std::result::Result<(String, ExtractorSpec), String> {
    let (name, folder) = text.split_once('=').ok_or("use NAME=DIR")?;
    Ok((name.to_owned(), ExtractorSpec::Folder(folder.to_owned())))
}

/// Runs `cdbench evaluate`.
pub fn run(args: Args) -> Result<()> {
    if let Some(protocol) = &args.protocol {
        return benchmark::run(&args, Protocol::find(protocol)?);
    }
    let metrics = args.metrics()?;
    let desk = Desk::new(&args, &metrics)?;
    let work = ScoreWork {
        metrics,
        // what a method's cell would be, with one sampling stage and one of real images
        kind: CellKind::Method(""),
        concepts: args.targets.iter().map(|t| t.display().to_string()).collect(),
        samples: Some((SAMPLES, Images::Listed(vec![]))),
        texts: desk.texts.clone(),
        groups: desk.groups.clone(),
        real: args.real.as_ref().map(|_| (Side::Samples(SAMPLES, Images::Listed(vec![])), REAL)),
        general: None,
        class_words: None,
        unrelated: None,
        checkpoint: None,
        attention: None,
    };
    let evaluation = desk.evaluation(&work.metrics)?.id();
    let folder = tempfile::tempdir().map_err(Error::io(&std::env::temp_dir()))?;
    // what ends in a while by itself is ended by the system's own Ctrl-C
    let runs_programs = work.metrics.iter().any(|m| m.measure.sees() == Sees::Files);
    let stop = if runs_programs { stop_flag() } else { &AtomicBool::new(false) };
    let bench = Bench { folder: folder.path(), cache: None, stop };
    let scores = score(&work, &[], &desk, &bench).inspect_err(|_| {
        // what a program said is there
        let _ = folder.keep();
    })?;
    println!("{HEAD}");
    for chosen in &work.metrics {
        match scores.values.get(&chosen.metric.name) {
            None => {}
            Some(Measured::Set(set)) => {
                let counts: Vec<String> =
                    set.counts.iter().map(|(name, n)| format!("{name} = {n}")).collect();
                say(&chosen.metric, "", set.estimate(), &counts.join(", "));
            }
            Some(Measured::Images { parts, .. } | Measured::Others { parts, .. }) => {
                let of = |values: &[f64]| estimate(values, &desk.groups, 0);
                for (part, concept) in parts.iter().zip(&work.concepts).filter(|_| parts.len() > 1)
                {
                    say(&chosen.metric, &format!(", {concept}"), of(part), "");
                }
                let mean = |i: usize| parts.iter().map(|v| v[i]).sum::<f64>() / parts.len() as f64;
                let all: Vec<f64> = (0..desk.groups.len()).map(mean).collect();
                say(&chosen.metric, "", of(&all), "");
            }
        }
    }
    for (name, extractor) in &desk.extractors {
        eprintln!("{name}: {}", extractor.identity());
    }
    eprintln!(
        "evaluation: {} (extractors, metrics, prompts with their counts, targets and real images; \
         report.json of an experiment has that of each concept)",
        evaluation.short()
    );
    Ok(())
}

/// The table's first line.
const HEAD: &str = "metric\tmean\tstandard error\t95 % low\t95 % high\timages\tcounts";

/// A line of the table.
fn say(metric: &Metric, what: &str, found: Estimate, counts: &str) {
    let title = format!("{}{what}", metric.column());
    line(&title, metric.digits + 1, metric.scaled(found), counts);
}

fn line(title: &str, digits: usize, found: Estimate, counts: &str) {
    let Estimate { mean, se, low, high, n, .. } = found;
    let [mean, se, low, high] = [mean, se, low, high].map(|value| format!("{value:.digits$}"));
    println!("{title}\t{mean}\t{se}\t{low}\t{high}\t{n}\t{counts}");
}

impl Args {
    fn on_corrupt(&self) -> OnCorrupt {
        if self.skip_corrupt { OnCorrupt::Skip } else { OnCorrupt::Refuse }
    }

    /// Those that are asked for; without `--metrics` those that have what they compare with.
    fn metrics(&self) -> Result<Vec<Chosen>> {
        let mut registry = Registry::default();
        if let Some(file) = &self.measures {
            add_measures(file, self.metrics.as_deref().unwrap_or_default(), &mut registry)?;
        }
        let mut metrics = registry.choose(self.metrics.as_deref())?;
        let lacks = |m: &Chosen| match m.measure.need() {
            Need::Targets | Need::AllTargets if self.targets.is_empty() => Some("--targets"),
            Need::RealImages if self.real.is_none() => Some("--real"),
            _ => None,
        };
        if let Some(found) = metrics.iter().find(|m| m.measure.need().of_a_model()) {
            return Err(Error::input_hint(
                format!("`{}` is of a model, not of a folder of images", found.metric.name),
                "name it in an experiment: metrics = [\"…\"], see experiments/",
            ));
        }
        if self.metrics.is_none() {
            metrics.retain(|m| lacks(m).is_none());
        }
        match metrics.iter().find_map(|m| Some((m, lacks(m)?))) {
            None => Ok(metrics),
            Some((metric, flag)) => Err(Error::input_hint(
                format!("`{}` has nothing to compare the samples with", metric.metric.name),
                format!("give it with {flag} DIR"),
            )),
        }
    }
}

/// What a file of measures says.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Measures {
    measures: BTreeMap<String, MeasureSpec>,
}

/// Adds those of a file's measures that are asked for.
fn add_measures(file: &Path, asked: &[String], registry: &mut Registry) -> Result<()> {
    let text = readfile::text(file, MOST_BYTES)?;
    let found: Measures = toml::from_str(&text).map_err(|e| Error::from(e).of_file(file))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    // files are hashed once here: there is no store that keeps what was found
    let hashes = tempfile::tempdir().map_err(Error::io(&std::env::temp_dir()))?;
    let is_asked = |name: &String| asked.iter().any(|metric| measure_of(metric) == name);
    for (name, spec) in found.measures.iter().filter(|(name, _)| is_asked(name)) {
        spec.check(name).map_err(|e| e.of_file(file))?;
        registry.add(Arc::new(MeasureProgram::find(name, spec, folder, hashes.path())?));
    }
    Ok(())
}

/// Files of measures that are larger are none.
const MOST_BYTES: u64 = 1 << 20;

/// The samples of a folder, and the prompt of each as CLIP sees it.
fn samples(
    folder: &Path,
    tokens: &[String],
    removes_tokens: bool,
    corrupt: OnCorrupt,
) -> Result<(Vec<Picture>, Vec<String>)> {
    let prompts = read_prompts_json(&folder.join("prompts.json"))?;
    let mut removed: BTreeSet<&str> = tokens.iter().map(String::as_str).collect();
    if removes_tokens {
        prompts.values().for_each(|prompt| removed.extend(numbered_tokens(prompt)));
    }
    let removed: Vec<&str> = removed.into_iter().collect();
    let samples = read_pictures(&folder.join("samples"), corrupt)?;
    let mut texts = vec![];
    for sample in &samples {
        let stem = Path::new(&sample.name).file_stem().unwrap_or_default();
        let by_stem = || prompts.get(stem.to_string_lossy().as_ref());
        let Some(prompt) = prompts.get(&sample.name).or_else(by_stem) else {
            return Err(Error::input_hint(
                format!("prompts.json has no prompt for samples/{}", sample.name),
                "it gives a prompt for every file: {\"0\": \"photo of a dog\"}",
            ));
        };
        texts.push(without_tokens(prompt, &removed));
    }
    warn_of_prompts_without_samples(&prompts, &samples);
    Ok((samples, texts))
}

/// The distinct texts, in order, and which of them each one is.
fn distinct(texts: &[String]) -> (Vec<String>, Vec<usize>) {
    let mut known = texts.to_vec();
    known.sort();
    known.dedup();
    let groups = texts.iter().map(|t| known.binary_search(t).unwrap_or(0)).collect();
    (known, groups)
}

/// The extractors of these names.
fn extractors<'a>(
    args: &Args,
    names: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<String, Arc<dyn Embed>>> {
    let clip = match args.clip.as_str() {
        mini::NAME => mini::clip_folder()?.to_string_lossy().into_owned(),
        path => path.to_owned(),
    };
    let mut specs = BTreeMap::from([("clip".to_owned(), ExtractorSpec::Folder(clip))]);
    specs.extend(args.extractor.iter().cloned());
    let opening = Opening {
        runtime: args.ort,
        cuda: false,
        cache: mini::cache_folder()?.join("clip"),
        workers: rayon::current_num_threads(),
    };
    let mut extractors = BTreeMap::new();
    for name in names {
        let missing = || {
            let message = format!("nothing says where the extractor `{name}` is");
            Error::input_hint(message, format!("--extractor {name}=DIR; {}", how_to_give(name)))
        };
        let spec = specs.get(name).ok_or_else(missing)?;
        if !extractors.contains_key(name) {
            extractors.insert(name.to_owned(), open_extractor(spec, &opening)?);
        }
    }
    Ok(extractors)
}

/// A sampling that was cut short has fewer images than prompts, and a mean over some of them.
fn warn_of_prompts_without_samples(prompts: &BTreeMap<String, String>, samples: &[Picture]) {
    let names: BTreeSet<&str> = samples
        .iter()
        .flat_map(|s| {
            [Some(s.name.as_str()), Path::new(&s.name).file_stem().and_then(|n| n.to_str())]
        })
        .flatten()
        .collect();
    let without: Vec<&str> =
        prompts.keys().map(String::as_str).filter(|name| !names.contains(name)).collect();
    if let Some(first) = without.first() {
        tracing::warn!(
            "{} of {} prompts have no sample: `{first}` is the first of them",
            without.len(),
            prompts.len()
        );
    }
}
