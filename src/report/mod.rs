//! Views of results: tables, plots, grids, and the comparison with a baseline.
//!
//! [`Results`] is all the data there is; everything else here is made from it, and again from the
//! files it was written to.

mod attention;
mod axis;
mod bars;
mod baseline;
mod check;
mod claims;
mod claims_page;
mod claims_table;
mod csv;
mod curves;
mod files;
mod folder;
mod format;
mod grid;
mod junit;
mod latex;
mod md;
mod overlay;
mod page;
mod parquet;
mod plot;
mod preference;
mod render;
mod results;
mod room;
mod scatter;
mod sheet;
mod summary;
mod table;
mod tables;
mod view;

pub use baseline::{Baseline, BaselineCell};
pub use check::{Change, CheckOutcome, Tolerance, Verdict, check};
pub use claims_page::ClaimsPage;
pub use csv::Csv;
pub use folder::report_of;
pub use format::Format;
pub use grid::{Again, Origin, Pictures};
pub use junit::junit_of_error;
pub use latex::Latex;
pub use md::{Markdown, escape};
pub use overlay::{Attended, attention_sheet, overlay};
pub use plot::Figure;
pub use preference::{Pair, study_pairs};
pub use render::{render, render_as, render_tables};
pub use results::{Cell, CellValue, ImageRow, Results, SEED, first_images};
pub use scatter::{ScatterOptions, scatter};
pub use table::{Entry, Export, Mark, Number, Section, Table, TableRow, export};
pub use tables::tables;
