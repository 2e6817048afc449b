//! The index of a journal: everything but the inputs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::reader::{FrameReader, damaged};
use super::record::{FeedbackKind, InteractionId, Record, StoredInput};
use crate::adapter::Verdict;
use crate::error::{Error, Result};

/// What the index keeps of an interaction; its input stays in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct InteractionEntry {
    /// Its name.
    pub id: InteractionId,
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// Where its frame starts.
    pub offset: u64,
    /// The best label and its probability; `None` if there was no label.
    pub answer: Option<(Arc<str>, f32)>,
    /// Generation that answered.
    pub generation: u64,
}

/// A feedback.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedbackEntry {
    /// The interaction it speaks of.
    pub id: InteractionId,
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// What was said.
    pub kind: FeedbackKind,
}

/// A training run.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingEntry {
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// The new generation, if one was promoted.
    pub generation: Option<u64>,
    /// What the gate said.
    pub verdict: Verdict,
    /// Optimiser steps.
    pub steps: u64,
    /// Duration.
    pub seconds: f32,
    /// Feedback items recorded before it.
    pub feedback_before: usize,
    /// Interactions recorded before it.
    pub interactions_before: usize,
}

/// Index of a journal: everything but the inputs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JournalState {
    interactions: Vec<InteractionEntry>,
    feedback: Vec<FeedbackEntry>,
    trainings: Vec<TrainingEntry>,
    /// Labels of the answers, each of them once.
    labels: HashSet<Arc<str>>,
    feedback_by_id: HashMap<InteractionId, usize>,
    /// No interaction below it is given out again.
    next_id: u32,
}

impl JournalState {
    /// Interactions in the order of the journal.
    pub fn interactions(&self) -> &[InteractionEntry] {
        &self.interactions
    }
    /// Feedback in the order of the journal.
    pub fn feedback(&self) -> &[FeedbackEntry] {
        &self.feedback
    }
    /// Training runs in the order of the journal.
    pub fn trainings(&self) -> &[TrainingEntry] {
        &self.trainings
    }
    /// One interaction.
    pub fn interaction(&self, id: InteractionId) -> Option<&InteractionEntry> {
        // Ids grow in the order of the journal.
        let at = self.interactions.binary_search_by_key(&id, |i| i.id).ok()?;
        self.interactions.get(at)
    }
    /// The feedback on one interaction.
    pub fn feedback_on(&self, id: InteractionId) -> Option<&FeedbackEntry> {
        self.feedback_by_id.get(&id).and_then(|i| self.feedback.get(*i))
    }
    /// Feedback items recorded since the last training run.
    pub fn waiting(&self) -> usize {
        self.feedback.len().saturating_sub(self.trainings.last().map_or(0, |t| t.feedback_before))
    }
    /// Id of the next interaction.
    ///
    /// # Errors
    /// `Usage` after 2^32 interactions.
    pub fn next_id(&self) -> Result<InteractionId> {
        let after_last = match self.interactions.last() {
            None => Some(0),
            Some(last) => last.id.0.checked_add(1),
        };
        after_last
            .map(|id| InteractionId(id.max(self.next_id)))
            .ok_or_else(|| Error::usage("the journal has no interaction ids left").hint("start a new profile"))
    }

    /// Whether `record` may follow what is there.
    ///
    /// # Errors
    /// `Usage`: an interaction id that does not grow, an unknown id, an id that already has feedback, an unsound input.
    pub fn check(&self, record: &Record) -> Result<()> {
        match record {
            Record::Interaction { id, input, .. } => {
                if self.interactions.last().is_some_and(|last| last.id >= *id) {
                    return Err(Error::usage("the id of a new interaction is not new").at(id));
                }
                if let StoredInput::Arrays(arrays) = input
                    && let Some(bad) = arrays.iter().find(|a| !a.is_sound())
                {
                    let what =
                        format!("{} bytes do not fill an array of {:?} {:?}", bad.data.len(), bad.shape, bad.dtype);
                    return Err(Error::usage(what).at(&bad.name));
                }
                Ok(())
            }
            Record::Feedback { id, .. } if self.interaction(*id).is_none() => {
                Err(Error::usage(format!("there is no interaction {id} in this profile"))
                    .hint("give the id that predict printed, and the same profile"))
            }
            Record::Feedback { id, .. } if self.feedback_by_id.contains_key(id) => {
                Err(Error::usage(format!("interaction {id} already has feedback"))
                    .hint("predict again and give feedback on the new id"))
            }
            Record::Feedback { .. } | Record::Training { .. } | Record::Synced => Ok(()),
        }
    }

    fn shared(&mut self, label: String) -> Arc<str> {
        if let Some(known) = self.labels.get(label.as_str()) {
            return known.clone();
        }
        let label: Arc<str> = label.into();
        self.labels.insert(label.clone());
        label
    }

    /// Takes in a record that passed [`JournalState::check`] and stands at `offset`.
    pub(super) fn apply(&mut self, record: Record, offset: u64) {
        match record {
            Record::Interaction { id, at_ms, top, generation, input: _ } => {
                let answer = top.into_iter().next().map(|(label, p)| (self.shared(label), p));
                self.interactions.push(InteractionEntry { id, at_ms, offset, answer, generation });
            }
            Record::Feedback { id, at_ms, kind } => {
                self.feedback_by_id.insert(id, self.feedback.len());
                self.feedback.push(FeedbackEntry { id, at_ms, kind });
            }
            Record::Training { at_ms, generation, verdict, steps, seconds } => {
                let (feedback_before, interactions_before) = (self.feedback.len(), self.interactions.len());
                self.trainings.push(TrainingEntry {
                    at_ms,
                    generation,
                    verdict,
                    steps,
                    seconds,
                    feedback_before,
                    interactions_before,
                });
            }
            Record::Synced => {}
        }
    }

    /// Takes in all that `reader` still has.
    pub(super) fn absorb(&mut self, reader: &mut FrameReader) -> Result<()> {
        self.next_id = reader.header().next_id;
        while let Some(frame) = reader.next() {
            let frame = frame?;
            if let Err(e) = self.check(&frame.record) {
                reader.skip_to(frame.offset, frame.sequence);
                return Err(damaged(reader.path(), frame.offset, e.what()));
            }
            self.apply(frame.record, frame.offset);
        }
        Ok(())
    }
}
