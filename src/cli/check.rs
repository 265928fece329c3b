//! `cdbench check`.

use std::path::PathBuf;

use super::experiment::ExperimentArgs;
use crate::error::nearest;
use crate::report::{Baseline, Tolerance, Verdict, check};
use crate::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  cdbench check experiments/smoke.toml --baseline metrics/baselines/smoke.json
  cdbench check experiments/smoke.toml --baseline metrics/baselines/smoke.json --update

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
}

fn tolerance(text: &str) -> std::result::Result<(String, f64), String> {
    let (name, value) = text.split_once('=').ok_or("use METRIC=VALUE")?;
    let value: f64 = value.trim().parse().map_err(|_| format!("`{value}` is no number"))?;
    match value.is_finite() && value >= 0.0 {
        true => Ok((name.trim().to_owned(), value)),
        false => Err("a tolerance is finite and not negative".into()),
    }
}

/// Runs `cdbench check`.
pub fn run(args: Args) -> Result<()> {
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
        return Ok(());
    };
    let tolerance = Tolerance(args.tolerance.into_iter().collect());
    let found = check(&results, &baseline, &tolerance);
    println!("{found}");
    let file = args.baseline.display();
    match found.verdict() {
        Verdict::Passed => Ok(()),
        Verdict::Failed => Err(Error::Regressed(format!("worse than {file}"))),
        Verdict::OtherProtocol => Err(Error::Protocol(format!(
            "{file} was measured with another protocol; `--update` writes a new baseline"
        ))),
    }
}
