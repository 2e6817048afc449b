//! What is known of a candidate: its answers to training examples that did not teach it, and what it left alone.

use ndarray::{Array2, ArrayView1};

use super::Adaptation;
use super::seen::Seen;
use crate::adapt::fit::TrainingExample;
use crate::adapter::{Confusions, Depth};
use crate::error::Result;
use crate::gate::retention::Retention;
use crate::head::Head;
use crate::input::Example;
use crate::plan::{SiteKey, Variant};
use crate::stats::rows::argmax;
use crate::train::loss::cross_entropy;

/// One candidate's evidence: answers and losses on training examples that did not teach it.
pub(super) struct Evidence {
    pub depth: Depth,
    pub sites: SiteKey,
    pub right: Vec<bool>,
    pub loss: Vec<f32>,
    /// Which answers each version had right that this one was chosen among.
    pub versions: Vec<Vec<bool>>,
    /// Logits of all classes, a row a training example, each by a fit that has not seen it; with nothing left to the
    /// base model.
    pub held_out: Array2<f32>,
    /// What would be answered there: the base model's logits where its answer stands.
    pub served: Array2<f32>,
    pub retention: Retention,
    /// Epochs at the evaluation checkpoint with the most held-out answers right.
    pub epochs: u64,
    pub l2: f32,
    /// Whether a head alone acts on features of length 1.
    pub normalised: bool,
}

pub(super) fn mean(loss: &[f32]) -> f64 {
    loss.iter().map(|l| f64::from(*l)).sum::<f64>() / loss.len().max(1) as f64
}

impl Adaptation<'_> {
    /// Right or wrong, and loss, of every row of `logits` (one a training example).
    pub(super) fn score(&self, logits: &Array2<f32>) -> Result<(Vec<bool>, Vec<f32>)> {
        let training_examples = &self.dataset.training_examples;
        let right =
            |(z, l): (ArrayView1<f32>, &TrainingExample)| argmax(z).is_some_and(|answer| l.target.agrees(answer));
        let right = logits.rows().into_iter().zip(training_examples).map(right).collect();
        let targets: Vec<_> = training_examples.iter().map(|l| l.target()).collect();
        let loss = cross_entropy(logits.view(), &targets, &vec![1.0; training_examples.len()], 0.0)?;
        Ok((right, loss.rows))
    }

    pub(super) fn retention(
        &self,
        seen: &Seen,
        variant: &Variant,
        head: &Head,
        confusions: Option<&Confusions>,
    ) -> Result<Retention> {
        let Some(idle) = seen.idle.as_ref().filter(|i| !i.examples.is_empty()) else {
            return Ok(Retention::from_counts(0, 0, 0.0));
        };
        let mut adapted = match variant {
            Variant::Base => head.forward(idle.features.view(), Some(idle.logits.view()))?,
            _ => {
                let examples: Vec<&Example> = idle.examples.iter().collect();
                let rows = self.rows(variant, &examples, self.settings.threads)?;
                head.forward(rows.features.view(), rows.logits.as_ref().map(|z| z.view()))?
            }
        };
        Self::let_stand(confusions, &mut adapted, Some(&idle.logits));
        Retention::measure(idle.logits.view(), adapted.view())
    }

    pub(super) fn describe(&self, e: &Evidence, judged: &[usize]) -> String {
        let right = judged.iter().filter(|&&i| e.right[i]).count();
        let loss = mean(&judged.iter().map(|&i| e.loss[i]).collect::<Vec<f32>>());
        format!("{}: {right} of {} unseen answers right, mean loss {loss:.2}", e.depth.name(), judged.len())
    }
}
