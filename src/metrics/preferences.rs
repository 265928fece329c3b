//! Table 2 of the paper: `metrics/paper/table2.toml`, compiled in. It compares pairs of methods, which no
//! other of its tables does.

use std::sync::LazyLock;

use serde::Deserialize;

/// The paper's preference study.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperStudy {
    /// Paper and table.
    pub source: String,
    /// Answers behind each number.
    pub answers: usize,
    #[serde(rename = "row")]
    rows: Vec<PaperPreference>,
}

/// How many of a hundred answers prefer a method to another, with half of the 95 % interval.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperPreference {
    /// `single` or `multi`.
    pub group: String,
    /// The paper's name of the method.
    pub label: String,
    /// That of the other one.
    pub other: String,
    /// Which follows the text better.
    pub text: [f64; 2],
    /// Which looks more like the targets.
    pub image: [f64; 2],
}

static STUDY: LazyLock<PaperStudy> = LazyLock::new(|| {
    toml::from_str(include_str!("../../metrics/paper/table2.toml")).expect("Table 2 can be read")
});

/// The paper's study.
pub fn paper_study() -> &'static PaperStudy {
    &STUDY
}

impl PaperStudy {
    /// What it found of two methods, by its names of them.
    pub fn of(&self, group: &str, label: &str, other: &str) -> Option<&PaperPreference> {
        self.rows.iter().find(|r| r.group == group && r.label == label && r.other == other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_2_is_the_papers() {
        let study = paper_study();
        assert_eq!((study.answers, study.rows.len()), (800, 9));
        let of = |label: &str, other: &str| study.of("multi", label, other).unwrap();
        assert_eq!(of("Ours (Joint)", "Textual Inversion").text, [86.65, 2.25]);
        assert_eq!(of("Ours (Optimization)", "Ours w/ fine-tune all").image, [53.49, 2.71]);
        assert_eq!(study.of("single", "Ours (Joint)", "DreamBooth"), None);
        // 800 answers leave an interval of at least this
        let binomial = |share: f64| 196.0 * (share * (1.0 - share) / 800.0).sqrt();
        for row in &study.rows {
            for [share, half] in [row.text, row.image] {
                assert!(half < binomial(0.5) && half > 0.5 * binomial(share / 100.0), "{row:?}");
            }
        }
    }
}
