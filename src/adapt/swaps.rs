//! Did two labels swap their meaning? A person who changes their mind about two classes gives feedback that contradicts
//! older feedback, on inputs that are alike and not the same.
//!
//! For a pair of classes and a place in time, older labels of the two are read the other way round. If that makes each
//! stretch of feedback better predicted by all others, by the exact paired test, they have swapped there. Stretches
//! are what is counted, since neighbours in time are alike: a stretch ends where another label comes. The predictor is
//! the nearest class mean of the frozen features, with the stretch itself left out.

use ndarray::{Array2, Axis};

use crate::stats::paired::Paired;

/// Level of the test over all pairs of classes and all places together (Bonferroni).
const LEVEL: f64 = 0.001;
/// Share of the feedback on the two classes that the other feedback predicts, once older labels are read the other way
/// round.
const PREDICTED: f64 = 0.75;
/// Fewest examples of each class before and after the place, and fewest stretches that they come in.
const FEWEST: usize = 4;
const FEWEST_STRETCHES: usize = 3;
/// Examples of two classes that are looked at: the latest.
const MOST: usize = 384;
/// Places that are tried, evenly spread.
const PLACES: usize = 64;

/// Two classes that swapped their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Swap {
    pub classes: (usize, usize),
    /// The first example of the newer meaning.
    pub since: usize,
}

/// A pair of classes with places where they may have swapped.
struct Pair {
    classes: (usize, usize),
    /// Examples of the two, in order of time.
    examples: Vec<usize>,
    places: Vec<usize>,
}

/// Whether there is enough feedback on any two classes, before and after some place, to look for swaps at all.
pub(crate) fn may_be(classes: &[Option<usize>]) -> bool {
    !pairs(classes, &stretches(classes)).is_empty()
}

/// Swaps among examples in order of time, by their class and their features, a row each. At most one of each pair, the
/// one that predicts best.
pub(crate) fn find(classes: &[Option<usize>], features: &Array2<f32>) -> Vec<Swap> {
    let stretches = stretches(classes);
    let pairs = pairs(classes, &stretches);
    let tried: usize = pairs.iter().map(|pair| pair.places.len()).sum();
    pairs.iter().filter_map(|pair| pair.swap(classes, &stretches, features, tried)).collect()
}

/// The number of each example's stretch.
fn stretches(classes: &[Option<usize>]) -> Vec<usize> {
    let mut n = 0;
    let mut before = None;
    classes
        .iter()
        .map(|class| {
            n += usize::from(before.is_some_and(|b| b != class));
            before = Some(class);
            n
        })
        .collect()
}

fn pairs(classes: &[Option<usize>], stretches: &[usize]) -> Vec<Pair> {
    let mut enough: Vec<usize> = classes.iter().flatten().copied().collect();
    enough.sort_unstable();
    let count = |class: &usize| classes.iter().filter(|c| **c == Some(*class)).count();
    enough.dedup();
    enough.retain(|class| count(class) >= 2 * FEWEST);
    let mut pairs = vec![];
    for (n, &a) in enough.iter().enumerate() {
        for &b in &enough[n + 1..] {
            let of_pair = |i: &usize| classes[*i] == Some(a) || classes[*i] == Some(b);
            let mut examples: Vec<usize> = (0..classes.len()).filter(of_pair).collect();
            examples.drain(..examples.len().saturating_sub(MOST));
            let places = places(&examples, classes, stretches, a);
            if !places.is_empty() {
                pairs.push(Pair { classes: (a, b), examples, places });
            }
        }
    }
    pairs
}

/// Places among `examples` with enough of both classes on both sides.
fn places(examples: &[usize], classes: &[Option<usize>], stretches: &[usize], a: usize) -> Vec<usize> {
    // For every place, the smaller class's examples and stretches on the side that `order` comes from.
    let counts = |order: &mut dyn Iterator<Item = usize>| -> Vec<bool> {
        let (mut items, mut runs, mut last) = ([0; 2], [0; 2], [None; 2]);
        let mut enough = vec![false];
        for i in order {
            let side = usize::from(classes[i] == Some(a));
            items[side] += 1;
            runs[side] += usize::from(last[side] != Some(stretches[i]));
            last[side] = Some(stretches[i]);
            enough.push(items.iter().all(|n| *n >= FEWEST) && runs.iter().all(|n| *n >= FEWEST_STRETCHES));
        }
        enough
    };
    let before = counts(&mut examples.iter().copied());
    let after = counts(&mut examples.iter().rev().copied());
    let n = examples.len();
    let mut places: Vec<usize> = (0..=n).filter(|&k| before[k] && after[n - k]).collect();
    if places.len() > PLACES {
        places = (0..PLACES).map(|i| places[i * (places.len() - 1) / (PLACES - 1)]).collect();
    }
    places
}

impl Pair {
    fn swap(
        &self,
        classes: &[Option<usize>],
        stretches: &[usize],
        features: &Array2<f32>,
        tried: usize,
    ) -> Option<Swap> {
        let gram = gram(&features.select(Axis(0), &self.examples));
        let first: Vec<bool> = self.examples.iter().map(|&i| classes[i] == Some(self.classes.0)).collect();
        let mut best: Option<(usize, usize, Paired)> = None;
        for &place in &self.places {
            // A stretch ends at the place, too.
            let stretch = |at: usize| (stretches[self.examples[at]], at >= place);
            let mut runs: Vec<Vec<usize>> = vec![];
            for at in 0..first.len() {
                match runs.last_mut() {
                    Some(run) if stretch(run[0]) == stretch(at) => run.push(at),
                    _ => runs.push(vec![at]),
                }
            }
            let turned: Vec<bool> = first.iter().enumerate().map(|(at, f)| *f != (at < place)).collect();
            let (as_said, turned) = (predicted(&gram, &first, &runs), predicted(&gram, &turned, &runs));
            let most =
                |right: &[bool]| runs.iter().map(|r| 2 * r.iter().filter(|&&i| right[i]).count() > r.len()).collect();
            let votes: [Vec<bool>; 2] = [most(&turned), most(&as_said)];
            let right = turned.iter().filter(|r| **r).count();
            if best.as_ref().is_none_or(|(most, _, _)| right > *most) {
                best = Some((right, place, Paired::count(&votes[0], &votes[1])));
            }
        }
        let (right, place, paired) = best?;
        let shown = paired.exact_p() * tried as f64 <= LEVEL && right as f64 >= PREDICTED * first.len() as f64;
        shown.then(|| Swap { classes: self.classes, since: self.examples[place] })
    }
}

/// Products of all rows, each less the mean and at length 1.
fn gram(rows: &Array2<f32>) -> Array2<f64> {
    let mut rows = rows.mapv(f64::from);
    if let Some(mean) = rows.mean_axis(Axis(0)) {
        rows -= &mean;
    }
    for mut row in rows.rows_mut() {
        let length = row.dot(&row).sqrt();
        row.mapv_inplace(|v| if length > 0.0 { v / length } else { 0.0 });
    }
    rows.dot(&rows.t())
}

/// Whether each example is on the side of the nearer of the two class means, with its own run left out of both.
fn predicted(gram: &Array2<f64>, first: &[bool], runs: &[Vec<usize>]) -> Vec<bool> {
    let n = first.len();
    let side = |i: usize| usize::from(!first[i]);
    // Products of each example with the sum of each class, and of each class with itself.
    let mut with = vec![[0.0; 2]; n];
    let (mut all, mut counts) = ([0.0; 2], [0.0; 2]);
    for i in 0..n {
        (0..n).for_each(|j| with[i][side(j)] += gram[[i, j]]);
        all[side(i)] += with[i][side(i)];
        counts[side(i)] += 1.0;
    }
    let mut right = vec![false; n];
    for run in runs {
        let (mut left, mut own) = (counts, all);
        for &j in run {
            left[side(j)] -= 1.0;
            own[side(j)] -= 2.0 * with[j][side(j)];
            run.iter().filter(|&&k| side(k) == side(j)).for_each(|&k| own[side(j)] += gram[[j, k]]);
        }
        if left.iter().any(|n| *n < 1.0) {
            continue;
        }
        for &i in run {
            let mut near = with[i];
            run.iter().for_each(|&j| near[side(j)] -= gram[[i, j]]);
            // The squared distance to a mean, less the square of the example itself.
            let far = |s: usize| own[s] / (left[s] * left[s]) - 2.0 * near[s] / left[s];
            right[i] = far(side(i)) < far(1 - side(i));
        }
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Examples of `classes` classes whose means are `apart` standard deviations from each other on axes of their own.
    fn drawn(seed: u64, n: usize, classes: usize, apart: f32) -> (Vec<Option<usize>>, Array2<f32>) {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let said: Vec<usize> = (0..n).map(|_| chance.random_range(0..classes)).collect();
        let mut noise = || (0..12).map(|_| chance.random_range(-0.5f32..0.5)).sum::<f32>();
        let features = Array2::from_shape_fn((n, classes + 4), |(i, j)| {
            noise() + if j == said[i] { apart / 2f32.sqrt() } else { 0.0 }
        });
        (said.into_iter().map(Some).collect(), features)
    }

    fn swapped(said: &[Option<usize>], from: usize) -> Vec<Option<usize>> {
        let turn = |class: usize| if class < 2 { 1 - class } else { class };
        said.iter().enumerate().map(|(i, c)| if i < from { *c } else { c.map(turn) }).collect()
    }

    #[test]
    fn classes_that_swap_half_way_are_found_where_they_did() {
        for seed in 0..20 {
            let (said, features) = drawn(seed, 240, 4, 4.0);
            let found = find(&swapped(&said, 120), &features);
            let [swap] = found[..] else { panic!("{seed}: {found:?}") };
            assert_eq!(swap.classes, (0, 1), "{seed}");
            assert!(swap.since.abs_diff(120) <= 8, "{seed}: {}", swap.since);
        }
    }

    #[test]
    fn nothing_is_found_where_nothing_swapped() {
        // Classes that are easy to tell, hard to tell, and nothing but noise; labels that are wrong.
        let mut alarms = vec![];
        for seed in 0..300 {
            for apart in [4.0, 1.5, 0.0] {
                let (mut said, features) = drawn(seed, 80, 3, apart);
                let mut chance = ChaCha8Rng::seed_from_u64(seed + 1000);
                for class in said.iter_mut().flatten() {
                    if chance.random_range(0.0..1.0) < 0.3 {
                        *class = chance.random_range(0..3);
                    }
                }
                alarms.extend(find(&said, &features).into_iter().map(|swap| (seed, swap)));
            }
        }
        assert!(alarms.is_empty(), "{alarms:?}");
    }

    #[test]
    fn one_stretch_of_each_is_not_evidence() {
        // Two long stretches before and two after: however many examples they have, they are four.
        let n = 80;
        let said: Vec<Option<usize>> = (0..n).map(|i| Some(usize::from(matches!(i / 20, 1 | 2)))).collect();
        let features = Array2::from_shape_fn((n, 2), |(i, j)| if (i / 20) % 2 == j { 1.0 } else { 0.0 });
        assert!(!may_be(&said) && find(&said, &features).is_empty());
        assert!(!may_be(&[]) && !may_be(&[Some(0); 50]) && !may_be(&[None; 50]));
    }

    #[test]
    fn rows_of_no_length_are_no_error() {
        let (said, features) = drawn(3, 60, 2, 4.0);
        assert!(may_be(&said));
        assert!(find(&said, &Array2::zeros(features.dim())).is_empty());
        assert!(find(&said, &Array2::from_elem(features.dim(), f32::NAN)).is_empty());
    }
}
