//! A report's folder.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::path::Path;

use super::attention::attention;
use super::bars::{bars, families};
use super::claims_table::claims_table;
use super::csv::Csv;
use super::curves::{curves, keys, long_table};
use super::folder::Folder;
use super::format::Format;
use super::grid::{Pictures, grid};
use super::latex::Latex;
use super::md::{Markdown, escape};
use super::page;
use super::parquet;
use super::preference;
use super::results::Results;
use super::scatter::{ScatterOptions, scatter};
use super::sheet;
use super::table::{Export, Table, export};
use super::tables::{tables, title};
use super::view::groups;
use crate::drawing::write_png;
use crate::{Result, safefile};

/// Writes a report into the folder `out`: `README.md`, tables, figure, grids, the data they are made of, and
/// all of that as a page, `index.html`. Each file is whole or not there, and of the report that was there before
/// nothing is left. Nothing is computed but views.
///
/// # Errors
/// A file that cannot be written.
pub fn render(results: &Results, pictures: &dyn Pictures, out: &Path) -> Result<()> {
    write(results, Some(pictures), &Format::USUAL, out)
}

/// [`render`] in the forms that are asked for.
///
/// # Errors
/// As [`render`].
pub fn render_as(
    formats: &[Format],
    results: &Results,
    pictures: &dyn Pictures,
    out: &Path,
) -> Result<()> {
    write(results, Some(pictures), formats, out)
}

/// [`render`] without pictures, for a report that will soon be written again.
///
/// # Errors
/// As [`render`].
pub fn render_tables(results: &Results, out: &Path) -> Result<()> {
    write(results, None, &Format::USUAL, out)
}

fn write(
    results: &Results,
    pictures: Option<&dyn Pictures>,
    formats: &[Format],
    out: &Path,
) -> Result<()> {
    let folder = Folder::new(out);
    results.write(out)?;
    for name in Results::FILES {
        folder.file(name);
    }
    let mut tables = tables(results);
    tables.extend(claims_table(results));
    let shown = tables.iter().filter(|t| !t.sections.is_empty()).cloned().collect::<Vec<_>>();
    let has = |format: Format| formats.contains(&format);
    for (format, writer) in [(Format::Md, &Markdown as &dyn Export), (Format::Latex, &Latex)] {
        if has(format) {
            let path = folder.file(format!("table.{}", writer.extension()));
            safefile::write(&path, export(&shown, writer))?;
        }
    }
    if has(Format::Csv) {
        write_csv(results, &shown, &folder)?;
    }
    if has(Format::Json) {
        let all = Json { version: JSON_VERSION, results };
        let text = serde_json::to_string_pretty(&all).expect("strings and numbers");
        safefile::write(&folder.file("results.json"), text + "\n")?;
    }
    if has(Format::Parquet) {
        let (columns, rows) = results.cell_rows()?;
        parquet::write(&folder.file("results.parquet"), &columns, &rows)?;
        let (columns, rows) = results.image_rows();
        parquet::write(&folder.file("images.parquet"), &columns, &rows)?;
    }
    if has(Format::Md) {
        let text = readme(results, pictures, &tables, &shown, formats, &folder)?;
        safefile::write(&folder.file("README.md"), text)?;
    }
    if has(Format::Html) {
        page::write(results, &shown, pictures, &folder)?;
    }
    folder.finish()
}

/// Of `results.json`.
const JSON_VERSION: u32 = 1;

/// `results.json`: all that there is. A number that is not finite, such as the error of a single group, is
/// null.
#[derive(serde::Serialize)]
struct Json<'a> {
    version: u32,
    #[serde(flatten)]
    results: &'a Results,
}

/// The tables, the points of the curves and the pairs of a study.
fn write_csv(results: &Results, shown: &[Table], folder: &Folder) -> Result<()> {
    for table in shown {
        safefile::write(&folder.file(format!("{}.csv", table.name)), Csv.table(table))?;
    }
    if !keys(results).is_empty() {
        let (columns, rows) = long_table(results);
        sheet::write(&folder.file("sweep.csv"), &columns, &rows)?;
    }
    let (columns, pairs) = preference::pairs(results);
    if !pairs.is_empty() {
        sheet::write(&folder.file("pairs.csv"), &columns, &pairs)?;
    }
    Ok(())
}

/// The report's first page; draws what it shows.
fn readme(
    results: &Results,
    pictures: Option<&dyn Pictures>,
    tables: &[Table],
    shown: &[Table],
    formats: &[Format],
    folder: &Folder,
) -> Result<String> {
    let mut text = format!(
        "# {}\n\n`{}`, scale {}, protocol `{}`.\n\n",
        escape(&results.title),
        results.experiment,
        results.scale,
        results.protocol
    );
    if let Ok(findings) = std::fs::read_to_string(folder.root().join(findings(&results.scale))) {
        let _ = write!(text, "{}\n\n", findings.trim_end());
    }
    text += "## Table\n\n";
    text += &Markdown.table(&tables[0]);
    if shown.iter().any(|t| t.name == "differences") {
        let _ = write!(text, "\n## Differences\n\n{}", Markdown.table(&tables[1]));
    }
    if let Some(room) = shown.iter().find(|t| t.name == "room") {
        let _ = write!(text, "\n## Room covered\n\n{}", Markdown.table(room));
    }
    if let Some(claims) = shown.iter().find(|t| t.name == "claims") {
        let _ = write!(text, "\n## Claims of the paper\n\n{}", Markdown.table(claims));
    }
    if let Some(pictures) = pictures {
        text += &draw(results, pictures, folder)?;
    }
    if !results.failed.is_empty() {
        text += "\n## Not measured\n\n";
        for (cell, reason) in &results.failed {
            let known = results.cells.iter().find(|c| c.id == *cell);
            let what = known.map_or(cell.clone(), |c| {
                format!("{}: {} on {}, seed {}", c.group, c.label, c.concepts.join(" + "), c.seed)
            });
            let _ = writeln!(text, "- {}: {}", escape(&what), escape(reason));
        }
    }
    text += &files(results, shown, formats);
    let _ = write!(
        text,
        "\n## Again\n\n```sh\ncdbench run experiments/{0}.toml --scale {1}     # what is in the store is not computed again\n\
         cdbench report experiments/{0}.toml --scale {1}  # this report, from the store\n```\n",
        results.experiment, results.scale
    );
    Ok(text)
}

/// What the folder holds.
fn files(results: &Results, shown: &[Table], formats: &[Format]) -> String {
    let has = |format: Format| formats.contains(&format);
    let mut text = "\n## Files\n\n".to_owned();
    if has(Format::Html) {
        text += "- `index.html`: this report to look at in a browser, with all samples; it needs `page/`\n";
    }
    text +=
        "- `results.csv`: a row a cell; `images.csv`: a row an image; `report.json`: the rest\n";
    if has(Format::Json) {
        text += "- `results.json`: all of that in one file\n";
    }
    if has(Format::Parquet) {
        text += "- `results.parquet`, `images.parquet`: the rows with types\n";
    }
    match has(Format::Latex) {
        true => text += "- `table.md`, `table.tex`: all tables, those by concept too\n",
        false => text += "- `table.md`: all tables, those by concept too\n",
    }
    if !has(Format::Csv) {
        return text;
    }
    if !keys(results).is_empty() {
        text += "- `sweep.csv`: the points of the curves, a row a point and metric\n";
    }
    let (_, pairs) = preference::pairs(results);
    if !pairs.is_empty() {
        let _ = writeln!(
            text,
            "- `pairs.csv`: {} pairs for a preference study: same prompt and noise, files in the store",
            pairs.len()
        );
    }
    let csvs: Vec<String> = shown.iter().map(|t| format!("`{}.csv`", t.name)).collect();
    let _ = writeln!(text, "- {}: each with the ends of its intervals", csvs.join(", "));
    text
}

/// Draws the figure and the grids, and says what shows them.
fn draw(results: &Results, finder: &dyn Pictures, folder: &Folder) -> Result<String> {
    let mut text = String::new();
    let mut figures = vec![("scatter".to_owned(), scatter(results, ScatterOptions::default())?)];
    for key in keys(results) {
        figures.push((format!("curve-{}", plain(key)), curves(results, key)?));
    }
    for family in families(results) {
        figures.push((format!("bars-{}", plain(family)), bars(results, family)?));
    }
    for (name, figure) in figures {
        let Some(figure) = figure else { continue };
        safefile::write(&folder.file(format!("{name}.svg")), figure.svg)?;
        write_png(&folder.file(format!("{name}.png")), &figure.png)?;
        let _ = write!(text, "\n## {}\n\n![{name}]({name}.png)\n", heading(&figure.title));
    }
    let mut names = HashSet::new();
    let mut pictures = String::new();
    let asked: BTreeSet<&str> = results.images.iter().map(|i| i.of.as_str()).collect();
    for group in &groups(results) {
        for concepts in &group.concepts {
            for of in &asked {
                let Some(page) = grid(group, concepts, of, finder)? else { continue };
                let mut name = file_name(concepts);
                let mut what = concepts.join(" + ");
                if !of.is_empty() {
                    name += &format!("-{}", plain(of));
                    what += &format!(", {of}");
                }
                while !names.insert(name.clone()) {
                    name.push('_');
                }
                write_png(&folder.file(format!("grids/{name}.png")), &page)?;
                let (what, part) = (escape(&what), title(group));
                let _ = write!(pictures, "\n### {part}: {what}\n\n![{what}](grids/{name}.png)\n");
            }
        }
    }
    let mut attended = String::new();
    for group in &groups(results) {
        for concepts in &group.concepts {
            let Some(page) = attention(group, concepts, finder)? else { continue };
            let name = format!("attention/{}.png", file_name(concepts));
            write_png(&folder.file(&name), &page)?;
            let what = escape(&concepts.join(" + "));
            let _ = write!(attended, "\n### {what}\n\n![{what}]({name})\n");
        }
    }
    if !attended.is_empty() {
        let _ = write!(
            text,
            "\n## Attention\n\nWhere images attend to the concepts' words: the first image of the first \
             prompts, not chosen.\n{attended}"
        );
    }
    if !pictures.is_empty() {
        let _ = write!(
            text,
            "\n## Samples\n\nThe first images of each prompt, not chosen.\n{pictures}"
        );
    }
    Ok(text)
}

/// Written by hand about the results of a scale, and shown in its README where it is there.
fn findings(scale: &str) -> String {
    format!("FINDINGS.{}.md", plain(scale))
}

/// With a capital letter in front.
fn heading(title: &str) -> String {
    let mut letters = title.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn file_name(concepts: &[String]) -> String {
    concepts.iter().map(|c| plain(c)).collect::<Vec<_>>().join("+")
}

/// Part of a file's name in which nothing is a path.
pub(super) fn plain(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "-_".contains(c) { c } else { '_' };
    name.chars().map(plain).collect()
}
