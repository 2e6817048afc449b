//! An active generation of a language model is watched: do people complain about its answers more often than about
//! those before it?

use std::ops::Range;

use crate::error::{Error, Result};
use crate::journal::{FeedbackKind, JournalState};
use crate::runtime::session::Session;
use crate::stats::binomial::at_least;
use crate::store::Cause;
use crate::sync::lock;

/// Level of the test, which is asked anew after each complaint: as for classes (`runtime::watch`).
const ALPHA: f64 = 0.02;
/// Complaints without which nothing is rolled back.
const FEWEST: usize = 5;
/// The latest answers with feedback that are looked at.
const MOST: usize = 64;

impl Session {
    /// Takes the active generation back if its answers are edited or called bad more often than those before it were;
    /// its number then. If both were complained about at one rate, each complaint would be about one of its answers
    /// with the share that they are of all answers: the binomial test of two rates.
    ///
    /// # Errors
    /// When the journal cannot be read or the head not be written; nothing has changed then.
    pub(in crate::runtime) fn watch_language(&self) -> Result<Option<u64>> {
        let generation = self.serving().generation;
        if generation == 0 {
            return Ok(None);
        }
        let mut journal = lock(&self.journal);
        let complaint = |kind: &FeedbackKind| matches!(kind, FeedbackKind::Edit(_)) || kind.rejects();
        let latest = journal.latest_feedback(generation, MOST)?;
        let after = latest.iter().filter(|s| complaint(&s.kind)).count();
        if after < FEWEST {
            return Ok(None);
        }
        let state = journal.state();
        let Some(training) = state.trainings().iter().rev().find(|t| t.generation == Some(generation)).cloned() else {
            return Ok(None);
        };
        let known = *lock(&self.complaints_before);
        let [before, brought_before] = match known {
            Some((of, before)) if of == generation => before,
            _ => {
                let mut before = [0; 2];
                for entry in state.all_feedback().take(training.feedback_before) {
                    let entry = entry?;
                    before[0] += usize::from(entry.was.is_none() && complaint(&entry.kind));
                }
                before[1] = brought(state, 0..training.ids_before)?;
                *lock(&self.complaints_before) = Some((generation, before));
                before
            }
        };
        let answers_before = training.interactions_before.saturating_sub(brought_before);
        // Of more than are looked at, the answers since the oldest of these.
        let oldest = latest.iter().map(|s| s.interaction.id.0).min().filter(|_| latest.len() == MOST);
        let answers = match oldest {
            Some(oldest) => state.next_id()?.0.saturating_sub(oldest) as usize,
            None => state.interactions().saturating_sub(training.interactions_before),
        };
        let since = oldest.unwrap_or(training.ids_before);
        let answers = answers.saturating_sub(brought(state, since..u32::MAX)?);
        drop(journal);
        if answers_before == 0 || answers == 0 {
            return Ok(None);
        }
        let share = answers as f64 / (answers + answers_before) as f64;
        if at_least((before + after) as u64, after as u64, share) > ALPHA {
            return Ok(None);
        }
        let why = Error::bad_data(format!(
            "{after} of {answers} answers were edited or called bad, of {answers_before} before it were {before}"
        ));
        self.roll_back_automatically(generation, Cause::Worse, &why)?;
        self.follow()?;
        Ok(Some(generation))
    }
}

/// Demonstrations among the interactions with these ids: they are no answers, since nobody was asked.
fn brought(state: &JournalState, ids: Range<u32>) -> Result<usize> {
    let mut count = 0;
    for entry in state.all_feedback() {
        let entry = entry?;
        let demonstration = entry.was.is_none() && matches!(entry.kind, FeedbackKind::Demonstration(_));
        count += usize::from(demonstration && ids.contains(&entry.id.0));
    }
    Ok(count)
}
