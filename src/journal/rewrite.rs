//! Writes a journal anew, without what is to be forgotten, in the place of the old one.

use std::path::Path;

use super::frame::{FILE_HEADER_LEN, FileHeader, JournalId, VERSION, encode_frame};
use super::reader::FrameReader;
use super::record::Record;
use super::writer::random_id;
use crate::disk::{Disk, StagedFile, folder_of};
use crate::error::Result;

/// Bytes gathered before they are written.
const CHUNK: usize = 1 << 20;

/// Puts a journal of the records that `keep` accepts in the place of the one at `path`, atomically, and makes it durable.
/// To be called with the profile's short lock held. A torn tail is left out.
///
/// # Errors
/// `BadData` if the journal is damaged, `Io`; the old one is untouched then.
pub(super) fn rewrite(disk: &dyn Disk, path: &Path, keep: impl Fn(&Record) -> bool) -> Result<()> {
    let mut reader = FrameReader::open(disk, path)?;
    let mut copy = Copy::begin(disk, path, reader.header().created_ms)?;
    for frame in reader.by_ref() {
        let record = frame?.record;
        copy.note(&record);
        if keep(&record) {
            copy.push(&record)?;
        }
    }
    let next_id = reader.header().next_id;
    copy.finish(path, next_id)
}

/// A journal that is being written.
pub(super) struct Copy<'a> {
    file: StagedFile<'a>,
    id: JournalId,
    created_ms: u64,
    sequence: u64,
    at: u64,
    pending: Vec<u8>,
    next_id: u32,
}

impl<'a> Copy<'a> {
    /// Begins a journal that is to stand at `path`.
    pub(super) fn begin(disk: &'a dyn Disk, path: &Path, created_ms: u64) -> Result<Copy<'a>> {
        let file = StagedFile::create(disk, folder_of(path))?;
        let at = FILE_HEADER_LEN as u64;
        Ok(Copy { file, id: random_id(), created_ms, sequence: 1, at, pending: vec![], next_id: 0 })
    }

    /// Makes sure that the id of `record`, kept or not, is not given out again.
    pub(super) fn note(&mut self, record: &Record) {
        if let Record::Interaction { id, .. } = record {
            self.next_id = self.next_id.max(id.0.saturating_add(1));
        }
    }

    pub(super) fn push(&mut self, record: &Record) -> Result<()> {
        if *record == Record::Synced {
            return Ok(());
        }
        self.frame(record)?;
        if self.pending.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn frame(&mut self, record: &Record) -> Result<()> {
        self.pending.extend(encode_frame(&self.id, self.sequence, record)?);
        self.sequence = self.sequence.saturating_add(1);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_at(&self.pending, self.at)?;
        self.at = self.at.saturating_add(self.pending.len() as u64);
        self.pending.clear();
        Ok(())
    }

    /// Completes it, and puts it in the place of what is at `path`. No id below `next_id` is given out again either.
    pub(super) fn finish(mut self, path: &Path, next_id: u32) -> Result<()> {
        // True once the file has its name, and nobody reads it before.
        self.frame(&Record::Synced)?;
        self.flush()?;
        let (id, created_ms, next_id) = (self.id, self.created_ms, next_id.max(self.next_id));
        self.file.write_at(&FileHeader { version: VERSION, id, created_ms, next_id }.encode(), 0)?;
        self.file.replace(path)
    }
}
