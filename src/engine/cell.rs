//! Cells: the units of a table.

use std::collections::BTreeMap;

use crate::spec::GroupName;

/// One method × concepts × seed.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Of single concepts or of several.
    pub group: GroupName,
    /// `dog_plum`, or a pair's name.
    pub subject: String,
    /// The concepts.
    pub concepts: Vec<String>,
    /// What is shown in the table.
    pub label: String,
    /// The row that it is a point of; the label where the row has no sweep.
    pub series: String,
    /// The values of its row's sweep, by their keys.
    pub place: BTreeMap<String, String>,
    /// The row of the paper's table.
    pub paper: Option<String>,
    /// What it is measured on.
    pub kind: CellKind,
    /// Of training and sampling.
    pub seed: u64,
    /// The number of its scoring stage.
    pub scores: usize,
    /// The number of the stage that makes its checkpoint, if it has one.
    pub checkpoint: Option<usize>,
    /// Training steps, over all that were trained for it.
    pub steps: u64,
}

/// What a cell measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CellKind {
    /// A method's images.
    Method(&'static str),
    /// The images of the backbone as it is.
    Pretrained,
    /// Real images: the ceiling.
    Real,
    /// The training images themselves.
    Copies,
    /// Every prompt drawn by the renderer with the concepts in it: the most that a customisation can
    /// reach. Of concepts of the embedded world alone.
    Truth,
}

impl CellKind {
    /// The method's name, or what stands for it in `--filter`.
    pub fn as_str(&self) -> &'static str {
        match self {
            CellKind::Method(name) => name,
            CellKind::Pretrained => "pretrained",
            CellKind::Real => "real",
            CellKind::Copies => "copies",
            CellKind::Truth => "truth",
        }
    }
}

impl Cell {
    /// For people, and for `--filter`.
    pub fn name(&self) -> String {
        format!("{} · {} · seed {}", self.label, self.subject, self.seed)
    }
}
