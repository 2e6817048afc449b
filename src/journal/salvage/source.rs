//! One file of a journal, of which any byte may be damaged.

use std::path::Path;

use super::super::frame::{
    END, FILE_HEADER_LEN, FRAME_HEADER_LEN, FileHeader, FrameHeader, JournalId, decode_payload, is_sealed,
};
use super::super::record::{InteractionId, Record};
use super::super::tail::{Broken, Tail};
use crate::cipher::Cipher;
use crate::disk::{Disk, DiskFile, read_full};
use crate::error::{Error, Result};

/// Bytes that are searched for a frame in one go.
const CHUNK: usize = 64 << 10;

/// The first and the last interaction of a segment.
pub(super) type Ids = (InteractionId, InteractionId);

pub(super) struct Source {
    file: Box<dyn DiskFile>,
    cipher: Option<Cipher>,
    pub len: u64,
    /// None if it is damaged; frames are then known by their other checksum alone.
    pub header: Option<FileHeader>,
}

impl Source {
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Source> {
        let io = |e| Error::io("cannot read the journal", path, e);
        let file = disk.open_read(path).map_err(io)?;
        let len = file.len().map_err(io)?;
        let mut bytes = [0; FILE_HEADER_LEN];
        let n = read_full(&*file, &mut bytes, 0).map_err(io)?;
        let header = FileHeader::decode(bytes.get(..n).unwrap_or_default()).ok();
        Ok(Source { file, cipher: disk.cipher().cloned(), len, header })
    }

    fn bytes(&self, at: u64, len: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let n = read_full(&*self.file, &mut bytes, at)?;
        bytes.truncate(n);
        Ok(bytes)
    }

    pub fn id(&self) -> Option<&JournalId> {
        self.header.as_ref().map(|h| &h.id)
    }

    /// The header of a frame that lies within the file.
    fn frame_header(&self, bytes: &[u8], at: u64) -> Option<FrameHeader> {
        let header = match self.id() {
            Some(id) => FrameHeader::decode(bytes, id),
            None => FrameHeader::decode_unchecked(bytes),
        };
        header.filter(|h| h.frame_len() <= self.len.saturating_sub(at))
    }

    /// The record of the whole frame at `at`, with its sequence number and the bytes it takes.
    pub fn frame(&self, at: u64) -> std::io::Result<Option<(Record, u64, u64)>> {
        let Some(header) = self.frame_header(&self.bytes(at, FRAME_HEADER_LEN)?, at) else { return Ok(None) };
        let mut payload =
            self.bytes(at.saturating_add(FRAME_HEADER_LEN as u64), header.payload_len.saturating_add(1))?;
        let whole = payload.pop() == Some(END) && crc32fast::hash(&payload) == header.payload_crc;
        let cipher = self.cipher.as_ref();
        if whole && cipher.is_none() && is_sealed(&payload) {
            return Err(std::io::Error::other("it is encrypted, and there is no key"));
        }
        let record = whole.then(|| decode_payload(cipher, self.id(), header.sequence, &payload)).flatten();
        Ok(record.map(|record| (record, header.sequence, header.frame_len())))
    }

    /// The interactions that it holds, as far as its frames are whole.
    pub fn ids(&self) -> std::io::Result<Option<Ids>> {
        let (mut at, mut ids) = (FILE_HEADER_LEN as u64, None);
        while at < self.len {
            match self.frame(at)? {
                Some((Record::Interaction { id, .. }, _, length)) => {
                    ids = Some((ids.map_or(id, |(first, _)| first), id));
                    at = at.saturating_add(length);
                }
                Some((_, _, length)) => at = at.saturating_add(length),
                None => at = self.next_frame(at)?,
            }
        }
        Ok(ids)
    }

    /// Where the next whole frame after `at` begins; the end of the file if there is none.
    fn next_frame(&self, at: u64) -> std::io::Result<u64> {
        let mut from = at.saturating_add(1);
        while from < self.len {
            let chunk = self.bytes(from, CHUNK)?;
            for (offset, place) in (0..chunk.len()).zip(from..) {
                let Some(start) = chunk.get(offset..) else { break };
                if self.frame_header(start, place).is_some() && self.frame(place)?.is_some() {
                    return Ok(place);
                }
            }
            if chunk.len() < CHUNK {
                break;
            }
            from = from.saturating_add((CHUNK - FRAME_HEADER_LEN + 1) as u64);
        }
        Ok(self.len)
    }

    /// Whether nothing but the growing file can be: frames of an index do not belong in it.
    fn is_growing(&self) -> bool {
        self.header.as_ref().is_none_or(|header| header.segment == 0)
    }

    /// What stands in it, from its first frame on.
    pub fn parts(&self) -> Parts<'_> {
        Parts { source: self, at: FILE_HEADER_LEN as u64, expected: Some(1) }
    }

    /// Whether the end of the file, from `offset` on, is what cut off writes leave, as a reader judges it.
    fn is_torn(&self, offset: u64, sequence: u64) -> std::io::Result<bool> {
        let Some(header) = self.header.as_ref().filter(|header| header.segment == 0) else { return Ok(false) };
        let tail = Tail { file: &*self.file, header, offset, len: self.len, sequence };
        let rest = self.len.saturating_sub(offset);
        let start = self.bytes(offset, FRAME_HEADER_LEN)?;
        tail.is_torn(match FrameHeader::decode(&start, &header.id) {
            _ if rest < FRAME_HEADER_LEN as u64 => Broken::Short,
            None => Broken::Header,
            Some(frame) if frame.frame_len() > rest => Broken::CutOff,
            Some(frame) => Broken::Payload { end: offset.saturating_add(frame.frame_len()).saturating_sub(1) },
        })
    }
}

/// What stands at a place of a file.
pub(super) enum Part {
    /// A whole frame.
    Frame {
        record: Record,
        offset: u64,
        /// Whether it belongs there: its number follows the one before it, and its kind may stand in the file.
        in_place: bool,
    },
    /// So many bytes that hold no whole frame.
    Damaged { offset: u64, bytes: u64 },
    /// What a write that was cut off left at the end.
    Torn { bytes: u64 },
}

/// Goes through a file, whatever is damaged in it.
pub(super) struct Parts<'a> {
    source: &'a Source,
    at: u64,
    /// None behind a damaged place, where it is not known.
    expected: Option<u64>,
}

impl Iterator for Parts<'_> {
    type Item = std::io::Result<Part>;

    fn next(&mut self) -> Option<std::io::Result<Part>> {
        self.part().transpose()
    }
}

impl Parts<'_> {
    /// What stands next; none at the end of the file.
    fn part(&mut self) -> std::io::Result<Option<Part>> {
        let (source, offset) = (self.source, self.at);
        if offset >= source.len {
            return Ok(None);
        }
        let Some((record, sequence, length)) = source.frame(offset)? else { return self.broken().map(Some) };
        let misplaced = match record {
            Record::Segments(_) => sequence != 1,
            Record::Index(_) | Record::Footer(_) => source.is_growing(),
            _ => false,
        };
        let in_place = !misplaced && self.expected.is_none_or(|expected| expected == sequence);
        (self.at, self.expected) = (offset.saturating_add(length), sequence.checked_add(1));
        Ok(Some(Part::Frame { record, offset, in_place }))
    }

    fn broken(&mut self) -> std::io::Result<Part> {
        let (source, offset) = (self.source, self.at);
        if source.is_torn(offset, self.expected.unwrap_or(0))? {
            self.at = source.len;
            return Ok(Part::Torn { bytes: source.len.saturating_sub(offset) });
        }
        (self.at, self.expected) = (source.next_frame(offset)?, None);
        Ok(Part::Damaged { offset, bytes: self.at.saturating_sub(offset) })
    }
}
