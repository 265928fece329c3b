//! `cdbench licences`.

use std::io::Write;

use crate::{Error, Result};

pub const EXAMPLES: &str = "\
Examples:
  cdbench licences | less
  cdbench licences > THIRD_PARTY.txt";

/// Made by a tool: `assets/licences/about.toml` says how.
const THIRD_PARTY: &str = include_str!("../../assets/licences/third-party.txt");

/// Runs `cdbench licences`: what is compiled in, and under which terms.
pub fn run() -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(THIRD_PARTY.as_bytes()).map_err(Error::io("standard output".as_ref()))
}
