//! The report as a page: `index.html`, and what it needs in `page/`. It opens from a disk and from any web
//! server, asks for nothing outside of its folder, and needs no program to be made but this one.
//!
//! The data stand in a script, `page/data.js`, because pages that are opened from a disk may not read other
//! files; texts come into the page as texts and never as HTML.

mod data;
mod figures;
mod samples;
mod sheets;

use serde_json::Value;

use super::folder::Folder;
use super::grid::Pictures;
use super::results::Results;
use super::table::Table;
use crate::{Result, safefile};

/// The page's own files.
const FILES: [(&str, &str); 9] = [
    ("index.html", include_str!("index.html")),
    ("page/page.css", include_str!("page.css")),
    ("page/icon.svg", include_str!("icon.svg")),
    ("page/base.js", include_str!("base.js")),
    ("page/tables.js", include_str!("tables.js")),
    ("page/figures.js", include_str!("figures.js")),
    ("page/viewer.js", include_str!("viewer.js")),
    ("page/image.js", include_str!("image.js")),
    ("page/start.js", include_str!("start.js")),
];

/// Writes the page of a report whose other files are in the folder already; without pictures it has no
/// samples.
///
/// # Errors
/// A file that cannot be written.
pub fn write(
    results: &Results,
    tables: &[Table],
    pictures: Option<&dyn Pictures>,
    folder: &Folder,
) -> Result<()> {
    let data = data::data(results, tables, pictures, folder)?;
    // what the data name is there before them
    safefile::write(&folder.file("page/data.js"), script(&data))?;
    for (name, text) in FILES {
        let path = folder.file(name);
        if std::fs::read_to_string(&path).ok().as_deref() != Some(text) {
            safefile::write(&path, text)?;
        }
    }
    Ok(())
}

/// A script that gives data their name. JSON has these characters in texts alone: none of them can end the
/// script or the text, whatever reads it.
fn script(data: &Value) -> String {
    let mut text = String::from("\"use strict\";\nwindow.cdbench = ");
    for c in data.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text += &format!("\\u{:04x}", c as u32),
            c => text.push(c),
        }
    }
    text + ";\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::script;

    #[test]
    fn no_text_ends_the_script() {
        let data = json!({ "a": "</script><!-- \u{2028}\u{2029} \"quoted\" & \\" });
        let text = script(&data);
        assert!(!text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']), "{text}");
        let json = text.split_once(" = ").unwrap().1.trim_end().trim_end_matches(';');
        assert_eq!(serde_json::from_str::<serde_json::Value>(json).unwrap(), data);
    }
}
