//! What can be kept of a damaged journal: every whole frame that makes sense after those kept before it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::frame::{
    END, FILE_HEADER_LEN, FRAME_HEADER_LEN, FileHeader, FrameHeader, JournalId, VERSION, decode_payload, is_sealed,
};
use super::id::random_id;
use super::record::{InteractionId, Record};
use super::rewrite::{Copy, check_list};
use super::segment::{Place, SegmentInfo, SegmentSize, segment_names, segment_number, segment_path};
use super::state::check_input;
use super::tail::{Broken, Tail};
use crate::cipher::Cipher;
use crate::disk::{Disk, DiskFile, StagedFile, folder_of, read_full};
use crate::error::{Error, Result};

/// Bytes that are searched for a frame in one go.
const CHUNK: usize = 64 << 10;

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
    /// Files in which such records stand.
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
        self.header && self.damaged.is_empty() && self.orphaned == 0
    }
}

/// Looks at all of the journal at `path`, whatever is damaged in it.
///
/// # Errors
/// `Io`.
pub fn survey(disk: &dyn Disk, path: &Path) -> Result<Survey> {
    loop {
        if let Some(found) = walk_all(disk, path, &mut |_| Ok(()))? {
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

/// Puts a file of no records where the one that lists the segments was, so that [`salvage`] goes through those that are there. To be
/// called with the profile's short lock held.
///
/// # Errors
/// `Io`.
pub fn stand_in(disk: &dyn Disk, path: &Path) -> Result<()> {
    let header = FileHeader { version: VERSION, id: random_id()?, created_ms: 0, next_id: 0, segment: 0 };
    StagedFile::write(disk, folder_of(path), &header.encode())?.publish(path)
}

/// Puts a journal of what can be kept in the place of the one at `path`. To be called with the profile's short lock held.
///
/// # Errors
/// `Io`; the old one is untouched then.
pub fn salvage(disk: &dyn Disk, path: &Path) -> Result<Survey> {
    let header = Source::open(disk, path)?.header;
    let (created_ms, next_id) = header.map_or((0, 0), |h| (h.created_ms, h.next_id));
    let mut copy = Copy::begin(disk, path, SegmentSize::default(), created_ms)?;
    copy.reserve(next_id);
    let found = walk_all(disk, path, &mut |record| {
        copy.note(record);
        copy.push(record)
    })?;
    let found = found.ok_or_else(|| Error::internal("the journal changed under the profile's lock"))?;
    copy.finish()?;
    Ok(found)
}

/// What may follow the records seen so far, in 4 bytes an interaction.
#[derive(Debug, Default)]
struct Seen {
    ids: Vec<InteractionId>,
    spoken: HashSet<InteractionId>,
    /// When trainings ended, and in which generation.
    trainings: HashSet<(u64, Option<u64>)>,
}

impl Seen {
    /// Whether `record` makes sense here; it then counts as seen.
    fn take(&mut self, record: &Record) -> bool {
        match record {
            Record::Interaction { id, input, .. } => {
                let fits = self.ids.last().is_none_or(|last| last < id) && check_input(input).is_ok();
                self.ids.extend(fits.then_some(*id));
                fits
            }
            Record::Feedback { id, .. } => self.ids.binary_search(id).is_ok() && self.spoken.insert(*id),
            Record::Training { at_ms, generation, .. } => self.trainings.insert((*at_ms, *generation)),
            _ => true,
        }
    }
}

struct Source {
    file: Box<dyn DiskFile>,
    cipher: Option<Cipher>,
    len: u64,
    /// None if it is damaged; frames are then known by their other checksum alone.
    header: Option<FileHeader>,
}

impl Source {
    fn open(disk: &dyn Disk, path: &Path) -> Result<Source> {
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

    fn id(&self) -> Option<&JournalId> {
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
    fn frame(&self, at: u64) -> std::io::Result<Option<(Record, u64, u64)>> {
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
    fn ids(&self) -> std::io::Result<Option<Ids>> {
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
}

/// The first and the last interaction of a segment.
type Ids = (InteractionId, InteractionId);

fn overlap(one: Option<Ids>, other: Option<Ids>) -> bool {
    one.zip(other).is_some_and(|((from, to), (first, last))| from <= last && first <= to)
}

/// The segments that the journal's own file lists; where that cannot be read, those that are there.
fn segments(disk: &dyn Disk, path: &Path, source: &Source) -> Result<(Vec<u32>, Option<Vec<SegmentInfo>>)> {
    let first = source.frame(FILE_HEADER_LEN as u64).map_err(|e| Error::io("cannot read the journal", path, e))?;
    let there = || -> Result<Vec<u32>> {
        let mut numbers: Vec<u32> = segment_names(disk, path)?.iter().filter_map(|name| segment_number(name)).collect();
        numbers.sort_unstable();
        let mut parts: Vec<(u32, u32, Option<Ids>)> = vec![];
        for number in numbers {
            let file = segment_path(path, number);
            let segment = Source::open(disk, &file)?;
            let ids = segment.ids().map_err(|e| Error::io("cannot read the journal", &file, e))?;
            let next_id = segment.header.as_ref().map_or(u32::MAX, |header| header.next_id);
            // A rewrite puts a later segment in the place of one of the same interactions. One without any, with what was said about
            // earlier ones, stands beside it.
            parts.retain(|(before, _, other)| *before != next_id || !overlap(*other, ids));
            parts.push((next_id, number, ids));
        }
        parts.sort_by_key(|(next_id, number, _)| (*next_id, *number));
        Ok(parts.into_iter().map(|(_, number, _)| number).collect())
    };
    match first {
        Some((Record::Segments(list), _, _)) => Ok((list.iter().map(|info| info.number).collect(), Some(list))),
        // A sound journal whose first record is another one has no segments.
        Some(_) if source.header.is_some() => Ok((vec![], None)),
        _ => Ok((there()?, None)),
    }
}

/// None, with nothing kept yet, when another file took the journal's place meanwhile.
fn walk_all(disk: &dyn Disk, path: &Path, keep: &mut dyn FnMut(&Record) -> Result<()>) -> Result<Option<Survey>> {
    let source = Source::open(disk, path)?;
    let header = source.header.as_ref().is_some_and(|header| header.segment == 0);
    let mut survey = Survey { header, ..Survey::default() };
    let mut seen = Seen::default();
    let (numbers, list) = segments(disk, path, &source)?;
    let lost = list.is_none() && !numbers.is_empty();
    if lost || list.as_ref().is_some_and(|list| check_list(path, 0, list).is_err()) {
        survey.damaged.push(Damage { file: path.to_owned(), offset: FILE_HEADER_LEN as u64, bytes: 0 });
    }
    // All are opened before the first is read: what a rewrite takes away meanwhile stays readable.
    let mut parts = vec![];
    for number in &numbers {
        let file = segment_path(path, *number);
        match Source::open(disk, &file) {
            Ok(segment) => parts.push((number, file, Some(segment))),
            Err(_) if !disk.exists(&file).map_err(|e| Error::io("cannot look for a segment", &file, e))? => {
                parts.push((number, file, None));
            }
            Err(e) => return Err(e),
        }
    }
    if Source::open(disk, path)?.id() != source.id() {
        return Ok(None);
    }
    for (number, file, segment) in parts {
        let info = list.iter().flatten().find(|info| info.number == *number);
        let another = segment.as_ref().and_then(Source::id).zip(info).is_some_and(|(id, info)| *id != info.id);
        match segment {
            // An older copy would bring back what was forgotten.
            Some(segment) if another => {
                survey.damaged.push(Damage { file, offset: 0, bytes: segment.len });
            }
            Some(segment) => walk_segment(&segment, &file, info, &mut survey, &mut seen, keep)?,
            None => survey.damaged.push(Damage { file, offset: 0, bytes: 0 }),
        }
    }
    let stray = segment_names(disk, path)?.into_iter().filter_map(|name| segment_number(&name));
    survey.stray = stray.filter(|n| !numbers.contains(n)).map(|n| segment_path(path, n)).collect();
    walk(&source, path, &mut survey, &mut seen, keep, &mut |_, _| ())?;
    Ok(Some(survey))
}

/// Goes through one segment: as the growing file, and its index must say where its records stand.
fn walk_segment(
    source: &Source,
    file: &Path,
    info: Option<&SegmentInfo>,
    survey: &mut Survey,
    seen: &mut Seen,
    keep: &mut dyn FnMut(&Record) -> Result<()>,
) -> Result<()> {
    let whole = source.header.as_ref().is_some_and(|header| header.segment != 0)
        && info.is_none_or(|info| source.id() == Some(&info.id) && source.len == info.bytes);
    survey.header &= source.header.is_some();
    let before = survey.damaged.len();
    let (mut asked, mut spoken, mut trainings) = (vec![], vec![], vec![]);
    let (mut indexed, mut footer) = (vec![], None);
    walk(source, file, survey, seen, keep, &mut |record, offset| match record {
        Record::Interaction { id, .. } => asked.push(Place { id: *id, offset }),
        Record::Feedback { id, .. } => spoken.push(Place { id: *id, offset }),
        Record::Training { .. } => trainings.push(offset),
        Record::Index(block) => indexed.extend(block.iter().copied()),
        Record::Footer(found) => footer = Some((offset, found.clone())),
        Record::Synced | Record::Segments(_) | Record::TrainingOfAll { .. } => {}
    })?;
    spoken.sort_unstable();
    let agrees = footer.as_ref().is_some_and(|(offset, footer)| {
        let last = |places: &[Place]| places.last().map(|place| place.id);
        info.is_none_or(|info| *offset == info.footer)
            && (footer.interactions, footer.feedback) == (asked.len() as u64, spoken.len() as u64)
            && (footer.last, footer.last_feedback) == (last(&asked), last(&spoken))
            && footer.trainings.iter().map(|place| place.offset).eq(trainings)
            && indexed.iter().eq(asked.iter().chain(&spoken))
    });
    if survey.damaged.len() == before && !(whole && agrees) {
        let offset = footer.map_or(source.len, |(offset, _)| offset);
        survey.damaged.push(Damage { file: file.to_owned(), offset, bytes: 0 });
    }
    Ok(())
}

fn walk(
    source: &Source,
    file: &Path,
    survey: &mut Survey,
    seen: &mut Seen,
    keep: &mut dyn FnMut(&Record) -> Result<()>,
    note: &mut dyn FnMut(&Record, u64),
) -> Result<()> {
    let io = |e| Error::io("cannot read the journal", file, e);
    let growing = source.header.as_ref().is_none_or(|header| header.segment == 0);
    // None behind a damaged place, where it is not known.
    let (mut at, mut expected) = (FILE_HEADER_LEN as u64, Some(1));
    while at < source.len {
        let Some((record, sequence, length)) = source.frame(at).map_err(io)? else {
            if is_torn(source, at, expected.unwrap_or(0)).map_err(io)? {
                survey.torn = source.len.saturating_sub(at);
                break;
            }
            let next = source.next_frame(at).map_err(io)?;
            survey.damaged.push(Damage { file: file.to_owned(), offset: at, bytes: next.saturating_sub(at) });
            (at, expected) = (next, None);
            continue;
        };
        let misplaced = match record {
            Record::Segments(_) => sequence != 1,
            Record::Index(_) | Record::Footer(_) => growing,
            _ => false,
        };
        if misplaced || expected.is_some_and(|expected| expected != sequence) {
            survey.damaged.push(Damage { file: file.to_owned(), offset: at, bytes: 0 });
        }
        note(&record, at);
        if record.is_told() {
            match seen.take(&record) {
                true => {
                    keep(&record)?;
                    survey.kept = survey.kept.saturating_add(1);
                }
                false => {
                    survey.orphaned = survey.orphaned.saturating_add(1);
                    if survey.orphans.last().is_none_or(|last| last != file) {
                        survey.orphans.push(file.to_owned());
                    }
                }
            }
        }
        (at, expected) = (at.saturating_add(length), sequence.checked_add(1));
    }
    Ok(())
}

/// Whether the end of the file, from `offset` on, is what cut off writes leave, as a reader judges it.
fn is_torn(source: &Source, offset: u64, sequence: u64) -> std::io::Result<bool> {
    let Some(header) = source.header.as_ref().filter(|header| header.segment == 0) else { return Ok(false) };
    let tail = Tail { file: &*source.file, header, offset, len: source.len, sequence };
    let rest = source.len.saturating_sub(offset);
    let start = source.bytes(offset, FRAME_HEADER_LEN)?;
    tail.is_torn(match FrameHeader::decode(&start, &header.id) {
        _ if rest < FRAME_HEADER_LEN as u64 => Broken::Short,
        None => Broken::Header,
        Some(frame) if frame.frame_len() > rest => Broken::CutOff,
        Some(frame) => Broken::Payload { end: offset.saturating_add(frame.frame_len()).saturating_sub(1) },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::record::{FeedbackKind, InteractionId, StoredInput};
    use super::super::{FrameReader, JournalWriter};
    use super::*;
    use crate::disk::RealDisk;
    use crate::disk::faulty::FaultyDisk;

    fn story(n: u32) -> Vec<Record> {
        let one = |n| {
            let id = InteractionId(n);
            let (input, top) = (StoredInput::Text(format!("question {n}")), vec![]);
            let said = Record::Feedback { id, at_ms: 2, kind: FeedbackKind::Accept };
            [Record::Interaction { id, at_ms: 1, input, top, generation: 0 }, said]
        };
        (0..n).flat_map(one).collect()
    }

    fn records(path: &Path) -> Vec<Record> {
        let all: Result<Vec<_>> = FrameReader::open(&RealDisk, path).unwrap().map(|f| f.map(|f| f.record)).collect();
        all.unwrap().into_iter().filter(Record::is_told).collect()
    }

    fn written(path: &Path) -> Vec<u8> {
        JournalWriter::create(&RealDisk, path, 7).unwrap();
        let mut writer = JournalWriter::open(Arc::new(FaultyDisk::counting()), path).unwrap();
        story(5).into_iter().for_each(|record| writer.append(record).unwrap());
        writer.sync().unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn a_sound_journal_is_sound_and_salvaging_changes_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.log");
        written(&path);
        let found = survey(&RealDisk, &path).unwrap();
        assert_eq!(found, Survey { kept: 10, header: true, ..Survey::default() });
        assert_eq!(salvage(&RealDisk, &path).unwrap(), found);
        assert_eq!(records(&path), story(5));
    }

    #[test]
    fn whatever_byte_is_damaged_all_other_records_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.log");
        let whole = written(&path);
        let list = Source::open(&RealDisk, &path).unwrap().frame(FILE_HEADER_LEN as u64).unwrap().unwrap().2 as usize;
        for at in 0..whole.len() - super::super::frame::SYNCED_LEN {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x41;
            std::fs::write(&path, &bytes).unwrap();
            let found = survey(&RealDisk, &path).unwrap();
            assert!(!found.is_sound() && found.torn == 0, "byte {at}: {found:?}");
            // A lost question takes what was said about it along; nothing else is lost.
            let lost = if at < FILE_HEADER_LEN + list { 0 } else { 1 + found.orphaned };
            assert_eq!(found.kept + lost, 10, "byte {at}: {found:?}");
            salvage(&RealDisk, &path).unwrap();
            let kept = records(&path);
            assert_eq!(kept.len() as u64, found.kept);
            assert!(survey(&RealDisk, &path).unwrap().is_sound());
            let mut writer = JournalWriter::open(Arc::new(FaultyDisk::counting()), &path).unwrap();
            assert!(writer.append(story(9).pop().unwrap()).is_err(), "of a question that is not there");
        }
    }

    #[test]
    fn a_torn_tail_is_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.log");
        let whole = written(&path);
        std::fs::write(&path, [&whole[..], &[1, 2, 3]].concat()).unwrap();
        let found = survey(&RealDisk, &path).unwrap();
        assert!(found.is_sound() && found.torn == 3, "{found:?}");
    }
}
