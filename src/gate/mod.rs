//! Which candidate, if any, may serve? `docs/gate.md` tells the reasons and sources of these rules.

mod family;
mod judge;
pub mod retention;
pub mod split;

pub use judge::{CandidateEvidence, CandidateVerdict, Limits, Refusal, ServingEvidence, Verdict, judge};
