//! A network that takes pictures, with their preprocessing, run in batches on as many sessions as there
//! are workers: while one prepares its pictures, others compute.

use std::path::PathBuf;

use image::RgbImage;
use ndarray::{Array2, Axis, concatenate};
use ort::value::Tensor;
use rayon::prelude::*;

use super::Preprocessor;
use super::extractor::Opening;
use super::onnx::PIXELS;
use super::runtime::Backend;
use super::session::{Pool, check_cuda};
use crate::{Error, Result};

/// Pictures or texts of one run. tract takes them one by one: it is no faster with more, and would round
/// by a picture's place among the others.
const BATCH_TRACT: usize = 1;
const BATCH_CPU: usize = 8;
const BATCH_CUDA: usize = 64;

/// The runtime that `opening` asks for, and how much it takes at a time.
pub(super) fn backend(opening: &Opening) -> Result<(&'static Backend, usize)> {
    let backend = Backend::get(opening.runtime)?;
    if opening.cuda {
        check_cuda(backend)?;
    }
    let batch = match (backend.native, opening.cuda) {
        (false, _) => BATCH_TRACT,
        (true, false) => BATCH_CPU,
        (true, true) => BATCH_CUDA,
    };
    Ok((backend, batch))
}

/// See the module.
pub(super) struct ImageTower {
    preprocessor: Preprocessor,
    pool: Pool,
    input: String,
    batch: usize,
    width: usize,
}

impl ImageTower {
    /// The network of `file`, one that was exported here.
    pub fn new(
        opening: &Opening,
        file: PathBuf,
        output: &str,
        width: usize,
        preprocessor: Preprocessor,
    ) -> Result<Self> {
        let (backend, batch) = backend(opening)?;
        let pool = Pool::new(backend, file, output, opening.cuda, opening.workers);
        if opening.cuda {
            pool.warm()?;
        }
        Ok(ImageTower { preprocessor, pool, input: PIXELS.into(), batch, width })
    }

    /// The network of any file: `width` is found by running it once.
    pub fn probe(
        opening: &Opening,
        file: PathBuf,
        names: [Option<&str>; 2],
        preprocessor: Preprocessor,
    ) -> Result<Self> {
        let (backend, batch) = backend(opening)?;
        let mut pool = Pool::new(backend, file, "", opening.cuda, opening.workers);
        let [input, output] = pool.names(names)?;
        pool.output = output;
        let mut tower = ImageTower { preprocessor, pool, input, batch, width: 0 };
        let side = tower.preprocessor.side() as u32;
        let gray = RgbImage::from_pixel(side, side, image::Rgb([127; 3]));
        let failed = |error| match error {
            Error::Tensor(error) => Error::input_hint(
                format!("it does not take pictures of {side}x{side} pixels: {error}"),
                "see the extractor's `size` and `crop`",
            )
            .of_file(&tower.pool.file),
            other => other,
        };
        tower.width = tower.run(&[&gray]).map_err(failed)?.ncols();
        Ok(tower)
    }

    /// See [`Pool::warm`].
    pub fn warm(&self) -> Result<()> {
        self.pool.warm()
    }

    fn run(&self, images: &[&RgbImage]) -> Result<Array2<f32>> {
        let pixels = Tensor::from_array(self.preprocessor.pixels(images)?).map_err(internal)?;
        self.pool.run(vec![(self.input.as_str().into(), pixels.into())], images.len())
    }

    /// A row of features for each picture.
    pub fn images(&self, images: &[&RgbImage]) -> Result<Array2<f32>> {
        let batches: Vec<_> =
            images.par_chunks(self.batch).map(|batch| self.run(batch)).collect::<Result<_>>()?;
        if batches.is_empty() {
            return Ok(Array2::zeros((0, self.width)));
        }
        let views: Vec<_> = batches.iter().map(|batch| batch.view()).collect();
        concatenate(Axis(0), &views).map_err(internal)
    }
}

pub(super) fn internal(error: impl std::fmt::Display) -> Error {
    Error::Tensor(candle_core::Error::Msg(error.to_string()))
}
