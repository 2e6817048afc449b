//! What a prediction says.

use crate::journal::InteractionId;

/// A label with its probability.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The class.
    pub label: String,
    /// Probability, 0 to 1.
    pub p: f32,
}

/// The answer to one input.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// To give feedback with; none when the disk did not take the record.
    pub id: Option<InteractionId>,
    /// Classes, most probable first; empty while an encoder has learned no class.
    pub top: Vec<Scored>,
    /// Generation that answered; 0 is the plain base.
    pub generation: u64,
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
    let largest = logits.fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let exps: Vec<f32> = logits.iter().map(|z| (z - largest).exp()).collect();
    let total: f32 = exps.iter().sum();
    let mut order: Vec<usize> = (0..exps.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let label = |i: usize| labels.get(i).cloned().unwrap_or_else(|| i.to_string());
    order.into_iter().take(top).map(|i| Scored { label: label(i), p: exps[i] / total }).collect()
}
