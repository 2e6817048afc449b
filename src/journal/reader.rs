//! Reads a journal frame by frame, never the whole file at once, and tells a torn tail from damage.

use std::path::{Path, PathBuf};

use super::frame::{
    END, FILE_HEADER_LEN, FRAME_HEADER_LEN, FileHeader, FrameHeader, JournalId, MAX_PAYLOAD, decode_payload, is_sealed,
};
use super::names::{segment_names, segment_number};
use super::record::Record;
use super::tail::{Broken, Tail};
use crate::cipher::{Cipher, locked};
use crate::disk::fault_injection::{Bug, planted};
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
    cipher: Option<Cipher>,
    header: FileHeader,
    len: u64,
    next: u64,
    next_sequence: u64,
    synced: u64,
    torn: Option<TornTail>,
    failed: bool,
    /// Whether segments stand beside the growing file. It then begins with their list, which was durable before it had its
    /// name: a first frame that is not whole is damage.
    parts: bool,
    /// Bytes of the file from `ahead_at` on.
    ahead: Vec<u8>,
    ahead_at: u64,
}

/// Bytes read in one go.
const AHEAD: usize = 256 << 10;

impl FrameReader {
    /// Opens the growing file of the journal at `path`. What comes before it is in the segments that its first record lists.
    ///
    /// # Errors
    /// `BadData` if it is not a journal, `Io`.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<FrameReader> {
        let mut reader = FrameReader::of_file(disk, path)?;
        if reader.header.segment != 0 {
            return Err(damaged(path, 0, "this is a segment of a journal"));
        }
        reader.parts = segment_names(disk, path)?.iter().any(|name| segment_number(name).is_some());
        Ok(reader)
    }

    /// Opens one sealed segment: it is whole, or damaged.
    pub(super) fn open_sealed(disk: &dyn Disk, path: &Path) -> Result<FrameReader> {
        let reader = FrameReader::of_file(disk, path)?;
        match reader.header.segment {
            0 => Err(damaged(path, 0, "this is not a segment of a journal")),
            _ => Ok(reader),
        }
    }

    fn of_file(disk: &dyn Disk, path: &Path) -> Result<FrameReader> {
        let io = |e| Error::io("cannot read the journal", path, e);
        let file = disk.open_read(path).map_err(io)?;
        let mut bytes = [0; FILE_HEADER_LEN];
        let n = read_full(&*file, &mut bytes, 0).map_err(io)?;
        let header = FileHeader::decode(bytes.get(..n).unwrap_or_default()).map_err(|e| e.at(path.display()))?;
        let len = file.len().map_err(io)?;
        let next = FILE_HEADER_LEN as u64;
        Ok(FrameReader {
            file,
            path: path.to_owned(),
            cipher: disk.cipher().cloned(),
            header,
            len,
            next,
            next_sequence: 1,
            // A journal gets its name when its header is durable.
            synced: next,
            torn: None,
            failed: false,
            parts: false,
            ahead: vec![],
            ahead_at: 0,
        })
    }

    /// Goes on from a place where a frame starts.
    pub(super) fn skip_to(&mut self, offset: u64, sequence: u64) {
        (self.next, self.next_sequence) = (offset, sequence);
    }
    /// The file's header.
    pub fn header(&self) -> &FileHeader {
        &self.header
    }
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Up to where a *synced* frame, itself included, says that the file is durable.
    pub fn synced(&self) -> u64 {
        self.synced
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

    /// Whether the place where a frame is missing is that of the list of segments that are there.
    fn lacks_list(&self) -> bool {
        self.parts && self.next == FILE_HEADER_LEN as u64
    }

    fn damaged(&self, what: &str) -> Error {
        damaged(&self.path, self.next, what)
    }

    /// Bytes at `offset`; fewer only if the file has shrunk since it was opened.
    fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let start = |at: u64| usize::try_from(offset.checked_sub(at)?).ok();
        let inside = start(self.ahead_at).is_some_and(|from| from.saturating_add(len) <= self.ahead.len());
        if !inside {
            let rest = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
            self.ahead.resize(len.max(AHEAD.min(rest)), 0);
            let n = read_full(&*self.file, &mut self.ahead, offset)
                .map_err(|e| Error::io("cannot read the journal", &self.path, e))?;
            self.ahead.truncate(n);
            self.ahead_at = offset;
        }
        let from = start(self.ahead_at).unwrap_or(0).min(self.ahead.len());
        Ok(self.ahead.get(from..from.saturating_add(len).min(self.ahead.len())).unwrap_or_default())
    }

    fn broken(&mut self, broken: Broken) -> Result<Option<Frame>> {
        let (offset, len) = (self.next, self.len);
        let tail = Tail { file: &*self.file, header: &self.header, offset, len, sequence: self.next_sequence };
        // A segment was durable before it had its name.
        if self.header.segment != 0
            || self.lacks_list()
            || !tail.is_torn(broken).map_err(|e| Error::io("cannot read the journal", &self.path, e))?
        {
            return Err(self.damaged(broken.words()));
        }
        self.torn = Some(TornTail { offset, bytes: len.saturating_sub(offset) });
        Ok(None)
    }

    fn step(&mut self) -> Result<Option<Frame>> {
        let rest = self.len.saturating_sub(self.next);
        if rest == 0 {
            return if self.lacks_list() { Err(self.damaged("the list of its segments is missing")) } else { Ok(None) };
        }
        if rest < FRAME_HEADER_LEN as u64 {
            return self.broken(Broken::Short);
        }
        let id = self.header.id;
        let Some(header) = FrameHeader::decode(self.bytes(self.next, FRAME_HEADER_LEN)?, &id) else {
            return self.broken(Broken::Header);
        };
        if header.sequence != self.next_sequence {
            return Err(self.damaged("a frame is out of order"));
        }
        if header.frame_len() > rest {
            return self.broken(Broken::CutOff);
        }
        let end = self.next.saturating_add(header.frame_len());
        let after_header = self.next.saturating_add(FRAME_HEADER_LEN as u64);
        let cipher = self.cipher.clone();
        let body = self.bytes(after_header, header.payload_len.saturating_add(1))?;
        let record = match body.split_last() {
            Some((&END, payload))
                if crc32fast::hash(payload) == header.payload_crc || planted(Bug::RecordCrcIgnored) =>
            {
                if cipher.is_none() && is_sealed(payload) {
                    return Err(sealed(&self.path));
                }
                decode_payload(cipher.as_ref(), Some(&id), header.sequence, payload)
            }
            _ => return self.broken(Broken::Payload { end: end.saturating_sub(1) }),
        };
        let record = record.ok_or_else(|| self.damaged("a record does not decode"))?;
        match record {
            Record::Synced => self.synced = end,
            Record::Segments(_) if self.next_sequence != 1 => {
                return Err(self.damaged("a list of segments is not first"));
            }
            // Durable before the file had its name.
            Record::Segments(_) => self.synced = end,
            Record::Index(_) | Record::Footer(_) | Record::RevisedFooter(..) if self.header.segment == 0 => {
                return Err(self.damaged("an index is not in a segment"));
            }
            _ => {}
        }
        let frame = Frame { offset: self.next, sequence: header.sequence, record };
        self.next = end;
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
        .hint("the file is kept as it is: see `acclimate verify`, and keep what is whole with `acclimate repair`")
}

fn sealed(path: &Path) -> Error {
    locked("this journal is encrypted").at(path.display())
}

/// Reads the one frame at `offset`.
pub(super) fn read_frame_at(
    file: &dyn DiskFile,
    cipher: Option<&Cipher>,
    path: &Path,
    id: &JournalId,
    offset: u64,
) -> Result<Record> {
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
    if cipher.is_none() && is_sealed(&payload) {
        return Err(sealed(path));
    }
    decode_payload(cipher, Some(id), header.sequence, &payload)
        .ok_or_else(|| damaged(path, offset, "a record does not decode"))
}
