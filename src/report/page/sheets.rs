//! The pictures of the page: thumbnails on sheets, so that thousands are few files, and the images
//! themselves.
//!
//! A file is called by what is in it. What an earlier report left is taken as it is, and a report that grows
//! with its run draws the sheets of new cells alone: a sheet has the images of one concept set.

use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{replace, thumbnail};
use image::{Rgb, RgbImage};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::drawing::{drawn, write_png};
use crate::report::folder::Folder;
use crate::report::grid::Pictures;
use crate::report::results::ImageRow;
use crate::{Error, Result, process, safefile};

/// Thumbnails side by side, and below each other.
pub const ACROSS: usize = 6;
/// The longer side of a thumbnail; images that are smaller keep their size.
const SIDE: u32 = 128;
/// Images of more bytes in all are copied as JPEG: as PNG, twenty thousand of 512 × 512 pixels are 9 GB.
const EXACT: u64 = 512 << 20;
/// Of thumbnails, and of images that are copied as JPEG.
const QUALITY: u8 = 88;
/// Where nothing is drawn.
const EMPTY: Rgb<u8> = Rgb([205; 3]);

/// Where a picture is on the page.
#[derive(Clone)]
pub struct Place {
    /// The number of its sheet.
    pub sheet: usize,
    /// Its place on the sheet, line by line.
    pub slot: usize,
    /// The name of the whole image below `page/images/`.
    pub full: String,
}

/// The sheets of a report.
pub struct Sheets {
    /// Their files.
    pub files: Vec<String>,
    /// Side in pixels of a thumbnail's square.
    pub side: u32,
    /// Where each image is, in the order of the images; none if it is lost.
    pub places: Vec<Option<Place>>,
    /// Whether the images are the store's own files; else they are JPEGs of them.
    pub exact: bool,
}

/// An image that is to be shown.
struct Wanted<'a> {
    /// Its number among all.
    at: usize,
    row: &'a ImageRow,
    file: Option<PathBuf>,
    /// What its contents are known by; empty where it has no file.
    stamp: String,
    bytes: u64,
}

/// Draws the sheets of images that are parted into sets, each with the numbers of its own, and copies the
/// images.
///
/// # Errors
/// A file that cannot be written.
pub fn sheets(
    images: &[&ImageRow],
    sets: &[Vec<usize>],
    finder: &dyn Pictures,
    folder: &Folder,
) -> Result<Sheets> {
    let wanted: Vec<Vec<Wanted>> = sets
        .iter()
        .map(|set| set.iter().filter_map(|&at| wanted(at, images[at], finder)).collect())
        .collect();
    let exact = wanted.iter().flatten().map(|w| w.bytes).sum::<u64>() <= EXACT;
    let first = wanted.iter().flatten().find_map(|w| finder.sample(w.row));
    let side = first.map_or(SIDE, |i| i.width().max(i.height()).clamp(1, SIDE));
    let parts: Vec<&[Wanted]> = wanted.iter().flat_map(|set| set.chunks(ACROSS * ACROSS)).collect();
    let maker = Maker { finder, root: folder.root(), side, exact };
    let made: Vec<(String, Vec<Option<String>>)> =
        parts.par_iter().map(|part| maker.sheet(part)).collect::<Result<_>>()?;

    let mut out = Sheets { files: vec![], side, places: vec![None; images.len()], exact };
    for (part, (file, fulls)) in parts.iter().zip(made) {
        folder.file(file.as_str());
        for (slot, (wanted, full)) in part.iter().zip(fulls).enumerate() {
            let Some(full) = full else { continue };
            folder.file(image_file(&full));
            out.places[wanted.at] = Some(Place { sheet: out.files.len(), slot, full });
        }
        out.files.push(file);
    }
    Ok(out)
}

/// The strip of a concept's targets, and how many it has; none where it has none.
///
/// # Errors
/// A file that cannot be written.
pub fn strip(pictures: &[RgbImage], folder: &Folder) -> Result<Option<(String, usize)>> {
    if pictures.is_empty() {
        return Ok(None);
    }
    let longest = pictures.iter().map(|p| p.width().max(p.height())).max();
    let side = longest.unwrap_or(SIDE).clamp(1, SIDE);
    let mut page = RgbImage::from_pixel(side * pictures.len() as u32, side, EMPTY);
    for (i, picture) in pictures.iter().enumerate() {
        place(&mut page, picture, (side * i as u32, 0), side);
    }
    let bytes = jpeg(&page)?;
    let name = format!("page/sheets/targets-{}.jpg", name_of(&bytes));
    safefile::write(&folder.file(name.as_str()), bytes)?;
    Ok(Some((name, pictures.len())))
}

fn wanted<'a>(at: usize, row: &'a ImageRow, finder: &dyn Pictures) -> Option<Wanted<'a>> {
    let Some(file) = finder.file(row) else {
        return Some(Wanted { at, row, file: None, stamp: String::new(), bytes: 0 });
    };
    let found = std::fs::metadata(&file).ok().filter(|m| m.is_file())?;
    let changed = process::changed_since_1970(&found);
    let stamp = format!("{}\n{}\n{changed:?}", row.file, found.len());
    Some(Wanted { at, row, file: Some(file), stamp, bytes: found.len() })
}

struct Maker<'a> {
    finder: &'a dyn Pictures,
    root: &'a Path,
    side: u32,
    exact: bool,
}

impl Maker<'_> {
    /// The file of a sheet, and the names of its images, each none if it is lost.
    fn sheet(&self, part: &[Wanted]) -> Result<(String, Vec<Option<String>>)> {
        let stamps: Vec<&str> = part.iter().map(|w| w.stamp.as_str()).collect();
        let known = stamps.iter().all(|s| !s.is_empty());
        if known {
            let names: Vec<String> = part.iter().map(|w| self.name(&w.stamp)).collect();
            let whole = |name: &String| self.root.join(image_file(name)).is_file();
            let sheet = sheet_file(&name_of(format!("{} {stamps:?}", self.side)));
            if self.root.join(&sheet).is_file() && names.iter().all(whole) {
                return Ok((sheet, names.into_iter().map(Some).collect()));
            }
        }
        let (across, rows) = (ACROSS as u32, part.len().div_ceil(ACROSS) as u32);
        let mut page = RgbImage::from_pixel(self.side * across, self.side * rows, EMPTY);
        let mut fulls = vec![];
        for (slot, wanted) in part.iter().enumerate() {
            let picture = self.finder.sample(wanted.row);
            if let Some(picture) = &picture {
                let (x, y) = ((slot % ACROSS) as u32, (slot / ACROSS) as u32);
                place(&mut page, picture, (x * self.side, y * self.side), self.side);
            }
            fulls.push(picture.map(|p| self.full(wanted, &p)).transpose()?);
        }
        let bytes = jpeg(&page)?;
        // a sheet with a lost image is drawn again: the image may be found by then
        let sheet = match known && fulls.iter().all(Option::is_some) {
            true => sheet_file(&name_of(format!("{} {stamps:?}", self.side))),
            false => sheet_file(&name_of(&bytes)),
        };
        safefile::write(&self.root.join(&sheet), bytes)?;
        Ok((sheet, fulls))
    }

    fn name(&self, contents: impl AsRef<[u8]>) -> String {
        format!("{}.{}", name_of(contents), if self.exact { "png" } else { "jpg" })
    }

    /// Writes the whole image, and gives its name.
    fn full(&self, wanted: &Wanted, picture: &RgbImage) -> Result<String> {
        let name = match wanted.stamp.is_empty() {
            true => self.name(picture.as_raw()),
            false => self.name(&wanted.stamp),
        };
        let path = self.root.join(image_file(&name));
        match (&wanted.file, self.exact) {
            _ if path.is_file() => {}
            (Some(file), true) => copy(file, &path)?,
            (None, true) => write_png(&path, picture)?,
            (_, false) => {
                whole(&path, |part| std::fs::write(part, jpeg(picture)?).map_err(Error::io(part)))?
            }
        }
        Ok(name)
    }
}

/// Copies a file of ours.
fn copy(from: &Path, to: &Path) -> Result<()> {
    whole(to, |part| std::fs::copy(from, part).map(drop).map_err(Error::io(part)))
}

/// Writes a file under its name once it is whole. It is not forced to the disk, which for thousands of files
/// would take longer than to draw them: they can be made again.
fn whole(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    write(&part)?;
    std::fs::rename(&part, path).map_err(Error::io(path))
}

/// Puts a picture into the middle of a square; large ones are made to fit.
fn place(page: &mut RgbImage, picture: &RgbImage, (x, y): (u32, u32), side: u32) {
    let longer = picture.width().max(picture.height()).max(1);
    let scaled = |length: u32| (length * side / longer).max(1);
    let small = (longer > side)
        .then(|| thumbnail(picture, scaled(picture.width()), scaled(picture.height())));
    let fitted = small.as_ref().unwrap_or(picture);
    let (dx, dy) = ((side - fitted.width()) / 2, (side - fitted.height()) / 2);
    replace(page, fitted, i64::from(x + dx), i64::from(y + dy));
}

fn jpeg(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    drawn(JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode_image(picture))?;
    Ok(bytes)
}

fn sheet_file(name: &str) -> String {
    format!("page/sheets/{name}.jpg")
}

fn image_file(name: &str) -> String {
    format!("page/images/{name}")
}

/// A name for contents.
fn name_of(contents: impl AsRef<[u8]>) -> String {
    format!("{:x}", Sha256::digest(contents))[..16].to_owned()
}
