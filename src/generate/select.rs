//! The largest of many logits, without sorting all of them.

use super::candidate::Candidate;

/// Candidates that are sorted at once.
const FIRST_SORTED: usize = 128;

/// Orders candidates: greater logits first; of equal ones, higher ids first.
pub(super) fn rank(candidate: &Candidate) -> u64 {
    // Both zeros are one; bits in the order of their floats.
    let bits = (candidate.logit + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !(u64::from(ordered) << 32 | u64::from(candidate.token))
}

/// Fills `out` with the `k` largest of `logits` and all that equal the least of them, by rank; with all, by
/// id, where `k` is 0 or no less than their number. Those of -inf are left out.
///
/// Source of the ties: `TopKLogitsWarper` of transformers.
pub(super) fn largest(logits: &[f32], k: usize, out: &mut Vec<Candidate>) {
    out.clear();
    let all = (0..).zip(logits).map(|(token, &logit)| Candidate { token, logit, probability: 0.0 });
    if k == 0 || k >= logits.len() {
        out.extend(all.filter(|c| c.logit > f32::NEG_INFINITY));
        return;
    }
    // No logit below `least` is among the `k` largest.
    let mut least = f32::MIN;
    let mut full = 2 * k + FIRST_SORTED;
    for candidate in all {
        if candidate.logit >= least {
            out.push(candidate);
            if out.len() == full {
                least = keep(out, k);
                full = full.max(2 * out.len());
            }
        }
    }
    keep(out, k);
    out.sort_unstable_by_key(rank);
}

/// Leaves the `k` largest and all that equal the least of them; returns that one.
fn keep(candidates: &mut Vec<Candidate>, k: usize) -> f32 {
    if candidates.len() <= k {
        return f32::MIN;
    }
    let least = candidates.select_nth_unstable_by_key(k - 1, rank).1.logit;
    candidates.retain(|c| c.logit >= least);
    least
}

/// Sorts some more of `candidates`, of which the `sorted` first are in their places; returns how many then
/// are, more than before unless all were.
pub(super) fn sort_front(candidates: &mut [Candidate], sorted: usize) -> usize {
    let target = (sorted * 4).max(FIRST_SORTED).min(candidates.len());
    let rest = &mut candidates[sorted..];
    if target - sorted < rest.len() {
        rest.select_nth_unstable_by_key(target - sorted, rank);
    }
    rest[..target - sorted].sort_unstable_by_key(rank);
    target
}
