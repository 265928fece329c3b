//! `--shard`: cells dealt to runs that do an experiment together.

use std::collections::HashSet;

use super::plan::Plan;
use super::stage::{Stage, Work};

/// One of several runs that do an experiment together. Every cell is dealt to one of them; what the cells
/// of several need is done by whichever comes first, where they share a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    number: usize,
    of: usize,
}

/// More runs than this are taken for a mistake.
const MOST: usize = 10_000;

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, of) = text.split_once('/').ok_or("use I/N, such as 1/4")?;
        let whole = |text: &str| {
            text.trim()
                .parse::<usize>()
                .map_err(|_| format!("`{text}` is no whole number: use I/N"))
        };
        let (number, of) = (whole(number)?, whole(of)?);
        match number {
            _ if !(1..=MOST).contains(&of) => Err(format!("of 1 to {MOST} shards, not {of}")),
            _ if (1..=of).contains(&number) => Ok(Shard { number, of }),
            _ => Err(format!(
                "the shards of {of} are 1/{of} to {of}/{of}: there is no {number}/{of}"
            )),
        }
    }
}

impl Shard {
    /// Its number, from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// How many there are.
    pub fn of(&self) -> usize {
        self.of
    }

    /// Leaves of the plan the cells that are dealt to this shard.
    pub fn keep_own(&self, plan: &mut Plan) {
        let needs: Vec<Vec<usize>> =
            plan.cells.iter().map(|cell| needed(plan, cell.scores)).collect();
        let work: Vec<u64> = plan.stages.iter().map(passes).collect();
        let mut owners = deal(&needs, &work, self.of).into_iter();
        plan.cells.retain(|_| owners.next() == Some(self.number - 1));
    }
}

/// The owner of each item, of which some share what they need: the largest first, each to whom it leaves
/// with the least to do. It depends on the plan alone, so that all shards deal the same.
fn deal(needs: &[Vec<usize>], work: &[u64], owners: usize) -> Vec<usize> {
    let all = |needs: &[usize]| needs.iter().map(|&at| work[at]).sum::<u64>();
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|&item| std::cmp::Reverse(all(&needs[item])));
    let mut has = vec![(0, HashSet::new()); owners];
    let mut dealt = vec![0; needs.len()];
    for item in order {
        let more = |own: &HashSet<usize>| -> u64 {
            needs[item].iter().filter(|at| !own.contains(at)).map(|&at| work[at]).sum()
        };
        let after = |owner: usize| {
            let (load, own): &(u64, HashSet<usize>) = &has[owner];
            (load + more(own), more(own))
        };
        let owner = (0..owners).min_by_key(|&owner| after(owner)).unwrap_or(0);
        has[owner].0 = after(owner).0;
        has[owner].1.extend(&needs[item]);
        dealt[item] = owner;
    }
    dealt
}

/// A stage and all that it needs.
fn needed(plan: &Plan, at: usize) -> Vec<usize> {
    let (mut open, mut seen) = (vec![at], HashSet::new());
    while let Some(at) = open.pop() {
        if seen.insert(at) {
            open.extend(&plan.stages[at].inputs);
        }
    }
    seen.into_iter().collect()
}

/// About how much work a stage is, in passes through the network; what has none counts as one.
fn passes(stage: &Stage) -> u64 {
    /// Forward, and backward for twice as long.
    const OF_STEP: u64 = 3;
    /// With the prompt, and without.
    const OF_DENOISING: u64 = 2;
    match &stage.work {
        Work::Train { settings, .. } => OF_STEP * settings.steps * settings.batch as u64,
        Work::TrainBy(told) => OF_STEP * told.external.steps.max(1),
        Work::Sample { images, sampling, .. } => {
            OF_DENOISING * (images.count() * sampling.steps) as u64
        }
        Work::Attend { list, sampling, .. } => OF_DENOISING * (list.len() * sampling.steps) as u64,
        Work::Retrieve { .. }
        | Work::Spread { .. }
        | Work::Merge { .. }
        | Work::State { .. }
        | Work::Compress { .. }
        | Work::Take(_)
        | Work::Render { .. }
        | Work::Score(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_that_are_not_there_are_refused() {
        let shard: Shard = "2/4".parse().unwrap();
        assert_eq!((shard.number(), shard.of()), (2, 4));
        for (text, wanted) in [
            ("5/4", "1/4 to 4/4"),
            ("0/4", "1/4 to 4/4"),
            ("1/0", "not 0"),
            ("3", "I/N"),
            ("a/b", "whole number"),
            ("-1/4", "whole number"),
        ] {
            let error = text.parse::<Shard>().unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn what_items_share_keeps_them_together_and_the_work_is_even() {
        // two items of each of four trainings, and one that is nearly nothing
        let work = [100, 100, 100, 100, 1];
        let needs: Vec<Vec<usize>> =
            [0, 1, 2, 3, 0, 1, 2, 3, 4].into_iter().map(|at| vec![at]).collect();
        let dealt = deal(&needs, &work, 2);
        let of = |owner| (0..4).filter(|&item| dealt[item] == owner).count();
        assert_eq!((of(0), of(1)), (2, 2));
        assert!((0..4).all(|item| dealt[item] == dealt[item + 4]), "{dealt:?}");
        // more owners than work: some have none
        assert!(deal(&needs, &work, 20).iter().all(|&owner| owner < 20));
    }
}
