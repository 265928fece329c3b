//! `cdbench completions`.

use clap_complete::Shell;

use crate::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  cdbench completions bash > ~/.local/share/bash-completion/completions/cdbench
  cdbench completions zsh > \"${fpath[1]}/_cdbench\"
  cdbench completions fish > ~/.config/fish/completions/cdbench.fish";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Runs `cdbench completions`: the script of `command`.
pub fn run(args: Args, command: &mut clap::Command) -> Result<()> {
    let mut script = vec![];
    clap_complete::generate(args.shell, command, "cdbench", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script)
        .map_err(Error::io("standard output".as_ref()))
}
