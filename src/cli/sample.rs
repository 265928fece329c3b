//! `cdbench sample`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use image::RgbImage;

use super::backbone::BackboneArgs;
use super::device::DeviceArgs;
use super::progress::Progress;
use crate::data::attention_beside;
use crate::diffusion::png::Png;
use crate::diffusion::scheduler::SchedulerKind;
use crate::diffusion::{Backbone, BackboneFiles, Request, Sampling};
use crate::engine::backbone_hash;
use crate::methods::{Delta, Description};
use crate::report::{Attended, attention_sheet};
use crate::{Error, Result, mini};

const EXAMPLES: &str = "\
Examples:
  cdbench sample --prompt 'photo of a dog in the snow' -o dog.png
  cdbench sample --backbone runs/sd15 --prompt 'photo of a dog' --num 8 --seed 7 -o dogs/
  cdbench sample --backbone runs/sd15 --prompt 'a cat' --latents noise.safetensors -o cat.png
  cdbench sample --prompt 'a dog next to a red chair' --attention 'dog,red chair' -o both.png";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    backbone: BackboneArgs,

    /// A checkpoint: a folder of `cdbench train` or diffusers, delta.bin or delta.ckpt of the authors' code,
    /// a Textual Inversion, or a LoRA
    #[arg(long, value_name = "PATH")]
    checkpoint: Option<PathBuf>,

    /// What the images show
    #[arg(long)]
    prompt: String,

    /// What they should not show
    #[arg(long, default_value = "")]
    negative_prompt: String,

    /// Image i is made from seed + i
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Denoising steps
    #[arg(long, default_value_t = 50)]
    steps: usize,

    /// Classifier-free guidance scale; 1: none
    #[arg(long, default_value_t = 6.0, allow_negative_numbers = true)]
    guidance: f64,

    /// ddim, ddpm or dpm++ [default: the backbone's own, or ddim where it is none of these]
    #[arg(long)]
    scheduler: Option<SchedulerKind>,

    /// DDIM's share of fresh noise, 0 to 1
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    eta: f64,

    /// How many images
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    num: u32,

    /// Width and height in pixels, such as 512x512 [default: what the backbone was trained at]
    #[arg(long, value_name = "WxH", value_parser = size)]
    size: Option<(usize, usize)>,

    /// Initial noise in place of the seed's: a safetensors file whose `latents` are
    /// [num, channels, height, width]
    #[arg(long, value_name = "FILE")]
    latents: Option<PathBuf>,

    #[command(flatten)]
    on: DeviceArgs,

    /// A .png file for one image, a folder for several
    #[arg(short, long)]
    output: PathBuf,

    /// Words of the prompt, or several in a row, separated by commas: where the image attends to each is
    /// drawn over it, in NAME-attention.png beside NAME.png
    #[arg(long, value_name = "WORDS", value_delimiter = ',', value_parser = word)]
    attention: Vec<String>,

    /// Replace images that are there and were made in another way: of another prompt, say
    #[arg(long)]
    force: bool,
}

/// A word without space around it.
fn word(text: &str) -> std::result::Result<String, String> {
    match text.trim() {
        "" => Err("there is no word between commas".into()),
        word => Ok(word.to_owned()),
    }
}

/// `512x768` as (width, height).
fn size(text: &str) -> std::result::Result<(usize, usize), String> {
    let (width, height) = text.split_once('x').ok_or("use WIDTHxHEIGHT, such as 512x512")?;
    let number = |s: &str| s.parse().map_err(|_| format!("`{s}` is not a number of pixels"));
    Ok((number(width)?, number(height)?))
}

pub fn run(args: Args) -> Result<()> {
    let output = Output::new(&args.output, args.num as usize)?;
    let checkpoint = args.checkpoint.as_deref().map(checkpoint).transpose()?;
    let spec = args.backbone.spec();
    let files = BackboneFiles::open(&spec)?;
    let (width, height) = args.size.unwrap_or_else(|| files.blueprint.default_size());
    let sampling = Sampling {
        steps: args.steps,
        guidance: args.guidance,
        scheduler: args.scheduler.unwrap_or_else(|| SchedulerKind::of(&files.blueprint.scheduler)),
        eta: args.eta,
        height,
        width,
        negative_prompt: args.negative_prompt.clone(),
    };
    let requests = requests(&args)?;
    let hash = checkpoint.as_ref().map_or(Ok("none".to_owned()), |(delta, _)| delta.hash())?;
    let made: Vec<Vec<(String, String)>> =
        requests.iter().map(|request| how(&args, request, &sampling, &hash)).collect();
    let others = output.made_otherwise(&made, &args.attention);
    if let Some(path) = others.first().filter(|_| !args.force) {
        return Err(Error::input_hint(
            format!("{}: this image was made in another way", path.display()),
            "name another file or folder, or replace what is there with --force",
        ));
    }

    match &checkpoint {
        Some((_, Some(said))) => {
            eprintln!("checkpoint: {said}");
            let own = backbone_hash(&files, &mini::cache_folder()?.join("hashes"))?;
            if said.backbone != own {
                tracing::warn!(
                    "the checkpoint was trained on another backbone than `{}`",
                    spec.name
                );
            }
        }
        Some((delta, None)) if !delta.tokens().is_empty() => {
            eprintln!("tokens of the checkpoint: {}", delta.token_names().join(", "));
        }
        _ => {}
    }
    let device = args.on.open()?;
    let mut backbone = Backbone::read(&files, &device, args.on.dtype)?;
    if let Some((delta, _)) = &checkpoint {
        // nobody samples the backbone as it was
        let _undo = delta.apply(&mut backbone)?;
    }
    let progress = Progress::new("sampling", (args.steps * requests.len()) as u64, "image steps");
    let samples = backbone.sample(&requests, &sampling, &|images| {
        progress.add(images as u64);
        Ok(())
    })?;
    progress.finish();

    // with an image goes what was drawn of it
    let others: BTreeSet<PathBuf> =
        others.iter().flat_map(|path| [path.to_path_buf(), attention_beside(path)]).collect();
    for path in others.iter().filter(|path| path.exists()) {
        std::fs::remove_file(path).map_err(Error::io(path))?;
    }
    for ((path, sample), text) in output.files.iter().zip(samples).zip(made) {
        write(path, &sample.image, &text)?;
        if !args.attention.is_empty() {
            let maps = sample.maps.iter().map(|word| word.map.view()).collect();
            let line = Attended { label: "", image: &sample.image, maps };
            let page = attention_sheet(&args.attention, &[line])?;
            write(&attention_beside(path), &page, &with_words(&text, &args.attention))?;
        }
    }
    Ok(())
}

/// Writes an image, and names it on stdout.
fn write(path: &Path, image: &RgbImage, text: &[(String, String)]) -> Result<()> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    Png { width, height, rgb: image.as_raw().clone(), text: text.to_vec() }.write(path)?;
    println!("{}", path.display());
    Ok(())
}

/// A checkpoint, and what it says of itself.
fn checkpoint(path: &Path) -> Result<(Delta, Option<Description>)> {
    Ok((Delta::load(path)?, Description::read(path)?))
}

const SEED: &str = "seed";
const SOFTWARE: &str = "software";

/// How an image is made, as its file says.
fn how(
    args: &Args,
    request: &Request,
    sampling: &Sampling,
    checkpoint: &str,
) -> Vec<(String, String)> {
    let seed = match request.latents {
        Some(_) => "none: the initial noise was given".to_string(),
        None => request.seed.to_string(),
    };
    let settings = [
        ("prompt", request.prompt.clone()),
        ("negative_prompt", sampling.negative_prompt.clone()),
        (SEED, seed),
        ("steps", sampling.steps.to_string()),
        ("guidance", sampling.guidance.to_string()),
        ("scheduler", sampling.scheduler.to_string()),
        ("eta", sampling.eta.to_string()),
        ("size", format!("{}x{}", sampling.width, sampling.height)),
        ("backbone", args.backbone.spec().to_string()),
        ("checkpoint", checkpoint.to_owned()),
        (SOFTWARE, concat!("cdbench ", env!("CARGO_PKG_VERSION")).to_owned()),
    ];
    // f32 is what all images were made in before there was a choice
    let types = match (args.on.dtype, args.on.tf32) {
        (DType::F32, false) => None,
        (dtype, tf32) => Some(format!("{dtype:?}{}", if tf32 { ", TF32" } else { "" })),
    };
    let types = types.map(|types| ("dtype", types));
    let settings = settings.into_iter().chain(types);
    settings.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// How what words attend to was drawn, of an image that was made so.
fn with_words(made: &[(String, String)], words: &[String]) -> Vec<(String, String)> {
    [made, &[("attention".to_owned(), words.join(","))]].concat()
}

/// Where the images go.
struct Output {
    files: Vec<PathBuf>,
    /// Images that are there beyond those, of an earlier and longer command perhaps.
    others: Vec<PathBuf>,
}

impl Output {
    fn new(output: &Path, num: usize) -> Result<Self> {
        let extension = output.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let is_folder = output.is_dir() || output.as_os_str().to_string_lossy().ends_with('/');
        let wrong = |what: &str, hint: &str| {
            Err(Error::input_hint(format!("-o {}: {what}", output.display()), hint))
        };
        match extension.as_str() {
            _ if is_folder => {}
            "png" if num == 1 => {
                return Ok(Output { files: vec![output.to_owned()], others: vec![] });
            }
            "png" => return wrong(&format!("{num} images do not fit in a file"), "name a folder"),
            "jpg" | "jpeg" | "webp" | "gif" => {
                return wrong("images are written as PNG", "name a .png file or a folder");
            }
            _ if output.exists() => return wrong("this is a file", "name a .png file or a folder"),
            _ => {}
        }
        let name = |i: usize| output.join(format!("{i:05}.png"));
        let files: Vec<PathBuf> = (0..num).map(name).collect();
        let mut others = vec![];
        for entry in std::fs::read_dir(output).into_iter().flatten().flatten() {
            let path = entry.path();
            let number = path.file_stem().and_then(|s| s.to_str()?.parse::<usize>().ok());
            if number.is_some_and(|i| i >= num && name(i) == path) {
                others.push(path);
            }
        }
        Ok(Output { files, others })
    }

    /// The images that are there, to be written over or beside those of this command, and were not made
    /// as `made` says, and drawings beside them that are not of these words.
    fn made_otherwise(&self, made: &[Vec<(String, String)>], words: &[String]) -> Vec<PathBuf> {
        let as_said = |path: &Path, wanted: &[(String, String)], but: &[&str]| {
            let found = Png::read(path).map(|png| png.text).unwrap_or_default();
            let kept = |pairs: &[(String, String)]| -> BTreeSet<(String, String)> {
                pairs.iter().filter(|(key, _)| !but.contains(&key.as_str())).cloned().collect()
            };
            kept(&found) == kept(wanted)
        };
        let files = self.files.iter().zip(made);
        let drawings = files
            .clone()
            .filter(|_| !words.is_empty())
            .map(|(path, made)| (attention_beside(path), with_words(made, words), &[SOFTWARE][..]));
        let own = files.map(|(path, made)| (path.clone(), made.clone(), &[SOFTWARE][..]));
        let others = self.others.iter();
        let others = others.map(|path| (path.clone(), made[0].clone(), &[SOFTWARE, SEED][..]));
        own.chain(others)
            .chain(drawings)
            .filter(|(path, made, but)| path.exists() && !as_said(path, made, but))
            .map(|(path, ..)| path)
            .collect()
    }
}

fn requests(args: &Args) -> Result<Vec<Request>> {
    let num = args.num as usize;
    let latents = match &args.latents {
        None => vec![None; num],
        Some(path) => {
            let wrong = |what: String| Error::input(format!("{}: {what}", path.display()));
            std::fs::metadata(path).map_err(Error::io(path))?;
            let mut tensors = candle_core::safetensors::load(path, &Device::Cpu)
                .map_err(|e| wrong(format!("not a safetensors file: {e}")))?;
            let latents = tensors.remove("latents").ok_or_else(|| {
                wrong(format!("no tensor `latents` among {:?}", tensors.keys().collect::<Vec<_>>()))
            })?;
            if latents.rank() != 4 || latents.dims()[0] != num {
                return Err(wrong(format!(
                    "`latents` has shape {:?}, but [{num}, channels, height, width] was wanted",
                    latents.dims()
                )));
            }
            (0..num).map(|i| latents.get(i).map(Some)).collect::<candle_core::Result<_>>()?
        }
    };
    Ok(latents
        .into_iter()
        .enumerate()
        .map(|(i, latents)| Request {
            prompt: args.prompt.clone(),
            seed: args.seed.wrapping_add(i as u64),
            latents,
            words: args.attention.clone(),
        })
        .collect())
}
