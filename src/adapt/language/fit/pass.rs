//! The passes of one optimiser step over what was said: gradients and losses.

use super::References;
use crate::adapt::fit::family::{Part, Side};
use crate::adapt::language::sum;
use crate::adapter::SiteDelta;
use crate::error::Result;
use crate::plan::{Factors, Passed, Text, TextTrainer};
use crate::train::optim::Grads;
use crate::train::preference::{PairLoss, UnpairedLoss};

fn weighted(weights: &[f64], log_probs: &[f32]) -> f64 {
    weights.iter().zip(log_probs).map(|(weight, v)| weight * f64::from(*v)).sum()
}

/// Gradients of every parameter, to which those of the factors are added.
pub(super) struct Sum<'t> {
    pub(super) parts: &'t [Part],
    pub(super) deltas: &'t [SiteDelta],
    pub(super) grads: &'t mut Grads,
}

impl Sum<'_> {
    /// Adds the gradient of the factor `at` in plan order. The plan takes `s·B`: the gradient of `B` itself is `s`
    /// times the plan's.
    pub(super) fn add(&mut self, at: usize, gradient: &[f32]) {
        let (part, sum) = (&self.parts[at], &mut self.grads.0[at]);
        let scale = if part.side == Side::B { self.deltas[part.site].scale() } else { 1.0 };
        part.add(gradient, scale, sum);
    }
}

/// The passes of one step: gradients of the parameters, and the loss.
pub(super) struct Pass<'t, 'a> {
    pub(super) trainer: &'t mut TextTrainer<'a>,
    pub(super) factors: &'t Factors,
    pub(super) references: &'t mut References,
    pub(super) sum: Sum<'t>,
    pub(super) loss: f64,
}

impl Pass<'_, '_> {
    /// Adds the gradient of `Σ weights · log p` of a text that has passed; its log-probabilities.
    fn add(&mut self, passed: Passed, text: &Text, weights: &[f64]) -> Result<Vec<f32>> {
        let weights: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
        self.trainer.backward(passed, text, &weights, &mut |at, gradient| self.sum.add(at, gradient))
    }

    /// The log-probability of the completion.
    fn log_prob(&mut self, passed: &Passed, text: &Text) -> Result<f64> {
        Ok(sum(&self.trainer.log_probs(passed, text)?))
    }

    /// The negative log-likelihood, each token with its weight; and the loss of a pair with the answer that was edited.
    pub(super) fn supervised(
        &mut self,
        edited: &Text,
        weights: Vec<f64>,
        pair: Option<(PairLoss, &Text, f64, f64)>,
    ) -> Result<()> {
        let Some((loss, original, beta, share)) = pair else {
            let passed = self.trainer.forward(self.factors, edited)?;
            let weights: Vec<f64> = weights.into_iter().map(|weight| -weight).collect();
            let log_probs = self.add(passed, edited, &weights)?;
            self.loss += weighted(&weights, &log_probs);
            return Ok(());
        };
        self.both(edited, original, loss, beta, share, weights)
    }

    pub(super) fn pair(&mut self, chosen: &Text, rejected: &Text, loss: PairLoss, beta: f64, share: f64) -> Result<()> {
        self.both(chosen, rejected, loss, beta, share, vec![0.0; chosen.completion().len()])
    }

    /// The loss of a pair, and the supervised one on the chosen text, each token with its weight. One pass at a time is
    /// held, which takes one more forward pass.
    fn both(
        &mut self,
        chosen: &Text,
        rejected: &Text,
        loss: PairLoss,
        beta: f64,
        share: f64,
        weights: Vec<f64>,
    ) -> Result<()> {
        let passed = self.trainer.forward(self.factors, rejected)?;
        let r = self.log_prob(&passed, rejected)? - self.references.of(self.trainer, rejected)?;
        let passed = self.trainer.forward(self.factors, chosen)?;
        let c = self.log_prob(&passed, chosen)? - self.references.of(self.trainer, chosen)?;
        let value = loss.of(beta, c, r);
        let both: Vec<f64> = weights.iter().map(|weight| share * value.chosen - weight).collect();
        let log_probs = self.add(passed, chosen, &both)?;
        self.loss += share * value.loss - weighted(&weights, &log_probs);
        let passed = self.trainer.forward(self.factors, rejected)?;
        self.add(passed, rejected, &vec![share * value.rejected; rejected.completion().len()])?;
        Ok(())
    }

    pub(super) fn single(&mut self, text: &Text, loss: UnpairedLoss, beta: f64, good: bool, share: f64) -> Result<()> {
        let passed = self.trainer.forward(self.factors, text)?;
        let ratio = self.log_prob(&passed, text)? - self.references.of(self.trainer, text)?;
        let (value, slope) = loss.of(beta, ratio, good);
        self.loss += share * value;
        self.add(passed, text, &vec![share * slope; text.completion().len()])?;
        Ok(())
    }
}
