//! Which items judge which: deterministic folds made of blocks of consecutive items.
//!
//! Consecutive items are often near-duplicates (overlapping windows, the same object seen twice), so they stay on one side. A block ends
//! after `block` items, but never between two items closer in time than `glue`. Blocks are dealt to the folds in rounds: each round of k
//! blocks visits every fold once, in an order shuffled by the seed and the round. Blocks and their folds depend only on items up to
//! the block's end, so appending items changes nothing that was decided before (while there are at least k blocks).

use crate::error::{Error, Result};
use crate::stats::random::{keyed_rng, shuffle};

/// Options of [`Folds::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitOptions {
    /// Folds wanted.
    pub folds: u32,
    /// Items in a block.
    pub block: usize,
    /// Items closer in time than this (in the unit of the times) share a block, however long it gets. 0 looks at no time.
    pub glue: u64,
    /// Items next to a judged block, on either side, that do not teach its judge's model.
    pub embargo_items: usize,
    /// Likewise items closer in time than this to a judged one.
    pub embargo_time: u64,
    /// Seed of the dealing.
    pub seed: u64,
}

impl Default for SplitOptions {
    fn default() -> SplitOptions {
        SplitOptions { folds: 5, block: 4, glue: 0, embargo_items: 1, embargo_time: 0, seed: 0 }
    }
}

/// A split of items into folds. Every item is judged in exactly one fold, by a model that was not taught with it or its neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folds {
    folds: u32,
    block: Vec<u32>,
    fold: Vec<u32>,
    times: Vec<u64>,
    embargo_items: usize,
    embargo_time: u64,
}

impl Folds {
    /// Splits items with the given times (any unit, not falling). With fewer blocks than folds there are as many folds as blocks.
    ///
    /// # Errors
    /// When times fall, an option is 0, or there is but one block.
    pub fn new(times: &[u64], options: &SplitOptions) -> Result<Folds> {
        if options.folds < 2 || options.block == 0 {
            return Err(Error::usage("a split needs at least 2 folds and blocks of at least 1 item"));
        }
        if u32::try_from(times.len()).is_err() || times.windows(2).any(|w| matches!(w, [a, b] if a > b)) {
            return Err(Error::internal("the items of a split are not in the order of their times"));
        }
        let mut block = Vec::with_capacity(times.len());
        let (mut current, mut size, mut before) = (0u32, 0usize, None::<u64>);
        for &time in times {
            let glued = before.is_some_and(|b| time - b < options.glue);
            if size >= options.block && !glued {
                current += 1;
                size = 0;
            }
            block.push(current);
            size += 1;
            before = Some(time);
        }
        let blocks = if times.is_empty() { 0 } else { current + 1 };
        if blocks < 2 {
            return Err(Error::bad_data(format!(
                "{} items in one block cannot be split into training and validation",
                times.len()
            ))
            .hint("give feedback at more than one moment"));
        }
        let folds = options.folds.min(blocks);
        let mut dealt: Vec<u32> = Vec::with_capacity(blocks as usize);
        for round in 0..u64::from(blocks.div_ceil(folds)) {
            let mut order: Vec<u32> = (0..folds).collect();
            shuffle(&mut order, keyed_rng(options.seed, SPLIT_STREAM, round));
            dealt.extend(order);
        }
        let fold = block.iter().map(|&b| dealt.get(b as usize).copied().unwrap_or(0)).collect();
        Ok(Folds {
            folds,
            block,
            fold,
            times: times.to_vec(),
            embargo_items: options.embargo_items,
            embargo_time: options.embargo_time,
        })
    }

    /// Number of folds.
    pub fn folds(&self) -> u32 {
        self.folds
    }
    /// Fold in which each item is judged.
    pub fn fold_of(&self) -> &[u32] {
        &self.fold
    }
    /// Block of each item, from 0 in order of time.
    pub fn block_of(&self) -> &[u32] {
        &self.block
    }
    /// Items judged in fold `fold`, ascending.
    pub fn validation(&self, fold: u32) -> Vec<usize> {
        (0..self.fold.len()).filter(|&i| self.fold.get(i) == Some(&fold)).collect()
    }
    /// Items that teach the model judged in fold `fold`: all others but those under embargo, ascending.
    pub fn training(&self, fold: u32) -> Vec<usize> {
        let judges = self.validation(fold);
        let near = |item: usize| {
            let at = judges.partition_point(|&j| j < item);
            let time = self.times.get(item).copied().unwrap_or(0);
            [at.checked_sub(1).and_then(|b| judges.get(b)), judges.get(at)].into_iter().flatten().any(|&j| {
                j.abs_diff(item) <= self.embargo_items
                    || self.times.get(j).copied().unwrap_or(0).abs_diff(time) < self.embargo_time
            })
        };
        (0..self.fold.len()).filter(|&i| !near(i) && self.fold.get(i) != Some(&fold)).collect()
    }
}

/// A single split: (training items, validation items), both ascending. About a share `validation` of the items are for validation; it is rounded to
/// one block in every `round(1/guard)`, at a place shuffled by the seed.
///
/// # Errors
/// As [`Folds::new`]; a share outside (0, 0.5].
pub fn train_validation_split(times: &[u64], guard: f64, options: &SplitOptions) -> Result<(Vec<usize>, Vec<usize>)> {
    if !(guard > 0.0 && guard <= 0.5) {
        return Err(Error::usage(format!("a validation share of {guard}")).hint("choose a share above 0 and up to 0.5"));
    }
    let folds = Folds::new(times, &SplitOptions { folds: (1.0 / guard).round().min(1e6) as u32, ..*options })?;
    Ok((folds.training(0), folds.validation(0)))
}

/// Stream of the random numbers, apart from the sampler's (see [`keyed_rng`]).
const SPLIT_STREAM: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_and_rounds() {
        let f = Folds::new(&[0; 40], &SplitOptions::default()).unwrap();
        assert_eq!(f.block_of().iter().filter(|&&b| b == 3).count(), 4);
        for round in f.fold_of().chunks(20) {
            let mut folds: Vec<u32> = round.iter().step_by(4).copied().collect();
            folds.sort_unstable();
            assert_eq!(folds, [0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn glue_and_embargo_follow_the_clock() {
        let times = [0, 1, 2, 3, 4, 5, 100, 101, 200, 201, 300, 301];
        let options = SplitOptions { folds: 2, block: 2, glue: 5, embargo_items: 0, embargo_time: 100, seed: 1 };
        let f = Folds::new(&times, &options).unwrap();
        assert_eq!(f.block_of(), [0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3]);
        for fold in 0..2 {
            for t in f.training(fold) {
                assert!(f.validation(fold).iter().all(|&j| times[j].abs_diff(times[t]) >= 100));
            }
        }
        assert!(Folds::new(&times, &SplitOptions { glue: 1000, ..options }).is_err());
    }

    #[test]
    fn refusals() {
        let o = SplitOptions::default();
        assert!(
            Folds::new(&[], &o).is_err()
                && Folds::new(&[1, 2, 3], &o).is_err()
                && Folds::new(&[2, 1, 3, 4, 5], &o).is_err()
        );
        assert!(
            Folds::new(&[1; 50], &SplitOptions { folds: 1, ..o }).is_err()
                && Folds::new(&[1; 50], &SplitOptions { block: 0, ..o }).is_err()
        );
        assert!(
            train_validation_split(&[1; 50], 0.0, &o).is_err()
                && train_validation_split(&[1; 50], f64::NAN, &o).is_err()
        );
        assert_eq!(Folds::new(&[1; 9], &o).unwrap().folds(), 3);
        let (train, guard) = train_validation_split(&[1; 100], 0.25, &SplitOptions { embargo_items: 0, ..o }).unwrap();
        assert_eq!((train.len() + guard.len(), guard.len().abs_diff(25) < 5), (100, true));
    }

    proptest! {
        #[test]
        fn every_item_is_judged_once_and_by_strangers(
            gaps in prop::collection::vec(0u64..20, 12..120), folds in 2u32..7, block in 1usize..6,
            glue in 0u64..6, embargo_items in 0usize..3, seed: u64, cut in 0.5f64..1.0,
        ) {
            let times: Vec<u64> = gaps.iter().scan(0, |t, g| { *t += g; Some(*t) }).collect();
            let options = SplitOptions { folds, block, glue, embargo_items, embargo_time: 0, seed };
            let Ok(f) = Folds::new(&times, &options) else { return Ok(()) };
            let mut judged = vec![0; times.len()];
            for fold in 0..f.folds() {
                let (judges, training) = (f.validation(fold), f.training(fold));
                judges.iter().for_each(|&j| judged[j] += 1);
                prop_assert!(!judges.is_empty());
                for &t in &training {
                    prop_assert!(judges.iter().all(|&j| j.abs_diff(t) > embargo_items));
                    prop_assert!(judges.iter().all(|&j| f.block_of()[j] != f.block_of()[t]));
                    prop_assert!(judges.iter().all(|&j| times[j].abs_diff(times[t]) >= glue || j.abs_diff(t) > 1));
                }
            }
            prop_assert!(judged.iter().all(|&n| n == 1));
            prop_assert_eq!(&f, &Folds::new(&times, &options).unwrap());
            // What was decided before items were appended stays, while the number of folds does.
            let before = &times[..(times.len() as f64 * cut) as usize];
            if let Ok(old) = Folds::new(before, &options) && old.folds() == f.folds() {
                prop_assert_eq!(old.fold_of(), &f.fold_of()[..before.len()]);
                prop_assert_eq!(old.block_of(), &f.block_of()[..before.len()]);
            }
        }
    }
}
