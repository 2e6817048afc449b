//! What a prediction says.

use crate::input::label::{NONE_OF_THESE, shown};
use crate::journal::InteractionId;
use crate::stats::rows::softmax_at;

/// A label with its probability.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Scored {
    /// The class.
    pub label: String,
    /// Probability, 0 to 1.
    pub p: f32,
    /// Whether it is the class of inputs that are none of the classes: `label` is `none of these` then, and a class of
    /// that name that a person made is another one.
    pub none: bool,
}

impl Scored {
    /// The class under its own name, which the journal keeps.
    pub(crate) fn class(&self) -> &str {
        if self.none { NONE_OF_THESE } else { &self.label }
    }
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
    /// Whether the answer is that the input is none of the classes: by the class of these, or since it is unlike the
    /// known inputs at the home's `none_rate`. `top` then still says which class would be it otherwise.
    pub none: bool,
    /// Share of known inputs that are at least as unusual as this one; none where that was not asked for or cannot be
    /// said.
    pub familiarity: Option<f32>,
    /// Why there is no id, for a warning.
    pub unrecorded: Option<String>,
}

impl Answer {
    /// The most probable label, also where [`Answer::none`] says that it is not likely to be right.
    pub fn label(&self) -> Option<&str> {
        self.top.first().map(|s| s.label.as_str())
    }
}

/// `softmax(logits / temperature)` as labelled probabilities, most probable first, the first of equals first: the
/// order is that of the logits, whatever the temperature.
pub(crate) fn ranked(logits: ndarray::ArrayView1<f32>, temperature: f32, labels: &[String], top: usize) -> Vec<Scored> {
    let p = softmax_at(logits, temperature);
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let label = |i: usize| labels.get(i).cloned().unwrap_or_else(|| i.to_string());
    order.into_iter().take(top).map(|i| scored(&label(i), p[i])).collect()
}

/// A class by the name that the journal keeps, and its probability.
pub(crate) fn scored(class: &str, p: f32) -> Scored {
    Scored { none: class == NONE_OF_THESE, label: shown(class).to_string(), p }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temperature_changes_probabilities_and_no_order() {
        let logits = ndarray::array![0.5f32, 3.0, 3.0, 1.0, 2.999_999_8];
        let labels = ["a", "b", "c", "d", "e"].map(String::from);
        let order = |t: f32| ranked(logits.view(), t, &labels, 5).into_iter().map(|s| s.label).collect::<Vec<_>>();
        for t in [0.0625, 0.5, 1.0, 2.0, 16.0, 1e6] {
            assert_eq!(order(t), ["b", "c", "e", "d", "a"], "{t}");
        }
        let p = |t: f32| ranked(logits.view(), t, &labels, 1)[0].p;
        assert!(p(0.5) > p(1.0) && p(1.0) > p(4.0) && p(1e6) - 0.2 < 1e-5);
        let plain = crate::stats::rows::softmax(logits.view());
        assert_eq!(p(1.0), plain[1], "1 changes no bit");
    }
}
