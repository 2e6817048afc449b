//! `doubts.toml`: what the last training says about the feedback that it learned from.

use serde::{Deserialize, Serialize};

use super::Session;
use crate::error::{Error, Result};

/// Version of the file's layout.
pub(super) const FORMAT: u32 = 1;

/// What the last training doubts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Doubts {
    pub format: u32,
    /// When it ended, in Unix milliseconds.
    pub at_ms: u64,
    /// Interactions whose inputs are nearly the same to the base model.
    #[serde(default)]
    pub near_duplicates: Vec<Vec<String>>,
    /// Labels that disagree with what was learned from all others.
    #[serde(default)]
    pub disagrees: Vec<Disagrees>,
    /// Feedback that taught nothing, since its label means something else by newer feedback.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// What the last generation that was promoted answers otherwise than was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<Holds>,
}

/// Feedback from before two labels swapped their meaning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LeftOut {
    pub id: String,
    /// The labels that swapped.
    pub labels: (String, String),
    /// The interaction from which on they are used in the newer way.
    pub since: String,
}

/// Whether the feedback that a generation learned from holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Holds {
    pub generation: u64,
    /// What does not hold.
    #[serde(default)]
    pub not_held: Vec<NotHeldEntry>,
}

/// Feedback that the generation answers otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct NotHeldEntry {
    pub id: String,
    /// The class that was said to be right; none for a rejection of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<String>,
    pub answer: String,
    pub reason: String,
}

/// A label that the candidate, trained without it, finds unlikely.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Disagrees {
    pub id: String,
    pub given: String,
    pub likely: String,
    pub p_given: f32,
    pub p_likely: f32,
}

impl Doubts {
    pub fn to_text(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|e| Error::internal("cannot write what a training doubts").because(e))
    }
}

impl Session {
    /// What the last training that judged candidates doubts; `None` if there was none, something was forgotten since,
    /// or another version wrote it.
    pub(super) fn doubts(&self) -> Result<Option<Doubts>> {
        let odd = |e| Error::bad_data("what the last training doubts cannot be read").because(e).hint("train again");
        let doubts: Option<Doubts> =
            self.store.doubts().text()?.map(|text| toml::from_str(&text)).transpose().map_err(odd)?;
        Ok(doubts.filter(|doubts| doubts.format == FORMAT))
    }
}
