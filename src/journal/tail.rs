//! What stands where a journal stops being whole: the trace of writes that were cut off, or damage.

use std::io;

use super::frame::{FRAME_HEADER_LEN, FileHeader, SYNCED_LEN, synced_frame};
use crate::disk::{DiskFile, read_full};

/// Bytes looked at in one go.
const CHUNK: usize = 64 << 10;

/// Why a frame is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// Fewer bytes remain than a frame's header has.
    Short,
    /// The header's checksum does not match.
    Header,
    /// The header is valid, and the file ends before the frame does.
    CutOff,
    /// The header is valid; the payload's checksum or the end byte does not match. The end byte is at `end`.
    Payload {
        /// Offset of the end byte.
        end: u64,
    },
}

impl Broken {
    pub(super) fn words(self) -> &'static str {
        match self {
            Broken::Short | Broken::CutOff => "a frame is cut off",
            Broken::Header => "the checksum of a frame's header does not match",
            Broken::Payload { .. } => "the checksum of a record does not match",
        }
    }
}

/// The end of a journal file, from the first frame on that is not whole.
pub(super) struct Tail<'a> {
    pub(super) file: &'a dyn DiskFile,
    pub(super) header: &'a FileHeader,
    /// Where that frame starts.
    pub(super) offset: u64,
    /// Where the file ends.
    pub(super) len: u64,
    /// The sequence number that was expected.
    pub(super) sequence: u64,
}

impl Tail<'_> {
    /// Whether nothing shows that this was ever known to be durable.
    pub(super) fn is_torn(&self, broken: Broken) -> io::Result<bool> {
        match (self.header.version, broken) {
            (1, Broken::Short | Broken::CutOff) => Ok(true),
            (1, Broken::Header) => self.is_zero_from(self.offset.saturating_add(FRAME_HEADER_LEN as u64 - 1)),
            (1, Broken::Payload { end }) => self.is_zero_from(end),
            _ => Ok(!self.is_synced()?),
        }
    }

    /// Whether a whole *synced* frame stands behind the place.
    fn is_synced(&self) -> io::Result<bool> {
        let mut at = self.offset;
        while at < self.len {
            let chunk = self.chunk(at)?;
            let found = (0..chunk.len())
                .filter_map(|from| synced_frame(chunk.get(from..)?, &self.header.id))
                .any(|sequence| sequence > self.sequence);
            if found {
                return Ok(true);
            }
            if chunk.len() < CHUNK {
                break;
            }
            // A frame may lie across two chunks.
            at = at.saturating_add((CHUNK - SYNCED_LEN + 1) as u64);
        }
        Ok(false)
    }

    /// Whether the file holds only zeros from `at` on: blocks that it grew by and that were never written.
    fn is_zero_from(&self, mut at: u64) -> io::Result<bool> {
        while at < self.len {
            let chunk = self.chunk(at)?;
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

    fn chunk(&self, at: u64) -> io::Result<Vec<u8>> {
        // No further than where the file ended when it was opened: what a writer appended since is not judged.
        let rest = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut chunk = vec![0; CHUNK.min(rest)];
        let n = read_full(self.file, &mut chunk, at)?;
        chunk.truncate(n);
        Ok(chunk)
    }
}
