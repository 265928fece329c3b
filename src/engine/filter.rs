//! `--filter`: which cells run.

use std::collections::BTreeMap;

use super::cell::CellKind;
use crate::spec::GroupName;

/// Which cells run.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `method`, `label`, `concept`, `group` or `seed`, and the value wanted; all of them must agree,
    /// values of one key are alternatives.
    pub wanted: BTreeMap<String, Vec<String>>,
}

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        const KEYS: [&str; 5] = ["method", "label", "concept", "group", "seed"];
        let mut filter = Filter::default();
        for part in text.split(',') {
            let (key, value) =
                part.split_once('=').ok_or("use KEY=VALUE, such as method=custom-diffusion")?;
            if !KEYS.contains(&key.trim()) {
                return Err(format!("`{key}`: filter by one of {}", KEYS.join(", ")));
            }
            let values = filter.wanted.entry(key.trim().to_owned()).or_default();
            values.push(value.trim().to_owned());
        }
        Ok(filter)
    }
}

/// As `--filter` takes it.
impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let pairs = self
            .wanted
            .iter()
            .flat_map(|(key, values)| values.iter().map(move |value| format!("{key}={value}")));
        f.write_str(&pairs.collect::<Vec<_>>().join(","))
    }
}

impl Filter {
    /// Adds the conditions of another.
    pub fn and(&mut self, other: Filter) {
        for (key, values) in other.wanted {
            self.wanted.entry(key).or_default().extend(values);
        }
    }

    /// Whether a cell runs.
    pub(super) fn lets(&self, cell: &Named) -> bool {
        self.wanted.iter().all(|(key, values)| {
            values.iter().any(|v| match key.as_str() {
                "method" => v == cell.kind.as_str(),
                "label" => v == cell.label,
                "concept" => v == cell.subject || cell.concepts.contains(v),
                "group" => v == cell.group.as_str(),
                _ => *v == cell.seed.to_string(),
            })
        })
    }
}

/// What a filter looks at.
pub(super) struct Named<'a> {
    pub kind: &'a CellKind,
    pub label: &'a str,
    pub subject: &'a str,
    pub concepts: &'a [String],
    pub group: GroupName,
    pub seed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_agree_and_values_are_alternatives() {
        let concepts = ["dog_plum".to_owned()];
        let cell = |seed| Named {
            kind: &CellKind::Method("merge"),
            label: "ours",
            subject: "pair",
            concepts: &concepts,
            group: GroupName::Multi,
            seed,
        };
        let lets = |text: &str, seed| text.parse::<Filter>().unwrap().lets(&cell(seed));
        assert!(lets("method=merge,seed=1,seed=2", 2));
        assert!(!lets("method=merge,seed=1", 2));
        assert!(lets("concept=dog_plum", 0) && lets("concept=pair", 0));
        assert!(!lets("group=single", 0));
        assert!(Filter::default().lets(&cell(0)));
        let mut both: Filter = "seed=1".parse().unwrap();
        both.and("seed=2".parse().unwrap());
        assert!(both.lets(&cell(2)));
        assert_eq!(both.to_string(), "seed=1,seed=2");
        for bad in ["method", "colour=red"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
    }
}
