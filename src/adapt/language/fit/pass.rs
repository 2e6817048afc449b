//! The passes of one optimiser step over what was said: gradients and losses.

use super::References;
use crate::adapt::fit::family::{Part, Side};
use crate::adapt::language::sum;
use crate::adapter::SiteDelta;
use crate::error::Result;
use crate::plan::{Factors, Passed, Text, TextTrainer};
use crate::train::optim::Grads;
use crate::train::preference::{PairLoss, UnpairedLoss};

/// The supervised loss on a text: of each token `weight · max(-log p - margin, 0)`.
#[derive(Debug, Default)]
pub(super) struct Supervised {
    /// Of each token; none where there is no such loss.
    pub(super) weights: Vec<f64>,
    /// Nats. A token that is at least this probable is known, and pulls no more.
    pub(super) margin: f64,
}

impl Supervised {
    /// How much a nat more of the token `at` takes off the loss.
    fn pull(&self, at: usize, log_prob: f32) -> f64 {
        let known = f64::from(log_prob) >= -self.margin;
        if known { 0.0 } else { self.weights.get(at).copied().unwrap_or(0.0) }
    }

    fn loss(&self, log_probs: &[f32]) -> f64 {
        let of = |log_prob: f32| (-f64::from(log_prob) - self.margin).max(0.0);
        self.weights.iter().zip(log_probs).map(|(weight, v)| weight * of(*v)).sum()
    }
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
    /// Adds the gradient of a sum over the tokens of a text that has passed: `Σ slope · log p` and the supervised loss.
    /// Gives the value of that loss.
    fn add(&mut self, passed: Passed, text: &Text, slope: f64, supervised: &Supervised) -> Result<f64> {
        let mut derivative = |at: usize, log_prob: f32| (slope - supervised.pull(at, log_prob)) as f32;
        let give = &mut |at: usize, gradient: &[f32]| self.sum.add(at, gradient);
        let log_probs = self.trainer.backward(passed, text, &mut derivative, give)?;
        Ok(supervised.loss(&log_probs))
    }

    /// The log-probability of the completion.
    fn log_prob(&mut self, passed: &Passed, text: &Text) -> Result<f64> {
        Ok(sum(&self.trainer.log_probs(passed, text)?))
    }

    pub(super) fn supervised(&mut self, edited: &Text, supervised: &Supervised) -> Result<()> {
        let passed = self.trainer.forward(self.factors, edited)?;
        self.loss += self.add(passed, edited, 0.0, supervised)?;
        Ok(())
    }

    /// The loss of a pair, and the supervised one on the chosen text. One pass at a time is held, which takes one more
    /// forward pass.
    pub(super) fn pair(
        &mut self,
        [chosen, rejected]: [&Text; 2],
        loss: PairLoss,
        beta: f64,
        share: f64,
        supervised: &Supervised,
    ) -> Result<()> {
        let passed = self.trainer.forward(self.factors, rejected)?;
        let r = self.log_prob(&passed, rejected)? - self.references.of(self.trainer, rejected)?;
        let passed = self.trainer.forward(self.factors, chosen)?;
        let c = self.log_prob(&passed, chosen)? - self.references.of(self.trainer, chosen)?;
        let value = loss.of(beta, c, r);
        self.loss += share * value.loss + self.add(passed, chosen, share * value.chosen, supervised)?;
        let passed = self.trainer.forward(self.factors, rejected)?;
        self.add(passed, rejected, share * value.rejected, &Supervised::default())?;
        Ok(())
    }

    pub(super) fn single(&mut self, text: &Text, loss: UnpairedLoss, beta: f64, good: bool, share: f64) -> Result<()> {
        let passed = self.trainer.forward(self.factors, text)?;
        let ratio = self.log_prob(&passed, text)? - self.references.of(self.trainer, text)?;
        let (value, slope) = loss.of(beta, ratio, good);
        self.loss += share * value;
        self.add(passed, text, share * slope, &Supervised::default())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_of_the_supervised_loss_is_its_derivative() {
        let loss = Supervised { weights: vec![1.0, 0.3, 2.0], margin: 0.5 };
        const H: f32 = 1e-3;
        for log_probs in [[-3.0, -0.7, -0.51], [-0.49, -0.1, -2.0], [0.0, -9.0, -0.25]] {
            for at in 0..3 {
                let moved = |by: f32| {
                    let mut log_probs = log_probs;
                    log_probs[at] += by;
                    loss.loss(&log_probs)
                };
                let slope = (moved(-H) - moved(H)) / f64::from(2.0 * H);
                let pull = loss.pull(at, log_probs[at]);
                assert!((pull - slope).abs() < 1e-3, "token {at} of {log_probs:?}: {pull} for {slope}");
            }
        }
        assert_eq!(loss.loss(&[-0.5, -0.4, 0.0]), 0.0, "known tokens cost nothing");
        let plain = Supervised { margin: 0.0, ..loss };
        assert!((plain.loss(&[-1.0, -2.0, -0.25]) - (1.0 + 0.6 + 0.5)).abs() < 1e-9, "the negative log-likelihood");
    }
}
