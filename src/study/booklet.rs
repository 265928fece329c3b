//! What each rater is asked, and in which order.

use std::collections::{HashSet, VecDeque};

use super::key::Side;
use crate::rng::Rng;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Pairs that there are.
    pub pairs: usize,
    /// Pairs of a booklet.
    pub per_rater: usize,
    /// Booklets.
    pub booklets: usize,
    /// Practice trials, the same for everybody.
    pub practice: usize,
    /// Catch trials that there are.
    pub catches: usize,
    /// Catch trials of a booklet.
    pub catch: usize,
    /// Repeats of a booklet.
    pub repeats: usize,
}

/// A trial by the number of what it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A practice trial, and the side of the better image.
    Practice(usize, Side),
    /// A pair, and the side of the own image.
    Pair(usize, Side),
    /// A pair again.
    Repeat(usize, Side),
    /// A catch trial, and the side of the right image.
    Catch(usize, Side),
}

/// Trials between a pair and its repeat, where there are so many.
const APART: usize = 8;

/// Deals all booklets. Pairs come from one deck after the other, so that none is in two booklets more than
/// another; the own image is as often on the left as on the right.
pub fn deal(counts: &Counts, rng: &mut Rng) -> Vec<Vec<Item>> {
    let mut deck: VecDeque<usize> = VecDeque::new();
    (0..counts.booklets).map(|_| one(counts, &mut deck, rng)).collect()
}

fn one(counts: &Counts, deck: &mut VecDeque<usize>, rng: &mut Rng) -> Vec<Item> {
    let pairs = draw(counts.pairs, counts.per_rater.min(counts.pairs), deck, rng);
    let mut items: Vec<Item> =
        pairs.iter().zip(sides(pairs.len(), rng)).map(|(&p, side)| Item::Pair(p, side)).collect();
    let mut catches: Vec<usize> = (0..counts.catches).collect();
    rng.shuffle(&mut catches);
    let catches = &catches[..counts.catch.min(counts.catches)];
    items.extend(catches.iter().zip(sides(catches.len(), rng)).map(|(&c, s)| Item::Catch(c, s)));
    rng.shuffle(&mut items);

    let first = |item: &Item| match item {
        Item::Pair(pair, side) => Some((*pair, *side)),
        _ => None,
    };
    let mut repeated: Vec<(usize, Side)> = items.iter().filter_map(first).collect();
    // those of the first half, so that there is room behind them
    repeated.truncate(repeated.len().div_ceil(2).max(counts.repeats));
    rng.shuffle(&mut repeated);
    repeated.truncate(counts.repeats);
    for (pair, side) in repeated {
        let seen = items.iter().position(|i| *i == Item::Pair(pair, side)).unwrap_or(0);
        let from = (seen + 1 + APART).min(items.len());
        let at = from + rng.below(items.len() + 1 - from);
        items.insert(at, Item::Repeat(pair, side.turned()));
    }
    let practice = sides(counts.practice, rng);
    practice.into_iter().enumerate().map(|(i, s)| Item::Practice(i, s)).chain(items).collect()
}

/// `count` different pairs, the next of the deck.
fn draw(of: usize, count: usize, deck: &mut VecDeque<usize>, rng: &mut Rng) -> Vec<usize> {
    let (mut chosen, mut seen, mut later) = (vec![], HashSet::new(), vec![]);
    while chosen.len() < count {
        if deck.is_empty() {
            let mut fresh: Vec<usize> = (0..of).collect();
            rng.shuffle(&mut fresh);
            deck.extend(fresh);
        }
        let Some(pair) = deck.pop_front() else { break };
        match seen.insert(pair) {
            true => chosen.push(pair),
            false => later.push(pair),
        }
    }
    later.into_iter().rev().for_each(|pair| deck.push_front(pair));
    chosen
}

/// Half of each, in a random order.
fn sides(count: usize, rng: &mut Rng) -> Vec<Side> {
    let odd = rng.below(2);
    let side = |i: usize| if (i + odd).is_multiple_of(2) { Side::Left } else { Side::Right };
    let mut sides: Vec<Side> = (0..count).map(side).collect();
    rng.shuffle(&mut sides);
    sides
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn booklets_are_balanced(
            pairs in 1usize..60, per_rater in 1usize..40, booklets in 1usize..12, catch in 0usize..6,
            repeats in 0usize..6, seed in 0u64..1000,
        ) {
            let counts =
                Counts { pairs, per_rater, booklets, practice: 2, catches: 6, catch, repeats };
            let dealt = deal(&counts, &mut Rng::new(seed, "test"));
            prop_assert_eq!(dealt.len(), booklets);
            let mut seen = vec![0usize; pairs];
            let shown = per_rater.min(pairs);
            for booklet in &dealt {
                let mut left = 0;
                let mut before = vec![];
                for (at, item) in booklet.iter().enumerate() {
                    match item {
                        Item::Practice(..) => prop_assert!(at < 2),
                        Item::Pair(pair, side) => {
                            prop_assert!(!before.contains(&(*pair, *side)));
                            before.push((*pair, *side));
                            seen[*pair] += 1;
                            left += usize::from(*side == Side::Left);
                        }
                        Item::Repeat(pair, side) => {
                            prop_assert!(before.contains(&(*pair, side.turned())));
                        }
                        Item::Catch(which, _) => prop_assert!(*which < 6),
                    }
                }
                prop_assert_eq!(before.len(), shown);
                prop_assert!(left == shown / 2 || left == shown.div_ceil(2));
                let of = |f: fn(&Item) -> bool| booklet.iter().filter(|i| f(i)).count();
                prop_assert_eq!(of(|i| matches!(i, Item::Catch(..))), catch);
                prop_assert_eq!(of(|i| matches!(i, Item::Repeat(..))), repeats.min(shown));
            }
            let (least, most) = (seen.iter().min().unwrap(), seen.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", seen);
        }
    }
}
