//! Makes a study of a report's images.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use image::RgbImage;

use super::booklet::{Counts, Item, deal};
use super::crowd;
use super::key::{Key, KeyMetric, KeyPair, Rows, Side, Trial, What};
use super::obvious::obvious;
use super::page::{Page, Set, Shown, index};
use crate::report::{Pair, Pictures, Results, study_pairs};
use crate::rng::Rng;
use crate::{Error, Result, safefile};

/// Targets of a concept that are shown.
const TARGETS: usize = 4;
/// More booklets, or trials in all, would be a mistake.
const MOST: usize = 1_000_000;

/// How a study is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Pairs of each comparison; all where none is given.
    pub pairs: Option<usize>,
    /// Pairs that a rater is shown.
    pub per_rater: usize,
    /// Different booklets.
    pub booklets: usize,
    /// Practice trials.
    pub practice: usize,
    /// Catch trials, as a share of a rater's pairs.
    pub catch: f64,
    /// Repeats, as a share of a rater's pairs.
    pub repeats: f64,
    /// How long a pair is looked at before the page takes an answer, in milliseconds.
    pub minimum_ms: u64,
    /// Where `page/` will be on the web, for the crowd platform's file.
    pub base_url: String,
    /// Of all that is drawn.
    pub seed: u64,
}

/// A study that was made.
pub struct Study {
    /// What its trials are.
    pub key: Key,
    /// What could not be had.
    pub notes: Vec<String>,
}

/// Writes a study of the pairs of a report into `folder`. `category` says what a concept is.
///
/// # Errors
/// [`Error::Input`] where there are no pairs, or another study is in the folder; [`Error::Io`].
pub fn make(
    results: &Results,
    pictures: &dyn Pictures,
    category: &dyn Fn(&str) -> String,
    options: &Options,
    folder: &Path,
) -> Result<Study> {
    let mut notes = vec![];
    let mut rng = Rng::new(options.seed, "study");
    let (comparisons, pairs) = choose(results, pictures, options, &mut rng, &mut notes)?;
    let per_rater = options.per_rater.clamp(1, pairs.len());
    if options.booklets.saturating_mul(per_rater) > MOST {
        return Err(Error::input(format!(
            "{} booklets of {per_rater} pairs are more than {MOST} trials",
            options.booklets
        )));
    }
    let share = |share: f64| (share * per_rater as f64).round() as usize;
    let catch = share(options.catch).max(usize::from(options.catch > 0.0));
    let wanted = options.practice + 2 * catch;
    let mut easy = obvious(results, pictures, category, wanted, &mut rng);
    if easy.is_empty() && wanted > 0 {
        notes.push(
            "no practice and no catch trials: they need two concepts of different categories, with \
             targets"
                .into(),
        );
    }
    let practice = options.practice.min(easy.len());
    let catches = easy.split_off(practice);
    let counts = Counts {
        pairs: pairs.len(),
        per_rater,
        booklets: options.booklets.max(1),
        practice,
        catches: catches.len(),
        catch,
        repeats: share(options.repeats).min(per_rater),
    };
    let dealt = deal(&counts, &mut rng);

    let mut writer = Writer::new(folder, &mut rng)?;
    let mut sets = Sets { names: HashMap::new(), sets: vec![] };
    let mut faces = vec![];
    for pair in &pairs {
        let lost = || Error::input(format!("{}: cannot be read any more", pair.own_image.file));
        let own = writer.image(&pictures.sample(pair.own_image).ok_or_else(lost)?)?;
        let other = writer.image(&pictures.sample(pair.other_image).ok_or_else(lost)?)?;
        let shown = pair.own.concepts.iter();
        let shown = shown.map(|c| sets.of(c, pictures, category, &mut writer));
        let sets = shown.collect::<Result<Vec<usize>>>()?;
        faces.push(Face {
            prompt: pair.own_image.text_prompt.clone(),
            sets,
            first: own,
            second: other,
        });
    }
    let mut face = |easy: &super::obvious::Obvious| -> Result<Face> {
        Ok(Face {
            prompt: easy.prompt.clone(),
            sets: vec![sets.of(&easy.concept, pictures, category, &mut writer)?],
            first: writer.image(&easy.good)?,
            second: writer.image(&easy.bad)?,
        })
    };
    let practices = easy.iter().map(&mut face).collect::<Result<Vec<_>>>()?;
    let catches = catches.iter().map(&mut face).collect::<Result<Vec<_>>>()?;

    let mut key = Key::new(&results.experiment, &results.scale, &results.protocol);
    key.minimum_ms = options.minimum_ms;
    let of_images = results.metrics.iter().filter(|m| m.of_images());
    key.metrics = of_images
        .map(|m| KeyMetric {
            name: m.name.clone(),
            title: m.title.clone(),
            more: m.better.sign() > 0.0,
        })
        .collect();
    key.pairs = pairs.iter().map(|p| key_pair(p, &comparisons, &key.metrics)).collect();
    key.comparisons = comparisons;
    let mut booklets = vec![];
    for items in dealt {
        let (mut trials, mut shown) = (vec![], vec![]);
        for item in items {
            let (face, first, what) = match item {
                Item::Practice(i, side) => (&practices[i], side, What::Practice),
                Item::Catch(i, good) => (&catches[i], good, What::Catch { good }),
                Item::Pair(pair, own) => (&faces[pair], own, What::Pair { pair, own }),
                Item::Repeat(pair, own) => (&faces[pair], own, What::Repeat { pair, own }),
            };
            let id = writer.name();
            shown.push(face.shown(&id, first, what == What::Practice));
            trials.push(Trial { id, what });
        }
        key.booklets.push(trials);
        booklets.push(shown);
    }
    let key = key.seal();
    claim(folder, &key)?;
    let page = Page { id: key.study.clone(), minimum: key.minimum_ms, sets: sets.sets, booklets };
    writer.finish(folder, &index(&page))?;
    safefile::write(&folder.join(crowd::FILE), crowd::csv(&page, &options.base_url))?;
    safefile::write(&folder.join(Key::FILE), key.text())?;
    Ok(Study { key, notes })
}

/// What a trial shows, before it has sides.
struct Face {
    prompt: String,
    sets: Vec<usize>,
    /// The own image, or the right one.
    first: String,
    second: String,
}

impl Face {
    fn shown(&self, id: &str, first: Side, practice: bool) -> Shown {
        let (left, right) = match first {
            Side::Left => (&self.first, &self.second),
            Side::Right => (&self.second, &self.first),
        };
        Shown {
            id: id.to_owned(),
            prompt: self.prompt.clone(),
            sets: self.sets.clone(),
            left: left.clone(),
            right: right.clone(),
            practice,
        }
    }
}

/// The comparisons, and the pairs of each that are shown.
fn choose<'a>(
    results: &'a Results,
    pictures: &dyn Pictures,
    options: &Options,
    rng: &mut Rng,
    notes: &mut Vec<String>,
) -> Result<(Vec<Rows>, Vec<Pair<'a>>)> {
    let mut by_rows: Vec<(Rows, Vec<Pair>)> = vec![];
    for pair in study_pairs(results) {
        let rows = rows(&pair);
        match by_rows.iter_mut().find(|(known, _)| *known == rows) {
            Some((_, pairs)) => pairs.push(pair),
            None => by_rows.push((rows, vec![pair])),
        }
    }
    let (mut comparisons, mut chosen) = (vec![], vec![]);
    for (rows, mut pairs) in by_rows {
        rng.shuffle(&mut pairs);
        let (all, wanted) = (pairs.len(), options.pairs.unwrap_or(usize::MAX));
        let there = |p: &Pair| {
            pictures.sample(p.own_image).is_some() && pictures.sample(p.other_image).is_some()
        };
        let pairs: Vec<Pair> = pairs.into_iter().filter(there).take(wanted).collect();
        if pairs.len() < all.min(wanted) {
            let lost = all.min(wanted) - pairs.len();
            notes.push(format!(
                "{} and {}: the images of {lost} pairs are lost",
                rows.own, rows.other
            ));
        }
        if !pairs.is_empty() {
            comparisons.push(rows);
            chosen.extend(pairs);
        }
    }
    if chosen.is_empty() {
        return Err(Error::input_hint(
            format!("{}: there is no pair of images to show", results.experiment),
            "the experiment's `study = [\"…\"]` names the labels of rows that are set beside all others; \
             the images come from `cdbench run`",
        ));
    }
    Ok((comparisons, chosen))
}

fn rows(pair: &Pair) -> Rows {
    Rows {
        group: pair.group.to_owned(),
        own: pair.own.label.clone(),
        other: pair.other.label.clone(),
        paper_own: pair.own.paper_row.clone(),
        paper_other: pair.other.paper_row.clone(),
    }
}

fn key_pair(pair: &Pair, comparisons: &[Rows], metrics: &[KeyMetric]) -> KeyPair {
    let rows = rows(pair);
    let both = |m: &KeyMetric| {
        let value = |image: &crate::report::ImageRow| image.value(&m.name);
        let values = [value(pair.own_image)?, value(pair.other_image)?];
        Some((m.name.clone(), values))
    };
    KeyPair {
        comparison: comparisons.iter().position(|c| *c == rows).unwrap_or(0),
        concepts: pair.own.concepts.clone(),
        prompt: pair.own_image.text_prompt.clone(),
        training_seed: pair.own.seed,
        image_seed: pair.own_image.seed,
        values: metrics.iter().filter_map(both).collect::<BTreeMap<_, _>>(),
    }
}

/// Refuses a folder that has another study: its answers would have no key any more.
fn claim(folder: &Path, key: &Key) -> Result<()> {
    if !folder.join(Key::FILE).exists() {
        return Ok(());
    }
    match Key::read(folder) {
        Ok(there) if there.study == key.study => Ok(()),
        _ => Err(Error::input_hint(
            format!("{}: another study is there, and its answers need its key", folder.display()),
            "name another folder with -o DIR",
        )),
    }
}

/// The targets of concepts that were written.
struct Sets {
    names: HashMap<String, usize>,
    sets: Vec<Set>,
}

impl Sets {
    fn of(
        &mut self,
        concept: &str,
        pictures: &dyn Pictures,
        category: &dyn Fn(&str) -> String,
        writer: &mut Writer,
    ) -> Result<usize> {
        if let Some(&known) = self.names.get(concept) {
            return Ok(known);
        }
        let targets = pictures.targets(concept);
        if targets.is_empty() {
            return Err(Error::input(format!("{concept}: there is no target image to show")));
        }
        let images = targets.iter().take(TARGETS).map(|t| writer.image(t));
        let images = images.collect::<Result<Vec<_>>>()?;
        self.sets.push(Set { title: category(concept), images });
        self.names.insert(concept.to_owned(), self.sets.len() - 1);
        Ok(self.sets.len() - 1)
    }
}

/// Writes the page's folder beside where it will be, and gives names that say nothing.
struct Writer<'a> {
    place: tempfile::TempDir,
    rng: &'a mut Rng,
}

impl<'a> Writer<'a> {
    fn new(folder: &Path, rng: &'a mut Rng) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let place = tempfile::tempdir_in(folder).map_err(Error::io(folder))?;
        let images = place.path().join("page/images");
        std::fs::create_dir_all(&images).map_err(Error::io(&images))?;
        Ok(Writer { place, rng })
    }

    fn name(&mut self) -> String {
        format!("{:08x}{:08x}", self.rng.below(1 << 32), self.rng.below(1 << 32))
    }

    /// Writes an image, of which nothing but the pixels is kept, and returns its name.
    fn image(&mut self, image: &RgbImage) -> Result<String> {
        let name = self.name();
        let path = self.place.path().join(format!("page/images/{name}.png"));
        image.save(&path).map_err(|e| match e {
            image::ImageError::IoError(e) => Error::io(&path)(e),
            other => Error::input(format!("{}: {other}", path.display())),
        })?;
        Ok(name)
    }

    /// Puts the page into its place.
    fn finish(self, folder: &Path, index: &str) -> Result<()> {
        let (fresh, page) = (self.place.path().join("page"), folder.join("page"));
        safefile::write(&fresh.join("index.html"), index)?;
        if page.exists() {
            std::fs::remove_dir_all(&page).map_err(Error::io(&page))?;
        }
        std::fs::rename(&fresh, &page).map_err(Error::io(&page))
    }
}
