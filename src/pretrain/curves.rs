//! Curves of a run as a PNG: the loss, and each thing found, in a panel of its own.

use std::path::Path;

use image::RgbImage;
use image::imageops::{replace, thumbnail};
use plotters::prelude::*;

use super::drive::Row;
use crate::Result;
use crate::drawing::{self, FAMILY, drawn};

/// Of a panel, in pixels.
const SIZE: (u32, u32) = (720, 220);
/// Panels are drawn this much larger and made smaller, which makes lines smooth.
const FINE: u32 = 3;
const INK: RGBColor = RGBColor(0, 114, 178);

/// Draws the loss, the speed and each thing found, against steps.
///
/// # Errors
/// A picture that cannot be drawn or written.
pub(super) fn draw(
    name: &str,
    rows: &[Row],
    found: &[(u64, String, f64)],
    path: &Path,
) -> Result<()> {
    drawing::register();
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
    let height = panels.len() as u32 * SIZE.1;
    let mut page = RgbImage::from_pixel(SIZE.0, height, image::Rgb([255; 3]));
    for (i, (what, points)) in panels.iter().enumerate() {
        let points: Vec<_> = points.iter().filter(|(_, y)| y.is_finite()).copied().collect();
        if let Some((_, last)) = points.last() {
            let panel = panel(&format!("{name}: {what}, at last {last:.4}"), &points)?;
            replace(&mut page, &panel, 0, i64::from(i as u32 * SIZE.1));
        }
    }
    drawing::write_png(path, &page)
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

fn panel(title: &str, points: &[(f64, f64)]) -> Result<RgbImage> {
    let size = (SIZE.0 * FINE, SIZE.1 * FINE);
    let px = |x: u32| x * FINE;
    let text = |size: u32| (FAMILY, f64::from(px(size)));
    let (low, high) = range(points);
    let last = points.last().map_or(1.0, |p| p.0).max(1.0);
    let mut pixels = vec![255; size.0 as usize * size.1 as usize * 3];
    {
        let root = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
        let mut chart = drawn(
            ChartBuilder::on(&root)
                .margin(px(8))
                .caption(title, text(16))
                .x_label_area_size(px(22))
                .y_label_area_size(px(56))
                .build_cartesian_2d(0.0..last, low..high),
        )?;
        drawn(
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(RGBColor(228, 228, 228).stroke_width(FINE))
                .axis_style(RGBColor(120, 120, 120).stroke_width(FINE))
                .x_labels(8)
                .y_labels(4)
                .x_label_formatter(&|step| format!("{step:.0}"))
                .label_style(text(13).into_font())
                .draw(),
        )?;
        let inside = points.iter().map(|&(x, y)| (x, y.clamp(low, high)));
        drawn(chart.draw_series(LineSeries::new(inside, INK.stroke_width(px(2)))))?;
        drawn(root.present())?;
    }
    let fine = RgbImage::from_raw(size.0, size.1, pixels).expect("three bytes a pixel");
    Ok(thumbnail(&fine, SIZE.0, SIZE.1))
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
        assert_eq!(page.dimensions(), (SIZE.0, 3 * SIZE.1));
        let blue = |x: u32, y: u32| {
            let [r, _, b] = page.get_pixel(x, y).0;
            b > r.saturating_add(80)
        };
        let inked = |x: u32| (0..SIZE.1).find(|&y| blue(x, y)).expect("the line is drawn");
        assert!(inked(150) < inked(SIZE.0 - 30));
    }
}
