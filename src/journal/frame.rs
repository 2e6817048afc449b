//! The bytes of a journal: file header and frames, as `docs/journal-format.md` lays them out.

pub use super::id::JournalId;
use super::record::Record;
use crate::cipher::Cipher;
use crate::error::{Error, Result};

/// First bytes of every journal.
pub const MAGIC: [u8; 8] = *b"ACCLJRNL";
/// The format this code writes.
pub const VERSION: u32 = 3;
/// The oldest format this code reads.
pub const OLDEST_VERSION: u32 = 1;
/// Bytes of the file header; the first frame starts there.
pub const FILE_HEADER_LEN: usize = 64;
/// Longest payload of a frame.
pub const MAX_PAYLOAD: usize = 64 << 20;

const VERSION_AT: usize = 8;
const SEGMENT_AT: usize = 12;
const JOURNAL_ID_AT: usize = 16;
const CREATED_AT: usize = 32;
const NEXT_ID_AT: usize = 40;
const RESERVED_AT: usize = 44;
const FILE_CRC_AT: usize = 60;

const SEQUENCE_AT: usize = 4;
const PAYLOAD_CRC_AT: usize = 12;
const FRAME_CRC_AT: usize = 16;
/// Bytes of a frame before its payload.
pub const FRAME_HEADER_LEN: usize = 20;
/// Last byte of every frame: not zero, so that a block that was never written shows.
pub const END: u8 = 0xA5;
/// The payload of a *synced* frame.
const SYNCED_PAYLOAD: [u8; 1] = [3];
/// Bytes of a *synced* frame.
pub const SYNCED_LEN: usize = FRAME_HEADER_LEN + SYNCED_PAYLOAD.len() + 1;

/// The first bytes of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// Format of this file.
    pub version: u32,
    /// Name of this file.
    pub id: JournalId,
    /// Unix time in milliseconds.
    pub created_ms: u64,
    /// No interaction below it is given out again.
    pub next_id: u32,
    /// Number of the segment that this file is; 0 is the file that grows.
    pub segment: u32,
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
        put(VERSION_AT, &self.version.to_le_bytes());
        put(SEGMENT_AT, &self.segment.to_le_bytes());
        put(JOURNAL_ID_AT, &self.id);
        put(CREATED_AT, &self.created_ms.to_le_bytes());
        put(NEXT_ID_AT, &self.next_id.to_le_bytes());
        let crc = crc32fast::hash(&out[..FILE_CRC_AT]);
        out[FILE_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header.
    ///
    /// # Errors
    /// `BadData` if these are not the first bytes of a journal, or of one in another format.
    pub fn decode(bytes: &[u8]) -> Result<FileHeader> {
        let kept = "the file is kept as it is: see `acclimate verify`, and keep what is whole with `acclimate repair`";
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
        let version = chunk(bytes, VERSION_AT).map(u32::from_le_bytes).unwrap_or_default();
        let next_id = chunk(bytes, NEXT_ID_AT).map(u32::from_le_bytes).unwrap_or_default();
        let segment = chunk(bytes, SEGMENT_AT).map(u32::from_le_bytes).unwrap_or_default();
        let known = (OLDEST_VERSION..=VERSION).contains(&version)
            && zero(RESERVED_AT..FILE_CRC_AT)
            && (version > 1 || next_id == 0)
            && (version > 2 || segment == 0);
        if !known {
            return Err(Error::bad_data(format!("journal format {version} is not known here"))
                .hint("update acclimate to a version that reads it"));
        }
        let id = chunk(bytes, JOURNAL_ID_AT).unwrap_or_default();
        let created_ms = chunk(bytes, CREATED_AT).map(u64::from_le_bytes).unwrap_or_default();
        Ok(FileHeader { version, id, created_ms, next_id, segment })
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
        let crc = chunk(bytes, FRAME_CRC_AT).map(u32::from_le_bytes);
        if crc != Some(header_crc(id, bytes.get(..FRAME_CRC_AT)?)) {
            return None;
        }
        FrameHeader::decode_unchecked(bytes)
    }

    /// As [`FrameHeader::decode`] where the journal's id is lost: only the payload's checksum tells whether it is one.
    pub fn decode_unchecked(bytes: &[u8]) -> Option<FrameHeader> {
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

/// What an encrypted payload begins with; no record does.
const SEALED: u8 = 0xEE;

/// The bytes of one frame; its payload is encrypted where there is a cipher. A *synced* frame never is: it says nothing, and
/// has to be known when everything around it is damaged.
///
/// # Errors
/// `Usage` if the record is too large; `Io` if it cannot be encrypted.
pub fn encode_frame(cipher: Option<&Cipher>, id: &JournalId, sequence: u64, record: &Record) -> Result<Vec<u8>> {
    let frame = postcard::to_extend(record, vec![0; FRAME_HEADER_LEN])
        .map_err(|e| Error::internal("cannot encode a record").because(e));
    let mut frame = frame?;
    if let Some(cipher) = cipher.filter(|_| *record != Record::Synced) {
        let sealed = cipher.seal(&place(id, sequence), frame.get(FRAME_HEADER_LEN..).unwrap_or_default())?;
        frame.truncate(FRAME_HEADER_LEN);
        frame.push(SEALED);
        frame.extend(id);
        frame.extend(sealed);
    }
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

/// The sequence number of the whole *synced* frame of journal `id` that `bytes` begin with, if there is one.
pub fn synced_frame(bytes: &[u8], id: &JournalId) -> Option<u64> {
    // The length first: this is asked of every byte of a damaged journal.
    if !bytes.starts_with(&(SYNCED_PAYLOAD.len() as u32).to_le_bytes()) {
        return None;
    }
    let frame: &[u8; SYNCED_LEN] = bytes.first_chunk()?;
    let header = FrameHeader::decode(frame, id)?;
    let sound = frame[FRAME_HEADER_LEN..SYNCED_LEN - 1] == SYNCED_PAYLOAD
        && crc32fast::hash(&SYNCED_PAYLOAD) == header.payload_crc
        && frame[SYNCED_LEN - 1] == END;
    sound.then_some(header.sequence)
}

/// Where an encrypted payload belongs: it opens nowhere else.
fn place(id: &JournalId, sequence: u64) -> Vec<u8> {
    [b"frame ", &id[..], &sequence.to_le_bytes()].concat()
}

/// Whether a payload is encrypted.
pub fn is_sealed(payload: &[u8]) -> bool {
    payload.first() == Some(&SEALED)
}

/// The record in the payload of frame `sequence` of journal `id`, or of the journal that the payload names where the id is lost;
/// `None` if it does not decode to exactly one sound record. With a cipher it must be encrypted, without one it must not.
pub fn decode_payload(
    cipher: Option<&Cipher>,
    id: Option<&JournalId>,
    sequence: u64,
    payload: &[u8],
) -> Option<Record> {
    let opened = match cipher {
        Some(cipher) if payload != SYNCED_PAYLOAD => {
            let (named, sealed) = payload.strip_prefix(&[SEALED])?.split_first_chunk()?;
            let named = id.is_none_or(|id| id == named).then_some(named)?;
            Some(cipher.open(&place(named, sequence), sealed)?)
        }
        _ => None,
    };
    Record::decode(opened.as_deref().unwrap_or(payload))
}

#[cfg(test)]
mod tests {
    use super::super::record::{FeedbackKind, InteractionId};
    use super::*;

    #[test]
    fn header_round_trip_and_every_flipped_bit() {
        let header = FileHeader {
            version: VERSION,
            id: *b"0123456789abcdef",
            created_ms: 1_760_000_000_000,
            next_id: 9,
            segment: 4,
        };
        let mut bytes = header.encode();
        assert_eq!(FileHeader::decode(&bytes).unwrap(), header);
        assert!(FileHeader::decode(&FileHeader { version: 1, ..header }.encode()).is_err(), "1 has no next_id");
        assert!(FileHeader::decode(&FileHeader { version: 2, ..header }.encode()).is_err(), "2 has no segments");
        assert!(FileHeader::decode(&FileHeader { version: VERSION + 1, ..header }.encode()).is_err());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(FileHeader::decode(&bytes).is_err());
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn frames_belong_to_their_journal() {
        let record = Record::Feedback { id: InteractionId(3), at_ms: 5, kind: FeedbackKind::Label("cat".into()) };
        let frame = encode_frame(None, &[1; 16], 9, &record).unwrap();
        let header = FrameHeader::decode(&frame, &[1; 16]).unwrap();
        assert_eq!((header.sequence, header.frame_len()), (9, frame.len() as u64));
        assert_eq!(decode_payload(None, Some(&[1; 16]), 9, &frame[FRAME_HEADER_LEN..frame.len() - 1]), Some(record));
        assert!(FrameHeader::decode(&frame, &[2; 16]).is_none());
        assert!(FrameHeader::decode(&frame[..19], &[1; 16]).is_none());
    }

    #[test]
    fn a_synced_frame_is_told_from_any_other() {
        let mut frame = encode_frame(None, &[1; 16], 7, &Record::Synced).unwrap();
        assert_eq!(frame.len(), SYNCED_LEN);
        assert_eq!(synced_frame(&frame, &[1; 16]), Some(7));
        assert_eq!(synced_frame(&frame, &[2; 16]), None);
        assert_eq!(synced_frame(&frame[..SYNCED_LEN - 1], &[1; 16]), None);
        for bit in 0..frame.len() * 8 {
            frame[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(synced_frame(&frame, &[1; 16]), None);
            frame[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn an_encrypted_frame_opens_in_its_place_alone() {
        let cipher = |key: u8| Cipher::new(&crate::cipher::Key::of([key; 32]), "ada");
        let record = Record::Feedback { id: InteractionId(3), at_ms: 5, kind: FeedbackKind::Label("secret".into()) };
        let frame = encode_frame(Some(&cipher(1)), &[1; 16], 9, &record).unwrap();
        assert!(!frame.windows(6).any(|w| w == b"secret"));
        let payload = &frame[FRAME_HEADER_LEN..frame.len() - 1];
        let open =
            |key, id: Option<[u8; 16]>, sequence| decode_payload(Some(&cipher(key)), id.as_ref(), sequence, payload);
        assert_eq!(open(1, Some([1; 16]), 9), Some(record.clone()));
        assert_eq!(open(1, None, 9), Some(record.clone()), "where the journal's header is lost");
        assert_eq!(open(1, Some([1; 16]), 8), None, "another place");
        assert_eq!(open(1, Some([2; 16]), 9), None, "another journal");
        assert_eq!(open(2, Some([1; 16]), 9), None, "another key");
        assert!(is_sealed(payload) && decode_payload(None, Some(&[1; 16]), 9, payload).is_none());
        let plain = encode_frame(None, &[1; 16], 9, &record).unwrap();
        let payload = &plain[FRAME_HEADER_LEN..plain.len() - 1];
        assert!(!is_sealed(payload));
        assert_eq!(decode_payload(Some(&cipher(1)), Some(&[1; 16]), 9, payload), None, "a forged plain record");
        let synced = encode_frame(Some(&cipher(1)), &[1; 16], 9, &Record::Synced).unwrap();
        assert_eq!(synced_frame(&synced, &[1; 16]), Some(9));
        assert_eq!(decode_payload(Some(&cipher(1)), Some(&[1; 16]), 9, &SYNCED_PAYLOAD), Some(Record::Synced));
    }
}
