//! What can be kept of a damaged journal: every whole frame that makes sense after those kept before it.

mod source;
#[cfg(test)]
mod tests;
mod walk;

use std::path::{Path, PathBuf};

use super::frame::{FileHeader, VERSION};
use super::id::random_id;
use super::record::Record;
use super::rewrite::Copy;
use super::segment::{SegmentSize, segment_names, segment_number};
use crate::disk::{Disk, StagedFile, folder_of};
use crate::error::{Error, Result};
use source::Source;
use walk::Walk;

/// A place that holds no whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where it starts.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// What was found in a journal, whole or not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// Records that can be kept.
    pub kept: u64,
    /// Whole records that cannot: they speak of what is lost, or say something twice.
    pub orphaned: u64,
    /// Of those that can be kept, revisions of feedback that is lost: they are changed to revise what is left.
    pub mended: u64,
    /// Files in which records stand that cannot be kept as they are.
    pub orphans: Vec<PathBuf>,
    /// Places that hold no whole frame. A file that is missing is one of no bytes.
    pub damaged: Vec<Damage>,
    /// Bytes of a torn tail, which nobody was told is recorded.
    pub torn: u64,
    /// Whether the headers of all files are whole.
    pub header: bool,
    /// Files of segments that no list names: what an interrupted rewrite left.
    pub stray: Vec<PathBuf>,
}

impl Survey {
    /// Whether nothing that was acknowledged is missing.
    pub fn is_sound(&self) -> bool {
        self.header && self.damaged.is_empty() && self.orphaned == 0 && self.mended == 0
    }
}

/// Looks at all of the journal at `path`, whatever is damaged in it.
///
/// # Errors
/// `Io`.
pub fn survey(disk: &dyn Disk, path: &Path) -> Result<Survey> {
    loop {
        if let Some(found) = Walk::all(disk, path, None)? {
            return Ok(found);
        }
    }
}

/// Hands every record that can be kept of the journal at `path` to `take`, oldest first, whatever is damaged in it.
/// Writes nothing, and needs no lock.
///
/// # Errors
/// What `take` says; `Io`.
pub fn read(disk: &dyn Disk, path: &Path, take: &mut dyn FnMut(&Record) -> Result<()>) -> Result<Survey> {
    loop {
        if let Some(found) = Walk::all(disk, path, Some(&mut |record: &Record| take(record)))? {
            return Ok(found);
        }
    }
}

/// Whether segments are there, and the file that lists them is not.
///
/// # Errors
/// `Io`.
pub fn is_headless(disk: &dyn Disk, path: &Path) -> Result<bool> {
    let there = disk.exists(path).map_err(|e| Error::io("cannot look for the journal", path, e))?;
    Ok(!there && segment_names(disk, path)?.iter().any(|name| segment_number(name).is_some()))
}

/// Puts a file of no records where the one that lists the segments was, so that [`salvage`] goes through those that
/// are there. To be called with the profile's short lock held.
///
/// # Errors
/// `Io`.
pub fn stand_in(disk: &dyn Disk, path: &Path) -> Result<()> {
    let header = FileHeader { version: VERSION, id: random_id()?, created_ms: 0, next_id: 0, segment: 0 };
    StagedFile::write(disk, folder_of(path), &header.encode())?.publish(path)
}

/// Puts a journal of what can be kept in the place of the one at `path`. To be called with the profile's short lock
/// held.
///
/// # Errors
/// `Io`; the old one is untouched then.
pub fn salvage(disk: &dyn Disk, path: &Path) -> Result<Survey> {
    let header = Source::open(disk, path)?.header;
    let (created_ms, next_id) = header.map_or((0, 0), |h| (h.created_ms, h.next_id));
    let mut copy = Copy::begin(disk, path, SegmentSize::default(), created_ms)?;
    copy.reserve(next_id);
    let mut keep = |record: &Record| {
        copy.note(record);
        copy.push(record)
    };
    let found = Walk::all(disk, path, Some(&mut keep))?;
    let found = found.ok_or_else(|| Error::internal("the journal changed under the profile's lock"))?;
    copy.finish()?;
    Ok(found)
}
