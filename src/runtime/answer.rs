//! What a prediction says.

use crate::journal::InteractionId;
use crate::stats::rows::softmax;

/// A label with its probability.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Scored {
    /// The class.
    pub label: String,
    /// Probability, 0 to 1.
    pub p: f32,
}

/// The answer to one input.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Answer {
    /// To give feedback with; none when the disk did not take the record.
    pub id: Option<InteractionId>,
    /// Classes, most probable first; empty while an encoder has learned no class.
    pub top: Vec<Scored>,
    /// Generation that answered; 0 is the base model.
    pub generation: u64,
    /// Whether a label of this input would teach more than that of most others; at most for a share of all answers, the
    /// home's `ask_rate`.
    pub ask: bool,
    /// Why there is no id, for a warning.
    pub unrecorded: Option<String>,
}

impl Answer {
    /// The most probable label.
    pub fn label(&self) -> Option<&str> {
        self.top.first().map(|s| s.label.as_str())
    }
}

/// `softmax(logits)` as labelled probabilities, most probable first, the first of equals first.
pub(crate) fn ranked(logits: ndarray::ArrayView1<f32>, labels: &[String], top: usize) -> Vec<Scored> {
    let p = softmax(logits);
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let label = |i: usize| labels.get(i).cloned().unwrap_or_else(|| i.to_string());
    order.into_iter().take(top).map(|i| Scored { label: label(i), p: p[i] }).collect()
}
