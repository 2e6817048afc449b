//! The bytes of a journal: file header and frames, as `docs/journal-format.md` lays them out.

use super::record::Record;
use crate::error::{Error, Result};

/// First bytes of every journal.
pub const MAGIC: [u8; 8] = *b"ACCLJRNL";
/// The format this code reads and writes.
pub const VERSION: u32 = 1;
/// Bytes of the file header; the first frame starts there.
pub const FILE_HEADER_LEN: usize = 64;
/// Longest payload of a frame.
pub const MAX_PAYLOAD: usize = 64 << 20;

const VERSION_AT: usize = 8;
const RESERVED_AT: usize = 12;
const JOURNAL_ID_AT: usize = 16;
const CREATED_AT: usize = 32;
const RESERVED_2_AT: usize = 40;
const FILE_CRC_AT: usize = 60;

const SEQUENCE_AT: usize = 4;
const PAYLOAD_CRC_AT: usize = 12;
const FRAME_CRC_AT: usize = 16;
/// Bytes of a frame before its payload.
pub const FRAME_HEADER_LEN: usize = 20;
/// Last byte of every frame: not zero, so that a block that was never written shows.
pub const END: u8 = 0xA5;

/// Random name of one journal file.
pub type JournalId = [u8; 16];

/// The first bytes of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// Name of this file.
    pub id: JournalId,
    /// Unix time in milliseconds.
    pub created_ms: u64,
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

impl FileHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; FILE_HEADER_LEN] {
        let mut out = [0; FILE_HEADER_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(VERSION_AT, &VERSION.to_le_bytes());
        put(JOURNAL_ID_AT, &self.id);
        put(CREATED_AT, &self.created_ms.to_le_bytes());
        let crc = crc32fast::hash(&out[..FILE_CRC_AT]);
        out[FILE_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header.
    ///
    /// # Errors
    /// `BadData` if these are not the first bytes of a journal, or of one in another format.
    pub fn decode(bytes: &[u8]) -> Result<FileHeader> {
        let kept = "the file is kept as it is; move it away to start a new journal";
        let bytes: &[u8; FILE_HEADER_LEN] = bytes
            .first_chunk()
            .ok_or_else(|| Error::bad_data(format!("not a journal: {} bytes are too few", bytes.len())).hint(kept))?;
        if !bytes.starts_with(&MAGIC) {
            return Err(Error::bad_data("not a journal: it does not start with ACCLJRNL").hint(kept));
        }
        let zero = |range: std::ops::Range<usize>| bytes.get(range).is_some_and(|b| b.iter().all(|b| *b == 0));
        let crc = bytes.get(..FILE_CRC_AT).map(crc32fast::hash);
        if crc != chunk(bytes, FILE_CRC_AT).map(u32::from_le_bytes) {
            return Err(Error::bad_data("damaged journal: the checksum of its header does not match").hint(kept));
        }
        match chunk(bytes, VERSION_AT).map(u32::from_le_bytes) {
            Some(VERSION) if zero(RESERVED_AT..JOURNAL_ID_AT) && zero(RESERVED_2_AT..FILE_CRC_AT) => {}
            version => {
                return Err(Error::bad_data(format!("journal format {} is not known here", version.unwrap_or(0)))
                    .hint("update acclimate to a version that reads it"));
            }
        }
        let id = chunk(bytes, JOURNAL_ID_AT).unwrap_or_default();
        Ok(FileHeader { id, created_ms: chunk(bytes, CREATED_AT).map(u64::from_le_bytes).unwrap_or_default() })
    }
}

/// A frame's header, checked by its own checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the payload.
    pub payload_len: usize,
    /// Number of the frame.
    pub sequence: u64,
    /// CRC-32 of the payload.
    pub payload_crc: u32,
}

impl FrameHeader {
    /// Reads a frame's header; `None` if it is not one of journal `id`.
    pub fn decode(bytes: &[u8], id: &JournalId) -> Option<FrameHeader> {
        if chunk(bytes, FRAME_CRC_AT).map(u32::from_le_bytes) != Some(header_crc(id, bytes.get(..FRAME_CRC_AT)?)) {
            return None;
        }
        let payload_len = usize::try_from(u32::from_le_bytes(chunk(bytes, 0)?)).ok()?;
        (1..=MAX_PAYLOAD).contains(&payload_len).then_some(FrameHeader {
            payload_len,
            sequence: u64::from_le_bytes(chunk(bytes, SEQUENCE_AT)?),
            payload_crc: u32::from_le_bytes(chunk(bytes, PAYLOAD_CRC_AT)?),
        })
    }

    /// Bytes of the whole frame.
    pub fn frame_len(&self) -> u64 {
        (FRAME_HEADER_LEN + self.payload_len + 1) as u64
    }
}

fn header_crc(id: &JournalId, header: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(id);
    crc.update(header);
    crc.finalize()
}

/// The bytes of one frame.
///
/// # Errors
/// `Usage` if the record is too large.
pub fn encode_frame(id: &JournalId, sequence: u64, record: &Record) -> Result<Vec<u8>> {
    let frame = postcard::to_extend(record, vec![0; FRAME_HEADER_LEN])
        .map_err(|e| Error::internal("cannot encode a record").because(e));
    let mut frame = frame?;
    let payload = frame.get(FRAME_HEADER_LEN..).unwrap_or_default();
    if payload.len() > MAX_PAYLOAD {
        return Err(Error::usage(format!("a record of {} bytes is too large for the journal", payload.len()))
            .hint(format!("give inputs of less than {} MiB", MAX_PAYLOAD >> 20)));
    }
    let (payload_len, payload_crc) = (payload.len() as u32, crc32fast::hash(payload));
    frame[..SEQUENCE_AT].copy_from_slice(&payload_len.to_le_bytes());
    frame[SEQUENCE_AT..PAYLOAD_CRC_AT].copy_from_slice(&sequence.to_le_bytes());
    frame[PAYLOAD_CRC_AT..FRAME_CRC_AT].copy_from_slice(&payload_crc.to_le_bytes());
    let crc = header_crc(id, &frame[..FRAME_CRC_AT]);
    frame[FRAME_CRC_AT..FRAME_HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
    frame.push(END);
    Ok(frame)
}

/// The record in a payload; `None` if it does not decode to exactly one sound record.
pub fn decode_payload(payload: &[u8]) -> Option<Record> {
    match postcard::take_from_bytes(payload) {
        Ok((record, [])) => Some(record),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{FeedbackKind, InteractionId};
    use super::*;

    #[test]
    fn header_round_trip_and_every_flipped_bit() {
        let header = FileHeader { id: *b"0123456789abcdef", created_ms: 1_760_000_000_000 };
        let mut bytes = header.encode();
        assert_eq!(FileHeader::decode(&bytes).unwrap(), header);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(FileHeader::decode(&bytes).is_err());
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn frames_belong_to_their_journal() {
        let record = Record::Feedback { id: InteractionId(3), at_ms: 5, kind: FeedbackKind::Label("cat".into()) };
        let frame = encode_frame(&[1; 16], 9, &record).unwrap();
        let header = FrameHeader::decode(&frame, &[1; 16]).unwrap();
        assert_eq!((header.sequence, header.frame_len()), (9, frame.len() as u64));
        assert_eq!(decode_payload(&frame[FRAME_HEADER_LEN..frame.len() - 1]), Some(record));
        assert!(FrameHeader::decode(&frame, &[2; 16]).is_none());
        assert!(FrameHeader::decode(&frame[..19], &[1; 16]).is_none());
    }
}
