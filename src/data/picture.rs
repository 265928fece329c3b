//! Pictures that users bring: any size, from any camera, not to be trusted.

mod decode;
mod jpeg;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use image::RgbImage;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::clutter::{is_attention, is_clutter};
use crate::{Error, Result, readfile};
use decode::{decode_if, is_read};

/// Largest file that is read as a picture.
pub(super) const MAX_BYTES: u64 = 256 << 20;
/// Pixels of one picture, and of all pictures of a folder: 3 bytes each in memory.
const MAX_PIXELS: u64 = 100_000_000;
const MAX_TOTAL_PIXELS: u64 = 1_000_000_000;
/// Files of a folder.
const MAX_FILES: usize = 20_000;

/// A picture with its file's name.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// The file's name, or what stands for it.
    pub name: String,
    /// Upright.
    pub image: RgbImage,
    /// [`picture_hash`] of `image`.
    pub hash: String,
}

impl Picture {
    /// Hashes `image`.
    pub fn new(name: impl Into<String>, image: RgbImage) -> Self {
        Picture { name: name.into(), hash: picture_hash(&image), image }
    }
}

/// What to do about a picture that cannot be read among others that can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnCorrupt {
    /// Fail, naming it.
    #[default]
    Refuse,
    /// Leave it out, with a warning.
    Skip,
}

/// SHA-256 of width, height and pixels: the same picture has the same hash in any file format.
pub fn picture_hash(image: &RgbImage) -> String {
    let (width, height) = image.dimensions();
    super::hash([&width.to_le_bytes()[..], &height.to_le_bytes(), image.as_raw()])
}

/// The pictures of a folder (JPEG, PNG or WebP, told by content), upright, sorted by name. Hidden files and
/// others that systems leave, drawings of what samples attend to, folders, and files that neither are nor claim to be pictures are passed
/// over; of pictures in folders below it a warning tells.
///
/// # Errors
/// [`Error::Input`] if there is no folder or no picture in it, if pictures are too large, or, with
/// [`OnCorrupt::Refuse`], naming a picture that cannot be read; [`Error::Io`].
pub fn read_pictures(folder: &Path, on_corrupt: OnCorrupt) -> Result<Vec<Picture>> {
    let total = AtomicU64::new(0);
    let read = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let origin = path.display().to_string();
        let bytes = readfile::bytes(path, MAX_BYTES)?;
        let image = decode_if(&bytes, &origin, |pixels| {
            total.fetch_add(pixels, Ordering::Relaxed) + pixels <= MAX_TOTAL_PIXELS
        })?;
        Ok(Picture::new(name, image))
    };
    let read: Vec<Result<Picture>> = candidates(folder)?.par_iter().map(read).collect();
    if total.into_inner() > MAX_TOTAL_PIXELS {
        return Err(Error::input_hint(
            format!(
                "{}: the pictures have more than {MAX_TOTAL_PIXELS} pixels together",
                folder.display()
            ),
            "make them smaller: training uses no more than the backbone's own size",
        ));
    }
    let mut pictures = vec![];
    for picture in read {
        match (picture, on_corrupt) {
            (Ok(picture), _) => pictures.push(picture),
            (Err(e @ Error::Input { .. }), OnCorrupt::Skip) => {
                tracing::warn!("left out: {e}");
            }
            (Err(Error::Input { message, hint }), OnCorrupt::Refuse) => {
                let hint = hint.unwrap_or_else(|| "mend or remove it".into());
                return Err(Error::input_hint(message, format!("{hint}, or {SKIP}")));
            }
            (Err(e), _) => return Err(e),
        }
    }
    let below = pictures_below(folder, 0);
    if pictures.is_empty() {
        let hint = match &below {
            Some((count, first)) => format!("{count} are in folders below: name {first}, say"),
            None => "JPEG, PNG and WebP files are read".into(),
        };
        let message = format!("{}: there is no picture in this folder", folder.display());
        return Err(Error::input_hint(message, hint));
    }
    if let Some((count, first)) = below {
        tracing::warn!(
            "{}: {} pictures are taken, and {count} in folders below it, such as {first}, are not: \
             move them into it to take them",
            folder.display(),
            pictures.len()
        );
    }
    Ok(pictures)
}

/// How to leave a picture out that cannot be read.
const SKIP: &str =
    "leave it out: `--skip-corrupt`, or `on_corrupt = \"skip\"` of a concept in a file";

/// Files that are pictures by content or by name, sorted.
fn candidates(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        let what = if folder.exists() { "this is no folder" } else { "there is no such folder" };
        return Err(Error::input(format!("{}: {what}", folder.display())));
    }
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let clutter = path.file_name().is_some_and(|n| is_clutter(&n.to_string_lossy()));
        if clutter || is_attention(&path) || !path.is_file() {
            continue;
        }
        let mut start = vec![];
        let file = std::fs::File::open(&path).map_err(Error::io(&path))?;
        file.take(32).read_to_end(&mut start).map_err(Error::io(&path))?;
        if image::guess_format(&start).is_ok_and(is_read) || claims_to_be_a_picture(&path) {
            found.push(path);
        } else {
            tracing::debug!("{}: not a picture", path.display());
        }
        if found.len() > MAX_FILES {
            let message = format!("{}: more than {MAX_FILES} pictures", folder.display());
            return Err(Error::input(message));
        }
    }
    found.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    Ok(found)
}

/// How many files below the folders in `folder` claim to be pictures, and one of those folders.
fn pictures_below(folder: &Path, depth: usize) -> Option<(usize, String)> {
    const MAX_DEPTH: usize = 6;
    let (mut count, mut first) = (0, None);
    // what cannot be looked into is no reason to stop
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let (path, kind) = (entry.path(), entry.file_type());
        if is_clutter(&entry.file_name().to_string_lossy()) {
            continue;
        }
        if kind.is_ok_and(|kind| kind.is_dir()) && depth < MAX_DEPTH {
            if let Some((more, place)) = pictures_below(&path, depth + 1) {
                count += more;
                first.get_or_insert(place);
            }
        } else if depth > 0 && claims_to_be_a_picture(&path) {
            count += 1;
            first = Some(folder.display().to_string());
        }
    }
    Some((count, first?))
}

/// By its name: also formats that are not read, so that they are named and not silently missing.
fn claims_to_be_a_picture(path: &Path) -> bool {
    const EXTENSIONS: [&str; 12] =
        ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "heic", "heif", "avif", "jxl"];
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    EXTENSIONS.contains(&extension.as_str())
}

/// Reads the picture `path`.
pub(crate) fn read_picture(path: &Path) -> Result<RgbImage> {
    decode(&readfile::bytes(path, MAX_BYTES)?, &path.display().to_string())
}

/// As files have it, turned upright; `origin` names it in errors.
pub(super) fn decode(bytes: &[u8], origin: &str) -> Result<RgbImage> {
    decode_if(bytes, origin, |_| true)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Cursor;

    use image::ImageFormat;

    use super::*;

    /// A picture whose corners differ.
    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, 40])
        })
    }

    fn bytes(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut out = Cursor::new(vec![]);
        image.write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    /// `jpeg` with EXIF data that say how to turn it.
    fn turned(jpeg: &[u8], orientation: u8) -> Vec<u8> {
        let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
        let mut out = vec![0xff, 0xd8, 0xff, 0xe1];
        out.extend((exif.len() as u16 + 2).to_be_bytes());
        out.extend(exif);
        out.extend(&jpeg[2..]);
        out
    }

    #[test]
    fn reads_by_content_sorted_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let image = picture(20, 10);
        fs::write(dir.path().join("b.jpg"), bytes(&image, ImageFormat::Png)).unwrap();
        fs::write(dir.path().join("a"), bytes(&image, ImageFormat::WebP)).unwrap();
        fs::write(dir.path().join("notes.txt"), "not a picture").unwrap();
        for clutter in [".hidden.png", "._a", "Thumbs.db"] {
            fs::write(dir.path().join(clutter), bytes(&image, ImageFormat::Png)).unwrap();
        }
        fs::create_dir(dir.path().join("more.png")).unwrap();
        let read = read_pictures(dir.path(), OnCorrupt::Refuse).unwrap();
        let names: Vec<&str> = read.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["a", "b.jpg"]);
        assert_eq!(read[0].image, image);
        assert_eq!(read[0].hash, read[1].hash, "the format is no part of the hash");
        assert_ne!(read[0].hash, picture_hash(&picture(10, 20)));
    }

    #[test]
    fn turns_what_the_camera_held_sideways() {
        let image = picture(32, 16);
        let jpeg = bytes(&image, ImageFormat::Jpeg);
        let plain = decode(&jpeg, "x").unwrap();
        assert_eq!(decode(&turned(&jpeg, 1), "x").unwrap(), plain);
        let right = decode(&turned(&jpeg, 6), "x").unwrap();
        assert_eq!(right, image::imageops::rotate90(&plain));
        assert_eq!(decode(&turned(&jpeg, 3), "x").unwrap(), image::imageops::rotate180(&plain));
    }

    #[test]
    fn a_corrupt_picture_is_named_or_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let image = picture(64, 64);
        for (format, name) in [
            (ImageFormat::Jpeg, "c.jpg"),
            (ImageFormat::Png, "c.png"),
            (ImageFormat::WebP, "c.webp"),
        ] {
            let good = bytes(&image, format);
            fs::write(dir.path().join("good"), &good).unwrap();
            let spoiled = dir.path().join(name);
            for part in [0, 8, good.len() / 2, good.len() - good.len() / 10] {
                fs::write(&spoiled, &good[..part]).unwrap();
                let error = read_pictures(dir.path(), OnCorrupt::Refuse).unwrap_err();
                assert_eq!(error.exit_code(), 3);
                assert!(error.to_string().contains(name), "{error}");
                assert!(error.hint().unwrap().contains("skip"));
                let read = read_pictures(dir.path(), OnCorrupt::Skip).unwrap();
                assert_eq!(read.len(), 1, "{name} cut to {part} bytes");
                assert_eq!(read[0].name, "good");
            }
            fs::remove_file(spoiled).unwrap();
        }
        fs::write(dir.path().join("moving.gif"), b"GIF89a......").unwrap();
        let error = read_pictures(dir.path(), OnCorrupt::Refuse).unwrap_err();
        assert!(error.to_string().contains("a GIF picture"), "{error}");
    }

    #[test]
    fn folders_without_pictures() {
        let dir = tempfile::tempdir().unwrap();
        let error = |path: &Path| read_pictures(path, OnCorrupt::Skip).unwrap_err().to_string();
        assert!(error(&dir.path().join("none")).contains("no such folder"));
        assert!(error(dir.path()).contains("no picture"));
        fs::write(dir.path().join("x.png"), "x").unwrap();
        assert!(error(dir.path()).contains("no picture"));
        assert!(error(&dir.path().join("x.png")).contains("no folder"));
        fs::create_dir_all(dir.path().join("more/deep")).unwrap();
        fs::write(dir.path().join("more/deep/a.jpg"), "x").unwrap();
        let error = read_pictures(dir.path(), OnCorrupt::Skip).unwrap_err();
        assert!(error.hint().unwrap().contains("more/deep"), "{error}");
    }
}
