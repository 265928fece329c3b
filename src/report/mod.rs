//! Views of results: tables, plots, grids, and the comparison with a baseline.

mod csv;
mod files;
mod latex;
mod md;
mod results;
mod table;
mod tables;
mod view;

pub use csv::Csv;
pub use latex::Latex;
pub use md::Markdown;
pub use results::{Cell, ImageRow, Results, SEED};
pub use table::{Entry, Export, Mark, Number, Section, Table, TableRow, export};
pub use tables::tables;
pub use view::Metric;

#[cfg(test)]
mod fixture;
#[cfg(test)]
use crate::{
    metrics::{KID_SUBSET, KID_SUBSETS, Kid},
    rng::Rng,
};
