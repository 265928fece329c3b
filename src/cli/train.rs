//! `cdbench train` and `cdbench merge`: one checkpoint, in a folder of its own.

use std::path::{Path, PathBuf};

use candle_core::DType;

use super::experiment::{ComputeArgs, Session};
use crate::data::{
    ConceptSource, Corpus as _, OnCorrupt, PromptSource, WorldCorpus, named_concepts,
};
use crate::diffusion::Backbone;
use crate::engine::{Filter, Todo};
use crate::methods::{self, Delta, MergeSettings, Modifier, Part};
use crate::spec::{Experiment, Override};
use crate::{Error, Result, readfile, safefile};

const EXAMPLES: &str = "\
Examples:
  cdbench train custom-diffusion --concept dog_plum -o checkpoints/dog
  cdbench train custom-diffusion --concept photos/my_cat:cat --set steps=500 -o checkpoints/cat
  cdbench train sequential --concept dog_plum --concept cat_mint -o checkpoints/both
  cdbench sample --checkpoint checkpoints/dog --prompt 'photo of a <new1> dog in the snow' -o dog.png";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// custom-diffusion, fine-tune-all, dreambooth, textual-inversion, sequential or merge
    method: String,

    /// A concept of the embedded world, or a folder of its pictures with what they show; several are
    /// learnt together
    #[arg(long = "concept", required = true, value_name = "NAME|[NAME=]FOLDER:CATEGORY")]
    concepts: Vec<String>,

    /// Leave out pictures that cannot be read, in place of an error
    #[arg(long)]
    skip_corrupt: bool,

    /// Change a setting of the method: steps=500, lr=1e-4, regularization=none
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,

    /// Of noise and batches
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..1000))]
    seed: u64,

    /// `mini`, a folder in diffusers' layout, or a hub id
    #[arg(long, default_value = "mini")]
    backbone: String,

    /// CLIP that finds regularisation images: `mini` or a folder in transformers' layout
    #[arg(long)]
    clip: Option<String>,

    /// Where captioned images for regularisation are: `mini`, a folder, a CSV or a webdataset
    #[arg(long, default_value = "mini")]
    corpus: String,

    #[command(flatten)]
    compute: ComputeArgs,

    /// Where states and regularisation images are kept; an interrupted training goes on
    #[arg(long, default_value = "runs")]
    store: PathBuf,

    /// The checkpoint's folder
    #[arg(short, long)]
    output: PathBuf,
}

/// Runs `cdbench train`: the stages of an experiment with one cell, up to its checkpoint.
pub fn run(args: Args) -> Result<()> {
    let mut sources = named_concepts(&args.concepts)?;
    for source in &mut sources {
        if let ConceptSource::Folder(folder) = source {
            // nothing is sampled, but a plan wants to know of what
            folder.prompts = Some(PromptSource::List(vec!["photo of a {}".into()]));
            if args.skip_corrupt {
                folder.on_corrupt = OnCorrupt::Skip;
            }
        }
    }
    let names: Vec<String> = sources.iter().map(|s| s.name().to_owned()).collect();
    let mut settings = toml::Table::new();
    for text in &args.overrides {
        let change: Override =
            text.parse().map_err(|e: String| Error::input(format!("--set: {e}")))?;
        change.apply(&mut settings)?;
    }
    let mut table = toml::Table::new();
    let mut row = toml::Table::new();
    row.insert("method".into(), args.method.clone().into());
    row.insert("settings".into(), settings.into());
    table.insert("name".into(), "train".into());
    table.insert("title".into(), "one checkpoint".into());
    table.insert("rows".into(), vec![toml::Value::Table(row)].into());
    let mut regularization = toml::Table::new();
    regularization.insert("corpus".into(), args.corpus.clone().into());
    table.insert("regularization".into(), regularization.into());
    if let Some(clip) = &args.clip {
        let mut evaluation = toml::Table::new();
        evaluation.insert("clip".into(), clip.clone().into());
        table.insert("evaluation".into(), evaluation.into());
    }
    let mut scale = toml::Table::new();
    match names.len() {
        1 => scale.insert("concepts".into(), names.clone().into()),
        _ => {
            let mut pair = toml::Table::new();
            pair.insert("name".into(), "together".into());
            pair.insert("concepts".into(), names.clone().into());
            pair.insert("prompts".into(), vec!["{0} and {1}"].into());
            table.insert("pairs".into(), vec![toml::Value::Table(pair)].into());
            scale.insert("pairs".into(), vec!["together"].into())
        }
    };
    let mut scales = toml::Table::new();
    scales.insert("default".into(), scale.into());
    table.insert("scales".into(), scales.into());
    let mut experiment = Experiment::parse(&table.to_string(), &[], Path::new(""))?;
    for source in sources {
        if let ConceptSource::Folder(folder) = source {
            experiment.concepts.push(folder);
        }
    }
    let mut scale = experiment.scale("default")?;
    scale.seeds = args.seed + 1;
    let filter: Filter = format!("method={},seed={}", args.method, args.seed)
        .parse()
        .map_err(|e: String| Error::input(e))?;
    let backbone = Some(args.backbone.as_str());
    let out = PathBuf::new();
    let session =
        Session::new(experiment, scale, backbone, &filter, &args.compute, &args.store, out)?;
    let Some(at) = session.plan.cells[0].checkpoint else {
        return Err(Error::input(format!("`{}` trains nothing", args.method)));
    };
    let todo = session.survey_of(&[at])?;
    if todo.iter().all(|t| *t == Todo::Nothing) {
        eprintln!("it is in the store already");
    }
    let outcome = session.run(&todo, 1);
    session.verdict(outcome)?;
    let stage = &session.plan.stages[at];
    let from = session.store.dir(stage.kind.folder(), &stage.folder);
    copy_files(&from, &args.output)?;
    let names = Delta::load(&args.output)?.token_names().join(", ");
    if !names.is_empty() {
        eprintln!("tokens of the checkpoint: {names}");
    }
    println!("{}", args.output.display());
    Ok(())
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let mut files = vec![];
    for entry in std::fs::read_dir(from).map_err(Error::io(from))? {
        let path = entry.map_err(Error::io(from))?.path();
        if path.is_file() && !safefile::is_partial(&path) {
            files.push((to.join(path.file_name().unwrap_or_default()), path));
        }
    }
    methods::refuse_other_weights(to, files.iter().map(|(to, _)| to.as_path()))?;
    for (to, path) in files {
        safefile::write(&to, std::fs::read(&path).map_err(Error::io(&path))?)?;
    }
    Ok(())
}

const MERGE_EXAMPLES: &str = "\
Examples:
  cdbench merge checkpoints/dog checkpoints/cat --category dog --category cat -o checkpoints/both
  cdbench sample --checkpoint checkpoints/both --prompt 'photo of a <new1> dog next to a <new2> cat' -o both.png";

#[derive(clap::Args)]
#[command(after_help = MERGE_EXAMPLES)]
pub struct MergeArgs {
    /// Folders of checkpoints, one a concept
    #[arg(required = true, num_args = 2..)]
    checkpoints: Vec<PathBuf>,

    /// Each concept's category, in the same order
    #[arg(long = "category", required = true)]
    categories: Vec<String>,

    /// A text file of captions, one a line, in place of the embedded world's
    #[arg(long, value_name = "FILE")]
    captions: Option<PathBuf>,

    /// `mini`, a folder in diffusers' layout, or a hub id
    #[arg(long, default_value = "mini")]
    backbone: String,

    #[command(flatten)]
    compute: ComputeArgs,

    /// The merged checkpoint's folder
    #[arg(short, long)]
    output: PathBuf,
}

/// Bytes of a file of captions.
const MOST_CAPTIONS: u64 = 64 << 20;

/// Runs `cdbench merge`.
pub fn merge(args: MergeArgs) -> Result<()> {
    let (parts, categories) = (args.checkpoints.len(), args.categories.len());
    if parts != categories {
        return Err(Error::input_hint(
            format!("{parts} checkpoints and {categories} categories"),
            "give --category once for each checkpoint, in the same order",
        ));
    }
    let deltas: Vec<Delta> =
        args.checkpoints.iter().map(|d| Delta::load(d)).collect::<Result<_>>()?;
    let settings = MergeSettings::default();
    let captions: Vec<String> = match &args.captions {
        Some(file) => {
            let text = readfile::text(file, MOST_CAPTIONS)?;
            text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect()
        }
        None => WorldCorpus::retrieval().spread_captions(settings.captions),
    };
    let parts: Vec<Part> = deltas
        .iter()
        .zip(&args.categories)
        .map(|(delta, category)| {
            let modifier = if delta.tokens().is_empty() { Modifier::None } else { Modifier::Rare };
            Part { delta, modifier, category }
        })
        .collect();
    let machine = args.compute.machine()?;
    let mut backbone = Backbone::load(&args.backbone, &machine.device, DType::F32)?;
    let (delta, report) = methods::merge(&mut backbone, &parts, &captions, &settings)?;
    delta.save(&args.output)?;
    let mut merged = delta.token_names().into_iter();
    for (folder, part) in args.checkpoints.iter().zip(&deltas) {
        if let (Some(old), Some(new)) = (part.token_names().first(), merged.next()) {
            eprintln!("token {old} of {} is {new}", folder.display());
        }
    }
    if let Some(report) = report {
        report.warnings().iter().for_each(|w| eprintln!("warning: {w}"));
        eprintln!("{report}");
        let text = serde_json::to_string_pretty(&report).unwrap_or_default();
        safefile::write(&args.output.join("merge.json"), text + "\n")?;
    }
    println!("{}", args.output.display());
    Ok(())
}
