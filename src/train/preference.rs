//! Losses of language models on log-probabilities of whole completions, with their derivatives.
//!
//! Names, formulas and defaults are those of TRL (`dpo_trainer.py`, `kto_trainer.py`). A *log-ratio* is the
//! log-probability of a completion (the sum over its tokens) under the model that is trained, less that under the
//! reference model.

/// TRL's default of the inverse temperature `beta`.
pub const BETA: f64 = 0.1;

/// A loss on a pair of completions to one prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PairLoss {
    /// Rafailov et al. 2023, *Direct Preference Optimization*, eq. 7: `-logσ(βΔ)`.
    Sigmoid,
    /// Chowdhury et al. 2024, *Provably Robust DPO*: `(-(1-ε)·logσ(βΔ) + ε·logσ(-βΔ)) / (1-2ε)`, where a share `ε` of
    /// the pairs is the wrong way round.
    Robust {
        /// The share, below 0.5.
        label_smoothing: f64,
    },
    /// D'Oosterlinck et al. 2024, *Anchored Preference Optimization*, APO-zero, eq. 7: `(1-σ(βc)) + σ(βr)`. The chosen
    /// completion is better than what the reference answers, the rejected one is not.
    ApoZero,
}

/// Value of a loss, and its derivatives by the log-ratios of the chosen and of the rejected completion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairValue {
    /// The loss.
    pub loss: f64,
    /// By the chosen one.
    pub chosen: f64,
    /// By the rejected one.
    pub rejected: f64,
}

impl PairLoss {
    /// Of the log-ratios of a pair.
    pub fn of(self, beta: f64, chosen: f64, rejected: f64) -> PairValue {
        match self {
            PairLoss::Sigmoid => PairLoss::Robust { label_smoothing: 0.0 }.of(beta, chosen, rejected),
            PairLoss::Robust { label_smoothing: e } => {
                let z = beta * (chosen - rejected);
                let share = 1.0 - 2.0 * e;
                let loss = (-(1.0 - e) * log_sigmoid(z) + e * log_sigmoid(-z)) / share;
                let slope = beta * (-(1.0 - e) * sigmoid(-z) - e * sigmoid(z)) / share;
                PairValue { loss, chosen: slope, rejected: -slope }
            }
            PairLoss::ApoZero => {
                let (c, r) = (sigmoid(beta * chosen), sigmoid(beta * rejected));
                PairValue { loss: 1.0 - c + r, chosen: -beta * c * (1.0 - c), rejected: beta * r * (1.0 - r) }
            }
        }
    }
}

/// A loss on single completions that were called good or bad.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum UnpairedLoss {
    /// APO-zero of single completions: `1-σ(βq)` of a good one, `σ(βq)` of a bad one. Works with one example.
    ApoZero,
    /// Ethayarajh et al. 2024, *KTO*, eq. 8: `λ·(1-σ(β(q-KL)))` of a good one, `λ·(1-σ(β(KL-q)))` of a bad one.
    Kto {
        /// Estimate of the divergence from the reference, at least 0; a constant to the gradient.
        kl: f64,
        /// Weights of good and of bad ones.
        weights: [f64; 2],
    },
}

impl UnpairedLoss {
    /// Value, and derivative by the log-ratio of the completion.
    pub fn of(self, beta: f64, log_ratio: f64, desirable: bool) -> (f64, f64) {
        let sign = if desirable { 1.0 } else { -1.0 };
        let (zero, weight) = match self {
            UnpairedLoss::ApoZero => (0.0, 1.0),
            UnpairedLoss::Kto { kl, weights } => (kl, weights[usize::from(!desirable)]),
        };
        let s = sigmoid(sign * beta * (log_ratio - zero));
        (weight * (1.0 - s), -weight * sign * beta * s * (1.0 - s))
    }
}

/// The KL estimate of a batch for KTO: the mean of log-ratios of completions to prompts that they do not belong to, at
/// least 0.
pub fn kto_kl(mismatched: &[f64]) -> f64 {
    (mismatched.iter().sum::<f64>() / mismatched.len().max(1) as f64).max(0.0)
}

/// Weights of good and bad ones for so many of each: both count the same, as Eq. 8 of the paper asks for (the ratio of
/// `weight·number` is then 1, within TRL's 1 to 4/3).
pub fn kto_weights(desirable: usize, undesirable: usize) -> [f64; 2] {
    match (desirable, undesirable) {
        (0, _) | (_, 0) => [1.0, 1.0],
        (good, bad) if good < bad => [bad as f64 / good as f64, 1.0],
        (good, bad) => [1.0, good as f64 / bad as f64],
    }
}

fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 { 1.0 / (1.0 + (-z).exp()) } else { z.exp() / (1.0 + z.exp()) }
}

fn log_sigmoid(z: f64) -> f64 {
    z.min(0.0) - (-z.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINTS: [f64; 7] = [-40.0, -3.0, -0.2, 0.0, 0.4, 5.0, 60.0];

    #[test]
    fn derivatives_are_those_of_the_values() {
        let h = 1e-4;
        let losses = [PairLoss::Sigmoid, PairLoss::Robust { label_smoothing: 0.1 }, PairLoss::ApoZero];
        for loss in losses {
            for (c, r) in POINTS.into_iter().flat_map(|c| POINTS.map(|r| (c, r))) {
                let at = |c, r| loss.of(0.3, c, r).loss;
                let got = loss.of(0.3, c, r);
                assert!((got.chosen - (at(c + h, r) - at(c - h, r)) / (2.0 * h)).abs() < 1e-7, "{loss:?} {c} {r}");
                assert!((got.rejected - (at(c, r + h) - at(c, r - h)) / (2.0 * h)).abs() < 1e-7, "{loss:?} {c} {r}");
            }
        }
        for loss in [UnpairedLoss::ApoZero, UnpairedLoss::Kto { kl: 0.7, weights: [1.0, 1.5] }] {
            for (q, good) in POINTS.into_iter().flat_map(|q| [(q, true), (q, false)]) {
                let at = |q| loss.of(0.3, q, good).0;
                let slope = (at(q + h) - at(q - h)) / (2.0 * h);
                assert!((loss.of(0.3, q, good).1 - slope).abs() < 1e-7, "{loss:?} {q} {good}");
            }
        }
    }

    #[test]
    fn far_out_nothing_overflows() {
        for far in [-1e6, 1e6] {
            let v = PairLoss::Sigmoid.of(0.1, far, 0.0);
            assert!(v.loss.is_finite() && v.chosen.is_finite());
            assert!(UnpairedLoss::ApoZero.of(0.1, far, true).0.is_finite());
        }
    }

    #[test]
    fn weights_balance_both_kinds() {
        for (good, bad) in [(8, 8), (3, 12), (30, 8), (0, 5), (5, 0)] {
            let [g, b] = kto_weights(good, bad);
            assert!(good == 0 || bad == 0 || (g * good as f64 - b * bad as f64).abs() < 1e-9);
        }
        assert_eq!((kto_kl(&[-3.0, 1.0]), kto_kl(&[1.0, 2.0]), kto_kl(&[])), (0.0, 1.5, 0.0));
    }
}
