//! What a candidate must keep to.

use serde::{Deserialize, Serialize};

/// The user's limits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Greatest probability of promoting anything when no candidate is better (one-sided, over the whole sequence of candidates).
    pub alpha: f64,
    /// Greatest rate of disagreement with the base on uncorrected inputs, broken when its lower confidence bound is above it.
    pub disagreement: f64,
    /// Whether the upper confidence bound of the rate must be within the limit too. It takes about `3/limit` inputs to show that.
    pub strict: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { alpha: 0.05, disagreement: 0.10, strict: false }
    }
}
