//! Real regularisation images: pictures whose captions are similar to a prompt (section 3.2 of the
//! paper).

use std::collections::{HashMap, HashSet};
use std::path::Path;

use image::RgbImage;
use ndarray::{Array2, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::captions::{CaptionFeatures, checked};
use super::corpus::Corpus;
use super::picture::picture_hash;
use crate::{Error, Result, readfile, safefile};

const MAX_FILE: u64 = 256 << 20;
/// Pictures that are read together.
const TOGETHER: usize = 64;

/// A chosen picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its number in the corpus.
    pub index: usize,
    /// Its own caption.
    pub caption: String,
    /// Cosine between the caption and the nearest of the queries.
    pub similarity: f32,
    /// [`picture_hash`].
    pub hash: String,
}

/// Which pictures were chosen, from where and why: a later run uses the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`Corpus::identity`].
    pub corpus: String,
    /// [`Embed::identity`].
    pub embedder: String,
    /// What captions should be like.
    pub queries: Vec<String>,
    /// Least similarity.
    pub threshold: f32,
    /// How many pictures were asked for.
    pub wanted: usize,
    /// How many captions of the corpus are at or above the threshold; fewer than `wanted` explains a
    /// short list.
    pub above_threshold: usize,
    /// The pictures, nearest first; no two the same.
    pub entries: Vec<Entry>,
}

/// Chooses the `count` pictures whose captions are nearest to `queries` in the embedder's text space and
/// at or above `threshold` (cosine; the paper's is 0.85). A caption's similarity is that to its nearest
/// query; equally near ones are taken in the corpus's order. Of pictures that are the same the first
/// counts; one that cannot be decoded is left out with a warning.
///
/// # Errors
/// [`Error::Input`] if nothing is asked, or no caption is near enough (with the nearest one); the
/// embedder's, and that of who watches it; [`Error::Io`].
pub fn retrieve(
    corpus: &dyn Corpus,
    queries: &[String],
    count: usize,
    threshold: f32,
    features: &CaptionFeatures,
) -> Result<Manifest> {
    if queries.is_empty() || queries.iter().any(|q| q.trim().is_empty()) || count == 0 {
        return Err(Error::input("retrieval needs a prompt and a number of pictures"));
    }
    if !(-1.0..=1.0).contains(&threshold) {
        return Err(Error::input(format!("a threshold of {threshold} is no cosine")));
    }
    // captions repeat, in the embedded world more than elsewhere
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut captions: Vec<(usize, usize)> = vec![];
    for index in 0..corpus.len() {
        if let Some(caption) = corpus.caption(index).filter(|c| !c.is_empty()) {
            let next = numbers.len();
            captions.push((index, *numbers.entry(caption).or_insert(next)));
        }
    }
    let mut texts = vec![""; numbers.len()];
    for (text, &number) in &numbers {
        texts[number] = text;
    }
    if texts.is_empty() {
        return Err(Error::input(format!("{}: there is no caption", corpus.identity())));
    }
    let similarity = similarities(&texts, queries, features)?;

    let mut near: Vec<(usize, usize)> =
        captions.iter().copied().filter(|&(_, text)| similarity[text] >= threshold).collect();
    near.sort_by(|a, b| similarity[b.1].total_cmp(&similarity[a.1]).then(a.0.cmp(&b.0)));
    let mut manifest = Manifest {
        corpus: corpus.identity(),
        embedder: features.embed.identity().to_owned(),
        queries: queries.to_vec(),
        threshold,
        wanted: count,
        above_threshold: near.len(),
        entries: vec![],
    };
    let mut hashes = HashSet::new();
    for some in near.chunks(TOGETHER) {
        let read = some.par_iter().map(|&(index, _)| corpus.picture(index));
        let read: Vec<Result<RgbImage>> = read.collect();
        for (&(index, text), image) in some.iter().zip(read) {
            let hash = match image {
                Ok(image) => picture_hash(&image),
                Err(e @ Error::Input { .. }) => {
                    tracing::warn!("left out: {e}");
                    continue;
                }
                Err(e) => return Err(e),
            };
            if manifest.entries.len() < count && hashes.insert(hash.clone()) {
                let (caption, similarity) = (texts[text].to_owned(), similarity[text]);
                manifest.entries.push(Entry { index, caption, similarity, hash });
            }
        }
        if manifest.entries.len() == count {
            break;
        }
    }
    if manifest.entries.is_empty() && !near.is_empty() {
        let count = near.len();
        return Err(Error::input(format!("none of the {count} nearest pictures can be decoded")));
    }
    if manifest.entries.is_empty() {
        let nearer =
            |a: &usize, b: &usize| similarity[*a].total_cmp(&similarity[*b]).then(b.cmp(a));
        let best = (0..texts.len()).max_by(nearer).unwrap_or(0);
        return Err(Error::input_hint(
            format!(
                "no picture has a caption with a similarity of {threshold} or more to `{}`",
                queries.join("`, `")
            ),
            format!(
                "the nearest is `{}` with {:.3}: lower the threshold (`regularization.threshold` of an \
                 experiment, --threshold of a training), take a corpus that shows it, or set \
                 regularization=generated",
                texts[best], similarity[best]
            ),
        ));
    }
    if manifest.entries.len() < count {
        tracing::warn!(
            "{} of {count} pictures: {} captions have a similarity of {threshold} or more to `{}`",
            manifest.entries.len(),
            manifest.above_threshold,
            queries.join("`, `"),
        );
    }
    Ok(manifest)
}

/// Chooses `count` pictures from all over a corpus, evenly in its order. Pictures that cannot be decoded,
/// or are there twice, are passed over.
///
/// # Errors
/// [`Error::Input`] where there are none; [`Error::Io`].
pub fn spread(corpus: &dyn Corpus, count: usize) -> Result<Manifest> {
    let (len, mut entries, mut hashes) = (corpus.len(), vec![], HashSet::new());
    for i in 0..count.min(len) {
        let index = i * len / count.min(len);
        let Some(caption) = corpus.caption(index).filter(|c| !c.is_empty()) else { continue };
        let hash = match corpus.picture(index) {
            Ok(image) => picture_hash(&image),
            Err(e @ Error::Input { .. }) => {
                tracing::warn!("left out: {e}");
                continue;
            }
            Err(e) => return Err(e),
        };
        if hashes.insert(hash.clone()) {
            entries.push(Entry { index, caption, similarity: 0.0, hash });
        }
    }
    if entries.is_empty() {
        return Err(Error::input(format!("{}: no captioned picture", corpus.identity())));
    }
    Ok(Manifest {
        corpus: corpus.identity(),
        embedder: String::new(),
        queries: vec![],
        threshold: -1.0,
        wanted: count,
        above_threshold: len,
        entries,
    })
}

/// Of each text to the nearest of the queries, rounded to six places: what differs in the last bits is
/// equally near, on any machine.
fn similarities(
    texts: &[&str],
    queries: &[String],
    features: &CaptionFeatures,
) -> Result<Vec<f32>> {
    let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
    let wanted = unit(checked(features.embed.texts(&queries)?, queries.len())?);
    let captions = unit(features.of(texts)?);
    if wanted.ncols() != captions.ncols() {
        return Err(Error::input("the embedder's features change their width"));
    }
    let cosines = captions.dot(&wanted.t());
    Ok(cosines
        .map_axis(Axis(1), |row| {
            let nearest = row.fold(-1f32, |a, &b| a.max(b));
            ((f64::from(nearest) * 1e6).round() / 1e6) as f32
        })
        .to_vec())
}

/// Rows of length 1; a row of zeros stays.
fn unit(mut rows: Array2<f32>) -> Array2<f32> {
    for mut row in rows.rows_mut() {
        let norm = row.fold(0f64, |sum, &x| sum + f64::from(x) * f64::from(x)).sqrt();
        row.mapv_inplace(|x| (f64::from(x) / norm.max(1e-12)) as f32);
    }
    rows
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file and what is wrong in it; [`Error::Io`].
    pub fn load(file: &Path) -> Result<Self> {
        let bad = |what: String| Error::input(format!("{}: {what}", file.display()));
        let text = readfile::text(file, MAX_FILE)?;
        let manifest: Manifest = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        let mut seen = HashSet::new();
        for entry in &manifest.entries {
            let what = |what: &str| bad(format!("picture {}: {what}", entry.index));
            let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            if entry.hash.len() != 64 || !entry.hash.chars().all(hex) {
                return Err(what("`hash` is no SHA-256"));
            }
            if !seen.insert(&entry.hash) {
                return Err(what("the same picture is there twice"));
            }
            if !(entry.similarity >= manifest.threshold && entry.similarity < 1.001) {
                return Err(what("`similarity` is below the threshold or no cosine"));
            }
        }
        if manifest.entries.is_empty() || manifest.entries.len() > manifest.above_threshold {
            return Err(bad("`entries` and `above_threshold` contradict each other".into()));
        }
        Ok(manifest)
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn save(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::input(format!("{}: {e}", file.display())))?;
        safefile::write(file, text + "\n")
    }

    /// Whether it was made from `corpus`.
    ///
    /// # Errors
    /// [`Error::Input`] if it was not.
    pub fn check(&self, corpus: &dyn Corpus) -> Result<()> {
        let found = corpus.identity();
        if found == self.corpus {
            return Ok(());
        }
        Err(Error::input_hint(
            format!("the manifest is of the corpus `{}`, not of `{found}`", self.corpus),
            "the corpus has changed since: give the old one, or remove the manifest to choose again",
        ))
    }
}

/// The pictures of a manifest with their captions, in its order.
///
/// # Errors
/// [`Error::Input`] if `corpus` is not the manifest's, or naming a picture that has changed since;
/// [`Error::Io`].
pub fn class_pictures(manifest: &Manifest, corpus: &dyn Corpus) -> Result<Vec<(RgbImage, String)>> {
    manifest.check(corpus)?;
    let read = manifest.entries.par_iter().map(|entry| {
        let image = corpus.picture(entry.index)?;
        let caption = corpus.caption(entry.index);
        if picture_hash(&image) != entry.hash || caption.as_ref() != Some(&entry.caption) {
            return Err(Error::input_hint(
                format!("picture {} (`{}`) is not what it was", entry.index, entry.caption),
                "the corpus has changed: remove the manifest to choose again",
            ));
        }
        Ok((image, entry.caption.clone()))
    });
    // the first error in the manifest's order, whatever thread was faster
    read.collect::<Vec<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests;
