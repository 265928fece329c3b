//! Pictures in files, captions beside them or in a list.

use std::io::{BufRead, BufReader};
use std::path::{Component, Path, PathBuf};

use image::RgbImage;
use rayon::prelude::*;

use super::{
    CAPTION_KEYS, Corpus, MAX_CAPTION, MAX_LIST, MAX_PICTURES, caption_of, clean, past_the_end,
};
use crate::data::hash;
use crate::data::picture::read_picture;
use crate::{Error, Result};

/// How deep below a corpus's folder pictures are looked for.
const MAX_DEPTH: usize = 6;
/// What pictures' paths are called in lists, best first.
const PATH_KEYS: [&str; 6] = ["file_name", "image", "path", "filepath", "filename", "file"];

/// Files with captions.
pub struct FileCorpus {
    root: PathBuf,
    /// Paths below `root` with `/`, and captions.
    items: Vec<(String, String)>,
    identity: String,
}

impl FileCorpus {
    /// Pictures anywhere below `folder` that have a `.txt` file of the same name beside them.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no folder or no such picture; [`Error::Io`].
    pub fn from_folder(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::input(format!("{}: there is no such folder", folder.display())));
        }
        let mut pictures = vec![];
        walk(folder, "", 0, &mut pictures)?;
        pictures.sort();
        let found = pictures.len();
        let items: Vec<(String, String)> = pictures
            .into_par_iter()
            .filter_map(|name| {
                let caption = read_caption(&folder.join(&name).with_extension("txt"))?;
                Some((name, caption))
            })
            .collect();
        if items.len() < found {
            let without = found - items.len();
            tracing::warn!("{}: {without} pictures have no caption", folder.display());
        }
        Self::new(folder, folder, items)
    }

    /// Pictures that a `.csv`, `.tsv` or `.jsonl` file lists, with columns or keys for the path
    /// (`file_name`, `image`, `path`, …; relative to the list's folder, and inside it) and the caption
    /// (`caption`, `text`, …).
    ///
    /// # Errors
    /// [`Error::Input`] naming the row that cannot be used; [`Error::Io`].
    pub fn from_list(list: &Path) -> Result<Self> {
        let size = std::fs::metadata(list).map_err(Error::io(list))?.len();
        if size > MAX_LIST {
            return Err(Error::input(format!("{}: {size} bytes are too many", list.display())));
        }
        let extension = list.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let rows = match extension.as_str() {
            "jsonl" => json_rows(list)?,
            "tsv" => csv_rows(list, b'\t')?,
            _ => csv_rows(list, b',')?,
        };
        if rows.len() > MAX_PICTURES {
            return Err(Error::input(format!("{}: too many rows", list.display())));
        }
        let root = match list.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Self::new(root, list, rows)
    }

    fn new(root: &Path, origin: &Path, items: Vec<(String, String)>) -> Result<Self> {
        if items.is_empty() {
            return Err(Error::input_hint(
                format!("{}: there is no picture with a caption", origin.display()),
                "put a .txt file with the caption beside each picture, or list pictures and captions \
                 in metadata.csv",
            ));
        }
        let sizes = items.par_iter().map(|(name, _)| {
            let path = root.join(name);
            let file = std::fs::metadata(&path).map_err(Error::io(&path))?;
            Ok(file.len().to_string())
        });
        let sizes: Vec<String> = sizes.collect::<Result<_>>()?;
        let rows = items.iter().zip(&sizes);
        let identity = hash(rows.flat_map(|((name, caption), size)| [name, caption, size]));
        Ok(FileCorpus { root: root.into(), items, identity: format!("files {identity}") })
    }
}

impl Corpus for FileCorpus {
    fn len(&self) -> usize {
        self.items.len()
    }

    fn caption(&self, index: usize) -> Option<String> {
        Some(self.items.get(index)?.1.clone())
    }

    fn picture(&self, index: usize) -> Result<RgbImage> {
        match self.items.get(index) {
            Some((name, _)) => read_picture(&self.root.join(name)),
            None => Err(past_the_end(&self.root.to_string_lossy(), index, self.items.len())),
        }
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }
}

/// Adds the pictures below `root/below`. Links to folders are not followed: they may lead in a circle.
fn walk(root: &Path, below: &str, depth: usize, found: &mut Vec<String>) -> Result<()> {
    let folder = root.join(below);
    for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder))? {
        let entry = entry.map_err(Error::io(&folder))?;
        let name = entry.file_name();
        // what is no Unicode cannot be part of an identity
        let Some(name) = name.to_str().filter(|n| !n.starts_with('.')) else { continue };
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        let kind = entry.file_type().map_err(Error::io(&folder))?;
        if kind.is_dir() {
            if depth < MAX_DEPTH {
                walk(root, &path, depth + 1, found)?;
            }
            continue;
        }
        let extension = Path::new(name).extension().unwrap_or_default().to_ascii_lowercase();
        if ["jpg", "jpeg", "png", "webp"].iter().any(|e| extension == *e) {
            found.push(path);
        }
        if found.len() > MAX_PICTURES {
            return Err(Error::input(format!("{}: too many pictures", root.display())));
        }
    }
    Ok(())
}

/// The start of a text file; `None` if it is not there, or empty.
fn read_caption(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut bytes = vec![];
    let file = std::fs::File::open(path).ok()?;
    file.take(MAX_CAPTION as u64).read_to_end(&mut bytes).ok()?;
    clean(&String::from_utf8_lossy(&bytes))
}

fn csv_rows(list: &Path, delimiter: u8) -> Result<Vec<(String, String)>> {
    let bad = |what: String| Error::input(format!("{}: {what}", list.display()));
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .from_path(list)
        .map_err(|e| bad(e.to_string()))?;
    let header = reader.headers().map_err(|e| bad(e.to_string()))?.clone();
    let column = |keys: &[&str], what: &str| {
        let place = |key: &&str| header.iter().position(|h| h.trim().eq_ignore_ascii_case(key));
        keys.iter().find_map(place).ok_or_else(|| {
            let found: Vec<&str> = header.iter().take(20).collect();
            Error::input_hint(
                format!(
                    "{}: no column for the {what} among `{}`",
                    list.display(),
                    found.join("`, `")
                ),
                format!("name it {}", keys.join(", ")),
            )
        })
    };
    let (path, caption) = (column(&PATH_KEYS, "picture")?, column(&CAPTION_KEYS, "caption")?);
    let mut rows = vec![];
    for record in reader.records() {
        let record = record.map_err(|e| bad(e.to_string()))?;
        let line = record.position().map_or(0, |p| p.line());
        let path = record.get(path).unwrap_or_default().trim();
        inside(path).map_err(|what| bad(format!("line {line}: {what}")))?;
        if let Some(caption) = clean(record.get(caption).unwrap_or_default()) {
            rows.push((path.to_owned(), caption));
        }
    }
    Ok(rows)
}

fn json_rows(list: &Path) -> Result<Vec<(String, String)>> {
    let file = std::fs::File::open(list).map_err(Error::io(list))?;
    let mut rows = vec![];
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let bad =
            |what: String| Error::input(format!("{}: line {}: {what}", list.display(), i + 1));
        let line = line.map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidData => bad("not UTF-8".into()),
            _ => Error::io(list)(e),
        })?;
        if line.trim().is_empty() {
            continue;
        }
        let object: serde_json::Map<_, _> =
            serde_json::from_str(&line).map_err(|e| bad(e.to_string()))?;
        let path = PATH_KEYS.iter().find_map(|key| object.get(*key)?.as_str());
        let path = path.ok_or_else(|| bad(format!("none of {}", PATH_KEYS.join(", "))))?;
        inside(path).map_err(bad)?;
        if let Some(caption) = caption_of(&object) {
            rows.push((path.to_owned(), caption));
        }
    }
    Ok(rows)
}

/// Whether a path leads to something below the folder it starts from.
fn inside(path: &str) -> std::result::Result<(), String> {
    let plain = |c| matches!(c, Component::Normal(_) | Component::CurDir);
    match !path.is_empty() && !path.contains('\0') && Path::new(path).components().all(plain) {
        true => Ok(()),
        false => Err(format!("`{path}` is no path inside the list's folder")),
    }
}
