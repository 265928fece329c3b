//! Results as files: `results.csv` (a row a cell), `images.csv` (a row an image), `report.json` (what
//! they have in common).

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::results::{Cell, ImageRow, Results};
use crate::metrics::{Estimate, Kid};
use crate::{Error, Result, safefile};

/// Of `report.json`.
const VERSION: u32 = 1;
/// Files above this are not results.
const LARGEST: u64 = 1 << 30;
/// Between the values of a field that holds several.
const LIST: &str = ";";

impl Results {
    /// What [`Results::write`] writes.
    pub const FILES: [&str; 3] = ["results.csv", "images.csv", "report.json"];

    /// Writes `results.csv`, `images.csv` and `report.json` into `folder`.
    ///
    /// # Errors
    /// A name with the list separator in it; a file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let cells =
            self.cells.iter().map(|c| CellRecord::new(self, c)).collect::<Result<Vec<_>>>()?;
        write_csv(&folder.join("results.csv"), &cells)?;
        let images: Vec<_> = self.images.iter().map(ImageRecord::new).collect();
        write_csv(&folder.join("images.csv"), &images)?;
        let header = Header {
            version: VERSION,
            experiment: self.experiment.clone(),
            title: self.title.clone(),
            scale: self.scale.clone(),
            protocol: self.protocol.clone(),
            protocol_text: self.protocol_text.clone(),
            table: self.table.clone(),
            failed: self.failed.clone(),
        };
        let mut json = serde_json::to_string_pretty(&header).expect("strings and numbers");
        json.push('\n');
        safefile::write(&folder.join("report.json"), json)
    }

    /// Reads what [`Results::write`] wrote.
    ///
    /// # Errors
    /// A file that is missing, damaged, or of a newer version; files that do not fit together.
    pub fn read(folder: &Path) -> Result<Results> {
        let path = folder.join("report.json");
        let bad = |what: String| Error::input(format!("{}: {what}", path.display()));
        check_size(&path)?;
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let header: Header = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if header.version != VERSION {
            return Err(bad(format!("version {} where {VERSION} is read", header.version)));
        }
        let path = folder.join("results.csv");
        let bad = |what: String| Error::input(format!("{}: {what}", path.display()));
        let mut cells = vec![];
        let mut ids = HashMap::new();
        for record in read_csv::<CellRecord>(&path)? {
            if record.protocol != header.protocol {
                let (cell, p, q) = (&record.cell, &record.protocol, &header.protocol);
                return Err(bad(format!("cell {cell}: protocol {p}, report.json has {q}")));
            }
            let cell = record.cell().map_err(bad)?;
            if ids.insert(cell.id.clone(), cell.concepts.len()).is_some() {
                return Err(bad(format!("cell {} is there twice", cell.id)));
            }
            cells.push(cell);
        }
        let path = folder.join("images.csv");
        let bad = |what: String| Error::input(format!("{}: {what}", path.display()));
        let mut images = vec![];
        let mut seen = HashSet::new();
        for (i, record) in read_csv::<ImageRecord>(&path)?.into_iter().enumerate() {
            let line = i + 2;
            let image = record.image().map_err(|e| bad(format!("row {line}: {e}")))?;
            let Some(&concepts) = ids.get(&image.cell) else {
                return Err(bad(format!("row {line}: no cell {} in results.csv", image.cell)));
            };
            if image.image.len() != concepts {
                let found = image.image.len();
                return Err(bad(format!(
                    "row {line}: {found} image alignments, {concepts} concepts"
                )));
            }
            if !seen.insert((image.cell.clone(), image.prompt, image.seed)) {
                let (p, s) = (image.prompt, image.seed);
                return Err(bad(format!("row {line}: prompt {p} with seed {s} is there twice")));
            }
            images.push(image);
        }
        let Header { experiment, title, scale, protocol, protocol_text, table, failed, .. } =
            header;
        Ok(Results {
            experiment,
            title,
            scale,
            protocol,
            protocol_text,
            table,
            cells,
            images,
            failed,
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
    table: Option<String>,
    failed: Vec<(String, String)>,
}

/// A row of `results.csv`: flat, for any tool that plots.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CellRecord {
    experiment: String,
    scale: String,
    protocol: String,
    cell: String,
    group: String,
    concepts: String,
    method: String,
    label: String,
    paper_row: Option<String>,
    anchor: bool,
    seed: u64,
    text: Option<f64>,
    text_se: Option<f64>,
    text_low: Option<f64>,
    text_high: Option<f64>,
    image: Option<f64>,
    image_se: Option<f64>,
    image_low: Option<f64>,
    image_high: Option<f64>,
    image_each: String,
    image_each_se: String,
    image_each_low: String,
    image_each_high: String,
    kid: Option<f64>,
    kid_std: Option<f64>,
    kid_se: Option<f64>,
    kid_se_generated: Option<f64>,
    kid_subsets: Option<usize>,
    kid_m: Option<usize>,
    kid_generated: Option<usize>,
    kid_real: Option<usize>,
    images: usize,
    prompts: usize,
    steps: u64,
    train_seconds: f64,
    stored_bytes: u64,
    peak_mb: f64,
    #[serde(default)]
    jobs: usize,
}

impl CellRecord {
    fn new(results: &Results, c: &Cell) -> Result<Self> {
        if let Some(name) = c.concepts.iter().find(|n| n.contains(LIST) || n.is_empty()) {
            let message = format!("concept {name:?}: a name may not be empty or hold {LIST:?}");
            return Err(Error::input(message));
        }
        let each = |pick: fn(&Estimate) -> f64| join(c.image_each.iter().map(pick));
        let (text, image, kid) = (c.text.as_ref(), c.image.as_ref(), c.kid.as_ref());
        Ok(CellRecord {
            experiment: results.experiment.clone(),
            scale: results.scale.clone(),
            protocol: results.protocol.clone(),
            cell: c.id.clone(),
            group: c.group.clone(),
            concepts: c.concepts.join(LIST),
            method: c.method.clone(),
            label: c.label.clone(),
            paper_row: c.paper_row.clone(),
            anchor: c.anchor,
            seed: c.seed,
            text: text.map(|e| e.mean),
            text_se: text.map(|e| e.se),
            text_low: text.map(|e| e.low),
            text_high: text.map(|e| e.high),
            image: image.map(|e| e.mean),
            image_se: image.map(|e| e.se),
            image_low: image.map(|e| e.low),
            image_high: image.map(|e| e.high),
            image_each: each(|e| e.mean),
            image_each_se: each(|e| e.se),
            image_each_low: each(|e| e.low),
            image_each_high: each(|e| e.high),
            kid: kid.map(|k| k.mean),
            kid_std: kid.map(|k| k.std),
            kid_se: kid.map(|k| k.se),
            kid_se_generated: kid.map(|k| k.se_generated),
            kid_subsets: kid.map(|k| k.subsets),
            kid_m: kid.map(|k| k.m),
            kid_generated: kid.map(|k| k.n[0]),
            kid_real: kid.map(|k| k.n[1]),
            images: c.images,
            prompts: c.prompts,
            steps: c.steps,
            train_seconds: c.train_seconds,
            stored_bytes: c.stored_bytes,
            peak_mb: c.peak_mb,
            jobs: c.jobs,
        })
    }

    fn cell(&self) -> std::result::Result<Cell, String> {
        let at = |e| format!("cell {}: {e}", self.cell);
        let (n, groups) = (self.images, self.prompts);
        let one = |values: [Option<f64>; 4]| match values {
            [Some(mean), Some(se), Some(low), Some(high)] if !mean.is_nan() => {
                Ok(Some(Estimate { mean, se, low, high, n, groups }))
            }
            [None, None, None, None] => Ok(None),
            _ => Err(at("an estimate is incomplete")),
        };
        let lists =
            [&self.image_each, &self.image_each_se, &self.image_each_low, &self.image_each_high];
        let [mean, se, low, high] = lists.map(|l| split(l));
        let (mean, se, low, high) = (mean?, se?, low?, high?);
        if [&se, &low, &high].iter().any(|l| l.len() != mean.len()) {
            return Err(at("image_each: lists of different lengths"));
        }
        let each =
            |i: usize| Estimate { mean: mean[i], se: se[i], low: low[i], high: high[i], n, groups };
        let kid = match (self.kid, self.kid_std, self.kid_se, self.kid_se_generated) {
            (Some(mean), Some(std), Some(se), Some(se_generated)) => Some(Kid {
                mean,
                std,
                se,
                se_generated,
                subsets: self.kid_subsets.ok_or_else(|| at("kid_subsets is missing"))?,
                m: self.kid_m.ok_or_else(|| at("kid_m is missing"))?,
                n: [self.kid_generated, self.kid_real].map(Option::unwrap_or_default),
            }),
            (None, None, None, None) => None,
            _ => return Err(at("kid is incomplete")),
        };
        Ok(Cell {
            id: self.cell.clone(),
            group: self.group.clone(),
            concepts: self
                .concepts
                .split(LIST)
                .filter(|c| !c.is_empty())
                .map(str::to_owned)
                .collect(),
            method: self.method.clone(),
            label: self.label.clone(),
            paper_row: self.paper_row.clone(),
            anchor: self.anchor,
            seed: self.seed,
            text: one([self.text, self.text_se, self.text_low, self.text_high])?,
            image: one([self.image, self.image_se, self.image_low, self.image_high])?,
            image_each: (0..mean.len()).map(each).collect(),
            kid,
            images: self.images,
            prompts: self.prompts,
            steps: self.steps,
            train_seconds: self.train_seconds,
            stored_bytes: self.stored_bytes,
            peak_mb: self.peak_mb,
            jobs: self.jobs,
        })
    }
}

/// A row of `images.csv`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageRecord {
    cell: String,
    prompt: usize,
    text_prompt: String,
    seed: u64,
    text: f64,
    image: f64,
    image_each: String,
    file: String,
}

impl ImageRecord {
    fn new(i: &ImageRow) -> Self {
        ImageRecord {
            cell: i.cell.clone(),
            prompt: i.prompt,
            text_prompt: i.text_prompt.clone(),
            seed: i.seed,
            text: i.text,
            image: i.image_mean(),
            image_each: join(i.image.iter().copied()),
            file: i.file.clone(),
        }
    }

    fn image(self) -> std::result::Result<ImageRow, String> {
        let image = split(&self.image_each)?;
        if !self.text.is_finite() || !image.iter().all(|x| x.is_finite()) {
            return Err("an alignment that is not finite".into());
        }
        let ImageRecord { cell, prompt, text_prompt, seed, text, file, .. } = self;
        Ok(ImageRow { cell, prompt, text_prompt, seed, text, image, file })
    }
}

/// Values in the fewest digits that read back the same.
fn join(values: impl Iterator<Item = f64>) -> String {
    values.map(|v| v.to_string()).collect::<Vec<_>>().join(LIST)
}

fn split(list: &str) -> std::result::Result<Vec<f64>, String> {
    let parse = |x: &str| x.parse::<f64>().map_err(|_| format!("{x:?} is no number"));
    list.split(LIST).filter(|x| !x.is_empty()).map(parse).collect()
}

fn write_csv<T: Serialize>(path: &Path, records: &[T]) -> Result<()> {
    safefile::write_with(path, |out| {
        let failed = |e: csv::Error| match e.into_kind() {
            csv::ErrorKind::Io(source) => Error::io(path)(source),
            other => Error::input(format!("{}: {other:?}", path.display())),
        };
        let mut csv = csv::Writer::from_writer(out);
        for record in records {
            csv.serialize(record).map_err(failed)?;
        }
        csv.flush().map_err(Error::io(path))
    })
}

fn read_csv<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    check_size(path)?;
    let failed = |e: csv::Error| Error::input(format!("{}: {e}", path.display()));
    let mut csv = csv::Reader::from_path(path).map_err(failed)?;
    csv.deserialize().map(|record| record.map_err(failed)).collect()
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
