//! `cdbench check`.

use std::path::PathBuf;

use super::experiment::ExperimentArgs;
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

    /// Differences of text and image alignment that nobody minds
    #[arg(long, default_value_t = Tolerance::default().alignment, allow_negative_numbers = true)]
    tolerance: f64,

    /// Differences of KID (not times 10³) that nobody minds
    #[arg(long, default_value_t = Tolerance::default().kid, allow_negative_numbers = true)]
    tolerance_kid: f64,
}

/// Runs `cdbench check`.
pub fn run(args: Args) -> Result<()> {
    for (name, x) in [("tolerance", args.tolerance), ("tolerance-kid", args.tolerance_kid)] {
        if !(x.is_finite() && x >= 0.0) {
            return Err(Error::input(format!(
                "--{name} {x}: a finite number that is not negative"
            )));
        }
    }
    // read first: a missing baseline is found before an hour of computing
    let baseline = match args.update {
        true => None,
        false => Some(Baseline::load(&args.baseline)?),
    };
    let session = args.experiment.open()?;
    let todo = session.survey()?;
    let outcome = session.run(&todo, 1, &|_| {})?;
    session.verdict(outcome)?;
    let results = session.results()?;
    let Some(baseline) = baseline else {
        Baseline::of(&results).save(&args.baseline)?;
        println!("{}", args.baseline.display());
        return Ok(());
    };
    let tolerance = Tolerance { alignment: args.tolerance, kid: args.tolerance_kid };
    let found = check(&results, &baseline, tolerance);
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
