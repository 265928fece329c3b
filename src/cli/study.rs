//! `cdbench study`: the preference study, made, served and analysed.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::experiment::{ExperimentArgs, stop_flag};
use super::pictures::Stored;
use crate::report::{Csv, Markdown, export};
use crate::study::{
    Analysis, Collected, Desk, Key, Ledger, Options, Rules, analyze, make, serve, tables,
};
use crate::{Error, Result, safefile};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Write a page that asks people which of two images they prefer
    Make(Box<MakeArgs>),
    /// Serve the page on this machine, and keep the answers
    Serve(ServeArgs),
    /// Say what the answers say: Table 2 of the paper
    Analyze(AnalyzeArgs),
}

const MAKE: &str = "\
Examples:
  cdbench study make experiments/table2.toml -o study
  cdbench study make experiments/table2.toml --scale full -o study --pairs 100 --per-rater 40
  cdbench study make experiments/table2.toml -o study --base-url https://example.org/study/

The images are those of `cdbench run`. Writes page/ (what raters see: open page/index.html, put the folder
on any web server, or `cdbench study serve`), crowd.csv (a line a trial, for a crowd platform) and key.json
(what each trial is; it stays with you).";

#[derive(clap::Args)]
#[command(after_help = MAKE, mut_arg("out", |a| a.short('o').required(true).help("The study's folder").long_help("The study's folder")))]
pub struct MakeArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,

    /// Pairs of images of each comparison [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pairs: Option<u32>,

    /// Pairs of images that a rater is shown
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    per_rater: u32,

    /// Lists of trials that raters are given in turn; every pair is in about as many as any other
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..))]
    booklets: u32,

    /// Trials to learn what is asked, which are not counted
    #[arg(long, value_name = "N", default_value_t = 3)]
    practice: u16,

    /// Trials of which the answer is known, as a share of a rater's pairs
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    catch: f64,

    /// Pairs that a rater sees a second time, as a share
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    repeats: f64,

    /// How long a pair is looked at before an answer is taken
    #[arg(long, value_name = "MS", default_value_t = 800, value_parser = clap::value_parser!(u64).range(..=60_000))]
    minimum: u64,

    /// Where page/ will be on the web: in front of the images' names in crowd.csv
    #[arg(long, value_name = "URL", default_value = "")]
    base_url: String,

    /// Of what is drawn: pairs, booklets, sides, names [default: another one each time, so that nobody can
    /// make the key again]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

fn share(text: &str) -> std::result::Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "use a share such as 0.1")?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("use a share from 0 to 1".into()) }
}

const SERVE: &str = "\
Examples:
  cdbench study serve study
  cdbench study serve study --listen 192.168.1.7:8000 --store /data/answers.jsonl

Answers are appended as they come, and are on disk before the rater goes on. Beyond this machine
(--listen) nothing is encrypted, and whoever reaches the address can take part.";

#[derive(clap::Args)]
#[command(after_help = SERVE)]
pub struct ServeArgs {
    /// The study's folder
    folder: PathBuf,

    /// The address
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,

    /// The file of answers, or a folder for answers.jsonl [default: the study's folder]
    #[arg(long, value_name = "FILE or DIR")]
    store: Option<PathBuf>,
}

const ANALYZE: &str = "\
Examples:
  cdbench study analyze study
  cdbench study analyze study answers/*.csv --out study/analysis

Answers are the server's answers.jsonl, the CSV or JSON that the page offers, or Mechanical Turk's results
with the columns Input.study, Input.trial, Answer.text and Answer.image (`left` or `right`).
Writes README.md, tables.csv and analysis.json.";

#[derive(clap::Args)]
#[command(after_help = ANALYZE)]
pub struct AnalyzeArgs {
    /// The study's folder
    folder: PathBuf,

    /// Files of answers [default: answers.jsonl in the study's folder]
    answers: Vec<PathBuf>,

    /// Where the analysis is written [default: analysis/ in the study's folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Share of catch questions that a rater has to have right
    #[arg(long, value_name = "SHARE", default_value_t = Rules::default().catch, value_parser = share)]
    catch: f64,

    /// The least median time of a rater's answers
    #[arg(long, value_name = "MS", default_value_t = Rules::default().fastest_ms)]
    fastest: u64,

    /// A rater whose shares of left and right are less likely than this is left out
    #[arg(long, value_name = "P", default_value_t = Rules::default().side, value_parser = share)]
    side: f64,
}

/// Runs `cdbench study …`.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Make(args) => make_study(&args),
        Command::Serve(args) => serve_study(&args),
        Command::Analyze(args) => analyze_study(&args),
    }
}

/// A seed that nobody knows.
fn drawn() -> Result<u64> {
    getrandom::u64().map_err(|e| Error::input(format!("--seed is needed: no random numbers: {e}")))
}

fn make_study(args: &MakeArgs) -> Result<()> {
    let session = args.experiment.open()?;
    let results = session.results()?;
    let folder = &session.out;
    let options = Options {
        pairs: args.pairs.map(|n| n as usize),
        per_rater: args.per_rater as usize,
        booklets: args.booklets as usize,
        practice: args.practice.into(),
        catch: args.catch,
        repeats: args.repeats,
        minimum_ms: args.minimum,
        base_url: args.base_url.clone(),
        seed: args.seed.map_or_else(drawn, Ok)?,
    };
    let category = |concept: &str| {
        let concept = session.resources.concept(concept);
        concept.map_or_else(|_| String::new(), |c| c.category.clone())
    };
    let study = make(&results, &Stored::new(&session), &category, &options, folder)?;
    for note in &study.notes {
        eprintln!("note: {note}");
    }
    let key = &study.key;
    let trials = key.booklets.first().map_or(0, Vec::len);
    println!(
        "study {}: {} comparisons, {} pairs, {} booklets of {trials} trials",
        key.study,
        key.comparisons.len(),
        key.pairs.len(),
        key.booklets.len(),
    );
    eprintln!("page: {}", folder.join("page/index.html").display());
    eprintln!("key, which raters must not see: {}", folder.join(Key::FILE).display());
    Ok(())
}

fn serve_study(args: &ServeArgs) -> Result<()> {
    let store = args.store.as_ref().unwrap_or(&args.folder);
    let desk = Arc::new(Desk::open(&args.folder, store)?);
    let taken = |e: std::io::Error| {
        Error::input_hint(format!("--listen {}: {e}", args.listen), "name another address or port")
    };
    let listener = TcpListener::bind(args.listen).map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    let (raters, answers) = desk.counts();
    println!("http://{address}/");
    eprintln!("{raters} raters and {answers} answers so far; Ctrl-C ends");
    if !address.ip().is_loopback() {
        eprintln!("note: nothing is encrypted, and whoever reaches this address can take part");
    }
    serve(&desk, &listener, stop_flag())?;
    let (raters, answers) = desk.counts();
    eprintln!("{raters} raters and {answers} answers are kept");
    Ok(())
}

fn analyze_study(args: &AnalyzeArgs) -> Result<()> {
    let key = Key::read(&args.folder)?;
    let mut collected = Collected::new(&key);
    let own = [args.folder.join(Ledger::FILE)];
    let files = if args.answers.is_empty() { &own[..] } else { &args.answers };
    for file in files {
        collected.read(file)?;
    }
    let rules = Rules { catch: args.catch, fastest_ms: args.fastest, side: args.side };
    let analysis = analyze(&collected, &rules);
    let out = args.out.clone().unwrap_or_else(|| args.folder.join("analysis"));
    write(&analysis, &out)?;
    println!("{}", export(&tables(&analysis)[..1], &Markdown));
    for excluded in &analysis.excluded {
        let reasons: Vec<&str> = excluded.reasons.iter().map(|r| r.as_str()).collect();
        eprintln!("left out: {} {}: {}", excluded.rater, excluded.name, reasons.join(", "));
    }
    eprintln!("analysis: {}", out.join("README.md").display());
    Ok(())
}

fn write(analysis: &Analysis, out: &Path) -> Result<()> {
    let tables = tables(analysis);
    let page = format!("# The preference study\n\n{}", export(&tables, &Markdown));
    safefile::write(&out.join("README.md"), page)?;
    safefile::write(&out.join("tables.csv"), export(&tables, &Csv))?;
    let json = serde_json::to_string_pretty(analysis).expect("strings and numbers");
    safefile::write(&out.join("analysis.json"), json + "\n")
}
