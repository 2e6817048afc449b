//! Whether a candidate is worth more time: what is told before it is trained, and while it is.

use ndarray::Array2;

use super::{Adaptation, Evidence};
use crate::error::Result;
use crate::stats::paired::{Paired, fewest_wins, within};

/// Level at which a candidate is told to be behind another.
const BEHIND: f64 = 0.05;

/// What the fits of the folds say at one evaluation checkpoint, a row a training example.
pub(super) struct AtCheckpoint {
    /// The adapter alone, `[training examples, classes]`.
    pub logits: Array2<f32>,
    /// What would be answered: the base model's answer where it stands.
    pub answers: Array2<f32>,
    /// The training examples whose fold has answered, in the order of the folds.
    pub answered: Vec<usize>,
}

impl AtCheckpoint {
    pub fn new(examples: usize, classes: usize) -> AtCheckpoint {
        let none = Array2::zeros((examples, classes));
        AtCheckpoint { logits: none.clone(), answers: none, answered: vec![] }
    }

    /// The answers of a fold to `judges`: the adapter alone, and with what stands.
    pub fn add(&mut self, judges: &[usize], of_fold: &[Array2<f32>]) {
        let [logits, answers] = of_fold else { return };
        for (row, &i) in judges.iter().enumerate() {
            self.logits.row_mut(i).assign(&logits.row(row));
            self.answers.row_mut(i).assign(&answers.row(row));
        }
        self.answered.extend(judges);
    }
}

/// The evaluation checkpoint with the most held-out answers right: an early stop that every fold votes on. On equal
/// ones the smallest loss, and the last of those that are the same, as they are where all fits had ended.
pub(super) fn best_checkpoint(scores: &[(Vec<bool>, Vec<f32>)]) -> usize {
    let mut best = (0, 0, f64::INFINITY);
    for (look, (right, loss)) in scores.iter().enumerate() {
        let (right, loss) = (right.iter().filter(|r| **r).count(), loss.iter().map(|l| *l as f64).sum::<f64>());
        if right > best.1 || (right == best.1 && loss <= best.2) {
            best = (look, right, loss);
        }
    }
    best.0
}

impl Adaptation<'_> {
    /// Why no deeper candidate could be promoted, whatever its answers to the training examples `judged`: too few are
    /// left that it could turn right.
    pub(super) fn nothing_to_win(&self, rivals: &[Evidence], judged: &[usize], base_right: &[bool]) -> Option<String> {
        let wrong = |right: &[bool]| judged.iter().filter(|&&i| !right[i]).count() as u64;
        if self.corrects_only() {
            let (wrong, needed) = (wrong(base_right), fewest_wins(self.settings.limits.alpha, judged.len() as u64));
            return (wrong < needed).then(|| {
                format!(
                    "the base model has {wrong} of {} answers wrong; fewer than {needed} may be chance",
                    judged.len()
                )
            });
        }
        let fewest = (1..).find(|&wins| !within(Paired { wins, losses: 0, n: wins }.gap()))?;
        let limits = &self.settings.limits;
        let best = rivals.iter().filter(|r| r.retention.is_within(limits)).min_by_key(|r| wrong(&r.right))?;
        (wrong(&best.right) < fewest).then(|| {
            let (name, wrong) = (best.depth.name(), wrong(&best.right));
            format!("the {name} has {wrong} of {} answers wrong; fewer than {fewest} may be chance", judged.len())
        })
    }

    /// Why a candidate is not worth more time, told from the folds that have answered at the last evaluation
    /// checkpoint; `None` where it is.
    ///
    /// Where only the base model's classes are corrected: it is clearly behind a rival at each checkpoint, in
    /// accuracy, by the paired test at 5 %, and in mean loss. Otherwise the shallower candidate is preferred, so once
    /// about half of the examples are answered, it must be ahead of the best rival, in answers right or in mean loss.
    pub(super) fn why_give_up(
        &self,
        stages: &[AtCheckpoint],
        judged: &[usize],
        rivals: &[Evidence],
    ) -> Result<Option<String>> {
        let Some(at) = stages.last() else { return Ok(None) };
        let answered: Vec<usize> = at.answered.iter().copied().filter(|i| judged.contains(i)).collect();
        let scores = stages.iter().map(|at| self.score(&at.answers)).collect::<Result<Vec<_>>>()?;
        let pick = |right: &[bool]| answered.iter().map(|&i| right[i]).collect::<Vec<_>>();
        let count = |right: &[bool]| answered.iter().filter(|&&i| right[i]).count();
        let mean = |loss: &[f32]| answered.iter().map(|&i| loss[i] as f64).sum::<f64>() / answered.len() as f64;
        let ahead = |rival: &Evidence, (right, loss): &(Vec<bool>, Vec<f32>)| {
            mean(&rival.loss) < mean(loss)
                && match self.corrects_only() {
                    true => Paired::count(&pick(&rival.right), &pick(right)).exact_p() <= BEHIND,
                    false => count(&rival.right) >= count(right),
                }
        };
        let (so_far, all) = (at.answered.len(), self.dataset.training_examples.len());
        let too_early = match self.corrects_only() {
            // What has answered everything is a candidate, be it behind.
            true => so_far == all,
            // One fold of four says too little.
            false => 2 * so_far < all - all / 8,
        };
        if answered.is_empty() || too_early {
            return Ok(None);
        }
        let rival = rivals
            .iter()
            .filter(|r| r.retention.is_within(&self.settings.limits))
            .find(|rival| scores.iter().all(|score| ahead(rival, score)));
        Ok(rival.map(|rival| {
            format!(
                "given up after {} answers: {} right, the {} had {} and a smaller loss",
                answered.len(),
                scores.iter().map(|(right, _)| count(right)).max().unwrap_or(0),
                rival.depth.name(),
                count(&rival.right)
            )
        }))
    }

    /// Whether the last evaluation checkpoint, reached by all folds, had no more answers right than the one before it.
    pub(super) fn has_settled(&self, stages: &[AtCheckpoint], judged: &[usize]) -> Result<bool> {
        let [.., before, last] = stages else { return Ok(false) };
        let right = |at: &AtCheckpoint| -> Result<usize> {
            let (right, _) = self.score(&at.answers)?;
            Ok(judged.iter().filter(|&&i| right[i]).count())
        };
        Ok(right(last)? <= right(before)?)
    }

    /// Which training examples were right at each evaluation checkpoint.
    pub(super) fn versions(&self, stages: &[AtCheckpoint], base_right: &[bool]) -> Result<Vec<Vec<bool>>> {
        let version = |at: &AtCheckpoint| -> Result<Vec<bool>> {
            let (right, _) = self.score(&at.answers)?;
            let mut merged = base_right.to_vec();
            at.answered.iter().for_each(|&i| merged[i] = right[i]);
            Ok(merged)
        };
        stages.iter().map(version).collect()
    }
}
