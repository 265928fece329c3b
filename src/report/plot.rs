//! How figures look: one palette, one marker a method, one size of type; drawn as SVG and as PNG.

use std::collections::HashSet;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Result;
use crate::drawing::{self, FAMILY, drawn};
use crate::methods;

/// plotters rounds to whole pixels: everything is drawn this much larger.
pub const SCALE: u32 = 4;
/// Pixels of the PNG for one of the drawing.
const PNG_SCALE: u32 = 2;

/// Okabe and Ito's palette, told apart by colour-blind readers, without its yellow.
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(70, 50, 120),
];
pub const GREY: RGBColor = RGBColor(95, 95, 95);

/// The colour of text.
pub const INK: RGBColor = RGBColor(34, 34, 34);
/// The colour of what stands beside.
pub const FAINT: RGBColor = RGBColor(90, 90, 90);

/// The figure.
pub struct Figure {
    /// What it shows, such as `text alignment against image alignment`.
    pub title: String,
    /// As SVG.
    pub svg: String,
    /// As PNG.
    pub png: image::RgbImage,
}

/// Something that can be drawn on any backend.
pub trait Picture {
    /// Width and height in pixels of the SVG.
    fn size(&self) -> (u32, u32);

    /// Draws it on an area that is [`SCALE`] times as large, and white.
    ///
    /// # Errors
    /// The drawing library's.
    fn draw<DB: DrawingBackend>(&self, root: &DrawingArea<DB, Shift>) -> Result<()>;
}

/// Draws a picture twice.
///
/// # Errors
/// The drawing library's.
pub fn figure(title: String, picture: &impl Picture) -> Result<Figure> {
    drawing::register();
    let (w, h) = picture.size();
    let large = (w * SCALE, h * SCALE);
    let mut svg = String::new();
    paint(&SVGBackend::with_string(&mut svg, large).into_drawing_area(), picture)?;
    // shown at its own size; the coordinates stay fine
    let wide = format!("width=\"{}\" height=\"{}\"", large.0, large.1);
    let svg = svg.replacen(&wide, &format!("width=\"{w}\" height=\"{h}\""), 1);

    let mut pixels = vec![255u8; large.0 as usize * large.1 as usize * 3];
    paint(&BitMapBackend::with_buffer(&mut pixels, large).into_drawing_area(), picture)?;
    let fine = image::RgbImage::from_raw(large.0, large.1, pixels).expect("three bytes a pixel");
    let png = image::imageops::thumbnail(&fine, w * PNG_SCALE, h * PNG_SCALE);
    Ok(Figure { title, svg, png })
}

fn paint<DB: DrawingBackend>(root: &DrawingArea<DB, Shift>, picture: &impl Picture) -> Result<()> {
    drawn(root.fill(&WHITE))?;
    picture.draw(root)?;
    drawn(root.present())
}

/// A colour and a marker for each label, the same in all panels, and for a method's first label the same
/// in all figures. Labels that never share a panel may share a colour, but no marker.
#[derive(Default)]
pub struct Looks {
    methods: Vec<(String, RGBColor, Marker)>,
    anchors: Vec<String>,
    /// Methods whose colour a label has.
    own: HashSet<String>,
}

impl Looks {
    /// Of a row, where `panel` are all labels of its panel.
    pub fn of(
        &mut self,
        label: &str,
        method: &str,
        anchor: bool,
        panel: &[&str],
    ) -> (RGBColor, Marker) {
        if anchor {
            let known = self.anchors.iter().position(|k| k == label);
            let at = known.unwrap_or_else(|| {
                self.anchors.push(label.to_owned());
                self.anchors.len() - 1
            });
            return (GREY, Marker::ANCHORS[at % Marker::ANCHORS.len()]);
        }
        if let Some((_, color, marker)) = self.methods.iter().find(|m| m.0 == label) {
            return (*color, *marker);
        }
        let taken = |c: &RGBColor| self.methods.iter().any(|m| m.1 == *c && panel.contains(&&*m.0));
        let at = self.methods.len();
        let own = methods::registry().iter().position(|m| m.name() == method);
        let own = own.filter(|_| !self.own.contains(method)).map(|i| COLORS[i % COLORS.len()]);
        self.own.insert(method.to_owned());
        let color = own.filter(|c| !taken(c)).or_else(|| COLORS.into_iter().find(|c| !taken(c)));
        let color = color.unwrap_or(COLORS[at % COLORS.len()]);
        let marker = Marker::METHODS[at % Marker::METHODS.len()];
        self.methods.push((label.to_owned(), color, marker));
        (color, marker)
    }
}

/// The shape of a point.
#[derive(Clone, Copy)]
pub enum Marker {
    /// Corners, and where the first is (in turns from the top), and its size beside the others'.
    Regular(usize, f64, f64),
    /// A bar cross, turned by so much.
    Cross(f64),
    /// Points of a star.
    Star(usize),
}

impl Marker {
    const METHODS: [Marker; 8] = [
        Marker::Regular(40, 0.0, 1.0),
        Marker::Regular(4, 0.125, 1.2),
        Marker::Regular(3, 0.0, 1.3),
        Marker::Regular(4, 0.0, 1.25),
        Marker::Regular(3, 0.5, 1.3),
        Marker::Regular(5, 0.0, 1.15),
        Marker::Star(4),
        Marker::Star(6),
    ];
    const ANCHORS: [Marker; 4] =
        [Marker::Cross(0.125), Marker::Cross(0.0), Marker::Star(5), Marker::Star(3)];

    /// Its outline around the origin.
    pub fn outline(self, radius: f64) -> Vec<(i32, i32)> {
        let at = |turn: f64, r: f64| {
            let angle = std::f64::consts::TAU * turn;
            ((r * angle.sin()).round() as i32, (-r * angle.cos()).round() as i32)
        };
        match self {
            Marker::Regular(n, start, size) => {
                (0..n).map(|i| at(start + i as f64 / n as f64, size * radius)).collect()
            }
            Marker::Star(n) => (0..2 * n)
                .map(|i| {
                    at(i as f64 / (2 * n) as f64, radius * if i % 2 == 0 { 1.35 } else { 0.55 })
                })
                .collect(),
            Marker::Cross(turn) => (0..4)
                .flat_map(|i| {
                    let arm = turn + 0.25 * i as f64;
                    [(-0.045, 1.2), (0.045, 1.2), (0.125, 0.48)]
                        .map(|(t, r)| at(arm + t, r * radius))
                })
                .collect(),
        }
    }
}

/// Pixels of the drawing as those of its canvas.
pub fn px(x: f64) -> i32 {
    (x * f64::from(SCALE)).round() as i32
}

/// Type of this size.
pub fn font(size: f64) -> FontDesc<'static> {
    (FAMILY, size * f64::from(SCALE)).into_font()
}
