//! Two metrics of every method against each other, as in Fig. 8 of the paper: the first two that have
//! a value of each image.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::plot::{FAINT, Figure, INK, Looks, Marker, Picture, SCALE, figure, font, px};
use super::results::Results;
use super::tables::title;
use super::view::{Group, Row, groups, paper_table};
use crate::Result;
use crate::drawing::{self, FAMILY, drawn};
use crate::metrics::{Estimate, Metric};

const PANEL: (u32, u32) = (420, 400);
const LEGEND: u32 = 210;
/// Anchors this far outside the methods (times their range) are named and not drawn: they would
/// press the methods together.
const OUTSIDE: f64 = 0.6;

/// What is drawn besides the measured values.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScatterOptions {
    /// The paper's values as hollow markers. Only of use where the backbone is the paper's.
    pub paper: bool,
}

/// Draws a panel for each part of the table; none where no method has both metrics, or there
/// are no two.
///
/// # Errors
/// The drawing library's.
pub fn scatter(results: &Results, options: ScatterOptions) -> Result<Option<Figure>> {
    let mut axes = results.metrics.iter().filter(|m| m.of_images());
    let (Some(x), Some(y)) = (axes.next(), axes.next()) else { return Ok(None) };
    let panels = Panels(panels(results, [x, y], options, &mut Looks::default()));
    if panels.0.is_empty() {
        return Ok(None);
    }
    figure(format!("{} against {}", x.title, y.title), &panels).map(Some)
}

/// The panels of the figure, side by side, and the legend.
struct Panels(Vec<Panel>);

impl Picture for Panels {
    fn size(&self) -> (u32, u32) {
        (PANEL.0 * self.0.len() as u32 + LEGEND, PANEL.1)
    }

    fn draw<DB: DrawingBackend>(&self, root: &DrawingArea<DB, Shift>) -> Result<()> {
        let count = self.0.len();
        let (left, legend) = root.split_horizontally(px(f64::from(PANEL.0) * count as f64));
        for (area, panel) in left.split_evenly((1, count)).iter().zip(&self.0) {
            draw_panel(area, panel)?;
        }
        draw_legend(&legend, &self.0)
    }
}

/// A part of the table.
pub(super) struct Panel {
    pub title: String,
    /// The group's name.
    pub group: String,
    axes: [String; 2],
    pub series: Vec<Series>,
    /// Anchors that are named and not drawn.
    pub outside: Vec<String>,
    pub x: (f64, f64),
    pub y: (f64, f64),
}

/// A row of the table.
pub(super) struct Series {
    pub label: String,
    /// The row's own label, where that is of a point of a sweep.
    pub row: String,
    /// Where a point of a sweep stands on its axes; what is no number is at 0.
    pub sweep: Option<Vec<f64>>,
    pub anchor: bool,
    pub color: RGBColor,
    pub marker: Marker,
    pub mean: [Estimate; 2],
    /// Each concept set with its means.
    pub concepts: Vec<(Vec<String>, (f64, f64))>,
    paper: Option<(f64, f64)>,
}

/// The panels of the figure; none where no method has both metrics.
pub(super) fn panels(
    results: &Results,
    axes: [&Metric; 2],
    options: ScatterOptions,
    looks: &mut Looks,
) -> Vec<Panel> {
    let groups = groups(results);
    let paper = paper_table(results).filter(|_| options.paper);
    let mut panels = vec![];
    for group in &groups {
        let labels: Vec<&str> = group.rows.iter().map(Row::series).collect();
        let mut of_row = |row: &Row| {
            let mean = [row.estimate(axes[0])?, row.estimate(axes[1])?];
            let concepts = group.concepts.iter().filter_map(|set| {
                let of = |m: &Metric| Some(row.estimate_where(m, &|c| c.concepts == *set)?.mean);
                Some((set.to_vec(), (of(axes[0])?, of(axes[1])?)))
            });
            let concepts = concepts.collect();
            let label = row.series();
            let (color, marker) = looks.of(label, row.method(), row.anchor, &labels);
            let found = paper.and_then(|p| p.row(group.name, row.paper_row()?));
            let of = |i: usize| Some(found?.values.get(&axes[i].name)? / axes[i].scale);
            let paper = of(0).zip(of(1));
            let sweep = row.place().map(|p| p.values().map(|v| v.parse().unwrap_or(0.0)).collect());
            let (label, row, anchor) = (label.to_owned(), row.label.to_owned(), row.anchor);
            Some(Series { label, row, sweep, anchor, color, marker, mean, concepts, paper })
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
                .map(|(_, at)| *at)
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
    let name = group.name.to_owned();
    Panel { title: title(group), group: name, axes, series, outside, x, y }
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
            .label_style(font(15.0).color(&FAINT))
            .axis_desc_style(font(17.0).color(&FAINT))
            .set_all_tick_mark_size(px(3.0))
            .draw(),
    )?;
    for path in paths(&panel.series) {
        drawn(chart.draw_series([PathElement::new(path.1, path.0.mix(0.6).stroke_width(SCALE))]))?;
    }
    // a sweep has points enough
    for s in panel.series.iter().filter(|s| s.sweep.is_none()) {
        let (fill, outline) = (s.color.mix(0.35), s.marker.outline(f64::from(px(3.4))));
        let point = |at| EmptyElement::at(at) + Polygon::new(outline.clone(), fill);
        drawn(chart.draw_series(s.concepts.iter().map(|(_, at)| point(*at))))?;
    }
    for s in &panel.series {
        bars(&mut chart, s)?;
    }
    for s in &panel.series {
        let at = (s.mean[0].mean, s.mean[1].mean);
        let size = if s.sweep.is_some() { 0.65 } else { 1.0 };
        let edge = s.marker.outline(size * f64::from(px(7.4)));
        let body = s.marker.outline(size * f64::from(px(6.2)));
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

/// The lines that join the points of each sweep, in the order of their places.
pub(super) fn paths(series: &[Series]) -> Vec<(RGBColor, Vec<(f64, f64)>)> {
    let mut paths: Vec<(&str, RGBColor, Vec<&Series>)> = vec![];
    for s in series.iter().filter(|s| s.sweep.is_some()) {
        match paths.iter_mut().find(|p| p.0 == s.label) {
            Some(path) => path.2.push(s),
            None => paths.push((&s.label, s.color, vec![s])),
        }
    }
    let ordered = |mut of: Vec<&Series>| -> Vec<(f64, f64)> {
        of.sort_by(|a, b| a.sweep.partial_cmp(&b.sweep).unwrap_or(std::cmp::Ordering::Equal));
        of.iter().map(|s| (s.mean[0].mean, s.mean[1].mean)).collect()
    };
    paths.into_iter().map(|(_, color, of)| (color, ordered(of))).collect()
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
    let style = font(15.5).color(&INK);
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
    let small = font(13.0).color(&FAINT);
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
    if panels.iter().any(|p| p.series.iter().any(|s| s.sweep.is_some())) {
        note("Joined: the points of a sweep.")?;
    }
    if panels.iter().any(|p| p.series.iter().any(|s| s.paper.is_some())) {
        note("Hollow: the paper's value.")?;
    }
    for panel in panels.iter().filter(|p| !p.outside.is_empty()) {
        note(&format!("Outside of {}:", panel.title.to_lowercase()))?;
        panel.outside.iter().try_for_each(|line| note(line))?;
    }
    Ok(())
}
