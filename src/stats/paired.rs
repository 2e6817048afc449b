//! Is a candidate better than the active generation, on the same items? The paired test, its power, and what to
//! say.

use super::binomial::{at_least, pmf, support};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The 97.5 % quantile of the normal distribution, for two-sided 95 % intervals.
pub const Z95: f64 = 1.959_963_985;

/// Standard errors that the difference of two equals exceeds once in twenty times (one-sided).
pub(crate) const CHANCE: f64 = 1.645;

/// Weighted mean of `a - b` over the items, and its standard error if the truth were 0: `sqrt(Σ(w·gap)²)/Σw`.
pub(crate) fn mean_gap(a: &[f32], b: &[f32], weights: impl Iterator<Item = f32>) -> (f64, f64) {
    let (mut total, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for ((&a, &b), w) in a.iter().zip(b).zip(weights) {
        let (w, gap) = (f64::from(w), f64::from(a) - f64::from(b));
        total += w;
        sum += w * gap;
        squares += (w * gap).powi(2);
    }
    let total = if total > 0.0 { total } else { 1.0 };
    (sum / total, squares.sqrt() / total)
}

/// Whether a difference may be chance; by the standard error of two equals, so that a single item never decides.
pub(crate) fn within((gap, error): (f64, f64)) -> bool {
    gap <= CHANCE * error
}

/// How two models differ on the same items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paired {
    /// Items that the candidate has right and the other wrong.
    pub wins: u64,
    /// Items that the candidate has wrong and the other right.
    pub losses: u64,
    /// Items in all.
    pub n: u64,
}

impl Paired {
    /// Counts over two lists of the same length; what one list has beyond the other is not counted.
    pub fn count(candidate: &[bool], other: &[bool]) -> Paired {
        let mut p = Paired { wins: 0, losses: 0, n: 0 };
        for (&c, &o) in candidate.iter().zip(other) {
            p.n += 1;
            p.wins += u64::from(c && !o);
            p.losses += u64::from(!c && o);
        }
        p
    }

    /// One-sided mid-p value of the exact McNemar (sign) test. If the two were equally good, each of the `m = wins +
    /// losses` items on which they differ would be a fair coin: `p = P(X > wins) + P(X = wins)/2`, `X ~ Bin(m, 1/2)`.
    /// The mid-p form has the nominal error on average where the plain exact test is far below it (Fagerland and
    /// others, 2013).
    pub fn p(&self) -> f64 {
        mid_p(self.wins, self.wins + self.losses)
    }

    /// One-sided p-value of the exact McNemar (sign) test, `P(X >= wins)`. Its error is never above the nominal level,
    /// and far below it where few items differ.
    pub fn exact_p(&self) -> f64 {
        at_least(self.wins + self.losses, self.wins, 0.5)
    }

    /// Gain in accuracy, `(wins - losses)/n`; 0 without items.
    pub fn gain(&self) -> f64 {
        if self.n == 0 { 0.0 } else { (self.wins as f64 - self.losses as f64) / self.n as f64 }
    }

    /// [`Paired::gain`], and its standard error if the two were equally good; for [`within`].
    pub(crate) fn gap(&self) -> (f64, f64) {
        (self.gain(), ((self.wins + self.losses) as f64).sqrt() / self.n.max(1) as f64)
    }

    /// Standard error of [`Paired::gain`]: `sqrt(wins + losses - (wins - losses)²/n)/n`.
    pub fn standard_error(&self) -> f64 {
        if self.n == 0 {
            return 0.0;
        }
        let (w, l, n) = (self.wins as f64, self.losses as f64, self.n as f64);
        (w + l - (w - l).powi(2) / n).max(0.0).sqrt() / n
    }

    /// Where p must be at most this for a decision at level `alpha`: see [`fold_level`].
    pub fn level(&self, alpha: f64) -> f64 {
        fold_level(alpha, self.wins + self.losses, self.n)
    }

    /// The decision at level `alpha` of cross-validated answers, where `p` is [`Paired::p`], or that corrected for
    /// what else was tried.
    pub fn decide(&self, p: f64, alpha: f64) -> Decision {
        let reversed = Paired { wins: self.losses, losses: self.wins, n: self.n };
        let needed = fewest_items(alpha);
        if p <= self.level(alpha) {
            Decision::Better { test: *self, p }
        } else if needed > self.n {
            Decision::TooFew { test: *self, needed }
        } else if reversed.p() <= self.level(alpha) {
            Decision::Worse { test: *self, p: reversed.p() }
        } else {
            Decision::NotShown { test: *self, p }
        }
    }
}

fn mid_p(wins: u64, m: u64) -> f64 {
    at_least(m, wins + 1, 0.5) + 0.5 * pmf(m, wins, 0.5)
}

/// What a nominal level `alpha` is for p-values of cross-validated answers, of which `differ` of `n` differ:
/// `alpha·(1 - 1.6·min(differ/n, 1/4))`.
///
/// Of two items in different folds, each helped to train the model that answered the other, so that one
/// coincidence counts twice. On labels that have nothing to do with the inputs, wins less losses have the
/// variance of independent items where few differ, and 1.1 to 1.3 times that where a quarter or more do
/// (`adapt/level.rs`). A normal test at 5 % that allows for a variance of `1 + min(differ/n, 1/4)` is this test
/// to 0.003.
pub(crate) fn fold_level(alpha: f64, differ: u64, n: u64) -> f64 {
    alpha * (1.0 - 1.6 * (differ as f64 / n.max(1) as f64).min(0.25))
}

/// The fewest wins without a loss that pass, among `n` items; more than `n` where none do.
pub(crate) fn fewest_wins(alpha: f64, n: u64) -> u64 {
    (0..=n).find(|&wins| mid_p(wins, wins) <= fold_level(alpha, wins, n)).unwrap_or(n + 1)
}

/// The fewest items on which the test can pass at all: all of them wins.
pub fn fewest_items(alpha: f64) -> u64 {
    (0..1100).find(|&n| mid_p(n, n) <= fold_level(alpha, n, n)).unwrap_or(1100)
}

/// Probability that the test at level `alpha` over `n` cross-validated items finds a candidate that truly turns
/// a share `win` of the wrong answers right and a share `loss` wrong (both of all items):
///
/// `power = sum_m Bin(m; n, win + loss) · P(X >= c(m))`, `X ~ Bin(m, win/(win + loss))`,
///
/// with `c(m)` the fewest wins among m differences that pass. Exact, apart from mass below 1e-20.
pub fn power(n: u64, win: f64, loss: f64, alpha: f64) -> f64 {
    let (win, loss) = (win.clamp(0.0, 1.0), loss.clamp(0.0, 1.0 - win.clamp(0.0, 1.0)));
    let differ = win + loss;
    if differ <= 0.0 || differ.is_nan() {
        return 0.0;
    }
    let mut sum = 0.0;
    let mut critical = 0; // grows with m
    for m in support(n, differ) {
        critical = critical.max(m / 2);
        while critical <= m && mid_p(critical, m) > fold_level(alpha, m, n) {
            critical += 1;
        }
        if critical <= m {
            sum += pmf(n, m, differ) * at_least(m, critical, win / differ);
        }
    }
    sum.min(1.0)
}

/// The smallest gain in accuracy that the test over `n` items would find with probability `wanted`, when the candidate
/// also loses a share `loss` of all items. `None` when even the greatest gain would not be found.
pub fn detectable_gain(n: u64, loss: f64, alpha: f64, wanted: f64) -> Option<f64> {
    let reached = |gain: f64| power(n, gain + loss, loss, alpha) >= wanted;
    let (mut low, mut high) = (0.0, 1.0 - 2.0 * loss);
    if high.is_nan() || high <= 0.0 || !reached(high) {
        return None;
    }
    for _ in 0..14 {
        let middle = 0.5 * (low + high);
        if reached(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// Wilson's interval (1927) for a proportion, seen `k` times in `n`, at `z` standard errors. (0, 1) when n is 0.
pub fn wilson(k: u64, n: u64, z: f64) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (n as f64, k as f64 / n as f64);
    let scale = 1.0 + z * z / n;
    let centre = (p + z * z / (2.0 * n)) / scale;
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt() / scale;
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// What the paired test says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Decision {
    /// The candidate is better.
    Better {
        /// The counts.
        test: Paired,
        /// The p-value.
        p: f64,
    },
    /// It may be better; this many items do not show it.
    NotShown {
        /// The counts.
        test: Paired,
        /// The p-value.
        p: f64,
    },
    /// It is worse.
    Worse {
        /// The counts.
        test: Paired,
        /// The p-value of the reversed test.
        p: f64,
    },
    /// So few items that nothing could have been shown.
    TooFew {
        /// The counts.
        test: Paired,
        /// The fewest items that can decide.
        needed: u64,
    },
}

impl Decision {
    /// The p-value that the candidate is better.
    pub fn p(&self) -> f64 {
        match self {
            Decision::Better { p, .. } | Decision::NotShown { p, .. } => *p,
            Decision::Worse { test, .. } | Decision::TooFew { test, .. } => test.p(),
        }
    }

    /// Whether the candidate passed.
    pub fn passed(&self) -> bool {
        matches!(self, Decision::Better { .. })
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = |t: &Paired| format!("{} of {} answers got right, {} got wrong", t.wins, t.n, t.losses);
        match self {
            Decision::Better { test, p } => write!(f, "better: {}, {}", counts(test), say_p(*p)),
            Decision::NotShown { test, p } => write!(f, "not shown to be better: {}, {}", counts(test), say_p(*p)),
            Decision::Worse { test, p } => write!(f, "worse: {}, {}", counts(test), say_p(*p)),
            Decision::TooFew { test, needed } => {
                write!(
                    f,
                    "too little feedback to decide: {} answers, at least {needed} are needed ({})",
                    test.n,
                    counts(test)
                )
            }
        }
    }
}

/// "p = 0.002", "p < 0.001".
fn say_p(p: f64) -> String {
    match p {
        p if p < 0.001 => "p < 0.001".into(),
        p if p < 0.1 => format!("p = {p:.3}"),
        p => format!("p = {p:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mid_p_values() {
        let p = |wins, losses| Paired { wins, losses, n: 65 }.p();
        assert!((p(0, 0) - 0.5).abs() < 1e-12);
        assert!((p(4, 0) - 1.0 / 32.0).abs() < 1e-12);
        // (P(X >= 13) + P(X >= 12))/2 for m = 13: (1 + 14)/2/8192
        assert!((p(12, 1) - 7.5 / 8192.0).abs() < 1e-12);
        assert!((p(7, 3) + p(3, 7) - 1.0).abs() < 1e-12);
        assert_eq!(
            (fewest_items(0.05), fewest_wins(0.05, 3), fewest_wins(0.05, 17), fewest_wins(0.05, 18)),
            (5, 4, 5, 4)
        );
        assert_eq!(
            Paired::count(&[true, true, false, false], &[true, false, true, false]),
            Paired { wins: 1, losses: 1, n: 4 }
        );
    }

    #[test]
    fn decisions_speak_plainly() {
        let decide = |test: Paired| test.decide(test.p(), 0.05);
        let say = |wins, losses, n| decide(Paired { wins, losses, n }).to_string();
        assert_eq!(say(12, 2, 65), "better: 12 of 65 answers got right, 2 got wrong, p = 0.004");
        assert_eq!(say(12, 1, 65), "better: 12 of 65 answers got right, 1 got wrong, p < 0.001");
        assert_eq!(say(3, 2, 65), "not shown to be better: 3 of 65 answers got right, 2 got wrong, p = 0.34");
        assert_eq!(say(0, 9, 65), "worse: 0 of 65 answers got right, 9 got wrong, p < 0.001");
        assert_eq!(
            say(3, 0, 3),
            "too little feedback to decide: 3 answers, at least 5 are needed (3 of 3 answers got right, 0 got wrong)"
        );
        assert!(!decide(Paired { wins: 0, losses: 0, n: 0 }).passed());
    }

    #[test]
    fn power_is_the_share_of_passing_outcomes() {
        // By enumeration over all (wins, losses) of a multinomial.
        for (n, win, loss) in [(12u64, 0.3, 0.05), (20, 0.2, 0.2), (30, 0.1, 0.0)] {
            let mut sum = 0.0;
            for w in 0..=n {
                for l in 0..=n - w {
                    let test = Paired { wins: w, losses: l, n };
                    if test.decide(test.p(), 0.05).passed() {
                        sum += pmf(n, w, win) * pmf(n - w, l, loss / (1.0 - win));
                    }
                }
            }
            assert!((power(n, win, loss, 0.05) - sum).abs() < 1e-9, "{n} {win} {loss}");
        }
        assert!(power(65, 0.10, 0.02, 0.05) < power(300, 0.10, 0.02, 0.05));
        // Under no difference the error stays below alpha.
        for (n, d) in [(65, 0.05), (65, 0.3), (300, 0.1), (20_000, 0.1)] {
            assert!(power(n, d / 2.0, d / 2.0, 0.05) <= 0.05, "{n} {d}");
        }
        assert_eq!(power(50, 0.0, 0.0, 0.05), 0.0);
    }

    #[test]
    fn detectable_gains() {
        let small = detectable_gain(65, 0.015, 0.05, 0.8).unwrap();
        let large = detectable_gain(1000, 0.015, 0.05, 0.8).unwrap();
        assert!(0.05 < small && small < 0.15 && large < 0.5 * small, "{small} {large}");
        assert!(power(65, small + 0.015, 0.015, 0.05) >= 0.8);
        assert_eq!(detectable_gain(3, 0.0, 0.05, 0.8), None);
    }

    #[test]
    fn intervals() {
        let (low, high) = wilson(8, 10, Z95);
        assert!((low - 0.490_162).abs() < 1e-5 && (high - 0.943_318).abs() < 1e-5, "{low} {high}");
        assert_eq!(wilson(0, 0, Z95), (0.0, 1.0));
        assert!(wilson(5, 5, Z95).1 == 1.0 && wilson(0, 5, Z95).0 == 0.0);
        let t = Paired { wins: 9, losses: 1, n: 100 };
        assert!(
            (t.gain() - 0.08).abs() < 1e-12 && (t.standard_error() - (10.0f64 - 0.64).sqrt() / 100.0).abs() < 1e-12
        );
    }
}
