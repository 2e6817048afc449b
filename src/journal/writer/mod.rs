//! Appends to a journal: what is acknowledged stays, what fails is undone and poisons the writer.

use std::cell::Cell;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{FileHeader, JournalId, VERSION, encode_frame};
use super::id::random_id;
use super::reader::{FrameReader, TornTail, read_frame_at};
use super::record::{InteractionId, Record, StoredInput};
use super::rewrite::{Change, rewrite, sweep};
use super::segment::{Sealed, SegmentSize};
use super::snapshot::Snapshot;
use super::state::JournalState;
use crate::disk::fault_injection::{Bug, planted};
use crate::disk::{Disk, DiskFile, StagedFile, folder_of, read_full, takes_no_writes};
use crate::error::{Error, ErrorKind, Result};

/// The one writer of a journal file. Writers of several processes take turns under a lock, which is the caller's duty, and
/// call [`JournalWriter::catch_up`] first.
#[derive(Debug)]
pub struct JournalWriter {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    size: SegmentSize,
    file: Arc<dyn DiskFile>,
    id: JournalId,
    state: JournalState,
    end: u64,
    next_sequence: u64,
    /// Up to where the file is known to be durable.
    synced: u64,
    poisoned: bool,
    repaired: Option<TornTail>,
}

impl JournalWriter {
    /// Makes an empty journal with a random id.
    ///
    /// # Errors
    /// `Usage` if `path` exists, `Io`.
    pub fn create(disk: &dyn Disk, path: &Path, created_ms: u64) -> Result<()> {
        let id = random_id()?;
        let mut bytes = FileHeader { version: VERSION, id, created_ms, next_id: 0, segment: 0 }.encode().to_vec();
        bytes.extend(encode_frame(disk.cipher(), &id, 1, &Record::Segments(vec![]))?);
        StagedFile::write(disk, folder_of(path), &bytes)?.publish(path)
    }

    /// Opens a journal and reads the index of its growing part. A torn tail is truncated, see [`JournalWriter::repaired`]; an end
    /// that may not be durable is synced; an older format is rewritten in this one, in segments of the usual size.
    ///
    /// # Errors
    /// `BadData` if it is damaged: nothing is changed then. `Io`.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<JournalWriter> {
        JournalWriter::open_sized(disk, path, SegmentSize::default())
    }

    /// As [`JournalWriter::open`], with segments of another size.
    ///
    /// # Errors
    /// As [`JournalWriter::open`].
    pub fn open_sized(disk: Arc<dyn Disk>, path: &Path, size: SegmentSize) -> Result<JournalWriter> {
        let mut reader = FrameReader::open(&*disk, path)?;
        let mut writable = true;
        if reader.header().version != VERSION {
            match rewrite(&*disk, path, size, &Change::NONE) {
                Ok(()) => reader = FrameReader::open(&*disk, path)?,
                // A disk that takes no writes still answers reads: what is asked next fails by itself.
                Err(e) if e.kind() == ErrorKind::Io => {
                    writable = false;
                    // It may have failed behind the rename.
                    reader = FrameReader::open(&*disk, path)?;
                }
                Err(e) => return Err(e),
            }
        }
        let file = match disk.open_write(path) {
            // As above.
            Err(e) if takes_no_writes(&e) => {
                writable = false;
                disk.open_read(path)
            }
            other => other,
        };
        let file = Arc::from(file.map_err(|e| Error::io("cannot open the journal", path, e))?);
        let mut state = JournalState::default();
        state.absorb(&*disk, &mut reader)?;
        let mut writer = JournalWriter {
            path: path.to_owned(),
            size,
            file,
            id: reader.header().id,
            state,
            end: 0,
            next_sequence: 0,
            synced: 0,
            poisoned: !writable,
            repaired: None,
            disk,
        };
        writer.flush(&reader)?;
        if writable && writer.is_unsynced() {
            // As above: a full disk.
            writer.poisoned = writer.sync().is_err();
        }
        if writable && !writer.poisoned {
            writer.poisoned = writer.sync_name().is_err();
        }
        if writable && !writer.poisoned {
            // The list is durable. What cannot be removed now is removed by the next one.
            let _ = sweep(&*writer.disk, path, &writer.state.segments());
        }
        Ok(writer)
    }

    /// Makes the name of the journal's file durable: whoever gave it the name may have been cut off before.
    fn sync_name(&self) -> Result<()> {
        let folder = folder_of(&self.path);
        self.disk.sync_dir(folder).map_err(|e| Error::io("cannot sync a folder", folder, e))
    }

    /// Takes over where `reader` ended, and cuts off a torn tail.
    fn flush(&mut self, reader: &FrameReader) -> Result<()> {
        (self.end, self.next_sequence) = (reader.end(), reader.next_sequence());
        self.synced = self.synced.max(reader.synced());
        if let Some(torn) = reader.torn_tail().filter(|_| !self.poisoned) {
            if planted(Bug::TailNotCut) {
                return Ok(());
            }
            let cut = self.file.truncate(torn.offset).and_then(|()| self.file.sync_data());
            cut.map_err(|e| {
                self.poisoned = true;
                Error::io("cannot cut off the journal's torn tail", &self.path, e)
            })?;
            self.repaired = Some(torn);
        }
        Ok(())
    }

    /// Reads what other processes appended since. To be called with the lock held, before an append.
    ///
    /// # Errors
    /// `BadData`, `Io`; the index then stays a valid, perhaps shorter, prefix.
    pub fn catch_up(&mut self) -> Result<()> {
        self.refuse_poisoned()?;
        let mut reader = FrameReader::open(&*self.disk, &self.path)?;
        let len = self.file.len().map_err(|e| Error::io("cannot read the journal", &self.path, e))?;
        if reader.header().id != self.id || len < self.end {
            // Rewritten under the same name, as forgetting does.
            return self.open_again();
        }
        reader.skip_to(self.end, self.next_sequence);
        let absorbed = self.state.absorb(&*self.disk, &mut reader);
        if let Err(e) = absorbed {
            (self.end, self.next_sequence) = (reader.end(), reader.next_sequence());
            return Err(e);
        }
        self.flush(&reader)
    }

    /// Opens the journal again, which also lifts the poison.
    ///
    /// # Errors
    /// As [`JournalWriter::open`].
    pub fn reopen(&mut self) -> Result<()> {
        if self.poisoned {
            self.write_again()?;
        }
        self.open_again()
    }

    fn open_again(&mut self) -> Result<()> {
        *self = JournalWriter::open_sized(self.disk.clone(), &self.path, self.size)?;
        Ok(())
    }

    /// Writes again what was appended since the last sync: pages whose sync failed look written and are not.
    fn write_again(&self) -> Result<()> {
        let io = |e| Error::io("cannot write the end of the journal again", &self.path, e);
        let reader = FrameReader::open(&*self.disk, &self.path)?;
        if reader.header().id != self.id {
            return Ok(());
        }
        let mut at = self.synced;
        while at < self.end {
            let length = self.end.saturating_sub(at).min(1 << 20);
            let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
            let n = read_full(&*self.file, &mut bytes, at).map_err(io)?;
            self.file.write_at(bytes.get(..n).unwrap_or_default(), at).map_err(io)?;
            at = at.saturating_add(length);
        }
        Ok(())
    }

    /// Puts a changed journal in the place of this one.
    ///
    /// # Errors
    /// As [`JournalWriter::open`].
    pub(super) fn rewrite(&mut self, change: &Change<'_>) -> Result<()> {
        rewrite(&*self.disk, &self.path, self.size, change)?;
        self.reopen()
    }

    /// Drops the interactions `ids`, what was said about them, and the records of all training runs that had seen one
    /// of them: their figures were measured on it. With `all`, every record of a training run.
    ///
    /// # Errors
    /// As [`JournalWriter::open`].
    pub fn forget(&mut self, ids: &HashSet<InteractionId>, all: bool) -> Result<()> {
        // Ids grow in the order of the journal: once the first of them is passed, every training has seen it.
        let first = ids.iter().min().copied();
        let passed = Cell::new(all);
        let touches = |segment: &Sealed| Ok((passed.get() && segment.has_trainings()) || segment.holds_any(ids)?);
        let keep = |record: &Record| match record {
            Record::Training { .. } => !passed.get() || planted(Bug::VerdictKept),
            other => {
                if let Record::Interaction { id, .. } = other {
                    passed.set(passed.get() || first.is_some_and(|first| *id >= first));
                }
                other.interaction().is_none_or(|id| !ids.contains(&id))
            }
        };
        self.rewrite(&Change { touches: &touches, keep: &keep, ..Change::NONE })
    }

    /// Moves what the growing file holds into a segment of its own.
    ///
    /// # Errors
    /// As [`JournalWriter::open`].
    pub fn seal(&mut self) -> Result<()> {
        self.rewrite(&Change::SEAL)
    }

    /// Says how large the growing file becomes before it is sealed.
    pub fn set_size(&mut self, size: SegmentSize) {
        self.size = size;
    }
    /// See [`JournalWriter::set_size`].
    pub fn size(&self) -> SegmentSize {
        self.size
    }
    /// Whether the growing file is as large as a segment.
    pub fn is_full(&self) -> bool {
        self.end >= self.size.bytes || self.state.growing() >= self.size.records
    }
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.state.sealed().iter().fold(self.end, |sum, segment| sum.saturating_add(segment.info.bytes))
    }

    /// Index of the journal.
    pub fn state(&self) -> &JournalState {
        &self.state
    }
    /// Where the file ends.
    pub fn end(&self) -> u64 {
        self.end
    }
    /// The torn tail that was cut off last, if any.
    pub fn repaired(&self) -> Option<TornTail> {
        self.repaired
    }
    /// Whether it takes no records: a write or sync has failed since it was opened, or the disk takes no writes.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    fn refuse_poisoned(&self) -> Result<()> {
        if !self.poisoned {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Io, "the journal takes no records: the disk is read-only, or a write has failed")
            .at(self.path.display())
            .hint("see to the disk, then open the journal again; what was acknowledged is kept"))
    }

    /// Appends without a sync: after a power cut the record may be missing.
    ///
    /// # Errors
    /// `Usage` if the record may not follow what is there, `Io`; the writer is poisoned by the latter.
    pub fn append(&mut self, record: Record) -> Result<()> {
        self.write(record, false)
    }

    /// Appends and returns when the record, and every one before it, is durable.
    ///
    /// # Errors
    /// As [`JournalWriter::append`].
    pub fn append_durable(&mut self, record: Record) -> Result<()> {
        self.write(record, true)
    }

    fn write(&mut self, record: Record, durable: bool) -> Result<()> {
        self.refuse_poisoned()?;
        self.state.check(&record)?;
        if !record.is_told() {
            return Err(Error::usage("this record is the journal's own"));
        }
        let frame = encode_frame(self.disk.cipher(), &self.id, self.next_sequence, &record)?;
        let synced = durable && !planted(Bug::JournalNotSynced);
        let written = match self.file.write_at(&frame, self.end) {
            Ok(()) if synced => self.file.sync_data().map_err(|e| ("cannot make the journal durable", e)),
            Ok(()) => Ok(()),
            Err(e) => Err(("cannot append to the journal", e)),
        };
        if let Err((what, e)) = written {
            self.poisoned = true;
            let _ = self.file.truncate(self.end);
            return Err(Error::io(what, &self.path, e));
        }
        self.state.apply(record, self.end);
        self.advance(frame.len());
        if durable {
            self.mark_synced();
        }
        Ok(())
    }

    fn advance(&mut self, bytes: usize) {
        self.end = self.end.saturating_add(bytes as u64);
        self.next_sequence = self.next_sequence.saturating_add(1);
    }

    /// Says in the file that everything so far is durable. The records are there without it, so a failure is none of
    /// theirs; but what is left of it must not stand in the way of the next one.
    fn mark_synced(&mut self) {
        self.synced = self.end;
        let written = encode_frame(self.disk.cipher(), &self.id, self.next_sequence, &Record::Synced)
            .ok()
            .filter(|frame| self.file.write_at(frame, self.end).is_ok());
        match written {
            Some(frame) => {
                self.advance(frame.len());
                self.synced = self.end;
            }
            None => self.poisoned = self.file.truncate(self.end).is_err(),
        }
    }

    /// Whether a record has been appended that may not be durable.
    pub fn is_unsynced(&self) -> bool {
        self.synced < self.end
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// `Io`; the writer is poisoned then.
    pub fn sync(&mut self) -> Result<()> {
        self.refuse_poisoned()?;
        if planted(Bug::MarkedBeforeSync) {
            self.mark_synced();
        }
        self.file.sync_data().map_err(|e| {
            self.poisoned = true;
            Error::io("cannot make the journal durable", &self.path, e)
        })?;
        self.mark_synced();
        Ok(())
    }

    /// The input of one interaction, read from the file.
    ///
    /// # Errors
    /// `Usage` if the id is unknown, `BadData`, `Io`.
    pub fn input(&self, id: InteractionId) -> Result<StoredInput> {
        let growing = |at| read_frame_at(&*self.file, self.disk.cipher(), &self.path, &self.id, at);
        self.state.input(id, growing)
    }

    /// The journal as it is now.
    pub fn snapshot(&self) -> Snapshot {
        let (file, path) = (self.file.clone(), self.path.clone());
        Snapshot { state: self.state.clone(), file, path, id: self.id, cipher: self.disk.cipher().cloned() }
    }

    /// Name of the growing file; another one when it was rewritten.
    pub(super) fn id(&self) -> JournalId {
        self.id
    }
}

#[cfg(test)]
mod tests;
