//! Any network as an ONNX file, with a few keys that say how its pictures are prepared and where its
//! features come out: an Inception for KID as others have it, or whatever comes next.

use std::path::{Path, PathBuf};

use image::RgbImage;
use ndarray::Array2;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::extractor::Opening;
use super::preprocess::{MAX_SIDE, Resize};
use super::resample::Filter;
use super::tower::ImageTower;
use super::{Embed, Preprocessor};
use crate::{Error, Result};

/// What an experiment says of an ONNX file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// The file. Its input is [batch, 3, height, width].
    pub onnx: PathBuf,
    /// The side that pictures are resized to.
    pub size: u32,
    /// Which sides become `size`.
    #[serde(default)]
    pub resize: Sides,
    /// How.
    #[serde(default)]
    pub filter: FilterName,
    /// Whether shrinking takes all pixels into account, as Pillow does it; without, it is torch's
    /// `interpolate`.
    #[serde(default = "yes")]
    pub antialias: bool,
    /// Whether a resized picture is rounded to eight bits, as Pillow and transformers do it; without, it
    /// is clean-fid's.
    #[serde(default = "yes")]
    pub rounded: bool,
    /// The side of the square cut from the middle; none is cut if not given.
    #[serde(default)]
    pub crop: Option<u32>,
    /// What levels from 0 to 255 are multiplied with.
    #[serde(default = "to_one")]
    pub scale: f64,
    /// What is then subtracted, of red, green and blue.
    #[serde(default)]
    pub mean: [f32; 3],
    /// What that is divided by.
    #[serde(default = "ones")]
    pub std: [f32; 3],
    /// The name of the input; the first if not given.
    #[serde(default)]
    pub input: Option<String>,
    /// The name of the output, [batch, features]; the first if not given.
    #[serde(default)]
    pub output: Option<String>,
}

/// Which sides of a picture are resized to `size`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sides {
    /// Both, whatever the picture's shape.
    #[default]
    Both,
    /// The shorter one.
    Shorter,
    /// None.
    None,
}

/// Names of filters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum FilterName {
    #[default]
    Bicubic,
    Bilinear,
}

fn yes() -> bool {
    true
}

fn to_one() -> f64 {
    1.0 / 255.0
}

fn ones() -> [f32; 3] {
    [1.0; 3]
}

impl FileSpec {
    fn preprocessor(&self) -> Result<Preprocessor> {
        let bad = |key: &str, what: &str| {
            let file = self.onnx.display();
            Err(Error::input(format!("the extractor of {file}: `{key}` {what}")))
        };
        let fits = |side: u32| (1..=MAX_SIDE).contains(&side);
        if !fits(self.size) {
            return bad("size", &format!("is {}, not 1 to {MAX_SIDE}", self.size));
        }
        if self.crop.is_some_and(|side| !fits(side)) {
            return bad("crop", &format!("is not 1 to {MAX_SIDE}"));
        }
        if self.crop.is_none() && self.resize == Sides::Shorter {
            return bad("crop", "is missing: with resize = \"shorter\" pictures keep their shape");
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return bad("scale", "is not positive");
        }
        if !self.mean.iter().all(|m| m.is_finite()) {
            return bad("mean", "is not finite");
        }
        if !self.std.iter().all(|s| s.is_finite() && *s > 0.0) {
            return bad("std", "is not positive");
        }
        Ok(Preprocessor {
            resize: match self.resize {
                Sides::Both => Resize::To([self.size; 2]),
                Sides::Shorter => Resize::Shorter(self.size),
                Sides::None => Resize::No,
            },
            filter: match self.filter {
                FilterName::Bicubic => Filter::Bicubic,
                FilterName::Bilinear => Filter::Bilinear,
            },
            antialias: self.antialias,
            rounded: self.rounded,
            crop: self.crop.map(|side| [side; 2]),
            rescale: self.scale,
            mean: self.mean,
            std: self.std,
            side: self.crop.unwrap_or(self.size),
        })
    }
}

/// An open ONNX file.
pub(super) struct File {
    tower: ImageTower,
    identity: String,
}

impl File {
    /// Opens what `spec` describes, and runs it once to see what it gives.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file or the key; [`Error::Device`] if the runtime or CUDA is asked for
    /// and not there.
    pub fn open(spec: &FileSpec, opening: &Opening) -> Result<Self> {
        let preprocessor = spec.preprocessor()?;
        let mut hash = Sha256::new();
        hash.update(format!("onnx 1\n{preprocessor:?}\n{:?} {:?}\n", spec.input, spec.output));
        hash.update(digest(&spec.onnx)?);
        let identity = format!("{:x}", hash.finalize());
        let names = [spec.input.as_deref(), spec.output.as_deref()];
        let tower = ImageTower::probe(opening, spec.onnx.clone(), names, preprocessor)?;
        Ok(File { tower, identity })
    }
}

fn digest(path: &Path) -> Result<impl AsRef<[u8]>> {
    let mut file = std::fs::File::open(path).map_err(Error::io(path))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(Error::io(path))?;
    Ok(hash.finalize())
}

impl Embed for File {
    fn images(&self, images: &[&RgbImage]) -> Result<Array2<f32>> {
        self.tower.images(images)
    }

    fn identity(&self) -> &str {
        &self.identity
    }
}
