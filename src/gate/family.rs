//! Many versions were tried, and the best one is shown: how surprising is that one, if none is better than the active generation?
//!
//! Each candidate was chosen among versions (penalties, evaluation checkpoints) by the answers that now judge it, and several
//! candidates are judged at once. If no version is better, an item says as much for the base as against it, so its answers may be
//! swapped with the base's, in all versions together. Over such swaps the smallest p-value of all versions has a distribution, and
//! against it the candidate's own is held (the step-down minP method of Westfall and Young, *Resampling-Based Multiple Testing*,
//! 1993, algorithm 2.8). Versions that answer alike count little more than one; unrelated ones count in full.
//!
//! All p-values are mid-p: what is as surprising as the data counts half.

use crate::stats::binomial::pmf;
use crate::stats::paired::Paired;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Swaps that are drawn where there are too many to take them all; one more is the data as they are.
const DRAWN: u64 = 9_999;
/// Most items whose swaps are all taken.
const ENUMERATED: usize = 13;
/// Two sums of probabilities that differ by less are equal.
const EQUAL: f64 = 1.0 + 1e-9;

/// What one candidate was chosen among.
pub(super) struct Member<'a> {
    /// The version that is judged; `None` of a candidate that was given up and only counts as tried.
    pub chosen: Option<&'a [bool]>,
    /// Every version, each with one answer an item: was it right?
    pub versions: Vec<&'a [bool]>,
}

/// One-sided p-values of the chosen versions against `base`, each corrected for everything that was tried; 1 where none was chosen.
pub(super) fn adjusted(base: &[bool], members: &[Member<'_>]) -> Vec<f64> {
    let own = |m: &Member<'_>| m.chosen.map_or(1.0, |chosen| Paired::count(chosen, base).p());
    let own: Vec<f64> = members.iter().map(own).collect();
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by(|&a, &b| own[a].total_cmp(&own[b]).then(a.cmp(&b)));
    let versions: Vec<Vec<Version>> = members.iter().map(|m| distinct(base, m)).collect();
    let (mut smaller, mut same) = (vec![0u64; members.len()], vec![0u64; members.len()]);
    let swaps = Swaps::of(base, members);
    swaps.each(|swapped| {
        // Step down: a candidate is held against itself and those that looked worse.
        let mut least = 1.0f64;
        for &at in order.iter().rev() {
            least = versions[at].iter().fold(least, |p, v| p.min(v.p(swapped)));
            if least * EQUAL < own[at] {
                smaller[at] += 1;
            } else if least <= own[at] * EQUAL {
                same[at] += 1;
            }
        }
    });
    let mut corrected = vec![1.0; members.len()];
    let mut before = 0.0f64;
    for at in order {
        before = swaps.mid_share(smaller[at], same[at]).max(own[at]).max(before);
        corrected[at] = before.min(1.0);
    }
    corrected
}

/// Items that a version has right where the base is wrong, and the reverse, as bits.
#[derive(PartialEq)]
struct Version {
    wins: Vec<u64>,
    losses: Vec<u64>,
    /// `P(X > k) + P(X = k)/2` for `X ~ Bin(m, 1/2)`, k from 0 to m.
    tails: Vec<f64>,
}

fn distinct(base: &[bool], member: &Member<'_>) -> Vec<Version> {
    let mut all: Vec<Version> = vec![];
    for answers in member.versions.iter().copied().chain(member.chosen) {
        let version = Version::new(base, answers);
        if !all.contains(&version) {
            all.push(version);
        }
    }
    all
}

impl Version {
    fn new(base: &[bool], answers: &[bool]) -> Version {
        let bits = |right: bool| {
            let mut words = vec![0u64; base.len().div_ceil(64)];
            for (item, _) in answers.iter().zip(base).enumerate().filter(|(_, (a, b))| a != b && **a == right) {
                words[item / 64] |= 1 << (item % 64);
            }
            words
        };
        let (wins, losses) = (bits(true), bits(false));
        let m = wins.iter().chain(&losses).map(|w| u64::from(w.count_ones())).sum();
        let mut tails: Vec<f64> = (0..=m).map(|k| pmf(m, k, 0.5)).collect();
        let mut above = 0.0;
        for tail in tails.iter_mut().rev() {
            let here = *tail;
            *tail = above + 0.5 * here;
            above += here;
        }
        Version { wins, losses, tails }
    }

    /// The p-value when the answers to the items of `swapped` change places with the base's.
    fn p(&self, swapped: &[u64]) -> f64 {
        let words = self.wins.iter().zip(&self.losses).zip(swapped);
        let wins: u32 = words.map(|((w, l), s)| (w & !s | l & s).count_ones()).sum();
        self.tails[wins as usize]
    }
}

/// The swaps that are looked at: of all items on which some version differs from the base.
struct Swaps {
    differ: Vec<usize>,
    words: usize,
}

impl Swaps {
    fn of(base: &[bool], members: &[Member<'_>]) -> Swaps {
        let all = || members.iter().flat_map(|m| m.versions.iter().chain(&m.chosen));
        let differs = |i: &usize| all().any(|v| v.get(*i) != base.get(*i));
        Swaps { differ: (0..base.len()).filter(differs).collect(), words: base.len().div_ceil(64) }
    }

    fn each(&self, mut look: impl FnMut(&[u64])) {
        let mut swapped = vec![0u64; self.words];
        if self.differ.len() <= ENUMERATED {
            for number in 0u64..1 << self.differ.len() {
                swapped.fill(0);
                for (bit, item) in self.differ.iter().enumerate() {
                    swapped[item / 64] |= (number >> bit & 1) << (item % 64);
                }
                look(&swapped);
            }
            return;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for _ in 0..DRAWN {
            swapped.iter_mut().for_each(|word| *word = rng.next_u64());
            look(&swapped);
        }
    }

    /// The share of swaps that are `smaller` of those looked at and half of those that are the `same`. Drawn ones count
    /// the data, too (Phipson and Smyth 2010).
    fn mid_share(&self, smaller: u64, same: u64) -> f64 {
        match self.differ.len() {
            n if n <= ENUMERATED => (smaller as f64 + 0.5 * same as f64) / (1u64 << n) as f64,
            _ => (smaller as f64 + 0.5 * (same + 1) as f64) / (DRAWN + 1) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(n: usize, differ: impl Fn(usize) -> bool) -> Vec<bool> {
        (0..n).map(differ).collect()
    }
    fn member(versions: &[Vec<bool>]) -> Member<'_> {
        Member { chosen: versions.first().map(Vec::as_slice), versions: versions.iter().map(Vec::as_slice).collect() }
    }

    #[test]
    fn one_version_has_the_p_value_of_the_sign_test() {
        let base = vec![false; 40];
        for wins in [0, 3, 5, 9, 30] {
            let one = [answers(40, |i| i < wins)];
            let p = adjusted(&base, &[member(&one)])[0];
            assert!((p - 0.5f64.powi(wins as i32 + 1)).abs() < 2e-4, "{wins}: {p}");
        }
        // Nine wins and two losses: P(X > 9) + P(X = 9)/2, X ~ Bin(11, 1/2) = (55/2 + 11 + 1)/2048.
        let base = answers(40, |i| i >= 38);
        let p = adjusted(&base, &[member(&[answers(40, |i| i < 9)])])[0];
        assert!((p - 39.5 / 2048.0).abs() < 1e-12, "{p}");
    }

    #[test]
    fn versions_that_answer_alike_cost_nothing_and_others_do() {
        let base = vec![false; 40];
        let alike = vec![answers(40, |i| i < 5); 9];
        assert!((adjusted(&base, &[member(&alike)])[0] - 1.0 / 64.0).abs() < 1e-12);
        // Two unrelated ones, of 5 wins each: half of 1 - (1 - 1/32)².
        let apart = [answers(40, |i| i < 5), answers(40, |i| (5..10).contains(&i))];
        let p = adjusted(&base, &[member(&apart)])[0];
        assert!((p - 0.5 * (1.0 - (31.0f64 / 32.0).powi(2))).abs() < 1e-12, "{p}");
        // The same as two candidates; once the better one is settled, the other stands alone.
        let better = [answers(40, |i| i < 6)];
        let worse = [answers(40, |i| (6..11).contains(&i))];
        let p = adjusted(&base, &[member(&worse), member(&better)]);
        assert!((p[1] - 1.0 / 128.0).abs() < 1e-12 && (p[0] - 1.0 / 64.0).abs() < 1e-12, "{p:?}");
        // One that was given up counts as tried.
        let given_up = Member { chosen: None, versions: vec![&worse[0]] };
        let p = adjusted(&base, &[member(&apart[..1]), given_up]);
        assert!(p[0] > 1.0 / 64.0 && p[1] == 1.0, "{p:?}");
    }
}
