//! A check as a JUnit file, which CI systems show test by test.

use std::fmt::Write as _;

use super::check::{Change, CheckOutcome};

/// One comparison, as a test.
struct Case {
    name: String,
    /// The element within, with what it says: `failure` or `error`, and its text.
    wrong: Option<(&'static str, String)>,
}

impl CheckOutcome {
    /// A test for each comparison and for each thing that is missing, in a suite called `name`: a failure
    /// where something is worse or missing, an error where nothing could be compared.
    pub fn junit(&self, name: &str) -> String {
        let case =
            |c: &Change, wrong| Case { name: format!("{}: {}", c.what, c.metric.name), wrong };
        let mut cases: Vec<Case> = vec![];
        if let Some([before, now]) = &self.protocols {
            let text = format!("the baseline has protocol {before}, the results have {now}");
            cases.push(Case { name: "protocol".into(), wrong: Some(("error", text)) });
        }
        cases.extend(self.regressions.iter().map(|c| case(c, Some(("failure", self.worse(c))))));
        cases.extend(self.missing.iter().map(|what| Case {
            name: what.clone(),
            wrong: Some(("failure", "it is in the baseline, and missing in the results".into())),
        }));
        cases.extend(self.improvements.iter().chain(&self.unchanged).map(|c| case(c, None)));
        suite(name, &cases)
    }

    fn worse(&self, c: &Change) -> String {
        let (scale, digits) = (c.metric.scale, c.metric.digits);
        let show = |v: f64| format!("{:.digits$}", scale * v);
        format!(
            "{} went from {} to {}; the difference lies within [{}, {}] at {:.2} % confidence",
            c.metric.column(),
            show(c.before),
            show(c.now),
            show(c.interval.0),
            show(c.interval.1),
            100.0 * self.confidence
        )
    }
}

/// The file of a check that did not come to compare anything, because of `error`.
pub fn junit_of_error(name: &str, error: &str) -> String {
    suite(name, &[Case { name: "run".into(), wrong: Some(("error", error.to_owned())) }])
}

fn suite(name: &str, cases: &[Case]) -> String {
    let wrong = |kind: &str| cases.iter().flat_map(|c| &c.wrong).filter(|w| w.0 == kind).count();
    let (failures, errors) = (wrong("failure"), wrong("error"));
    let name = escape(name);
    let counts = format!("tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\"", cases.len());
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites {counts}>\n<testsuite name=\"{name}\" {counts}>\n"
    );
    for case in cases {
        let _ = write!(out, "<testcase classname=\"{name}\" name=\"{}\"", escape(&case.name));
        let _ = match &case.wrong {
            None => writeln!(out, "/>"),
            Some((kind, text)) => {
                let text = escape(text);
                writeln!(out, "><{kind} message=\"{text}\">{text}</{kind}></testcase>")
            }
        };
    }
    out + "</testsuite>\n</testsuites>\n"
}

/// Text as XML 1.0 has it, in an attribute or between tags. Characters that no document may hold, escaped or
/// not, become the one that says so.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&apos;",
            // as they stand an attribute would make spaces of them
            '\t' | '\n' | '\r' => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_come_out_as_they_went_in() {
        let name = "</testcase>\"'&amp;<![CDATA[]]> \u{1}\u{7f}\u{fffe}\n\t\r Ünï😀 --><?x?>";
        let wanted = name.replace(['\u{1}', '\u{fffe}'], "\u{fffd}");
        let text =
            suite(name, &[Case { name: name.into(), wrong: Some(("failure", name.into())) }]);
        let document = roxmltree::Document::parse(&text).unwrap();
        let suite = document.descendants().find(|n| n.has_tag_name("testsuite")).unwrap();
        assert_eq!(suite.attribute("name"), Some(wanted.as_str()));
        let case = document.descendants().find(|n| n.has_tag_name("testcase")).unwrap();
        assert_eq!(case.attribute("name"), Some(wanted.as_str()));
        let failure = case.first_element_child().unwrap();
        assert_eq!(failure.attribute("message"), Some(wanted.as_str()));
        assert_eq!(failure.text(), Some(wanted.as_str()));
        assert_eq!(document.root_element().children().filter(|n| n.is_element()).count(), 1);
    }
}
