//! The figures as data: what is drawn where, and what is said of it. The numbers, colours and markers are
//! those of the pictures.

use plotters::style::RGBColor;
use serde_json::{Value, json};

use crate::metrics::{Estimate, Metric};
use crate::report::plot::{GREY, Looks, Marker};
use crate::report::results::Results;
use crate::report::scatter::{ScatterOptions, Series, panels as scatter_panels, paths};
use crate::report::{bars, curves};

/// All figures; `looks` learns the rows of the scatter first.
pub fn figures(results: &Results, looks: &mut Looks) -> Vec<Value> {
    let mut figures: Vec<Value> = scatter(results, looks).into_iter().collect();
    figures.extend(curves::keys(results).into_iter().filter_map(|key| sweep(results, key)));
    figures.extend(bars::families(results).into_iter().filter_map(|name| family(results, name)));
    figures
}

/// As CSS has it.
pub fn color(color: RGBColor) -> String {
    let RGBColor(r, g, b) = color;
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// The corners of a marker of radius 100, as SVG's `points` has them.
pub fn outline(marker: Marker) -> String {
    let corners = marker.outline(100.0).into_iter().map(|(x, y)| format!("{x},{y}"));
    corners.collect::<Vec<_>>().join(" ")
}

fn scatter(results: &Results, looks: &mut Looks) -> Option<Value> {
    let mut axes = results.metrics.iter().filter(|m| m.of_images());
    let (x, y) = (axes.next()?, axes.next()?);
    let panels = scatter_panels(results, [x, y], ScatterOptions::default(), looks);
    let mut legend = Legend::default();
    let mut shown = vec![];
    for panel in &panels {
        let mut marks = vec![];
        for (color, points) in paths(&panel.series) {
            marks.push(json!({ "k": "line", "points": points, "color": self::color(color) }));
        }
        // a sweep has points enough
        for s in panel.series.iter().filter(|s| s.sweep.is_none()) {
            for (concepts, at) in &s.concepts {
                let said = format!("{}, {}", bare(x, at.0), bare(y, at.1));
                let mut mark = point(s, *at, 3.4, &panel.group);
                mark["faint"] = true.into();
                mark["said"] = json!([format!("{} on {}", s.row, concepts.join(" + ")), said]);
                mark["concepts"] = json!(concepts);
                mark["s"] = legend.of(&s.label, s.color, Some(s.marker)).into();
                marks.push(mark);
            }
        }
        for s in &panel.series {
            let size = if s.sweep.is_some() { 4.4 } else { 6.6 };
            let mut mark = point(s, (s.mean[0].mean, s.mean[1].mean), size, &panel.group);
            mark["bars"] = json!([s.mean[0].interval(), s.mean[1].interval()]);
            let scaled = [x.scaled(s.mean[0]), y.scaled(s.mean[1])];
            mark["said"] = json!([s.row, said(x, &scaled[0]), said(y, &scaled[1])]);
            mark["s"] = legend.of(&s.label, s.color, Some(s.marker)).into();
            marks.push(mark);
        }
        shown.push(json!({
            "title": panel.title,
            "x": { "label": x.title, "range": panel.x, "digits": 2 },
            "y": { "label": y.title, "range": panel.y, "digits": 2 },
            "marks": marks,
            "outside": panel.outside,
        }));
    }
    let notes = ["Large: mean, with its 95 % interval. Small: one concept or combination."];
    let title = format!("{} against {}", x.title, y.title);
    figure("scatter", &title, shown, legend, &notes)
}

fn point(s: &Series, (x, y): (f64, f64), size: f64, group: &str) -> Value {
    json!({
        "k": "point", "x": x, "y": y, "size": size, "color": color(s.color), "marker": outline(s.marker),
        "group": group, "label": s.row,
    })
}

fn sweep(results: &Results, key: &str) -> Option<Value> {
    let panels = curves::panels(results, key);
    let mut legend = Legend::default();
    let mut shown = vec![];
    for panel in &panels {
        let mut marks = vec![];
        let (x, digits) = (panel.x, panel.digits);
        for (label, at) in &panel.anchors {
            let ends = [(x.0, *at), (x.1, *at)];
            let said = json!([label, format!("{at:.digits$}")]);
            let s = legend.of(label, GREY, None);
            marks.push(json!({
                "k": "line", "points": ends, "color": color(GREY), "dash": true, "said": said, "s": s,
                "group": panel.group, "label": label,
            }));
        }
        for line in &panel.lines {
            let (s, color) =
                (legend.of(&line.label, line.color, Some(line.marker)), color(line.color));
            let with = |pick: fn((f64, f64)) -> f64| {
                line.points.iter().filter_map(move |p| Some((p.x, pick(p.y.interval()?))))
            };
            let mut band: Vec<(f64, f64)> = with(|(low, _)| low).collect();
            band.extend(with(|(_, high)| high).collect::<Vec<_>>().into_iter().rev());
            marks.push(json!({ "k": "band", "points": band, "color": color, "s": s }));
        }
        for line in &panel.lines {
            let (s, color) =
                (legend.of(&line.label, line.color, Some(line.marker)), color(line.color));
            let points: Vec<(f64, f64)> = line.points.iter().map(|p| (p.x, p.y.mean)).collect();
            marks.push(json!({ "k": "line", "points": points, "color": color, "s": s }));
            for p in &line.points {
                marks.push(json!({
                    "k": "point", "x": p.x, "y": p.y.mean, "size": 4.4, "color": color,
                    "marker": outline(line.marker), "s": s, "group": panel.group, "label": p.row,
                    "said": [p.row, format!("{} {}", panel.title, number(&p.y, digits)), counts(&p.y)],
                }));
            }
        }
        shown.push(json!({
            "title": panel.title,
            "x": { "label": panel.key, "range": x, "ticks": panel.ticks },
            "y": { "label": "", "range": panel.y, "digits": digits.clamp(1, 4) },
            "marks": marks,
            "outside": panel.outside,
        }));
    }
    let name = format!("curve-{}", crate::report::render::plain(key));
    let notes = ["Bands: 95 % intervals of the means."];
    figure(&name, &format!("sweep over {key}"), shown, legend, &notes)
}

fn family(results: &Results, family: &str) -> Option<Value> {
    let panels = bars::panels(results, family);
    let metrics: Vec<&Metric> =
        results.metrics.iter().filter(|m| m.family.as_deref() == Some(family)).collect();
    let mut legend = Legend::default();
    let mut shown = vec![];
    for panel in &panels {
        let mut marks = vec![];
        for (i, metric) in metrics.iter().enumerate() {
            for (j, row) in panel.rows.iter().enumerate() {
                let Some(found) = row.values[i] else { continue };
                let (left, wide) = panel.bar(j, i);
                marks.push(json!({
                    "k": "bar", "x": left, "width": wide, "y": found.mean, "color": color(row.color),
                    "interval": found.interval(), "s": legend.of(&row.label, row.color, None),
                    "group": panel.group, "label": row.label, "said": [row.label, said(metric, &found)],
                }));
            }
        }
        let ticks: Vec<(f64, &String)> =
            panel.names.iter().enumerate().map(|(i, name)| (i as f64 + 0.5, name)).collect();
        let digits = if panel.top() < 1.0 { 3 } else { 1 };
        shown.push(json!({
            "title": panel.title,
            "x": { "label": "", "range": [0.0, panel.names.len() as f64], "ticks": ticks },
            "y": { "label": panel.axis, "range": [0.0, panel.top()], "digits": digits },
            "marks": marks,
            "outside": [],
        }));
    }
    figure(&format!("bars-{}", crate::report::render::plain(family)), family, shown, legend, &[])
}

fn figure(
    name: &str,
    title: &str,
    panels: Vec<Value>,
    legend: Legend,
    notes: &[&str],
) -> Option<Value> {
    let figure = json!({
        "name": name, "title": title, "panels": panels, "legend": legend.0, "notes": notes,
    });
    (!panels.is_empty()).then_some(figure)
}

/// What a number is of a metric, its interval, and what it is the mean of; `found` is as it is shown.
fn said(metric: &Metric, found: &Estimate) -> String {
    format!("{} {}, {}", metric.column(), number(found, metric.digits), counts(found))
}

fn number(found: &Estimate, digits: usize) -> String {
    let interval =
        found.interval().map(|(low, high)| format!(" ({low:.digits$} to {high:.digits$})"));
    format!("{:.digits$}{}", found.mean, interval.unwrap_or_default())
}

fn counts(found: &Estimate) -> String {
    match found.groups == found.n {
        true => format!("n = {}", found.n),
        false => format!("n = {} in {} groups", found.n, found.groups),
    }
}

fn bare(metric: &Metric, value: f64) -> String {
    format!("{} {:.*}", metric.column(), metric.digits, metric.scale * value)
}

/// The entries of a legend; marks name theirs by its number.
#[derive(Default)]
struct Legend(Vec<Value>);

impl Legend {
    fn of(&mut self, label: &str, color: RGBColor, marker: Option<Marker>) -> usize {
        let known = self.0.iter().position(|e| e["label"] == label);
        known.unwrap_or_else(|| {
            self.0.push(json!({
                "label": label, "color": self::color(color), "marker": marker.map(outline),
            }));
            self.0.len() - 1
        })
    }
}
