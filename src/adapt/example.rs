//! What there is to learn: an input, and what somebody said about the answer to it.

use crate::input::Example;
use crate::train::loss::Target;

/// What one example should have been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// This class is right.
    Class(usize),
    /// This class is wrong; the right one is not known.
    Not(usize),
    /// Nobody said anything about the base's answer, this class: what the base thinks is to be kept (distillation, as in
    /// *Learning without Forgetting*, Li and Hoiem 2016).
    Keep(usize),
}

impl Goal {
    /// Group for class-balanced sampling.
    pub fn class(self) -> usize {
        match self {
            Goal::Class(c) | Goal::Not(c) | Goal::Keep(c) => c,
        }
    }
    /// Whether the answer `class` agrees with what is known.
    pub fn agrees(self, class: usize) -> bool {
        match self {
            Goal::Class(c) | Goal::Keep(c) => c == class,
            Goal::Not(c) => c != class,
        }
    }
}

impl Lesson {
    /// The target of the loss.
    pub fn target(&self) -> Target<'_> {
        match self.goal {
            Goal::Class(c) => Target::Class(c),
            Goal::Not(c) => Target::Not(c),
            Goal::Keep(_) => Target::Soft(&self.keep),
        }
    }
}

/// One thing to learn from.
#[derive(Debug, Clone)]
pub struct Lesson {
    /// The input.
    pub example: Example,
    /// What should be answered.
    pub goal: Goal,
    /// Weight in the loss.
    pub weight: f32,
    /// When the feedback came, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whether an earlier generation has learned from it.
    pub earlier: bool,
    /// The base's probabilities, for [`Goal::Keep`]; empty otherwise.
    pub keep: Vec<f32>,
}
