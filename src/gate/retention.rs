//! What did a candidate change on inputs that nobody corrected?

use super::Limits;
use crate::error::{Error, Result};
use crate::stats::binomial::{lower_bound, upper_bound};
use ndarray::{ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Confidence of either bound on the disagreement rate.
pub const CONFIDENCE: f64 = 0.95;
/// Fewest inputs that break a limit above 0. They come in blocks of up to four consecutive ones, which resemble each other: fewer
/// than these are one or two moments, and no share, however many of them changed.
pub const FEWEST_JUDGES: u64 = 9;

/// Disagreement with the base on inputs that nobody corrected.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retention {
    /// Inputs looked at.
    pub n: u64,
    /// Inputs on which the first answer is another one than the base's.
    pub disagreements: u64,
    /// `disagreements / n`; 0 without inputs.
    pub rate: f64,
    /// One-sided 95 % lower confidence bound on the rate (Clopper–Pearson); 0 without inputs.
    pub lower: f64,
    /// One-sided 95 % upper confidence bound on the rate (Clopper–Pearson); 1 without inputs.
    pub upper: f64,
    /// Mean of `KL(base ‖ adapted) = sum_c p_c·ln(p_c/q_c)` over the base's classes, in nats. What the user's new classes
    /// take from them counts.
    pub mean_kl: f64,
}

/// How [`Retention`] stands to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetentionCall {
    /// The upper bound is within the limit: shown.
    Kept,
    /// The limit lies between the bounds: too few inputs to tell.
    Likely,
    /// The lower bound is above the limit, on [`FEWEST_JUDGES`] inputs or more, or the limit is 0 and an answer changed: shown.
    Broken,
    /// There was no input to look at.
    Unknown,
}

impl Retention {
    /// Compares logits on the same inputs: `base` [n, base classes], `adapted` [n, classes], whose first columns are the base's.
    ///
    /// # Errors
    /// When shapes disagree, or a logit is not finite.
    pub fn measure(base: ArrayView2<'_, f32>, adapted: ArrayView2<'_, f32>) -> Result<Retention> {
        if base.nrows() != adapted.nrows() || base.ncols() > adapted.ncols() || base.ncols() == 0 {
            return Err(Error::internal(format!("logits {:?} and {:?} cannot be compared", base.dim(), adapted.dim())));
        }
        if base.iter().chain(&adapted).any(|v| !v.is_finite()) {
            return Err(Error::bad_data("a logit is not a finite number"));
        }
        let (mut disagreements, mut kl) = (0, 0.0);
        for (b, a) in base.rows().into_iter().zip(adapted.rows()) {
            disagreements += u64::from(first(b) != first(a));
            let (lse_b, lse_a) = (log_sum_exp(b), log_sum_exp(a));
            let terms = b.iter().zip(a).map(|(&b, &a)| (f64::from(b) - lse_b, f64::from(a) - lse_a));
            kl += terms.map(|(lp, lq)| lp.exp() * (lp - lq)).sum::<f64>().max(0.0);
        }
        Ok(Retention::from_counts(disagreements, base.nrows() as u64, kl / base.nrows().max(1) as f64))
    }

    /// From counts that were made elsewhere.
    pub fn from_counts(disagreements: u64, n: u64, mean_kl: f64) -> Retention {
        let rate = if n == 0 { 0.0 } else { disagreements as f64 / n as f64 };
        let lower = lower_bound(disagreements, n, CONFIDENCE);
        Retention { n, disagreements, rate, lower, upper: upper_bound(disagreements, n, CONFIDENCE), mean_kl }
    }

    /// From the share of inputs that stayed as they were, as an adapter's verdict keeps it.
    pub fn from_share(kept: f64, n: u64) -> Retention {
        Retention::from_counts((((1.0 - kept) * n as f64).round() as u64).min(n), n, 0.0)
    }

    /// Compares with the greatest disagreement rate that the user allows.
    pub fn call(&self, limit: f64) -> RetentionCall {
        match self {
            _ if self.n == 0 => RetentionCall::Unknown,
            _ if limit.is_nan() => RetentionCall::Broken,
            _ if self.lower > limit && (self.n >= FEWEST_JUDGES || limit == 0.0) => RetentionCall::Broken,
            _ if self.upper <= limit => RetentionCall::Kept,
            _ => RetentionCall::Likely,
        }
    }
}

impl Retention {
    /// Whether a candidate may serve that changes so much.
    pub fn is_within(&self, limits: &Limits) -> bool {
        match self.call(limits.disagreement) {
            RetentionCall::Kept | RetentionCall::Unknown => true,
            RetentionCall::Likely => !limits.strict,
            RetentionCall::Broken => false,
        }
    }

    /// What broke the limit, and how it is changed.
    pub fn over(&self, limits: &Limits) -> String {
        let limit = 100.0 * limits.disagreement;
        format!(
            "{self}, the limit is {limit:.1} %; if more may change, raise disagreement_limit in acclimate.toml, or give \
             train --disagreement-limit"
        )
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.n == 0 {
            return f.write_str("nothing uncorrected to compare with the base");
        }
        let percent = |v: f64| 100.0 * v;
        write!(
            f,
            "{} of {} uncorrected answers changed ({:.1} %, between {:.1} and {:.1} % by 95 % bounds)",
            self.disagreements,
            self.n,
            percent(self.rate),
            percent(self.lower),
            percent(self.upper)
        )
    }
}

/// Index of the greatest value, the first one on a tie.
fn first(z: ArrayView1<'_, f32>) -> usize {
    z.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &v)| if v > best.1 { (i, v) } else { best }).0
}

fn log_sum_exp(z: ArrayView1<'_, f32>) -> f64 {
    let max = f64::from(z.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v)));
    max + z.iter().map(|&v| (f64::from(v) - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{arr2, concatenate};

    #[test]
    fn the_same_logits_agree() {
        let z = arr2(&[[1.0f32, 2.0, 3.0], [0.0, 0.0, 0.0]]);
        let r = Retention::measure(z.view(), z.view()).unwrap();
        assert_eq!((r.disagreements, r.n, r.mean_kl), (0, 2, 0.0));
        assert_eq!(r.call(0.05), RetentionCall::Likely);
        let many = concatenate(ndarray::Axis(0), &vec![z.view(); 40]).unwrap();
        assert_eq!(Retention::measure(many.view(), many.view()).unwrap().call(0.05), RetentionCall::Kept);
    }

    #[test]
    fn changes_and_new_classes_count() {
        let base = arr2(&[[0.0f32, 1.0], [0.0, 1.0]]);
        let adapted = arr2(&[[0.0f32, 1.0, -20.0], [0.0, 1.0, 5.0]]);
        let r = Retention::measure(base.view(), adapted.view()).unwrap();
        assert_eq!((r.disagreements, r.rate), (1, 0.5));
        // KL of the second row: lse(adapted) - lse(base)
        let want = ((1.0 + 1f64.exp() + 5f64.exp()).ln() - (1.0 + 1f64.exp()).ln()) / 2.0;
        assert!((r.mean_kl - want).abs() < 1e-6);
        assert_eq!(r.call(0.02), RetentionCall::Likely, "two inputs are no share");
        assert!(r.to_string().starts_with("1 of 2 uncorrected answers changed (50.0 %"));
    }

    #[test]
    fn a_handful_is_no_veto_and_a_clear_excess_is() {
        let call = |disagreements, n| Retention::from_counts(disagreements, n, 0.0).call(0.1);
        for few in [(1, 1), (1, 2), (1, 4), (1, 9), (2, 9), (3, 20), (2, 2), (3, 4), (4, 4), (8, 8)] {
            assert_eq!(call(few.0, few.1), RetentionCall::Likely, "{few:?}");
        }
        for clear in [(4, 9), (9, 9), (7, 20), (30, 200)] {
            assert_eq!(call(clear.0, clear.1), RetentionCall::Broken, "{clear:?}");
        }
        assert_eq!((call(25, 200), call(0, 40)), (RetentionCall::Likely, RetentionCall::Kept));
        for n in [1, 9] {
            assert_eq!(Retention::from_counts(1, n, 0.0).call(0.0), RetentionCall::Broken, "none may change");
        }
        let strict = Limits { strict: true, ..Limits::default() };
        assert!(!Retention::from_counts(4, 4, 0.0).is_within(&strict), "proof is asked for");
        assert_eq!(Retention::from_share(8.0 / 9.0, 9), Retention::from_counts(1, 9, 0.0));
    }

    #[test]
    fn nothing_to_compare_and_bad_input() {
        let none = ndarray::Array2::<f32>::zeros((0, 2));
        let r = Retention::measure(none.view(), none.view()).unwrap();
        assert_eq!((r.call(0.05), r.upper), (RetentionCall::Unknown, 1.0));
        let z = arr2(&[[f32::NAN, 0.0]]);
        assert!(Retention::measure(z.view(), z.view()).is_err());
        assert!(Retention::measure(arr2(&[[0.0f32, 0.0]]).view(), arr2(&[[0.0f32]]).view()).is_err());
    }
}
