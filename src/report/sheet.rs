//! CSV files whose columns are known by name: what is measured has a column, and which metrics there
//! are is up to the experiment.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::{Error, Result, safefile};

/// Files above this are not results.
const LARGEST: u64 = 1 << 30;

/// A row under construction: values by their columns.
pub(super) type Row = HashMap<String, String>;

/// Writes rows; a column that a row lacks is empty.
pub(super) fn write(path: &Path, columns: &[String], rows: &[Row]) -> Result<()> {
    safefile::write_with(path, |out| {
        let failed = |e: csv::Error| match e.into_kind() {
            csv::ErrorKind::Io(source) => Error::io(path)(source),
            other => Error::input(format!("{}: {other:?}", path.display())),
        };
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(columns).map_err(failed)?;
        for row in rows {
            let values = columns.iter().map(|c| row.get(c).map_or("", String::as_str));
            csv.write_record(values).map_err(failed)?;
        }
        csv.flush().map_err(Error::io(path))
    })
}

/// A file that was read.
pub(super) struct Sheet {
    path: PathBuf,
    /// Names of the columns, in order.
    pub(super) columns: Vec<String>,
    at: HashMap<String, usize>,
    rows: Vec<csv::StringRecord>,
}

/// One of its rows.
pub(super) struct Line<'a> {
    sheet: &'a Sheet,
    record: &'a csv::StringRecord,
}

impl Sheet {
    pub(super) fn read(path: &Path) -> Result<Self> {
        check_size(path)?;
        let failed = |e: csv::Error| Error::input(format!("{}: {e}", path.display()));
        let mut csv = csv::Reader::from_path(path).map_err(failed)?;
        let columns: Vec<String> =
            csv.headers().map_err(failed)?.iter().map(str::to_owned).collect();
        let rows = csv.records().map(|r| r.map_err(failed)).collect::<Result<_>>()?;
        let at = columns.iter().enumerate().map(|(i, c)| (c.clone(), i)).collect();
        Ok(Sheet { path: path.to_owned(), columns, at, rows })
    }

    /// Refuses other columns than those wanted.
    pub(super) fn check(&self, wanted: &[String]) -> Result<()> {
        let lacks = |a: &[String], b: &[String]| a.iter().find(|c| !b.contains(c)).cloned();
        let what = match (lacks(wanted, &self.columns), lacks(&self.columns, wanted)) {
            (Some(missing), _) => format!("there is no column `{missing}`"),
            (None, Some(more)) => format!("nothing is known of the column `{more}`"),
            (None, None) if self.at.len() != self.columns.len() => "a column is there twice".into(),
            (None, None) => return Ok(()),
        };
        Err(self.bad(&what))
    }

    pub(super) fn bad(&self, what: &str) -> Error {
        Error::input(format!("{}: {what}", self.path.display()))
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.rows.iter().map(|record| Line { sheet: self, record })
    }

    /// How many of the columns `NAME#1`, `NAME#2`, … there are.
    pub(super) fn parts(&self, name: &str) -> usize {
        (1..).take_while(|i| self.at.contains_key(&part(name, *i))).count()
    }
}

/// The column of a metric's part with one of several concepts, counted from 1.
pub(super) fn part(name: &str, number: usize) -> String {
    format!("{name}#{number}")
}

impl Line<'_> {
    /// What stands in a column; nothing where there is no such column.
    pub(super) fn text(&self, column: &str) -> &str {
        self.sheet.at.get(column).and_then(|&at| self.record.get(at)).unwrap_or_default()
    }

    pub(super) fn get<T: FromStr>(&self, column: &str) -> std::result::Result<T, String> {
        let text = self.text(column);
        text.parse().map_err(|_| format!("`{column}` is {text:?}"))
    }

    /// A value that may be missing.
    pub(super) fn optional<T: FromStr>(
        &self,
        column: &str,
    ) -> std::result::Result<Option<T>, String> {
        match self.text(column) {
            "" => Ok(None),
            _ => self.get(column).map(Some),
        }
    }
}

/// Refuses a file that is missing or far too large, before it is read.
pub(super) fn check_size(path: &Path) -> Result<()> {
    let size = std::fs::metadata(path).map_err(Error::io(path))?.len();
    if size > LARGEST {
        let message = format!("{}: {size} bytes are no results", path.display());
        return Err(Error::input(message));
    }
    Ok(())
}
