//! Reads the fields of a type, with what stands above them, from its source: rustfmt has one way to write them.

use super::root;

/// A field or a variant.
pub struct Field {
    /// As files have it.
    pub name: String,
    /// Its type; empty for a bare variant.
    pub rust: String,
    /// What is said of it.
    pub doc: String,
    /// Other names that are understood.
    pub aliases: Vec<String>,
    /// Whether a file may leave it out.
    pub optional: bool,
}

/// The fields of a struct or the variants of an enum of a source file.
pub fn fields(file: &str, item: &str) -> Vec<Field> {
    let text = std::fs::read_to_string(root().join(file)).unwrap();
    let (mut lines, mut above) = (text.lines(), vec![]);
    let starts = ["struct", "enum"].map(|kind| format!("pub {kind} {item} {{"));
    loop {
        let line = lines.next().unwrap_or_else(|| panic!("{file}: no {item}"));
        match line {
            line if starts.iter().any(|start| line == start) => break,
            line if line.starts_with("#[") => above.push(line),
            line if line.starts_with("///") => {}
            _ => above.clear(),
        }
    }
    let all = above.concat();
    let default = all.contains("#[serde(default,") || all.contains("#[serde(default)]");
    let lower = all.contains("rename_all = \"lowercase\"");
    let (mut found, mut docs, mut attributes) = (vec![], vec![], String::new());
    for line in lines.take_while(|line| *line != "}").map(str::trim) {
        if let Some(doc) = line.strip_prefix("///") {
            docs.push(doc.trim());
        } else if line.starts_with("#[") {
            attributes += line;
        } else if let Some(code) = line.strip_suffix(',').filter(|code| !code.is_empty()) {
            let (name, rust) = match code.strip_prefix("pub ") {
                Some(field) => field.split_once(": ").unwrap(),
                None => code.trim_end_matches(')').split_once('(').unwrap_or((code, "")),
            };
            let name = match quoted(&attributes, "rename = ") {
                Some(renamed) => renamed,
                None if lower => name.to_lowercase(),
                None => snake(name),
            };
            if !attributes.contains("serde(skip)") {
                found.push(Field {
                    name,
                    rust: rust.to_owned(),
                    doc: plain(&docs.join(" ")),
                    aliases: quoted(&attributes, "alias = ").into_iter().collect(),
                    optional: default
                        || attributes.contains("default")
                        || rust.starts_with("Option"),
                });
            }
            docs.clear();
            attributes.clear();
        }
    }
    assert!(!found.is_empty(), "{file}: {item}");
    found
}

fn quoted(attributes: &str, key: &str) -> Option<String> {
    let rest = attributes.split_once(key)?.1;
    Some(rest.trim_start_matches('"').split('"').next()?.to_owned())
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.chars().enumerate() {
        if c.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// Without the brackets of links into the code, and as a table of Markdown has it.
fn plain(doc: &str) -> String {
    doc.replace("[`", "`").replace("`]", "`").replace('|', "\\|").replace('<', "&lt;")
}
