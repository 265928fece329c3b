//! Features of many texts, computed once and kept in a file.

use std::collections::HashMap;
use std::path::Path;

use ndarray::{Array2, ArrayView2};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::clip::{Embed, together};
use crate::{Error, Result, readfile, safefile};

/// Texts that are embedded at a time.
const BATCH: usize = 1024;
/// Texts whose features share a file: no more than these are computed again after a stop, and a corpus that
/// has grown at its end keeps what it had.
const IN_A_FILE: usize = 4 * BATCH;
/// More than any CLIP's.
const MAX_WIDTH: usize = 16_384;
/// The tensor's name in the file.
const NAME: &str = "features";

/// Hears how many captions of all are done. Its error ends the work.
pub type Watch<'a> = dyn Fn(usize, usize) -> Result<()> + 'a;

/// What gives captions their features, and where these are kept.
pub struct CaptionFeatures<'a> {
    pub(super) embed: &'a dyn Embed,
    folder: Option<&'a Path>,
    watch: &'a Watch<'a>,
}

impl<'a> CaptionFeatures<'a> {
    /// Computed each time, by nobody watched.
    pub fn new(embed: &'a dyn Embed) -> Self {
        CaptionFeatures { embed, folder: None, watch: &|_, _| Ok(()) }
    }

    /// Kept in files of this folder, and taken from there.
    pub fn kept_in(self, folder: &'a Path) -> Self {
        CaptionFeatures { folder: Some(folder), ..self }
    }

    /// With somebody who hears how far it is, and may end it.
    pub fn watched(self, watch: &'a Watch<'a>) -> Self {
        CaptionFeatures { watch, ..self }
    }

    /// Features [texts, d], not normalised. A damaged file is computed again.
    ///
    /// # Errors
    /// The embedder's and the watcher's; [`Error::Input`] if features are not finite; [`Error::Io`].
    pub(super) fn of(&self, texts: &[&str]) -> Result<Array2<f32>> {
        let files = texts.chunks(IN_A_FILE).enumerate().map(|(i, some)| {
            self.of_a_file(some, &|done| (self.watch)(i * IN_A_FILE + done, texts.len()))
        });
        let features = together(files)?;
        (self.watch)(texts.len(), texts.len())?;
        Ok(features)
    }

    fn of_a_file(
        &self,
        texts: &[&str],
        watch: &dyn Fn(usize) -> Result<()>,
    ) -> Result<Array2<f32>> {
        let key = super::hash(texts.iter().copied().chain([self.embed.identity()]));
        let name = format!("captions-{}.safetensors", &key[..32]);
        let file = self.folder.map(|folder| folder.join(name));
        if let Some(file) = file.as_ref().filter(|file| file.is_file()) {
            match read(file, &key, texts.len()) {
                Ok(features) => return Ok(features),
                Err(e) => tracing::warn!("{e}; computed again"),
            }
        }
        let batches = texts.chunks(BATCH).enumerate().map(|(i, batch)| {
            watch(i * BATCH)?;
            checked(self.embed.texts(batch)?, batch.len())
        });
        let features = together(batches)?;
        if let Some(file) = file {
            write(&file, &key, features.view())?;
        }
        Ok(features)
    }
}

/// What an embedder gave, if it is a finite row for each of `texts` texts.
pub(super) fn checked(features: Array2<f32>, texts: usize) -> Result<Array2<f32>> {
    let (rows, width) = features.dim();
    let finite = features.iter().all(|x| x.is_finite());
    if rows != texts || !(1..=MAX_WIDTH).contains(&width) || !finite {
        let what = if finite { "" } else { ", some not finite" };
        return Err(Error::input(format!(
            "the embedder gave {rows} × {width} features for {texts} texts{what}"
        )));
    }
    Ok(features)
}

fn write(file: &Path, key: &str, features: ArrayView2<f32>) -> Result<()> {
    let bytes: Vec<u8> = features.iter().flat_map(|x| x.to_le_bytes()).collect();
    let bad = |e: safetensors::SafeTensorError| Error::input(format!("{}: {e}", file.display()));
    let (rows, width) = features.dim();
    let metadata = [("key", key.to_owned()), ("sha256", super::hash([&bytes]))];
    let metadata: HashMap<String, String> = metadata.map(|(k, v)| (k.to_owned(), v)).into();
    let view = TensorView::new(Dtype::F32, vec![rows, width], &bytes).map_err(bad)?;
    let whole = safetensors::serialize([(NAME, view)], Some(metadata)).map_err(bad)?;
    safefile::write(file, whole)
}

fn read(file: &Path, key: &str, rows: usize) -> Result<Array2<f32>> {
    let bad = |what: &dyn std::fmt::Display| Error::input(format!("{}: {what}", file.display()));
    let most = rows as u64 * MAX_WIDTH as u64 * 4 + (1 << 20);
    let bytes = readfile::bytes(file, most)?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(&e))?;
    let says = |name| header.metadata().as_ref().and_then(|m| m.get(name)).map(String::as_str);
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| bad(&e))?;
    let tensor = tensors.tensor(NAME).map_err(|e| bad(&e))?;
    let &[found, width] = tensor.shape() else { return Err(bad(&"not a matrix")) };
    let intact = says("key") == Some(key)
        && tensor.dtype() == Dtype::F32
        && found == rows
        && says("sha256") == Some(super::hash([tensor.data()]).as_str());
    if !intact {
        return Err(bad(&"the features in it are damaged or not these texts'"));
    }
    let numbers =
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let features = Array2::from_shape_vec((rows, width), numbers.collect()).map_err(|e| bad(&e))?;
    checked(features, rows)
}
