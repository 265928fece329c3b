//! The pictures of one `cdbench evaluate`, and their features.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use image::RgbImage;
use ndarray::Array2;
use serde_json::Value;

use super::{Args, distinct, extractors, samples};
use crate::clip::Embed;
use crate::data::{Picture, read_pictures};
use crate::engine::{Evaluation, Pictures, Source, write_pictures};
use crate::methods::Delta;
use crate::metrics::{Chosen, Need};
use crate::{Error, Result};

/// The numbers that stand for stages.
pub(super) const SAMPLES: usize = 0;
pub(super) const REAL: usize = 1;

/// All that is measured, and what measures it.
pub(super) struct Desk {
    samples: Vec<Picture>,
    /// The distinct prompts, without modifier tokens, in order.
    pub texts: Vec<String>,
    /// Of which of them each sample is.
    pub groups: Vec<usize>,
    targets: BTreeMap<String, Vec<Picture>>,
    real: Vec<Picture>,
    pub extractors: BTreeMap<String, Arc<dyn Embed>>,
    /// Features of pictures by their kind, name and extractor: several metrics ask for the same.
    known: Mutex<BTreeMap<[String; 3], Array2<f32>>>,
}

impl Desk {
    /// Reads the pictures while the extractors are loaded.
    pub fn new(args: &Args, metrics: &[Chosen]) -> Result<Self> {
        let (extractors, desk) = rayon::join(|| Self::open(args, metrics), || Self::read(args));
        let desk = desk?;
        Ok(Desk { extractors: extractors?, ..desk })
    }

    /// Opens and warms what the metrics need.
    fn open(args: &Args, metrics: &[Chosen]) -> Result<BTreeMap<String, Arc<dyn Embed>>> {
        let names = metrics.iter().filter_map(|m| m.metric.extractor.as_deref());
        let extractors = extractors(args, names)?;
        for (name, extractor) in &extractors {
            let of_texts = |m: &Chosen| {
                m.metric.extractor.as_ref() == Some(name) && m.measure.need() == Need::Prompts
            };
            extractor.warm(metrics.iter().any(of_texts))?;
        }
        Ok(extractors)
    }

    fn read(args: &Args) -> Result<Self> {
        let corrupt = args.on_corrupt();
        let checkpoint = args.checkpoint.as_deref().map(Delta::load).transpose()?;
        let brought = checkpoint.iter().flat_map(Delta::token_names).map(str::to_owned);
        let tokens: Vec<String> = args.tokens.iter().cloned().chain(brought).collect();
        let (samples, own) = samples(&args.folder, &tokens, true, corrupt)?;
        let (texts, groups) = distinct(&own);
        let mut targets = BTreeMap::new();
        for folder in &args.targets {
            targets.insert(folder.display().to_string(), read_pictures(folder, corrupt)?);
        }
        let real = args.real.as_ref().map(|folder| read_pictures(folder, corrupt)).transpose()?;
        let real = real.unwrap_or_default();
        let (extractors, known) = Default::default();
        Ok(Desk { samples, texts, groups, targets, real, extractors, known })
    }

    fn extractor(&self, name: &str) -> Result<&dyn Embed> {
        let missing = || Error::input(format!("no extractor `{name}` is given"));
        Ok(&**self.extractors.get(name).ok_or_else(missing)?)
    }

    /// How the samples are judged.
    pub fn evaluation(&self, metrics: &[Chosen]) -> Result<Evaluation> {
        let meaning = |m: &Chosen| {
            let extractor = m.metric.extractor.as_deref().map(|by| self.extractor(by));
            m.meaning(extractor.transpose()?)
        };
        let metrics = metrics.iter().map(meaning).collect::<Result<Vec<Value>>>()?;
        let hashes = |pictures: &[Picture]| pictures.iter().map(|p| p.hash.clone()).collect();
        let count = |group: usize| self.groups.iter().filter(|g| **g == group).count();
        let prompts = self.texts.iter().enumerate().map(|(i, text)| (text.clone(), count(i)));
        Ok(Evaluation {
            metrics,
            prompts: prompts.collect(),
            targets: self.targets.values().map(|targets| hashes(targets)).collect(),
            real: hashes(&self.real),
        })
    }

    /// What kind of pictures they are, whose, and the pictures.
    fn of<'a>(&'a self, pictures: Pictures<'a>) -> (&'static str, &'a str, &'a [Picture]) {
        match pictures {
            Pictures::Samples(..) => ("samples", "", &self.samples),
            Pictures::Retrieved(_) => ("real", "", &self.real),
            Pictures::Targets(name) => {
                ("targets", name, self.targets.get(name).map_or(&[], Vec::as_slice))
            }
        }
    }
}

impl Source for Desk {
    fn count(&self, pictures: Pictures) -> Result<usize> {
        Ok(self.of(pictures).2.len())
    }

    fn files(&self, pictures: Pictures, into: &Path) -> Result<Vec<PathBuf>> {
        let (kind, name, pictures) = self.of(pictures);
        let number = self.targets.keys().position(|known| known == name).unwrap_or(0);
        let folder = into.join(format!("{kind}-{number}"));
        write_pictures(&folder, pictures.iter().map(|p| &p.image))
    }

    fn pictures(&self, pictures: Pictures, by: &str) -> Result<Array2<f32>> {
        let (kind, name, pictures) = self.of(pictures);
        let key = [kind, name, by].map(str::to_owned);
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(features) = known().get(&key) {
            return Ok(features.clone());
        }
        let images: Vec<&RgbImage> = pictures.iter().map(|p| &p.image).collect();
        let features = self.extractor(by)?.images(&images)?;
        known().insert(key, features.clone());
        Ok(features)
    }

    fn texts(&self, texts: &[String], by: &str) -> Result<Array2<f32>> {
        self.extractor(by)?.texts(&texts.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn captions(&self, _: usize) -> Result<Vec<String>> {
        Ok(vec![])
    }

    fn attention(&self, _: usize) -> Result<Vec<Vec<Array2<f32>>>> {
        Ok(vec![])
    }
}
