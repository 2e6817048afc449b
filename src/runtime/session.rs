//! A profile in use: predictions from any number of threads, feedback, and the swap of generations between them.

#[cfg(feature = "train")]
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use ndarray::Array2;

use super::answer::{Answer, ranked};
use super::config::NewClasses;
use super::flusher::Flusher;
use super::home::keyed;
pub(crate) use super::serving::Serving;
use super::slot::Slot;
use super::{Home, journal_io, now_ms};
use crate::error::{Error, ErrorKind, Result};
use crate::input::{Example, Prepared, RawInput as Input, label};
use crate::journal::{FeedbackKind, InteractionId, Journal, SyncPolicy, TrainingEntry};
use crate::plan::{MICRO_BATCH, Variant};
use crate::stats::rows::softmax;
use crate::store::{Cause, DEFAULT_WAIT, GenerationInfo, Probation, RolledBack, Store, profile_folder};
use crate::sync::lock;

/// What a person says about an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Feedback {
    /// The right answer is this class.
    Label(String),
    /// The right answer is this class, and it may be one that nobody has named before.
    NewLabel(String),
    /// The answer is right.
    Accept,
    /// The answer is wrong; the right one is not said.
    Reject,
}

/// What happened to feedback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeedbackReceipt {
    /// The interaction.
    pub id: InteractionId,
    /// Whether it is durable; always true, since feedback is not acknowledged before.
    pub durable: bool,
    /// Feedback items that the last training did not read: those recorded after it began.
    pub waiting: usize,
    /// The generation that this feedback showed to be worse than the base, and that was rolled back automatically (never without the feature
    /// `train`).
    pub rolled_back: Option<u64>,
}

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
    /// Feedback items recorded.
    pub feedback: usize,
    /// Feedback items that the last training did not read: those recorded after it began.
    pub waiting: usize,
    /// Feedback items that say what is right: labels and accepts.
    pub known_answers: usize,
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
    #[cfg(feature = "train")]
    /// Whether the base model agrees with the feedback on the latest answers.
    pub(super) base_says: Mutex<HashMap<InteractionId, bool>>,
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
        let session = Session {
            home,
            store,
            journal,
            serving,
            merge: false,
            flusher,
            #[cfg(feature = "train")]
            base_says: Default::default(),
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
        Ok(journal.state().last())
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

    /// The active generation, loaded, and a try of it where it is on probation. One that cannot be used is rolled back automatically.
    fn take_up(&self) -> Result<(Arc<Serving>, Option<Probation>)> {
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
        tracing::warn!(generation, serves, error = %why, "rolled back automatically");
        Ok(())
    }

    /// Answers one input and records it, so that feedback can be given on it.
    ///
    /// # Errors
    /// When the input does not fit the model. A disk that takes no record is no error: the answer then has no id.
    pub fn predict(&self, input: &Input) -> Result<Answer> {
        self.predict_top(input, 5)
    }

    /// [`Session::predict`] with the `top` most probable classes.
    pub fn predict_top(&self, input: &Input, top: usize) -> Result<Answer> {
        let Prepared { example, stored } = self.home.intake().prepare(input)?;
        let (mut serving, probation) = self.take_up()?;
        let logits = match self.logits(&serving, &example) {
            Err(e) if serving.generation > 0 && e.kind() == ErrorKind::BadData && self.base_answers(&example) => {
                // A generation that cannot answer what the base can is rolled back automatically at once.
                self.roll_back_automatically(serving.generation, Cause::BadAnswer, &e)?;
                serving = self.follow()?;
                self.logits(&serving, &example)?
            }
            other => {
                ended(probation, u32::from(other.is_ok()));
                other?
            }
        };
        let top = logits.map_or_else(Vec::new, |z| ranked(z.row(0), &serving.labels, top));
        let stored = journal_io::store(stored);
        let recorded = top.iter().map(|s| (s.label.clone(), s.p)).collect();
        let mut journal = lock(&self.journal);
        if journal.writer().is_poisoned() {
            // A disk that was full may have room again. If not, the record below fails and says so.
            let _ = journal.reopen();
        }
        let id = journal.record_interaction(now_ms(), stored, recorded, serving.generation);
        drop(journal);
        let (id, unrecorded) = match id {
            Ok(id) => (Some(id), None),
            Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Busy) => (None, Some(e.to_string())),
            Err(e) => return Err(e),
        };
        if id.is_some() {
            self.flusher.wake();
        }
        Ok(Answer { id, top, generation: serving.generation, unrecorded })
    }

    fn logits(&self, serving: &Serving, example: &Example) -> Result<Option<Array2<f32>>> {
        let rows = self.home.0.engine.one(&serving.variant(), example)?;
        let logits = serving.logits(&rows)?;
        match &logits {
            Some(z) if z.iter().any(|v| !v.is_finite()) => {
                Err(Error::bad_data("the adapter answered with a value that is not a finite number"))
            }
            _ => Ok(logits),
        }
    }

    fn base_answers(&self, example: &Example) -> bool {
        self.home.0.engine.one(&Variant::Base, example).is_ok()
    }

    /// Probabilities of all classes for each input, in the order of [`Session::labels`], by the active generation; nothing is
    /// recorded. Empty while an encoder has learned no class.
    ///
    /// # Errors
    /// When an input does not fit the model.
    pub fn probabilities(&self, inputs: &[Input]) -> Result<Vec<Vec<f32>>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let rows = self.evaluate(inputs, false, threads)?;
        Ok(rows.map_or_else(Vec::new, |p| p.rows().into_iter().map(|row| row.to_vec()).collect()))
    }

    internal! {
        /// Probabilities of all classes for many inputs, without recording anything: `[inputs, classes]` in the order of
        /// [`Session::labels`], by the active generation or, with `base`, by the base model.
        pub fn evaluate(&self, inputs: &[Input], base: bool, threads: usize) -> Result<Option<Array2<f32>>> {
            let examples: Vec<Example> = inputs.iter().map(|i| self.home.intake().example(i)).collect::<Result<_>>()?;
            let examples: Vec<&Example> = examples.iter().collect();
            let serving = if base { Arc::new(Serving::base(&self.home)) } else { self.follow()? };
            if serving.head.is_none() && self.home.0.base_classes == 0 {
                // No class is known yet: whether the inputs fit the model is all there is to say.
                examples.iter().try_for_each(|e| crate::plan::check(self.home.base(), e))?;
                return Ok(None);
            }
            let rows = self.home.0.engine.many(&serving.variant(), &examples, threads, MICRO_BATCH)?;
            let Some(mut z) = serving.logits(&rows)? else { return Ok(None) };
            for mut row in z.rows_mut() {
                let p = softmax(row.view());
                row.iter_mut().zip(p).for_each(|(z, p)| *z = p);
            }
            Ok(Some(z))
        }
    }

    /// Labels of the classes that the active generation answers with.
    pub fn labels(&self) -> Vec<String> {
        self.serving().labels.clone()
    }

    /// Labels that feedback may name: those of the active generation, and those named since.
    pub fn known_labels(&self) -> Vec<String> {
        let mut labels = self.labels();
        for named in lock(&self.journal).state().named_labels() {
            if !labels.iter().any(|label| **label == **named) {
                labels.push(named.to_string());
            }
        }
        labels
    }

    /// Records what a person said about an answer; returns when it is durable.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an unknown or already used id, an unknown label, or an `Accept` or `Reject` of an interaction
    /// without an answer; [`ErrorKind::Io`] when the disk does not take it: then nothing was recorded.
    pub fn feedback(&self, id: InteractionId, feedback: Feedback) -> Result<FeedbackReceipt> {
        lock(&self.journal).refresh()?;
        let kind = match feedback {
            Feedback::Accept | Feedback::Reject => {
                let journal = lock(&self.journal);
                let answered = journal.state().interaction(id)?.is_none_or(|i| i.answer.is_some());
                if !answered {
                    return Err(Error::usage("there was no answer to accept or reject")
                        .at(id)
                        .hint("say what is right with --label"));
                }
                if feedback == Feedback::Accept { FeedbackKind::Accept } else { FeedbackKind::Reject }
            }
            Feedback::NewLabel(label) => FeedbackKind::Label(check_label(label)?),
            Feedback::Label(label) => {
                let label = check_label(label)?;
                if self.home.config().new_classes == NewClasses::Ask {
                    let known = self.known_labels();
                    if !known.contains(&label) {
                        return Err(unknown_label(&label, &known));
                    }
                }
                FeedbackKind::Label(label)
            }
        };
        let mut journal = lock(&self.journal);
        if journal.writer().is_poisoned() {
            journal.reopen()?;
        }
        let waiting = journal.record_feedback(id, now_ms(), kind)?;
        drop(journal);
        Ok(FeedbackReceipt { id, durable: true, waiting, rolled_back: self.watched() })
    }

    /// What [`Session::watch`] rolled back. The feedback is durable by now, so its failure is no failure of the feedback.
    #[cfg(feature = "train")]
    fn watched(&self) -> Option<u64> {
        self.watch().unwrap_or_else(|e| {
            tracing::warn!(error = %e, "the active generation could not be compared with the base");
            None
        })
    }

    #[cfg(not(feature = "train"))]
    fn watched(&self) -> Option<u64> {
        None
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
            feedback: state.feedback(),
            waiting: state.waiting(),
            known_answers: state.feedback().saturating_sub(state.rejected()),
            classes: serving.labels.len(),
            adapter_bytes: serving.adapter_bytes,
        })
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
fn ended(probation: Option<Probation>, predictions: u32) {
    let _ = probation.map(|probation| probation.passed(predictions));
}

/// Whether an adapter's file is to blame, and not the disk or the call.
fn is_unusable(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::BadData | ErrorKind::Usage)
}

fn check_label(text: String) -> Result<String> {
    label::clean(&text).map_err(|e| Error::usage(e.what()).hint(e.next_step().unwrap_or_default()))
}

fn unknown_label(label: &str, known: &[String]) -> Error {
    let near: Vec<&str> = known
        .iter()
        .filter(|k| k.to_lowercase().contains(&label.to_lowercase()) || similar(k, label))
        .take(3)
        .map(|k| k.as_str())
        .collect();
    let shown = match near.is_empty() {
        true => known.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", "),
        false => near.join(", "),
    };
    let more = if near.is_empty() && known.len() > 8 { ", …" } else { "" };
    Error::usage(format!("unknown label {label:?}"))
        .because(format!("known labels: {shown}{more}"))
        .hint("correct the label, or add --new-class to teach a class that nobody has named before")
}

/// At most two letters apart.
fn similar(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    if a.len().abs_diff(b.len()) > 2 || a.len().min(b.len()) < 3 {
        return false;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut last = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let next = row[j + 1];
            row[j + 1] = (last + usize::from(ca != cb)).min(next + 1).min(row[j] + 1);
            last = next;
        }
    }
    row[b.len()] <= 2
}
