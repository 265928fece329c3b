//! What a cell's images are worth.

use std::path::Path;

use image::RgbImage;
use ndarray::{Array2, ArrayView2, Axis, concatenate};
use serde::{Deserialize, Serialize};

use super::cell::CellKind;
use crate::clip::Embed;
use crate::data::Concept;
use crate::metrics::{self, KID_SUBSET, KID_SUBSETS, Kid};
use crate::{Error, Result};

/// A cell's metrics, image by image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scores {
    /// Text alignment of each image; empty where there is no text.
    pub text: Vec<f64>,
    /// Image alignment of each image with each concept's targets: `[concept][image]`.
    pub image: Vec<Vec<f64>>,
    /// Of which prompt each image is.
    pub groups: Vec<usize>,
    /// The images' files, relative to the store; empty for real images.
    pub files: Vec<String>,
    /// The images' seeds.
    pub seeds: Vec<u64>,
    /// Distance from real images.
    pub kid: Option<Kid>,
}

/// Of the subsets of every KID.
const KID_SEED: u64 = 2020;

/// Images to judge.
pub struct Judged<'a> {
    /// Whose they are.
    pub kind: &'a CellKind,
    /// What the concepts' targets are.
    pub concepts: &'a [&'a Concept],
    /// Images of the prompts, with their files and seeds.
    pub images: Vec<RgbImage>,
    #[allow(missing_docs)]
    pub files: Vec<String>,
    #[allow(missing_docs)]
    pub seeds: Vec<u64>,
    /// Prompts without modifier tokens.
    pub texts: &'a [String],
    /// Of which of them each image is.
    pub groups: &'a [usize],
    /// The images that KID compares, and the real ones with their captions.
    pub kid: Option<(Vec<RgbImage>, Vec<Captioned>)>,
}

/// An image with its caption.
pub type Captioned = (RgbImage, String);

/// Measures.
///
/// # Errors
/// The embedder's.
pub fn score(judged: Judged, embed: &dyn Embed) -> Result<Scores> {
    let features = |images: &[RgbImage]| embed.images(&images.iter().collect::<Vec<_>>());
    let targets: Vec<Array2<f32>> = judged
        .concepts
        .iter()
        .map(|c| embed.images(&c.targets.iter().map(|t| &t.image).collect::<Vec<_>>()))
        .collect::<Result<_>>()?;
    let texts = embed.texts(&judged.texts.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut scores = Scores {
        text: vec![],
        image: vec![],
        groups: judged.groups.to_vec(),
        files: judged.files,
        seeds: judged.seeds,
        kid: None,
    };
    let (mut kid_images, mut real) = (None, None);
    if let Some((side, pictures)) = &judged.kid {
        let (images, captions): (Vec<RgbImage>, Vec<&str>) =
            pictures.iter().map(|(i, c)| (i.clone(), c.as_str())).unzip();
        real = Some((features(&images)?, captions));
        kid_images = Some(features(side)?);
    }
    match judged.kind {
        CellKind::Method(_) | CellKind::Pretrained | CellKind::Truth => {
            let images = features(&judged.images)?;
            let own = texts.select(Axis(0), judged.groups);
            scores.text = metrics::text_alignment(images.view(), own.view());
            for targets in &targets {
                scores.image.push(metrics::image_alignment(images.view(), targets.view()));
            }
        }
        CellKind::Real => {
            for targets in &targets {
                scores.image.push(others(targets.view()));
            }
            if let Some((images, captions)) = &real {
                let own = embed.texts(captions)?;
                scores.text = metrics::text_alignment(images.view(), own.view());
            }
        }
        CellKind::Copies => {
            let all: Vec<ArrayView2<f32>> = targets.iter().map(|t| t.view()).collect();
            let copies = concatenate(Axis(0), &all).map_err(|e| Error::input(e.to_string()))?;
            for targets in &targets {
                scores.image.push(metrics::image_alignment(copies.view(), targets.view()));
            }
            // every prompt answered with every copy
            for text in texts.rows() {
                let text = text.insert_axis(Axis(0));
                let text = text.broadcast((copies.nrows(), copies.ncols()));
                let text = text.ok_or_else(|| Error::input("features of different lengths"))?;
                scores.text.extend(metrics::text_alignment(copies.view(), text));
            }
        }
    }
    if let (Some(generated), Some((real, _))) = (kid_images, real) {
        scores.kid =
            Some(metrics::kid(generated.view(), real.view(), KID_SUBSETS, KID_SUBSET, KID_SEED)?);
    }
    Ok(scores)
}

/// Of each image, the mean cosine with all others.
fn others(images: ArrayView2<f32>) -> Vec<f64> {
    let n = images.nrows() as f64;
    // the mean over all counts the image itself, whose cosine is 1
    let all = metrics::image_alignment(images, images);
    if n < 2.0 { vec![] } else { all.into_iter().map(|v| (v * n - 1.0) / (n - 1.0)).collect() }
}

impl Scores {
    /// Reads `scores.json`.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let bad = |what: String| {
            Error::input_hint(
                format!("{}: damaged: {what}", path.display()),
                "delete its folder; it is made again when it is needed",
            )
        };
        let scores: Scores = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        let n = scores.files.len();
        let whole = [scores.text.len(), scores.groups.len(), scores.seeds.len()] == [n; 3]
            && scores.image.iter().all(|each| each.len() == n);
        if n > 0 && !whole {
            return Err(bad("its lists are of different lengths".into()));
        }
        Ok(scores)
    }
}
