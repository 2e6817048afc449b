//! Which candidate, if any, may serve? `docs/gate.md` tells the reasons and sources of these rules.

mod family;
mod judge;
pub mod language;
mod limits;
pub mod retention;
pub mod split;

pub use judge::{CandidateEvidence, CandidateVerdict, Refusal, ServingEvidence, Verdict, judge};
pub use limits::Limits;
