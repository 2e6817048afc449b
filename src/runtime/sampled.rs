//! Which feedback teaches where there is more of it than a training takes: half of it is the newest, and what is older
//! is shared among the classes, each spread over its time. So a training takes a time and a memory that have an end,
//! what was said last counts most, and a class that is rare stays.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;

use super::Home;
use crate::error::Result;
use crate::process::{TrainLimits, machine_memory};

/// Most training examples of one training, and of one of a language model.
pub(super) const MOST_EXAMPLES: usize = 4096;
pub(super) const MOST_TEXTS: usize = 1024;
/// Most bytes that their inputs take, and which part of the memory that there is.
const MOST_BYTES: u64 = 1 << 30;
const PART_OF_MEMORY: u64 = 4;
/// A training takes no fewer for their size.
const FEWEST: u64 = 64;
/// Most inputs whose size is looked at before it is known how many are taken.
const LOOKED_AT: usize = 32;

impl Home {
    /// Most feedback items that a training within `limits` takes, where the input of each takes so many bytes.
    pub(crate) fn most_taught(&self, bytes_each: u64, limits: &TrainLimits) -> usize {
        if self.generates() { MOST_TEXTS } else { most_examples(bytes_each, limits) }
    }
}

/// Most training examples of which each takes so many bytes.
pub(super) fn most_examples(bytes_each: u64, limits: &TrainLimits) -> usize {
    let memory = [machine_memory(), limits.memory_bytes].into_iter().flatten().min();
    of_memory(bytes_each, memory)
}

fn of_memory(bytes_each: u64, memory: Option<u64>) -> usize {
    let room = memory.map_or(MOST_BYTES, |all| MOST_BYTES.min(all / PART_OF_MEMORY));
    let most = (room / bytes_each.max(1)).max(FEWEST);
    usize::try_from(most).unwrap_or(usize::MAX).min(MOST_EXAMPLES)
}

/// The size to reckon with where items in order of time have sizes that differ: the largest of some that are spread
/// over the time, the newest among them. None is looked at where so few are all taken.
pub(super) fn usual_size<T>(items: &[T], size: impl Fn(&T) -> Result<u64>) -> Result<u64> {
    if items.len() as u64 <= FEWEST {
        return Ok(0);
    }
    let looked_at = (1..=LOOKED_AT).filter_map(|part| items.get((part * items.len() / LOOKED_AT).saturating_sub(1)));
    looked_at.map(size).try_fold(0, |largest, size| Ok(largest.max(size?)))
}

/// Which of items with these classes, in order of time, are `most` of them.
pub(super) fn chosen<C: Eq + Hash + Debug>(classes: &[C], most: usize) -> Vec<bool> {
    let n = classes.len();
    if n <= most {
        return vec![true; n];
    }
    let mut chosen = vec![false; n];
    let older = n - most.div_ceil(2);
    chosen.iter_mut().skip(older).for_each(|taken| *taken = true);
    // In the order in which the classes were named first.
    let (mut groups, mut place): (Vec<Vec<usize>>, HashMap<&C, usize>) = Default::default();
    for (at, class) in classes.iter().enumerate().take(older) {
        let group = *place.entry(class).or_insert(groups.len());
        if group == groups.len() {
            groups.push(vec![]);
        }
        if let Some(group) = groups.get_mut(group) {
            group.push(at);
        }
    }
    let among_newest: HashSet<&C> = classes.iter().skip(older).collect();
    let class_of = |group: &Vec<usize>| group.first().and_then(|at| classes.get(*at));
    let is_new = |group: &Vec<usize>| class_of(group).is_some_and(|class| among_newest.contains(class));
    let sizes: Vec<(bool, usize)> = groups.iter().map(|group| (is_new(group), group.len())).collect();
    let shares = shares(&sizes, most / 2);
    let without = groups.iter().zip(&shares).filter(|(group, share)| **share == 0 && !is_new(group));
    let without: Vec<&C> = without.filter_map(|(group, _)| class_of(group)).collect();
    if !without.is_empty() {
        tracing::warn!(most, classes = ?without, "a training takes too few examples for these classes to have one");
    }
    for (group, share) in groups.iter().zip(shares) {
        for part in 0..share {
            // The last of each of `share` equal parts.
            let at = ((part + 1) * group.len()).div_ceil(share).saturating_sub(1);
            if let Some(taken) = group.get(at).and_then(|at| chosen.get_mut(*at)) {
                *taken = true;
            }
        }
    }
    chosen
}

/// How many each of some groups gives so that they give `all` together: equally many, and the small ones all they have.
/// Where there are more groups than that, one each: first those that are not among the newest, then the small ones.
fn shares(groups: &[(bool, usize)], all: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..groups.len()).collect();
    let mut shares = vec![0; groups.len()];
    if all < groups.len() {
        order.sort_by_key(|&i| groups.get(i).copied());
        for i in order.into_iter().take(all) {
            if let Some(share) = shares.get_mut(i) {
                *share = 1;
            }
        }
        return shares;
    }
    order.sort_by_key(|&i| groups.get(i).map(|(_, size)| *size));
    let mut left = all;
    for (done, &i) in order.iter().enumerate() {
        let equal = left / (groups.len() - done);
        if let (Some(share), Some((_, size))) = (shares.get_mut(i), groups.get(i)) {
            *share = equal.min(*size);
            left -= *share;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_half_is_whole_and_rare_classes_stay() {
        // A class that was named three times at the beginning, one that was half of it, and one of the last days.
        let class = |i: usize| match i {
            10 | 20 | 30 => "rare",
            i if i >= 9_990 => "new",
            i if i % 2 == 0 => "even",
            _ => "odd",
        };
        let classes: Vec<&str> = (0..10_000).map(class).collect();
        let chosen = chosen(&classes, 1000);
        let count = |of: &str| chosen.iter().zip(&classes).filter(|(taken, class)| **taken && **class == of).count();
        assert_eq!(chosen.iter().filter(|taken| **taken).count(), 1000);
        assert!(chosen[9_500..].iter().all(|taken| *taken));
        assert_eq!((count("rare"), count("new")), (3, 10));
        assert!(count("even").abs_diff(count("odd")) < 15, "{} {}", count("even"), count("odd"));
        // Spread over the time: each tenth of it gives as many.
        let tenths = (0..9).map(|t| chosen[t * 1000..(t + 1) * 1000].iter().filter(|taken| **taken).count());
        assert!(tenths.into_iter().all(|n| (48..60).contains(&n)));
        assert_eq!(super::chosen(&classes[..1000], 1000), [true; 1000]);
        assert_eq!(super::chosen(&[1, 1, 1, 1, 1], 2), [false, false, false, true, true]);
    }

    #[test]
    fn with_more_classes_than_places_the_rare_ones_have_them() {
        let of = |sizes: &[usize]| sizes.iter().map(|size| (false, *size)).collect::<Vec<_>>();
        assert_eq!(shares(&of(&[1, 1, 1, 5]), 2), [1, 1, 0, 0]);
        assert_eq!(shares(&of(&[5, 1, 1, 1]), 3), [0, 1, 1, 1]);
        assert_eq!(shares(&of(&[1, 1, 1, 5]), 4), [1, 1, 1, 1]);
        assert_eq!(shares(&of(&[1, 9, 2, 9]), 13), [1, 5, 2, 5]);
        assert_eq!(shares(&[(true, 1), (false, 7), (true, 3), (false, 2)], 3), [1, 1, 0, 1], "the others are taught");
        assert!(shares(&[], 3).is_empty());
        // 40 classes with one item each, then two that all else is of: 32 places, half of them for what is older.
        let class = |i: usize| if i < 40 { i } else { 100 + i % 2 };
        let classes: Vec<usize> = (0..400).map(class).collect();
        let chosen = chosen(&classes, 32);
        assert_eq!(chosen.iter().filter(|taken| **taken).count(), 32);
        assert_eq!(chosen[..40].iter().filter(|taken| **taken).count(), 16, "{chosen:?}");
        assert!(chosen[384..].iter().all(|taken| *taken));
    }

    #[test]
    fn the_size_of_the_newest_input_alone_says_little() {
        let read = std::cell::Cell::new(0);
        let size = |bytes: &u64| {
            read.set(read.get() + 1);
            Ok(*bytes)
        };
        let mut clips = vec![640 << 10; 4000];
        clips[3999] = 12 << 10;
        assert_eq!((usual_size(&clips, size).unwrap(), read.get()), (640 << 10, LOOKED_AT));
        assert_eq!(of_memory(640 << 10, Some(8 << 30)), 1638);
        clips[..3999].fill(12 << 10);
        clips[3999] = 640 << 10;
        assert_eq!(usual_size(&clips, size).unwrap(), 640 << 10, "the newest is among them");
        read.set(0);
        assert_eq!((usual_size(&clips[..FEWEST as usize], size).unwrap(), read.get()), (0, 0), "all are taken");
        assert_eq!(usual_size(&clips[..65], size).unwrap(), 12 << 10);
        assert!(usual_size(&clips, |_| Err(crate::error::Error::usage("it is gone"))).is_err());
    }

    #[test]
    fn inputs_take_a_part_of_the_memory() {
        assert_eq!(of_memory(3 << 10, Some(8 << 30)), MOST_EXAMPLES);
        // Pictures of 224 × 224, on boards of 8 GiB and of 512 MiB.
        let picture = 3 * 224 * 224 * 4;
        assert_eq!([Some(8 << 30), Some(512 << 20)].map(|memory| of_memory(picture, memory)), [1783, 222]);
        assert_eq!(of_memory(u64::MAX, None), FEWEST as usize);
        assert_eq!(of_memory(0, Some(0)), FEWEST as usize);
    }
}
