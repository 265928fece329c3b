//! `cdbench export mlflow`.

use super::experiment::ExperimentArgs;
use super::pictures::Stored;
use crate::log::{Tracking, export_mlflow};
use crate::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  mlflow server --port 5000 &
  cdbench run experiments/table1.toml
  cdbench export mlflow experiments/table1.toml --tracking-uri http://127.0.0.1:5000

Every measured cell becomes a finished run with its settings, measures and their intervals, costs, the curve of
its training, and its first samples. What the server has already is left alone. A server that asks who one is
takes MLFLOW_TRACKING_TOKEN, or http://USER:PASSWORD@HOST.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    experiment: ExperimentArgs,

    /// The address of the tracking server [default: MLFLOW_TRACKING_URI]
    #[arg(long, value_name = "URI")]
    tracking_uri: Option<String>,
}

/// Runs `cdbench export mlflow`: what is in the store is sent, and nothing computed.
pub fn run(args: Args) -> Result<()> {
    let of = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let uri = args.tracking_uri.or_else(|| of("MLFLOW_TRACKING_URI")).ok_or_else(|| {
        Error::input_hint("which MLflow server", "--tracking-uri http://127.0.0.1:5000")
    })?;
    let server = Tracking::new(&uri, of("MLFLOW_TRACKING_TOKEN"))?;
    let session = args.experiment.open()?;
    let results = session.results()?;
    if results.cells.is_empty() {
        return Err(session.nothing_yet(&args.experiment.file));
    }
    let pictures = Stored::new(&session);
    let done = export_mlflow(&server, &results, &session.plan, &session.store, &pictures)?;
    println!("{} runs sent, {} were there", done.made, done.there);
    if done.mended > 0 {
        eprintln!(
            "{} of them had been begun by an export that was cut short: made anew",
            done.mended
        );
    }
    if done.left_out > 0 {
        eprintln!("{} samples left out: the server does not take files itself", done.left_out);
    }
    if !results.failed.is_empty() {
        eprintln!("{} cells of the plan are not in the store", results.failed.len());
    }
    Ok(())
}
