//! Which feedback is doubtful, by what training has computed anyway.
//!
//! *Labels* by confident learning (Northcutt, Jiang and Chuang 2021): the threshold of a class is the mean probability
//! that examples of that label get for it, each from a fit that has not seen it. A label is doubted if its own
//! probability is below its class's threshold and another class reaches its own. *Near-duplicates* by the cosine of
//! the base model's features.

use ndarray::{Array2, ArrayView1};

use super::fit::{Target, TrainingExample};
use crate::stats::rows::softmax;

/// Cosine from which on two inputs are nearly the same to the base model: measured in docs/how-to/doubtful-feedback.md.
const NEAR: f32 = 0.9999;
/// Training examples that are compared with each other: the latest, since time grows with the square.
const MOST_COMPARED: usize = 1024;

/// What a training doubts, by the place of training examples.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Doubtful {
    pub labels: Vec<DoubtedLabel>,
    /// Groups of two or more.
    pub near_duplicates: Vec<Vec<usize>>,
}

/// A label that the fit which has not seen it finds unlikely.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DoubtedLabel {
    pub example: usize,
    pub given: usize,
    /// The most probable of the classes that reach their thresholds.
    pub likely: usize,
    pub p_given: f32,
    pub p_likely: f32,
}

impl Doubtful {
    /// By the held-out logits and the base model's features of every training example, a row each.
    pub(super) fn find(held_out: &Array2<f32>, features: &Array2<f32>, examples: &[TrainingExample]) -> Doubtful {
        let given: Vec<Option<usize>> = examples.iter().map(|e| class(e.target)).collect();
        Doubtful { labels: doubted_labels(held_out, &given), near_duplicates: near_duplicates(features) }
    }
}

/// So many answers, in words.
pub(super) fn answers(n: usize) -> String {
    match n {
        1 => "1 answer is".into(),
        n => format!("{n} answers are"),
    }
}

fn class(target: Target) -> Option<usize> {
    match target {
        Target::Class(class) => Some(class),
        Target::Not(_) | Target::Keep(_) => None,
    }
}

impl Doubtful {
    /// Examples in groups of near-duplicates that have two labels or more.
    pub fn contradicting(&self, examples: &[TrainingExample]) -> usize {
        let labels = |group: &&Vec<usize>| group.iter().filter_map(|&i| class(examples.get(i)?.target)).collect();
        let two = |labels: &Vec<usize>| labels.iter().any(|label| *label != labels[0]);
        self.near_duplicates.iter().map(|group| labels(&group)).filter(two).map(|labels| labels.len()).sum()
    }
}

fn doubted_labels(held_out: &Array2<f32>, given: &[Option<usize>]) -> Vec<DoubtedLabel> {
    let p: Vec<Vec<f32>> = held_out.rows().into_iter().map(softmax).collect();
    let (mut sums, mut counts) = (vec![0.0f64; held_out.ncols()], vec![0u32; held_out.ncols()]);
    for (row, class) in p.iter().zip(given).filter_map(|(row, class)| Some((row, (*class)?))) {
        sums[class] += f64::from(row[class]);
        counts[class] += 1;
    }
    // What no example has as its label has no threshold to reach.
    let threshold = |class: usize| (counts[class] > 0).then(|| (sums[class] / f64::from(counts[class])) as f32);
    let doubted = |(example, (row, given)): (usize, (&Vec<f32>, &Option<usize>))| {
        let given = (*given)?;
        let reaches = |c: &usize| *c != given && threshold(*c).is_some_and(|t| row[*c] >= t);
        let likely = (0..row.len()).filter(reaches).max_by(|a, b| row[*a].total_cmp(&row[*b]))?;
        let below = threshold(given).is_some_and(|t| row[given] < t);
        let (p_given, p_likely) = (row[given], row[likely]);
        (below && p_likely > p_given).then_some(DoubtedLabel { example, given, likely, p_given, p_likely })
    };
    p.iter().zip(given).enumerate().filter_map(doubted).collect()
}

/// Groups of rows that are connected by near-equality, each by growing place.
fn near_duplicates(features: &Array2<f32>) -> Vec<Vec<usize>> {
    let n = features.nrows();
    let from = n.saturating_sub(MOST_COMPARED);
    let unit = |row: ArrayView1<f32>| {
        let length = row.dot(&row).sqrt();
        row.mapv(|v| v / length)
    };
    let units: Vec<_> = features.rows().into_iter().skip(from).map(unit).collect();
    let mut group: Vec<usize> = (0..units.len()).collect();
    for i in 0..units.len() {
        for j in 0..i {
            // Rows of a length of 0 or infinity are near nothing.
            if group[i] != group[j] && units[i].dot(&units[j]) > NEAR {
                let (old, new) = (group[i].max(group[j]), group[i].min(group[j]));
                group.iter_mut().filter(|g| **g == old).for_each(|g| *g = new);
            }
        }
    }
    let mut groups: Vec<Vec<usize>> = vec![vec![]; units.len()];
    group.iter().enumerate().for_each(|(i, g)| groups[*g].push(from + i));
    groups.retain(|g| g.len() > 1);
    groups
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn a_label_is_doubted_where_another_class_reaches_its_threshold() {
        // Logits of two classes that say 0.9 and 0.1, and 0.6 and 0.4.
        let (sure, weak) = (9f32.ln(), 1.5f32.ln());
        let held_out =
            array![[sure, 0.0], [sure, 0.0], [0.0, sure], [0.0, sure], [sure, 0.0], [0.0, weak], [sure, 0.0]];
        let given = [Some(0), Some(0), Some(1), Some(1), Some(1), Some(0), None];
        let doubted = doubted_labels(&held_out, &given);
        // The threshold of class 0 is (0.9 + 0.9 + 0.4) / 3 = 0.73, that of class 1 (0.9 + 0.9 + 0.1) / 3 = 0.63.
        let [d] = doubted[..] else { panic!("{doubted:?}") };
        assert_eq!((d.example, d.given, d.likely), (4, 1, 0));
        assert!((d.p_given - 0.1).abs() < 1e-6 && (d.p_likely - 0.9).abs() < 1e-6, "{d:?}");
    }

    #[test]
    fn a_class_with_one_example_is_not_doubted_against_itself() {
        assert!(doubted_labels(&array![[2.0, 0.0, 1.0]], &[Some(1)]).is_empty());
        assert!(doubted_labels(&Array2::zeros((0, 3)), &[]).is_empty());
    }

    #[test]
    fn rows_that_point_the_same_way_are_one_group() {
        let rows = array![[1.0, 0.0], [2.0, 0.001], [0.0, 1.0], [0.0, 0.0], [0.0, 5.0], [1.0, 1.0], [0.5, 0.0]];
        assert_eq!(near_duplicates(&rows), [vec![0, 1, 6], vec![2, 4]]);
        assert!(near_duplicates(&array![[f32::INFINITY], [f32::INFINITY]]).is_empty());
        assert!(near_duplicates(&Array2::zeros((0, 2))).is_empty());
    }
}
