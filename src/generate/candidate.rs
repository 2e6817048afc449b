//! A token that may come next.

/// A token that may come next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Its id: the index of its logit.
    pub token: u32,
    /// Its logit after penalty and temperature.
    pub logit: f32,
    /// Its probability among the candidates.
    pub probability: f64,
}
