//! Sealed segments: the older part of a journal, in files that never change, each with an index at its end.
//!
//! What is in memory of a segment is its footer and a block of its index, some kilobytes; ids are found by reading one
//! block.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::frame::{FILE_HEADER_LEN, FileHeader};
pub use super::index::{Footer, Place, Revised, SegmentInfo, TrainingPlace};
pub use super::names::segments_folder;
pub(super) use super::names::{segment_names, segment_number, segment_path};
use super::reader::{damaged, read_frame_at};
use super::record::{InteractionId, Record};
use crate::cipher::Cipher;
use crate::disk::{Disk, DiskFile, read_full};
use crate::error::{Error, Result};

/// Entries of the index in one block: what is read to find one id.
pub(super) const BLOCK: usize = 512;

/// Size from which on the growing part of a journal is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSize {
    /// Its bytes.
    pub bytes: u64,
    /// Its records: while they are in the growing part, about 60 bytes of memory each.
    pub records: u64,
}

impl Default for SegmentSize {
    fn default() -> SegmentSize {
        SegmentSize { bytes: 8 << 20, records: 1 << 16 }
    }
}

/// A sealed segment that is open. Its file stays readable when a rewrite takes its name away.
#[derive(Debug)]
pub struct Sealed {
    pub(super) info: SegmentInfo,
    pub(super) footer: Footer,
    pub(super) revised: Revised,
    pub(super) path: PathBuf,
    file: Box<dyn DiskFile>,
    cipher: Option<Cipher>,
    /// The block of the index that was searched last, with its place: who looks for many ids looks in their order.
    searched: Mutex<Option<(u64, Arc<Vec<Place>>)>>,
}

impl PartialEq for Sealed {
    fn eq(&self, other: &Sealed) -> bool {
        self.info == other.info && self.footer == other.footer
    }
}

impl Sealed {
    /// Opens the segment `info` of the journal at `journal`.
    ///
    /// # Errors
    /// `BadData` if it is missing or another one than was sealed; its records are checked when they are read. `Io`.
    pub(super) fn open(disk: &dyn Disk, journal: &Path, info: &SegmentInfo) -> Result<Sealed> {
        let path = segment_path(journal, info.number);
        let io = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => damaged(&path, 0, "a segment of the journal is missing"),
            _ => Error::io("cannot read a segment of the journal", &path, e),
        };
        let file = disk.open_read(&path).map_err(io)?;
        let mut bytes = [0; FILE_HEADER_LEN];
        let n = read_full(&*file, &mut bytes, 0).map_err(io)?;
        let header = FileHeader::decode(bytes.get(..n).unwrap_or_default()).map_err(|e| e.at(path.display()))?;
        if header.id != info.id || header.segment != info.number || file.len().map_err(io)? != info.bytes {
            return Err(damaged(&path, 0, "this is not the segment that was sealed"));
        }
        let cipher = disk.cipher().cloned();
        let (footer, revised) = match read_frame_at(&*file, cipher.as_ref(), &path, &info.id, info.footer)? {
            Record::Footer(footer) => (*footer, Revised::default()),
            Record::RevisedFooter(footer, revised) => (*footer, revised),
            _ => return Err(damaged(&path, info.footer, "a segment's footer is not where it was")),
        };
        Ok(Sealed { info: info.clone(), footer, revised, path, file, cipher, searched: Mutex::default() })
    }

    /// The record at `offset`.
    pub(super) fn record(&self, offset: u64) -> Result<Record> {
        read_frame_at(&*self.file, self.cipher.as_ref(), &self.path, &self.info.id, offset)
    }

    fn block(&self, offset: u64) -> Result<Vec<Place>> {
        match self.record(offset)? {
            Record::Index(block) => Ok(block),
            _ => Err(damaged(&self.path, offset, "a block of the index is not where it was")),
        }
    }

    /// A block to be searched.
    fn block_to_search(&self, offset: u64) -> Result<Arc<Vec<Place>>> {
        let searched = || self.searched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, block)) = searched().as_ref().filter(|(at, _)| *at == offset) {
            return Ok(Arc::clone(block));
        }
        let block = Arc::new(self.block(offset)?);
        *searched() = Some((offset, Arc::clone(&block)));
        Ok(block)
    }

    fn find_in(&self, blocks: &[Place], last: Option<InteractionId>, id: InteractionId) -> Result<Option<u64>> {
        let before = blocks.partition_point(|block| block.id <= id);
        let Some(block) = before.checked_sub(1).and_then(|at| blocks.get(at)).filter(|_| last >= Some(id)) else {
            return Ok(None);
        };
        let block = self.block_to_search(block.offset)?;
        // Of several revisions the last one.
        let after = block.partition_point(|place| place.id <= id);
        let found = after.checked_sub(1).and_then(|at| block.get(at)).filter(|place| place.id == id);
        Ok(found.map(|place| place.offset))
    }

    /// Where interaction `id` stands.
    pub(super) fn find(&self, id: InteractionId) -> Result<Option<u64>> {
        self.find_in(&self.footer.blocks, self.footer.last, id)
    }

    /// Where the last word on interaction `id` stands.
    pub(super) fn find_feedback(&self, id: InteractionId) -> Result<Option<u64>> {
        self.find_in(&self.footer.feedback_blocks, self.footer.last_feedback, id)
    }

    /// Its interactions, by growing id, a block at a time.
    pub(super) fn places(&self) -> impl DoubleEndedIterator<Item = Result<Vec<Place>>> {
        self.footer.blocks.iter().map(|block| self.block(block.offset))
    }

    /// The interactions that feedback here is about, by growing id, a block at a time.
    pub(super) fn feedback_places(&self) -> impl Iterator<Item = Result<Vec<Place>>> {
        self.footer.feedback_blocks.iter().map(|block| self.block(block.offset))
    }

    /// Whether it holds the record of a training run.
    pub(super) fn has_trainings(&self) -> bool {
        !self.footer.trainings.is_empty()
    }

    /// Whether one of `ids`, or feedback on it, is here.
    pub(super) fn holds_any(&self, ids: &std::collections::HashSet<InteractionId>) -> Result<bool> {
        for block in self.places().chain(self.feedback_places()) {
            if block?.iter().any(|place| ids.contains(&place.id)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
