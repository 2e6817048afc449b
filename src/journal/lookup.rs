//! Finds records of the index, in memory or in the segments.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::reader::damaged;
use super::record::{FeedbackKind, InteractionId, NOVEL, Record, StoredInput};
use super::segment::{Place, Sealed};
use super::state::{FeedbackEntry, InteractionEntry, JournalState, LastWord, Spoken, is_novel, no_such_interaction};
use crate::error::{Error, Result};

/// Where an interaction stands.
#[derive(Debug)]
pub(super) enum Located<'a> {
    /// In the growing file, at this byte.
    Growing(u64),
    /// In a segment, at this byte.
    Sealed(&'a Sealed, u64),
}

impl JournalState {
    pub(super) fn locate(&self, id: InteractionId) -> Result<Option<Located<'_>>> {
        if let Some(entry) = self.growing_interaction(id) {
            return Ok(Some(Located::Growing(entry.offset)));
        }
        // Ids grow from segment to segment; some have no interaction at all.
        for segment in self.sealed.iter().filter(|segment| segment.footer.last >= Some(id)) {
            if segment.footer.blocks.first().is_some_and(|first| first.id > id) {
                break;
            }
            if let Some(offset) = segment.find(id)? {
                return Ok(Some(Located::Sealed(segment, offset)));
            }
        }
        Ok(None)
    }

    /// One interaction.
    ///
    /// # Errors
    /// `BadData`, `Io` where its segment cannot be read.
    pub fn interaction(&self, id: InteractionId) -> Result<Option<InteractionEntry>> {
        match self.locate(id)? {
            Some(Located::Sealed(segment, offset)) => sealed_interaction(segment, Place { id, offset }).map(Some),
            _ => Ok(self.growing_interaction(id).cloned()),
        }
    }

    /// The last word on one interaction.
    ///
    /// # Errors
    /// As [`JournalState::interaction`].
    pub fn feedback_on(&self, id: InteractionId) -> Result<Option<FeedbackEntry>> {
        if let Some(at) = self.feedback_by_id.get(&id) {
            return Ok(self.feedback.get(*at).cloned());
        }
        for segment in self.sealed.iter().rev() {
            if let Some(offset) = segment.find_feedback(id)? {
                return sealed_feedback(segment, Place { id, offset }).map(Some);
            }
        }
        Ok(None)
    }

    /// Feedback and revisions in the order of the journal, read from the segments as it goes; also from its end.
    pub fn all_feedback(&self) -> impl DoubleEndedIterator<Item = Result<FeedbackEntry>> {
        let sealed = self.sealed.iter().filter(|segment| segment.footer.feedback > 0);
        sealed.flat_map(|segment| feedback_in(segment)).chain(self.feedback.iter().cloned().map(Ok))
    }

    /// The latest feedback on answers of `generation`, at most `most`, oldest first. Reads back from the end of the
    /// journal, and no farther than to where that generation was trained.
    ///
    /// # Errors
    /// As [`JournalState::interaction`].
    pub fn latest_feedback_on(&self, generation: u64, most: usize) -> Result<Vec<Spoken>> {
        let (mut found, mut revised) = (vec![], HashSet::new());
        for entry in self.all_feedback().rev().take(self.feedback().saturating_sub(self.feedback_before(generation))) {
            if found.len() >= most {
                break;
            }
            let entry = entry?;
            // What came before a revision holds no more.
            let holds = if entry.was.is_some() { revised.insert(entry.id) } else { !revised.contains(&entry.id) };
            if holds && entry.kind != FeedbackKind::Ignored {
                found.extend(self.about(entry)?.filter(|spoken| spoken.interaction.generation == generation));
            }
        }
        found.reverse();
        Ok(found)
    }

    /// A feedback with what it is about.
    pub(super) fn about(&self, feedback: FeedbackEntry) -> Result<Option<Spoken>> {
        let interaction = self.interaction(feedback.id)?;
        Ok(interaction.map(|interaction| Spoken { interaction, kind: feedback.kind }))
    }

    /// The last word on each interaction among the first `upto` feedback items, in the order in which they were spoken about first.
    ///
    /// # Errors
    /// As [`JournalState::interaction`].
    pub fn last_words(&self, upto: usize) -> Result<Vec<LastWord>> {
        let (mut words, mut places): (Vec<LastWord>, HashMap<InteractionId, usize>) = Default::default();
        for (at, entry) in self.all_feedback().take(upto).enumerate() {
            let entry = entry?;
            match places.get(&entry.id).and_then(|place| words.get_mut(*place)) {
                Some(word) => (word.last, word.entry) = (at, entry),
                None => {
                    places.insert(entry.id, words.len());
                    words.push(LastWord { first_ms: entry.at_ms, entry, first: at, last: at });
                }
            }
        }
        Ok(words)
    }

    /// Whether the last word on an interaction is among the first `upto` feedback items.
    ///
    /// # Errors
    /// As [`JournalState::interaction`].
    pub fn was_said_within(&self, id: InteractionId, upto: u64) -> Result<bool> {
        let sealed = |n: &[Arc<Sealed>]| n.iter().fold(0u64, |sum, s| sum.saturating_add(s.footer.feedback));
        if let Some(at) = self.feedback_by_id.get(&id) {
            return Ok(sealed(&self.sealed).saturating_add(*at as u64) < upto);
        }
        for (number, segment) in self.sealed.iter().enumerate().rev() {
            let Some(offset) = segment.find_feedback(id)? else { continue };
            let mut before = sealed(self.sealed.get(..number).unwrap_or_default());
            for block in segment.feedback_places() {
                before = before.saturating_add(block?.iter().filter(|place| place.offset < offset).count() as u64);
            }
            return Ok(before < upto);
        }
        Ok(false)
    }

    /// A number of feedback items before which `generation` cannot have answered: it was trained after the training
    /// before it ended.
    fn feedback_before(&self, generation: u64) -> usize {
        let at = self.trainings().iter().position(|t| t.generation == Some(generation));
        let before = at.and_then(|at| self.trainings().get(at.checked_sub(1)?));
        before.map_or(0, |training| training.feedback_before)
    }

    /// Interactions in the order of the journal, read from the segments as it goes; also from its end.
    pub fn all_interactions(&self) -> impl DoubleEndedIterator<Item = Result<InteractionEntry>> {
        let sealed = self.sealed.iter().flat_map(|segment| {
            segment.places().flat_map(|block| {
                let (block, failed) = match block {
                    Ok(block) => (block, None),
                    Err(e) => (vec![], Some(Err(e))),
                };
                failed.into_iter().chain(block.into_iter().map(|place| sealed_interaction(segment, place)))
            })
        });
        sealed.chain(self.interactions.iter().cloned().map(Ok))
    }

    /// Interactions from id `from` on, in the order of the journal, read from the segments as it goes.
    pub fn interactions_from(&self, from: InteractionId) -> impl Iterator<Item = Result<InteractionEntry>> {
        let reaches = move |segment: &&Arc<Sealed>| segment.footer.last >= Some(from);
        let sealed = self.sealed.iter().filter(reaches).flat_map(move |segment| {
            // A block ends before the id that the next one begins with.
            let blocks = &segment.footer.blocks;
            let skipped = blocks.iter().skip(1).take_while(|block| block.id <= from).count();
            segment.places().skip(skipped).flat_map(move |block| {
                let (block, failed) = match block {
                    Ok(block) => (block, None),
                    Err(e) => (vec![], Some(Err(e))),
                };
                let wanted = block.into_iter().filter(move |place| place.id >= from);
                failed.into_iter().chain(wanted.map(|place| sealed_interaction(segment, place)))
            })
        });
        let at = self.interactions.partition_point(|i| i.id < from);
        sealed.chain(self.interactions.iter().skip(at).cloned().map(Ok))
    }

    /// The input of one interaction; `growing` reads the record at a byte of the growing file.
    pub(super) fn input(&self, id: InteractionId, growing: impl Fn(u64) -> Result<Record>) -> Result<StoredInput> {
        let found = match self.locate(id)? {
            None => return Err(no_such_interaction(id)),
            Some(Located::Growing(offset)) => growing(offset)?,
            Some(Located::Sealed(segment, offset)) => segment.record(offset)?,
        };
        match found {
            Record::Interaction { id: found, input, .. } if found == id => Ok(input),
            _ => Err(not_there(id)),
        }
    }

    /// One interaction with its input; `growing` reads the record at a byte of the growing file.
    pub(super) fn with_input(
        &self,
        id: InteractionId,
        growing: impl Fn(u64) -> Result<Record>,
    ) -> Result<Option<(InteractionEntry, StoredInput)>> {
        match self.locate(id)? {
            None => Ok(None),
            Some(Located::Sealed(segment, offset)) => sealed_with_input(segment, Place { id, offset }).map(Some),
            Some(Located::Growing(offset)) => match (self.growing_interaction(id), growing(offset)?) {
                (Some(entry), Record::Interaction { id: found, input, .. }) if found == id => {
                    Ok(Some((entry.clone(), input)))
                }
                _ => Err(not_there(id)),
            },
        }
    }

    /// Ids of all interactions.
    ///
    /// # Errors
    /// As [`JournalState::interaction`].
    pub fn all_ids(&self) -> Result<HashSet<InteractionId>> {
        let mut ids: HashSet<InteractionId> = self.interactions.iter().map(|i| i.id).collect();
        for block in self.sealed.iter().flat_map(|segment| segment.places()) {
            ids.extend(block?.iter().map(|place| place.id));
        }
        Ok(ids)
    }

    /// The latest interactions without feedback, at most `n`, the last one first.
    ///
    /// # Errors
    /// As [`JournalState::interaction`].
    pub fn latest_unspoken(&self, n: usize) -> Result<Vec<InteractionEntry>> {
        let silent = |id: &InteractionId| !self.feedback_by_id.contains_key(id);
        let mut found: Vec<InteractionEntry> =
            self.interactions.iter().rev().filter(|i| silent(&i.id)).take(n).cloned().collect();
        // What feedback in later segments is about.
        let mut later = HashSet::new();
        for segment in self.sealed.iter().rev() {
            if found.len() >= n {
                break;
            }
            for block in segment.feedback_places() {
                later.extend(block?.iter().map(|place| place.id));
            }
            if segment.info.spoken_only {
                continue;
            }
            for block in segment.places().rev() {
                for place in block?.into_iter().rev().filter(|p| silent(&p.id) && !later.contains(&p.id)) {
                    if found.len() < n {
                        found.push(sealed_interaction(segment, place)?);
                    }
                }
                if found.len() >= n {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// The interactions of segment `number` without feedback, by growing id.
    pub(super) fn unspoken_in(&self, number: u32) -> Result<Vec<InteractionId>> {
        let Some(from) = self.sealed.iter().position(|segment| segment.info.number == number) else {
            return Ok(vec![]);
        };
        let mut spoken: HashSet<InteractionId> = self.feedback_by_id.keys().copied().collect();
        for block in self.sealed.iter().skip(from).flat_map(|segment| segment.feedback_places()) {
            spoken.extend(block?.iter().map(|place| place.id));
        }
        let mut silent = vec![];
        for block in self.sealed.iter().skip(from).take(1).flat_map(|segment| segment.places()) {
            silent.extend(block?.iter().map(|place| place.id).filter(|id| !spoken.contains(id)));
        }
        Ok(silent)
    }

    pub(super) fn has_feedback(&self, id: InteractionId) -> Result<bool> {
        if self.feedback_by_id.contains_key(&id) {
            return Ok(true);
        }
        for segment in &self.sealed {
            if segment.find_feedback(id)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The feedback in a segment, in the order of the journal.
fn feedback_in(segment: &Sealed) -> impl DoubleEndedIterator<Item = Result<FeedbackEntry>> {
    let blocks: Result<Vec<Vec<Place>>> = segment.feedback_places().collect();
    let (mut places, failed) = match blocks {
        Ok(blocks) => (blocks.concat(), None),
        Err(e) => (vec![], Some(Err(e))),
    };
    places.sort_unstable_by_key(|place| place.offset);
    failed.into_iter().chain(places.into_iter().map(|place| sealed_feedback(segment, place)))
}

fn not_there(id: InteractionId) -> Error {
    Error::bad_data("an interaction is not where it was").at(format!("interaction {id} in the journal"))
}

fn sealed_interaction(segment: &Sealed, place: Place) -> Result<InteractionEntry> {
    sealed_with_input(segment, place).map(|(entry, _)| entry)
}

fn sealed_with_input(segment: &Sealed, place: Place) -> Result<(InteractionEntry, StoredInput)> {
    match segment.record(place.offset)? {
        Record::Interaction { id, at_ms, top, generation, input } if id == place.id => {
            let novel = is_novel(&top);
            let best = top.into_iter().next().filter(|(label, _)| label != NOVEL);
            let answer = best.map(|(label, p)| (label.into(), p));
            Ok((InteractionEntry { id, at_ms, offset: place.offset, answer, generation, novel }, input))
        }
        _ => Err(damaged(&segment.path, place.offset, "an interaction is not where it was")),
    }
}

fn sealed_feedback(segment: &Sealed, place: Place) -> Result<FeedbackEntry> {
    match segment.record(place.offset)? {
        Record::Feedback { id, at_ms, kind } if id == place.id => Ok(FeedbackEntry { id, at_ms, kind, was: None }),
        Record::Revision { id, at_ms, kind, was } if id == place.id => {
            Ok(FeedbackEntry { id, at_ms, kind, was: Some(was) })
        }
        _ => Err(damaged(&segment.path, place.offset, "a feedback is not where it was")),
    }
}
