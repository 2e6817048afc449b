//! A journal as it was at one moment, to be read while others go on with it.

use std::path::PathBuf;
use std::sync::Arc;

use super::frame::JournalId;
use super::reader::read_frame_at;
use super::record::{InteractionId, Record, StoredInput};
use super::state::{InteractionEntry, JournalState};
use crate::cipher::Cipher;
use crate::disk::DiskFile;
use crate::error::Result;

/// The index of a journal at one moment, and its files, open. What is appended later is not in it; what a rewrite takes
/// away stays readable through it. Needs no lock.
#[derive(Debug)]
pub struct Snapshot {
    pub(super) state: JournalState,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) path: PathBuf,
    pub(super) id: JournalId,
    pub(super) cipher: Option<Cipher>,
}

impl Snapshot {
    /// The index.
    pub fn state(&self) -> &JournalState {
        &self.state
    }

    /// The input of one interaction, read from the file.
    ///
    /// # Errors
    /// `Usage` if the id is unknown, `BadData`, `Io`.
    pub fn input(&self, id: InteractionId) -> Result<StoredInput> {
        self.state.input(id, |at| self.growing(at))
    }

    /// One interaction with its input, in one reading.
    ///
    /// # Errors
    /// `BadData`, `Io`.
    pub fn with_input(&self, id: InteractionId) -> Result<Option<(InteractionEntry, StoredInput)>> {
        self.state.with_input(id, |at| self.growing(at))
    }

    fn growing(&self, at: u64) -> Result<Record> {
        read_frame_at(&*self.file, self.cipher.as_ref(), &self.path, &self.id, at)
    }
}
