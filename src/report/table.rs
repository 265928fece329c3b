//! A table, whatever it is written as.

/// What stands behind a number whose interval [has no width](Number::is_flat), and what it means.
const FLAT: (&str, &str) =
    ("‡", "All values are the same: there is no spread that would tell how sure this is.");

/// What stands behind a number that is [not of all concepts](Number::partial), and what it means.
const PARTIAL: (&str, &str) =
    ("†", "Not of all concepts: some cells failed or were not run. Does not compete.");

/// Columns, and sections of rows with anchors below.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// For labels and file names.
    pub name: &'static str,
    /// What it shows.
    pub caption: String,
    /// Names of the columns, without that of the labels.
    pub columns: Vec<String>,
    /// Its parts.
    pub sections: Vec<Section>,
    /// What is needed to read it: counts, protocol, marks.
    pub notes: Vec<String>,
}

impl Table {
    /// With a note on each sign that stands behind one of its numbers.
    pub fn with_signs_explained(mut self) -> Self {
        let rows = self.sections.iter().flat_map(|s| s.rows.iter().chain(&s.anchors));
        let numbers: Vec<&Number> =
            rows.flat_map(|r| &r.entries).filter_map(Entry::number).collect();
        let signs = [
            (PARTIAL, numbers.iter().any(|n| n.partial)),
            (FLAT, numbers.iter().any(|n| n.is_flat())),
        ];
        let used = signs.into_iter().filter(|(_, used)| *used);
        self.notes.extend(used.map(|((sign, meaning), _)| format!("{sign} {meaning}")));
        self
    }
}

/// A part of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Its title.
    pub title: String,
    /// Methods.
    pub rows: Vec<TableRow>,
    /// What methods are judged by, below the rule.
    pub anchors: Vec<TableRow>,
}

/// A row with an entry for each column.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRow {
    /// Its label.
    pub label: String,
    /// Its entries.
    pub entries: Vec<Entry>,
}

/// What stands in a cell of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A dash.
    Empty,
    /// A word, such as `failed`.
    Text(String),
    /// A number.
    Number(Number),
}

impl Entry {
    /// The number, if it is one.
    pub fn number(&self) -> Option<&Number> {
        match self {
            Entry::Number(number) => Some(number),
            Entry::Empty | Entry::Text(_) => None,
        }
    }
}

/// A number, with what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Number {
    /// The number as it is shown.
    pub value: f64,
    /// Its 95 % interval.
    pub interval: Option<(f64, f64)>,
    /// Digits behind the point.
    pub digits: usize,
    /// With a plus where it is positive.
    pub signed: bool,
    /// How it stands among its column.
    pub mark: Mark,
    /// Not of all concepts of the section.
    pub partial: bool,
}

/// How a number stands among its column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// Neither of these.
    #[default]
    None,
    /// Best, or on one side of zero.
    Strong,
    /// Not told apart from the best.
    Tied,
}

impl Number {
    /// A bare number.
    pub fn new(value: f64, digits: usize) -> Self {
        Number { value, interval: None, digits, signed: false, mark: Mark::None, partial: false }
    }

    /// Whether its interval has no width: all values were the same, which is no certainty.
    pub fn is_flat(&self) -> bool {
        let flat = |(low, high): (f64, f64)| high - low <= 1e-12 * self.value.abs().max(1.0);
        self.interval.is_some_and(flat)
    }

    /// The signs that stand behind it.
    pub fn signs(&self) -> String {
        let flat = if self.is_flat() { FLAT.0 } else { "" };
        let partial = if self.partial { PARTIAL.0 } else { "" };
        format!("{flat}{partial}")
    }

    /// The value, and half the interval's width where it has one, as text.
    pub fn parts(&self) -> (String, Option<String>) {
        let digits = self.digits;
        let mut value = format!("{:.digits$}", self.value);
        // no minus before what is rounded to zero
        if value.starts_with('-') && !value.contains(|c: char| c.is_ascii_digit() && c != '0') {
            value.remove(0);
        }
        if self.signed && self.value > 0.0 {
            value.insert(0, '+');
        }
        let interval = self.interval.filter(|_| !self.is_flat());
        let half = interval.map(|(low, high)| format!("{:.digits$}", (high - low) / 2.0));
        (value, half)
    }
}

/// Writes tables in one format.
pub trait Export {
    /// The ending of its files.
    fn extension(&self) -> &'static str;
    /// What stands before the first table.
    fn head(&self) -> &'static str {
        ""
    }
    /// A table.
    fn table(&self, table: &Table) -> String;
}

/// Several tables as one file's text.
pub fn export(tables: &[Table], format: &dyn Export) -> String {
    let tables: Vec<String> = tables.iter().map(|t| format.table(t)).collect();
    format!("{}{}", format.head(), tables.join("\n"))
}
