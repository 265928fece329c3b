//! From a picture file's bytes to pixels.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, ImageResult, Limits, RgbImage};

use super::{MAX_PIXELS, jpeg};
use crate::{Error, Result};

/// Longest side of a picture.
const MAX_SIDE: u32 = 32_768;

/// Whether files of this format are read.
pub(super) fn is_read(format: ImageFormat) -> bool {
    matches!(format, ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP)
}

/// Decodes a JPEG, PNG or WebP, turned as its EXIF data says; transparency is dropped, as PIL's
/// `convert("RGB")` does. What lies behind the picture's own end is not looked at. `origin` names it in
/// errors; only if the number of pixels is `allowed` memory is taken for them.
pub(super) fn decode_if(
    bytes: &[u8],
    origin: &str,
    allowed: impl Fn(u64) -> bool,
) -> Result<RgbImage> {
    let bad = |what: &dyn std::fmt::Display| Error::input(format!("{origin}: {what}"));
    let format = match image::guess_format(bytes) {
        Ok(format) if is_read(format) => format,
        other => {
            let name = other.ok().map(|format| format!("{format:?}").to_uppercase());
            let Some(name) = named_by_its_boxes(bytes).map(str::to_owned).or(name) else {
                return Err(bad(&"not a JPEG, PNG or WebP picture"));
            };
            return Err(Error::input_hint(
                format!("{origin}: a {name} picture; only JPEG, PNG and WebP are read"),
                "convert it to JPEG or PNG",
            ));
        }
    };
    let cut_off = || bad(&"the file ends in the middle of the picture");
    let own = match format {
        ImageFormat::Jpeg => jpeg::own_part(bytes),
        ImageFormat::WebP => riff(bytes),
        // a PNG's chunks have lengths and checksums, which the decoder minds
        _ => Some(bytes),
    };
    let bytes = own.ok_or_else(cut_off)?;
    let corrupt = |e: image::ImageError| bad(&format!("cannot be decoded: {e}"));
    let mut decoder = decoder(bytes, format).map_err(corrupt)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MAX_PIXELS || width.max(height) > MAX_SIDE {
        return Err(Error::input_hint(
            format!(
                "{origin}: {width}×{height} pixels, but at most {} million are read, and {MAX_SIDE} \
                 a side",
                MAX_PIXELS / 1_000_000
            ),
            "make it smaller: no model here sees more than 4096 pixels a side",
        ));
    }
    if pixels == 0 || !allowed(pixels) {
        return Err(bad(&format!("{width}×{height} pixels cannot be read")));
    }
    let orientation = decoder.orientation().map_err(corrupt)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(corrupt)?;
    if format == ImageFormat::Jpeg {
        let more = jpeg::with_more(bytes);
        let again = self::decoder(&more, format).and_then(DynamicImage::from_decoder);
        if again.ok().as_ref() != Some(&image) {
            return Err(cut_off());
        }
    }
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// The RIFF file at the start of `bytes`; `None` if it is longer than they are.
fn riff(bytes: &[u8]) -> Option<&[u8]> {
    let size = u32::from_le_bytes(*bytes.get(4..8)?.first_chunk()?);
    bytes.get(..8 + size as usize)
}

fn decoder(bytes: &[u8], format: ImageFormat) -> ImageResult<impl ImageDecoder + '_> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_PIXELS * 8);
    reader.limits(limits);
    reader.into_decoder()
}

/// Formats of MPEG's boxes, and JPEG XL.
fn named_by_its_boxes(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"\xff\x0a") || bytes.starts_with(b"\0\0\0\x0cJXL ") {
        return Some("JPEG XL");
    }
    let brand = bytes.get(4..12)?.strip_prefix(b"ftyp")?;
    match brand {
        b"avif" | b"avis" => Some("AVIF"),
        b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"mif1" | b"msf1" => {
            Some("HEIC")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [ImageFormat; 3] = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP];
    /// Eight rows and columns of blocks, halved chroma, restarts, several scans; by Pillow.
    const PROGRESSIVE: &[u8] = include_bytes!("../../../tests/golden/progressive.jpg");
    const RESTARTS: &[u8] = include_bytes!("../../../tests/golden/restarts.jpg");

    fn decode(bytes: &[u8]) -> Result<RgbImage> {
        decode_if(bytes, "x", |_| true)
    }

    /// A picture whose corners differ.
    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, (x * y) as u8])
        })
    }

    fn bytes(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut out = Cursor::new(vec![]);
        image.write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    /// What may follow a picture: a film, another picture, bytes that look like markers.
    fn behind() -> Vec<Vec<u8>> {
        let film = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom\xff\xda\0\x08mdat".repeat(9);
        vec![film, bytes(&picture(8, 8), ImageFormat::Jpeg), vec![0; 5], b"\xff\xda".to_vec()]
    }

    #[test]
    fn what_follows_a_picture_changes_nothing() {
        let image = picture(40, 30);
        let mut files: Vec<_> = FORMATS.map(|format| bytes(&image, format)).into();
        files.extend([PROGRESSIVE.to_vec(), RESTARTS.to_vec()]);
        for whole in files {
            let alone = decode(&whole).unwrap();
            for more in behind() {
                assert_eq!(decode(&[whole.clone(), more].concat()).unwrap(), alone);
            }
        }
    }

    #[test]
    fn what_is_cut_off_stays_so_whatever_follows() {
        let image = picture(64, 64);
        let png = b"\0\0\0\0IEND\xae\x42\x60\x82".to_vec();
        let [jpeg, png_file, webp] = FORMATS.map(|format| bytes(&image, format));
        let eoi = vec![0xff, 0xd9];
        for (whole, end) in [
            (&jpeg[..], eoi.clone()),
            (PROGRESSIVE, eoi.clone()),
            (RESTARTS, eoi),
            (&png_file, png),
            (&webp, vec![]),
        ] {
            // from behind the headers to a few bytes before the end
            for tenth in 5..=9 {
                let part = &whole[..whole.len() * tenth / 10];
                let mut ends = behind();
                ends.extend([vec![], end.clone(), [end.clone(), behind()[0].clone()].concat()]);
                // a WebP has no checksums: bytes in the place of its own are taken for them
                let filled = |end: &Vec<u8>| part.len() + end.len() >= whole.len();
                ends.retain(|end| !(whole.starts_with(b"RIFF") && filled(end)));
                for end in ends {
                    let error = decode(&[part, &end].concat()).err();
                    assert!(error.is_some(), "{tenth} tenths of {} bytes", whole.len());
                }
            }
        }
    }

    #[test]
    fn a_progressive_picture_needs_all_its_scans() {
        let scans: Vec<usize> = (2..PROGRESSIVE.len())
            .filter(|at| PROGRESSIVE[*at..].starts_with(b"\xff\xda"))
            .collect();
        assert!(scans.len() > 4);
        for at in &scans[1..] {
            // the tables that a scan needs stand in front of it
            let cut = [&PROGRESSIVE[..*at], &[0xff, 0xd9]].concat();
            assert!(decode(&cut).is_err(), "{at}");
        }
    }

    #[test]
    fn sizes_are_checked_before_memory_is_taken() {
        // a PNG that claims so many pixels
        for (width, height) in [(30_000u32, 30_000u32), (12_000, 9_000), (40_000, 1)] {
            let mut png = bytes(&picture(4, 4), ImageFormat::Png);
            png[16..20].copy_from_slice(&width.to_be_bytes());
            png[20..24].copy_from_slice(&height.to_be_bytes());
            let crc = crc32fast::hash(&png[12..29]);
            png[29..33].copy_from_slice(&crc.to_be_bytes());
            let error = decode(&png).unwrap_err().to_string();
            assert!(error.contains(&format!("{width}×{height}")), "{error}");
            assert!(error.contains("100 million"), "{error}");
        }
    }

    #[test]
    fn formats_that_are_not_read_are_named() {
        for (start, name) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0mif1"[..], "HEIC"),
            (b"\0\0\0\x18ftypmif1\0\0\0\0heic", "HEIC"),
            (b"\0\0\0\x18ftypavif\0\0\0\0mif1", "AVIF"),
            (b"\xff\x0a\0\0", "JPEG XL"),
            (b"GIF89a......", "GIF"),
        ] {
            let error = decode(start).unwrap_err();
            assert!(error.to_string().contains(&format!("a {name} picture")), "{error}");
            assert!(error.hint().unwrap().contains("convert"));
        }
    }
}
