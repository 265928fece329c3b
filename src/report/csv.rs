//! Tables as CSV: the numbers in full, with the ends of their intervals.

use super::table::{Entry, Export, Table};

/// One table after the other, an empty line between them.
pub struct Csv;

impl Export for Csv {
    fn extension(&self) -> &'static str {
        "csv"
    }

    fn table(&self, table: &Table) -> String {
        let rows = || table.sections.iter().flat_map(|s| s.rows.iter().chain(&s.anchors));
        let spread = |i: usize| {
            rows().any(|r| matches!(&r.entries[i], Entry::Number(n) if n.interval.is_some()))
        };
        let spread: Vec<bool> = (0..table.columns.len()).map(spread).collect();
        let mut csv = csv::Writer::from_writer(vec![]);
        let mut record: Vec<String> =
            ["table", "section", "row", "anchor"].map(str::to_owned).into();
        for (name, spread) in table.columns.iter().zip(&spread) {
            record.push(name.clone());
            if *spread {
                record.extend([format!("{name}, low"), format!("{name}, high")]);
            }
        }
        csv.write_record(&record).expect("memory");
        for section in &table.sections {
            let methods = section.rows.iter().map(|r| (r, false));
            for (row, anchor) in methods.chain(section.anchors.iter().map(|r| (r, true))) {
                record = vec![
                    table.name.into(),
                    section.title.clone(),
                    row.label.clone(),
                    anchor.to_string(),
                ];
                for (entry, spread) in row.entries.iter().zip(&spread) {
                    let (value, interval) = match entry {
                        Entry::Empty => (String::new(), None),
                        Entry::Text(text) => (text.clone(), None),
                        Entry::Number(n) => (n.value.to_string(), n.interval),
                    };
                    record.push(value);
                    if *spread {
                        let end = |v: Option<f64>| v.map(|v| v.to_string()).unwrap_or_default();
                        record.extend([end(interval.map(|i| i.0)), end(interval.map(|i| i.1))]);
                    }
                }
                csv.write_record(&record).expect("as many fields as names");
            }
        }
        String::from_utf8(csv.into_inner().expect("memory")).expect("strings")
    }
}
