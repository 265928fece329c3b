//! TensorBoard's folder of an experiment: a run for each training and for each cell.
//!
//! What is written is made from the store, so that nothing is lost or there twice whatever happened before: a
//! training that goes on, or was finished before anyone asked for a log, has all its points, once.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::events::{Event, EventFile, Image, Shown};
use crate::engine::{Event as Happened, Plan, Point, Stage, Store, Work, curve};
use crate::report::{Cell, ImageRow, Pictures, Results, first_images};
use crate::{Error, Result, process};

/// The pictures of a cell that are shown: the first of so many prompts.
const PROMPTS: usize = 6;
/// The axis along which cells of one sweep are one run.
const STEPS: &str = "steps";

/// Writes a run's event files.
pub struct TensorBoard<'a> {
    root: PathBuf,
    plan: &'a Plan,
    store: &'a Store,
    /// Of the trainings that are running here; none where a file could not be written.
    live: Mutex<HashMap<usize, Option<EventFile>>>,
}

impl<'a> TensorBoard<'a> {
    /// Writes into `root`, which is made, what the store has of the plan's finished trainings. `running`
    /// says of a stage that it is not finished.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(
        root: &Path,
        plan: &'a Plan,
        store: &'a Store,
        running: impl Fn(usize) -> bool,
    ) -> Result<Self> {
        std::fs::create_dir_all(root).map_err(Error::io(root))?;
        let board = TensorBoard { root: root.to_owned(), plan, store, live: Mutex::default() };
        for at in (0..plan.stages.len()).filter(|&at| !running(at)) {
            board.finished(at)?;
        }
        Ok(board)
    }

    /// Where it writes.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Hears what a run does. What cannot be written is said once for a training, and no reason to stop.
    pub fn event(&self, event: &Happened) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let said = |at: usize, done: Result<()>| {
            let Err(error) = done else { return true };
            tracing::warn!("{}: TensorBoard's file: {error}", self.plan.stages[at].name);
            false
        };
        match *event {
            Happened::Step(at, point) => {
                let file = live.entry(at).or_insert_with(|| {
                    let opened = self.begin(at, &point);
                    let mut file = None;
                    said(at, opened.map(|opened| file = Some(opened)));
                    file
                });
                if let Some(open) = file
                    && !said(at, open.add(&shown(&point)))
                {
                    *file = None;
                }
            }
            // another process may have done it
            Happened::Done(at, _) => {
                live.remove(&at);
                said(at, self.finished(at));
            }
            _ => {}
        }
    }

    /// The file of a training whose first step here is `first`, with all before.
    fn begin(&self, at: usize, first: &Point) -> Result<EventFile> {
        let stage = &self.plan.stages[at];
        let mut points = curve(self.store, stage);
        points.retain(|point| point.step < first.step);
        let since = points.first().unwrap_or(first).time;
        let events: Vec<Event> = points.iter().map(shown).collect();
        EventFile::replace(&self.training_folder(stage), since, &events)
    }

    fn finished(&self, at: usize) -> Result<()> {
        let stage = &self.plan.stages[at];
        if !matches!(stage.work, Work::Train { .. }) {
            return Ok(());
        }
        let points = curve(self.store, stage);
        let Some(first) = points.first() else { return Ok(()) };
        let events: Vec<Event> = points.iter().map(shown).collect();
        EventFile::replace(&self.training_folder(stage), first.time, &events).map(drop)
    }

    /// As the stage is called: `train LABEL · CONCEPTS · seed N`.
    fn training_folder(&self, stage: &Stage) -> PathBuf {
        let name = stage.name.strip_prefix("train ").unwrap_or(&stage.name);
        let mut folder = self.root.clone();
        folder.extend(name.split(" · ").map(plain));
        let namesakes = self.plan.stages.iter().filter(|other| other.name == stage.name);
        match namesakes.count() {
            1 => folder.join("training"),
            _ => folder.join(format!("training {}", stage.key.short())),
        }
    }

    /// Writes what was measured and sampled, at the number of training steps: cells that differ in nothing
    /// else are one run.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn results(&self, results: &Results, pictures: &dyn Pictures) -> Result<()> {
        let images = results.by_cell();
        let mut runs = BTreeMap::<PathBuf, Vec<&Cell>>::new();
        for cell in results.cells.iter().filter(|cell| !cell.values.is_empty()) {
            runs.entry(self.cell_folder(cell)).or_default().push(cell);
        }
        for (folder, mut cells) in runs {
            cells.sort_by_key(|cell| cell.steps);
            let none = vec![];
            let of = |cell: &Cell| images.get(cell.id.as_str()).unwrap_or(&none).as_slice();
            let events = cells.iter().map(|cell| measured(cell, of(cell), pictures));
            let events: Vec<Event> = events.collect();
            EventFile::replace(&folder, events[0].wall_time, &events)?;
        }
        Ok(())
    }

    fn cell_folder(&self, cell: &Cell) -> PathBuf {
        let mut name = match cell.place.is_empty() {
            true => cell.label.clone(),
            false => cell.series().to_owned(),
        };
        for (key, value) in cell.place.iter().filter(|(key, _)| *key != STEPS) {
            name += &format!(", {key} = {value}");
        }
        let seed = format!("seed {}", cell.seed);
        self.root.join(plain(&name)).join(plain(&cell.concepts.join(" + "))).join(seed)
    }
}

fn shown(point: &Point) -> Event {
    let number = |tag: &str, value: f64| (tag.to_owned(), Shown::Number(value as f32));
    let values = vec![
        number("training/loss", point.loss),
        number("training/learning rate", point.lr),
        number("training/gradient norm", point.grad_norm),
    ];
    Event::at(point.step, point.time, values)
}

/// What was measured of a cell, and the first pictures of its prompts. Its time is that of the last of
/// these: files of the same results are the same.
fn measured(cell: &Cell, images: &[&ImageRow], pictures: &dyn Pictures) -> Event {
    let values = cell.values.iter().map(|(name, value)| (name, value.estimate().mean));
    let mut all: Vec<(String, Shown)> = values
        .filter(|(_, value)| value.is_finite())
        .map(|(name, value)| (format!("measures/{name}"), Shown::Number(value as f32)))
        .collect();
    let mut time: f64 = 0.0;
    for image in first_images(images, PROMPTS) {
        let Some(file) = pictures.file(image) else { continue };
        let Some(picture) = picture(&file) else { continue };
        all.push((format!("samples/{}", image.text_prompt), picture));
        time = time.max(changed(&file));
    }
    Event::at(cell.steps, time, all)
}

fn picture(file: &Path) -> Option<Shown> {
    let encoded = std::fs::read(file).ok()?;
    let reader = image::ImageReader::new(Cursor::new(&encoded)).with_guessed_format().ok()?;
    let (width, height) = reader.into_dimensions().ok()?;
    Some(Shown::Image(Image {
        height: i32::try_from(height).ok()?,
        width: i32::try_from(width).ok()?,
        colorspace: 3,
        encoded,
    }))
}

/// When a file was written, in seconds since 1970.
fn changed(file: &Path) -> f64 {
    std::fs::metadata(file).map_or(0.0, |meta| process::changed_since_1970(&meta).as_secs_f64())
}

/// A folder's name in which nothing is a path, and which nobody hides.
fn plain(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || " -_=+,.()&%".contains(c) { c } else { '_' };
    let name: String = name.chars().map(plain).collect();
    match name.trim_matches([' ', '.']) {
        "" => "_".into(),
        name => name.to_owned(),
    }
}
