//! Forgetting: what is to be forgotten leaves storage, and so does every generation that learned from it.

use std::collections::HashSet;
use std::path::PathBuf;

use super::Store;
use super::head::{self, Head};
use crate::disk::fault_injection::{Bug, planted};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{InteractionId, Journal, JournalState};

/// What to forget.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selection {
    /// These interactions.
    Ids(Vec<InteractionId>),
    /// Interactions older than this, in Unix milliseconds.
    Before(u64),
    /// All that was recorded and learned.
    All,
}

/// What was forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forgotten {
    /// Interactions that are gone, with what was said about them.
    pub interactions: usize,
    /// Generations that are gone: they had learned from some of it.
    pub generations: Vec<u64>,
    /// The active generation now.
    pub generation: u64,
}

impl Selection {
    fn ids(&self, state: &JournalState) -> Result<HashSet<InteractionId>> {
        match self {
            Selection::All => state.all_ids(),
            Selection::Before(ms) => {
                let older = state.all_interactions().filter(|i| i.as_ref().map_or(true, |i| i.at_ms < *ms));
                older.map(|i| i.map(|i| i.id)).collect()
            }
            Selection::Ids(ids) => {
                for id in ids {
                    if state.interaction(*id)?.is_none() {
                        return Err(Error::usage(format!("there is no interaction {id} in this profile")).hint(
                            "give the id that came with the answer, and the same profile; nothing was forgotten",
                        ));
                    }
                }
                Ok(ids.iter().copied().collect())
            }
        }
    }
}

impl Store {
    /// Forgets: first no generation serves that learned from it, then those generations are gone, then the records. To be called
    /// with the training lock held. Cut off on the way, it can be asked for again.
    ///
    /// # Errors
    /// `Usage` if an id is unknown: nothing is changed then. `BadData`, `Busy`, `Io`.
    pub fn forget(&self, journal: &mut Journal, what: &Selection) -> Result<Forgotten> {
        journal.refresh()?;
        // An id that is not there may be one that a process was killed while forgetting.
        self.flush_removals()?;
        let ids = what.ids(journal.state())?;
        let seen = match what {
            Selection::All => self.generations.numbers(&*self.disk)?,
            _ => self.that_saw(&ids, journal.state())?,
        };
        // With everything goes what every training found out, also one that saw none of it.
        let all = *what == Selection::All;
        if planted(Bug::ForgottenBeforeOff) {
            journal.forget(&ids, all)?;
        }
        let done = self.turn_off(&seen).and_then(|generation| {
            self.remove_traces(journal, &ids, all)?;
            Ok(generation)
        });
        let generation = done.map_err(|e| match e.kind() {
            ErrorKind::Io => e.hint(
                "not everything is forgotten yet, and what learned from it may be gone already: see to the disk, then ask for it again",
            ),
            _ => e,
        })?;
        Ok(Forgotten { interactions: ids.len(), generations: seen, generation })
    }

    /// Removes `ids` from everything but the generations.
    fn remove_traces(&self, journal: &mut Journal, ids: &HashSet<InteractionId>, all: bool) -> Result<()> {
        self.empty_quarantine()?;
        if !planted(Bug::CheckpointKept) {
            self.checkpoint().forget(ids.iter(), all)?;
        }
        if !planted(Bug::ChoiceKept) {
            self.choice().remove()?;
            self.doubts().remove()?;
            self.attempt().remove()?;
        }
        if (!ids.is_empty() || all) && !planted(Bug::ForgottenBeforeOff) {
            journal.forget(ids, all)?;
        }
        Ok(())
    }

    /// The generations that may have learned from one of `ids`: a training learns from all that was recorded before it ends. One
    /// whose training is not recorded may have seen anything.
    fn that_saw(&self, ids: &HashSet<InteractionId>, state: &JournalState) -> Result<Vec<u64>> {
        let first = ids.iter().min();
        let saw = |number: &u64| {
            let training = state.trainings().iter().find(|t| t.generation == Some(*number));
            first.is_some_and(|first| training.is_none_or(|t| first.0 < t.ids_before))
        };
        Ok(self.generations.numbers(&*self.disk)?.into_iter().filter(saw).collect())
    }

    /// Removes the generations `seen`; the nearest ancestor that is none of them serves instead. The active generation now.
    fn turn_off(&self, seen: &[u64]) -> Result<u64> {
        let _held = self.lock_short("forgetting")?;
        if seen.is_empty() {
            return self.current();
        }
        let innocent = |number: u64| !seen.contains(&number);
        let nearest = |number| if innocent(number) { number } else { self.previous_of(number, innocent) };
        let change = |h: Head| {
            let current = nearest(h.current);
            let probation_left = if current == h.current { h.probation_left } else { 0 };
            let previous = if current == h.current { nearest(h.previous) } else { self.previous_of(current, innocent) };
            let rolled_back = h.rolled_back.filter(|t| innocent(t.generation));
            Ok(Head { current, previous, probation_left, rolled_back, ..h })
        };
        let head = head::flip(&*self.disk, &self.head_path(), change)?;
        self.generations.remove(&*self.disk, seen)?;
        Ok(head.current)
    }

    /// Makes durable what is removed already, by this process or by one that was killed before it could. Unsynced, a power cut would
    /// bring it back.
    fn flush_removals(&self) -> Result<()> {
        if planted(Bug::RemovalsNotFlushed) {
            return Ok(());
        }
        let segments = crate::journal::segment::segments_folder(&self.journal_path());
        let checkpoint = self.folder.join("checkpoint");
        for folder in [&self.generations.folder, &checkpoint, &segments, &self.folder] {
            let io = |e| Error::io("cannot sync a folder", folder, e);
            if self.disk.exists(folder).map_err(io)? {
                self.disk.sync_dir(folder).map_err(io)?;
            }
        }
        Ok(())
    }

    /// Where `repair` puts what it could not use.
    pub(crate) fn quarantine_path(&self) -> PathBuf {
        self.folder.join("quarantine")
    }

    /// Removes what was quarantined: nobody can tell whether it holds what is to be forgotten.
    fn empty_quarantine(&self) -> Result<()> {
        let (disk, folder) = (&*self.disk, self.quarantine_path());
        let io = |e| Error::io("cannot empty the quarantine", &folder, e);
        if disk.exists(&folder).map_err(io)? {
            for name in disk.list(&folder).map_err(io)? {
                disk.remove(&folder.join(name)).map_err(io)?;
            }
            disk.sync_dir(&folder).map_err(io)?;
        }
        Ok(())
    }
}
