//! Captioned pictures from which regularisation images are retrieved.

mod files;
mod webdataset;
mod world;

pub use files::FileCorpus;
pub use webdataset::WebDataset;
pub use world::WorldCorpus;

use std::path::Path;

use image::RgbImage;

use super::clutter::is_clutter;
use crate::readfile::{refuse_compressed, without_mark};
use crate::{Error, Result};

/// What names of pictures end in, in folders and shards alike.
const PICTURES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];
/// What names of files beside a picture end in that may hold its caption, best first.
const CAPTION_FILES: [&str; 3] = ["txt", "caption", "json"];
/// Bytes that are read of such a file.
const MAX_CAPTION_FILE: u64 = 1 << 20;
/// Bytes of a caption; what is longer is cut.
const MAX_CAPTION: usize = 16 << 10;
/// Pictures of a corpus.
const MAX_PICTURES: usize = 20_000_000;
/// Bytes of a list of captions.
const MAX_LIST: u64 = 4 << 30;

/// Captioned pictures with random access.
pub trait Corpus: Send + Sync {
    /// How many pictures there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The caption of picture `index`; `None` past the end, or where it has none.
    fn caption(&self, index: usize) -> Option<String>;

    /// `count` captions, evenly spread: what the merge makes its `C_reg` of.
    fn spread_captions(&self, count: usize) -> Vec<String> {
        let (len, count) = (self.len(), count.min(self.len()));
        (0..count).filter_map(|i| self.caption(i * len / count)).collect()
    }

    /// Picture `index`.
    ///
    /// # Errors
    /// [`Error::Input`] past the end or naming a picture that cannot be decoded; [`Error::Io`].
    fn picture(&self, index: usize) -> Result<RgbImage>;

    /// Tells corpora apart: changes with the captions, and with the names and sizes of the pictures'
    /// files.
    fn identity(&self) -> String;
}

/// Opens a corpus by what is there:
///
/// - `mini`: the embedded world's own; `mini-validation`: its scenes for KID;
/// - a folder with `metadata.jsonl` or `metadata.csv` (an image folder as `datasets` reads it), with
///   `.tar` shards (webdataset), or with pictures beside `.txt`, `.caption` or `.json` files of the same
///   names;
/// - a `.csv`, `.tsv`, `.jsonl` or `.tar` file.
///
/// What systems leave among people's files, such as `._cat.jpg`, is passed over in all of them.
///
/// # Errors
/// [`Error::Input`] if it is none of these or nothing in it can be used; [`Error::Io`].
pub fn corpus(spec: &str) -> Result<Box<dyn Corpus>> {
    match spec {
        "mini" => return Ok(Box::new(WorldCorpus::retrieval())),
        "mini-validation" => return Ok(Box::new(WorldCorpus::validation())),
        _ => {}
    }
    let path = Path::new(spec);
    let list = ["metadata.jsonl", "metadata.csv"].map(|name| path.join(name));
    if let Some(list) = list.iter().find(|list| list.is_file()) {
        return Ok(Box::new(FileCorpus::from_list(list)?));
    }
    if path.is_dir() {
        if !webdataset::shards(path)?.is_empty() {
            return Ok(Box::new(WebDataset::open(path)?));
        }
        refuse_compressed_in(path)?;
        return Ok(Box::new(FileCorpus::from_folder(path)?));
    }
    if path.is_file() {
        refuse_compressed(path)?;
    }
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    match extension.as_str() {
        "tar" if path.is_file() => Ok(Box::new(WebDataset::open(path)?)),
        "csv" | "tsv" | "jsonl" if path.is_file() => Ok(Box::new(FileCorpus::from_list(path)?)),
        _ => {
            let what = if path.exists() { "this is no corpus" } else { "there is no such corpus" };
            Err(Error::input_hint(
                format!("{spec}: {what}"),
                "give `mini`, a folder of pictures with captions, a .csv, .tsv or .jsonl file, or \
                 .tar shards",
            ))
        }
    }
}

/// Names a shard or list of a folder that is there in compressed form only.
fn refuse_compressed_in(folder: &Path) -> Result<()> {
    const ENDS: [&str; 4] = [".tar.gz", ".tgz", "metadata.jsonl.gz", "metadata.csv.gz"];
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let name = entry.file_name().to_string_lossy().to_ascii_lowercase();
        if ENDS.iter().any(|end| name.ends_with(end)) && !is_clutter(&name) {
            refuse_compressed(&entry.path())?;
        }
    }
    Ok(())
}

/// The caption in one of [`CAPTION_FILES`], of which `extension` says which; `None` if there is none.
fn caption_in(extension: &str, bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = without_mark(&text);
    match extension {
        "json" => serde_json::from_str(text).ok().and_then(|json| caption_of(&json)),
        _ => clean(text),
    }
}

/// One line, without space around, not too long; `None` if nothing is left.
fn clean(caption: &str) -> Option<String> {
    let mut caption = caption.split_whitespace().collect::<Vec<_>>().join(" ");
    if caption.len() > MAX_CAPTION {
        let end = (0..=MAX_CAPTION).rev().find(|&i| caption.is_char_boundary(i));
        caption.truncate(end.unwrap_or(0));
    }
    (!caption.is_empty()).then_some(caption)
}

/// A caption in the JSON that goes with a picture.
fn caption_of(json: &serde_json::Map<String, serde_json::Value>) -> Option<String> {
    CAPTION_KEYS.iter().find_map(|key| clean(json.get(*key)?.as_str()?))
}

/// What captions are called in lists, best first.
const CAPTION_KEYS: [&str; 4] = ["caption", "text", "prompt", "description"];

fn past_the_end(corpus: &str, index: usize, len: usize) -> Error {
    Error::input(format!("{corpus}: there is no picture {index}, only {len}"))
}

#[cfg(test)]
mod tests;
