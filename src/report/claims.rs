//! What results say of the paper's claims.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::results::{Cell, CellValue, ImageRow, Results, SEED};
use crate::metrics::claims::{Claim, Comparison, Side};
use crate::metrics::verdict::{Tested, Verdict, judge};
use crate::metrics::{Metric, Nested, SetValue, Spread, paired, unpaired};
use crate::{Error, Result};

/// A claim with what was found of it.
pub struct Finding<'a> {
    /// The claim.
    pub claim: &'a Claim,
    /// The verdict, among those on all claims that were judged together.
    pub verdict: Verdict,
    /// The p-value of the verdict, corrected for those claims.
    pub p: Option<f64>,
    /// What is known of each of its comparisons.
    pub evidence: Vec<Evidence<'a>>,
}

/// A comparison with what was found of it.
pub struct Evidence<'a> {
    /// The comparison.
    pub comparison: &'a Comparison,
    /// The difference; none where the experiment was not run; an error where it was run without
    /// something that the comparison needs.
    pub measured: Option<Result<Measured>>,
}

/// A difference between two rows.
pub struct Measured {
    /// The difference, and how far it holds.
    pub spread: Spread,
    /// It held against what is claimed.
    pub tested: Tested,
    /// How it is shown.
    pub metric: Metric,
    /// What it stands on.
    pub counts: Counts,
}

/// What a difference stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Concept sets; where the sides have different ones, those of each.
    pub concept_sets: Vec<usize>,
    /// Training seeds.
    pub seeds: usize,
    /// The most prompts of a concept set.
    pub prompts: usize,
    /// Images of side `a`; 0 where it is not of images.
    pub images: usize,
}

/// Judges claims by the results of experiments, of which there may be one of a name.
pub fn findings<'a>(claims: &'a [Claim], results: &[&Results]) -> Vec<Finding<'a>> {
    let of = |name: &str| results.iter().find(|r| r.experiment == name);
    let evidence = |comparison: &'a Comparison| Evidence {
        comparison,
        measured: of(&comparison.experiment).map(|r| measure(r, comparison)),
    };
    let evidence: Vec<Vec<Evidence>> =
        claims.iter().map(|c| c.comparisons.iter().map(evidence).collect()).collect();
    let tested = |e: &Evidence| e.found().map(|m| m.tested);
    let tested: Vec<Vec<_>> = evidence.iter().map(|e| e.iter().map(tested).collect()).collect();
    let judged = claims.iter().zip(evidence).zip(judge(&tested));
    let finding = |((claim, evidence), judged): ((_, _), crate::metrics::verdict::Judged)| {
        Finding { claim, verdict: judged.verdict, p: judged.p, evidence }
    };
    judged.map(finding).collect()
}

impl Evidence<'_> {
    /// What was measured, where all was there.
    pub fn found(&self) -> Option<&Measured> {
        self.measured.as_ref().and_then(|m| m.as_ref().ok())
    }
}

/// The difference that a comparison is about.
fn measure(results: &Results, comparison: &Comparison) -> Result<Measured> {
    let in_group = |c: &&Cell| comparison.group.as_ref().is_none_or(|group| c.group == *group);
    let cells: Vec<&Cell> = results.cells.iter().filter(in_group).collect();
    let labels: BTreeSet<&str> = cells.iter().map(|c| c.label.as_str()).collect();
    let metrics: Vec<&str> = results.metrics.iter().map(|m| m.name.as_str()).collect();
    comparison.check(&labels.into_iter().collect::<Vec<_>>(), &metrics)?;

    let images = results.by_cell();
    let of = |side| Values::new(comparison, side, &cells, &images);
    let (a, b) = (of(&comparison.a), of(&comparison.b));
    let (spread, sets, tally) = match comparison.is_paired() {
        true => {
            let (trees, tally) = tree(a.pairs(&b));
            (paired(&trees, SEED), vec![trees], tally)
        }
        false => {
            let ((a, mut tally), (b, other)) = (tree(a.alone()), tree(b.alone()));
            tally.seeds.extend(other.seeds);
            tally.prompts = tally.prompts.max(other.prompts);
            (unpaired(&a, &b, SEED), vec![a, b], tally)
        }
    };
    let concept_sets: Vec<usize> = sets.iter().map(Nested::count).collect();
    if concept_sets.contains(&0) {
        let (a, b) = (&comparison.a.row, &comparison.b.row);
        return Err(Error::input(match comparison.is_paired() {
            true => format!("`{a}` and `{b}` have no concepts, seed and prompt in common"),
            false => format!("`{a}` or `{b}` has none of the concept sets that are compared"),
        }));
    }
    let (name, _) = comparison.metric_of(&comparison.a);
    let metric = results.metrics.iter().find(|m| m.name == name);
    Ok(Measured {
        spread,
        tested: comparison.direction.test(comparison.margin, &spread),
        metric: metric.expect("it was checked").clone(),
        counts: Counts {
            concept_sets,
            seeds: tally.seeds.len(),
            prompts: tally.prompts,
            images: tally.images,
        },
    })
}

/// The values of a side of a comparison.
struct Values<'a> {
    metric: &'a str,
    part: Option<usize>,
    cells: Vec<&'a Cell>,
    images: &'a HashMap<&'a str, Vec<&'a ImageRow>>,
}

/// A cell, or two of the same concepts and seed.
struct Unit<'a> {
    cell: &'a Cell,
    of: Nested,
    images: usize,
}

impl<'a> Values<'a> {
    fn new(
        comparison: &'a Comparison,
        side: &'a Side,
        cells: &[&'a Cell],
        images: &'a HashMap<&'a str, Vec<&'a ImageRow>>,
    ) -> Self {
        let (metric, part) = comparison.metric_of(side);
        let takes = |c: &&&Cell| {
            c.label == side.row && side.takes(&c.concepts) && c.values.contains_key(metric)
        };
        Values { metric, part, cells: cells.iter().filter(takes).copied().collect(), images }
    }

    /// By prompt and noise; nothing where the value is not one of the cell's own images.
    fn of_images(&self, cell: &Cell) -> BTreeMap<(usize, u64), f64> {
        let value = |i: &ImageRow| match self.part {
            None => i.value(self.metric),
            Some(part) => i.values.get(self.metric)?.get(part).copied(),
        };
        let images = self.images.get(cell.id.as_str()).into_iter().flatten();
        images.filter_map(|i| Some(((i.prompt, i.seed), value(i)?))).collect()
    }

    /// The value of a cell with its standard error, for what has no values of images.
    fn whole(
        &self,
        cell: &Cell,
        error: fn(&SetValue) -> Option<f64>,
    ) -> Option<(f64, Option<f64>, usize)> {
        match (cell.values.get(self.metric)?, self.part) {
            (CellValue::Set(set), None) => Some((set.value, error(set), set.n)),
            (CellValue::Set(_), Some(_)) => None,
            (CellValue::Mean { mean, parts }, part) => {
                let found = part.map_or(Some(mean), |i| parts.get(i))?;
                Some((found.mean, Some(found.se).filter(|se| se.is_finite()), found.n))
            }
        }
    }

    fn is_set(&self, cell: &Cell) -> bool {
        cell.values.get(self.metric).is_some_and(|v| v.set().is_some())
    }

    fn alone(&self) -> Vec<Unit<'a>> {
        let unit = |cell: &&'a Cell| {
            let values = self.of_images(cell);
            if !values.is_empty() {
                return Some(Unit { cell, images: values.len(), of: by_prompt(values) });
            }
            let (value, se, images) = self.whole(cell, |s| s.se)?;
            Some(Unit { cell, of: Nested::Value { value, se }, images })
        };
        self.cells.iter().filter_map(unit).collect()
    }

    /// The differences to another side, with the same concepts, seed, prompt and noise.
    fn pairs(&self, other: &Values) -> Vec<Unit<'a>> {
        // sets that are compared with the same others differ by their own noise alone
        let error = match self.metric == other.metric {
            true => |s: &SetValue| s.se_images,
            false => |s: &SetValue| s.se,
        };
        let unit = |cell: &&'a Cell| {
            let same = |o: &&&Cell| o.concepts == cell.concepts && o.seed == cell.seed;
            let twin = other.cells.iter().find(same)?;
            let (a, b) = (self.of_images(cell), other.of_images(twin));
            if !a.is_empty() && !b.is_empty() {
                let shared = a.into_iter().filter_map(|(at, v)| Some((at, v - b.get(&at)?)));
                let shared: BTreeMap<_, _> = shared.collect();
                let images = shared.len();
                return (images > 0).then(|| Unit { cell, of: by_prompt(shared), images });
            }
            let (a, b) = (self.whole(cell, error)?, other.whole(twin, error)?);
            // means of images that are not the cells' own: how much their errors share is not known
            let known = [self.is_set(cell), other.is_set(twin)] != [false; 2];
            let se = a.1.zip(b.1).filter(|_| known).map(|(a, b)| a.hypot(b));
            Some(Unit { cell, of: Nested::Value { value: a.0 - b.0, se }, images: a.2 })
        };
        self.cells.iter().filter_map(unit).collect()
    }
}

/// Values of images that count by their prompts.
fn by_prompt(values: BTreeMap<(usize, u64), f64>) -> Nested {
    let mut prompts = BTreeMap::<usize, Vec<f64>>::new();
    for ((prompt, _), value) in values {
        prompts.entry(prompt).or_default().push(value);
    }
    Nested::values(prompts.into_values().map(|v| v.iter().sum::<f64>() / v.len() as f64))
}

#[derive(Default)]
struct Tally {
    seeds: BTreeSet<u64>,
    prompts: usize,
    images: usize,
}

/// Concept sets with their seeds.
fn tree(units: Vec<Unit>) -> (Nested, Tally) {
    let mut tally = Tally::default();
    let mut sets = BTreeMap::<&[String], BTreeMap<u64, Nested>>::new();
    for Unit { cell, of, images } in units {
        tally.seeds.insert(cell.seed);
        tally.prompts = tally.prompts.max(of.count());
        tally.images += images;
        sets.entry(&cell.concepts).or_default().insert(cell.seed, of);
    }
    let sets = sets.into_values().map(|seeds| Nested::Of(seeds.into_values().collect()));
    (Nested::Of(sets.collect()), tally)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Registry;
    use crate::metrics::verdict::Direction;

    const IMAGE: &str = "image-alignment";

    /// A cell with two images of each of two prompts, whose alignments are `value` and more with every
    /// prompt, and 0.2 more with the second concept; and with a KID of `value`.
    fn add(results: &mut Results, label: &str, concepts: &[&str], seed: u64, value: f64) {
        let id = format!("{label} {concepts:?} {seed}");
        let kid =
            SetValue { value, se: Some(5.0), se_images: Some(0.3), n: 64, counts: BTreeMap::new() };
        let mut cell = Cell {
            id: id.clone(),
            group: if concepts.len() > 1 { "multi" } else { "single" }.into(),
            concepts: concepts.iter().map(|c| (*c).into()).collect(),
            label: label.into(),
            seed,
            values: [("kid".to_owned(), CellValue::Set(kid))].into(),
            ..Cell::default()
        };
        let image = |prompt: usize, noise: u64| {
            let value = value + 0.1 * prompt as f64;
            let parts = (0..concepts.len()).map(|i| value + 0.2 * i as f64).collect();
            let values = [(IMAGE.to_owned(), parts)].into();
            ImageRow { cell: id.clone(), prompt, seed: noise, values, ..ImageRow::default() }
        };
        let images: Vec<ImageRow> =
            [0, 1].into_iter().flat_map(|p| [0, 1].map(|noise| image(p, noise))).collect();
        cell.measure(&images.iter().collect::<Vec<_>>());
        results.cells.push(cell);
        results.images.extend(images);
    }

    fn empty() -> Results {
        let names = [IMAGE, "kid"].map(str::to_owned);
        let chosen = Registry::default().choose(Some(&names)).unwrap();
        Results {
            experiment: "e".into(),
            title: String::new(),
            scale: "default".into(),
            protocol: "p".into(),
            protocol_text: String::new(),
            evaluations: BTreeMap::new(),
            table: None,
            study: vec![],
            metrics: chosen.into_iter().map(|c| c.metric).collect(),
            cells: vec![],
            images: vec![],
            failed: vec![],
        }
    }

    fn side(row: &str) -> Side {
        Side { row: row.into(), metric: None, sets: None }
    }

    fn comparison(metric: &str, a: Side, b: Side) -> Comparison {
        let direction = Direction::More;
        let (experiment, metric) = ("e".into(), metric.into());
        Comparison { experiment, group: None, metric, a, b, direction, margin: 0.0 }
    }

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-9, "{found} where {wanted} is right");
    }

    /// Row A over B by 1 on x, 2 on y and 3 on z, with two seeds; A has a seed more, B a concept.
    fn two_rows() -> Results {
        let mut results = empty();
        for (concept, more) in [("x", 1.0), ("y", 2.0), ("z", 3.0)] {
            for seed in 0..2 {
                add(&mut results, "A", &[concept], seed, more + seed as f64);
                add(&mut results, "B", &[concept], seed, seed as f64);
            }
            add(&mut results, "A", &[concept], 2, 100.0);
        }
        add(&mut results, "B", &["w"], 0, 100.0);
        results
    }

    #[test]
    fn values_without_an_error_are_judged_by_the_spread_between_concepts() {
        let mut results = two_rows();
        for cell in &mut results.cells {
            let Some(CellValue::Set(set)) = cell.values.get_mut("kid") else { panic!() };
            (set.se, set.se_images, set.n) = (None, Some(0.0), 0);
        }
        let found = measure(&results, &comparison("kid", side("A"), side("B"))).unwrap();
        near(found.spread.se, (1.0f64 / 3.0).sqrt());
        assert_eq!((found.counts.concept_sets, found.counts.images), (vec![3], 0));
    }

    #[test]
    fn rows_are_compared_where_both_have_the_same() {
        let results = two_rows();
        let found = measure(&results, &comparison(IMAGE, side("A"), side("B"))).unwrap();
        near(found.spread.mean, 2.0);
        near(found.spread.se, (1.0f64 / 3.0).sqrt());
        assert_eq!(found.spread.freedom, 2.0);
        let counts = Counts { concept_sets: vec![3], seeds: 2, prompts: 2, images: 24 };
        assert_eq!(found.counts, counts);

        // a value of sets brings the error of its own images, since both see the same real ones
        let mut one = results.clone();
        one.cells.retain(|c| c.concepts == ["x"] && c.seed == 0);
        let kid = measure(&one, &comparison("kid", side("A"), side("B"))).unwrap();
        near(kid.spread.mean, 1.0);
        near(kid.spread.se, 0.3f64.hypot(0.3));
        assert!(!kid.spread.over_concepts && kid.tested.p.is_none());
        // and its whole error against something else
        let other = Side { metric: Some(IMAGE.into()), ..side("B") };
        let mixed = measure(&one, &comparison("kid", side("A"), other)).unwrap();
        assert!(mixed.spread.se >= 5.0, "{:?}", mixed.spread);
    }

    #[test]
    fn sets_of_their_own_are_not_paired() {
        let results = two_rows();
        let on = |row: &str, sets: &[&str]| Side {
            sets: Some(sets.iter().map(|s| vec![(*s).to_owned()]).collect()),
            ..side(row)
        };
        let unlike = comparison(IMAGE, on("A", &["x"]), on("A", &["y", "z"]));
        let found = measure(&results, &unlike).unwrap();
        // two of three seeds differ by the concept
        near(found.spread.mean, (1.0 - 2.5) * 2.0 / 3.0);
        assert_eq!((found.counts.concept_sets, found.spread.freedom), (vec![1, 2], 1.0));
        // the same sets on both sides are paired
        let same = comparison(IMAGE, on("A", &["x", "z"]), on("B", &["x", "z"]));
        let found = measure(&results, &same).unwrap();
        near(found.spread.mean, 2.0);
        assert_eq!(found.counts.concept_sets, [2]);
        let nowhere = comparison(IMAGE, on("A", &["x"]), on("B", &["q"]));
        let error = measure(&results, &nowhere).err().unwrap().to_string();
        assert!(error.contains("none of the concept sets"), "{error}");
    }

    #[test]
    fn a_concept_of_several_can_be_compared_alone() {
        let mut results = empty();
        for (pair, value) in [(["x", "y"], 0.0), (["y", "z"], 1.0)] {
            add(&mut results, "A", &pair, 0, value);
        }
        let second = Side { metric: Some(format!("{IMAGE}#2")), ..side("A") };
        let first = format!("{IMAGE}#1");
        let found = measure(&results, &comparison(&first, second.clone(), side("A"))).unwrap();
        near(found.spread.mean, 0.2);
        let third = Side { metric: Some(format!("{IMAGE}#3")), ..side("A") };
        assert!(measure(&results, &comparison(&first, third, side("A"))).is_err());
        let whole = measure(&results, &comparison(IMAGE, second, side("A"))).unwrap();
        near(whole.spread.mean, 0.1);
    }

    #[test]
    fn what_is_missing_is_told_from_what_was_never_run() {
        let results = two_rows();
        let of = |comparison: Comparison| Claim {
            number: 1,
            text: String::new(),
            place: String::new(),
            comparisons: vec![comparison],
        };
        let elsewhere =
            Comparison { experiment: "f".into(), ..comparison(IMAGE, side("A"), side("B")) };
        let multi =
            Comparison { group: Some("multi".into()), ..comparison(IMAGE, side("A"), side("B")) };
        let claims = [
            of(comparison(IMAGE, side("A"), side("B"))),
            of(elsewhere),
            of(multi),
            of(comparison("cmmd", side("A"), side("B"))),
        ];
        let found = findings(&claims, &[&results]);
        let verdicts: Vec<Verdict> = found.iter().map(|f| f.verdict).collect();
        let inconclusive = Verdict::Inconclusive;
        assert_eq!(verdicts, [inconclusive, Verdict::NotRun, Verdict::NotRun, Verdict::NotRun]);
        assert!(found[1].evidence[0].measured.is_none());
        let missing = |i: usize| match &found[i].evidence[0].measured {
            Some(Err(error)) => error.to_string(),
            _ => panic!("{i}"),
        };
        assert_eq!(missing(2), "`e` has no row `A`");
        assert_eq!(missing(3), "`e` has no metric `cmmd`");
    }
}
