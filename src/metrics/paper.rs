//! The paper's numbers: `metrics/paper/*.toml`, compiled in.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::Metric;
use crate::{Error, Result};

/// A table of the paper.
#[derive(Clone, Debug, PartialEq)]
pub struct PaperTable {
    /// Paper and table.
    pub source: String,
    /// The concepts or pairs, where the table has values for each.
    pub concepts: Vec<String>,
    /// Its rows in its order; where there are concepts, those of a label follow each other and end
    /// with the mean.
    pub rows: Vec<PaperRow>,
}

/// A row of a table of the paper.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PaperRow {
    /// `single` or `multi`.
    pub group: String,
    /// The paper's name of the method or ablation.
    pub label: String,
    /// Concept or pair; none for the mean over them.
    pub concept: Option<String>,
    /// Its values as they are printed, by the names of metrics; `image-alignment#1` is with the first
    /// concept of a pair.
    pub values: BTreeMap<String, f64>,
}

/// A column of the paper beside one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// The name of the paper's metric.
    pub key: String,
    /// The extractor of its features, where it is not ours.
    pub other: Option<String>,
}

impl PaperTable {
    /// The mean row of a label.
    pub fn row(&self, group: &str, label: &str) -> Option<&PaperRow> {
        self.rows.iter().find(|r| r.group == group && r.label == label && r.concept.is_none())
    }

    /// The paper's column for a metric: the same, or the same measure of features that the paper
    /// names, which are another space than ours.
    pub fn beside(&self, metric: &Metric) -> Option<Beside> {
        let mut keys = self.rows.iter().flat_map(|r| r.values.keys());
        if keys.clone().any(|key| *key == metric.name) {
            return Some(Beside { key: metric.name.clone(), other: None });
        }
        keys.find_map(|key| {
            let (measure, extractor) = key.split_once('@')?;
            let other = Some(extractor.to_owned());
            (measure == metric.measure).then(|| Beside { key: key.clone(), other })
        })
    }
}

/// The table called `name`, such as `table1`.
///
/// # Errors
/// No such table.
pub fn table(name: &str) -> Result<&'static PaperTable> {
    TABLES.iter().find(|(n, _)| *n == name).map(|(_, table)| table).ok_or_else(|| {
        let names: Vec<_> = TABLES.iter().map(|(n, _)| *n).collect();
        let message = format!("the paper's numbers have no table {name:?}");
        Error::input_hint(message, format!("there are {}", names.join(", ")))
    })
}

static TABLES: LazyLock<Vec<(&str, PaperTable)>> = LazyLock::new(|| {
    macro_rules! tables {
        ($($name:literal)*) => {
            vec![$(($name, parse(include_str!(concat!("../../metrics/paper/", $name, ".toml"))))),*]
        };
    }
    tables!("table1" "table3" "table4" "table5" "table7" "table8")
});

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    source: String,
    #[serde(default)]
    concepts: Vec<String>,
    row: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    group: String,
    label: String,
    /// By the names of metrics.
    values: BTreeMap<String, Values>,
    /// The means that are printed beside values of each concept.
    #[serde(default)]
    mean: BTreeMap<String, f64>,
}

/// One value, or one for each concept.
#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    Mean(f64),
    Each(Vec<f64>),
}

/// The files are part of the program: a test reads them all.
fn parse(text: &str) -> PaperTable {
    let file: File = toml::from_str(text).expect("the paper's tables can be read");
    let rows = file.row.iter().flat_map(|row| row.flat(&file.concepts)).collect();
    PaperTable { source: file.source, concepts: file.concepts, rows }
}

impl Row {
    fn flat(&self, concepts: &[String]) -> Vec<PaperRow> {
        let each = concepts.iter().enumerate().map(|(i, c)| self.at(Some((i, c))));
        each.chain([self.at(None)]).collect()
    }

    /// The values of a concept, or the means.
    fn at(&self, concept: Option<(usize, &String)>) -> PaperRow {
        let mut values = BTreeMap::new();
        for (key, value) in &self.values {
            let value = match (value, concept) {
                (Values::Each(v), Some((i, _))) => v.get(i).copied(),
                (Values::Mean(v), None) => Some(*v),
                _ => self.mean.get(key).copied().filter(|_| concept.is_none()),
            };
            values.extend(value.map(|v| (key.clone(), v)));
        }
        // what is printed for the first and for the second concept of a pair, as one value
        let parts: Vec<String> =
            values.keys().filter_map(|k| k.strip_suffix("#1").map(str::to_owned)).collect();
        for name in parts {
            let of = |i: usize| values.get(&format!("{name}#{i}")).copied();
            if let (Some(a), Some(b)) = (of(1), of(2)) {
                values.insert(name, (a + b) / 2.0);
            }
        }
        PaperRow {
            group: self.group.clone(),
            label: self.label.clone(),
            concept: concept.map(|(_, c)| c.clone()),
            values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Registry;

    const TEXT: &str = "text-alignment";
    const IMAGE: &str = "image-alignment";
    const KID: &str = "kid@inception";

    #[test]
    fn a_column_of_other_features_says_so() {
        let names = [IMAGE, "image-alignment@dino", "kid", KID].map(str::to_owned);
        let chosen = Registry::default().choose(Some(&names)).unwrap();
        let of = |table: &str, i: usize| super::table(table).unwrap().beside(&chosen[i].metric);
        let beside = |key: &str, other: Option<&str>| {
            Some(Beside { key: key.into(), other: other.map(str::to_owned) })
        };
        assert_eq!(of("table1", 0), beside(IMAGE, None));
        assert_eq!(of("table1", 1), None, "the paper's CLIP is no DINO");
        assert_eq!(of("table1", 2), beside(KID, Some("inception")));
        assert_eq!(of("table1", 3), beside(KID, None));
        assert_eq!(of("table4", 1), beside("image-alignment@dino", None));
    }

    #[test]
    fn table_1_is_the_papers() {
        let table = table("table1").unwrap();
        assert!(table.source.contains("Table 1"));
        let labels: Vec<_> = table.rows.iter().map(|r| (r.group.as_str(), &*r.label)).collect();
        assert_eq!(labels[0], ("single", "Textual Inversion"));
        assert_eq!(labels[9], ("multi", "Ours (Joint)"));
        let ours = &table.row("single", "Ours").unwrap().values;
        assert_eq!([ours[TEXT], ours[IMAGE], ours[KID]], [0.795, 0.775, 20.96]);
        assert!(!table.row("multi", "Ours (Joint)").unwrap().values.contains_key(KID));
        assert_eq!(table.row("multi", "Ours"), None);
    }

    #[test]
    fn an_unknown_table_names_those_there_are() {
        let error = super::table("table9").unwrap_err();
        assert!(error.hint().unwrap().contains("table7"));
    }

    #[test]
    fn values_of_concepts_give_the_printed_means() {
        // the alignments' means of Table 7 leave moongate out
        for (name, table) in TABLES.iter().filter(|(_, t)| !t.concepts.is_empty()) {
            for mean in table.rows.iter().filter(|r| r.concept.is_none()) {
                let of = |key: &str, skip: usize| {
                    let rows = table.rows.iter().filter(|r| r.label == mean.label);
                    let all: Vec<_> =
                        rows.filter(|r| r.concept.is_some()).map(|r| r.values[key]).collect();
                    let all = &all[skip.min(all.len())..];
                    all.iter().sum::<f64>() / all.len() as f64
                };
                let skip = usize::from(*name == "table7");
                // the paper cuts some means off where others would round
                let near = |key: &str, skip: usize, within: f64| {
                    let (found, printed) = (of(key, skip), mean.values[key]);
                    assert!((found - printed).abs() < within, "{name} {}: {found}", mean.label);
                };
                near(TEXT, skip, 1.1e-3);
                near(IMAGE, skip, 1.1e-3);
                if *name == "table7" {
                    near(KID, 0, 1.1e-2);
                }
            }
        }
    }

    #[test]
    fn means_of_tables_agree() {
        for (group, each) in [("single", "table7"), ("multi", "table8")] {
            let (one, each) = (table("table1").unwrap(), table(each).unwrap());
            for row in one.rows.iter().filter(|r| r.group == group) {
                let other = each.row(group, &row.label).unwrap();
                let near = |key: &str| (row.values[key] - other.values[key]).abs() < 2e-3;
                assert!(near(TEXT) && near(IMAGE), "{row:?}");
                assert_eq!(row.values.get(KID), other.values.get(KID));
            }
        }
    }

    #[test]
    fn all_tables_can_be_read() {
        for (name, table) in TABLES.iter() {
            assert!(!table.rows.is_empty(), "{name}");
            let has = |r: &PaperRow, key: &str| r.values.contains_key(key);
            assert!(table.rows.iter().all(|r| has(r, TEXT) && has(r, IMAGE)), "{name}");
        }
    }
}
