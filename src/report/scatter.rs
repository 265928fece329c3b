//! Two metrics of every method against each other, as in Fig. 8 of the paper: the first two that have
//! a value of each image.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::results::Results;
use super::tables::title;
use super::view::{Group, Row, groups, paper_table};
use crate::Result;
use crate::drawing::{self, FAMILY, drawn};
use crate::metrics::{Estimate, Metric};

/// plotters rounds to whole pixels: everything is drawn this much larger.
const SCALE: u32 = 4;
/// Pixels of the PNG for one of the drawing.
const PNG_SCALE: u32 = 2;
const PANEL: (u32, u32) = (420, 400);
const LEGEND: u32 = 210;
/// Anchors this far outside the methods (times their range) are named and not drawn: they would
/// press the methods together.
const OUTSIDE: f64 = 0.6;

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
const GREY: RGBColor = RGBColor(95, 95, 95);

/// What is drawn besides the measured values.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScatterOptions {
    /// The paper's values as hollow markers. Only of use where the backbone is the paper's.
    pub paper: bool,
}

/// The figure.
pub struct Figure {
    /// What it shows, such as `text alignment against image alignment`.
    pub title: String,
    /// As SVG.
    pub svg: String,
    /// As PNG.
    pub png: image::RgbImage,
}

/// Draws a panel for each part of the table; none where no method has both metrics, or there
/// are no two.
///
/// # Errors
/// The drawing library's.
pub fn scatter(results: &Results, options: ScatterOptions) -> Result<Option<Figure>> {
    drawing::register();
    let mut axes = results.metrics.iter().filter(|m| m.of_images());
    let (Some(x), Some(y)) = (axes.next(), axes.next()) else { return Ok(None) };
    let panels = panels(results, [x, y], options);
    if panels.is_empty() {
        return Ok(None);
    }
    let (w, h) = (PANEL.0 * panels.len() as u32 + LEGEND, PANEL.1);
    let large = (w * SCALE, h * SCALE);
    let mut svg = String::new();
    draw(&SVGBackend::with_string(&mut svg, large).into_drawing_area(), &panels)?;
    // shown at its own size; the coordinates stay fine
    let wide = format!("width=\"{}\" height=\"{}\"", large.0, large.1);
    let svg = svg.replacen(&wide, &format!("width=\"{w}\" height=\"{h}\""), 1);

    let mut pixels = vec![255u8; large.0 as usize * large.1 as usize * 3];
    draw(&BitMapBackend::with_buffer(&mut pixels, large).into_drawing_area(), &panels)?;
    let fine = image::RgbImage::from_raw(large.0, large.1, pixels).expect("three bytes a pixel");
    let png = image::imageops::thumbnail(&fine, w * PNG_SCALE, h * PNG_SCALE);
    let title = format!("{} against {}", x.title, y.title);
    Ok(Some(Figure { title, svg, png }))
}

struct Panel {
    title: String,
    axes: [String; 2],
    series: Vec<Series>,
    outside: Vec<String>,
    x: (f64, f64),
    y: (f64, f64),
}

struct Series {
    label: String,
    anchor: bool,
    color: RGBColor,
    marker: Marker,
    mean: [Estimate; 2],
    concepts: Vec<(f64, f64)>,
    paper: Option<(f64, f64)>,
}

fn panels(results: &Results, axes: [&Metric; 2], options: ScatterOptions) -> Vec<Panel> {
    let groups = groups(results);
    let mut looks = Looks::default();
    let paper = paper_table(results).filter(|_| options.paper);
    let mut panels = vec![];
    for group in &groups {
        let labels: Vec<&str> = group.rows.iter().map(|r| r.label).collect();
        let mut of_row = |row: &Row| {
            let mean = [row.estimate(axes[0])?, row.estimate(axes[1])?];
            let concepts = group.concepts.iter().filter_map(|set| {
                let of = |m: &Metric| Some(row.estimate_where(m, &|c| c.concepts == *set)?.mean);
                Some((of(axes[0])?, of(axes[1])?))
            });
            let concepts = concepts.collect();
            let (color, marker) = looks.of(row.label, row.anchor, &labels);
            let found = paper.and_then(|p| p.row(group.name, row.paper_row()?));
            let of = |i: usize| Some(found?.values.get(&axes[i].name)? / axes[i].scale);
            let paper = of(0).zip(of(1));
            let (label, anchor) = (row.label.to_owned(), row.anchor);
            Some(Series { label, anchor, color, marker, mean, concepts, paper })
        };
        let series: Vec<Series> = group.rows.iter().filter_map(&mut of_row).collect();
        if series.iter().any(|s| !s.anchor) {
            panels.push(panel(group, axes.map(|m| m.title.clone()), series));
        }
    }
    panels
}

fn panel(group: &Group, axes: [String; 2], series: Vec<Series>) -> Panel {
    let range = |series: &[&Series], axis: usize| {
        let pick = |p: (f64, f64)| if axis == 0 { p.0 } else { p.1 };
        let values = series.iter().flat_map(|s| {
            let (low, high) =
                s.mean[axis].interval().unwrap_or((s.mean[axis].mean, s.mean[axis].mean));
            s.concepts
                .iter()
                .copied()
                .chain(s.paper)
                .map(pick)
                .chain([low, high])
                .collect::<Vec<_>>()
        });
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)))
    };
    let methods: Vec<&Series> = series.iter().filter(|s| !s.anchor).collect();
    let near = |s: &&Series| {
        (0..2).all(|axis| {
            let (low, high) = range(&methods, axis);
            let room = OUTSIDE * (high - low).max(0.02);
            (low - room..=high + room).contains(&s.mean[axis].mean)
        })
    };
    let shown: Vec<&Series> = series.iter().filter(|s| !s.anchor || near(s)).collect();
    let widened = |(low, high): (f64, f64)| {
        let room = 0.06 * (high - low).max(0.02);
        (low - room, high + room)
    };
    let (x, y) = (widened(range(&shown, 0)), widened(range(&shown, 1)));
    let far = series.iter().filter(|s| s.anchor && !near(s));
    let outside = far
        .map(|s| format!("{}: ({:.2}, {:.2})", s.label, s.mean[0].mean, s.mean[1].mean))
        .collect();
    let keep: Vec<bool> = series.iter().map(|s| !s.anchor || near(&s)).collect();
    let mut keep = keep.into_iter();
    let series = series.into_iter().filter(|_| keep.next() == Some(true)).collect();
    Panel { title: title(group), axes, series, outside, x, y }
}

/// A colour and a marker for each label, the same in all panels. Labels that never share a panel may
/// share a colour, but no marker.
#[derive(Default)]
struct Looks {
    methods: Vec<(String, RGBColor, Marker)>,
    anchors: Vec<String>,
}

impl Looks {
    /// Of a row, where `panel` are all labels of its panel.
    fn of(&mut self, label: &str, anchor: bool, panel: &[&str]) -> (RGBColor, Marker) {
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
        let color = COLORS.into_iter().find(|c| !taken(c)).unwrap_or(COLORS[at % COLORS.len()]);
        let marker = Marker::METHODS[at % Marker::METHODS.len()];
        self.methods.push((label.to_owned(), color, marker));
        (color, marker)
    }
}

#[derive(Clone, Copy)]
enum Marker {
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
    fn outline(self, radius: f64) -> Vec<(i32, i32)> {
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

fn px(x: f64) -> i32 {
    (x * f64::from(SCALE)).round() as i32
}

fn font(size: f64) -> FontDesc<'static> {
    (FAMILY, size * f64::from(SCALE)).into_font()
}

fn draw<DB: DrawingBackend>(root: &DrawingArea<DB, Shift>, panels: &[Panel]) -> Result<()> {
    drawn(root.fill(&WHITE))?;
    let (left, legend) = root.split_horizontally(px(f64::from(PANEL.0) * panels.len() as f64));
    for (area, panel) in left.split_evenly((1, panels.len())).iter().zip(panels) {
        draw_panel(area, panel)?;
    }
    draw_legend(&legend, panels)?;
    drawn(root.present())
}

fn draw_panel<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, panel: &Panel) -> Result<()> {
    let mut chart = drawn(
        ChartBuilder::on(area)
            .margin(px(8.0))
            .caption(&panel.title, (FAMILY, 19.0 * f64::from(SCALE), FontStyle::Bold))
            .x_label_area_size(px(40.0))
            .y_label_area_size(px(52.0))
            .build_cartesian_2d(panel.x.0..panel.x.1, panel.y.0..panel.y.1),
    )?;
    let ink = RGBColor(60, 60, 60);
    drawn(
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(228, 228, 228).stroke_width(SCALE))
            .axis_style(RGBColor(120, 120, 120).stroke_width(SCALE))
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|v| format!("{v:.2}"))
            .y_label_formatter(&|v| format!("{v:.2}"))
            .x_desc(&panel.axes[0])
            .y_desc(&panel.axes[1])
            .label_style(font(15.0).color(&ink))
            .axis_desc_style(font(17.0).color(&ink))
            .set_all_tick_mark_size(px(3.0))
            .draw(),
    )?;
    for s in &panel.series {
        let (fill, outline) = (s.color.mix(0.35), s.marker.outline(f64::from(px(3.4))));
        let point = |at: &(f64, f64)| EmptyElement::at(*at) + Polygon::new(outline.clone(), fill);
        drawn(chart.draw_series(s.concepts.iter().map(point)))?;
    }
    for s in &panel.series {
        bars(&mut chart, s)?;
    }
    for s in &panel.series {
        let at = (s.mean[0].mean, s.mean[1].mean);
        let edge = s.marker.outline(f64::from(px(7.4)));
        let body = s.marker.outline(f64::from(px(6.2)));
        let mark = EmptyElement::at(at) + Polygon::new(edge, WHITE) + Polygon::new(body, s.color);
        drawn(chart.draw_series([mark]))?;
        if let Some(paper) = s.paper {
            let mut line = s.marker.outline(f64::from(px(6.0)));
            line.extend_from_within(..2);
            let hollow =
                EmptyElement::at(paper) + PathElement::new(line, s.color.stroke_width(2 * SCALE));
            drawn(chart.draw_series([hollow]))?;
        }
    }
    Ok(())
}

type Chart<'a, DB> = ChartContext<'a, DB, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// The intervals of both means.
fn bars<DB: DrawingBackend>(chart: &mut Chart<DB>, s: &Series) -> Result<()> {
    let (x, y) = (s.mean[0].mean, s.mean[1].mean);
    let line = s.color.stroke_width(SCALE * 3 / 2);
    let horizontal = s.mean[0].interval().map(|(low, high)| [(low, y), (high, y)]);
    let vertical = s.mean[1].interval().map(|(low, high)| [(x, low), (x, high)]);
    for ends in horizontal.into_iter().chain(vertical) {
        drawn(chart.draw_series([PathElement::new(ends.to_vec(), line)]))?;
        let cap = px(3.0);
        let cap = if ends[0].1 == ends[1].1 { (0, cap) } else { (cap, 0) };
        let caps = ends.iter().map(|end| {
            EmptyElement::at(*end) + PathElement::new(vec![cap, (-cap.0, -cap.1)], line)
        });
        drawn(chart.draw_series(caps))?;
    }
    Ok(())
}

/// Beside the panels, where it covers nothing.
fn draw_legend<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, panels: &[Panel]) -> Result<()> {
    let style = font(15.5).color(&RGBColor(34, 34, 34));
    let mut y = 34.0;
    let mut seen: Vec<&str> = vec![];
    let mut entries: Vec<&Series> = panels.iter().flat_map(|p| &p.series).collect();
    entries.sort_by_key(|s| s.anchor);
    for s in entries {
        if seen.contains(&s.label.as_str()) {
            continue;
        }
        seen.push(&s.label);
        let at = (px(14.0), px(y + 4.0));
        let mark =
            EmptyElement::at(at) + Polygon::new(s.marker.outline(f64::from(px(5.6))), s.color);
        drawn(area.draw(&mark))?;
        for line in drawing::wrap(&s.label, LEGEND - 34, 16, FontStyle::Normal, 2) {
            drawn(area.draw_text(&line, &style, (px(28.0), px(y))))?;
            y += 16.0;
        }
        y += 5.0;
    }
    y += 6.0;
    let small = font(13.0).color(&RGBColor(90, 90, 90));
    let mut note = |line: &str| -> Result<()> {
        for line in drawing::wrap(line, LEGEND - 14, 13, FontStyle::Normal, 3) {
            drawn(area.draw_text(&line, &small, (px(8.0), px(y))))?;
            y += 14.0;
        }
        y += 4.0;
        Ok(())
    };
    note("Large: mean, with its 95 % interval.")?;
    note("Small: one concept or pair.")?;
    if panels.iter().any(|p| p.series.iter().any(|s| s.paper.is_some())) {
        note("Hollow: the paper's value.")?;
    }
    for panel in panels.iter().filter(|p| !p.outside.is_empty()) {
        note(&format!("Outside of {}:", panel.title.to_lowercase()))?;
        panel.outside.iter().try_for_each(|line| note(line))?;
    }
    Ok(())
}
