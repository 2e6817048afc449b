//! The latest feedback on one generation's answers, in memory: what asking for it costs after each further feedback
//! does not depend on how much came before.

use std::collections::VecDeque;

use super::frame::JournalId;
use super::state::{JournalState, Spoken};
use crate::error::Result;

/// What was asked for last, and how much of the journal it covers.
#[derive(Debug)]
pub(super) struct Recent {
    generation: u64,
    most: usize,
    /// The growing file, and how many feedback items of it are taken in.
    file: JournalId,
    taken: usize,
    items: VecDeque<Spoken>,
}

impl Recent {
    /// Reads back from the end of the journal.
    pub(super) fn read(state: &JournalState, file: JournalId, generation: u64, most: usize) -> Result<Recent> {
        let items = state.latest_feedback_on(generation, most)?.into();
        Ok(Recent { generation, most, file, taken: state.feedback.len(), items })
    }

    /// Whether it is about the same, and everything that it covers is still there and holds.
    pub(super) fn covers(&self, state: &JournalState, file: JournalId, generation: u64, most: usize) -> bool {
        (self.file, self.generation, self.most) == (file, generation, most)
            && state.feedback.get(self.taken..).is_some_and(|new| new.iter().all(|entry| entry.was.is_none()))
    }

    /// Takes in what was said since.
    pub(super) fn follow(&mut self, state: &JournalState) -> Result<()> {
        for entry in state.feedback.iter().skip(self.taken) {
            let spoken = state.about(entry.clone())?;
            self.items.extend(spoken.filter(|spoken| spoken.interaction.generation == self.generation));
            self.taken = self.taken.saturating_add(1);
        }
        self.items.drain(..self.items.len().saturating_sub(self.most));
        Ok(())
    }

    /// Oldest first.
    pub(super) fn items(&self) -> impl Iterator<Item = &Spoken> {
        self.items.iter()
    }
}
