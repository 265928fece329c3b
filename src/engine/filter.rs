//! `--filter`: which cells run.

use std::collections::BTreeMap;

use super::cell::CellKind;
use crate::error::nearest;
use crate::spec::GroupName;
use crate::{Error, Result};

/// Which cells run.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `method`, `label`, `concept`, `group`, `seed` or a key of a sweep, and the value wanted; all of them
    /// must agree, values of one key are alternatives.
    pub wanted: BTreeMap<String, Vec<String>>,
}

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut filter = Filter::default();
        for part in text.split(',') {
            let (key, value) =
                part.split_once('=').ok_or("use KEY=VALUE, such as method=custom-diffusion")?;
            let values = filter.wanted.entry(key.trim().to_owned()).or_default();
            values.push(value.trim().to_owned());
        }
        Ok(filter)
    }
}

/// What every cell has.
const KEYS: [&str; 5] = ["method", "label", "concept", "group", "seed"];

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

    /// Whether its keys are those of cells or among `swept`.
    ///
    /// # Errors
    /// The key that is not, with those that come nearest.
    pub(super) fn check<'a>(&self, swept: impl Iterator<Item = &'a String>) -> Result<()> {
        let known: Vec<&str> = KEYS.into_iter().chain(swept.map(String::as_str)).collect();
        match self.wanted.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(Error::input_hint(
                format!("--filter {key}=…: no cell has a `{key}`"),
                nearest(key, known),
            )),
        }
    }

    /// Whether a cell runs.
    pub(super) fn lets(&self, cell: &Named) -> bool {
        self.wanted.iter().all(|(key, values)| {
            values.iter().any(|v| match key.as_str() {
                "method" => v == cell.kind.as_str(),
                "label" => v == cell.label || Some(v.as_str()) == cell.series,
                "concept" => v == cell.subject || cell.concepts.contains(v),
                "group" => v == cell.group.as_str(),
                "seed" => *v == cell.seed.to_string(),
                key => cell.place.and_then(|p| p.get(key)).is_some_and(|found| same(found, v)),
            })
        })
    }
}

/// Whether two values of a sweep are one: `4` is `4.0`.
fn same(a: &str, b: &str) -> bool {
    a == b || matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(a), Ok(b)) if a == b)
}

/// What a filter looks at.
pub(super) struct Named<'a> {
    pub kind: &'a CellKind,
    pub label: &'a str,
    pub series: Option<&'a str>,
    pub place: Option<&'a BTreeMap<String, String>>,
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
        let place = BTreeMap::from([("lr".to_owned(), "0.5".to_owned())]);
        let cell = |seed| Named {
            kind: &CellKind::Method("merge"),
            label: "ours, lr = 0.5",
            series: Some("ours"),
            place: Some(&place),
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
        assert!(lets("label=ours", 0) && lets("lr=0.50", 0) && !lets("lr=1", 0));
        let check = |text: &str| text.parse::<Filter>().unwrap().check(place.keys());
        assert!(check("lr=1,seed=1").is_ok());
        assert!(check("colour=red").unwrap_err().to_string().contains("colour"));
        assert!(Filter::default().lets(&cell(0)));
        let mut both: Filter = "seed=1".parse().unwrap();
        both.and("seed=2".parse().unwrap());
        assert!(both.lets(&cell(2)));
        assert_eq!(both.to_string(), "seed=1,seed=2");
        assert!("method".parse::<Filter>().is_err());
    }
}
