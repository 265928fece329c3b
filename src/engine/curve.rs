//! The curve of a training: loss, learning rate and gradients after each step, as a file below the store's
//! `curves/`. It is no part of the checkpoint: what a method has to store is measured, and a curve that is lost
//! takes nothing with it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::stage::Stage;
use super::store::Store;
use crate::train::Progress;
use crate::{Error, Result, process, safefile};

/// How a training stood after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Steps done.
    pub step: u64,
    /// When, in seconds since 1970.
    pub time: f64,
    /// The loss of the step's batch.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// The norm of the gradients before clipping.
    pub grad_norm: f64,
}

/// The columns of the file.
const HEADER: &str = "step,time,loss,lr,grad_norm\n";

impl Point {
    fn now(progress: &Progress) -> Self {
        let &Progress { step, loss, lr, grad_norm, .. } = progress;
        // milliseconds are enough, and fit into a column
        Point { step, time: process::since_1970().as_millis() as f64 / 1e3, loss, lr, grad_norm }
    }

    fn line(&self) -> String {
        let Point { step, time, loss, lr, grad_norm } = self;
        format!("{step},{time},{loss},{lr},{grad_norm}\n")
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(',');
        let step = fields.next()?.parse().ok()?;
        let mut number = || fields.next()?.parse().ok();
        let (time, loss, lr, grad_norm) = (number()?, number()?, number()?, number()?);
        Some(Point { step, time, loss, lr, grad_norm })
    }
}

/// The points of a training that the store has, in order of their steps.
pub fn curve(store: &Store, training: &Stage) -> Vec<Point> {
    read(&path(store, training))
}

fn path(store: &Store, training: &Stage) -> PathBuf {
    store.root().join("curves").join(format!("{}.csv", training.key.short()))
}

fn read(path: &Path) -> Vec<Point> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // a line without an end was cut
    let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let mut points: Vec<Point> = vec![];
    for point in lines.filter_map(Point::parse) {
        if points.last().is_none_or(|last| last.step < point.step) {
            points.push(point);
        }
    }
    points
}

/// Writes the curve of a training while it runs.
pub(super) struct Curve<'a> {
    name: &'a str,
    path: PathBuf,
    file: Option<File>,
    failed: bool,
}

impl<'a> Curve<'a> {
    pub fn new(store: &Store, training: &'a Stage) -> Self {
        Curve { name: &training.name, path: path(store, training), file: None, failed: false }
    }

    /// Adds a step. The first of a run takes the place of what an interrupted one had beyond it. A curve
    /// that cannot be written is said once, and no reason to stop.
    pub fn add(&mut self, progress: &Progress) -> Point {
        let point = Point::now(progress);
        if !self.failed
            && let Err(e) = self.write(&point)
        {
            tracing::warn!("{}: its curve is not kept from here: {e}", self.name);
            self.failed = true;
        }
        point
    }

    fn write(&mut self, point: &Point) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let mut before = read(&self.path);
                before.retain(|p| p.step < point.step);
                let (kept, due) = (before.len() as u64, point.step - 1);
                if kept < due {
                    let lacking = due - kept;
                    tracing::warn!(
                        "{}: of the {due} steps that were done before, {lacking} left no loss: its curve has a gap",
                        self.name
                    );
                }
                let lines: String = before.iter().map(Point::line).collect();
                safefile::write(&self.path, format!("{HEADER}{lines}"))?;
                let file = File::options().append(true).open(&self.path);
                self.file.insert(file.map_err(Error::io(&self.path))?)
            }
        };
        file.write_all(point.line().as_bytes()).map_err(Error::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(step: u64) -> Progress {
        Progress {
            step,
            steps: 9,
            loss: 1.0 / step as f64,
            lr: 1e-5,
            grad_norm: 0.1 + 0.2,
            seconds: 1.0,
            total_seconds: step as f64,
        }
    }

    fn curve(path: &Path) -> Curve<'static> {
        Curve { name: "train", path: path.to_owned(), file: None, failed: false }
    }

    #[test]
    fn a_training_that_goes_on_has_each_step_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("curves/c.csv");
        let mut first = curve(&path);
        let points: Vec<Point> = (1..=5).map(|step| first.add(&progress(step))).collect();
        assert_eq!(read(&path), points, "the numbers themselves");
        // killed in the middle of a line, and on from a state after step 3
        fs::write(&path, fs::read_to_string(&path).unwrap() + "6,17").unwrap();
        let mut second = curve(&path);
        (4..=9).for_each(|step| assert_eq!(second.add(&progress(step)).step, step));
        let found = read(&path);
        assert_eq!(found.iter().map(|p| p.step).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(found[..3], points[..3]);
        // and from the beginning
        curve(&path).add(&progress(1));
        assert_eq!(read(&path).len(), 1);
    }

    #[test]
    fn a_curve_that_cannot_be_written_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("curves"), "a file").unwrap();
        let mut curve = curve(&dir.path().join("curves/c.csv"));
        assert_eq!(curve.add(&progress(1)).step, 1);
        assert!(curve.failed);
    }
}
