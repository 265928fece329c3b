//! Pictures in files, captions beside them or in a list.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use image::RgbImage;
use rayon::prelude::*;

use super::{
    CAPTION_FILES, CAPTION_KEYS, Corpus, MAX_CAPTION_FILE, MAX_LIST, MAX_PICTURES, PICTURES,
    caption_in, caption_of, clean, past_the_end,
};
use crate::data::clutter::is_clutter;
use crate::data::hash;
use crate::data::picture::read_picture;
use crate::readfile::{refuse_compressed, without_mark};
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

/// A picture with its caption.
struct Row {
    /// Below the corpus's folder, with `/`.
    path: String,
    caption: String,
    /// Where the list has it; 0 without a list.
    line: u64,
}

impl FileCorpus {
    /// Pictures anywhere below `folder` that have a `.txt`, `.caption` or `.json` file of the same name
    /// beside them.
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
        let rows: Vec<Row> = pictures
            .into_par_iter()
            .filter_map(|(path, beside)| {
                let mut captions = beside.iter();
                let caption = captions.find_map(|(kind, file)| {
                    caption_in(CAPTION_FILES[*kind], &start(&folder.join(file))?)
                })?;
                Some(Row { path, caption, line: 0 })
            })
            .collect();
        if rows.len() < found {
            let without = found - rows.len();
            tracing::warn!("{}: {without} pictures have no caption", folder.display());
        }
        Self::new(folder, folder, rows)
    }

    /// Pictures that a `.csv`, `.tsv` or `.jsonl` file lists, with columns or keys for the path
    /// (`file_name`, `image`, `path`, …; relative to the list's folder, or absolute, and inside it) and the
    /// caption (`caption`, `text`, …). What is listed and not there is left out with a warning.
    ///
    /// # Errors
    /// [`Error::Input`] naming the row that cannot be used; [`Error::Io`].
    pub fn from_list(list: &Path) -> Result<Self> {
        let size = std::fs::metadata(list).map_err(Error::io(list))?.len();
        if size > MAX_LIST {
            return Err(Error::input(format!(
                "{}: {size} bytes are too many: at most {MAX_LIST} are read",
                list.display()
            )));
        }
        refuse_compressed(list)?;
        let root = match list.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let extension = list.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let inside = Inside::new(root)?;
        let mut rows = match extension.as_str() {
            "jsonl" => json_rows(list, &inside)?,
            "tsv" => csv_rows(list, b'\t', &inside)?,
            _ => csv_rows(list, b',', &inside)?,
        };
        if rows.len() > MAX_PICTURES {
            let (list, rows) = (list.display(), rows.len());
            return Err(Error::input(format!("{list}: {rows} rows, more than {MAX_PICTURES}")));
        }
        rows.retain(|row| !is_clutter(&row.path));
        Self::new(root, list, rows)
    }

    fn new(root: &Path, origin: &Path, rows: Vec<Row>) -> Result<Self> {
        let sizes = rows.par_iter().map(|row| file_size(&root.join(&row.path)));
        let sizes: Vec<Option<u64>> = sizes.collect::<Result<_>>()?;
        let missing = rows.iter().zip(&sizes).filter(|(_, size)| size.is_none());
        let missing: Vec<&Row> = missing.map(|(row, _)| row).collect();
        for Row { path, line, .. } in missing.iter().take(FEW) {
            let origin = origin.display();
            tracing::warn!("{origin}: line {line}: there is no file {path}; left out");
        }
        if missing.len() > FEW {
            let more = missing.len() - FEW;
            tracing::warn!("{}: {more} more files are not there; left out", origin.display());
        }
        if let Some(Row { path, line, .. }) = missing.first()
            && missing.len() == rows.len()
        {
            return Err(Error::input_hint(
                format!(
                    "{}: line {line}: there is no file {path}, nor any other",
                    origin.display()
                ),
                format!("paths start in {}", root.display()),
            ));
        }
        let rows = rows.into_iter().zip(sizes).filter_map(|(row, size)| Some((row, size?)));
        let rows: Vec<(Row, u64)> = rows.collect();
        if rows.is_empty() {
            return Err(Error::input_hint(
                format!("{}: there is no picture with a caption", origin.display()),
                "put a .txt file with the caption beside each picture, or list pictures and captions \
                 in metadata.csv",
            ));
        }
        let fields = rows
            .iter()
            .flat_map(|(row, size)| [row.path.clone(), row.caption.clone(), size.to_string()]);
        let identity = format!("files {}", hash(fields));
        let items = rows.into_iter().map(|(row, _)| (row.path, row.caption)).collect();
        Ok(FileCorpus { root: root.into(), items, identity })
    }
}

/// Files that are named one by one.
const FEW: usize = 5;

/// `None` for what is no file, or not there.
fn file_size(path: &Path) -> Result<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(found.is_file().then_some(found.len())),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
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

/// A picture's path, and those of the files beside it that may hold its caption, best first, each with its
/// number in [`CAPTION_FILES`].
type Found = (String, Vec<(usize, String)>);

/// Adds the pictures below `root/below`. Links to folders are not followed: they may lead in a circle.
fn walk(root: &Path, below: &str, depth: usize, found: &mut Vec<Found>) -> Result<()> {
    let folder = root.join(below);
    let mut captions: HashMap<String, Vec<(usize, String)>> = HashMap::new();
    let mut pictures = vec![];
    for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder))? {
        let entry = entry.map_err(Error::io(&folder))?;
        let name = entry.file_name();
        // what is no Unicode cannot be part of an identity
        let Some(name) = name.to_str().filter(|n| !is_clutter(n)) else { continue };
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        let kind = entry.file_type().map_err(Error::io(&folder))?;
        if kind.is_dir() {
            if depth < MAX_DEPTH {
                walk(root, &path, depth + 1, found)?;
            }
            continue;
        }
        let Some((stem, extension)) = name.rsplit_once('.') else { continue };
        let is = |e: &str| extension.eq_ignore_ascii_case(e);
        if PICTURES.iter().any(|e| is(e)) {
            pictures.push((stem.to_owned(), path));
        } else if let Some(kind) = CAPTION_FILES.iter().position(|e| is(e)) {
            captions.entry(stem.to_owned()).or_default().push((kind, path));
        }
        if found.len() + pictures.len() > MAX_PICTURES {
            let root = root.display();
            return Err(Error::input(format!("{root}: more than {MAX_PICTURES} pictures")));
        }
    }
    for (stem, path) in pictures {
        let mut beside = captions.get(&stem).cloned().unwrap_or_default();
        beside.sort();
        found.push((path, beside));
    }
    Ok(())
}

/// The start of a file; `None` if it cannot be read.
fn start(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = vec![];
    let file = std::fs::File::open(path).ok()?;
    file.take(MAX_CAPTION_FILE).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn csv_rows(list: &Path, delimiter: u8, inside: &Inside) -> Result<Vec<Row>> {
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
        let path = inside.path(path).map_err(|what| bad(format!("line {line}: {what}")))?;
        if let Some(caption) = clean(record.get(caption).unwrap_or_default()) {
            rows.push(Row { path, caption, line });
        }
    }
    Ok(rows)
}

fn json_rows(list: &Path, inside: &Inside) -> Result<Vec<Row>> {
    let file = std::fs::File::open(list).map_err(Error::io(list))?;
    let mut rows = vec![];
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let bad =
            |what: String| Error::input(format!("{}: line {}: {what}", list.display(), i + 1));
        let line = line.map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidData => bad("not UTF-8".into()),
            _ => Error::io(list)(e),
        })?;
        let text = without_mark(&line);
        if text.trim().is_empty() {
            continue;
        }
        let object: serde_json::Map<_, _> =
            serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        let path = PATH_KEYS.iter().find_map(|key| object.get(*key)?.as_str());
        let path = path.ok_or_else(|| bad(format!("none of {}", PATH_KEYS.join(", "))))?;
        let path = inside.path(path).map_err(bad)?;
        if let Some(caption) = caption_of(&object) {
            rows.push(Row { path, caption, line: i as u64 + 1 });
        }
    }
    Ok(rows)
}

/// The folder that a list's paths must lead into.
struct Inside {
    /// Its absolute paths: as it is named, and with links followed.
    roots: [PathBuf; 2],
}

impl Inside {
    fn new(root: &Path) -> Result<Self> {
        let named = std::path::absolute(root).map_err(Error::io(root))?;
        Ok(Inside { roots: [named, root.canonicalize().map_err(Error::io(root))?] })
    }

    /// `path` below the folder; the error is the end of a sentence.
    fn path(&self, path: &str) -> std::result::Result<String, String> {
        let given = Path::new(path);
        let below = match given.is_absolute() {
            true => self.roots.iter().find_map(|root| given.strip_prefix(root).ok()),
            false => Some(given),
        };
        let plain = |c: Component| matches!(c, Component::Normal(_) | Component::CurDir);
        let below = below.and_then(Path::to_str).filter(|below| {
            !below.is_empty() && !below.contains('\0') && Path::new(below).components().all(plain)
        });
        let outside = || format!("`{path}` is no path inside the list's folder");
        below.map(str::to_owned).ok_or_else(outside)
    }
}
