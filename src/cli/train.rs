//! `cdbench train`: one checkpoint, in a folder of its own.

use std::path::{Path, PathBuf};

use super::backbone::BackboneArgs;
use super::card;
use super::experiment::{ComputeArgs, do_missing, single_verdict};
use super::log::LogArgs;
use crate::data::{ConceptSource, OnCorrupt, named_concepts};
use crate::engine::{CheckpointPlan, Event, Resources, Store, Todo, Work, plan_checkpoint, survey};
use crate::methods::{
    Description, Learnt, Modifier, Recipe, refuse_other_weights, remove_checkpoint,
};
use crate::spec::{DEFAULT_SCALE, Experiment, Override};
use crate::{Error, Result, mini, safefile};

const EXAMPLES: &str = "\
Examples:
  cdbench train custom-diffusion --concept dog_plum -o checkpoints/dog
  cdbench train custom-diffusion --concept photos/my_cat:cat --set steps=500 -o checkpoints/cat
  cdbench train custom-diffusion --concept tom=a/images:cat --concept rex=b/images:dog -o checkpoints/pets
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
    #[arg(long, default_value_t = 0)]
    seed: u64,

    #[command(flatten)]
    backbone: BackboneArgs,

    /// CLIP that finds regularisation images: `mini`, a folder in transformers' layout, or a hub id
    #[arg(long)]
    clip: Option<String>,

    /// Where captioned images for regularisation are: `mini`, a folder, a CSV or a webdataset
    #[arg(long, default_value = mini::NAME)]
    corpus: String,

    /// The least similarity of a regularisation caption with `photo of a CATEGORY`, -1 to 1
    #[arg(long, value_name = "COSINE", allow_negative_numbers = true)]
    threshold: Option<f32>,

    #[command(flatten)]
    compute: ComputeArgs,

    /// Where states and regularisation images are kept; an interrupted training goes on
    #[arg(long, default_value = "runs")]
    store: PathBuf,

    #[command(flatten)]
    log: LogArgs,

    /// The checkpoint's folder
    #[arg(short, long)]
    output: PathBuf,

    /// Replace another checkpoint that is in the folder
    #[arg(long)]
    force: bool,
}

/// Runs `cdbench train`: the stages of one checkpoint.
pub fn run(args: Args) -> Result<()> {
    let corrupt = if args.skip_corrupt { OnCorrupt::Skip } else { OnCorrupt::Refuse };
    let sources = named_concepts(&args.concepts, corrupt)?;
    let names: Vec<String> = sources.iter().map(|s| s.name().to_owned()).collect();
    let experiment = experiment(&args, sources)?;
    let scale = experiment.scale(DEFAULT_SCALE)?;
    let store = Store::open(&args.store)?;
    let machine = args.compute.machine()?;
    let backbone = args.backbone.spec();
    let resources = Resources::new(&experiment, &backbone, &names, &[], machine, &store)?;
    let CheckpointPlan { plan, at, recipe } =
        plan_checkpoint(&experiment, &scale, &names, args.seed, &resources)?;
    let stage = &plan.stages[at];
    let description = Description {
        method: args.method.clone(),
        concepts: learnt(&recipe, &resources)?,
        backbone: resources.backbone_files().to_owned(),
        key: stage.key.to_string(),
        base: Some(card::public_name(&backbone.name)),
        settings: match &stage.work {
            Work::Train { settings, .. } => serde_json::to_value(settings).ok(),
            Work::Merge { settings, .. } => serde_json::to_value(settings).ok(),
            _ => None,
        },
    };
    if !args.force {
        description.check_room(&args.output)?;
    }

    let todo = survey(&plan, &store, &resources, &[at])?;
    if todo.iter().all(|t| *t == Todo::Nothing) {
        eprintln!("it is in the store already");
    }
    let name = args.output.file_name().unwrap_or("train".as_ref());
    let board = args.log.open(Path::new(name), false, &plan, &store, &todo)?;
    let hear = |event: &Event| board.iter().for_each(|board| board.event(event));
    single_verdict(do_missing(&plan, &store, &resources, &todo, &1.into(), &hear)?)?;
    if args.force {
        remove_checkpoint(&args.output)?;
    }
    // first: a copy that is cut short knows its own when it is made again
    description.write(&args.output)?;
    copy_files(&store.dir(stage.kind.folder(), &stage.folder), &args.output)?;
    let tokens: Vec<&str> =
        description.concepts.iter().filter_map(|c| c.token.as_deref()).collect();
    card::write_checkpoint(&args.output, Some(&description), &tokens, "cdbench", args.force)?;
    eprintln!("{description}");
    println!("{}", args.output.display());
    Ok(())
}

/// The command as an experiment of one row.
fn experiment(args: &Args, sources: Vec<ConceptSource>) -> Result<Experiment> {
    let mut settings = toml::Table::new();
    for text in &args.overrides {
        let change: Override =
            text.parse().map_err(|e: String| Error::input(format!("--set: {e}")))?;
        change.apply(&mut settings)?;
    }
    let mut experiment = Experiment::of_method(&args.method, settings)?;
    experiment.regularization.corpus = args.corpus.clone();
    experiment.regularization.threshold = args.threshold;
    if args.threshold.is_some_and(|t| !(-1.0..=1.0).contains(&t)) {
        return Err(Error::input("--threshold is a cosine: -1 to 1"));
    }
    experiment.evaluation.clip = args.clip.clone();
    experiment.concepts.extend(sources.into_iter().filter_map(|source| match source {
        ConceptSource::Folder(folder) => Some(folder),
        ConceptSource::World(_) => None,
    }));
    Ok(experiment)
}

/// What a recipe's checkpoint has learnt.
fn learnt(recipe: &Recipe, resources: &Resources) -> Result<Vec<Learnt>> {
    let modifiers = recipe.modifiers();
    let one = |(name, (modifier, number)): (&str, &(Modifier, usize))| {
        let concept = resources.concept(name)?;
        let learnt = Learnt::called(name, &concept.category, *modifier, *number);
        Ok(Learnt { pictures: Some(concept.targets.len()), ..learnt })
    };
    recipe.concepts().into_iter().zip(&modifiers).map(one).collect()
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let mut files = vec![];
    for entry in std::fs::read_dir(from).map_err(Error::io(from))? {
        let path = entry.map_err(Error::io(from))?.path();
        if path.is_file() && !safefile::is_partial(&path) {
            files.push((to.join(path.file_name().unwrap_or_default()), path));
        }
    }
    refuse_other_weights(to, files.iter().map(|(to, _)| to.as_path()))?;
    for (to, path) in files {
        safefile::write(&to, std::fs::read(&path).map_err(Error::io(&path))?)?;
    }
    Ok(())
}
