//! The analysis as tables: first the paper's Table 2, then what it rests on.

use super::analysis::{Analysis, Comparison};
use super::answers::Question;
use super::preference::Share;
use crate::metrics::paper_study;
use crate::report::{Entry, Mark, Number, Section, Table, TableRow};

/// All tables.
pub fn tables(analysis: &Analysis) -> Vec<Table> {
    vec![table2(analysis), details(analysis), exclusions(analysis), agreement(analysis)]
}

/// Rows of the paper's table: a group and a label, with the label in the paper.
type Place<'a> = (&'a str, &'a str, Option<&'a str>);

fn table2(analysis: &Analysis) -> Table {
    let mut rows: Vec<Place> = vec![];
    let mut others: Vec<&str> = vec![];
    for Comparison { rows: r, .. } in &analysis.comparisons {
        let row = (r.group.as_str(), r.own.as_str(), r.paper_own.as_deref());
        if !rows.contains(&row) {
            rows.push(row);
        }
        if !others.contains(&r.other.as_str()) {
            others.push(&r.other);
        }
    }
    let columns = || others.iter().flat_map(|o| Question::ALL.map(|q| (*o, q)));
    let entries = |row: &Place, entry: fn(&Comparison) -> Entry| -> Vec<Entry> {
        let found = |(other, question)| {
            analysis.comparisons.iter().find(|c| {
                (c.rows.group.as_str(), c.rows.own.as_str()) == (row.0, row.1)
                    && c.rows.other == other
                    && c.question == question
            })
        };
        columns().map(|column| found(column).map_or(Entry::Empty, entry)).collect()
    };
    let mut sections: Vec<Section> = vec![];
    for row in &rows {
        let title = match row.0 {
            "single" => "Single concept",
            "multi" => "Several concepts",
            other => other,
        };
        if sections.last().is_none_or(|s| s.title != title) {
            sections.push(Section { title: title.to_owned(), rows: vec![], anchors: vec![] });
        }
        let section = sections.last_mut().expect("one was pushed");
        section.rows.push(TableRow { label: row.1.to_owned(), entries: entries(row, preference) });
        let papers = entries(row, paper);
        if papers.iter().any(|e| *e != Entry::Empty) {
            let label = format!("the paper's {}", row.2.unwrap_or(row.1));
            section.rows.push(TableRow { label, entries: papers });
        }
    }
    let mut notes = vec![
        "Of a hundred answers, how many prefer the row's image to the column's, ± half of the 95 % interval \
         (bootstrap of raters, and of answers within each). Bold: the interval excludes 50, and the exact \
         binomial test, corrected by Holm for all comparisons, is below 0.05."
            .to_owned(),
        format!(
            "Study {}, of {}, scale {}, protocol {}: {} raters with {} answers in all; {} raters are left \
             out, as is said below. The paper's: {}, {} answers each.",
            analysis.study,
            analysis.experiment,
            analysis.scale,
            analysis.protocol,
            analysis.raters,
            analysis.answers,
            analysis.excluded.len(),
            paper_study().source,
            paper_study().answers,
        ),
    ];
    notes.extend(analysis.notes.iter().cloned());
    Table {
        name: "table2",
        caption: "Human preference (%)".into(),
        columns: columns().map(|(other, q)| format!("{other}: {}", q.as_str())).collect(),
        sections,
        notes,
    }
    .with_signs_explained()
}

fn preference(of: &Comparison) -> Entry {
    let mark = if of.clear() { Mark::Strong } else { Mark::None };
    of.kept.map_or(Entry::Empty, |share| Entry::Number(Number { mark, ..percent(&share) }))
}

fn paper(of: &Comparison) -> Entry {
    of.paper.map_or(Entry::Empty, |[value, half]| {
        let interval = Some((value - half, value + half));
        Entry::Number(Number { interval, ..Number::new(value, 2) })
    })
}

fn percent(share: &Share) -> Number {
    let interval = share.interval.map(|(low, high)| (100.0 * low, 100.0 * high));
    Number { interval, ..Number::new(100.0 * share.share, 2) }
}

fn bare(value: f64, digits: usize) -> Entry {
    Entry::Number(Number::new(value, digits))
}

fn or_empty(value: Option<f64>, digits: usize) -> Entry {
    value.map_or(Entry::Empty, |v| bare(v, digits))
}

fn details(analysis: &Analysis) -> Table {
    let row = |c: &Comparison| {
        let share = c.kept;
        let percent = |v: Option<f64>| or_empty(v.map(|v| 100.0 * v), 2);
        let interval = share.and_then(|s| s.interval);
        let change = c.kept.zip(c.all).map(|(kept, all)| 100.0 * (kept.share - all.share));
        TableRow {
            label: label(c),
            entries: vec![
                or_empty(share.map(|s| s.answers as f64), 0),
                or_empty(share.map(|s| s.raters as f64), 0),
                percent(share.map(|s| s.share)),
                percent(interval.map(|i| i.0)),
                percent(interval.map(|i| i.1)),
                percent(share.map(|s| s.wilson.0)),
                percent(share.map(|s| s.wilson.1)),
                c.p.map_or(Entry::Empty, p_value),
                c.holm.map_or(Entry::Empty, p_value),
                percent(c.all.map(|s| s.share)),
                change.map_or(Entry::Empty, |d| {
                    Entry::Number(Number { signed: true, ..Number::new(d, 2) })
                }),
            ],
        }
    };
    let columns = [
        "answers",
        "raters",
        "%",
        "low",
        "high",
        "Wilson, low",
        "Wilson, high",
        "binomial p",
        "Holm p",
        "% of all raters",
        "change by exclusions",
    ];
    let rows = analysis.comparisons.iter().map(row).collect();
    Table {
        name: "comparisons",
        caption: "Comparisons, and what exclusions change".into(),
        columns: columns.map(str::to_owned).into(),
        sections: vec![Section { title: String::new(), rows, anchors: vec![] }],
        notes: vec![
            "Wilson's interval and the binomial test take all answers as independent; where raters differ, \
             the interval over raters (low, high) is the one to go by. Raters see the same prompts: none of \
             these says how other prompts or concepts would come out."
                .into(),
        ],
    }
}

fn p_value(p: f64) -> Entry {
    match p < 1e-4 {
        true => Entry::Text("< 0.0001".into()),
        false => bare(p, 4),
    }
}

fn label(c: &Comparison) -> String {
    let (own, other) = (&c.rows.own, &c.rows.other);
    format!("{}, {own} and {other}: {}", c.rows.group, c.question.as_str())
}

fn exclusions(analysis: &Analysis) -> Table {
    let reasons = analysis.reasons.iter();
    let rows = reasons.map(|(reason, count)| TableRow {
        label: (*reason).to_owned(),
        entries: vec![bare(*count as f64, 0)],
    });
    let rules = &analysis.rules;
    Table {
        name: "exclusions",
        caption: "Raters who are left out".into(),
        columns: vec!["raters".into()],
        sections: vec![Section { title: String::new(), rows: rows.collect(), anchors: vec![] }],
        notes: vec![format!(
            "{} of {} raters. A rater can have several reasons: less than {} of the catch trials' questions \
             right; a median time below {} ms; in one of the questions, shares of left and right that a rater \
             without a favourite side has with a probability below {}; answers with a wrong checksum or of \
             another rater's booklet.",
            analysis.excluded.len(),
            analysis.raters,
            rules.catch,
            rules.fastest_ms,
            rules.side / 2.0,
        )],
    }
}

fn agreement(analysis: &Analysis) -> Table {
    let share = |s: Option<Share>| s.map_or(Entry::Empty, |s| Entry::Number(percent(&s)));
    let each = |entry: &dyn Fn(&super::Agreement) -> Entry| -> Vec<Entry> {
        analysis.agreement.iter().map(entry).collect()
    };
    let mut rows = vec![
        TableRow { label: "Krippendorff's α".into(), entries: each(&|a| or_empty(a.alpha, 3)) },
        TableRow {
            label: "pairs that two or more raters saw".into(),
            entries: each(&|a| bare(a.pairs as f64, 0)),
        },
        TableRow { label: "the same on repeats (%)".into(), entries: each(&|a| share(a.repeats)) },
    ];
    rows.extend(analysis.metrics.iter().map(|metric| TableRow {
        label: format!("as {} (%)", metric.title),
        entries: each(&|a| share(a.metrics.get(&metric.name).copied().flatten())),
    }));
    Table {
        name: "agreement",
        caption: "Agreement of raters with each other, with themselves and with measures".into(),
        columns: Question::ALL.map(|q| q.as_str().to_owned()).into(),
        sections: vec![Section { title: String::new(), rows, anchors: vec![] }],
        notes: vec![
            "A measure agrees with an answer if the image that it gives the better value is the one that was \
             chosen: 50 is chance. Intervals as above."
                .into(),
        ],
    }
    .with_signs_explained()
}
