//! `cdbench check`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::experiment::ExperimentArgs;
use crate::error::nearest;
use crate::report::{Baseline, CheckOutcome, Tolerance, Verdict, check, junit_of_error};
use crate::{Error, Result, safefile};

const EXAMPLES: &str = "\
Examples:
  cdbench check experiments/smoke.toml --baseline metrics/baselines/smoke.json
  cdbench check experiments/smoke.toml --baseline metrics/baselines/smoke.json --update
  cdbench check experiments/smoke.toml --baseline metrics/baselines/smoke.json \
    --junit check.xml --summary $GITHUB_STEP_SUMMARY     in CI, see docs/ci.md

What is missing in the store is run first. A metric is worse if the interval of its difference from the
baseline, image by image, lies on the worse side of zero and the difference exceeds the tolerance.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    experiment: ExperimentArgs,

    /// The baseline's file
    #[arg(long, value_name = "FILE")]
    baseline: PathBuf,

    /// Write the results as the new baseline
    #[arg(long)]
    update: bool,

    /// Differences of a metric (as in results.csv) that nobody minds, in place of its own; may be given
    /// again
    #[arg(long, value_name = "METRIC=VALUE", value_parser = tolerance)]
    tolerance: Vec<(String, f64)>,

    /// Write each comparison as a test, in JUnit's format
    #[arg(long, value_name = "FILE", conflicts_with = "update")]
    junit: Option<PathBuf>,

    /// Add what was found to a file, in Markdown
    #[arg(long, value_name = "FILE", conflicts_with = "update")]
    summary: Option<PathBuf>,
}

fn tolerance(text: &str) -> std::result::Result<(String, f64), String> {
    let (name, value) = text.split_once('=').ok_or("use METRIC=VALUE")?;
    let value: f64 = value.trim().parse().map_err(|_| format!("`{value}` is no number"))?;
    match value.is_finite() && value >= 0.0 {
        true => Ok((name.trim().to_owned(), value)),
        false => Err("a tolerance is finite and not negative".into()),
    }
}

/// Runs `cdbench check`. Whatever it ends with is in the files for CI, too.
pub fn run(args: Args) -> Result<()> {
    let (junit, summary) = (args.junit.clone(), args.summary.clone());
    let name = args.experiment.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let title = format!("cdbench check {name}");
    let files = |xml: &str, markdown: &str| -> Result<()> {
        junit.iter().try_for_each(|file| safefile::write(file, xml))?;
        summary.iter().try_for_each(|file| append(file, markdown))
    };
    match compare(args) {
        Ok(None) => Ok(()),
        Ok(Some((found, error))) => {
            files(&found.junit(&title), &found.summary(&title))?;
            error.map_or(Ok(()), Err)
        }
        Err(error) => {
            let text = error.to_string();
            let quoted: String = text.lines().map(|line| format!("    {line}\n")).collect();
            files(&junit_of_error(&title, &text), &format!("## {title}: ❌ not run\n\n{quoted}"))?;
            Err(error)
        }
    }
}

/// Adds to a file: a CI page is put together by several steps.
fn append(file: &Path, text: &str) -> Result<()> {
    let out = std::fs::File::options().create(true).append(true).open(file);
    out.and_then(|mut out| out.write_all(text.as_bytes())).map_err(Error::io(file))
}

/// What was found, with the error that says that something is worse; nothing where a baseline was written.
fn compare(args: Args) -> Result<Option<(CheckOutcome, Option<Error>)>> {
    // read first: a missing baseline is found before an hour of computing
    let baseline = match args.update {
        true => None,
        false => Some(Baseline::load(&args.baseline)?),
    };
    let session = args.experiment.open()?;
    let known = || session.resources.metrics().iter().map(|m| m.metric.name.as_str());
    if let Some((name, _)) = args.tolerance.iter().find(|(name, _)| known().all(|k| k != name)) {
        let message = format!("--tolerance: `{name}` is no metric of this experiment");
        return Err(Error::input_hint(message, nearest(name, known())));
    }
    let todo = session.survey()?;
    let outcome = session.run(&todo, &1.into(), &|_| {})?;
    session.verdict(outcome)?;
    let results = session.results()?;
    let Some(baseline) = baseline else {
        Baseline::of(&results).save(&args.baseline)?;
        println!("{}", args.baseline.display());
        return Ok(None);
    };
    let tolerance = Tolerance(args.tolerance.into_iter().collect());
    let found = check(&results, &baseline, &tolerance);
    println!("{found}");
    let file = args.baseline.display();
    let error = match found.verdict() {
        Verdict::Passed => None,
        Verdict::Failed => Some(Error::Regressed(format!("worse than {file}"))),
        Verdict::OtherProtocol => Some(Error::Protocol(format!(
            "{file} was measured with another protocol; `--update` writes a new baseline"
        ))),
    };
    Ok(Some((found, error)))
}
