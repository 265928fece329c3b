//! Tables as Markdown.

use super::table::{Entry, Export, Mark, Number, Table, TableRow};

/// GitHub's Markdown.
pub struct Markdown;

impl Export for Markdown {
    fn extension(&self) -> &'static str {
        "md"
    }

    fn table(&self, table: &Table) -> String {
        let mut out = format!("**{}**\n\n|", escape(&table.caption));
        for name in [""].into_iter().chain(table.columns.iter().map(String::as_str)) {
            out += &format!(" {} |", escape(name));
        }
        out += &format!("\n|---|{}\n", "---:|".repeat(table.columns.len()));
        let blank = " |".repeat(table.columns.len());
        for section in &table.sections {
            if !section.title.is_empty() {
                out += &format!("| **{}** |{blank}\n", escape(&section.title));
            }
            section.rows.iter().for_each(|row| out += &line(row));
            if !section.anchors.is_empty() {
                out += &format!("| *anchors* |{blank}\n");
                section.anchors.iter().for_each(|row| out += &line(row));
            }
        }
        for note in &table.notes {
            out += &format!("\n{}\n", escape(note));
        }
        out
    }
}

fn line(row: &TableRow) -> String {
    let entries: String = row.entries.iter().map(|e| format!(" {} |", entry(e))).collect();
    format!("| {} |{entries}\n", escape(&row.label))
}

fn entry(entry: &Entry) -> String {
    match entry {
        Entry::Empty => "–".into(),
        Entry::Text(text) => escape(text),
        Entry::Number(number) => show(number),
    }
}

fn show(number: &Number) -> String {
    let (value, half) = number.parts();
    let value = value.replace('-', "−");
    let half = half.map(|h| format!(" ± {h}")).unwrap_or_default();
    let signs = number.signs();
    match number.mark {
        Mark::None => format!("{value}{half}{signs}"),
        Mark::Strong => format!("**{value}**{half}{signs}"),
        Mark::Tied => format!("*{value}*{half}{signs}"),
    }
}

/// Text that Markdown leaves as it is, also in a table.
pub fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '|' | '*' | '_' | '`' | '<' | '>' | '[' | ']' | '\\' | '#' | '~' => {
                out.extend(['\\', c])
            }
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
