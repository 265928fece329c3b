//! Webdataset shards: tar files in which the members of a sample share a name.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use image::RgbImage;
use rayon::prelude::*;

use super::{
    CAPTION_FILES, Corpus, MAX_CAPTION_FILE, MAX_PICTURES, PICTURES, caption_in, past_the_end,
};
use crate::data::clutter::is_clutter;
use crate::data::hash;
use crate::data::picture::{MAX_BYTES, decode};
use crate::readfile::refuse_compressed;
use crate::{Error, Result};

/// Pictures (`.jpg`, `.jpeg`, `.png`, `.webp`) with captions (`.txt`, `.caption`, or `.json` with a
/// `caption`) in tar files, read where they lie. Names in the archives are never used as paths.
pub struct WebDataset {
    shards: Vec<PathBuf>,
    samples: Vec<Sample>,
    identity: String,
}

struct Sample {
    shard: usize,
    name: String,
    start: u64,
    bytes: u64,
    caption: String,
}

/// The `.tar` files of a folder, sorted; or the one file.
pub(super) fn shards(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.into()]);
    }
    let mut found = vec![];
    for entry in std::fs::read_dir(path).map_err(Error::io(path))? {
        let file = entry.map_err(Error::io(path))?.path();
        let clutter = file.file_name().is_some_and(|n| is_clutter(&n.to_string_lossy()));
        let tar = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("tar"));
        if tar && !clutter && file.is_file() {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

impl WebDataset {
    /// Lists what is in a `.tar` file, or in those of a folder.
    ///
    /// # Errors
    /// [`Error::Input`] naming a shard that is no tar file or ends too early, or if no picture has a
    /// caption; [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let shards = shards(path)?;
        let listed = shards.par_iter().enumerate().map(|(i, shard)| list(shard, i));
        let listed: Vec<Vec<Sample>> = listed.collect::<Result<_>>()?;
        let samples: Vec<Sample> = listed.into_iter().flatten().collect();
        if samples.is_empty() {
            return Err(Error::input_hint(
                format!("{}: no shard has a picture with a caption", path.display()),
                "a sample is a picture and a .txt or .json file of the same name, one after the other",
            ));
        }
        if samples.len() > MAX_PICTURES {
            return Err(Error::input(format!(
                "{}: {} pictures, more than {MAX_PICTURES}",
                path.display(),
                samples.len()
            )));
        }
        let identity = hash(samples.iter().flat_map(|s| {
            [s.shard.to_string(), s.name.clone(), s.bytes.to_string(), s.caption.clone()]
        }));
        Ok(WebDataset { shards, samples, identity: format!("webdataset {identity}") })
    }
}

impl Corpus for WebDataset {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn caption(&self, index: usize) -> Option<String> {
        Some(self.samples.get(index)?.caption.clone())
    }

    fn picture(&self, index: usize) -> Result<RgbImage> {
        let Some(sample) = self.samples.get(index) else {
            return Err(past_the_end("webdataset", index, self.samples.len()));
        };
        let shard = &self.shards[sample.shard];
        let mut file = File::open(shard).map_err(Error::io(shard))?;
        let mut bytes = vec![];
        file.seek(SeekFrom::Start(sample.start)).map_err(Error::io(shard))?;
        file.take(sample.bytes).read_to_end(&mut bytes).map_err(Error::io(shard))?;
        decode(&bytes, &format!("{}: {}", shard.display(), sample.name))
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }
}

/// A sample in the making.
#[derive(Default)]
struct Parts {
    key: String,
    picture: Option<(String, u64, u64)>,
    /// Those of [`CAPTION_FILES`] that are there.
    captions: [Option<String>; CAPTION_FILES.len()],
}

fn list(path: &Path, shard: usize) -> Result<Vec<Sample>> {
    refuse_compressed(path)?;
    let bad = |what: String| Error::input(format!("{}: {what}", path.display()));
    let file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    let mut archive = tar::Archive::new(BufReader::new(file));
    let unreadable = |e: std::io::Error| bad(format!("not a readable tar file: {e}"));
    let mut samples = vec![];
    let (mut without, mut large) = (0, 0);
    let mut end = 0;
    let mut seen = HashSet::new();
    let mut parts = Parts::default();
    let mut finish = |parts: Parts, samples: &mut Vec<Sample>| {
        let Some((name, start, bytes)) = parts.picture else { return };
        match parts.captions.into_iter().flatten().next() {
            Some(caption) => samples.push(Sample { shard, name, start, bytes, caption }),
            None => without += 1,
        }
    };
    for entry in archive.entries_with_seek().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        // links and sparse files have no contents of their own in one piece
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let (start, bytes) = (entry.raw_file_position(), entry.size());
        end = start.saturating_add(bytes);
        if end > length {
            return Err(bad(format!("`{name}` goes past the end of the file: it was cut off")));
        }
        if is_clutter(&name) {
            continue;
        }
        let (key, extension) = split(&name);
        if key != parts.key {
            finish(std::mem::take(&mut parts), &mut samples);
            if !seen.insert(key.to_owned()) {
                return Err(bad(format!("the members of sample `{key}` are not together")));
            }
            parts.key = key.to_owned();
        }
        if PICTURES.contains(&extension.as_str()) {
            match bytes <= MAX_BYTES {
                true => parts.picture = Some((name, start, bytes)),
                false => large += 1,
            }
        } else if let Some(kind) = CAPTION_FILES.iter().position(|e| *e == extension) {
            let mut text = vec![];
            entry.by_ref().take(MAX_CAPTION_FILE).read_to_end(&mut text).map_err(unreadable)?;
            parts.captions[kind] = caption_in(&extension, &text);
        }
    }
    finish(parts, &mut samples);
    // an archive ends with empty blocks of 512 bytes
    if length < end.next_multiple_of(512) + 512 {
        tracing::warn!("{}: the archive has no end: members may be missing", path.display());
    }
    if large > 0 {
        let path = path.display();
        tracing::warn!("{path}: {large} pictures have more than {MAX_BYTES} bytes; left out");
    }
    if without > 0 {
        tracing::warn!("{}: {without} pictures have no caption", path.display());
    }
    Ok(samples)
}

/// Key and extension of a member: a sample's name ends at the first dot behind the last slash.
fn split(name: &str) -> (&str, String) {
    let file = name.rfind('/').map_or(0, |i| i + 1);
    match name[file..].find('.') {
        Some(dot) => (&name[..file + dot], name[file + dot + 1..].to_ascii_lowercase()),
        None => (name, String::new()),
    }
}
