//! The forms that a report can have.

use clap::ValueEnum;

/// A form of a report. `results.csv`, `images.csv` and `report.json`, which reports are read again from, are
/// there with any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A page to look at: index.html
    Html,
    /// README.md and table.md, with figures and grids of samples
    Md,
    /// table.tex
    Latex,
    /// Each table, the points of sweeps and the pairs of a study
    Csv,
    /// Everything that was measured in one file: results.json
    Json,
    /// A row a cell and a row an image, with types: results.parquet, images.parquet
    Parquet,
}

impl Format {
    /// Those of a report for which nobody has said which.
    pub const USUAL: [Format; 4] = [Format::Html, Format::Md, Format::Latex, Format::Csv];
}
