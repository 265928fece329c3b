//! A method's images by the conventions of a benchmark.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use ndarray::{Array2, Axis};

use super::{Args, line};
use crate::clip::Embed;
use crate::data::{Dataset, DatasetSpec, OnCorrupt, Picture, is_clutter, read_pictures};
use crate::error::nearest;
use crate::metrics::{Column, Layout, Over, Protocol, Stratum, With, estimate, pooled};
use crate::{Error, Result, mini, readfile};

/// Images of a concept or of several together, with what they are compared with.
struct Set {
    images: Vec<Picture>,
    /// The prompt of each image, as CLIP sees it.
    texts: Vec<String>,
    /// The targets of each concept, or the pictures that the images were made from, in their order.
    with: Vec<Vec<Picture>>,
}

/// What was measured of a column: of each set the values with each of its concepts in turn.
type Found = Vec<Vec<Stratum>>;

/// Measures and prints.
pub(super) fn run(args: &Args, protocol: &Protocol) -> Result<()> {
    let given = |column: &&Column| {
        column.extractor == "clip"
            || args.extractor.iter().any(|(name, _)| name == column.extractor)
    };
    let columns: Vec<&Column> = protocol.columns.iter().filter(given).collect();
    for column in protocol.columns.iter().filter(|column| !given(column)) {
        eprintln!(
            "{}: not measured: give its network with --extractor {}=DIR ({})",
            column.title, column.extractor, column.network
        );
    }
    if args.clip == mini::NAME {
        eprintln!(
            "the mini judge stands in for {}: give --clip to compare with published numbers",
            columns.iter().find(|c| c.extractor == "clip").map_or("CLIP", |c| c.network)
        );
    }
    let extractors = super::extractors(args, columns.iter().map(|column| column.extractor))?;
    let mut found: Vec<Found> = columns.iter().map(|_| vec![]).collect();
    let mut images = 0;
    for place in places(args, protocol)? {
        // one after another: a benchmark's pictures are more than memory holds
        let set = place.read(args, protocol)?;
        images += set.images.len();
        let mut seen = Seen { set: &set, extractors: &extractors, known: BTreeMap::new() };
        for (column, found) in columns.iter().zip(&mut found) {
            found.push(seen.measure(column)?);
        }
    }
    println!("{}", super::HEAD);
    for (column, found) in columns.iter().zip(&found) {
        let shown = |what: &str, strata: &[Stratum]| {
            let estimate = match protocol.over {
                Over::Sets => pooled(strata, 0),
                Over::Images => {
                    let all: Vec<f64> = strata.iter().flat_map(|s| s.values.clone()).collect();
                    let groups = strata.iter().enumerate();
                    let groups: Vec<usize> =
                        groups.flat_map(|(i, s)| vec![i; s.values.len()]).collect();
                    estimate(&all, &groups, 0)
                }
            };
            let digits = if column.factor >= 100.0 { 2 } else { 4 };
            line(&format!("{}{what}", column.title), digits, estimate, "");
        };
        let most = found.iter().map(Vec::len).max().unwrap_or(0);
        for i in (0..most).filter(|_| most > 1) {
            let of_place: Vec<Stratum> =
                found.iter().filter_map(|set| set.get(i)).cloned().collect();
            shown(&format!(", {}", i + 1), &of_place);
        }
        shown("", &found.iter().map(|set| mean(set)).collect::<Vec<_>>());
    }
    for (name, extractor) in &extractors {
        eprintln!("{name}: {}", extractor.identity());
    }
    eprintln!("{images} images, by {}", protocol.source);
    Ok(())
}

/// Of each image the mean over the concepts that it is compared with.
fn mean(set: &[Stratum]) -> Stratum {
    let Some(first) = set.first() else { return Stratum::default() };
    let of = |i: usize| set.iter().map(|s| s.values[i]).sum::<f64>() / set.len() as f64;
    Stratum { values: (0..first.values.len()).map(of).collect(), groups: first.groups.clone() }
}

/// A set as the extractors see it. Several columns are by one of them.
struct Seen<'a> {
    set: &'a Set,
    extractors: &'a BTreeMap<String, Arc<dyn Embed>>,
    /// By the extractor's name: features of the images, and of what each concept is compared with.
    known: BTreeMap<&'static str, (Array2<f32>, Vec<Array2<f32>>)>,
}

impl Seen<'_> {
    /// The values of the images: compared with each concept in turn, or once.
    fn measure(&mut self, column: &Column) -> Result<Vec<Stratum>> {
        let (name, set) = (column.extractor, self.set);
        let missing = || Error::input(format!("no extractor `{name}` is given"));
        let extractor = &**self.extractors.get(name).ok_or_else(missing)?;
        let (texts, groups) = super::distinct(&set.texts);
        let (images, with) = match self.known.entry(name) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert((features(extractor, &set.images)?, vec![])),
        };
        let values = match column.with {
            With::Prompt => {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                let with = extractor.texts(&texts)?.select(Axis(0), &groups);
                vec![column.values(images.view(), with.view())]
            }
            With::Targets | With::Own => {
                if with.is_empty() {
                    let each = set.with.iter().map(|pictures| features(extractor, pictures));
                    *with = each.collect::<Result<_>>()?;
                }
                with.iter().map(|with| column.values(images.view(), with.view())).collect()
            }
        };
        Ok(values.into_iter().map(|values| Stratum { values, groups: groups.clone() }).collect())
    }
}

/// Features of pictures, of the same picture once: a benchmark's sources come again for every image.
fn features(extractor: &dyn Embed, pictures: &[Picture]) -> Result<Array2<f32>> {
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    let mut own: Vec<&RgbImage> = vec![];
    let rows = pictures.iter().map(|picture| {
        *known.entry(&picture.hash).or_insert_with(|| {
            own.push(&picture.image);
            own.len() - 1
        })
    });
    let rows: Vec<usize> = rows.collect();
    Ok(extractor.images(&own)?.select(Axis(0), &rows))
}

/// Where a set is.
enum Place {
    /// A folder with samples/ and prompts.json, and folders of targets.
    Samples(PathBuf, Vec<PathBuf>),
    /// A folder's name below src_image/, tgt_image/ and text/.
    Pairs(PathBuf),
}

fn places(args: &Args, protocol: &Protocol) -> Result<Vec<Place>> {
    let folder = &args.folder;
    if protocol.layout == Layout::Pairs {
        let samples = folder.join("tgt_image");
        let names = folders(&samples)?
            .into_iter()
            .map(|f| Place::Pairs(f.file_name().map(PathBuf::from).unwrap_or_default()));
        return some(names.collect(), &samples, "a folder for each subject");
    }
    if folder.join("samples").is_dir() {
        if args.targets.is_empty() {
            return Err(Error::input_hint(
                "nothing says what the targets are",
                "give --targets DIR, once for each concept",
            ));
        }
        return Ok(vec![Place::Samples(folder.clone(), args.targets.clone())]);
    }
    let Some(dataset) = &args.dataset else {
        return Err(Error::input_hint(
            format!("{}: there is no samples/ in it", folder.display()),
            "a folder with samples/ and prompts.json, or with such a folder for each concept, called as \
             the concept; --dataset DIR then says what the targets are",
        ));
    };
    let spec = DatasetSpec {
        kind: protocol.name.to_owned(),
        path: dataset.clone(),
        prompts: None,
        outside: false,
        on_corrupt: args.on_corrupt(),
    };
    let dataset = spec.read(Path::new("")).map_err(|e| e.of("--dataset"))?;
    let mut places = vec![];
    for own in folders(folder)? {
        if !own.join("samples").is_dir() {
            continue;
        }
        let name = own.file_name().unwrap_or_default().to_string_lossy().into_owned();
        places.push(Place::Samples(own, targets(&dataset, &name)?));
    }
    some(places, folder, "a folder with samples/ and prompts.json for each concept")
}

/// At least one.
fn some(places: Vec<Place>, folder: &Path, wanted: &str) -> Result<Vec<Place>> {
    match places.is_empty() {
        false => Ok(places),
        true => Err(Error::input(format!("{}: there is not {wanted} in it", folder.display()))),
    }
}

/// The folders in a folder, sorted.
fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let clutter = is_clutter(&entry.file_name().to_string_lossy());
        if !clutter && entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// The pictures of a concept of the data set, or of each concept of a set.
fn targets(dataset: &Dataset, name: &str) -> Result<Vec<PathBuf>> {
    let all = || dataset.concepts.iter().chain(&dataset.in_sets);
    let path = |name: &String| all().find(|c| c.name == *name).map(|c| c.path.clone());
    if let Some(path) = path(&name.to_owned()) {
        return Ok(vec![path]);
    }
    let set = dataset.sets.iter().find(|set| set.name == name).ok_or_else(|| {
        let names = all().map(|c| c.name.as_str()).chain(dataset.sets.iter().map(|s| &*s.name));
        Error::input_hint(
            format!("the data set has no concept and no set `{name}`, as a folder is called"),
            nearest(name, names),
        )
    })?;
    Ok(set.concepts.iter().filter_map(path).collect())
}

impl Place {
    fn read(&self, args: &Args, protocol: &Protocol) -> Result<Set> {
        let corrupt = args.on_corrupt();
        match self {
            Place::Samples(folder, targets) => {
                let (images, texts) =
                    super::samples(folder, &args.tokens, protocol.removes_tokens, corrupt)?;
                let with = targets.iter().map(|folder| read_pictures(folder, corrupt));
                Ok(Set { images, texts, with: with.collect::<Result<_>>()? })
            }
            Place::Pairs(name) => {
                // a picture that is left out would have no other to be compared with
                let read = |part: &str| {
                    read_pictures(&args.folder.join(part).join(name), OnCorrupt::Refuse)
                };
                let (images, sources) = (read("tgt_image")?, read("src_image")?);
                let stem = |picture: &Picture| Path::new(&picture.name).with_extension("");
                let lacks = |stem: &Path, part: &str| {
                    Error::input_hint(
                        format!("{}/{} has nothing in {part}/", name.display(), stem.display()),
                        "src_image/, tgt_image/ and text/ have files of the same names",
                    )
                };
                let (mut texts, mut own) = (vec![], vec![]);
                for image in &images {
                    let stem_of = stem(image);
                    let source = sources.iter().find(|source| stem(source) == stem_of);
                    own.push(source.cloned().ok_or_else(|| lacks(&stem_of, "src_image"))?);
                    let file = stem_of.with_extension("txt");
                    let text = args.folder.join("text").join(name).join(file);
                    if !text.is_file() {
                        return Err(lacks(&stem_of, "text"));
                    }
                    texts.push(readfile::text(&text, MAX_TEXT)?);
                }
                match sources.iter().find(|s| images.iter().all(|i| stem(i) != stem(s))) {
                    Some(source) => Err(lacks(&stem(source), "tgt_image")),
                    None => Ok(Set { images, texts, with: vec![own] }),
                }
            }
        }
    }
}

/// A longer text is no prompt.
const MAX_TEXT: u64 = 1 << 16;
