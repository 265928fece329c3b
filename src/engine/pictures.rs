//! The pictures that stages made, read back: for trainings, for measures and for programs of others.

use std::path::{Path, PathBuf};

use image::RgbImage;
use ndarray::Array2;
use serde_json::{Value, json};

use super::features::features;
use super::images::{ClassImages, Images, attention_file, image_file, image_seed};
use super::scores::{Pictures, Source};
use super::stage::Work;
use super::work::Worker;
use crate::data::{self, Manifest};
use crate::diffusion::load_maps;
use crate::drawing::write_png;
use crate::methods::ClassPicture;
use crate::{Error, Result};

/// In a retrieval's folder.
pub(super) const MANIFEST: &str = "manifest.json";
impl Worker<'_> {
    /// Prompts and seeds, where a list depends on a retrieval.
    pub fn listed(&self, images: &Images) -> Result<Vec<(String, u64)>> {
        Ok(match images {
            Images::Listed(all) => all.clone(),
            Images::CaptionsOf { stage, count, seed, .. } => {
                let found = Manifest::load(&self.folder(*stage).join(MANIFEST))?;
                let captions = found.entries.into_iter().map(|e| e.caption).take(*count);
                captions.enumerate().map(|(i, c)| (c, image_seed(*seed, i, 0))).collect()
            }
        })
    }

    /// The files that a sampling stage wrote, with their seeds.
    pub(super) fn files(&self, at: usize, images: &Images) -> Result<Vec<(PathBuf, u64)>> {
        let dir = self.folder(at);
        let all = self.listed(images)?;
        Ok(all
            .into_iter()
            .map(|(prompt, seed)| (dir.join(image_file(&prompt, seed)), seed))
            .collect())
    }

    pub(super) fn retrieved(&self, at: usize) -> Result<Vec<(RgbImage, String)>> {
        let (Work::Retrieve { corpus, .. } | Work::Spread { corpus, .. }) =
            &self.plan.stages[at].work
        else {
            return Ok(vec![]);
        };
        let file = self.folder(at).join(MANIFEST);
        let manifest = Manifest::load(&file)?;
        let found = data::class_pictures(&manifest, &*self.resources.corpus(corpus)?);
        // the hint is to remove the manifest
        found.map_err(|e| e.of_file(&file))
    }

    pub(super) fn class_pictures(&self, class: &ClassImages) -> Result<Vec<ClassPicture>> {
        match class {
            ClassImages::None => Ok(vec![]),
            ClassImages::Real(at) => {
                let found = self.retrieved(*at)?.into_iter();
                Ok(found.map(|(image, caption)| ClassPicture { image, caption }).collect())
            }
            ClassImages::Generated(at, images) => {
                let prompts = self.listed(images)?;
                let files = self.files(*at, images)?;
                prompts
                    .into_iter()
                    .zip(files)
                    .map(|((caption, _), (path, _))| {
                        Ok(ClassPicture { image: sampled(&path)?, caption })
                    })
                    .collect()
            }
        }
    }
}

impl Source for Worker<'_> {
    fn pictures(&self, pictures: Pictures, by: &str) -> Result<Array2<f32>> {
        let extractor = self.resources.extractor(by)?;
        let key = |at: usize| &self.plan.stages[at].key;
        type Read<'a> = Box<dyn FnOnce() -> Result<Vec<RgbImage>> + 'a>;
        let (meaning, read): (Value, Read) = match pictures {
            Pictures::Samples(at, list) => {
                let files = self.files(at, list)?;
                let read = move || files.iter().map(|(path, _)| sampled(path)).collect();
                (json!({ "samples": key(at) }), Box::new(read))
            }
            Pictures::Retrieved(at) => {
                let read =
                    move || Ok(self.retrieved(at)?.into_iter().map(|(image, _)| image).collect());
                (json!({ "retrieved": key(at) }), Box::new(read))
            }
            Pictures::Targets(concept) => {
                let targets = &self.resources.concept(concept)?.targets;
                let hashes: Vec<&String> = targets.iter().map(|t| &t.hash).collect();
                let read = || Ok(targets.iter().map(|t| t.image.clone()).collect());
                (json!({ "targets": hashes }), Box::new(read))
            }
        };
        features(self.store, &*extractor, &meaning, read)
    }

    fn count(&self, pictures: Pictures) -> Result<usize> {
        Ok(match pictures {
            Pictures::Samples(_, list) => self.listed(list)?.len(),
            Pictures::Retrieved(at) => self.captions(at)?.len(),
            Pictures::Targets(concept) => self.resources.concept(concept)?.targets.len(),
        })
    }

    fn files(&self, pictures: Pictures, into: &Path) -> Result<Vec<PathBuf>> {
        match pictures {
            Pictures::Samples(at, list) => {
                let absolute = |path: PathBuf| std::path::absolute(&path).map_err(Error::io(&path));
                self.files(at, list)?.into_iter().map(|(path, _)| absolute(path)).collect()
            }
            Pictures::Retrieved(at) => {
                let found = self.retrieved(at)?;
                let folder = into.join(format!("real-{at}"));
                write_pictures(&folder, found.iter().map(|(image, _)| image))
            }
            Pictures::Targets(concept) => {
                let targets = &self.resources.concept(concept)?.targets;
                let folder = into.join("targets").join(concept);
                write_pictures(&folder, targets.iter().map(|t| &t.image))
            }
        }
    }

    fn texts(&self, texts: &[String], by: &str) -> Result<Array2<f32>> {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        self.resources.extractor(by)?.texts(&texts)
    }

    fn captions(&self, retrieval: usize) -> Result<Vec<String>> {
        let found = Manifest::load(&self.folder(retrieval).join(MANIFEST))?;
        Ok(found.entries.into_iter().map(|e| e.caption).collect())
    }

    fn attention(&self, stage: usize) -> Result<Vec<Vec<Array2<f32>>>> {
        let Work::Attend { list, .. } = &self.plan.stages[stage].work else { return Ok(vec![]) };
        let maps = |(prompt, seed): &(String, u64)| {
            let maps = load_maps(&self.folder(stage).join(attention_file(prompt, *seed)))?;
            Ok(maps.into_iter().map(|word| word.map).collect())
        };
        list.iter().map(maps).collect()
    }
}

/// Pictures as files 00.png, 01.png, … of a folder; those that are there are of the same pictures.
pub fn write_pictures<'a>(
    folder: &Path,
    pictures: impl Iterator<Item = &'a RgbImage>,
) -> Result<Vec<PathBuf>> {
    let written = pictures.enumerate().map(|(i, picture)| {
        let path = folder.join(format!("{i:02}.png"));
        if !path.exists() {
            write_png(&path, picture)?;
        }
        Ok(path)
    });
    written.collect()
}

/// An image that a stage made. One that cannot be read is removed: it is missing then, and made again.
fn sampled(path: &Path) -> Result<RgbImage> {
    read_image(path).map_err(|e| match e {
        Error::Input { message, .. } if std::fs::remove_file(path).is_ok() => Error::input_hint(
            format!("{message}; it was removed"),
            "the same command makes it again",
        ),
        other => other,
    })
}

/// An image that this program wrote.
///
/// # Errors
/// [`Error::Input`] if it is damaged; [`Error::Io`].
pub fn read_image(path: &Path) -> Result<RgbImage> {
    let bad = |e: image::ImageError| match e {
        image::ImageError::IoError(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => {
            Error::io(path)(e)
        }
        other => Error::input(format!("{}: damaged: {other}", path.display())),
    };
    Ok(image::open(path).map_err(bad)?.into_rgb8())
}
