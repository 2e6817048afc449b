//! The head: which generation serves. Two slots, the newer valid one wins; see `docs/store.md`.

use std::path::Path;

use crate::disk::fault_injection::{Bug, planted};
use crate::disk::{Disk, StagedFile, folder_of, read_file};
use crate::error::{Error, Result};

const MAGIC: [u8; 8] = *b"ACCLHEAD";
const VERSION: u32 = 2;
const VERSION_AT: usize = 8;
const PROBATION_AT: usize = 12;
const SEQUENCE_AT: usize = 16;
const CURRENT_AT: usize = 24;
const PREVIOUS_AT: usize = 32;
const HIGHEST_AT: usize = 40;
const TRIES_AT: usize = 48;
const CAUSE_AT: usize = 50;
const ROLLED_BACK_AT: usize = 52;
const CRC_AT: usize = 60;
const SLOT_LEN: usize = 64;
/// Slots are a block apart, so that no write touches both.
const SLOT_OFFSETS: [usize; 2] = [0, 4096];
const FILE_LEN: usize = SLOT_OFFSETS[1] + SLOT_LEN;

/// Tries that a generation on probation has: one that does not end takes it back.
pub const TRIES: u16 = 1;

/// Why acclimate took a generation back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The process ended while it loaded the generation, or while it answered with it for the first times.
    Crash = 1,
    /// Its file is missing, damaged, or of another base.
    Unusable = 2,
    /// It answered with something that is not a finite number.
    BadAnswer = 3,
    /// On what was said about its answers, the base would have been right more often.
    Worse = 4,
}

impl Cause {
    fn of(code: u16) -> Option<Cause> {
        [Cause::Crash, Cause::Unusable, Cause::BadAnswer, Cause::Worse].into_iter().find(|cause| *cause as u16 == code)
    }

    /// In words that follow "rolled back automatically: ".
    pub fn words(self) -> &'static str {
        match self {
            Cause::Crash => "the process ended while it was tried",
            Cause::Unusable => "its file cannot be used",
            Cause::BadAnswer => "it gave no finite answer",
            Cause::Worse => "its answers were corrected more often than the base's would have been",
        }
    }
}

/// A generation that acclimate rolled back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RolledBack {
    /// Its number.
    pub generation: u64,
    /// Why.
    pub cause: Cause,
}

/// What a slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// One more at each flip, from 1.
    pub sequence: u64,
    /// The active generation; 0 is the base model.
    pub current: u64,
    /// Where a roll back without target goes.
    pub previous: u64,
    /// Highest generation number ever used.
    pub highest: u64,
    /// Predictions until the current generation is trusted; 0: it is.
    pub probation_left: u32,
    /// Tries that may still begin while the current generation is on probation.
    pub tries_left: u16,
    /// The last generation that was rolled back automatically, until the next one is committed or rolled back to.
    pub rolled_back: Option<RolledBack>,
}

impl Head {
    fn encode(&self) -> [u8; SLOT_LEN] {
        let mut out = [0; SLOT_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(VERSION_AT, &VERSION.to_le_bytes());
        put(PROBATION_AT, &self.probation_left.to_le_bytes());
        put(SEQUENCE_AT, &self.sequence.to_le_bytes());
        put(CURRENT_AT, &self.current.to_le_bytes());
        put(PREVIOUS_AT, &self.previous.to_le_bytes());
        put(HIGHEST_AT, &self.highest.to_le_bytes());
        put(TRIES_AT, &self.tries_left.to_le_bytes());
        if let Some(RolledBack { generation, cause }) = self.rolled_back {
            put(CAUSE_AT, &(cause as u16).to_le_bytes());
            put(ROLLED_BACK_AT, &generation.to_le_bytes());
        }
        let crc = crc32fast::hash(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` if the slot is not whole.
    fn decode(slot: &[u8]) -> Option<Head> {
        let u16_at = |at: usize| slot.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b));
        let u32_at = |at: usize| slot.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b));
        let u64_at = |at: usize| slot.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b));
        let intact = u32_at(CRC_AT)? == crc32fast::hash(slot.get(..CRC_AT)?) || planted(Bug::HeadCrcIgnored);
        if !slot.starts_with(&MAGIC) || !intact {
            return None;
        }
        let (tries_left, code, generation) = (u16_at(TRIES_AT)?, u16_at(CAUSE_AT)?, u64_at(ROLLED_BACK_AT)?);
        let rolled_back = Cause::of(code).map(|cause| RolledBack { generation, cause });
        let (tries_left, known) = match u32_at(VERSION_AT)? {
            // Format 1 knew no tries and no causes; its bytes are zero here.
            1 => (TRIES, (tries_left, code, generation) == (0, 0, 0)),
            VERSION => (tries_left, rolled_back.is_some() || (code, generation) == (0, 0)),
            _ => return None,
        };
        let head = Head {
            sequence: u64_at(SEQUENCE_AT)?,
            current: u64_at(CURRENT_AT)?,
            previous: u64_at(PREVIOUS_AT)?,
            highest: u64_at(HIGHEST_AT)?,
            probation_left: u32_at(PROBATION_AT)?,
            tries_left,
            rolled_back,
        };
        (known && head.current.max(head.previous) <= head.highest).then_some(head)
    }
}

struct Slots {
    bytes: Vec<u8>,
    /// Index of the slot that wins.
    newest: usize,
    head: Head,
    /// Whether the other slot holds something that is not whole.
    torn: bool,
}

impl Slots {
    fn read(disk: &dyn Disk, path: &Path) -> Result<Slots> {
        // What was appended to it says nothing.
        let mut bytes = read_file(disk, path, 1 << 20)?;
        bytes.truncate(FILE_LEN);
        let raw = SLOT_OFFSETS.map(|at| bytes.get(at..at + SLOT_LEN));
        let slots = raw.map(|slot| slot.and_then(Head::decode));
        let torn = raw.iter().zip(&slots).any(|(raw, slot)| {
            let written = raw.is_none_or(|bytes| bytes.iter().any(|b| *b != 0));
            slot.is_none() && written
        });
        let (newest, head) = match slots {
            [Some(a), Some(b)] if b.sequence > a.sequence && !planted(Bug::HeadSequenceIgnored) => (1, b),
            [Some(a), _] => (0, a),
            [None, Some(b)] => (1, b),
            [None, None] => {
                return Err(Error::bad_data("both slots of the head are damaged")
                    .at(path.display())
                    .hint("the generations are untouched: `acclimate repair` makes a new head for them"));
            }
        };
        Ok(Slots { bytes, newest, head, torn })
    }
}

/// Makes a head that serves the base; `highest` is the highest generation number that may have been used.
///
/// # Errors
/// `Usage` if there is one, `Io`.
pub fn create(disk: &dyn Disk, path: &Path, highest: u64) -> Result<()> {
    stage(disk, path, &Head { sequence: 1, highest, ..Head::default() })?.publish(path)
}

/// Puts a file with `head` alone in the place of the one at `path`.
///
/// # Errors
/// `Io`.
pub fn replace(disk: &dyn Disk, path: &Path, head: &Head) -> Result<()> {
    stage(disk, path, head)?.replace(path)
}

fn stage<'a>(disk: &'a dyn Disk, path: &Path, head: &Head) -> Result<StagedFile<'a>> {
    let mut bytes = head.encode().to_vec();
    bytes.resize(FILE_LEN, 0);
    StagedFile::write(disk, folder_of(path), &bytes)
}

/// What the head says now.
///
/// # Errors
/// `BadData` if neither slot is valid, `Io`.
pub fn read(disk: &dyn Disk, path: &Path) -> Result<Head> {
    Slots::read(disk, path).map(|slots| slots.head)
}

/// As [`read`], if no slot is torn: only then does the head surely know the highest number ever used.
///
/// # Errors
/// As [`read`].
pub fn read_whole(disk: &dyn Disk, path: &Path) -> Result<Option<Head>> {
    Slots::read(disk, path).map(|slots| (!slots.torn).then_some(slots.head))
}

/// Makes durable what [`read`] finds: whoever wrote it may have been killed before it could. Without it a power cut could undo what
/// others have seen.
///
/// # Errors
/// `Io`.
pub fn flush(disk: &dyn Disk, path: &Path) -> Result<()> {
    if planted(Bug::HeadNotFlushed) {
        return Ok(());
    }
    disk.open_read(path).and_then(|file| file.sync_data()).map_err(|e| Error::io("cannot sync the head", path, e))
}

/// Replaces the head by what `change` makes of it, durably; the head it wrote. To be called under the profile's short lock.
///
/// # Errors
/// What `change` returns, `BadData`, `Io`; the old head stays then.
pub fn flip(disk: &dyn Disk, path: &Path, change: impl FnOnce(Head) -> Result<Head>) -> Result<Head> {
    let slots = Slots::read(disk, path)?;
    let changed = change(slots.head)?;
    let head = Head { sequence: slots.head.sequence.saturating_add(1), ..changed };
    let other = slots.newest == 0;
    let at = if other != planted(Bug::StaleSlotWritten) { SLOT_OFFSETS[1] } else { SLOT_OFFSETS[0] };
    let io = |e| Error::io("cannot write the head", path, e);
    let file = disk.open_write(path).map_err(io)?;
    // What is read may not be durable yet: its writer may have been killed. Only one slot may be torn at a time.
    if !planted(Bug::HeadNotFlushed) {
        file.sync_data().map_err(io)?;
    }
    let sync = || if planted(Bug::HeadNotSynced) { Ok(()) } else { file.sync_data() };
    if let Err(e) = file.write_at(&head.encode(), at as u64).and_then(|()| sync()) {
        // Unacknowledged, so not to be seen: put back what was there.
        let mut old: Vec<u8> = slots.bytes.iter().skip(at).take(SLOT_LEN).copied().collect();
        old.resize(SLOT_LEN, 0);
        let _ = file.write_at(&old, at as u64).and_then(|()| file.sync_data());
        return Err(io(e));
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::disk::faulty::{Fault, FaultyDisk};
    use crate::error::ErrorKind;

    fn to(n: u64) -> impl Fn(Head) -> Result<Head> {
        move |h| Ok(Head { current: n, previous: h.current, highest: n, probation_left: 20, ..h })
    }

    #[test]
    fn flips_alternate_and_the_newest_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head");
        create(&RealDisk, &path, 0).unwrap();
        for n in 1..6 {
            let head = flip(&RealDisk, &path, to(n)).unwrap();
            let expected =
                Head { sequence: n + 1, current: n, previous: n - 1, highest: n, probation_left: 20, ..head };
            assert_eq!(head, expected);
            assert_eq!(read(&RealDisk, &path).unwrap(), head);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), FILE_LEN as u64);
        assert_eq!(create(&RealDisk, &path, 0).unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn what_a_slot_says_comes_back() {
        for rolled_back in [None, Some(RolledBack { generation: u64::MAX, cause: Cause::BadAnswer })] {
            let head = Head {
                sequence: 3,
                current: 2,
                previous: 1,
                highest: 9,
                probation_left: 7,
                tries_left: 1,
                rolled_back,
            };
            assert_eq!(Head::decode(&head.encode()), Some(head));
        }
        let mut old = Head { sequence: 3, current: 2, previous: 1, highest: 9, probation_left: 7, ..Head::default() };
        let mut bytes = old.encode();
        bytes[VERSION_AT] = 1;
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        old.tries_left = TRIES;
        assert_eq!(Head::decode(&bytes), Some(old), "format 1");
    }

    #[test]
    fn a_torn_flip_leaves_the_head_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head");
        create(&RealDisk, &path, 0).unwrap();
        for n in 1..5 {
            let before = std::fs::read(&path).unwrap();
            let old = read(&RealDisk, &path).unwrap();
            let new = flip(&RealDisk, &path, to(n)).unwrap();
            let after = std::fs::read(&path).unwrap();
            let at = SLOT_OFFSETS[n as usize % 2];
            for len in 0..=SLOT_LEN {
                let mut torn = before.clone();
                torn[at..at + len].copy_from_slice(&after[at..at + len]);
                let whole = torn == after;
                std::fs::write(&path, &torn).unwrap();
                assert_eq!(read(&RealDisk, &path).unwrap(), if whole { new } else { old });
            }
            std::fs::write(&path, &after).unwrap();
        }
    }

    #[test]
    fn every_flipped_bit_of_one_slot_is_seen_and_two_bad_slots_are_bad_data() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head");
        create(&RealDisk, &path, 0).unwrap();
        let old = read(&RealDisk, &path).unwrap();
        flip(&RealDisk, &path, to(1)).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        for bit in 0..SLOT_LEN * 8 {
            bytes[SLOT_OFFSETS[1] + bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(read(&RealDisk, &path).unwrap(), old);
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            let e = read(&RealDisk, &path).unwrap_err();
            assert!(e.kind() == ErrorKind::BadData && e.next_step().is_some());
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes[SLOT_OFFSETS[1] + bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..SLOT_LEN {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert_eq!(read(&RealDisk, &path).unwrap_err().kind(), ErrorKind::BadData);
        }
    }

    #[test]
    fn a_flip_that_fails_anywhere_changes_nothing() {
        for fault in [Fault::Full, Fault::Broken, Fault::Dead] {
            for n in 0.. {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("head");
                create(&FaultyDisk::counting(), &path, 0).unwrap();
                flip(&FaultyDisk::counting(), &path, to(1)).unwrap();
                let disk = FaultyDisk::new(n, fault);
                let flipped = flip(&disk, &path, to(2));
                if disk.operations() <= n {
                    flipped.unwrap();
                    break;
                }
                assert_eq!(flipped.unwrap_err().kind(), ErrorKind::Io);
                let now = read(&RealDisk, &path).unwrap().current;
                assert!(now == 1 || (fault == Fault::Dead && now == 2), "{fault:?} {n}");
            }
        }
    }
}
