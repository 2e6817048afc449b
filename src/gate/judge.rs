//! The decision over a sequence of candidates.

use super::family::{Member, adjusted};
use super::limits::Limits;
use super::retention::{Retention, RetentionCall};
use crate::error::{Error, Result};
use crate::stats::paired::{Decision, Paired, Z95, detectable_gain, mean_gap, wilson, within};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The active generation, on the validation items.
#[derive(Clone, Copy, Debug)]
pub struct ServingEvidence<'a> {
    /// Per item: was its answer right?
    pub correct: &'a [bool],
}

/// A candidate on the same items, each judged by a model that was not taught with it.
#[derive(Clone, Copy, Debug)]
pub struct CandidateEvidence<'a> {
    /// What the user sees: "head", "last block", "all sites".
    pub name: &'a str,
    /// Order of preference on a tie: the smaller one is taken.
    pub depth: u32,
    /// Per item: was its answer right?
    pub correct: &'a [bool],
    /// Everything that this version was chosen among by these items, itself included or not: per version and item, was
    /// it right?
    pub versions: &'a [Vec<bool>],
    /// Per item: its loss (−ln of the probability of the right answer, or the loss of a rejection).
    pub loss: &'a [f32],
    /// On inputs that nobody corrected.
    pub retention: Retention,
}

/// Why a candidate may not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refusal {
    /// Not shown to be better than the active generation.
    NotBetter,
    /// It changed too many answers that nobody had corrected.
    Forgets,
    /// A loss is not a finite number.
    NotFinite,
}

/// What was found about one candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateVerdict {
    /// Its name.
    pub name: String,
    /// Its depth.
    pub depth: u32,
    /// Accuracy on what it did not see.
    pub accuracy: f64,
    /// Wilson's 95 % interval of the accuracy.
    pub interval: (f64, f64),
    /// Mean loss on what it did not see.
    pub loss: f64,
    /// Against the active generation.
    pub decision: Decision,
    /// On uncorrected inputs.
    pub retention: Retention,
    /// How the retention stands to the limit.
    pub call: RetentionCall,
    /// Why it may not serve; `None` when it may.
    pub refusal: Option<Refusal>,
}

/// The decision, to be stored with the generation. `Display` gives it in plain words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Index of the candidate that may serve.
    pub chosen: Option<usize>,
    /// Items that judged.
    pub n: u64,
    /// Accuracy of the active generation, on them.
    pub serving_accuracy: f64,
    /// In the order given.
    pub candidates: Vec<CandidateVerdict>,
    /// The smallest gain in accuracy that one candidate's test would find four times out of five (assuming that one
    /// answer in a hundred gets worse).
    pub detectable: Option<f64>,
    /// One sentence: what was decided, and why.
    pub reason: String,
}

/// Judges a sequence of candidates.
///
/// 1. *Better*: the paired test against the active generation, at `alpha` over all versions of all candidates, and
///    over those `given_up` (a list of versions each), which may not serve and were tried all the same.
/// 2. *Nothing forgotten*: the disagreement with the base within its limit.
/// 3. Among those, the highest accuracy; on equal accuracy the lower loss; then the preferred.
/// 4. A preferred one that is within chance (1.645 standard errors, one-sided 5 %) of that best, in accuracy and in
///    loss, is taken instead.
///
/// # Errors
/// When the lists of items differ in length, or a limit is out of range.
pub fn judge(
    serving: &ServingEvidence<'_>,
    candidates: &[CandidateEvidence<'_>],
    given_up: &[Vec<Vec<bool>>],
    limits: &Limits,
) -> Result<Verdict> {
    if !(limits.alpha > 0.0 && limits.alpha <= 0.5 && (0.0..=1.0).contains(&limits.disagreement)) {
        return Err(Error::usage("the gate's alpha must be in (0, 0.5] and its disagreement limit in [0, 1]"));
    }
    let n = serving.correct.len();
    if let Some(c) = candidates.iter().find(|c| c.correct.len() != n || c.loss.len() != n) {
        return Err(Error::internal(format!(
            "a candidate was judged on {} answers and {} losses, not on {n}",
            c.correct.len(),
            c.loss.len()
        ))
        .at(c.name));
    }
    fn versions(of: &[Vec<bool>]) -> Vec<&[bool]> {
        of.iter().map(Vec::as_slice).collect()
    }
    let tried: Vec<Member<'_>> = (candidates.iter())
        .map(|c| Member { chosen: Some(c.correct), versions: versions(c.versions) })
        .chain(given_up.iter().map(|g| Member { chosen: None, versions: versions(g) }))
        .collect();
    let verdicts: Vec<CandidateVerdict> = (candidates.iter())
        .zip(adjusted(serving.correct, &tried))
        .map(|(c, p)| verdict_on(c, Paired::count(c.correct, serving.correct).decide(p, limits.alpha), limits))
        .collect();
    let chosen = choose(candidates, &verdicts);
    let serving_accuracy = accuracy(serving.correct);
    let detectable = detectable_gain(n as u64, 0.01, limits.alpha, 0.8);
    let reason = reason(&verdicts, chosen, serving_accuracy, limits);
    Ok(Verdict { chosen, n: n as u64, serving_accuracy, candidates: verdicts, detectable, reason })
}

fn verdict_on(c: &CandidateEvidence<'_>, decision: Decision, limits: &Limits) -> CandidateVerdict {
    let right = c.correct.iter().filter(|&&r| r).count() as u64;
    let loss = c.loss.iter().map(|&l| f64::from(l)).sum::<f64>() / c.loss.len().max(1) as f64;
    let call = c.retention.call(limits.disagreement);
    let kept = c.retention.is_within(limits);
    let refusal = if !loss.is_finite() {
        Some(Refusal::NotFinite)
    } else if !decision.passed() {
        Some(Refusal::NotBetter)
    } else if !kept {
        Some(Refusal::Forgets)
    } else {
        None
    };
    CandidateVerdict {
        name: c.name.to_owned(),
        depth: c.depth,
        accuracy: accuracy(c.correct),
        interval: wilson(right, c.correct.len() as u64, Z95),
        loss,
        decision,
        retention: c.retention,
        call,
        refusal,
    }
}

/// Steps 3 and 4 of [`judge`].
fn choose(candidates: &[CandidateEvidence<'_>], verdicts: &[CandidateVerdict]) -> Option<usize> {
    let passing = || candidates.iter().zip(verdicts).enumerate().filter(|(_, (_, v))| v.refusal.is_none());
    let (_, (best, best_verdict)) = passing().min_by(|(i, (_, a)), (j, (_, b))| {
        b.accuracy.total_cmp(&a.accuracy).then(a.loss.total_cmp(&b.loss)).then(a.depth.cmp(&b.depth)).then(i.cmp(j))
    })?;
    passing()
        .filter(|(_, (c, v))| {
            let gap = Paired::count(best.correct, c.correct);
            let tied = within(gap.gap()) && within(mean_gap(c.loss, best.loss, std::iter::repeat(1.0)));
            tied || std::ptr::eq(*v, best_verdict)
        })
        .min_by(|(i, (_, a)), (j, (_, b))| {
            a.depth.cmp(&b.depth).then(b.accuracy.total_cmp(&a.accuracy)).then(a.loss.total_cmp(&b.loss)).then(i.cmp(j))
        })
        .map(|(index, _)| index)
}

fn accuracy(correct: &[bool]) -> f64 {
    correct.iter().filter(|&&c| c).count() as f64 / correct.len().max(1) as f64
}

fn reason(verdicts: &[CandidateVerdict], chosen: Option<usize>, serving: f64, limits: &Limits) -> String {
    let percent = |v: f64| 100.0 * v;
    if let Some(v) = chosen.and_then(|c| verdicts.get(c)) {
        let best = verdicts.iter().filter(|o| o.refusal.is_none()).fold(v.accuracy, |m, o| m.max(o.accuracy));
        let tie = if best > v.accuracy { "; what another had more is within chance" } else { "" };
        return format!(
            "{} may serve: accuracy {:.1} % -> {:.1} %, {}{tie}",
            v.name,
            percent(serving),
            percent(v.accuracy),
            v.decision
        );
    }
    // The one that came closest: past the test but forgetful, or else the most accurate.
    let rank = |v: &&CandidateVerdict| (v.refusal == Some(Refusal::Forgets), v.accuracy);
    let closest = verdicts.iter().max_by(|a, b| {
        let ((fa, aa), (fb, ab)) = (rank(a), rank(b));
        fa.cmp(&fb).then(aa.total_cmp(&ab)).then(b.depth.cmp(&a.depth))
    });
    match closest {
        None => "nothing was trained".to_owned(),
        Some(v) => match v.refusal {
            Some(Refusal::Forgets) => {
                format!("{} is better on your corrections but forgets too much: {}", v.name, v.retention.over(limits))
            }
            Some(Refusal::NotFinite) => format!("{} gave a loss that is not a finite number", v.name),
            _ => match v.decision {
                Decision::TooFew { .. } => v.decision.to_string(),
                Decision::NotShown { test, .. } => {
                    format!("{} is {}; p = {:.3} or less was needed", v.name, v.decision, test.level(limits.alpha))
                }
                _ => format!("{} is {}", v.name, v.decision),
            },
        },
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.reason)?;
        for (index, v) in self.candidates.iter().enumerate() {
            let mark = if self.chosen == Some(index) { '*' } else { ' ' };
            let (low, high) = v.interval;
            writeln!(
                f,
                "{mark} {}: {:.1} % right ({:.0} to {:.0} %), {}; {}",
                v.name,
                100.0 * v.accuracy,
                100.0 * low,
                100.0 * high,
                v.decision,
                v.retention
            )?;
        }
        match self.detectable {
            Some(gain) => write!(
                f,
                "with {} answers a gain of {:.0} points would be seen four times out of five",
                self.n,
                (100.0 * gain).ceil()
            ),
            None => write!(f, "{} answers are too few to see any gain reliably", self.n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Retention = Retention { n: 200, disagreements: 0, rate: 0.0, lower: 0.0, upper: 0.015, mean_kl: 0.0 };

    /// `right` right answers out of n, the first ones; losses of 0.1 when right and `wrong` otherwise, with some
    /// spread.
    fn items(n: usize, right: usize, wrong: f32) -> (Vec<bool>, Vec<f32>) {
        (0..n).map(|i| (i < right, if i < right { 0.1 } else { wrong } + 0.01 * (i % 7) as f32)).unzip()
    }
    fn candidate<'a>(
        name: &'a str,
        depth: u32,
        items: &'a (Vec<bool>, Vec<f32>),
        retention: Retention,
    ) -> CandidateEvidence<'a> {
        CandidateEvidence { name, depth, correct: &items.0, versions: &[], loss: &items.1, retention }
    }

    #[test]
    fn the_best_passing_candidate_serves() {
        let serving = items(65, 52, 2.0).0;
        let (head, block, all) = (items(65, 54, 2.0), items(65, 63, 2.0), items(65, 60, 2.0));
        let candidates = [
            candidate("head", 0, &head, KEPT),
            candidate("last block", 1, &block, KEPT),
            candidate("all sites", 2, &all, KEPT),
        ];
        let v = judge(&ServingEvidence { correct: &serving }, &candidates, &[], &Limits::default()).unwrap();
        assert_eq!(v.chosen, Some(1));
        assert_eq!(
            v.reason,
            "last block may serve: accuracy 80.0 % -> 96.9 %, better: 11 of 65 answers got right, 0 got wrong, p < 0.001"
        );
        assert_eq!(v.candidates[0].refusal, Some(Refusal::NotBetter));
        let text = v.to_string();
        assert!(text.contains("* last block: 96.9 % right") && text.contains("with 65 answers a gain of"), "{text}");
        let bytes = postcard::to_stdvec(&v).unwrap();
        assert_eq!(v, postcard::from_bytes(&bytes).unwrap());
    }

    #[test]
    fn the_shallower_wins_a_tie_unless_the_loss_says_otherwise() {
        let serving = items(65, 40, 2.0).0;
        let (head, all) = (items(65, 60, 2.0), items(65, 61, 2.0));
        let chosen = |all: &(Vec<bool>, Vec<f32>)| {
            let candidates = [candidate("all sites", 2, all, KEPT), candidate("head", 0, &head, KEPT)];
            judge(&ServingEvidence { correct: &serving }, &candidates, &[], &Limits::default()).unwrap().chosen
        };
        assert_eq!(chosen(&all), Some(1));
        // Equal accuracy, but far surer: the loss differs by many standard errors.
        let surer = (all.0.clone(), all.1.iter().map(|l| l * 0.5).collect());
        assert_eq!(chosen(&surer), Some(0));
    }

    #[test]
    fn what_forgets_does_not_serve() {
        let serving = items(65, 40, 2.0).0;
        let (head, all) = (items(65, 55, 2.0), items(65, 64, 2.0));
        let forgets = Retention::from_counts(30, 200, 0.3);
        let candidates = [candidate("head", 0, &head, KEPT), candidate("all sites", 2, &all, forgets)];
        let v = judge(&ServingEvidence { correct: &serving }, &candidates, &[], &Limits::default()).unwrap();
        assert_eq!((v.chosen, v.candidates[1].refusal), (Some(0), Some(Refusal::Forgets)));
        let v = judge(&ServingEvidence { correct: &serving }, &candidates[1..], &[], &Limits::default()).unwrap();
        assert!(v.chosen.is_none() && v.reason.contains("forgets too much: 30 of 200"), "{}", v.reason);
        let few = Retention::from_counts(0, 10, 0.0);
        let candidates = [candidate("head", 0, &head, few)];
        let strict = |strict| {
            judge(&ServingEvidence { correct: &serving }, &candidates, &[], &Limits { strict, ..Limits::default() })
                .unwrap()
                .chosen
        };
        assert_eq!((strict(false), strict(true)), (Some(0), None));
    }

    #[test]
    fn more_versions_ask_for_more_evidence() {
        let serving = items(65, 55, 2.0).0;
        let a = items(65, 59, 2.0);
        // As many right, on other items: as if it had been luck.
        let other: Vec<bool> = (0..65).map(|i| !(55..61).contains(&i)).collect();
        let mut lucky = [candidate("head", 0, &a, KEPT)];
        let chosen = |l: &[CandidateEvidence<'_>], given_up: &[Vec<Vec<bool>>]| {
            judge(&ServingEvidence { correct: &serving }, l, given_up, &Limits::default()).unwrap().chosen
        };
        assert_eq!(chosen(&lucky, &[]), Some(0));
        assert_eq!(chosen(&lucky, &[vec![a.0.clone(); 3]]), Some(0), "the same answers are no other chance");
        assert_eq!(chosen(&lucky, &[vec![other.clone(); 3]]), None, "a candidate that was given up was another chance");
        let versions = [a.0.clone(), other];
        lucky[0].versions = &versions;
        assert_eq!(chosen(&lucky, &[]), None, "and so was a version that was not taken");
    }

    #[test]
    fn bad_evidence() {
        let serving = items(65, 40, 2.0).0;
        let mut head = items(65, 60, 2.0);
        head.1[3] = f32::NAN;
        let v = judge(
            &ServingEvidence { correct: &serving },
            &[candidate("head", 0, &head, KEPT)],
            &[],
            &Limits::default(),
        )
        .unwrap();
        assert_eq!((v.chosen, v.candidates[0].refusal), (None, Some(Refusal::NotFinite)));
        let short = items(64, 60, 2.0);
        assert!(
            judge(
                &ServingEvidence { correct: &serving },
                &[candidate("head", 0, &short, KEPT)],
                &[],
                &Limits::default()
            )
            .is_err()
        );
        assert!(
            judge(&ServingEvidence { correct: &serving }, &[], &[], &Limits { alpha: f64::NAN, ..Limits::default() })
                .is_err()
        );
        let none = judge(&ServingEvidence { correct: &[] }, &[], &[], &Limits::default()).unwrap();
        assert_eq!((none.chosen, none.reason.as_str()), (None, "nothing was trained"));
        let (before, few) = (items(3, 0, 2.0).0, items(3, 3, 2.0));
        let v =
            judge(&ServingEvidence { correct: &before }, &[candidate("head", 0, &few, KEPT)], &[], &Limits::default())
                .unwrap();
        assert!(
            v.chosen.is_none() && v.reason.starts_with("too little feedback to decide: 3 answers, at least 5"),
            "{}",
            v.reason
        );
    }
}
