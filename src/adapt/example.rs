//! What there is to learn: an input, and what somebody said about the answer to it.

use crate::input::Example;
use crate::train::loss::LossTarget;

/// What one example should have been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// This class is right.
    Class(usize),
    /// This class is wrong; the right one is not known.
    Not(usize),
    /// Nobody said anything about the base's answer, this class: what the base thinks is to be kept (distillation, as in
    /// *Learning without Forgetting*, Li and Hoiem 2016).
    Keep(usize),
}

impl Target {
    /// Group for class-balanced sampling.
    pub fn class(self) -> usize {
        match self {
            Target::Class(c) | Target::Not(c) | Target::Keep(c) => c,
        }
    }
    /// Whether the answer `class` agrees with what is known.
    pub fn agrees(self, class: usize) -> bool {
        match self {
            Target::Class(c) | Target::Keep(c) => c == class,
            Target::Not(c) => c != class,
        }
    }
}

impl TrainingExample {
    /// The target of the loss.
    pub fn target(&self) -> LossTarget<'_> {
        match self.target {
            Target::Class(c) => LossTarget::Class(c),
            Target::Not(c) => LossTarget::Not(c),
            Target::Keep(_) => LossTarget::Soft(&self.keep),
        }
    }
}

/// One thing to learn from.
#[derive(Debug, Clone)]
pub struct TrainingExample {
    /// The input.
    pub example: Example,
    /// What should be answered.
    pub target: Target,
    /// Weight in the loss.
    pub weight: f32,
    /// When the feedback came, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whether an earlier generation has learned from it.
    pub earlier: bool,
    /// The base's probabilities, for [`Target::Keep`]; empty otherwise.
    pub keep: Vec<f32>,
}
