//! Metrics of one family side by side, as the layers of Fig. 3 of the paper: a bar for each method.

use std::collections::BTreeSet;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::plot::{FAINT, Figure, INK, Looks, Picture, SCALE, figure, font, px};
use super::results::Results;
use super::tables::title;
use super::view::{Row, groups};
use crate::Result;
use crate::drawing::{self, FAMILY, drawn};
use crate::metrics::{Estimate, Metric};

const PANEL: (u32, u32) = (400, 300);
const LEGEND: u32 = 190;
/// Share of a metric's room that its bars fill.
const FILLED: f64 = 0.76;

/// The families of the results' metrics.
pub fn families(results: &Results) -> BTreeSet<&str> {
    results.metrics.iter().filter_map(|m| m.family.as_deref()).collect()
}

/// The figure of a family; none where nothing was measured.
///
/// # Errors
/// The drawing library's.
pub fn bars(results: &Results, family: &str) -> Result<Option<Figure>> {
    let panels = panels(results, family);
    match panels.is_empty() {
        true => Ok(None),
        false => figure(family.to_owned(), &Panels(panels)).map(Some),
    }
}

/// A panel for each part of the table that has something of the family.
pub(super) fn panels(results: &Results, family: &str) -> Vec<Panel> {
    let metrics: Vec<&Metric> =
        results.metrics.iter().filter(|m| m.family.as_deref() == Some(family)).collect();
    let groups = groups(results);
    let (mut looks, mut panels) = (Looks::default(), vec![]);
    for group in &groups {
        let labels: Vec<&str> = group.rows.iter().map(|r| r.label).collect();
        let mut bars = |row: &Row| {
            let values: Vec<Option<Estimate>> =
                metrics.iter().map(|m| row.estimate(m).map(|e| m.scaled(e))).collect();
            let (color, _) = looks.of(row.label, row.method(), row.anchor, &labels);
            let measured = values.iter().any(Option::is_some);
            measured.then(|| Bars { label: row.label.to_owned(), color, values })
        };
        let rows: Vec<Bars> = group.rows.iter().filter_map(&mut bars).collect();
        if !rows.is_empty() {
            let names = metrics.iter().map(|m| m.title.clone()).collect();
            let unit = metrics.first().map_or("", |m| m.unit.as_str());
            let axis = format!("{family} {unit}").trim_end().to_owned();
            let name = group.name.to_owned();
            panels.push(Panel { title: title(group), group: name, axis, names, rows });
        }
    }
    panels
}

/// A part of the table.
pub(super) struct Panel {
    pub title: String,
    /// The group's name.
    pub group: String,
    pub axis: String,
    /// Of the metrics.
    pub names: Vec<String>,
    pub rows: Vec<Bars>,
}

/// The bars of a row, one a metric.
pub(super) struct Bars {
    pub label: String,
    pub color: RGBColor,
    pub values: Vec<Option<Estimate>>,
}

impl Panel {
    /// Where its axis ends.
    pub fn top(&self) -> f64 {
        let ends = self.rows.iter().flat_map(|r| r.values.iter().flatten());
        let top = ends.map(|e| e.interval().map_or(e.mean, |(_, high)| high)).fold(0.0, f64::max);
        if top > 0.0 { 1.08 * top } else { 1.0 }
    }

    /// The left end and the width of the bar of row `row` in the room of metric `metric`, of which each has 1.
    pub fn bar(&self, row: usize, metric: usize) -> (f64, f64) {
        let wide = FILLED / self.rows.len() as f64;
        (metric as f64 + (1.0 - FILLED) / 2.0 + row as f64 * wide, wide)
    }
}

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

fn draw_panel<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, panel: &Panel) -> Result<()> {
    let top = panel.top();
    let count = panel.names.len();
    let mut chart = drawn(
        ChartBuilder::on(area)
            .margin(px(8.0))
            .caption(&panel.title, (FAMILY, 18.0 * f64::from(SCALE), FontStyle::Bold))
            .x_label_area_size(px(54.0))
            .y_label_area_size(px(52.0))
            .build_cartesian_2d(0.0..count as f64, 0.0..top),
    )?;
    let digits = if top < 1.0 { 3 } else { 1 };
    drawn(
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(228, 228, 228).stroke_width(SCALE))
            .axis_style(RGBColor(120, 120, 120).stroke_width(SCALE))
            .x_labels(0)
            .y_labels(6)
            .y_desc(&panel.axis)
            .y_label_formatter(&|v| format!("{v:.digits$}"))
            .label_style(font(14.0).color(&FAINT))
            .axis_desc_style(font(15.0).color(&FAINT))
            .draw(),
    )?;
    for (j, row) in panel.rows.iter().enumerate() {
        for (i, found) in row.values.iter().enumerate() {
            let Some(found) = found else { continue };
            let (left, wide) = panel.bar(j, i);
            let ends = [(left + 0.04 * wide, 0.0), (left + 0.96 * wide, found.mean)];
            drawn(chart.draw_series([Rectangle::new(ends, row.color.filled())]))?;
            if let Some((low, high)) = found.interval() {
                let x = left + wide / 2.0;
                let line = vec![(x, low.max(0.0)), (x, high)];
                drawn(chart.draw_series([PathElement::new(line, INK.stroke_width(SCALE))]))?;
            }
        }
    }
    let plot = chart.plotting_area();
    let (left, top_pixel) = area.get_base_pixel();
    let room = (PANEL.0 - 60) / count.max(1) as u32;
    for (i, name) in panel.names.iter().enumerate() {
        let (x, y) = plot.map_coordinate(&(i as f64 + 0.5, 0.0));
        for (k, line) in drawing::wrap(name, room.saturating_sub(14), 14, FontStyle::Normal, 3)
            .iter()
            .enumerate()
        {
            let wide = drawing::width(line, 14, FontStyle::Normal) as i32 * SCALE as i32;
            let at = (x - left - wide / 2, y - top_pixel + px(6.0 + 14.0 * k as f64));
            drawn(area.draw_text(line, &font(14.0).color(&FAINT), at))?;
        }
    }
    Ok(())
}

/// Beside the panels, where it covers nothing.
fn draw_legend<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, panels: &[Panel]) -> Result<()> {
    let style = font(15.0).color(&INK);
    let (mut y, mut seen) = (34.0, BTreeSet::new());
    for row in panels.iter().flat_map(|p| &p.rows) {
        if !seen.insert(&row.label) {
            continue;
        }
        let ends = [(px(8.0), px(y)), (px(20.0), px(y + 10.0))];
        drawn(area.draw(&Rectangle::new(ends, row.color.filled())))?;
        for line in drawing::wrap(&row.label, LEGEND - 36, 15, FontStyle::Normal, 3) {
            drawn(area.draw_text(&line, &style, (px(28.0), px(y))))?;
            y += 15.5;
        }
        y += 5.0;
    }
    Ok(())
}
