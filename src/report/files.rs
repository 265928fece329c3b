//! Results as files: `results.csv` (a row a cell), `images.csv` (a row an image), `report.json` (what
//! they have in common).
//!
//! A metric has a column of its own name, and beside it those that say how sure it is; with each of
//! several concepts it has `NAME#1`, `NAME#2`, …

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::results::{Cell, CellValue, ImageRow, Results};
use super::sheet::{self, Line, Row, Sheet, check_size, part};
use crate::metrics::{Estimate, Metric, SetValue};
use crate::{Error, Result, safefile};

/// Of `report.json`.
const VERSION: u32 = 3;
/// Between the values of a field that holds several.
const LIST: &str = ";";
/// The columns of `results.csv` before those of the metrics.
const CELL: [&str; 20] = [
    "experiment",
    "scale",
    "protocol",
    "cell",
    "group",
    "concepts",
    "method",
    "label",
    "series",
    "sweep",
    "paper_row",
    "anchor",
    "seed",
    "images",
    "prompts",
    "steps",
    "train_seconds",
    "stored_bytes",
    "peak_mb",
    "jobs",
];
/// Those of `images.csv`.
const IMAGE: [&str; 7] = ["cell", "of", "prompt", "text_prompt", "seed", "file", "maps"];
/// Behind the name of a metric of images, and of its parts.
const ESTIMATE: [&str; 6] = ["", ".se", ".low", ".high", ".n", ".groups"];
/// Behind the name of a metric of sets.
const SET: [&str; 5] = ["", ".se", ".se_images", ".n", ".counts"];

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Values {
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number that is not negative.
    Count,
    Number,
}

/// What a column of `results.csv` or `images.csv` holds, by its name.
pub(super) fn values_of(column: &str) -> Values {
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| column.ends_with(suffix));
    match column {
        "anchor" => Values::Flag,
        "seed" | "images" | "prompts" | "prompt" | "steps" | "stored_bytes" | "jobs" => {
            Values::Count
        }
        "train_seconds" | "peak_mb" => Values::Number,
        _ if CELL.contains(&column) || IMAGE.contains(&column) || ends(&[".counts"]) => {
            Values::Text
        }
        _ if ends(&[".n", ".groups"]) => Values::Count,
        _ => Values::Number,
    }
}

type Read<T> = std::result::Result<T, String>;

impl Results {
    /// What [`Results::write`] writes.
    pub const FILES: [&str; 3] = ["results.csv", "images.csv", "report.json"];

    /// Writes `results.csv`, `images.csv` and `report.json` into `folder`.
    ///
    /// # Errors
    /// A name with the list separator in it; a file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let (columns, rows) = self.cell_rows()?;
        sheet::write(&folder.join("results.csv"), &columns, &rows)?;
        let (columns, rows) = self.image_rows();
        sheet::write(&folder.join("images.csv"), &columns, &rows)?;

        let header = Header {
            version: VERSION,
            experiment: self.experiment.clone(),
            title: self.title.clone(),
            scale: self.scale.clone(),
            protocol: self.protocol.clone(),
            protocol_text: self.protocol_text.clone(),
            evaluations: self.evaluations.clone(),
            table: self.table.clone(),
            study: self.study.clone(),
            metrics: self.metrics.clone(),
            failed: self.failed.clone(),
        };
        let mut json = serde_json::to_string_pretty(&header).expect("strings and numbers");
        json.push('\n');
        safefile::write(&folder.join("report.json"), json)
    }

    /// The columns of `results.csv`, and its rows.
    pub(super) fn cell_rows(&self) -> Result<(Vec<String>, Vec<Row>)> {
        let of_cell = |c: &Cell, name: &str| match c.values.get(name) {
            Some(CellValue::Mean { parts, .. }) => parts.len(),
            _ => 0,
        };
        let columns = cell_columns(&self.metrics, |name| {
            self.cells.iter().map(|c| of_cell(c, name)).max().unwrap_or(0)
        });
        let rows = self.cells.iter().map(|c| cell_row(self, c)).collect::<Result<Vec<_>>>()?;
        Ok((columns, rows))
    }

    /// The columns of `images.csv`, and its rows.
    pub(super) fn image_rows(&self) -> (Vec<String>, Vec<Row>) {
        let of_image = |i: &ImageRow, name: &str| i.values.get(name).map_or(0, Vec::len);
        let columns = image_columns(&self.metrics, |name| {
            let most = self.images.iter().map(|i| of_image(i, name)).max().unwrap_or(0);
            if most > 1 { most } else { 0 }
        });
        (columns, self.images.iter().map(image_row).collect())
    }

    /// Reads what [`Results::write`] wrote.
    ///
    /// # Errors
    /// A file that is missing, damaged, or of another version; files that do not fit together.
    pub fn read(folder: &Path) -> Result<Results> {
        let path = folder.join("report.json");
        let bad = |what: String| Error::input(format!("{}: {what}", path.display()));
        check_size(&path)?;
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let version: Version = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if version.version != VERSION {
            return Err(bad(format!("version {} where {VERSION} is read", version.version)));
        }
        let header: Header = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;

        let sheet = Sheet::read(&folder.join("results.csv"))?;
        sheet.check(&cell_columns(&header.metrics, |name| sheet.parts(name)))?;
        let mut cells = vec![];
        let mut ids = HashMap::new();
        for line in sheet.lines() {
            let (id, protocol) = (line.text("cell"), line.text("protocol"));
            if protocol != header.protocol {
                let wanted = &header.protocol;
                let what = format!("cell {id}: protocol {protocol}, report.json has {wanted}");
                return Err(sheet.bad(&what));
            }
            let cell = read_cell(&line, &header.metrics);
            let cell = cell.map_err(|e| sheet.bad(&format!("cell {id}: {e}")))?;
            if ids.insert(cell.id.clone(), cell.concepts.len()).is_some() {
                return Err(sheet.bad(&format!("cell {id} is there twice")));
            }
            cells.push(cell);
        }

        let sheet = Sheet::read(&folder.join("images.csv"))?;
        sheet.check(&image_columns(&header.metrics, |name| sheet.parts(name)))?;
        let mut images = vec![];
        let mut seen = HashSet::new();
        for (i, line) in sheet.lines().enumerate() {
            let bad = |what: String| sheet.bad(&format!("row {}: {what}", i + 2));
            let image = read_image(&line, &header.metrics, &sheet).map_err(bad)?;
            let Some(&concepts) = ids.get(&image.cell) else {
                return Err(bad(format!("no cell {} in results.csv", image.cell)));
            };
            if let Some((name, parts)) = image.values.iter().find(|(_, v)| v.len() > concepts) {
                let found = parts.len();
                return Err(bad(format!("{found} values of {name} for {concepts} concepts")));
            }
            if !seen.insert((image.cell.clone(), image.prompt, image.seed)) {
                let (p, s) = (image.prompt, image.seed);
                return Err(bad(format!("prompt {p} with seed {s} is there twice")));
            }
            images.push(image);
        }
        Ok(Results {
            experiment: header.experiment,
            title: header.title,
            scale: header.scale,
            protocol: header.protocol,
            protocol_text: header.protocol_text,
            evaluations: header.evaluations,
            table: header.table,
            study: header.study,
            metrics: header.metrics,
            cells,
            images,
            failed: header.failed,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    experiment: String,
    title: String,
    scale: String,
    protocol: String,
    protocol_text: String,
    #[serde(default)]
    evaluations: BTreeMap<String, String>,
    table: Option<String>,
    study: Vec<String>,
    metrics: Vec<Metric>,
    failed: Vec<(String, String)>,
}

/// What every version of the file has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

fn columns_of(name: &str, suffixes: &[&str]) -> Vec<String> {
    suffixes.iter().map(|suffix| format!("{name}{suffix}")).collect()
}

fn cell_columns(metrics: &[Metric], parts: impl Fn(&str) -> usize) -> Vec<String> {
    let mut columns = CELL.map(str::to_owned).to_vec();
    for metric in metrics {
        if !metric.of_images() {
            columns.extend(columns_of(&metric.name, &SET));
            continue;
        }
        columns.extend(columns_of(&metric.name, &ESTIMATE));
        for i in 1..=parts(&metric.name) {
            columns.extend(columns_of(&part(&metric.name, i), &ESTIMATE));
        }
    }
    columns
}

fn image_columns(metrics: &[Metric], parts: impl Fn(&str) -> usize) -> Vec<String> {
    let mut columns = IMAGE.map(str::to_owned).to_vec();
    for metric in metrics.iter().filter(|m| m.of_images()) {
        columns.push(metric.name.clone());
        columns.extend((1..=parts(&metric.name)).map(|i| part(&metric.name, i)));
    }
    columns
}

fn cell_row(results: &Results, c: &Cell) -> Result<Row> {
    if let Some(name) = c.concepts.iter().find(|n| n.contains(LIST) || n.is_empty()) {
        let message = format!("concept {name:?}: a name may not be empty or hold {LIST:?}");
        return Err(Error::input(message));
    }
    let sweep: Vec<String> = c.place.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if sweep.iter().any(|point| point.contains(LIST)) {
        return Err(Error::input(format!("the sweep {sweep:?}: a value may not hold {LIST:?}")));
    }
    let values = [
        results.experiment.clone(),
        results.scale.clone(),
        results.protocol.clone(),
        c.id.clone(),
        c.group.clone(),
        c.concepts.join(LIST),
        c.method.clone(),
        c.label.clone(),
        c.series.clone(),
        sweep.join(LIST),
        c.paper_row.clone().unwrap_or_default(),
        c.anchor.to_string(),
        c.seed.to_string(),
        c.images.to_string(),
        c.prompts.to_string(),
        c.steps.to_string(),
        c.train_seconds.to_string(),
        c.stored_bytes.to_string(),
        c.peak_mb.to_string(),
        c.jobs.to_string(),
    ];
    let mut row: Row = CELL.map(str::to_owned).into_iter().zip(values).collect();
    let mut estimate = |name: &str, e: &Estimate| {
        let Estimate { mean, se, low, high, n, groups } = e;
        let numbers = [mean, se, low, high].map(f64::to_string);
        let counts = [n, groups].map(usize::to_string);
        row.extend(columns_of(name, &ESTIMATE).into_iter().zip(numbers.into_iter().chain(counts)));
    };
    let mut sets = vec![];
    for (name, value) in &c.values {
        match value {
            CellValue::Mean { mean, parts } => {
                estimate(name, mean);
                parts.iter().enumerate().for_each(|(i, e)| estimate(&part(name, i + 1), e));
            }
            CellValue::Set(set) => sets.push((name, set)),
        }
    }
    for (name, set) in sets {
        let number = |x: Option<f64>| x.map(|x| x.to_string()).unwrap_or_default();
        let counts: Vec<String> = set.counts.iter().map(|(k, n)| format!("{k}={n}")).collect();
        let values = [
            set.value.to_string(),
            number(set.se),
            number(set.se_images),
            set.n.to_string(),
            counts.join(LIST),
        ];
        row.extend(columns_of(name, &SET).into_iter().zip(values));
    }
    Ok(row)
}

fn read_cell(line: &Line, metrics: &[Metric]) -> Read<Cell> {
    let text = |column: &str| line.text(column).to_owned();
    let mut cell = Cell {
        id: text("cell"),
        group: text("group"),
        concepts: text("concepts")
            .split(LIST)
            .filter(|c| !c.is_empty())
            .map(str::to_owned)
            .collect(),
        method: text("method"),
        label: text("label"),
        series: text("series"),
        place: read_place(line.text("sweep"))?,
        paper_row: Some(text("paper_row")).filter(|label| !label.is_empty()),
        anchor: line.get("anchor")?,
        seed: line.get("seed")?,
        values: BTreeMap::new(),
        images: line.get("images")?,
        prompts: line.get("prompts")?,
        steps: line.get("steps")?,
        train_seconds: line.get("train_seconds")?,
        stored_bytes: line.get("stored_bytes")?,
        peak_mb: line.get("peak_mb")?,
        jobs: line.get("jobs")?,
    };
    for metric in metrics {
        let name = &metric.name;
        let value = if metric.of_images() {
            let Some(mean) = read_estimate(line, name)? else { continue };
            let mut parts = vec![];
            while let Some(found) = read_estimate(line, &part(name, parts.len() + 1))? {
                parts.push(found);
            }
            CellValue::Mean { mean, parts }
        } else {
            let Some(set) = read_set(line, name)? else { continue };
            CellValue::Set(set)
        };
        cell.values.insert(name.clone(), value);
    }
    Ok(cell)
}

/// The values of a sweep.
fn read_place(text: &str) -> Read<BTreeMap<String, String>> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("`sweep` is {text:?}"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    text.split(LIST).filter(|pair| !pair.is_empty()).map(pair).collect()
}

/// None where its columns are not there or all empty.
fn read_estimate(line: &Line, name: &str) -> Read<Option<Estimate>> {
    let columns = columns_of(name, &ESTIMATE);
    if columns.iter().all(|c| line.text(c).is_empty()) {
        return Ok(None);
    }
    let number = |i: usize| line.get::<f64>(&columns[i]);
    let found = Estimate {
        mean: number(0)?,
        se: number(1)?,
        low: number(2)?,
        high: number(3)?,
        n: line.get(&columns[4])?,
        groups: line.get(&columns[5])?,
    };
    match found.mean.is_nan() {
        true => Err(format!("`{name}` is not a number")),
        false => Ok(Some(found)),
    }
}

fn read_set(line: &Line, name: &str) -> Read<Option<SetValue>> {
    let columns = columns_of(name, &SET);
    if columns.iter().all(|c| line.text(c).is_empty()) {
        return Ok(None);
    }
    let count = |pair: &str| {
        let (key, n) = pair.split_once('=')?;
        Some((key.to_owned(), n.parse().ok()?))
    };
    let counts = line.text(&columns[4]);
    let set = SetValue {
        value: line.get(&columns[0])?,
        se: line.optional(&columns[1])?,
        se_images: line.optional(&columns[2])?,
        n: line.get(&columns[3])?,
        counts: counts
            .split(LIST)
            .filter(|pair| !pair.is_empty())
            .map(|pair| count(pair).ok_or_else(|| format!("`{}` is {counts:?}", columns[4])))
            .collect::<Read<_>>()?,
    };
    match set.is_finite() {
        true => Ok(Some(set)),
        false => Err(format!("`{name}` is not finite")),
    }
}

fn image_row(i: &ImageRow) -> Row {
    let values = [
        i.cell.clone(),
        i.of.clone(),
        i.prompt.to_string(),
        i.text_prompt.clone(),
        i.seed.to_string(),
        i.file.clone(),
        i.maps.clone(),
    ];
    let mut row: Row = IMAGE.map(str::to_owned).into_iter().zip(values).collect();
    for (name, parts) in &i.values {
        row.extend(i.value(name).map(|v| (name.clone(), v.to_string())));
        if parts.len() > 1 {
            row.extend(parts.iter().enumerate().map(|(i, v)| (part(name, i + 1), v.to_string())));
        }
    }
    row
}

fn read_image(line: &Line, metrics: &[Metric], sheet: &Sheet) -> Read<ImageRow> {
    let mut values = BTreeMap::new();
    for name in metrics.iter().filter(|m| m.of_images()).map(|m| &m.name) {
        let parts = (1..=sheet.parts(name)).map(|i| line.optional::<f64>(&part(name, i)));
        let mut parts: Vec<f64> = parts.collect::<Read<Vec<_>>>()?.into_iter().flatten().collect();
        if parts.is_empty() {
            parts.extend(line.optional::<f64>(name)?);
        }
        if parts.iter().any(|v| !v.is_finite()) {
            return Err(format!("`{name}` is not finite"));
        }
        if !parts.is_empty() {
            values.insert(name.clone(), parts);
        }
    }
    Ok(ImageRow {
        cell: line.text("cell").to_owned(),
        of: line.text("of").to_owned(),
        prompt: line.get("prompt")?,
        text_prompt: line.text("text_prompt").to_owned(),
        seed: line.get("seed")?,
        values,
        file: line.text("file").to_owned(),
        maps: line.text("maps").to_owned(),
    })
}
