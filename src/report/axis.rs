//! The axis of a sweep.

use std::collections::BTreeMap;

/// Values whose largest is so many times the least stand on a logarithmic axis.
const LOGARITHMIC: f64 = 20.0;

/// Where the values of a key stand: numbers at their size, words one after the other.
pub struct Axis {
    /// Each value with its place, in order.
    pub ticks: Vec<(f64, String)>,
    places: BTreeMap<String, f64>,
}

impl Axis {
    /// Of the values of a sweep.
    pub fn new(values: impl Iterator<Item = String>) -> Self {
        let mut distinct: Vec<String> = vec![];
        for value in values {
            if !distinct.contains(&value) {
                distinct.push(value);
            }
        }
        let numbers: Option<Vec<f64>> = distinct.iter().map(|v| v.parse::<f64>().ok()).collect();
        let at: Vec<f64> = match numbers {
            Some(numbers) => {
                let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
                let most = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let far = least > 0.0 && most / least >= LOGARITHMIC;
                numbers.into_iter().map(|n| if far { n.ln() } else { n }).collect()
            }
            None => (0..distinct.len()).map(|i| i as f64).collect(),
        };
        let mut ticks: Vec<(f64, String)> = at.into_iter().zip(distinct).collect();
        ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
        let places = ticks.iter().map(|(at, value)| (value.clone(), *at)).collect();
        Axis { ticks, places }
    }

    /// Where a value stands.
    pub fn at(&self, value: &str) -> f64 {
        self.places.get(value).copied().unwrap_or(0.0)
    }

    /// Its ends, with some room.
    pub fn range(&self) -> (f64, f64) {
        let first = self.ticks.first().map_or(0.0, |t| t.0);
        let last = self.ticks.last().map_or(1.0, |t| t.0);
        let room = 0.05 * (last - first).max(1e-9);
        (first - room, last + room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(values: &[&str]) -> Vec<(f64, String)> {
        Axis::new(values.iter().map(|v| (*v).to_owned())).ticks
    }

    #[test]
    fn numbers_stand_at_their_size_and_words_in_a_row() {
        let even = ticks(&["200", "50", "100", "50"]);
        assert_eq!(even, [(50.0, "50".into()), (100.0, "100".into()), (200.0, "200".into())]);
        let far = ticks(&["1e-4", "1e-2"]);
        assert!((far[1].0 - far[0].0 - 100f64.ln()).abs() < 1e-9, "logarithmic: {far:?}");
        let words = ticks(&["rare", "normal"]);
        assert_eq!(words, [(0.0, "rare".into()), (1.0, "normal".into())]);
    }
}
