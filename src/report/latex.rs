//! Tables as LaTeX with booktabs, made smaller where they are wider than the text.

use super::table::{Entry, Export, Mark, Number, Table, TableRow};

/// `table` environments for `\input`; needs `\usepackage{booktabs,graphicx}`.
pub struct Latex;

impl Export for Latex {
    fn extension(&self) -> &'static str {
        "tex"
    }

    fn head(&self) -> &'static str {
        "% needs \\usepackage{booktabs,graphicx}\n"
    }

    fn table(&self, table: &Table) -> String {
        let width = table.columns.len();
        let columns = "r".repeat(width);
        let mut out = format!(
            "\\begin{{table}}\n\\centering\n\\small\n\\setlength{{\\tabcolsep}}{{4pt}}\n\\caption{{{}}}\n\
             \\label{{tab:{}}}\n\
             \\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n\
             \\begin{{tabular}}{{l{columns}}}\n\\toprule\n",
            escape(&table.caption),
            table.name
        );
        for name in &table.columns {
            out += &format!(" & {}", escape(name));
        }
        out += " \\\\\n";
        for section in &table.sections {
            out += "\\midrule\n";
            if !section.title.is_empty() {
                let title = escape(&section.title);
                out +=
                    &format!("\\multicolumn{{{}}}{{l}}{{\\textit{{{title}}}}} \\\\\n", width + 1);
            }
            section.rows.iter().for_each(|row| out += &line(row));
            if !section.anchors.is_empty() {
                out += &format!("\\cmidrule(l){{1-{}}}\n", width + 1);
                section.anchors.iter().for_each(|row| out += &line(row));
            }
        }
        out += "\\bottomrule\n\\end{tabular}}\n";
        for note in &table.notes {
            out += &format!(
                "\n\\smallskip\\parbox{{\\linewidth}}{{\\footnotesize {}}}\n",
                escape(note)
            );
        }
        out + "\\end{table}\n"
    }
}

fn line(row: &TableRow) -> String {
    let entries: String = row.entries.iter().map(|e| format!(" & {}", entry(e))).collect();
    // a bracket or star at a line's start would be taken for an argument of the \\ before
    let label = escape(&row.label);
    let guard = if label.starts_with(['[', '*']) { "{}" } else { "" };
    format!("{guard}{label}{entries} \\\\\n")
}

fn entry(entry: &Entry) -> String {
    match entry {
        Entry::Empty => "--".into(),
        Entry::Text(text) => escape(text),
        Entry::Number(number) => show(number),
    }
}

fn show(number: &Number) -> String {
    let (value, half) = number.parts();
    let value = match number.mark {
        Mark::None => value,
        Mark::Strong => format!("\\mathbf{{{value}}}"),
        Mark::Tied => format!("\\mathit{{{value}}}"),
    };
    let half = half.map(|h| format!(" \\pm {h}")).unwrap_or_default();
    let marks = match (number.is_flat(), number.partial) {
        (false, false) => "",
        (false, true) => "^\\dagger",
        (true, false) => "^\\ddagger",
        (true, true) => "^{\\ddagger\\dagger}",
    };
    format!("${value}{half}{marks}$")
}

/// Text in which nothing is a command, and signs that fonts may lack are LaTeX's own.
pub fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            '\\' => out += "\\textbackslash{}",
            '~' => out += "\\textasciitilde{}",
            '^' => out += "\\textasciicircum{}",
            '<' => out += "\\textless{}",
            '>' => out += "\\textgreater{}",
            '|' => out += "\\textbar{}",
            '"' => out += "''",
            '×' => out += "$\\times$",
            '±' => out += "$\\pm$",
            '·' => out += "$\\cdot$",
            '−' => out += "$-$",
            'Δ' => out += "$\\Delta$",
            '†' => out += "$\\dagger$",
            '‡' => out += "$\\ddagger$",
            'σ' => out += "$\\sigma$",
            '³' => out += "$^3$",
            '–' => out += "--",
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
