//! Curves of a sweep, as in Figs. 14 and 20 of the paper: every metric over the values of a key, with the
//! band of its 95 % interval; and the same as a long table.

use std::collections::BTreeSet;

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use super::axis::Axis;
use super::plot::{FAINT, Figure, GREY, INK, Looks, Marker, Picture, SCALE, figure, font, px};
use super::results::Results;
use super::sheet;
use super::tables::title;
use super::view::{Group, Row, groups};
use crate::Result;
use crate::drawing::{self, FAMILY, drawn};
use crate::metrics::{Estimate, Metric};

const PANEL: (u32, u32) = (330, 270);
const LEGEND: u32 = 200;
/// Panels side by side.
const ACROSS: usize = 3;
/// An anchor farther from the curves than this many times their range is named and not drawn.
const OUTSIDE: f64 = 0.8;

/// The keys that rows are swept over.
pub fn keys(results: &Results) -> BTreeSet<&str> {
    results.cells.iter().flat_map(|c| c.place.keys()).map(String::as_str).collect()
}

/// A figure for the sweep over `key`; none where nothing was measured.
///
/// # Errors
/// The drawing library's.
pub fn curves(results: &Results, key: &str) -> Result<Option<Figure>> {
    let panels = panels(results, key);
    match panels.is_empty() {
        true => Ok(None),
        false => figure(format!("sweep over {key}"), &Panels::new(panels)).map(Some),
    }
}

/// A panel for each part of the table and metric that has something of the sweep.
pub(super) fn panels(results: &Results, key: &str) -> Vec<Panel> {
    let groups = groups(results);
    let mut looks = Looks::default();
    let mut panels = vec![];
    for group in &groups {
        for metric in &results.metrics {
            panels.extend(panel(group, groups.len() > 1, metric, key, &mut looks));
        }
    }
    panels
}

/// The points of all sweeps as rows of a table: where each stands, and every metric with its interval.
pub fn long_table(results: &Results) -> (Vec<String>, Vec<sheet::Row>) {
    let keys = keys(results);
    let fixed = ["group", "series"].map(str::to_owned);
    let values = ["metric", "value", "low", "high", "images or sets"].map(str::to_owned);
    let swept = keys.iter().map(|key| (*key).to_owned());
    let columns: Vec<String> = fixed.into_iter().chain(swept).chain(values.clone()).collect();
    let mut lines = vec![];
    for group in &groups(results) {
        for row in group.rows.iter().filter(|r| r.place().is_some()) {
            for metric in &results.metrics {
                let Some(found) = row.estimate(metric) else { continue };
                let place = row.place().into_iter().flatten();
                let mut line: sheet::Row = place.map(|(k, v)| (k.clone(), v.clone())).collect();
                line.insert("group".into(), group.name.to_owned());
                line.insert("series".into(), row.series().to_owned());
                let number = |x: f64| if x.is_finite() { x.to_string() } else { String::new() };
                let numbers = [found.mean, found.low, found.high].map(number);
                let shown = [metric.name.clone()].into_iter().chain(numbers);
                let shown = shown.chain([found.n.to_string()]);
                line.extend(values.iter().cloned().zip(shown));
                lines.push(line);
            }
        }
    }
    (columns, lines)
}

/// A metric over the values of a key.
pub(super) struct Panel {
    pub title: String,
    /// The group's name.
    pub group: String,
    pub key: String,
    pub ticks: Vec<(f64, String)>,
    pub x: (f64, f64),
    pub y: (f64, f64),
    pub digits: usize,
    pub lines: Vec<Line>,
    pub anchors: Vec<(String, f64)>,
    pub outside: Vec<String>,
}

pub(super) struct Line {
    pub label: String,
    pub color: RGBColor,
    pub marker: Marker,
    /// In order of x.
    pub points: Vec<Point>,
}

/// A point of a sweep.
pub(super) struct Point {
    pub x: f64,
    pub y: Estimate,
    /// The row's label.
    pub row: String,
}

fn panel(
    group: &Group,
    named: bool,
    metric: &Metric,
    key: &str,
    looks: &mut Looks,
) -> Option<Panel> {
    let swept = |row: &&Row| row.place().is_some_and(|p| p.contains_key(key));
    let rows: Vec<&Row> = group.rows.iter().filter(swept).collect();
    let value = |row: &Row| row.place().and_then(|p| p.get(key)).cloned().unwrap_or_default();
    let axis = Axis::new(rows.iter().map(|row| value(row)));
    let labels: Vec<String> = rows.iter().map(|row| line_label(row, key)).collect();
    let all: Vec<&str> = labels.iter().map(String::as_str).collect();
    let mut lines: Vec<Line> = vec![];
    for (row, label) in rows.iter().zip(&labels) {
        let Some(found) = row.estimate(metric) else { continue };
        let shown = metric.scaled(found);
        let point = Point { x: axis.at(&value(row)), y: shown, row: row.label.to_owned() };
        match lines.iter_mut().find(|l| l.label == *label) {
            Some(line) => line.points.push(point),
            None => {
                let (color, marker) = looks.of(label, row.method(), false, &all);
                lines.push(Line { label: label.clone(), color, marker, points: vec![point] });
            }
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    let ends = |e: &Estimate| e.interval().unwrap_or((e.mean, e.mean));
    let values = lines.iter().flat_map(|l| &l.points).flat_map(|p| {
        let (low, high) = ends(&p.y);
        [low, high]
    });
    let (low, high) = span(values)?;
    let range = (high - low).max(1e-9 + 0.02 * high.abs());
    let (mut anchors, mut outside) = (vec![], vec![]);
    // training images are no answers to the prompts
    let answers = |r: &&Row| r.place().is_none() && !["real", "copies"].contains(&r.method());
    for row in group.rows.iter().filter(answers) {
        let Some(found) = row.estimate(metric) else { continue };
        let at = metric.scale * found.mean;
        let near = (low - OUTSIDE * range..=high + OUTSIDE * range).contains(&at);
        match near {
            true => anchors.push((row.label.to_owned(), at)),
            false => outside.push(format!("{}: {at:.*}", row.label, metric.digits)),
        }
    }
    let (low, high) = span(anchors.iter().map(|a| a.1).chain([low, high]))?;
    let room = 0.06 * (high - low).max(range);
    let title = match named {
        true => format!("{}: {}", title(group), metric.column()),
        false => metric.column(),
    };
    Some(Panel {
        title,
        group: group.name.to_owned(),
        key: key.to_owned(),
        x: axis.range(),
        ticks: axis.ticks,
        y: (low - room, high + room),
        digits: metric.digits,
        lines,
        anchors,
        outside,
    })
}

fn span(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let start = (f64::INFINITY, f64::NEG_INFINITY);
    let (low, high) = values.fold(start, |(low, high), v| (low.min(v), high.max(v)));
    (low <= high).then_some((low, high))
}

/// A line is a swept row, with its place on the other axes of a grid.
fn line_label(row: &Row, key: &str) -> String {
    let others = row.place().into_iter().flatten().filter(|(k, _)| *k != key);
    let others: Vec<String> = others.map(|(k, v)| format!("{k} = {v}")).collect();
    match others.is_empty() {
        true => row.series().to_owned(),
        false => format!("{}, {}", row.series(), others.join(", ")),
    }
}

/// The panels of a figure, a few side by side, and the legend.
struct Panels {
    panels: Vec<Panel>,
    /// The labels of all anchors: each has dashes of its own.
    anchors: Vec<String>,
    /// What stands below the legend.
    notes: Vec<String>,
}

impl Panels {
    fn new(panels: Vec<Panel>) -> Self {
        let mut anchors = vec![];
        for (label, _) in panels.iter().flat_map(|p| &p.anchors) {
            if !anchors.contains(label) {
                anchors.push(label.clone());
            }
        }
        let mut notes = vec!["Bands: 95 % intervals of the means.".to_owned()];
        for panel in panels.iter().filter(|p| !p.outside.is_empty()) {
            notes.push(format!("Outside of {}: {}.", panel.title, panel.outside.join(", ")));
        }
        Panels { panels, anchors, notes }
    }

    /// Panels across and down.
    fn shape(&self) -> (usize, usize) {
        let across = self.panels.len().min(ACROSS);
        (across, self.panels.len().div_ceil(across))
    }

    /// The lines of the legend, each a label once.
    fn lines(&self) -> Vec<&Line> {
        let mut lines: Vec<&Line> = vec![];
        for line in self.panels.iter().flat_map(|p| &p.lines) {
            if lines.iter().all(|l| l.label != line.label) {
                lines.push(line);
            }
        }
        lines
    }

    /// How high the legend is.
    fn legend_height(&self) -> u32 {
        let labels = self.lines().into_iter().map(|l| &l.label).chain(&self.anchors);
        let labels: f64 = labels.map(|l| 5.0 + ENTRY * wrapped(l).len() as f64).sum();
        let notes: f64 = self.notes.iter().map(|n| 4.0 + NOTE * note(n).len() as f64).sum();
        (TOP + labels + 10.0 + notes).ceil() as u32
    }
}

/// Where the legend starts, and the heights of its lines.
const TOP: f64 = 34.0;
const ENTRY: f64 = 15.5;
const NOTE: f64 = 14.0;

fn wrapped(label: &str) -> Vec<String> {
    drawing::wrap(label, LEGEND - 40, 15, FontStyle::Normal, 3)
}

fn note(text: &str) -> Vec<String> {
    drawing::wrap(text, LEGEND - 14, 13, FontStyle::Normal, 6)
}

impl Picture for Panels {
    fn size(&self) -> (u32, u32) {
        let (across, down) = self.shape();
        let height = (PANEL.1 * down as u32).max(self.legend_height());
        (PANEL.0 * across as u32 + LEGEND, height)
    }

    fn draw<DB: DrawingBackend>(&self, root: &DrawingArea<DB, Shift>) -> Result<()> {
        let (across, down) = self.shape();
        let (left, legend) = root.split_horizontally(px(f64::from(PANEL.0) * across as f64));
        let (left, _) = left.split_vertically(px(f64::from(PANEL.1) * down as f64));
        for (area, panel) in left.split_evenly((down, across)).iter().zip(&self.panels) {
            draw_panel(area, panel, &self.anchors)?;
        }
        self.draw_legend(&legend)
    }
}

fn draw_panel<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    panel: &Panel,
    anchors: &[String],
) -> Result<()> {
    let mut chart = drawn(
        ChartBuilder::on(area)
            .margin(px(8.0))
            .caption(&panel.title, (FAMILY, 17.0 * f64::from(SCALE), FontStyle::Bold))
            .x_label_area_size(px(42.0))
            .y_label_area_size(px(46.0))
            .build_cartesian_2d(panel.x.0..panel.x.1, panel.y.0..panel.y.1),
    )?;
    let digits = panel.digits.clamp(2, 4);
    let digits = if panel.y.1 - panel.y.0 > 5.0 { 1 } else { digits };
    drawn(
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(228, 228, 228).stroke_width(SCALE))
            .axis_style(RGBColor(120, 120, 120).stroke_width(SCALE))
            .x_labels(0)
            .y_labels(6)
            .y_label_formatter(&|v| format!("{v:.digits$}"))
            .label_style(font(14.0).color(&FAINT))
            .set_all_tick_mark_size(px(3.0))
            .draw(),
    )?;
    // ticks stand at the values that were run
    let plot = chart.plotting_area();
    let bottom = plot.map_coordinate(&(panel.x.0, panel.y.0)).1;
    let (left, top) = area.get_base_pixel();
    let mut free = i32::MIN;
    for (at, label) in &panel.ticks {
        let x = plot.map_coordinate(&(*at, panel.y.0)).0;
        let line = PathElement::new(vec![(0, 0), (0, px(3.0))], RGBColor(120, 120, 120));
        drawn(area.draw(&(EmptyElement::at((x - left, bottom - top)) + line)))?;
        let wide = drawing::width(label, 14, FontStyle::Normal) as i32 * SCALE as i32;
        if x - wide / 2 < free {
            continue;
        }
        free = x + wide / 2 + px(4.0);
        let style = font(14.0).color(&FAINT);
        let place = (x - left - wide / 2, bottom - top + px(6.0));
        drawn(area.draw_text(label, &style, place))?;
    }
    let wide = drawing::width(&panel.key, 15, FontStyle::Normal) as i32 * SCALE as i32;
    let middle = plot.map_coordinate(&((panel.x.0 + panel.x.1) / 2.0, panel.y.0)).0 - left;
    let style = font(15.0).color(&FAINT);
    drawn(area.draw_text(&panel.key, &style, (middle - wide / 2, bottom - top + px(22.0))))?;

    for (label, at) in &panel.anchors {
        let i = anchors.iter().position(|a| a == label).unwrap_or(0);
        let line = DashedPathElement::new(
            [(panel.x.0, *at), (panel.x.1, *at)],
            px(dash(i).0),
            px(dash(i).1),
            GREY.stroke_width(SCALE),
        );
        drawn(chart.draw_series([line]))?;
    }
    for line in &panel.lines {
        let with = |pick: fn((f64, f64)) -> f64| {
            let ends = line.points.iter().filter_map(move |p| Some((p.x, pick(p.y.interval()?))));
            ends.collect::<Vec<_>>()
        };
        let mut band = with(|(low, _)| low);
        band.extend(with(|(_, high)| high).into_iter().rev());
        if band.len() > 2 {
            drawn(chart.draw_series([Polygon::new(band, line.color.mix(0.14))]))?;
        }
    }
    for line in &panel.lines {
        let points: Vec<(f64, f64)> = line.points.iter().map(|p| (p.x, p.y.mean)).collect();
        let stroke = line.color.stroke_width(2 * SCALE);
        drawn(chart.draw_series([PathElement::new(points.clone(), stroke)]))?;
        let (edge, body) =
            (line.marker.outline(px(4.8).into()), line.marker.outline(px(4.0).into()));
        let mark = |at: (f64, f64)| {
            EmptyElement::at(at)
                + Polygon::new(edge.clone(), WHITE)
                + Polygon::new(body.clone(), line.color)
        };
        drawn(chart.draw_series(points.into_iter().map(mark)))?;
    }
    Ok(())
}

/// Length and gap of the dashes of anchor number `i`.
fn dash(i: usize) -> (f64, f64) {
    [(6.0, 4.0), (1.5, 3.0), (10.0, 3.0), (3.0, 2.0)][i % 4]
}

impl Panels {
    /// Beside the panels, where it covers nothing.
    fn draw_legend<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Result<()> {
        let style = font(15.0).color(&INK);
        let mut y = TOP;
        let mut entry = |label: &str, mark: &mut dyn FnMut(f64) -> Result<()>| -> Result<()> {
            mark(y + 4.0)?;
            for line in wrapped(label) {
                drawn(area.draw_text(&line, &style, (px(34.0), px(y))))?;
                y += ENTRY;
            }
            y += 5.0;
            Ok(())
        };
        let ends = |y: f64| [(px(6.0), px(y)), (px(28.0), px(y))];
        for line in self.lines() {
            entry(&line.label, &mut |y| {
                let stroke = line.color.stroke_width(2 * SCALE);
                drawn(area.draw(&PathElement::new(ends(y), stroke)))?;
                let outline = line.marker.outline(px(4.0).into());
                let mark = EmptyElement::at((px(17.0), px(y))) + Polygon::new(outline, line.color);
                drawn(area.draw(&mark))
            })?;
        }
        for (i, label) in self.anchors.iter().enumerate() {
            entry(label, &mut |y| {
                let (long, gap) = dash(i);
                let stroke = GREY.stroke_width(SCALE);
                drawn(area.draw(&DashedPathElement::new(ends(y), px(long), px(gap), stroke)))
            })?;
        }
        let small = font(13.0).color(&FAINT);
        y += 6.0;
        for text in &self.notes {
            for line in note(text) {
                drawn(area.draw_text(&line, &small, (px(8.0), px(y))))?;
                y += NOTE;
            }
            y += 4.0;
        }
        Ok(())
    }
}
