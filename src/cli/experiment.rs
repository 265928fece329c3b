//! What the commands on experiments share: arguments, the plan, doing what is missing.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::backbone::BackboneArgs;
use super::device::{DeviceArgs, DeviceName};
use super::pictures::{CommandLine, Stored};
use super::watch::Watcher;
use super::words;
use crate::clip::Runtime;
use crate::engine::{
    self, Cell, Crew, Event, Filter, Key, Machine, Outcome, Plan, Resources, Shard, Store, Todo,
    Work, plan, results, survey,
};
use crate::metrics::paper;
use crate::report::{self, Format, Results};
use crate::spec::{DEFAULT_SCALE, Experiment, Override, Scale};
use crate::{Error, Result, hub, mini, process};

/// Arguments of every command on an experiment.
#[derive(clap::Args)]
pub struct ExperimentArgs {
    /// The experiment: a TOML file, see experiments/
    pub file: PathBuf,

    #[command(flatten)]
    pub options: Options,
}

/// Options of every command on experiments.
#[derive(clap::Args)]
pub struct Options {
    /// Where results are kept; the same command again does only what is missing
    #[arg(long, default_value = "runs")]
    pub store: PathBuf,

    /// How much is run: a scale of the experiment
    #[arg(long, default_value = DEFAULT_SCALE)]
    pub scale: String,

    /// Replace a value of the file: sampling.steps=20, rows.0.settings.lr=1e-4
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<Override>,

    /// A data set in place of the experiment's: customconcept101, dreambench, dreambench++ or concept-list,
    /// and its folder
    #[arg(long, value_name = "KIND=DIR", value_parser = dataset)]
    pub dataset: Option<(String, PathBuf)>,

    /// Only some cells: method=custom-diffusion, concept=dog_plum, label=…, group=single, seed=0
    #[arg(long, value_name = "KEY=VALUE")]
    pub filter: Vec<Filter>,

    /// Only the cells dealt to one of N runs that do the experiment together, and what these need
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,

    /// How many seeds, in place of the scale's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: Option<u64>,

    #[command(flatten)]
    pub backbone: BackboneArgs,

    /// `mini`, a CLIP folder in transformers' layout, or a hub id, in place of the experiment's
    #[arg(long)]
    pub clip: Option<String>,

    #[command(flatten)]
    pub compute: ComputeArgs,

    /// The report's folder [default: reports/NAME/SCALE in the store]; what a report before had there and
    /// this one has not is removed
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

fn dataset(text: &str) -> std::result::Result<(String, PathBuf), String> {
    let (kind, folder) = text.split_once('=').ok_or("use KIND=DIR")?;
    Ok((kind.to_owned(), folder.into()))
}

/// How a command computes.
#[derive(clap::Args)]
pub struct ComputeArgs {
    #[command(flatten)]
    pub on: DeviceArgs,

    /// What runs CLIP: auto, tract or native (ONNX Runtime, see ORT_DYLIB_PATH)
    #[arg(long, default_value = "auto")]
    pub ort: Runtime,
}

impl ComputeArgs {
    /// Opens the device.
    pub fn machine(&self) -> Result<Machine> {
        let DeviceArgs { dtype, tf32, .. } = self.on;
        Ok(Machine { device: self.on.open()?, runtime: self.ort, dtype, tf32 })
    }

    fn on_cpu(&self) -> Result<Machine> {
        let on = DeviceArgs { device: DeviceName::Cpu, ..self.on };
        ComputeArgs { on, ..*self }.machine()
    }
}

/// An experiment, planned.
pub struct Session {
    pub experiment: Experiment,
    pub scale: Scale,
    pub store: Store,
    pub resources: Resources,
    pub plan: Plan,
    pub out: PathBuf,
    /// The options of other commands for its backbone.
    pub backbone: Vec<String>,
    /// The command that goes on with it.
    pub again: CommandLine,
    /// Images are wanted whether they were judged or not.
    pub images: bool,
}

impl ExperimentArgs {
    /// Reads and plans the experiment.
    pub fn open(&self) -> Result<Session> {
        self.options.open(&self.file)
    }
}

impl Options {
    /// Reads and plans an experiment.
    pub fn open(&self, file: &Path) -> Result<Session> {
        self.open_on(file, self.compute.machine()?)
    }

    /// Reads and plans an experiment that runs elsewhere: the device that it wants need not be here.
    pub fn open_to_look(&self, file: &Path) -> Result<Session> {
        let machine = self.compute.machine().or_else(|e| match e {
            Error::Device { .. } => self.compute.on_cpu(),
            e => Err(e),
        });
        self.open_on(file, machine?)
    }

    fn open_on(&self, file: &Path, machine: Machine) -> Result<Session> {
        let mut overrides = self.overrides.clone();
        if let Some((kind, folder)) = &self.dataset {
            let folder = from_here(&folder.to_string_lossy())?;
            overrides.push(Override::text(&["dataset", "kind"], kind));
            overrides.push(Override::text(&["dataset", "path"], &folder));
        }
        let mut experiment = Experiment::read(file, &overrides)?;
        if let Some(clip) = &self.clip {
            experiment.evaluation.clip = Some(from_here(clip)?);
        }
        if let Some(table) = &experiment.table {
            paper::table(table).map_err(|e| e.of("`table`"))?;
        }
        let mut scale = experiment.scale(&self.scale)?;
        scale.seeds = self.seeds.unwrap_or(scale.seeds);
        let mut filter = Filter::default();
        self.filter.iter().cloned().for_each(|f| filter.and(f));
        let store = Store::open(&self.store)?;
        let backbone = match self.backbone.backbone {
            Some(_) => self.backbone.spec(),
            None => self.backbone.over(experiment.backbone()?),
        };
        let (concepts, pairs) = (&scale.concepts, &scale.pairs);
        let resources = Resources::new(&experiment, &backbone, concepts, pairs, machine, &store)?;
        let mut plan = plan(&experiment, &scale, &filter, &resources)?;
        self.shard.into_iter().for_each(|shard| shard.keep_own(&mut plan));
        let out = self.report_folder(&experiment.name, &filter);
        let again = self.again(file);
        let backbone = words::of_backbone(&backbone, &self.compute);
        Ok(Session {
            experiment,
            scale,
            store,
            resources,
            plan,
            out,
            backbone,
            again,
            images: false,
        })
    }

    /// The command that goes on with all of an experiment, where results are the same.
    fn again(&self, file: &Path) -> CommandLine {
        let mut line = CommandLine::new("run");
        line.word(file.display());
        words::of_results(self).iter().for_each(|word| line.word(word));
        line
    }

    /// The folder that all reports are below.
    pub fn reports(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| self.store.join("reports"))
    }

    /// Reports go where results go: what is committed is written where somebody says so. A part of an
    /// experiment has a folder beside that of the whole.
    fn report_folder(&self, name: &str, filter: &Filter) -> PathBuf {
        if let Some(out) = &self.out {
            return out.clone();
        }
        let mut folder = self.scale.clone();
        if let Some(seeds) = self.seeds {
            folder += &format!(",seeds={seeds}");
        }
        if !filter.wanted.is_empty() {
            folder += &format!(",{filter}");
        }
        if let Some(shard) = self.shard {
            folder += &format!(",shard={}-of-{}", shard.number(), shard.of());
        }
        let plain = |c: char| if c.is_alphanumeric() || "-_=,.".contains(c) { c } else { '_' };
        let mut plain: String = folder.trim_start_matches('.').chars().map(plain).collect();
        // what systems take as a name has an end
        if plain.chars().count() > LONGEST {
            let key = Key::of(&folder.into());
            plain = plain.chars().take(LONGEST).chain(['-']).chain(key.short().chars()).collect();
        }
        self.store.join("reports").join(name).join(plain)
    }
}

/// Characters of a report's folder, but for a hash of those that are left out.
const LONGEST: usize = 60;

/// A path of the command line, which starts where the command runs, or a hub id, as an experiment may have
/// it.
pub fn from_here(given: &str) -> Result<String> {
    match given {
        mini::NAME => Ok(given.into()),
        _ => Ok(hub::below(&std::env::current_dir().map_err(Error::io(Path::new(".")))?, given)),
    }
}

impl Session {
    /// What is missing.
    pub fn survey(&self) -> Result<Vec<Todo>> {
        let stages = &self.plan.stages;
        let mut wanted: Vec<usize> = self.plan.cells.iter().map(|c| c.scores).collect();
        if self.images {
            let images = |at: &usize| match &stages[*at].work {
                Work::Score(work) => work.samples.as_ref().map(|(samples, _)| *samples),
                _ => None,
            };
            wanted.extend(wanted.iter().filter_map(images).collect::<Vec<_>>());
        }
        self.survey_of(&wanted)
    }

    /// What is missing for the results of these stages.
    pub fn survey_of(&self, wanted: &[usize]) -> Result<Vec<Todo>> {
        survey(&self.plan, &self.store, &self.resources, wanted)
    }

    /// Does what is missing; `hear` is told of all that happens.
    pub fn run(&self, todo: &[Todo], crew: &Crew, hear: &Hear) -> Result<Outcome> {
        do_missing(&self.plan, &self.store, &self.resources, todo, crew, hear)
    }

    /// What is there, as a report.
    pub fn results(&self) -> Result<Results> {
        results(&self.experiment, &self.scale, &self.plan, &self.store, &self.resources)
    }

    /// The error of a command that shows results where there are none.
    pub fn nothing_yet(&self, file: &Path) -> Error {
        Error::input_hint(
            format!("{}: no cell of this experiment is in the store", self.store.root().display()),
            format!("first: cdbench run {}", file.display()),
        )
    }

    /// Makes the report's folder, so that nobody learns after hours that it cannot be, and says what is
    /// there of another scale or experiment.
    pub fn claim_folder(&self) -> Result<()> {
        std::fs::create_dir_all(&self.out).map_err(Error::io(&self.out))?;
        let own = (self.experiment.name.clone(), self.scale.name.clone());
        if let Some((name, scale)) = report::report_of(&self.out).filter(|found| *found != own) {
            let out = self.out.display();
            eprintln!("{out}: the report of {name}, scale {scale}, gives way to this one");
        }
        Ok(())
    }

    /// Writes the report.
    pub fn report(&self, results: &Results) -> Result<()> {
        report::render(results, &Stored::new(self), &self.out)
    }

    /// Writes the report in these forms.
    pub fn report_as(&self, formats: &[Format], results: &Results) -> Result<()> {
        report::render_as(formats, results, &Stored::new(self), &self.out)
    }

    /// Writes the report without its pictures.
    pub fn report_tables(&self, results: &Results) -> Result<()> {
        report::render_tables(results, &self.out)
    }

    /// The cells that a failed or skipped stage took with it.
    pub fn lost(&self, outcome: &Outcome) -> Vec<&Cell> {
        let bad = |at: usize| {
            outcome.skipped.contains(&at) || outcome.failed.iter().any(|(f, _)| *f == at)
        };
        self.plan.cells.iter().filter(|c| bad(c.scores)).collect()
    }

    /// The error that a run ends with, if any.
    pub fn verdict(&self, outcome: Outcome) -> Result<()> {
        if outcome.interrupted || outcome.failed.is_empty() {
            return single_verdict(outcome);
        }
        if outcome.left {
            eprintln!("this machine failed: the rest is left to the others of the team");
            return outcome.failed.into_iter().next_back().map_or(Ok(()), |(_, error)| Err(error));
        }
        let lost = self.lost(&outcome);
        let (cells, of) = (lost.len(), self.plan.cells.len());
        let mut text = format!("{cells} of {of} cells could not be finished");
        for (at, error) in &outcome.failed {
            text += &format!("\n  {}: {error}", self.plan.stages[*at].name);
            if let Some(hint) = error.hint() {
                text += &format!("\n    hint: {hint}");
            }
        }
        for cell in lost {
            text += &format!("\n  not finished: {}", cell.name());
        }
        // one kind of failure keeps its own exit code, and so does a device that is lost
        let of_device = |(_, error): &(usize, Error)| matches!(error, Error::Device { .. });
        let at = outcome.failed.iter().position(of_device);
        match outcome.failed.into_iter().nth(at.unwrap_or(0)) {
            Some((_, error)) if cells == of || at.is_some() => Err(error),
            _ => Err(Error::Incomplete(text)),
        }
    }
}

/// The error that a run for one result ends with, if any: that of the stage that failed.
pub fn single_verdict(outcome: Outcome) -> Result<()> {
    if outcome.interrupted {
        eprintln!("interrupted: the same command goes on from here");
        return Err(Error::Interrupted);
    }
    outcome.failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}

/// Told of what happens, before it is shown; from several threads.
pub type Hear<'a> = dyn Fn(&Event) + Sync + 'a;

/// Does what is missing of a plan, and shows how far it is.
pub fn do_missing(
    plan: &Plan,
    store: &Store,
    resources: &Resources,
    todo: &[Todo],
    crew: &Crew,
    hear: &Hear,
) -> Result<Outcome> {
    if let Some(shortage) = engine::shortage(plan, todo, store, resources) {
        tracing::warn!("{shortage}");
    }
    let watcher = Watcher::new(plan, todo);
    let outcome = engine::run(plan, store, resources, todo, crew, stop_flag(), &|event| {
        hear(&event);
        watcher.event(event);
    });
    watcher.finish();
    outcome
}

/// Set by Ctrl-C and by what queues send before they end a job: what runs ends at the next step, with its
/// state saved. A second one ends at once.
pub fn stop_flag() -> &'static AtomicBool {
    /// Queues signal a job's processes and its script, which passes it on: that is one word.
    const ONE_WORD: Duration = Duration::from_secs(1);
    static STOP: AtomicBool = AtomicBool::new(false);
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let mut first: Option<Instant> = None;
        let handler = move || {
            STOP.store(true, Ordering::Relaxed);
            match first {
                Some(at) if at.elapsed() > ONE_WORD => std::process::exit(130),
                Some(_) => {}
                None => {
                    first = Some(Instant::now());
                    eprintln!("stopping at the next step; once more to stop at once");
                }
            }
        };
        if let Err(e) = ctrlc::set_handler(handler) {
            tracing::warn!("Ctrl-C cannot be caught: {e}");
        }
        process::stop_by_user_signal(&STOP);
    });
    &STOP
}
