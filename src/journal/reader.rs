//! Reads a journal frame by frame, never the whole file at once, and tells a torn tail from damage.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::frame::{
    END, FILE_HEADER_LEN, FRAME_HEADER_LEN, FileHeader, FrameHeader, JournalId, MAX_PAYLOAD, decode_payload,
};
use super::record::{FeedbackKind, InteractionId, Record, StoredInput};
use crate::adapter::Verdict;
use crate::disk::{Disk, DiskFile, read_full};
use crate::error::{Error, Result};

/// One whole record and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Where the frame starts in the file.
    pub offset: u64,
    /// Number of the frame.
    pub sequence: u64,
    /// What it holds.
    pub record: Record,
}

/// The trace of a write that was cut off and never acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornTail {
    /// Where it starts.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// Iterator over the frames of a journal; ends at the end of the file, at a torn tail, or after an error.
#[derive(Debug)]
pub struct FrameReader {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    header: FileHeader,
    len: u64,
    next: u64,
    next_sequence: u64,
    torn: Option<TornTail>,
    failed: bool,
}

impl FrameReader {
    /// Opens the journal at `path`.
    ///
    /// # Errors
    /// `BadData` if it is not a journal, `Io`.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<FrameReader> {
        let io = |e| Error::io("cannot read the journal", path, e);
        let file = disk.open_read(path).map_err(io)?;
        let mut bytes = [0; FILE_HEADER_LEN];
        let n = read_full(&*file, &mut bytes, 0).map_err(io)?;
        let header = FileHeader::decode(bytes.get(..n).unwrap_or_default()).map_err(|e| e.at(path.display()))?;
        let len = file.len().map_err(io)?;
        let next = FILE_HEADER_LEN as u64;
        Ok(FrameReader { file, path: path.to_owned(), header, len, next, next_sequence: 1, torn: None, failed: false })
    }

    /// Goes on from a place where a frame starts.
    pub(super) fn skip_to(&mut self, offset: u64, sequence: u64) {
        (self.next, self.next_sequence) = (offset, sequence);
    }
    /// Name of the journal.
    pub fn journal_id(&self) -> JournalId {
        self.header.id
    }
    /// Where the last whole frame ended.
    pub fn end(&self) -> u64 {
        self.next
    }
    /// Number that the next frame would have.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }
    /// What was found after the last whole frame, once the iterator has ended.
    pub fn torn_tail(&self) -> Option<TornTail> {
        self.torn
    }

    fn damaged(&self, what: &str) -> Error {
        damaged(&self.path, self.next, what)
    }

    /// Bytes at `offset`; fewer only if the file has shrunk since it was opened.
    fn bytes(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; len];
        let io = |e| Error::io("cannot read the journal", &self.path, e);
        let n = read_full(&*self.file, &mut buffer, offset).map_err(io)?;
        buffer.truncate(n);
        Ok(buffer)
    }

    /// Whether the file holds only zeros from `at` on: blocks that it grew by and that were never written.
    fn is_zero_from(&self, mut at: u64) -> Result<bool> {
        while at < self.len {
            let chunk = self.bytes(at, 64 << 10)?;
            if chunk.iter().any(|b| *b != 0) {
                return Ok(false);
            }
            if chunk.is_empty() {
                break;
            }
            at = at.saturating_add(chunk.len() as u64);
        }
        Ok(true)
    }

    fn torn(&mut self) -> Result<Option<Frame>> {
        self.torn = Some(TornTail { offset: self.next, bytes: self.len.saturating_sub(self.next) });
        Ok(None)
    }

    fn step(&mut self) -> Result<Option<Frame>> {
        let rest = self.len.saturating_sub(self.next);
        if rest == 0 {
            return Ok(None);
        }
        let start = self.bytes(self.next, FRAME_HEADER_LEN)?;
        if rest < FRAME_HEADER_LEN as u64 {
            return self.torn();
        }
        let Some(header) = FrameHeader::decode(&start, &self.header.id) else {
            if self.is_zero_from(self.next.saturating_add(FRAME_HEADER_LEN as u64 - 1))? {
                return self.torn();
            }
            return Err(self.damaged("the checksum of a frame's header does not match"));
        };
        if header.sequence != self.next_sequence {
            return Err(self.damaged("a frame is out of order"));
        }
        if header.frame_len() > rest {
            return self.torn();
        }
        let mut payload =
            self.bytes(self.next.saturating_add(FRAME_HEADER_LEN as u64), header.payload_len.saturating_add(1))?;
        let end = payload.pop();
        if end == Some(0) && self.is_zero_from(self.next.saturating_add(header.frame_len() - 1))? {
            return self.torn();
        }
        if end != Some(END) || crc32fast::hash(&payload) != header.payload_crc {
            return Err(self.damaged("the checksum of a record does not match"));
        }
        let record = decode_payload(&payload).ok_or_else(|| self.damaged("a record does not decode"))?;
        let frame = Frame { offset: self.next, sequence: header.sequence, record };
        self.next = self.next.saturating_add(header.frame_len());
        self.next_sequence = self.next_sequence.saturating_add(1);
        Ok(Some(frame))
    }
}

impl Iterator for FrameReader {
    type Item = Result<Frame>;
    fn next(&mut self) -> Option<Result<Frame>> {
        if self.failed || self.torn.is_some() {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}

pub(super) fn damaged(path: &Path, offset: u64, what: &str) -> Error {
    Error::bad_data(format!("damaged journal: {what}, at byte {offset}"))
        .at(path.display())
        .hint("the file is kept as it is: restore it from a copy, or move it away to start a new journal")
}

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
    pub answer: Option<(String, f32)>,
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
}

/// Index of a journal: everything but the inputs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JournalState {
    interactions: Vec<InteractionEntry>,
    feedback: Vec<FeedbackEntry>,
    trainings: Vec<TrainingEntry>,
    by_id: HashMap<InteractionId, usize>,
    feedback_by_id: HashMap<InteractionId, usize>,
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
        self.by_id.get(&id).and_then(|i| self.interactions.get(*i))
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
        match self.interactions.last() {
            None => Ok(InteractionId(0)),
            Some(last) => last
                .id
                .0
                .checked_add(1)
                .map(InteractionId)
                .ok_or_else(|| Error::usage("the journal has no interaction ids left").hint("start a new profile")),
        }
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
            Record::Feedback { id, .. } if !self.by_id.contains_key(id) => {
                Err(Error::usage(format!("there is no interaction {id} in this profile"))
                    .hint("give the id that predict printed, and the same profile"))
            }
            Record::Feedback { id, .. } if self.feedback_by_id.contains_key(id) => {
                Err(Error::usage(format!("interaction {id} already has feedback"))
                    .hint("predict again and give feedback on the new id"))
            }
            Record::Feedback { .. } | Record::Training { .. } => Ok(()),
        }
    }

    /// Takes in a record that passed [`JournalState::check`] and stands at `offset`.
    pub(super) fn apply(&mut self, record: Record, offset: u64) {
        match record {
            Record::Interaction { id, at_ms, top, generation, input: _ } => {
                self.by_id.insert(id, self.interactions.len());
                let answer = top.into_iter().next();
                self.interactions.push(InteractionEntry { id, at_ms, offset, answer, generation });
            }
            Record::Feedback { id, at_ms, kind } => {
                self.feedback_by_id.insert(id, self.feedback.len());
                self.feedback.push(FeedbackEntry { id, at_ms, kind });
            }
            Record::Training { at_ms, generation, verdict, steps, seconds } => {
                let feedback_before = self.feedback.len();
                self.trainings.push(TrainingEntry { at_ms, generation, verdict, steps, seconds, feedback_before });
            }
        }
    }

    /// Takes in all that `reader` still has.
    pub(super) fn absorb(&mut self, reader: &mut FrameReader) -> Result<()> {
        while let Some(frame) = reader.next() {
            let frame = frame?;
            self.check(&frame.record).map_err(|e| damaged(&reader.path, frame.offset, e.what()))?;
            self.apply(frame.record, frame.offset);
        }
        Ok(())
    }
}

/// Reads the one frame at `offset`.
pub(super) fn read_frame_at(file: &dyn DiskFile, path: &Path, id: &JournalId, offset: u64) -> Result<Record> {
    let io = |e| Error::io("cannot read the journal", path, e);
    let mut start = [0; FRAME_HEADER_LEN];
    read_full(file, &mut start, offset).map_err(io)?;
    let header = FrameHeader::decode(&start, id).filter(|h| h.payload_len <= MAX_PAYLOAD);
    let header = header.ok_or_else(|| damaged(path, offset, "the checksum of a frame's header does not match"))?;
    let rest = file.len().map_err(io)?.saturating_sub(offset);
    if header.frame_len() > rest {
        return Err(damaged(path, offset, "a frame is cut off"));
    }
    let mut payload = vec![0; header.payload_len];
    read_full(file, &mut payload, offset.saturating_add(FRAME_HEADER_LEN as u64)).map_err(io)?;
    if crc32fast::hash(&payload) != header.payload_crc {
        return Err(damaged(path, offset, "the checksum of a record does not match"));
    }
    decode_payload(&payload).ok_or_else(|| damaged(path, offset, "a record does not decode"))
}
