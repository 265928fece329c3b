//! Sampled images: RGB PNGs that say in their text chunks how they were made.

use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use crate::{Error, Result, safefile};

/// The longest side that is read: a limit on what a file may make this program allocate.
const MAX_SIDE: u32 = 16384;

/// An 8-bit RGB image with its text metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Png {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height · width · 3` bytes, row by row from the top.
    pub rgb: Vec<u8>,
    /// Keywords (1 to 79 Latin-1 characters) and what they stand for, such as `prompt`.
    pub text: Vec<(String, String)>,
}

impl Png {
    /// Writes the image; a file that exists is replaced whole.
    ///
    /// # Errors
    /// [`Error::Input`] if the sizes do not fit or a keyword cannot be written, [`Error::Io`] if
    /// the file cannot.
    pub fn write(&self, path: &Path) -> Result<()> {
        let bad = |what: String| Error::input(format!("{}: {what}", path.display()));
        let (width, height, pixels) = (self.width, self.height, self.rgb.len());
        let side = |n: usize| u32::try_from(n).ok().filter(|n| (1..=MAX_SIDE).contains(n));
        let (Some(w), Some(h), true) = (side(width), side(height), pixels == width * height * 3)
        else {
            return Err(bad(format!("{pixels} bytes cannot be an image of {width}×{height}")));
        };
        safefile::write_with(path, |out| {
            let failed = |e: png::EncodingError| match e {
                png::EncodingError::IoError(e) => Error::io(path)(e),
                e => bad(e.to_string()),
            };
            let mut encoder = png::Encoder::new(out, w, h);
            encoder.set_color(png::ColorType::Rgb);
            encoder.set_depth(png::BitDepth::Eight);
            for (keyword, text) in &self.text {
                encoder.add_itxt_chunk(keyword.clone(), text.clone()).map_err(failed)?;
            }
            let mut writer = encoder.write_header().map_err(failed)?;
            writer.write_image_data(&self.rgb).map_err(failed)?;
            writer.finish().map_err(failed)
        })
    }

    /// Reads an 8-bit RGB image that [`Png::write`] or another program wrote.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file and what is wrong with it, [`Error::Io`] if it cannot be
    /// opened.
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |what: String| Error::input(format!("{}: {what}", path.display()));
        let failed = |e: png::DecodingError| bad(format!("not a readable PNG: {e}"));
        let file = std::fs::File::open(path).map_err(Error::io(path))?;
        let mut reader = png::Decoder::new(BufReader::new(file)).read_info().map_err(failed)?;
        let (width, height) = (reader.info().width, reader.info().height);
        if width > MAX_SIDE || height > MAX_SIDE {
            return Err(bad(format!("{width}×{height} pixels are too many")));
        }
        if reader.output_color_type() != (png::ColorType::Rgb, png::BitDepth::Eight) {
            return Err(bad(format!(
                "{:?} where 8-bit RGB was wanted",
                reader.output_color_type()
            )));
        }
        let size = width as usize * height as usize * 3;
        let mut rgb = vec![0; size];
        reader.next_frame(&mut rgb).map_err(failed)?;
        // text may also stand after the pixels
        reader.finish().map_err(failed)?;
        let info = reader.info();
        let mut text = Vec::new();
        for chunk in &info.uncompressed_latin1_text {
            text.push((chunk.keyword.clone(), chunk.text.clone()));
        }
        for chunk in &info.utf8_text {
            let value = chunk.get_text().map_err(failed)?;
            text.push((chunk.keyword.clone(), value));
        }
        Ok(Png { width: width as usize, height: height as usize, rgb, text })
    }

    /// Whether a file starts and ends as a PNG does, which one that was cut does not. Nothing between is
    /// looked at.
    pub fn is_whole(path: &Path) -> bool {
        let ends = || -> std::io::Result<([u8; 8], [u8; 12])> {
            let mut file = std::fs::File::open(path)?;
            let (mut start, mut end) = ([0; 8], [0; 12]);
            file.read_exact(&mut start)?;
            file.seek(SeekFrom::End(-12))?;
            file.read_exact(&mut end)?;
            Ok((start, end))
        };
        ends().is_ok_and(|found| found == (*b"\x89PNG\r\n\x1a\n", *b"\0\0\0\0IEND\xaeB\x60\x82"))
    }

    /// What a keyword stands for.
    pub fn text(&self, keyword: &str) -> Option<&str> {
        self.text.iter().find(|(k, _)| k == keyword).map(|(_, text)| text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Png {
        Png {
            width: 3,
            height: 2,
            rgb: (0..18).collect(),
            text: vec![
                ("prompt".into(), "a café, 犬 <new1>\nsecond line".into()),
                ("seed".into(), "7".into()),
            ],
        }
    }

    #[test]
    fn comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        image().write(&path).unwrap();
        let read = Png::read(&path).unwrap();
        assert_eq!(read, image());
        assert_eq!(read.text("seed"), Some("7"));
        assert_eq!(read.text("guidance"), None);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        image().write(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        // all but the last 12 bytes, the empty end chunk, are needed
        for length in 0..bytes.len() - 12 {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(Png::read(&path).unwrap_err().to_string().contains("a.png"), "{length}");
            assert!(!Png::is_whole(&path), "{length}");
        }
        std::fs::write(&path, bytes).unwrap();
        assert!(Png::is_whole(&path) && !Png::is_whole(&dir.path().join("none")));
    }

    #[test]
    fn a_huge_size_in_the_header_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        image().write(&path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
        std::fs::write(&path, &bytes).unwrap();
        assert!(Png::read(&path).is_err());
    }

    #[test]
    fn sizes_and_keywords_are_checked() {
        let path = Path::new("never-written/a.png");
        let short = Png { rgb: vec![0; 17], ..image() };
        assert!(short.write(path).unwrap_err().to_string().contains("3×2"));
        let empty = Png { width: 0, height: 0, rgb: vec![], text: vec![] };
        assert!(empty.write(path).is_err());

        let dir = tempfile::tempdir().unwrap();
        let keyword = Png { text: vec![("k".repeat(80), String::new())], ..image() };
        assert!(keyword.write(&dir.path().join("a.png")).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
