//! The index of a journal: everything but the inputs. In memory is that of the growing file; that of the segments stays in them,
//! see `lookup`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::reader::{FrameReader, damaged};
use super::record::{FeedbackKind, InteractionId, NOVEL, Record, StoredInput};
use super::rewrite::{after, check_list};
use super::segment::{Revised, Sealed, SegmentInfo};
use crate::adapter::Verdict;
use crate::disk::Disk;
use crate::error::{Error, Result};

/// What the index keeps of an interaction; its input stays in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct InteractionEntry {
    /// Its name.
    pub id: InteractionId,
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// Where its frame starts in its file.
    pub offset: u64,
    /// The best label and its probability; `None` if there was no label.
    pub answer: Option<(Arc<str>, f32)>,
    /// Generation that answered.
    pub generation: u64,
    /// Whether the answer was that the input is like none of the known ones.
    pub novel: bool,
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
    /// What had been said before, where this is a revision.
    pub was: Option<FeedbackKind>,
}

/// A feedback with the interaction that it is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Spoken {
    /// The interaction.
    pub interaction: InteractionEntry,
    /// What was said about it.
    pub kind: FeedbackKind,
}

/// What holds of all that was said about an interaction.
#[derive(Debug, Clone, PartialEq)]
pub struct LastWord {
    /// The last of it.
    pub entry: FeedbackEntry,
    /// When it was spoken about first.
    pub first_ms: u64,
    /// Feedback items of the journal before the first of it.
    pub first: usize,
    /// And before the last.
    pub last: usize,
}

/// A training run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
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
    /// Feedback items that it read: those recorded before it began.
    pub feedback_before: usize,
    /// Interactions recorded before it.
    pub interactions_before: usize,
    /// Every interaction recorded before it has an id below this, and every one after it none.
    pub ids_before: u32,
}

/// Index of a journal: everything but the inputs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JournalState {
    pub(super) sealed: Vec<Arc<Sealed>>,
    /// Of the growing file.
    pub(super) interactions: Vec<InteractionEntry>,
    pub(super) feedback: Vec<FeedbackEntry>,
    pub(super) feedback_by_id: HashMap<InteractionId, usize>,
    /// Labels of the answers, each of them once.
    labels: HashSet<Arc<str>>,
    /// Of all of it.
    trainings: Vec<TrainingEntry>,
    /// Labels that feedback named, each of them once, in order.
    named: Vec<Arc<str>>,
    named_once: HashSet<Arc<str>>,
    counts: Counts,
    /// The last id of the segments.
    last_sealed: Option<InteractionId>,
    /// No interaction below it is given out again.
    next_id: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    interactions: usize,
    /// Revisions among them.
    feedback: usize,
    /// Items that reject, whether or not they hold.
    rejected: usize,
    revised: Revised,
}

/// What a record's classes say was answered, and whether it was that the input is like none of the known ones.
pub(crate) fn answer_of(top: &[(String, f32)]) -> (Option<(&str, f32)>, bool) {
    let best = top.first().filter(|(label, _)| label != NOVEL);
    (best.map(|(label, p)| (label.as_str(), *p)), is_novel(top))
}

pub(super) fn is_novel(top: &[(String, f32)]) -> bool {
    top.iter().any(|(label, _)| label == NOVEL)
}

fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl JournalState {
    /// Number of interactions.
    pub fn interactions(&self) -> usize {
        self.counts.interactions
    }
    /// Number of feedback items, revisions among them.
    pub fn feedback(&self) -> usize {
        self.counts.feedback
    }
    /// Number of interactions with feedback.
    pub fn spoken(&self) -> usize {
        self.counts.feedback.saturating_sub(size(self.counts.revised.revisions))
    }
    /// Number of interactions whose feedback calls the answer wrong without saying what is right.
    pub fn rejected(&self) -> usize {
        self.counts.rejected.saturating_sub(size(self.counts.revised.were_rejected))
    }
    /// Number of interactions whose feedback is ignored.
    pub fn ignored(&self) -> usize {
        let revised = &self.counts.revised;
        size(revised.ignored.saturating_sub(revised.were_ignored))
    }
    /// Training runs in the order of the journal.
    pub fn trainings(&self) -> &[TrainingEntry] {
        &self.trainings
    }
    /// Labels that feedback named, each once, in the order of the journal.
    pub fn named_labels(&self) -> &[Arc<str>] {
        &self.named
    }
    /// The sealed segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.sealed.iter().map(|segment| segment.info.clone()).collect()
    }
    pub(super) fn sealed(&self) -> &[Arc<Sealed>] {
        &self.sealed
    }
    /// Records of the growing file.
    pub(super) fn growing(&self) -> u64 {
        self.interactions.len().saturating_add(self.feedback.len()) as u64
    }
    /// Feedback items that the last training run did not read.
    pub fn waiting(&self) -> usize {
        self.counts.feedback.saturating_sub(self.trainings.last().map_or(0, |t| t.feedback_before))
    }
    /// Id of the latest interaction that is there.
    pub fn last(&self) -> Option<InteractionId> {
        self.interactions.last().map(|i| i.id).or(self.last_sealed)
    }
    /// Id of the next interaction.
    ///
    /// # Errors
    /// `Usage` after 2^32 interactions.
    pub fn next_id(&self) -> Result<InteractionId> {
        let after_last = self.last().map_or(Some(0), |last| last.0.checked_add(1));
        after_last
            .map(|id| InteractionId(id.max(self.next_id)))
            .ok_or_else(|| Error::usage("the journal has no interaction ids left").hint("start a new profile"))
    }

    pub(super) fn growing_interaction(&self, id: InteractionId) -> Option<&InteractionEntry> {
        // Ids grow in the order of the journal.
        let at = self.interactions.binary_search_by_key(&id, |i| i.id).ok()?;
        self.interactions.get(at)
    }

    /// Whether `record` may follow what is there.
    ///
    /// # Errors
    /// `Usage`: an interaction id that does not grow, an unknown id, an id that already has feedback, an unsound input.
    /// `BadData`, `Io` where a segment cannot be read.
    pub fn check(&self, record: &Record) -> Result<()> {
        match record {
            Record::Interaction { id, input, .. } => {
                if self.last().is_some_and(|last| last >= *id) {
                    return Err(Error::usage("the id of a new interaction is not new").at(id));
                }
                check_input(input)
            }
            Record::Feedback { id, .. } if self.locate(*id)?.is_none() => Err(no_such_interaction(*id)),
            Record::Feedback { id, .. } if self.has_feedback(*id)? => Err(already_has_feedback(*id)),
            Record::Feedback { id, kind: FeedbackKind::Ignored, .. } => Err(no_feedback(*id)),
            Record::Revision { id, was, .. } => match self.feedback_on(*id)? {
                Some(said) if said.kind == *was => Ok(()),
                Some(_) => Err(Error::usage("a revision of something else than was said last").at(id)),
                None => Err(no_feedback(*id)),
            },
            _ => Ok(()),
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

    fn name(&mut self, label: &str) {
        if !self.named_once.contains(label) {
            let label: Arc<str> = label.into();
            self.named_once.insert(label.clone());
            self.named.push(label);
        }
    }

    /// Takes in a record that passed [`JournalState::check`] and stands at `offset` of the growing file.
    pub(super) fn apply(&mut self, record: Record, offset: u64) {
        match record {
            Record::Interaction { id, at_ms, top, generation, input: _ } => {
                let novel = is_novel(&top);
                let best = top.into_iter().next().filter(|(label, _)| label != NOVEL);
                let answer = best.map(|(label, p)| (self.shared(label), p));
                self.interactions.push(InteractionEntry { id, at_ms, offset, answer, generation, novel });
                self.counts.interactions = self.counts.interactions.saturating_add(1);
            }
            Record::Feedback { id, at_ms, kind } => self.take_feedback(FeedbackEntry { id, at_ms, kind, was: None }),
            Record::Revision { id, at_ms, kind, was } => {
                self.counts.revised = self.counts.revised.plus(&kind.in_place_of(&was));
                self.take_feedback(FeedbackEntry { id, at_ms, kind, was: Some(was) });
            }
            Record::Training { at_ms, generation, verdict, steps, seconds, unread } => {
                let interactions_before = self.counts.interactions;
                let feedback_before = self.counts.feedback.saturating_sub(size(unread));
                let ids_before = after(self.last());
                self.trainings.push(TrainingEntry {
                    at_ms,
                    generation,
                    verdict,
                    steps,
                    seconds,
                    feedback_before,
                    interactions_before,
                    ids_before,
                });
            }
            // Records of trainings in the older form do not come out of a file: see `Record::decode`.
            Record::TrainingOfAll { .. }
            | Record::Synced
            | Record::Segments(_)
            | Record::Index(_)
            | Record::Footer(_)
            | Record::RevisedFooter(..) => {}
        }
    }

    fn take_feedback(&mut self, entry: FeedbackEntry) {
        match &entry.kind {
            FeedbackKind::Label(label) => self.name(label),
            FeedbackKind::Reject | FeedbackKind::RejectBecause(_) => {
                self.counts.rejected = self.counts.rejected.saturating_add(1)
            }
            FeedbackKind::Accept
            | FeedbackKind::Ignored
            | FeedbackKind::NoneOfThese
            | FeedbackKind::Edit(_)
            | FeedbackKind::PreferredOver(_)
            | FeedbackKind::Demonstration(_) => {}
        }
        self.feedback_by_id.insert(entry.id, self.feedback.len());
        self.feedback.push(entry);
        self.counts.feedback = self.counts.feedback.saturating_add(1);
    }

    /// Takes in a sealed segment, before anything of the growing file.
    fn take_segment(&mut self, segment: Sealed) -> Result<()> {
        let footer = &segment.footer;
        for place in &footer.trainings {
            let record = segment.record(place.offset)?;
            let Record::Training { at_ms, generation, verdict, steps, seconds, unread } = record else {
                return Err(damaged(&segment.path, place.offset, "a training is not where it was"));
            };
            let feedback = self.counts.feedback.saturating_add(size(place.feedback));
            self.trainings.push(TrainingEntry {
                at_ms,
                generation,
                verdict,
                steps,
                seconds,
                feedback_before: feedback.saturating_sub(size(unread)),
                interactions_before: self.counts.interactions.saturating_add(size(place.interactions)),
                ids_before: after(place.last.or(self.last_sealed)),
            });
        }
        footer.labels.iter().for_each(|label| self.name(label));
        let counts = &mut self.counts;
        counts.interactions = counts.interactions.saturating_add(size(footer.interactions));
        counts.feedback = counts.feedback.saturating_add(size(footer.feedback));
        counts.rejected = counts.rejected.saturating_add(size(footer.rejected));
        counts.revised = counts.revised.plus(&segment.revised);
        self.last_sealed = footer.last.or(self.last_sealed);
        self.sealed.push(Arc::new(segment));
        Ok(())
    }

    /// Takes in all that `reader` still has.
    pub(super) fn absorb(&mut self, disk: &dyn Disk, reader: &mut FrameReader) -> Result<()> {
        self.next_id = reader.header().next_id;
        while let Some(frame) = reader.next() {
            let frame = frame?;
            let taken = match &frame.record {
                Record::Segments(segments) => check_list(reader.path(), frame.offset, segments).and_then(|()| {
                    segments.iter().try_for_each(|info| self.take_segment(Sealed::open(disk, reader.path(), info)?))
                }),
                record => self.check(record).map_err(|e| match e.kind() {
                    crate::ErrorKind::Usage => damaged(reader.path(), frame.offset, e.what()),
                    _ => e,
                }),
            };
            if let Err(e) = taken {
                reader.skip_to(frame.offset, frame.sequence);
                return Err(e);
            }
            self.apply(frame.record, frame.offset);
        }
        Ok(())
    }
}

pub(super) fn check_input(input: &StoredInput) -> Result<()> {
    if let StoredInput::Arrays(arrays) = input
        && let Some(bad) = arrays.iter().find(|a| !a.is_sound())
    {
        let what = format!("{} bytes do not fill an array of {:?} {:?}", bad.data.len(), bad.shape, bad.dtype);
        return Err(Error::usage(what).at(&bad.name));
    }
    Ok(())
}

pub(super) fn no_such_interaction(id: InteractionId) -> Error {
    Error::usage(format!("there is no interaction {id} in this profile"))
        .hint("give the id that came with the answer, and the same profile")
}

fn already_has_feedback(id: InteractionId) -> Error {
    Error::usage(format!("interaction {id} already has feedback"))
        .hint("replace it with --replace, or ask again and give feedback on the new id")
}

pub(super) fn no_feedback(id: InteractionId) -> Error {
    Error::usage(format!("interaction {id} has no feedback yet, so there is none to replace or to ignore"))
        .hint("give feedback without --replace and without --ignore")
}
