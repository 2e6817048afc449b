//! Which feedback a promoted generation answers otherwise than was said, and why: by the names of interactions and
//! classes.

use super::answer::{Scored, scored};
use super::doubts::{Holds, NotHeldEntry};
use crate::adapt::fit::Target;
use crate::adapt::{self, Why};
use crate::input::label::shown;
use crate::journal::{FeedbackKind, InteractionId};

/// How the feedback that a promoted generation learned from holds: labels, accepts and rejections that are neither
/// superseded nor ignored.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Corrections {
    /// Feedback items that the generation answers as was said.
    pub held: usize,
    /// All of them.
    pub of: usize,
    /// Those that it answers otherwise, in order of time.
    pub not_held: Vec<NotHeld>,
}

/// Feedback that the generation which learned from it answers otherwise.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct NotHeld {
    /// The interaction.
    pub id: InteractionId,
    /// What sort of feedback it is: `label`, `accept` or `reject`.
    pub kind: &'static str,
    /// The class that was said to be right; `None` for a rejection.
    pub label: Option<String>,
    /// What the generation answers.
    pub answer: Scored,
    /// The probability that it gives to `label`.
    pub p: Option<f32>,
    /// Why.
    pub why: WhyNotHeld,
    /// The same in a sentence.
    pub reason: String,
}

/// Why feedback does not hold: the most specific of what is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhyNotHeld {
    /// Feedback on nearly the same inputs wants the other answer.
    Outvoted,
    /// Trained without it, the model finds another class likely and this one not.
    Doubted,
    /// None of these: the fit did not reach it.
    NotLearned,
}

impl WhyNotHeld {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            WhyNotHeld::Outvoted => "outvoted",
            WhyNotHeld::Doubted => "doubted",
            WhyNotHeld::NotLearned => "not-learned",
        }
    }
}

/// What `found` is by name; `ids` and `kinds` are those of the training examples.
pub(super) fn named(
    found: &adapt::Corrections,
    ids: &[InteractionId],
    kinds: &[FeedbackKind],
    labels: &[String],
) -> Corrections {
    let name = |class: usize| labels.get(class).cloned().unwrap_or_else(|| class.to_string());
    let class = |class: usize| shown(&name(class)).to_string();
    let one = |u: &adapt::Unheld| {
        let label = match u.target {
            Target::Class(right) => Some(class(right)),
            Target::Not(_) | Target::Keep(_) => None,
        };
        let answer = scored(&name(u.answer), u.p_answer);
        let (why, reason) = match u.why {
            Why::Outvoted { by, to, one } => {
                (WhyNotHeld::Outvoted, outvoted(by, to, ids.get(one), &answer.label, label.as_deref()))
            }
            Why::Doubted { likely, p_likely, p_given } => {
                let (likely, p) = (class(likely), [p_likely, p_given].map(|p| 100.0 * p));
                let reason = format!(
                    "label doubted: trained without it the model holds {likely} for likely, {:.0} % against {:.0} %",
                    p[0], p[1]
                );
                (WhyNotHeld::Doubted, reason)
            }
            Why::NotLearned => (WhyNotHeld::NotLearned, not_learned(&answer, label.as_deref(), u.p_given)),
        };
        let id = *ids.get(u.example)?;
        let kind = kinds.get(u.example)?.name();
        Some(NotHeld { id, kind, label, answer, p: u.p_given, why, reason })
    };
    let not_held: Vec<NotHeld> = found.not_held.iter().filter_map(one).collect();
    Corrections { held: found.of.saturating_sub(not_held.len()), of: found.of, not_held }
}

fn outvoted(by: usize, to: usize, one: Option<&InteractionId>, answer: &str, label: Option<&str>) -> String {
    let said = label.map_or_else(|| format!("not to be {answer}"), |label| format!("to be {label}"));
    let one = one.map(ToString::to_string).unwrap_or_default();
    match by {
        1 => format!("outvoted: interaction {one} is nearly the same and is said to be {answer}"),
        _ => format!(
            "outvoted: {by} near-duplicates, such as interaction {one}, are said to be {answer}, and {to} {said}"
        ),
    }
}

fn not_learned(answer: &Scored, label: Option<&str>, p: Option<f32>) -> String {
    match (label, p) {
        (Some(label), Some(p)) => format!("not learned: {label} has a probability of {:.0} %", 100.0 * p),
        _ => format!("not learned: {} still has a probability of {:.0} %", answer.label, 100.0 * answer.p),
    }
}

impl Corrections {
    /// What is kept of it for the listing of interactions.
    pub(super) fn kept(&self, generation: u64) -> Holds {
        let entry = |n: &NotHeld| NotHeldEntry {
            id: n.id.to_string(),
            given: n.label.clone(),
            answer: n.answer.label.clone(),
            reason: n.reason.clone(),
        };
        Holds { generation, not_held: self.not_held.iter().map(entry).collect() }
    }
}
