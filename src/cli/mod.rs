//! The command line: stdout is data, stderr is progress, logs and errors.

mod backbone;
mod bench;
mod card;
mod check;
mod claims;
mod completions;
mod convert;
mod device;
mod doctor;
mod evaluate;
mod experiment;
mod export;
mod export_concepts;
mod export_mlflow;
mod licences;
mod live;
mod log;
mod merge;
mod pictures;
mod plan;
mod pretrain;
mod progress;
mod report;
mod run;
mod sample;
mod status;
mod study;
mod submit;
mod train;
mod watch;
mod words;
mod world;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{Error, Result, process};

const MORE: &str = "\
Examples:
  cdbench run experiments/table1.toml           Table 1 of the paper on the built-in backbone
  cdbench train custom-diffusion --concept photos/my_cat:cat -o checkpoints/cat
  cdbench sample --checkpoint checkpoints/cat --prompt 'photo of a <new1> cat' -o cat.png
  cdbench doctor                                what this machine can do
  cdbench help run                              every option of a command, with examples

Exit codes:
  0    done
  1    internal error: a bug, please report it
  2    wrong usage: unknown command or option
  3    bad input: a file, configuration or value that cannot be used
  4    the system refused to read or write a file
  5    the device is not there or is lost, has not enough memory, or this build cannot use it
  6    training or sampling diverged: a number that is not finite
  7    some cells of an experiment could not be finished; the others are
  8    a metric is worse than its baseline
  9    numbers of another protocol, which cannot be compared
  130  interrupted; what was finished is kept";

/// Run and evaluate the experiments of Custom Diffusion (CVPR 2023).
#[derive(Parser)]
#[command(version, after_help = MORE)]
struct Cli {
    /// Say more on stderr: -v for information, -vv for details
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    /// CPU threads [default: all cores]; results do not depend on it
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run an experiment: train, sample, score, and write the report
    Run(run::Args),
    /// Write an experiment's report again, from what is in the store
    Report(report::Args),
    /// List an experiment's cells, which are done, who is at what is not, and its jobs in the queue
    Status(status::Args),
    /// List an experiment's stages: what each needs, whether it is there, how long it takes
    Plan(plan::Args),
    /// Give an experiment to SLURM: jobs that run what is missing together, and one for the report
    Submit(submit::Args),
    /// Judge the paper's claims by the reports that there are
    Claims(claims::Args),
    /// Run an experiment and fail if a metric is worse than its baseline
    Check(check::Args),
    /// Teach a backbone one or more concepts
    Train(train::Args),
    /// Merge checkpoints of single concepts in closed form
    Merge(merge::Args),
    /// Write a checkpoint as other programs have it
    Convert(convert::Args),
    /// Sample images from a backbone, with or without a checkpoint
    Sample(sample::Args),
    /// Measure a folder of images
    Evaluate(evaluate::Args),
    /// Ask people which images they prefer
    #[command(subcommand)]
    Study(study::Command),
    /// Train the mini backbone and its judge from nothing, on scenes of the embedded world
    #[command(subcommand)]
    Pretrain(pretrain::Command),
    /// Look at the embedded world
    #[command(subcommand)]
    World(world::Command),
    /// Write a backbone out as a folder in diffusers' layout
    Export(export::Args),
    /// Say what this machine and these files can do
    Doctor(doctor::Args),
    /// Measure this machine on the project's own work
    #[command(subcommand)]
    Bench(bench::Command),
    /// Print a script that completes commands and options in a shell
    Completions(completions::Args),
    /// Print the licences of all that is compiled in
    #[command(alias = "licenses", after_help = licences::EXAMPLES)]
    Licences,
}

impl Command {
    /// Whether nothing is lost if it ends in the middle of its output.
    fn only_prints(&self) -> bool {
        use Command::{Completions, Doctor, Licences, Plan, Status};
        matches!(self, Completions(_) | Doctor(_) | Licences | Plan(_) | Status(_))
    }
}

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.verbose);
    if cli.command.only_prints() {
        process::end_with_its_reader();
    }
    let outcome = start_threads(cli.threads).and_then(|()| match cli.command {
        Command::Run(args) => run::run(args),
        Command::Report(args) => report::run(args),
        Command::Status(args) => status::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Submit(args) => submit::run(args, cli.threads),
        Command::Claims(args) => claims::run(args),
        Command::Check(args) => check::run(args),
        Command::Train(args) => train::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Sample(args) => sample::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Study(command) => study::run(command),
        Command::Pretrain(command) => pretrain::run(command),
        Command::World(command) => world::run(command),
        Command::Export(args) => export::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Bench(command) => bench::run(command),
        Command::Completions(args) => completions::run(args, &mut Cli::command()),
        Command::Licences => licences::run(),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Logs on stderr; `RUST_LOG` overrides `-v`.
fn start_log(verbose: u8) {
    let default = ["cdbench=warn", "cdbench=info", "cdbench=debug"][verbose.min(2) as usize];
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.without_time().with_target(false).with_ansi(terminal).init();
}

fn start_threads(threads: Option<u16>) -> Result<()> {
    let Some(threads) = threads else { return Ok(()) };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.into())
        .build_global()
        .map_err(|e| Error::input(format!("cannot start {threads} threads: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commands that do something, with their names.
    fn leaves(command: &clap::Command, name: String, found: &mut Vec<(String, clap::Command)>) {
        let below: Vec<_> = command.get_subcommands().filter(|c| c.get_name() != "help").collect();
        if below.is_empty() || command.get_positionals().next().is_some() {
            found.push((name.clone(), command.clone()));
        }
        for one in below {
            leaves(one, format!("{name} {}", one.get_name()), found);
        }
    }

    #[test]
    fn every_command_has_examples_that_it_understands() {
        let mut found = vec![];
        leaves(&Cli::command(), "cdbench".into(), &mut found);
        assert!(found.len() > 20, "{found:?}");
        for (name, command) in found {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            // commands that are alike share their examples
            let two: Vec<&str> = name.split(' ').take(2).collect();
            let example = help.lines().find(|line| line.trim_start().starts_with(&two.join(" ")));
            assert!(help.starts_with("Examples:") && example.is_some(), "{name}: {help}");
        }
    }

    #[test]
    fn the_commands_of_examples_are_understood() {
        let mut found = vec![];
        leaves(&Cli::command(), "cdbench".into(), &mut found);
        for (name, command) in found {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            // a line that ends in a backslash goes on with the next
            let lines: Vec<&str> = help.split("\\\n").map(str::trim_start).collect();
            let help = lines.join(" ");
            for line in help.lines().filter(|l| l.starts_with("  cdbench ")) {
                // behind several blanks or a sign of the shell it is no longer the command
                let line = line.trim_start();
                let line = line.split("  ").next().unwrap_or(line);
                let line = line.split(['>', '|']).next().unwrap_or(line);
                let words: Vec<&str> = line.split_whitespace().collect();
                if words.iter().any(|word| word.contains('\'') || word.contains('…')) {
                    continue;
                }
                let parsed = Cli::command().try_get_matches_from(&words);
                assert!(parsed.is_ok(), "{name}: {line}: {}", parsed.unwrap_err());
            }
        }
    }
}
