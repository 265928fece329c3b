//! Curves of a run as a PNG: the loss, and each thing found, in a panel of its own.

use std::path::Path;

use font8x8::legacy::BASIC_LEGACY;
use image::{Rgb, RgbImage};
use plotters::prelude::*;

use super::drive::Row;
use crate::{Error, Result};

const WIDTH: u32 = 720;
const HEIGHT: u32 = 180;
/// Above a panel, for its name and range.
const TITLE: u32 = 14;
/// Side of a glyph.
const GLYPH: u32 = 8;
const INK: [u8; 3] = [31, 119, 180];

/// Draws the loss and each thing found, against steps.
pub(super) fn draw(
    name: &str,
    rows: &[Row],
    found: &[(u64, String, f64)],
    path: &Path,
) -> Result<()> {
    let mut panels = vec![
        ("loss".to_owned(), rows.iter().map(|r| (r.step as f64, r.loss)).collect::<Vec<_>>()),
        ("scenes a second".to_owned(), rows.iter().map(|r| (r.step as f64, r.speed)).collect()),
    ];
    for (step, what, value) in found {
        let point = (*step as f64, *value);
        match panels.iter_mut().find(|(name, _)| name == what) {
            Some((_, points)) => points.push(point),
            None => panels.push((what.clone(), vec![point])),
        }
    }
    let mut page = RgbImage::from_pixel(WIDTH, panels.len() as u32 * HEIGHT, Rgb([255; 3]));
    for (i, (what, points)) in panels.iter().enumerate() {
        let points: Vec<_> = points.iter().filter(|(_, y)| y.is_finite()).copied().collect();
        let (Some(first), Some(last)) = (points.first(), points.last()) else { continue };
        let (low, high) = range(&points);
        let title = format!(
            "{name}: {what} from {:.4} at step {} to {:.4} at step {}; axis {low:.4} to {high:.4}",
            first.1, first.0, last.1, last.0
        );
        let top = i as u32 * HEIGHT;
        write(&mut page, &title, 4, top + 3);
        let panel = panel(&points, (low, high)).map_err(|e| Error::input(e.to_string()))?;
        image::imageops::replace(&mut page, &panel, 0, i64::from(top + TITLE));
    }
    let mut png = std::io::Cursor::new(vec![]);
    page.write_to(&mut png, image::ImageFormat::Png).map_err(|e| Error::input(e.to_string()))?;
    crate::safefile::write(path, png.into_inner())
}

/// The range of the values without the highest twentieth, which the first steps would set.
fn range(points: &[(f64, f64)]) -> (f64, f64) {
    let mut values: Vec<f64> = points.iter().map(|p| p.1).collect();
    values.sort_by(f64::total_cmp);
    let high = match values.len() {
        n if n >= 40 => values[n - n / 20],
        n => values[n - 1],
    };
    let margin = ((high - values[0]) * 0.05).max(1e-9);
    (values[0] - margin, high + margin)
}

type Drawn<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn panel(points: &[(f64, f64)], (low, high): (f64, f64)) -> Drawn<RgbImage> {
    let size = (WIDTH, HEIGHT - TITLE);
    let mut pixels = vec![255; (size.0 * size.1 * 3) as usize];
    {
        let root = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
        let last = points.last().map_or(1.0, |p| p.0).max(1.0);
        let mut chart =
            ChartBuilder::on(&root).margin(4).build_cartesian_2d(0.0..last, low..high)?;
        // no axes: their labels would need a font
        chart.configure_mesh().disable_axes().draw()?;
        let color = RGBColor(INK[0], INK[1], INK[2]);
        let points = points.iter().map(|&(x, y)| (x, y.clamp(low, high)));
        chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
        root.present()?;
    }
    Ok(RgbImage::from_raw(size.0, size.1, pixels).expect("3 bytes a pixel"))
}

fn write(page: &mut RgbImage, line: &str, left: u32, top: u32) {
    let fits = ((WIDTH - left) / GLYPH) as usize;
    for (i, c) in line.chars().take(fits).enumerate() {
        let glyph = BASIC_LEGACY.get(c as usize).unwrap_or(&BASIC_LEGACY['?' as usize]);
        for (y, row) in (0..).zip(glyph) {
            for x in (0..GLYPH).filter(|x| row >> x & 1 == 1) {
                page.put_pixel(left + i as u32 * GLYPH + x, top + y, Rgb([30; 3]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_loss_is_drawn_from_the_upper_left_to_the_lower_right() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("curves.png");
        let row = |step: u64| Row { step, loss: 1.0 - step as f64 / 100.0, ..Row::default() };
        let rows: Vec<Row> = (1..=20).map(row).collect();
        draw("vae", &rows, &[(10, "psnr".into(), 20.0)], &path).unwrap();
        let page = image::open(&path).unwrap().to_rgb8();
        assert_eq!(page.dimensions(), (WIDTH, 3 * HEIGHT));
        let inked = |x: u32| {
            (TITLE..HEIGHT).find(|&y| page.get_pixel(x, y).0 == INK).expect("the line is drawn")
        };
        assert!(inked(60) < inked(WIDTH - 20));
    }
}
