//! `cdbench doctor`: what this machine and these files can do.

use candle_core::{DType, Device};
use serde::Serialize;

use super::backbone::BackboneArgs;
use super::device::DeviceName;
use super::experiment::{ComputeArgs, from_here};
use crate::clip::{Backend, ExtractorSpec, open_extractor};
use crate::diffusion::BackboneFiles;
use crate::hub::Hub;
use crate::methods::{Conditions, Memory, Profile, Recipe, Sizes, registry};
use crate::nn::{device_memory, tensor_cores};
use crate::{Error, Result, mini, process};

const EXAMPLES: &str = "\
Examples:
  cdbench doctor
  cdbench doctor --backbone v1-5-pruned.safetensors --clip openai/clip-vit-base-patch32
  cdbench doctor --backbone ~/models/sd21 --size 512 --json
  cdbench doctor --backbone ~/models/sd15 --gpu-memory 24 --dtype bf16 --batch 8";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    backbone: BackboneArgs,

    /// The CLIP that is to judge: `mini`, a folder in transformers' layout, or a hub id [default: the
    /// backbone's own]
    #[arg(long)]
    clip: Option<String>,

    /// Side of the images in pixels [default: what the backbone was trained at]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(8..=8192))]
    size: Option<u32>,

    /// Images a training step, in place of each method's own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    batch: Option<u16>,

    /// Say what runs on a GPU with so much memory free would need, whatever is here
    #[arg(long, value_name = "GIB")]
    gpu_memory: Option<f64>,

    #[command(flatten)]
    compute: ComputeArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// All that is found out. What cannot be used is said in place of what it is.
#[derive(Serialize)]
struct Findings {
    program: String,
    /// Features it was built with.
    build: Vec<&'static str>,
    machine: String,
    processor: Vec<&'static str>,
    memory: Option<MachineMemory>,
    /// The GPU's, where it is the device and tells.
    device_memory: Option<MachineMemory>,
    device: Found,
    onnx: Found,
    hub: Found,
    backbone: Found,
    judge: Found,
    /// Of each method, smallest first.
    methods: Vec<Needed>,
}

#[derive(Serialize)]
struct MachineMemory {
    total: u64,
    free: u64,
}

/// A thing, or why it is not there.
#[derive(Serialize)]
struct Found {
    what: String,
    usable: bool,
    hint: Option<String>,
}

#[derive(Serialize)]
struct Needed {
    method: &'static str,
    #[serde(flatten)]
    memory: Memory,
    total: u64,
    /// The same where layers are computed again in the backward pass.
    least: u64,
    /// Whether all of it is free, where that is known.
    fits: Option<bool>,
    /// Whether the least is.
    fits_checkpointed: Option<bool>,
}

/// What was asked for and cannot be used.
#[derive(Default)]
struct Failures(Vec<Error>);

impl Failures {
    /// A thing, if it is there, and what is said of it.
    fn look<T>(
        &mut self,
        outcome: Result<T>,
        describe: impl FnOnce(&T) -> Result<String>,
    ) -> (Option<T>, Found) {
        let described = outcome.and_then(|thing| describe(&thing).map(|what| (thing, what)));
        match described {
            Ok((thing, what)) => (Some(thing), Found { what, usable: true, hint: None }),
            Err(error) => {
                let hint = error.hint().map(str::to_owned);
                let found = Found { what: error.to_string(), usable: false, hint };
                self.0.push(error);
                (None, found)
            }
        }
    }
}

/// Runs `cdbench doctor`. What was named and cannot be used ends it with that error, after all is said.
pub fn run(args: Args) -> Result<()> {
    let (mut wanted, mut others) = (Failures::default(), Failures::default());
    let (device, device_found) = wanted
        .look(args.compute.on.device.open(), |device| Ok(named(device, args.compute.on.dtype)));
    let (files, backbone) = wanted.look(BackboneFiles::open(&args.backbone.spec()), described);
    let told = |(total, free)| MachineMemory { total, free };
    let memory = process::memory().map(told);
    let device_memory =
        device.as_ref().and_then(device_memory).map(|(free, total)| told((total, free)));
    let mut methods = vec![];
    if let (Some(files), Some(device)) = (&files, device) {
        let side = args.size.map(|side| (side as usize, side as usize));
        let gpu = args.gpu_memory.is_some() || !device.is_cpu();
        let free = if gpu { &device_memory } else { &memory }.as_ref().map(|m| m.free);
        let conditions = Conditions {
            gpu,
            // a GPU that is only planned with is one of today
            tensor_cores: args.gpu_memory.is_some() || tensor_cores(&device),
            free: args.gpu_memory.map(|gib| (gib * f64::from(1 << 30)) as u64).or(free),
            dtype: args.compute.on.dtype,
            threads: rayon::current_num_threads(),
            size: side.unwrap_or_else(|| files.blueprint.default_size()),
        };
        methods = needed(files, &conditions, args.batch)?;
    }
    let (_, onnx) = wanted.look(Backend::get(args.compute.ort), |backend| Ok(runtime(backend)));
    let (_, hub) = others.look(Hub::from_env(), |hub| Ok(cache(hub)));
    // that a backbone has no judge of its own is no failure
    let failures = if args.clip.is_some() { &mut wanted } else { &mut others };
    let (_, judge) = failures.look(judge(&args, files.as_ref()), |what| Ok(what.clone()));
    let findings = Findings {
        program: process::software(),
        build: built_with(),
        machine: process::machine(),
        processor: process::processor_features(),
        memory,
        device_memory,
        device: device_found,
        onnx,
        hub,
        backbone,
        judge,
        methods,
    };
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&findings).unwrap_or_default()),
        false => print(&findings),
    }
    wanted.0.into_iter().next().map_or(Ok(()), Err)
}

fn built_with() -> Vec<&'static str> {
    let features = [
        ("cuda", cfg!(feature = "cuda")),
        ("cudnn", cfg!(feature = "cudnn")),
        ("metal", cfg!(feature = "metal")),
    ];
    features.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect()
}

/// The device, and why it is no GPU where one might be expected.
fn named(device: &Device, dtype: DType) -> String {
    let kind = match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
    };
    let gpu = if cfg!(target_os = "macos") { DeviceName::Metal } else { DeviceName::Cuda(0) };
    match gpu.open() {
        Err(why) if device.is_cpu() => format!("{kind}, {dtype:?} ({why})"),
        _ => format!("{kind}, {dtype:?}"),
    }
}

fn described(files: &BackboneFiles) -> Result<String> {
    let blueprint = &files.blueprint;
    let (width, height) = blueprint.default_size();
    Ok(format!(
        "{}: {:.1} million parameters, images of {width}x{height} pixels, texts of {} tokens and {} \
         features, predicts {}",
        files.describe(),
        Sizes::read(files)?.parameters() as f64 / 1e6,
        blueprint.tokenizer.max_len(),
        blueprint.text_encoder.hidden_size,
        blueprint.scheduler.prediction_type.what(),
    ))
}

fn runtime(backend: &Backend) -> String {
    match &backend.library {
        Some(library) => format!("{}, {}", backend.name, library.display()),
        None => {
            format!("{}, part of the program (ORT_DYLIB_PATH names a native one)", backend.name)
        }
    }
}

fn cache(hub: &Hub) -> String {
    let (models, offline) = (hub.models(), if hub.is_offline() { ", offline" } else { "" });
    let models = match models.is_empty() {
        true => "no model".to_owned(),
        false => models.join(", "),
    };
    format!("{}{offline}: {models}", hub.cache().display())
}

/// What judges: it is opened.
fn judge(args: &Args, files: Option<&BackboneFiles>) -> Result<String> {
    let folder = match args.clip.as_deref() {
        Some(mini::NAME) => mini::clip_folder()?.to_string_lossy().into_owned(),
        Some(given) => from_here(given)?,
        None => {
            let own = files.and_then(|files| files.companion("clip"));
            own.map(|folder| folder.to_string_lossy().into_owned()).ok_or_else(|| {
                Error::input_hint(
                    "the backbone has no judge of its own",
                    "--clip openai/clip-vit-base-patch32 is the paper's",
                )
            })?
        }
    };
    let opening = args.compute.machine()?.opening()?;
    let judge = open_extractor(&ExtractorSpec::Folder(folder.clone()), &opening)?;
    let texts = if judge.reads_texts() { "pictures and texts" } else { "pictures alone" };
    Ok(format!("{folder}, which reads {texts}, identity {}", &judge.identity()[..12]))
}

/// What sampling and each method need, smallest first.
fn needed(
    files: &BackboneFiles,
    conditions: &Conditions,
    batch: Option<u16>,
) -> Result<Vec<Needed>> {
    let sizes = Sizes::read(files)?;
    let (width, height) = conditions.size;
    let profile = Profile::of_size(width.max(height));
    let mut needed = vec![];
    for method in registry() {
        let concepts = vec!["concept".to_owned(); *method.concepts().start()];
        let mut settings = method.defaults(profile, concepts.len());
        settings.batch = batch.map_or(settings.batch, usize::from);
        let memory = match method.recipe(&concepts, &settings, 0) {
            Recipe::Pretrained => sizes.of_sampling(conditions),
            _ => sizes.of_training(&settings, conditions)?,
        };
        let (total, least) = (memory.total(), memory.least());
        let within = |bytes: u64| conditions.free.map(|free| bytes <= free);
        needed.push(Needed {
            method: method.name(),
            memory,
            total,
            least,
            fits: within(total),
            fits_checkpointed: within(least),
        });
    }
    needed.sort_by_key(|n| n.total);
    Ok(needed)
}

fn print(findings: &Findings) {
    let list = |names: &[&str], none: &str| match names.is_empty() {
        true => none.to_owned(),
        false => names.join(", "),
    };
    println!("program    {}", findings.program);
    println!("built for  {}", list(&findings.build, "the CPU alone"));
    println!("machine    {}", findings.machine);
    println!("processor  {}", list(&findings.processor, "nothing that the kernels know"));
    match &findings.memory {
        Some(MachineMemory { total, free }) => {
            println!("memory     {} of {} free", gib(*free), gib(*total));
        }
        None => println!("memory     not known on this system"),
    }
    if let Some(MachineMemory { total, free }) = &findings.device_memory {
        println!("GPU memory {} of {} free", gib(*free), gib(*total));
    }
    for (name, found) in [
        ("device", &findings.device),
        ("ONNX", &findings.onnx),
        ("hub cache", &findings.hub),
        ("backbone", &findings.backbone),
        ("judge", &findings.judge),
    ] {
        println!("{name:<10} {}{}", if found.usable { "" } else { "NOT USABLE: " }, found.what);
        if let Some(hint) = &found.hint {
            println!("{:<10} hint: {hint}", "");
        }
    }
    if findings.methods.is_empty() {
        return;
    }
    println!(
        "\nabout so much memory for one concept, by what needs it (GiB; least: where layers are computed"
    );
    println!("again in the backward pass, as trainings do whose steps would not fit):");
    let columns = ["weights", "trained", "working", "all", "least"];
    println!("{:<20}{}", "method", columns.map(|name| format!("{name:>10}")).concat());
    for needed in &findings.methods {
        let Memory { weights, trained, working, .. } = needed.memory;
        let columns = [weights, trained, working, needed.total, needed.least].map(in_gib);
        let verdict = match (needed.fits, needed.fits_checkpointed) {
            (Some(false), Some(true)) => "  the least is free",
            (Some(false), _) => "  more than is free",
            _ => "",
        };
        let columns = columns.map(|gib| format!("{gib:>10.2}")).concat();
        println!("{:<20}{columns}{verdict}", needed.method);
    }
}

fn in_gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", in_gib(bytes))
}
