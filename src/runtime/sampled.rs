//! Which feedback teaches where there is more of it than a training takes: half of it is the newest, and what is older
//! is shared among the classes, each spread over its time. So a training takes a time and a memory that have an end,
//! what was said last counts most, and a class that is rare stays.

use std::collections::HashMap;
use std::hash::Hash;

use super::Home;
use crate::process::{TrainLimits, machine_memory};

/// Most training examples of one training, and of one of a language model.
pub(super) const MOST_EXAMPLES: usize = 4096;
pub(super) const MOST_TEXTS: usize = 1024;
/// Most bytes that their inputs take, and which part of the memory that there is.
const MOST_BYTES: u64 = 1 << 30;
const PART_OF_MEMORY: u64 = 4;
/// A training takes no fewer for their size.
const FEWEST: u64 = 64;

impl Home {
    /// Most feedback items that a training takes, whatever the size of their inputs.
    pub(crate) fn most_taught(&self) -> usize {
        if self.generates() { MOST_TEXTS } else { MOST_EXAMPLES }
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

/// Which of items with these classes, in order of time, are `most` of them.
pub(super) fn chosen<C: Eq + Hash>(classes: &[C], most: usize) -> Vec<bool> {
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
    let sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
    for (group, share) in groups.iter().zip(shares(&sizes, most / 2)) {
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
fn shares(sizes: &[usize], all: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| sizes.get(i).copied());
    let (mut left, mut shares) = (all, vec![0; sizes.len()]);
    for (done, &i) in order.iter().enumerate() {
        let equal = left / (sizes.len() - done);
        if let (Some(share), Some(size)) = (shares.get_mut(i), sizes.get(i)) {
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
    fn inputs_take_a_part_of_the_memory() {
        assert_eq!(of_memory(3 << 10, Some(8 << 30)), MOST_EXAMPLES);
        // Pictures of 224 × 224, on boards of 8 GiB and of 512 MiB.
        let picture = 3 * 224 * 224 * 4;
        assert_eq!([Some(8 << 30), Some(512 << 20)].map(|memory| of_memory(picture, memory)), [1783, 222]);
        assert_eq!(of_memory(u64::MAX, None), FEWEST as usize);
        assert_eq!(of_memory(0, Some(0)), FEWEST as usize);
    }
}
