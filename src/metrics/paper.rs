//! The paper's numbers: `metrics/paper/*.toml`, compiled in.

use std::sync::LazyLock;

use serde::Deserialize;

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
    /// Text alignment.
    pub text: Option<f64>,
    /// Image alignment; for a pair the mean over both.
    pub image: Option<f64>,
    /// Image alignment with each concept of a pair, where printed.
    pub image_each: Vec<f64>,
    /// KID ×10³.
    pub kid: Option<f64>,
    /// Image alignment by DINO.
    pub dino: Option<f64>,
}

impl PaperTable {
    /// The mean row of a label.
    pub fn row(&self, group: &str, label: &str) -> Option<&PaperRow> {
        self.rows.iter().find(|r| r.group == group && r.label == label && r.concept.is_none())
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
    text: Option<Values>,
    image: Option<Values>,
    image1: Option<Values>,
    image2: Option<Values>,
    kid: Option<Values>,
    dino: Option<Values>,
    mean_text: Option<f64>,
    mean_image: Option<f64>,
    mean_image1: Option<f64>,
    mean_image2: Option<f64>,
    mean_kid: Option<f64>,
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
        let pick = |values: &Option<Values>, mean: Option<f64>| match (values, concept) {
            (Some(Values::Each(v)), Some((i, _))) => v.get(i).copied(),
            (Some(Values::Mean(v)), None) => Some(*v),
            _ => mean.filter(|_| concept.is_none()),
        };
        let images = [pick(&self.image1, self.mean_image1), pick(&self.image2, self.mean_image2)];
        let image_each: Vec<f64> = images.into_iter().flatten().collect();
        let of_pair = (image_each.len() == 2).then(|| (image_each[0] + image_each[1]) / 2.0);
        PaperRow {
            group: self.group.clone(),
            label: self.label.clone(),
            concept: concept.map(|(_, c)| c.clone()),
            text: pick(&self.text, self.mean_text),
            image: pick(&self.image, self.mean_image).or(of_pair),
            image_each,
            kid: pick(&self.kid, self.mean_kid),
            dino: pick(&self.dino, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_1_is_the_papers() {
        let table = table("table1").unwrap();
        assert!(table.source.contains("Table 1"));
        let labels: Vec<_> = table.rows.iter().map(|r| (r.group.as_str(), &*r.label)).collect();
        assert_eq!(labels[0], ("single", "Textual Inversion"));
        assert_eq!(labels[9], ("multi", "Ours (Joint)"));
        let ours = table.row("single", "Ours").unwrap();
        assert_eq!((ours.text, ours.image, ours.kid), (Some(0.795), Some(0.775), Some(20.96)));
        assert_eq!(table.row("multi", "Ours (Joint)").unwrap().kid, None);
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
                let of = |pick: fn(&PaperRow) -> Option<f64>, skip: usize| {
                    let rows = table.rows.iter().filter(|r| r.label == mean.label);
                    let all: Vec<_> =
                        rows.filter(|r| r.concept.is_some()).filter_map(pick).collect();
                    let all = &all[skip.min(all.len())..];
                    all.iter().sum::<f64>() / all.len() as f64
                };
                let skip = usize::from(*name == "table7");
                // the paper cuts some means off where others would round
                let near = |found: f64, printed: Option<f64>, within: f64| {
                    let printed = printed.unwrap();
                    assert!((found - printed).abs() < within, "{name} {}: {found}", mean.label);
                };
                near(of(|r| r.text, skip), mean.text, 1.1e-3);
                near(of(|r| r.image, skip), mean.image, 1.1e-3);
                if *name == "table7" {
                    near(of(|r| r.kid, 0), mean.kid, 1.1e-2);
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
                let near = |a: Option<f64>, b: Option<f64>| (a.unwrap() - b.unwrap()).abs() < 2e-3;
                assert!(near(row.text, other.text) && near(row.image, other.image), "{row:?}");
                assert_eq!(row.kid, other.kid);
            }
        }
    }

    #[test]
    fn all_tables_can_be_read() {
        for (name, table) in TABLES.iter() {
            assert!(!table.rows.is_empty(), "{name}");
            assert!(table.rows.iter().all(|r| r.text.is_some() && r.image.is_some()), "{name}");
        }
    }
}
