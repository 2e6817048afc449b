//! Whether what people said holds: the winner's answers to all feedback that taught it, and why some differ from what
//! was said.

use ndarray::{Array2, ArrayView1};

use super::doubts::Doubtful;
use super::seen::Seen;
use super::{Adaptation, Winner};
use crate::adapt::fit::{Target, TrainingExample};
use crate::error::{ErrorKind, Result};
use crate::input::Example;
use crate::plan::{Factors, Rows, SiteKey, Variant};
use crate::stats::rows::{argmax, softmax};

/// Part of a logit, or of 1 if that is more, below which two logits are a close call.
const CLOSE: f32 = 1e-3;

/// What the winner answers to the feedback that taught it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Corrections {
    /// Feedback items that taught.
    pub of: usize,
    /// Those that are answered otherwise than was said.
    pub not_held: Vec<Unheld>,
}

/// Feedback that the winner answers otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Unheld {
    /// The place of the training example.
    pub example: usize,
    pub target: Target,
    pub answer: usize,
    /// Probabilities of the answer, and of the class that was said to be right.
    pub p_answer: f32,
    pub p_given: Option<f32>,
    pub why: Why,
}

/// Why feedback is answered otherwise: the most specific of what is true.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Why {
    /// Nearly the same inputs with feedback that wants this answer are as many as those that do not, or more.
    Outvoted { by: usize, to: usize, one: usize },
    /// A fit that has not seen the label doubts it.
    Doubted { likely: usize, p_likely: f32, p_given: f32 },
    /// None of these.
    NotLearned,
}

impl Adaptation<'_> {
    /// The winner's answers to all feedback. `None` if they cannot be computed: the first prediction will say so.
    pub(super) fn corrections(
        &self,
        winner: &Winner,
        sites: &SiteKey,
        seen: &Seen,
        doubts: &Doubtful,
    ) -> Result<Option<Corrections>> {
        match self.answers(winner, sites, seen) {
            Ok(answers) => Ok(Some(Corrections::find(&answers, &self.dataset.training_examples, doubts))),
            Err(e) if e.kind() == ErrorKind::BadData => {
                tracing::warn!(error = %e, "whether corrections hold cannot be told");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Logits of what would be answered, a row a training example. A close call is computed alone, as a prediction
    /// computes it: a batch rounds otherwise.
    fn answers(&self, winner: &Winner, sites: &SiteKey, seen: &Seen) -> Result<Array2<f32>> {
        let examples: Vec<&Example> = self.dataset.training_examples.iter().map(|e| &e.example).collect();
        let factors = Factors::of(&winner.deltas)?;
        let headed = |rows: &Rows| winner.head.forward(rows.features.view(), rows.logits.as_ref().map(|z| z.view()));
        let (variant, mut logits) = if sites.is_empty() {
            let base = seen.logits.as_ref().map(|z| z.view());
            (Variant::Base, winner.head.forward(seen.features.view(), base)?)
        } else {
            let variant = Variant::Adapted(sites, &factors);
            let logits = headed(&self.rows(&variant, &examples, self.settings.threads)?)?;
            (variant, logits)
        };
        for (mut z, example) in logits.rows_mut().into_iter().zip(&examples) {
            if is_close(z.view()) {
                z.assign(&headed(&self.engine.one(&variant, example)?)?.row(0));
            }
        }
        Self::let_stand(winner.confusions.as_ref(), &mut logits, seen.logits.as_ref());
        Ok(logits)
    }
}

/// Whether rounding could change which class is the largest.
fn is_close(z: ArrayView1<f32>) -> bool {
    let Some(best) = argmax(z) else { return false };
    let close = CLOSE * z[best].abs().max(1.0);
    z.iter().enumerate().any(|(class, v)| class != best && z[best] - v < close)
}

impl Corrections {
    /// By the winner's logits, a row a training example.
    fn find(logits: &Array2<f32>, examples: &[TrainingExample], doubts: &Doubtful) -> Corrections {
        let unheld = |(example, (z, taught)): (usize, (_, &TrainingExample))| {
            let answer = argmax(z)?;
            if taught.target.agrees(answer) {
                return None;
            }
            let p = softmax(z);
            let p_given = match taught.target {
                Target::Class(class) => p.get(class).copied(),
                Target::Not(_) | Target::Keep(_) => None,
            };
            let why = outvoted(example, answer, examples, doubts).or_else(|| doubted(example, doubts));
            let why = why.unwrap_or(Why::NotLearned);
            Some(Unheld { example, target: taught.target, answer, p_answer: p[answer], p_given, why })
        };
        let not_held = logits.rows().into_iter().zip(examples).enumerate().filter_map(unheld).collect();
        Corrections { of: examples.len(), not_held }
    }
}

fn outvoted(example: usize, answer: usize, examples: &[TrainingExample], doubts: &Doubtful) -> Option<Why> {
    let group = doubts.near_duplicates.iter().find(|group| group.contains(&example))?;
    let says = |&&i: &&usize| examples[i].target == Target::Class(answer);
    let against = |&&i: &&usize| !examples[i].target.agrees(answer);
    let one = group.iter().rev().find(says).copied()?;
    let (by, to) = (group.iter().filter(says).count(), group.iter().filter(against).count());
    (by >= to).then_some(Why::Outvoted { by, to, one })
}

fn doubted(example: usize, doubts: &Doubtful) -> Option<Why> {
    let d = doubts.labels.iter().find(|d| d.example == example)?;
    Some(Why::Doubted { likely: d.likely, p_likely: d.p_likely, p_given: d.p_given })
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::super::doubts::DoubtedLabel;
    use super::*;

    fn taught(target: Target) -> TrainingExample {
        TrainingExample {
            example: Example { arrays: vec![] },
            target,
            weight: 1.0,
            at_ms: 0,
            earlier: false,
            keep: vec![],
        }
    }

    #[test]
    fn each_that_does_not_hold_has_the_most_specific_reason() {
        use Target::{Class, Not};
        let targets = [Class(0), Class(1), Class(1), Class(1), Not(0), Not(1), Class(0), Class(0), Class(1)];
        let examples: Vec<TrainingExample> = targets.into_iter().map(taught).collect();
        // All are answered 0 but the last, with 0.9.
        let mut logits = Array2::from_shape_fn((9, 2), |(_, class)| if class == 0 { 9f32.ln() } else { 0.0 });
        logits.row_mut(8).assign(&array![0.0, 1.0]);
        let label = |example| DoubtedLabel { example, given: 1, likely: 0, p_given: 0.2, p_likely: 0.8 };
        let doubts = Doubtful {
            labels: vec![label(1), label(2), label(8)],
            near_duplicates: vec![vec![2, 6], vec![3, 5, 8], vec![4, 7]],
        };
        let found = Corrections::find(&logits, &examples, &doubts);
        let why: Vec<(usize, Why)> = found.not_held.iter().map(|u| (u.example, u.why)).collect();
        assert_eq!(found.of, 9);
        assert_eq!(
            why,
            [
                (1, Why::Doubted { likely: 0, p_likely: 0.8, p_given: 0.2 }),
                (2, Why::Outvoted { by: 1, to: 1, one: 6 }),
                (3, Why::NotLearned),
                (4, Why::Outvoted { by: 1, to: 1, one: 7 }),
            ]
        );
        let p: Vec<_> = found.not_held.iter().map(|u| (u.answer, u.p_given.is_some())).collect();
        assert_eq!(p, [(0, true), (0, true), (0, true), (0, false)]);
        assert!((found.not_held[0].p_given.unwrap() - 0.1).abs() < 1e-6 && found.not_held[0].p_answer > 0.89);
    }

    #[test]
    fn a_close_call_is_one_that_rounding_could_change() {
        for (z, close) in [
            (vec![1.0f32, 0.9999], true),
            (vec![1.0, 0.99], false),
            (vec![2000.0, 1999.0, 0.0], true),
            (vec![-5.0, 3.0, 3.0], true),
            (vec![1.0], false),
            (vec![], false),
        ] {
            assert_eq!(is_close(ArrayView1::from(&z)), close, "{z:?}");
        }
    }

    #[test]
    fn a_majority_of_the_same_label_is_not_outvoted() {
        let examples: Vec<TrainingExample> = [1, 1, 0].map(|c| taught(Target::Class(c))).into();
        let logits = array![[1.0f32, 0.0], [1.0, 0.0], [1.0, 0.0]];
        let doubts = Doubtful { labels: vec![], near_duplicates: vec![vec![0, 1, 2]] };
        let found = Corrections::find(&logits, &examples, &doubts);
        assert!(found.not_held.iter().all(|u| u.why == Why::NotLearned) && found.not_held.len() == 2, "{found:?}");
    }
}
