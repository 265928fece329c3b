//! `cdbench merge`: checkpoints of single concepts, put together in closed form.

use std::path::{Path, PathBuf};

use candle_core::DType;

use super::backbone::BackboneArgs;
use super::card;
use super::experiment::ComputeArgs;
use crate::data::{Corpus as _, WorldCorpus, check_category};
use crate::diffusion::{Backbone, BackboneFiles};
use crate::engine::{Key, backbone_hash};
use crate::methods::{
    self, Delta, Description, Learnt, MergeSettings, Modifier, Part, remove_checkpoint,
    taken_tokens, token,
};
use crate::{Error, Result, mini, readfile, safefile};

const EXAMPLES: &str = "\
Examples:
  cdbench merge checkpoints/dog checkpoints/cat -o checkpoints/both
  cdbench merge from-others/dog checkpoints/cat --category dog --category cat -o checkpoints/both
  cdbench sample --checkpoint checkpoints/both --prompt 'photo of a <new1> dog next to a <new2> cat' -o both.png";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Checkpoints, one a concept: folders or files of any dialect that `cdbench sample` reads
    #[arg(required = true, num_args = 2..)]
    checkpoints: Vec<PathBuf>,

    /// Each concept's category, in the same order [default: what the checkpoints say]
    #[arg(long = "category")]
    categories: Vec<String>,

    /// A text file of captions, one a line, in place of the embedded world's
    #[arg(long, value_name = "FILE")]
    captions: Option<PathBuf>,

    #[command(flatten)]
    backbone: BackboneArgs,

    #[command(flatten)]
    compute: ComputeArgs,

    /// The merged checkpoint's folder
    #[arg(short, long)]
    output: PathBuf,

    /// Replace another checkpoint that is in the folder
    #[arg(long)]
    force: bool,
}

/// Bytes of a file of captions.
const MOST_CAPTIONS: u64 = 64 << 20;

/// A checkpoint to merge.
struct Checkpoint<'a> {
    folder: &'a Path,
    delta: Delta,
    hash: String,
    /// What it says of itself.
    said: Option<Description>,
}

/// Runs `cdbench merge`.
pub fn run(args: Args) -> Result<()> {
    let checkpoints = args.checkpoints.iter().map(|folder| {
        let delta = Delta::load(folder)?;
        Ok(Checkpoint { folder, hash: delta.hash()?, delta, said: Description::read(folder)? })
    });
    let checkpoints: Vec<Checkpoint> = checkpoints.collect::<Result<_>>()?;
    refuse_twice(&checkpoints, &args.output)?;
    let categories = categories(&checkpoints, &args.categories)?;
    let settings = MergeSettings::default();
    let captions: Vec<String> = match &args.captions {
        Some(file) => {
            let text = readfile::text(file, MOST_CAPTIONS)?;
            text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect()
        }
        None => WorldCorpus::retrieval().spread_captions(settings.captions),
    };
    let spec = args.backbone.spec();
    let files = BackboneFiles::open(&spec)?;
    let backbone = backbone_hash(&files, &mini::cache_folder()?.join("hashes"))?;
    let other = |c: &&Checkpoint| c.said.as_ref().is_some_and(|said| said.backbone != backbone);
    if let Some(other) = checkpoints.iter().find(other) {
        let (folder, backbone) = (other.folder.display(), &spec.name);
        tracing::warn!("{folder}: trained on another backbone than `{backbone}`");
    }

    let first = 1 + taken_tokens(&files.blueprint.tokenizer);
    let learnt = checkpoints.iter().zip(&categories).zip(first..).map(|((c, category), number)| {
        let said = c.said.as_ref().and_then(|said| said.concepts.first());
        let own = || c.folder.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let token = (!c.delta.tokens().is_empty()).then(|| token(number));
        let name = said.map_or_else(own, |said| said.name.clone());
        let pictures = said.and_then(|said| said.pictures);
        Learnt { pictures, ..Learnt::plain(&name, category, token.as_deref()) }
    });
    let hashes: Vec<&str> = checkpoints.iter().map(|c| c.hash.as_str()).collect();
    let meaning = serde_json::json!({
        "parts": hashes,
        "categories": categories,
        "captions": captions,
        "backbone": backbone,
        "settings": settings,
    });
    let description = Description {
        method: "merge".into(),
        concepts: learnt.collect(),
        backbone,
        key: Key::of(&meaning).to_string(),
        base: Some(card::public_name(&spec.name)),
        settings: serde_json::to_value(&settings).ok(),
    };
    if !args.force {
        description.check_room(&args.output)?;
    }

    let parts: Vec<Part> = checkpoints
        .iter()
        .zip(&categories)
        .map(|(Checkpoint { delta, .. }, category)| {
            let modifier = if delta.tokens().is_empty() { Modifier::None } else { Modifier::Rare };
            Part { delta, modifier, category }
        })
        .collect();
    let machine = args.compute.machine()?;
    let mut backbone = Backbone::read(&files, &machine.device, DType::F32)?;
    let (delta, report) = methods::merge(&mut backbone, &parts, &captions, &settings)?;
    if args.force {
        remove_checkpoint(&args.output)?;
    }
    description.write(&args.output)?;
    delta.save(&args.output)?;
    if let Some(report) = report {
        report.warnings().iter().for_each(|w| eprintln!("warning: {w}"));
        eprintln!("{report}");
        let text = serde_json::to_string_pretty(&report).unwrap_or_default();
        safefile::write(&args.output.join("merge.json"), text + "\n")?;
    }
    card::write_checkpoint(
        &args.output,
        Some(&description),
        &delta.token_names(),
        "cdbench",
        args.force,
    )?;
    eprintln!("{description}");
    for (checkpoint, learnt) in checkpoints.iter().zip(&description.concepts) {
        // what our own are called they have said
        if let (None, [was], Some(is)) =
            (&checkpoint.said, &checkpoint.delta.token_names()[..], &learnt.token)
        {
            eprintln!("{is} is what {was} is in {}", checkpoint.folder.display());
        }
    }
    println!("{}", args.output.display());
    Ok(())
}

/// Refuses a checkpoint that is given twice, in one folder or in two, or is to be written over.
fn refuse_twice(checkpoints: &[Checkpoint], output: &Path) -> Result<()> {
    let full = |path: &Path| std::fs::canonicalize(path).ok();
    for (i, one) in checkpoints.iter().enumerate() {
        if full(one.folder).is_some_and(|folder| full(output) == Some(folder)) {
            return Err(Error::input_hint(
                format!("-o {} is one of the checkpoints that are merged", output.display()),
                "name another folder",
            ));
        }
        if let Some(other) = checkpoints[..i].iter().find(|other| other.hash == one.hash) {
            return Err(Error::input_hint(
                format!(
                    "{} and {} hold the same checkpoint",
                    other.folder.display(),
                    one.folder.display()
                ),
                "give every concept's checkpoint once",
            ));
        }
    }
    Ok(())
}

/// The category of each checkpoint's concept: as given, and as it says itself.
fn categories(checkpoints: &[Checkpoint], given: &[String]) -> Result<Vec<String>> {
    let hint = "give --category once for each checkpoint, in the same order";
    if !given.is_empty() && given.len() != checkpoints.len() {
        let (parts, given) = (checkpoints.len(), given.len());
        let message = format!("{parts} checkpoints, but --category is given {given} times");
        return Err(Error::input_hint(message, hint));
    }
    let one = |(i, checkpoint): (usize, &Checkpoint)| {
        let folder = checkpoint.folder.display();
        let said = checkpoint.said.as_ref().map(|said| said.concepts.as_slice());
        let said = match said {
            Some([learnt]) => Some(learnt.category.trim()),
            Some(several) => {
                return Err(Error::input(format!(
                    "{folder}: it has {} concepts, and checkpoints of one are merged",
                    several.len()
                )));
            }
            None => None,
        };
        match (given.get(i).map(|c| c.trim()), said) {
            (None, None) => Err(Error::input_hint(
                format!("{folder}: it does not say what category it was trained on"),
                hint,
            )),
            (Some(given), Some(said)) if given != said => Err(Error::input_hint(
                format!("{folder}: it was trained on the category `{said}`, not `{given}`"),
                format!("--category {said}, or none: the checkpoints say it; mind their order"),
            )),
            (Some(category), _) | (None, Some(category)) => {
                check_category(&folder.to_string(), category)?;
                Ok(category.to_owned())
            }
        }
    };
    checkpoints.iter().enumerate().map(one).collect()
}
