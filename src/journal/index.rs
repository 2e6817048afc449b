//! What a journal records about its own sealed segments; see `docs/journal-format.md`.

use serde::{Deserialize, Serialize};

use super::id::{InteractionId, JournalId};

/// A sealed segment, as the file that grows lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentInfo {
    /// Number in its file's name; never used for another.
    pub number: u32,
    /// Name of its file.
    pub id: JournalId,
    /// Length of its file.
    pub bytes: u64,
    /// Where its footer starts.
    pub footer: u64,
    /// Whether everything without feedback has been dropped.
    pub spoken_only: bool,
}

/// Where the record of an interaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The interaction.
    pub id: InteractionId,
    /// Where its frame starts.
    pub offset: u64,
}

/// A training's record in a segment, and what stands before it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingPlace {
    /// Where its frame starts.
    pub offset: u64,
    /// Interactions before it.
    pub interactions: u64,
    /// Feedback items before it.
    pub feedback: u64,
    /// The last interaction before it.
    pub last: Option<InteractionId>,
}

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Footer {
    /// Number of interactions.
    pub interactions: u64,
    /// Number of feedback items.
    pub feedback: u64,
    /// Of these, answers that were called wrong without saying what is right.
    pub rejected: u64,
    /// The highest id of an interaction here.
    pub last: Option<InteractionId>,
    /// The first interaction of each block of their index, and where the block stands.
    pub blocks: Vec<Place>,
    /// The highest id that a feedback here is about.
    pub last_feedback: Option<InteractionId>,
    /// As `blocks`, of the interactions that feedback here is about.
    pub feedback_blocks: Vec<Place>,
    /// Training runs.
    pub trainings: Vec<TrainingPlace>,
    /// The labels that feedback named, each once, in order.
    pub labels: Vec<String>,
}

/// The revisions among the feedback of a segment, or of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Revised {
    /// Number of revisions.
    pub revisions: u64,
    /// Of these, those that replace a rejection.
    pub were_rejected: u64,
    /// Those that ignore what was said.
    pub ignored: u64,
    /// Those that replace one that ignores.
    pub were_ignored: u64,
}

impl Revised {
    /// Those of both.
    pub fn plus(&self, other: &Revised) -> Revised {
        Revised {
            revisions: self.revisions.saturating_add(other.revisions),
            were_rejected: self.were_rejected.saturating_add(other.were_rejected),
            ignored: self.ignored.saturating_add(other.ignored),
            were_ignored: self.were_ignored.saturating_add(other.were_ignored),
        }
    }
}
