//! What every picture with words in it needs: text in Noto Sans, so that no font of the system is
//! needed, and PNG files.

use std::path::Path;
use std::sync::Once;

use image::{Rgb, RgbImage};
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use crate::{Error, Result, safefile};

/// Family to name to plotters; a viewer of an SVG takes its own.
pub const FAMILY: &str = "sans-serif";
/// Text is drawn this many times larger and made smaller, which makes it smooth.
const FINE: u32 = 4;
/// Of body text.
pub const INK: [u8; 3] = [34, 34, 34];

/// Makes the font known to plotters.
pub fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (style, bytes) in
            [(FontStyle::Normal, notosans::REGULAR_TTF), (FontStyle::Bold, notosans::BOLD_TTF)]
        {
            // the bytes are compiled in: they are a font, or no test passes
            let _ = register_font(FAMILY, style, bytes);
        }
    });
}

/// plotters' errors have types of each backend: what they say is all that is used.
pub fn drawn<T, E: std::fmt::Display>(result: std::result::Result<T, E>) -> Result<T> {
    result.map_err(|e| Error::input(format!("drawing failed: {e}")))
}

/// Width of a line of text in pixels.
pub fn width(text: &str, size: u32, style: FontStyle) -> u32 {
    register();
    let font = FontDesc::new(FontFamily::SansSerif, f64::from(size * FINE), style);
    font.box_size(text).map_or(0, |(w, _)| w.div_ceil(FINE))
}

/// Writes a line of text with the top of its capitals at `y`. What does not fit the page is cut.
pub fn write(
    page: &mut RgbImage,
    text: &str,
    (x, y): (u32, u32),
    size: u32,
    style: FontStyle,
) -> Result<()> {
    register();
    if text.is_empty() {
        return Ok(());
    }
    let (w, h) = (width(text, size, style) + 4, size * 3 / 2);
    let above = size / 2;
    let mut pixels = vec![255u8; (w * h * FINE * FINE * 3) as usize];
    {
        let root =
            BitMapBackend::with_buffer(&mut pixels, (w * FINE, h * FINE)).into_drawing_area();
        let font = FontDesc::new(FontFamily::SansSerif, f64::from(size * FINE), style);
        drawn(root.draw_text(text, &font.color(&BLACK), (0, (above * FINE) as i32)))?;
        drawn(root.present())?;
    }
    let fine = RgbImage::from_raw(w * FINE, h * FINE, pixels).expect("three bytes a pixel");
    let small = image::imageops::thumbnail(&fine, w, h);
    for (i, j, pixel) in small.enumerate_pixels() {
        let (px, py) = (x + i, (y + j).saturating_sub(above));
        if px < page.width() && py < page.height() && y + j >= above {
            let Rgb(under) = *page.get_pixel(px, py);
            let ink = 255 - u16::from(pixel[0]);
            let mix = |c: usize| {
                ((u16::from(under[c]) * (255 - ink) + u16::from(INK[c]) * ink) / 255) as u8
            };
            page.put_pixel(px, py, Rgb([mix(0), mix(1), mix(2)]));
        }
    }
    Ok(())
}

/// Lines of whole words no wider than `room` pixels, at most `most` of them; what is too much ends
/// in an ellipsis.
pub fn wrap(text: &str, room: u32, size: u32, style: FontStyle, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(&format!("{line} {word}"), size, style) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    if lines.len() > most.max(1) {
        lines.truncate(most.max(1));
        lines.last_mut().expect("a line").push('…');
    }
    for line in &mut lines {
        while width(line, size, style) > room && line.chars().count() > 2 {
            line.truncate(line.trim_end_matches('…').char_indices().last().map_or(0, |(i, _)| i));
            line.push('…');
        }
    }
    lines
}

/// Writes a page as a PNG.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_png(path: &Path, page: &RgbImage) -> Result<()> {
    let mut png = std::io::Cursor::new(vec![]);
    drawn(page.write_to(&mut png, image::ImageFormat::Png))?;
    safefile::write(path, png.into_inner())
}
