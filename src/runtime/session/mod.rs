//! A profile in use: predictions from any number of threads, feedback, and the swap of generations between them.

mod feedback;
mod predict;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::asking::Asking;
use super::flusher::Flusher;
use super::home::keyed;
pub(crate) use super::serving::Serving;
use super::slot::Slot;
use super::{Home, now_ms};
use crate::error::{Error, ErrorKind, Result};
use crate::input::label::{NONE_OF_THESE, shown};
use crate::journal::{FeedbackKind, InteractionId, Journal, JournalState, SyncPolicy, TrainingEntry};
use crate::store::{Cause, DEFAULT_WAIT, GenerationInfo, Probation, RolledBack, Store, profile_folder};
use crate::sync::lock;

pub use feedback::{Feedback, FeedbackReceipt};

/// Where a profile stands.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Status {
    /// Active generation; 0 is the base model.
    pub generation: u64,
    /// Predictions until it is no longer on probation.
    pub probation_left: u32,
    /// A generation that was rolled back automatically because it failed, and none has been committed or chosen since.
    pub rolled_back: Option<RolledBack>,
    /// Interactions recorded.
    pub interactions: usize,
    /// Interactions with feedback.
    pub feedback: usize,
    /// Feedback items, those that replace or ignore others among them, that the last training did not read: those recorded after it
    /// began.
    pub waiting: usize,
    /// Feedback items that teach by themselves: labels and accepts; of a language model all that are not ignored.
    pub known_answers: usize,
    /// Feedback items that are ignored.
    pub ignored: usize,
    /// Classes known.
    pub classes: usize,
    /// Size of the serving adapter's file.
    pub adapter_bytes: u64,
}

/// A profile in use. `Send` and `Sync`: predict from several threads while another gives feedback or trains.
pub struct Session {
    pub(crate) home: Home,
    pub(crate) store: Store,
    pub(crate) journal: Arc<Mutex<Journal>>,
    serving: Slot<Serving>,
    merge: bool,
    flusher: Flusher,
    /// Whether the base model agrees with the feedback on the latest answers.
    pub(super) base_says: Mutex<HashMap<InteractionId, bool>>,
    /// Locked after the journal.
    asking: Mutex<Asking>,
    /// Complaints about a language model's answers before a generation was trained, by its number. Locked after the
    /// journal.
    pub(super) complaints_before: Mutex<Option<(u64, [usize; 2])>>,
    /// Whether it was said that the disk is gone.
    says_lost: AtomicBool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("home", &self.home).field("store", &self.store).finish_non_exhaustive()
    }
}

impl Home {
    /// Opens the session of a profile, making the profile when it is new.
    pub fn session(&self, profile: &str) -> Result<Session> {
        Session::open(self.clone(), profile, false)
    }
    /// [`Home::session`] of a profile whose serving adapter may be damaged: good for a rollback and for the history.
    pub fn session_for_repair(&self, profile: &str) -> Result<Session> {
        Session::open(self.clone(), profile, true)
    }
}

impl Session {
    /// A generation that cannot be used is rolled back automatically. With `lenient` it is only set aside for this session, so that it can be
    /// looked at and rolled back.
    pub(crate) fn open(home: Home, profile: &str, lenient: bool) -> Result<Session> {
        let folder = profile_folder(home.path(), profile)?;
        let disk = keyed(home.0.disk.clone(), home.0.key.as_ref(), profile);
        let store = Store::create(disk.clone(), &folder)?;
        let journal = Journal::open(disk, &store.journal_path(), &store.journal_lock_path(), DEFAULT_WAIT, now_ms())?;
        let journal = Arc::new(Mutex::new(journal));
        let serving = Slot::new(Serving::base(&home));
        let flusher = Flusher::new(&journal);
        let asking = Mutex::new(Asking::new(home.config().ask_rate, home.config().seed));
        let session = Session {
            home,
            store,
            journal,
            serving,
            merge: false,
            flusher,
            base_says: Default::default(),
            asking,
            complaints_before: Mutex::default(),
            says_lost: AtomicBool::new(false),
        };
        if !lenient {
            session.follow()?;
            return Ok(session);
        }
        match session.swap(session.store.current()?) {
            Err(e) if is_unusable(&e) => tracing::warn!(error = %e, "the serving adapter cannot be used"),
            other => other?,
        }
        Ok(session)
    }

    /// Says when predictions are synced; feedback always is.
    pub fn set_sync(&self, policy: SyncPolicy) {
        lock(&self.journal).set_policy(policy);
    }

    /// Serves from merged weights: no cost per prediction, and a new plan to compile at every swap.
    pub fn merged(mut self) -> Result<Session> {
        self.merge = true;
        self.swap(self.store.current()?)?;
        Ok(self)
    }

    /// The home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Name of the profile.
    pub fn profile(&self) -> String {
        self.store.folder().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    internal! {
        /// The profile on disk.
        pub fn store(&self) -> &Store {
            &self.store
        }
    }

    /// Makes everything that was recorded durable; no interaction so far has an id from the returned one on.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`], [`ErrorKind::BadData`], [`ErrorKind::Io`].
    pub fn flush(&self) -> Result<InteractionId> {
        let mut journal = lock(&self.journal);
        journal.refresh()?;
        journal.flush()?;
        journal.state().next_id()
    }

    /// Id of the latest interaction of this profile, by whichever process it was recorded; none when there is no interaction.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`], [`ErrorKind::BadData`], [`ErrorKind::Io`] when the journal cannot be read.
    pub fn latest(&self) -> Result<Option<InteractionId>> {
        let mut journal = lock(&self.journal);
        journal.refresh()?;
        let state = journal.state();
        if !self.home.generates() {
            return Ok(state.last());
        }
        // Demonstrations are no answers.
        for entry in state.all_interactions().rev() {
            let id = entry?.id;
            let said = state.feedback_on(id)?.map(|said| said.kind);
            if !matches!(said, Some(FeedbackKind::Demonstration(_))) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    pub(crate) fn serving(&self) -> Arc<Serving> {
        self.serving.get()
    }

    /// Makes `generation` the one that answers from the next prediction on.
    pub(crate) fn swap(&self, generation: u64) -> Result<()> {
        self.serving.put(Serving::load(&self.home, &self.store, generation, self.merge)?);
        Ok(())
    }

    /// Follows what was made of the profile, here or in another process.
    pub(crate) fn follow(&self) -> Result<Arc<Serving>> {
        let serving = self.serving();
        if self.store.current()? == serving.generation {
            return Ok(serving);
        }
        let (serving, probation) = self.take_up()?;
        ended(probation, 0);
        Ok(serving)
    }

    /// [`Session::take_up`] for an answer: where the disk is gone, the generation in memory goes on serving. Where the
    /// disk still says that another one is to serve, that one cannot be read, and the error is returned.
    pub(in crate::runtime) fn take_up_to_answer(&self) -> Result<(Arc<Serving>, Option<Probation>)> {
        match self.take_up() {
            Err(e) if e.is_of_a_lost_disk() => {
                let serving = self.serving();
                if self.store.current().is_ok_and(|current| current != serving.generation) {
                    return Err(e);
                }
                // Once until the disk is back: a person may ask often.
                if !self.says_lost.swap(true, Ordering::Relaxed) {
                    let generation = serving.generation;
                    tracing::warn!(generation, error = %e, "the disk is gone, and the generation in memory answers");
                }
                Ok((serving, None))
            }
            other => {
                self.says_lost.store(false, Ordering::Relaxed);
                other
            }
        }
    }

    /// The active generation, loaded, and a try of it where it is on probation. One that cannot be used is rolled back automatically.
    pub(super) fn take_up(&self) -> Result<(Arc<Serving>, Option<Probation>)> {
        loop {
            let (current, probation) = match self.store.begin() {
                // On a disk that takes no writes, the active generation goes on serving.
                Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Busy) => (self.store.current()?, None),
                other => other?,
            };
            let serving = self.serving();
            if current == serving.generation {
                return Ok((serving, probation));
            }
            match Serving::load(&self.home, &self.store, current, self.merge) {
                Ok(next) => return Ok((self.serving.put(next), probation)),
                Err(e) if is_unusable(&e) => self.roll_back_automatically(current, Cause::Unusable, &e)?,
                Err(e) => {
                    ended(probation, 0);
                    return Err(e);
                }
            }
        }
    }

    pub(super) fn roll_back_automatically(&self, generation: u64, cause: Cause, why: &Error) -> Result<()> {
        let serves = self.store.roll_back_automatically(generation, cause)?;
        match cause {
            // The receipt of the feedback says so.
            Cause::Worse => tracing::info!(generation, serves, reason = %why, "rolled back automatically"),
            _ => tracing::warn!(generation, serves, error = %why, "rolled back automatically"),
        }
        Ok(())
    }

    /// Labels of the classes that the active generation answers with, `none of these` among them where that is a class.
    pub fn labels(&self) -> Vec<String> {
        self.serving().labels.iter().map(|label| shown(label).to_string()).collect()
    }

    /// Labels that feedback may name: those of the active generation, and those named since.
    pub fn known_labels(&self) -> Vec<String> {
        let mut labels = self.serving().labels.clone();
        labels.retain(|label| label != NONE_OF_THESE);
        for named in lock(&self.journal).state().named_labels() {
            if !labels.iter().any(|label| **label == **named) {
                labels.push(named.to_string());
            }
        }
        labels
    }

    /// Goes back to `to`, or to the generation before the serving one; the active generation now.
    pub fn rollback(&self, to: Option<u64>) -> Result<u64> {
        let target = to.map_or_else(|| self.store.head().map(|h| h.previous), Ok)?;
        // What cannot serve is refused before the head moves.
        let next = Serving::load(&self.home, &self.store, target, self.merge)?;
        let now = self.store.rollback(to)?;
        if now == target {
            self.serving.put(next);
        } else {
            self.swap(now)?;
        }
        Ok(now)
    }

    /// Number of the generation that the profile names as its current one.
    pub fn current_generation(&self) -> Result<u64> {
        self.store.current()
    }

    /// Where the profile stands.
    pub fn status(&self) -> Result<Status> {
        let serving = self.follow()?;
        let head = self.store.head()?;
        let mut journal = lock(&self.journal);
        journal.refresh()?;
        let state = journal.state();
        Ok(Status {
            generation: serving.generation,
            probation_left: head.probation_left,
            rolled_back: head.rolled_back,
            interactions: state.interactions(),
            feedback: state.spoken(),
            waiting: state.waiting(),
            known_answers: self.known_answers(state),
            ignored: state.ignored(),
            classes: serving.labels.len(),
            adapter_bytes: serving.adapter_bytes,
        })
    }

    /// Feedback items that teach by themselves; nothing of the profile is followed or changed.
    pub(crate) fn answers_known(&self) -> Result<usize> {
        let mut journal = lock(&self.journal);
        journal.refresh()?;
        Ok(self.known_answers(journal.state()))
    }

    fn known_answers(&self, state: &JournalState) -> usize {
        match self.home.0.language {
            // What a language model answered well or badly teaches it as well.
            Some(_) => state.spoken().saturating_sub(state.ignored()),
            None => state.spoken().saturating_sub(state.rejected()).saturating_sub(state.ignored()),
        }
    }

    /// Trainings in order of time, promoted or not.
    pub fn history(&self) -> Result<Vec<TrainingEntry>> {
        let mut journal = lock(&self.journal);
        journal.refresh()?;
        Ok(journal.state().trainings().to_vec())
    }

    /// Generations on disk.
    pub fn generations(&self) -> Result<Vec<GenerationInfo>> {
        self.store.list()
    }

    /// The active generation, with its deltas beside the base's weights.
    pub(crate) fn unmerged(&self) -> Result<Serving> {
        Serving::load(&self.home, &self.store, self.store.current()?, false)
    }

    internal! {
        /// The adapter of the active generation; none for the base model.
        pub fn adapter(&self) -> Result<Option<crate::adapter::Adapter>> {
            let generation = self.store.current()?;
            if generation == 0 {
                return Ok(None);
            }
            Ok(Some(self.store.open_generation(generation, Some(&self.home.base().fingerprint()))?.to_adapter()))
        }
    }
}

/// A try that did not end the process. What cannot be counted now is counted by the next one.
pub(super) fn ended(probation: Option<Probation>, predictions: u32) {
    let _ = probation.map(|probation| probation.passed(predictions));
}

/// Whether an adapter's file is to blame, and not the disk or the call.
fn is_unusable(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::BadData | ErrorKind::Usage)
}
