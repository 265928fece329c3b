//! A check as Markdown, for the page of a CI run.

use std::fmt::Write as _;

use super::check::{Change, CheckOutcome, Verdict};
use super::md::escape;

/// Comparisons that are shown of those that did not change.
const UNCHANGED: usize = 100;

impl CheckOutcome {
    /// What changed in a table, what did not folded away.
    pub fn summary(&self, title: &str) -> String {
        let verdict = match self.verdict() {
            Verdict::Passed => "✅ passed",
            Verdict::Failed => "❌ failed",
            Verdict::OtherProtocol => "⚠️ not comparable",
        };
        let mut out = format!("## {}: {verdict}\n\n", escape(title));
        if let Some([before, now]) = &self.protocols {
            let (before, now) = (escape(before), escape(now));
            let _ = writeln!(
                out,
                "The baseline has protocol {before}, the results have {now}. `cdbench check --update` writes a \
                 new baseline."
            );
            return out;
        }
        let _ = writeln!(
            out,
            "{} worse, {} better, {} unchanged, {} missing. Intervals are of the difference, at {:.2} %, so that \
             all of them together hold with 95 %.",
            self.regressions.len(),
            self.improvements.len(),
            self.unchanged.len(),
            self.missing.len(),
            100.0 * self.confidence
        );
        let changed = self.regressions.iter().map(|c| ("❌ worse", c));
        let changed: Vec<(&str, &Change)> =
            changed.chain(self.improvements.iter().map(|c| ("✅ better", c))).collect();
        if !changed.is_empty() {
            out += "\n";
            out += &table(&changed);
        }
        if !self.missing.is_empty() {
            out += "\nMissing, though the baseline has it:\n\n";
            self.missing.iter().for_each(|what| out += &format!("- {}\n", escape(what)));
        }
        if !self.added.is_empty() {
            out += "\nNew, and not in the baseline:\n\n";
            self.added.iter().for_each(|what| out += &format!("- {}\n", escape(what)));
        }
        let unchanged: Vec<(&str, &Change)> =
            self.unchanged.iter().take(UNCHANGED).map(|c| ("", c)).collect();
        if !unchanged.is_empty() {
            let left = self.unchanged.len() - unchanged.len();
            let more = if left > 0 { format!("\nAnd {left} more.\n") } else { String::new() };
            let _ = write!(
                out,
                "\n<details><summary>Unchanged</summary>\n\n{}{more}\n</details>\n",
                table(&unchanged)
            );
        }
        out
    }
}

fn table(changes: &[(&str, &Change)]) -> String {
    let mut out =
        "| | cell | metric | baseline | now | difference |\n|---|---|---|---:|---:|---|\n"
            .to_owned();
    for (word, c) in changes {
        let (scale, digits) = (c.metric.scale, c.metric.digits);
        let show = |v: f64| format!("{:.digits$}", scale * v);
        let _ = writeln!(
            out,
            "| {word} | {} | {} | {} | {} | {:+.digits$} [{}, {}] |",
            escape(&c.what),
            escape(&c.metric.column()),
            show(c.before),
            show(c.now),
            scale * c.difference(),
            show(c.interval.0),
            show(c.interval.1)
        );
    }
    out
}
