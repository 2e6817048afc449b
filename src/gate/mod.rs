//! Which candidate, if any, may serve? `docs/gate.md` tells the reasons and sources of these rules.

pub(crate) mod binomial;
mod family;
mod judge;
pub mod paired;
pub mod retention;
pub mod split;

pub use judge::{CandidateEvidence, CandidateVerdict, Limits, Refusal, ServingEvidence, Verdict, judge};
