//! The append-only record of what a profile's model was asked, what it answered and what the person said.
//!
//! `record` says what is recorded, `frame` how it looks in a file, `reader` and `writer` go through the file that
//! grows, `tail` judges where it ends, `segment` is the older part with its index, `state` and `lookup` are the index
//! of all, `recent` is what was said last, `snapshot` is all of it at one moment, `rewrite` makes a new journal of a
//! part of one, `limit` says what goes first, `salvage` keeps what is whole of a damaged one, and [`Journal`] shares
//! one among processes.

#[cfg(test)]
mod damage_tests;
pub mod frame;
mod id;
mod index;
mod limit;
mod lookup;
mod names;
#[cfg(test)]
mod none_tests;
pub mod reader;
mod recent;
pub mod record;
#[cfg(test)]
mod revision_tests;
mod rewrite;
pub mod salvage;
pub mod segment;
mod snapshot;
pub mod state;
mod tail;
#[cfg(test)]
mod tests;
pub mod writer;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use frame::JournalId;
pub use limit::ALWAYS_KEPT;
pub use reader::{Frame, FrameReader, TornTail};
pub use record::{Dtype, FeedbackKind, InteractionId, NOVEL, Record, StoredArray, StoredConversation, StoredInput};
pub use segment::{SegmentInfo, SegmentSize};
pub use snapshot::Snapshot;
pub(crate) use state::answer_of;
pub use state::{FeedbackEntry, InteractionEntry, JournalState, LastWord, Spoken, TrainingEntry};
pub use writer::JournalWriter;

use crate::adapter::Verdict;
use crate::disk::Disk;
use crate::disk::lock::WriterLock;
use crate::error::{Error, Result};
use recent::Recent;

/// Most interactions that a power cut may take.
pub const GROUP_RECORDS: u32 = 32;
/// How long an interaction may wait for a sync.
pub const GROUP_TIME: Duration = Duration::from_secs(5);

/// Size from which on a journal drops interactions by itself, unless told otherwise.
pub const DEFAULT_LIMIT: u64 = 512 << 20;

/// When interactions are synced; feedback and training records always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SyncPolicy {
    /// Together: after 32 of them or 5 seconds, and when the session is closed.
    #[default]
    Grouped,
    /// Each one before its answer is given.
    Always,
}

/// A profile's journal, shared with other processes: each append takes the lock, reads what the others added, and
/// appends. When it is dropped, what is not yet durable is synced.
#[derive(Debug)]
pub struct Journal {
    disk: Arc<dyn Disk>,
    lock: PathBuf,
    wait: Duration,
    writer: JournalWriter,
    policy: SyncPolicy,
    /// Interactions of this handle that may not be durable, and when the oldest was recorded.
    waiting: u32,
    oldest: Option<Instant>,
    /// See [`Journal::set_limit`].
    limit: u64,
    always_kept: usize,
    /// Size at which the limit is looked at next.
    next_checkpoint: u64,
    /// Size of the growing file at which sealing is tried next: not for each record where it fails.
    next_seal: u64,
    recent: Option<Recent>,
}

impl Journal {
    /// Opens the journal at `path`, making an empty one at time `now_ms` if there is none. `lock` is its lock file,
    /// waited for at most `wait` per append.
    ///
    /// # Errors
    /// `BadData` if it is damaged, `Busy`, `Io`.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, lock: &Path, wait: Duration, now_ms: u64) -> Result<Journal> {
        let _held = WriterLock::acquire(&*disk, lock, wait, "opening the journal")?;
        if !disk.exists(path).map_err(|e| Error::io("cannot look for the journal", path, e))? {
            if salvage::is_headless(&*disk, path)? {
                return Err(reader::damaged(path, 0, "the file that lists its segments is gone"));
            }
            JournalWriter::create(&*disk, path, now_ms)?;
        }
        let writer = JournalWriter::open(disk.clone(), path)?;
        Ok(Journal {
            disk,
            lock: lock.to_owned(),
            wait,
            writer,
            policy: SyncPolicy::default(),
            waiting: 0,
            oldest: None,
            limit: DEFAULT_LIMIT,
            always_kept: ALWAYS_KEPT,
            next_checkpoint: DEFAULT_LIMIT,
            next_seal: 0,
            recent: None,
        })
    }

    /// Beyond `bytes`, the oldest interactions without feedback go, but never the latest [`ALWAYS_KEPT`] of them. What
    /// has feedback stays, however much it is.
    pub fn set_limit(&mut self, bytes: u64) {
        (self.limit, self.next_checkpoint) = (bytes, bytes);
        let size = self.writer.size();
        self.set_segment_size(SegmentSize { bytes: size.bytes.min(bytes / limit::PARTS), ..size });
    }

    /// Says how many of the latest interactions without feedback stay whatever the limit, instead of [`ALWAYS_KEPT`].
    pub fn set_always_kept(&mut self, n: usize) {
        self.always_kept = n;
    }

    /// Says how large the growing file becomes before it is sealed.
    pub fn set_segment_size(&mut self, size: SegmentSize) {
        self.writer.set_size(size);
    }

    /// Says when interactions are synced.
    pub fn set_policy(&mut self, policy: SyncPolicy) {
        self.policy = policy;
    }

    /// All records that tell of something, of all files, oldest first; needs no lock.
    ///
    /// # Errors
    /// `BadData`, `Io`.
    pub fn read(disk: &dyn Disk, path: &Path) -> Result<impl Iterator<Item = Result<Record>> + use<>> {
        let (segments, first, growing) = loop {
            let mut growing = FrameReader::open(disk, path)?;
            let first = growing.next().transpose()?;
            let listed = match first.as_ref().map(|frame| &frame.record) {
                Some(Record::Segments(listed)) => listed.as_slice(),
                _ => &[],
            };
            let open = |info: &SegmentInfo| {
                // Refused if it is another one than was sealed.
                let sealed = segment::Sealed::open(disk, path, info)?;
                FrameReader::open_sealed(disk, &sealed.path)
            };
            let opened: Result<Vec<FrameReader>> = listed.iter().map(open).collect();
            // A rewrite may have taken segments away meanwhile. What is open stays readable.
            if FrameReader::open(disk, path)?.header().id == growing.header().id {
                break (opened?, first, growing);
            }
        };
        let frames = segments.into_iter().flatten().chain(first.map(Ok)).chain(growing);
        let told = |frame: &Result<Frame>| frame.as_ref().map_or(true, |f| f.record.is_told());
        Ok(frames.filter(told).map(|frame| frame.map(|f| f.record)))
    }

    /// Makes a journal of the records that `next` gives until `None`, at a path where there is none, for a profile
    /// that nobody uses yet. No id below `next_id` is given out again.
    ///
    /// # Errors
    /// What `next` says; `Usage` if a record is too large, `Io`.
    pub fn write(
        disk: &dyn Disk,
        path: &Path,
        next_id: u32,
        now_ms: u64,
        mut next: impl FnMut() -> Result<Option<Record>>,
    ) -> Result<()> {
        Journal::write_all(disk, path, next_id, now_ms, |push| {
            while let Some(record) = next()? {
                push(&record)?;
            }
            Ok(())
        })
    }

    /// [`Journal::write`] of the records that `fill` hands on.
    ///
    /// # Errors
    /// As [`Journal::write`].
    pub fn write_all(
        disk: &dyn Disk,
        path: &Path,
        next_id: u32,
        now_ms: u64,
        fill: impl FnOnce(&mut dyn FnMut(&Record) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let mut copy = rewrite::Copy::begin(disk, path, SegmentSize::default(), now_ms)?;
        copy.reserve(next_id);
        fill(&mut |record| {
            copy.note(record);
            copy.push(record)
        })?;
        copy.finish()
    }

    /// The index of a journal without opening it for writing; needs no lock.
    ///
    /// # Errors
    /// `BadData`, `Io`.
    pub fn load_state(disk: &dyn Disk, path: &Path) -> Result<JournalState> {
        loop {
            let mut reader = FrameReader::open(disk, path)?;
            let mut state = JournalState::default();
            match state.absorb(disk, &mut reader) {
                // A rewrite may have taken segments away meanwhile.
                Err(_) if FrameReader::open(disk, path)?.header().id != reader.header().id => {}
                other => return other.map(|()| state),
            }
        }
    }

    /// Index as of the last call that took the lock.
    pub fn state(&self) -> &JournalState {
        self.writer.state()
    }
    /// The writer, for what needs no lock.
    pub fn writer(&self) -> &JournalWriter {
        &self.writer
    }

    fn turn(&mut self, purpose: &str) -> Result<WriterLock> {
        let held = WriterLock::acquire(&*self.disk, &self.lock, self.wait, purpose)?;
        self.writer.catch_up()?;
        Ok(held)
    }

    /// Reads what other processes appended; after a failed write, all of it.
    ///
    /// # Errors
    /// `BadData`, `Busy`, `Io`.
    pub fn refresh(&mut self) -> Result<()> {
        if self.writer.is_poisoned() {
            return self.reopen();
        }
        self.turn("reading the journal").map(drop)
    }

    /// Opens the journal again after a failed write.
    ///
    /// # Errors
    /// `BadData`, `Busy`, `Io`.
    pub fn reopen(&mut self) -> Result<()> {
        let _held = WriterLock::acquire(&*self.disk, &self.lock, self.wait, "opening the journal")?;
        self.writer.reopen()
    }

    /// Records a question and its answer; its new id. Waits for storage as the policy says.
    ///
    /// # Errors
    /// `Usage` if the input is unsound or too large, `Busy`, `BadData`, `Io`.
    pub fn record_interaction(
        &mut self,
        at_ms: u64,
        input: StoredInput,
        top: Vec<(String, f32)>,
        generation: u64,
    ) -> Result<InteractionId> {
        let _held = self.turn("recording an interaction")?;
        let id = self.state().next_id()?;
        self.writer.append(Record::Interaction { id, at_ms, input, top, generation })?;
        self.waiting = self.waiting.saturating_add(1);
        self.oldest.get_or_insert_with(Instant::now);
        if self.is_due() {
            self.writer.sync()?;
            self.flushed();
        }
        self.tidy();
        Ok(id)
    }

    /// Seals what has grown large, and drops what the limit asks for. The record that was the occasion is recorded
    /// either way: what fails here is tried again later. To be called with the lock held.
    fn tidy(&mut self) {
        if self.writer.is_full() && self.writer.end() >= self.next_seal {
            match self.writer.seal() {
                Ok(()) => self.flushed(),
                Err(_) => self.next_seal = self.writer.end().saturating_add(self.writer.size().bytes / 8),
            }
        }
        if self.writer.bytes() > self.next_checkpoint {
            if limit::shrink(&mut self.writer, self.limit, self.always_kept).is_ok() {
                self.flushed();
            }
            // Where what stays is more than the limit, it is not looked at again for every record.
            self.next_checkpoint = self.limit.max(self.writer.bytes().saturating_add(self.limit / limit::PARTS));
        }
    }

    /// Whether interactions have waited for storage as long, or are as many, as the policy allows.
    pub fn is_due(&self) -> bool {
        self.waiting > 0
            && (self.policy == SyncPolicy::Always
                || self.waiting >= GROUP_RECORDS
                || self.oldest.is_some_and(|since| since.elapsed() >= GROUP_TIME))
    }

    fn flushed(&mut self) {
        (self.waiting, self.oldest) = (0, None);
    }

    /// Makes everything recorded so far durable.
    ///
    /// # Errors
    /// `Busy`, `BadData`, `Io`.
    pub fn flush(&mut self) -> Result<()> {
        if self.waiting > 0 {
            let _held = self.turn("syncing the journal")?;
            // Another process may have synced the file, which covers all of it.
            if self.writer.is_unsynced() {
                self.writer.sync()?;
            }
            self.flushed();
        }
        Ok(())
    }

    /// Records feedback; returns when it and its interaction are durable, with the number of feedback items that
    /// the last training did not read.
    ///
    /// # Errors
    /// `Usage` if the id is unknown or has feedback already, `Busy`, `BadData`, `Io`.
    pub fn record_feedback(&mut self, id: InteractionId, at_ms: u64, kind: FeedbackKind) -> Result<usize> {
        let _held = self.turn("recording feedback")?;
        self.writer.append_durable(Record::Feedback { id, at_ms, kind })?;
        self.flushed();
        self.tidy();
        Ok(self.state().waiting())
    }

    /// Puts `kind` in the place of what was said last about an interaction; returns when it is durable, with what was
    /// said, and the number of feedback items that the last training did not read.
    ///
    /// # Errors
    /// `Usage` if nothing was said, or exactly this; `Busy`, `BadData`, `Io`.
    pub fn revise_feedback(
        &mut self,
        id: InteractionId,
        at_ms: u64,
        kind: FeedbackKind,
    ) -> Result<(FeedbackKind, usize)> {
        let _held = self.turn("revising feedback")?;
        let state = self.state();
        if state.interaction(id)?.is_none() {
            return Err(state::no_such_interaction(id));
        }
        let was = state.feedback_on(id)?.ok_or_else(|| state::no_feedback(id))?.kind;
        if was == kind {
            let words = if kind == FeedbackKind::Ignored { "is ignored already" } else { "says just that already" };
            return Err(Error::usage(format!("the feedback on interaction {id} {words}")).hint("nothing was changed"));
        }
        self.writer.append_durable(Record::Revision { id, at_ms, kind, was: was.clone() })?;
        self.flushed();
        self.tidy();
        Ok((was, self.state().waiting()))
    }

    /// Records a training run that read the first `feedback` feedback items of the journal; returns when it is durable.
    /// To be called with the training lock held since it read them, so that none of them can have been forgotten.
    ///
    /// # Errors
    /// `Busy`, `BadData`, `Io`.
    pub fn record_training(
        &mut self,
        at_ms: u64,
        generation: Option<u64>,
        verdict: Verdict,
        steps: u64,
        seconds: f32,
        feedback: u64,
    ) -> Result<()> {
        let _held = self.turn("recording a training run")?;
        let unread = (self.state().feedback() as u64).saturating_sub(feedback);
        let training = Record::Training { at_ms, generation, verdict, steps, seconds, unread };
        self.writer.append_durable(training)?;
        self.flushed();
        Ok(())
    }

    /// Drops the interactions `ids`, what was said about them, and the records of training runs that had seen one of
    /// them (with `all`, of every training run), durably. They are in no file any more. What is not concerned is not
    /// written again.
    ///
    /// # Errors
    /// `BadData`, `Busy`, `Io`; where it fails, all of it may still be there, or none.
    pub fn forget(&mut self, ids: &HashSet<InteractionId>, all: bool) -> Result<()> {
        let _held = self.turn("forgetting")?;
        self.recent = None;
        self.writer.forget(ids, all)?;
        self.flushed();
        Ok(())
    }

    /// The input of one interaction, read from the file.
    ///
    /// # Errors
    /// `Usage` if the id is unknown, `BadData`, `Io`.
    pub fn input(&self, id: InteractionId) -> Result<StoredInput> {
        self.writer.input(id)
    }

    /// The latest feedback on answers of `generation`, at most `most`, oldest first. The first time, and after the
    /// growing file was rewritten, it is read back from the end of the journal (see
    /// [`JournalState::latest_feedback_on`]); from then on only what was said since is looked at.
    ///
    /// # Errors
    /// `BadData`, `Io` where a segment cannot be read.
    pub fn latest_feedback(&mut self, generation: u64, most: usize) -> Result<Vec<Spoken>> {
        let (state, file) = (self.writer.state(), self.writer.id());
        let mut recent = match self.recent.take().filter(|recent| recent.covers(state, file, generation, most)) {
            Some(recent) => recent,
            None => Recent::read(state, file, generation, most)?,
        };
        recent.follow(state)?;
        let items = recent.items().cloned().collect();
        self.recent = Some(recent);
        Ok(items)
    }

    /// Id of the file that grows: another one after it was rewritten or sealed.
    pub fn file(&self) -> JournalId {
        self.writer.id()
    }

    /// The journal as it is now, to be read without holding on to it.
    pub fn snapshot(&self) -> Snapshot {
        self.writer.snapshot()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // What could not be synced is what an operating system writes back a little later.
        let _ = self.flush();
    }
}
