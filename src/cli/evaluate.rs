//! `cdbench evaluate`: the metrics of any folder of images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use image::RgbImage;
use ndarray::Array2;

use crate::clip::{Embed, Embedder, Runtime};
use crate::data::{OnCorrupt, Picture, read_pictures};
use crate::metrics::{self, Estimate, KID_SUBSET, KID_SUBSETS};
use crate::{Error, Result, mini};

const EXAMPLES: &str = "\
Examples:
  cdbench evaluate out/dog --targets photos/dog --clip clip-vit-base-patch32
  cdbench evaluate out/both --targets photos/dog --targets photos/cat --clip clip-vit-base-patch32
  cdbench evaluate out/dog --targets photos/dog --real photos/many_dogs --clip clip-vit-base-patch32

FOLDER holds samples/ and prompts.json, which gives the prompt of each file by its name, as
CustomConcept101's evaluation has it without the extension: {\"0\": \"photo of a <new1> dog\"}.
Words such as <new1> are removed from the prompts.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A folder with samples/ and prompts.json
    folder: PathBuf,

    /// A folder of target images; once for each concept
    #[arg(long, required = true, value_name = "DIR")]
    targets: Vec<PathBuf>,

    /// A folder of real images that KID compares the samples with
    #[arg(long, value_name = "DIR")]
    real: Option<PathBuf>,

    /// `mini`, or a CLIP folder in transformers' layout
    #[arg(long, default_value = mini::NAME)]
    clip: String,

    /// What runs CLIP: auto, tract or native
    #[arg(long, default_value = "auto")]
    ort: Runtime,

    /// Leave out images that cannot be read, in place of an error
    #[arg(long)]
    skip_corrupt: bool,
}

/// Runs `cdbench evaluate`.
pub fn run(args: Args) -> Result<()> {
    let corrupt = if args.skip_corrupt { OnCorrupt::Skip } else { OnCorrupt::Refuse };
    let prompts = read_prompts(&args.folder.join("prompts.json"))?;
    let samples = read_pictures(&args.folder.join("samples"), corrupt)?;
    let (mut images, mut texts) = (vec![], vec![]);
    for sample in &samples {
        let stem = Path::new(&sample.name).file_stem().unwrap_or_default();
        let by_stem = || prompts.get(stem.to_string_lossy().as_ref());
        let Some(prompt) = prompts.get(&sample.name).or_else(by_stem) else {
            return Err(Error::input_hint(
                format!("prompts.json has no prompt for samples/{}", sample.name),
                PROMPTS,
            ));
        };
        images.push(&sample.image);
        texts.push(without_tokens(prompt));
    }
    // all that is read is read before anything is computed
    let read = |folder: &PathBuf| read_pictures(folder, corrupt);
    let targets = args.targets.iter().map(read).collect::<Result<Vec<_>>>()?;
    let real = args.real.as_ref().map(read).transpose()?;
    warn_of_prompts_without_samples(&prompts, &samples);
    let folder = match args.clip.as_str() {
        mini::NAME => mini::clip_folder()?,
        path => PathBuf::from(path),
    };
    let cache = mini::cache_folder()?.join("clip");
    let workers = rayon::current_num_threads();
    let clip = Embedder::open(&folder, args.ort, false, &cache, workers)?;
    let features = clip.images(&images)?;
    let mut distinct: Vec<&str> = texts.iter().map(String::as_str).collect();
    distinct.sort();
    distinct.dedup();
    let text_features = clip.texts(&distinct)?;
    let groups: Vec<usize> =
        texts.iter().map(|t| distinct.binary_search(&t.as_str()).unwrap_or(0)).collect();
    let own = text_features.select(ndarray::Axis(0), &groups);
    let say = |name: &str, values: &[f64]| {
        let Estimate { mean, se, low, high, .. } = metrics::estimate(values, &groups, 0);
        println!("{name}\t{mean:.4}\t{se:.4}\t{low:.4}\t{high:.4}\t{}", values.len());
    };
    println!("metric\tmean\tstandard error\t95 % low\t95 % high\timages");
    say("text alignment", &metrics::text_alignment(features.view(), own.view()));
    let mut each = vec![];
    for targets in &targets {
        let targets = embed(targets, &clip)?;
        each.push(metrics::image_alignment(features.view(), targets.view()));
    }
    for (values, folder) in each.iter().zip(&args.targets).filter(|_| each.len() > 1) {
        say(&format!("image alignment, {}", folder.display()), values);
    }
    let mean = |i: usize| each.iter().map(|v| v[i]).sum::<f64>() / each.len() as f64;
    say("image alignment", &(0..images.len()).map(mean).collect::<Vec<_>>());
    if let Some(real) = &real {
        let real = embed(real, &clip)?;
        let kid = metrics::kid(features.view(), real.view(), KID_SUBSETS, KID_SUBSET, 0)?;
        let (mean, se) = (1e3 * kid.mean, 1e3 * kid.se);
        let (low, high) = (mean - 1.96 * se, mean + 1.96 * se);
        println!(
            "KID ×10³ (m = {})\t{mean:.3}\t{se:.3}\t{low:.3}\t{high:.3}\t{}",
            kid.m,
            images.len()
        );
    }
    eprintln!("judge: {} ({})", folder.display(), clip.identity());
    Ok(())
}

fn embed(pictures: &[Picture], clip: &dyn Embed) -> Result<Array2<f32>> {
    clip.images(&pictures.iter().map(|p| &p.image).collect::<Vec<&RgbImage>>())
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

/// What `prompts.json` is, for who has another.
const PROMPTS: &str = "it gives a prompt for every file: {\"0\": \"photo of a dog\"}";

/// By the name of a file, with its extension or without.
fn read_prompts(path: &Path) -> Result<BTreeMap<String, String>> {
    const MOST_BYTES: u64 = 64 << 20;
    if std::fs::metadata(path).map_err(Error::io(path))?.len() > MOST_BYTES {
        return Err(Error::input(format!("{}: too large", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let prompts: BTreeMap<String, String> = serde_json::from_str(&text)
        .map_err(|e| Error::input_hint(format!("{}: {e}", path.display()), PROMPTS))?;
    match prompts.is_empty() {
        true => Err(Error::input(format!("{}: there is no prompt in it", path.display()))),
        false => Ok(prompts),
    }
}

/// A prompt as CLIP should see it: without words such as `<new1>`.
fn without_tokens(prompt: &str) -> String {
    let token = |word: &&str| !(word.starts_with('<') && word.contains('>'));
    prompt.split_whitespace().filter(token).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifier_tokens_are_removed() {
        assert_eq!(
            without_tokens("photo of a <new1> dog next to  a <new2> cat"),
            "photo of a dog next to a cat"
        );
        assert_eq!(without_tokens("a 3 < 4 cat"), "a 3 < 4 cat");
    }
}
