//! The append-only record of what a profile's model was asked, what it answered and what the person said.
//!
//! `record` says what is recorded, `frame` how it looks in the file, `reader` and `writer` go through the file, and
//! [`Journal`] shares one file among processes.

pub mod frame;
pub mod reader;
pub mod record;
pub mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use reader::{FeedbackEntry, Frame, FrameReader, InteractionEntry, JournalState, TornTail, TrainingEntry};
pub use record::{Dtype, FeedbackKind, InteractionId, Record, StoredArray, StoredInput};
pub use writer::JournalWriter;

use crate::adapter::Verdict;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::store::lock::WriterLock;

/// A profile's journal, shared with other processes: each append takes the lock, reads what the others added, and appends.
#[derive(Debug)]
pub struct Journal {
    disk: Arc<dyn Disk>,
    lock: PathBuf,
    wait: Duration,
    writer: JournalWriter,
}

impl Journal {
    /// Opens the journal at `path`, making an empty one at time `now_ms` if there is none. `lock` is its lock file, waited
    /// for at most `wait` per append.
    ///
    /// # Errors
    /// `BadData` if it is damaged, `Busy`, `Io`.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, lock: &Path, wait: Duration, now_ms: u64) -> Result<Journal> {
        let _held = WriterLock::acquire(&*disk, lock, wait, "opening the journal")?;
        if !disk.exists(path).map_err(|e| Error::io("cannot look for the journal", path, e))? {
            JournalWriter::create(&*disk, path, now_ms)?;
        }
        let writer = JournalWriter::open(disk.clone(), path)?;
        Ok(Journal { disk, lock: lock.to_owned(), wait, writer })
    }

    /// All frames, one after the other; needs no lock.
    ///
    /// # Errors
    /// `BadData`, `Io`.
    pub fn read(disk: &dyn Disk, path: &Path) -> Result<FrameReader> {
        FrameReader::open(disk, path)
    }

    /// The index of a journal without opening it for writing; needs no lock.
    ///
    /// # Errors
    /// `BadData`, `Io`.
    pub fn load_state(disk: &dyn Disk, path: &Path) -> Result<JournalState> {
        let mut state = JournalState::default();
        state.absorb(&mut FrameReader::open(disk, path)?)?;
        Ok(state)
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

    /// Reads what other processes appended.
    ///
    /// # Errors
    /// `BadData`, `Busy`, `Io`.
    pub fn refresh(&mut self) -> Result<()> {
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

    /// Records a question and its answer, without waiting for the medium; its new id.
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
        Ok(id)
    }

    /// Records feedback; returns when it and its interaction are on the medium, with the number of feedback items since the
    /// last training.
    ///
    /// # Errors
    /// `Usage` if the id is unknown or has feedback already, `Busy`, `BadData`, `Io`.
    pub fn record_feedback(&mut self, id: InteractionId, at_ms: u64, kind: FeedbackKind) -> Result<usize> {
        let _held = self.turn("recording feedback")?;
        self.writer.append_durable(Record::Feedback { id, at_ms, kind })?;
        Ok(self.state().waiting())
    }

    /// Records a training run; returns when it is on the medium.
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
    ) -> Result<()> {
        let _held = self.turn("recording a training run")?;
        self.writer.append_durable(Record::Training { at_ms, generation, verdict, steps, seconds })
    }

    /// The input of one interaction, read from the file.
    ///
    /// # Errors
    /// `Usage` if the id is unknown, `BadData`, `Io`.
    pub fn input(&self, id: InteractionId) -> Result<StoredInput> {
        self.writer.input(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::error::ErrorKind;

    fn open(dir: &Path) -> Result<Journal> {
        let disk = Arc::new(RealDisk);
        Journal::open(disk, &dir.join("journal.log"), &dir.join("journal.lock"), Duration::from_millis(50), 1)
    }

    #[test]
    fn two_handles_take_turns_and_see_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut a = open(dir.path()).unwrap();
        let mut b = open(dir.path()).unwrap();
        let mut ids = Vec::new();
        for i in 0..10 {
            let journal = if i % 3 == 0 { &mut a } else { &mut b };
            ids.push(journal.record_interaction(i, StoredInput::Text(format!("q{i}")), vec![], 0).unwrap());
        }
        assert_eq!(ids, (0..10).map(InteractionId).collect::<Vec<_>>());
        assert_eq!(a.record_feedback(ids[9], 20, FeedbackKind::Accept).unwrap(), 1);
        assert_eq!(b.record_feedback(ids[9], 21, FeedbackKind::Reject).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(b.record_feedback(ids[0], 22, FeedbackKind::Reject).unwrap(), 2);
        a.refresh().unwrap();
        assert_eq!(a.state(), b.state());
        assert_eq!(a.input(ids[4]).unwrap(), StoredInput::Text("q4".into()));
    }

    #[test]
    fn a_journal_that_was_rewritten_is_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut a = open(dir.path()).unwrap();
        a.record_interaction(1, StoredInput::Text("x".into()), vec![], 0).unwrap();
        std::fs::remove_file(dir.path().join("journal.log")).unwrap();
        let mut b = open(dir.path()).unwrap();
        let id = b.record_interaction(2, StoredInput::Text("y".into()), vec![], 0).unwrap();
        a.refresh().unwrap();
        assert_eq!(a.state(), b.state());
        assert_eq!(a.input(id).unwrap(), StoredInput::Text("y".into()));
    }

    #[test]
    #[ignore = "a measurement"]
    fn cost_of_an_append() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(dir.path()).unwrap();
        let start = std::time::Instant::now();
        for i in 0..10_000 {
            journal
                .record_interaction(i, StoredInput::Text("turn on the light".into()), vec![("a".into(), 0.5)], 0)
                .unwrap();
        }
        eprintln!("append {:?}", start.elapsed() / 10_000);
        let start = std::time::Instant::now();
        Journal::load_state(&RealDisk, &dir.path().join("journal.log")).unwrap();
        eprintln!("load of 10,000: {:?}", start.elapsed());
    }

    #[test]
    fn a_held_lock_is_busy_and_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let mut a = open(dir.path()).unwrap();
        let lock = dir.path().join("journal.lock");
        let held = WriterLock::acquire(&RealDisk, &lock, Duration::ZERO, "a test").unwrap();
        let e = a.record_interaction(1, StoredInput::Text("x".into()), vec![], 0).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Busy);
        drop(held);
        a.record_interaction(1, StoredInput::Text("x".into()), vec![], 0).unwrap();
    }
}
