//! `cdbench evaluate`: the metrics of any folder of images.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use image::RgbImage;
use ndarray::Array2;

use crate::clip::{Embed, Embedder, Runtime};
use crate::data::{OnCorrupt, numbered_tokens, read_pictures, read_prompts_json, without_tokens};
use crate::metrics::{self, Estimate, KID_SUBSET, KID_SUBSETS};
use crate::{Error, Result, mini};

const EXAMPLES: &str = "\
Examples:
  cdbench evaluate out/dog --targets photos/dog --clip clip-vit-base-patch32
  cdbench evaluate out/both --targets photos/dog --targets photos/cat --clip clip-vit-base-patch32
  cdbench evaluate out/dog --targets photos/dog --real photos/many_dogs --clip clip-vit-base-patch32

FOLDER holds samples/ and prompts.json, which gives the prompt of each file by its name, as
CustomConcept101's evaluation has it without the extension: {\"0\": \"photo of a <new1> dog\"}.
<new1>, <new2>, … and what --token names are removed from the prompts.";

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

    /// A modifier token of another name than <new1>, such as <cat-toy>, that CLIP is not to see
    #[arg(long = "token", value_name = "TOKEN")]
    tokens: Vec<String>,

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
    let prompts = read_prompts_json(&args.folder.join("prompts.json"))?;
    let mut tokens: BTreeSet<&str> = args.tokens.iter().map(String::as_str).collect();
    prompts.values().for_each(|prompt| tokens.extend(numbered_tokens(prompt)));
    let tokens: Vec<&str> = tokens.into_iter().collect();
    let samples = read_pictures(&args.folder.join("samples"), corrupt)?;
    let (mut images, mut texts) = (vec![], vec![]);
    for sample in &samples {
        let stem = Path::new(&sample.name).file_stem().unwrap_or_default();
        let by_stem = || prompts.get(stem.to_string_lossy().as_ref());
        let Some(prompt) = prompts.get(&sample.name).or_else(by_stem) else {
            return Err(Error::input_hint(
                format!("prompts.json has no prompt for samples/{}", sample.name),
                "it gives a prompt for every file: {\"0\": \"photo of a dog\"}",
            ));
        };
        images.push(&sample.image);
        texts.push(without_tokens(prompt, &tokens));
    }
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
    for folder in &args.targets {
        let targets = embed_folder(folder, corrupt, &clip)?;
        each.push(metrics::image_alignment(features.view(), targets.view()));
    }
    for (values, folder) in each.iter().zip(&args.targets).filter(|_| each.len() > 1) {
        say(&format!("image alignment, {}", folder.display()), values);
    }
    let mean = |i: usize| each.iter().map(|v| v[i]).sum::<f64>() / each.len() as f64;
    say("image alignment", &(0..images.len()).map(mean).collect::<Vec<_>>());
    if let Some(folder) = &args.real {
        let real = embed_folder(folder, corrupt, &clip)?;
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

fn embed_folder(folder: &Path, corrupt: OnCorrupt, clip: &dyn Embed) -> Result<Array2<f32>> {
    let pictures = read_pictures(folder, corrupt)?;
    clip.images(&pictures.iter().map(|p| &p.image).collect::<Vec<&RgbImage>>())
}
