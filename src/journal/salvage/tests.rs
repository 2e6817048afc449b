//! Journals that are damaged byte by byte.

use std::sync::Arc;

use super::super::frame::{FILE_HEADER_LEN, SYNCED_LEN};
use super::super::record::{FeedbackKind, InteractionId, Record, StoredInput};
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
    for at in 0..whole.len() - SYNCED_LEN {
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
