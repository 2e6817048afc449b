//! Journals of several segments: the same records as in one file, in any order of events.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::salvage::{salvage, survey};
use super::super::{FeedbackKind, InteractionId, Journal, JournalWriter, Record, StoredInput};
use super::*;
use crate::adapter::samples;
use crate::disk::RealDisk;
use crate::disk::faulty::{Fault, FaultyDisk};
use crate::error::ErrorKind;

fn told(path: &Path) -> Vec<Record> {
    Journal::read(&RealDisk, path).unwrap().collect::<Result<Vec<_>>>().unwrap()
}

fn question(n: u32) -> Record {
    let input = StoredInput::Text(format!("question {n} {}", "?".repeat(n as usize % 50)));
    Record::Interaction {
        id: InteractionId(n),
        at_ms: u64::from(n),
        input,
        top: vec![("a".into(), 0.5)],
        generation: 0,
    }
}

fn answer(n: u32) -> Record {
    let kind = match n % 3 {
        0 => FeedbackKind::Reject,
        1 => FeedbackKind::Accept,
        _ => FeedbackKind::Label(format!("label {}", n % 7)),
    };
    Record::Feedback { id: InteractionId(n), at_ms: u64::from(n) + 7, kind }
}

/// 3000 questions; every third gets feedback, most a while later and in another order; two trainings.
fn story() -> Vec<Record> {
    let mut records = vec![];
    for n in 0..3000u32 {
        records.push(question(n));
        if n % 90 == 89 {
            records.extend((0..30).rev().map(|i| answer(n - 88 + i * 3 - i % 2)));
        }
        if n == 1000 || n == 2500 {
            let verdict = samples::adapter(0).verdict;
            records.push(Record::Training {
                at_ms: 5,
                generation: Some(u64::from(n)),
                verdict,
                steps: 1,
                seconds: 1.0,
                unread: u64::from(n) / 1000,
            });
        }
    }
    records
}

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

/// A journal of `story` in segments of about `bytes`.
fn written(bytes: u64) -> (Place, JournalWriter) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.log");
    JournalWriter::create(&RealDisk, &path, 5).unwrap();
    let size = SegmentSize { bytes, ..SegmentSize::default() };
    let mut writer = JournalWriter::open_sized(Arc::new(FaultyDisk::counting()), &path, size).unwrap();
    for record in story() {
        writer.append(record).unwrap();
        if writer.is_full() {
            writer.seal().unwrap();
        }
    }
    (Place { path, _dir: dir }, writer)
}

#[test]
fn the_index_tells_the_same_whatever_the_segments() {
    let (_one, whole) = written(u64::MAX);
    let (place, mut parts) = written(20_000);
    assert!(whole.state().segments().is_empty() && parts.state().segments().len() > 10);
    assert_eq!(told(&place.path), story());
    for reopened in [false, true] {
        if reopened {
            parts = JournalWriter::open(Arc::new(RealDisk), &place.path).unwrap();
        }
        let (a, b) = (whole.state(), parts.state());
        assert_eq!((a.interactions(), a.feedback(), a.rejected()), (b.interactions(), b.feedback(), b.rejected()));
        assert_eq!(
            (a.waiting(), a.trainings(), a.next_id().unwrap()),
            (b.waiting(), b.trainings(), b.next_id().unwrap())
        );
        assert_eq!(a.named_labels(), b.named_labels());
        let without_place = |i: Result<crate::journal::InteractionEntry>| {
            let i = i.unwrap();
            (i.id, i.at_ms, i.answer, i.generation)
        };
        assert!(a.all_interactions().map(without_place).eq(b.all_interactions().map(without_place)));
        for from in [0, 1, 255, 256, 512, 1777, 2999, 3000] {
            let later = a.all_interactions().map(without_place).filter(|i| i.0.0 >= from);
            assert!(later.eq(b.interactions_from(InteractionId(from)).map(without_place)), "from {from}");
            assert!(a.interactions_from(InteractionId(from)).count() == 3000 - from as usize, "from {from}");
        }
        assert!(a.all_feedback().map(Result::unwrap).eq(b.all_feedback().map(Result::unwrap)));
        assert_eq!(a.all_ids().unwrap(), b.all_ids().unwrap());
        for n in [1, 256, 2999] {
            let latest = |s: &crate::journal::JournalState| {
                s.latest_unspoken(n).unwrap().into_iter().map(|i| i.id).collect::<Vec<_>>()
            };
            assert_eq!(latest(a), latest(b));
        }
        for n in (0..3001).map(InteractionId) {
            assert_eq!(a.feedback_on(n).unwrap(), b.feedback_on(n).unwrap());
            assert_eq!(a.interaction(n).unwrap().is_some(), b.interaction(n).unwrap().is_some());
            assert_eq!(whole.input(n).ok(), parts.input(n).ok());
            let both = parts.snapshot().with_input(n).unwrap().unzip();
            assert_eq!(both, (b.interaction(n).unwrap(), parts.input(n).ok()));
        }
        assert_eq!(b.check(&answer(10)).is_ok(), a.check(&answer(10)).is_ok());
    }
    assert!(survey(&RealDisk, &place.path).unwrap().is_sound());
}

/// [`story`] without interaction `id`, what was said about it, and the trainings that had seen it.
fn without(id: InteractionId) -> Vec<Record> {
    let at = story().iter().position(|r| r.interaction() == Some(id)).unwrap();
    let goes = |n: usize, r: &Record| match r {
        Record::Training { .. } => n > at,
        other => other.interaction() == Some(id),
    };
    story().into_iter().enumerate().filter(|(n, r)| !goes(*n, r)).map(|(_, r)| r).collect()
}

#[test]
fn forgetting_writes_only_what_is_concerned_and_leaves_nothing_of_it() {
    let (place, mut writer) = written(20_000);
    let before = writer.state().segments();
    // In an old segment, with what was said about it in the next one or the same.
    let id = story()
        .iter()
        .find_map(|r| matches!(r, Record::Feedback { id, .. } if id.0 > 700).then(|| r.interaction()))
        .unwrap()
        .unwrap();
    writer.forget(&HashSet::from([id]), false).unwrap();
    let after = writer.state().segments();
    let changed = before.iter().filter(|info| !after.contains(info)).count();
    // Its own, that of what was said about it, and those of the two trainings that had seen it.
    assert!((1..=4).contains(&changed), "{changed} of {}", before.len());
    assert_eq!(told(&place.path), without(id));
    let needle = format!("question {} ", id.0);
    let files = std::fs::read_dir(segments_folder(&place.path)).unwrap().map(|f| f.unwrap().path());
    for file in files.chain([place.path.clone()]) {
        assert!(!std::fs::read(&file).unwrap().windows(needle.len()).any(|w| w == needle.as_bytes()), "{file:?}");
    }
    let all = writer.state().all_ids().unwrap();
    writer.forget(&all, true).unwrap();
    assert_eq!(told(&place.path), []);
    assert_eq!(writer.state().next_id().unwrap(), InteractionId(3000), "no id is given out again");
    assert_eq!(std::fs::read_dir(segments_folder(&place.path)).unwrap().count(), 0);
}

#[test]
fn whatever_is_damaged_in_a_segment_is_found_and_the_rest_is_kept() {
    let (place, writer) = written(20_000);
    let file = segment_path(&place.path, writer.state().segments()[3].number);
    drop(writer);
    let whole = std::fs::read(&file).unwrap();
    let records = survey(&RealDisk, &place.path).unwrap().kept;
    for at in (0..whole.len()).step_by(97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        std::fs::write(&file, &bytes).unwrap();
        let found = survey(&RealDisk, &place.path).unwrap();
        assert!(!found.is_sound(), "byte {at}");
        // A lost question takes what was said about it along.
        assert!(found.kept + 2 >= records, "byte {at}: {} of {records}", found.kept);
        // What opens reads the records that are whole, and refuses the one that is not.
        let read: Result<Vec<Record>> = Journal::read(&RealDisk, &place.path).and_then(Iterator::collect);
        assert_eq!(read.unwrap_err().kind(), ErrorKind::BadData, "byte {at}");
    }
    std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(JournalWriter::open(Arc::new(RealDisk), &place.path).unwrap_err().kind(), ErrorKind::BadData);
    salvage(&RealDisk, &place.path).unwrap();
    assert!(survey(&RealDisk, &place.path).unwrap().is_sound());
    assert_eq!(told(&place.path), story());
}

#[test]
fn a_missing_segment_is_found_and_the_rest_is_kept() {
    let (place, writer) = written(20_000);
    let gone = segment_path(&place.path, writer.state().segments()[1].number);
    drop(writer);
    std::fs::remove_file(gone).unwrap();
    assert_eq!(JournalWriter::open(Arc::new(RealDisk), &place.path).unwrap_err().kind(), ErrorKind::BadData);
    let found = survey(&RealDisk, &place.path).unwrap();
    assert!(!found.is_sound() && found.damaged.len() == 1, "{found:?}");
    salvage(&RealDisk, &place.path).unwrap();
    let kept = told(&place.path);
    assert!(kept.len() as u64 == found.kept && kept.len() > 3000 && story().ends_with(&kept[kept.len() - 2000..]));
}

#[test]
fn a_lost_list_is_made_up_from_the_segments_that_are_there() {
    let (place, mut writer) = written(20_000);
    // So that numbers are not in the order of time.
    writer.forget(&HashSet::from([InteractionId(600)]), false).unwrap();
    let left = without(InteractionId(600));
    drop(writer);
    let mut bytes = std::fs::read(&place.path).unwrap();
    bytes[90] ^= 1;
    std::fs::write(&place.path, &bytes).unwrap();
    assert_eq!(JournalWriter::open(Arc::new(RealDisk), &place.path).unwrap_err().kind(), ErrorKind::BadData);
    salvage(&RealDisk, &place.path).unwrap();
    assert_eq!(told(&place.path), left);
}

/// Without it the segments would be taken for what an interrupted rewrite left, and be removed.
#[test]
fn a_list_that_is_cut_off_or_flipped_is_damage_and_no_segment_goes() {
    let (place, writer) = written(20_000);
    let path = place.path.clone();
    drop(writer);
    let whole = std::fs::read(&path).unwrap();
    let frame = u32::from_le_bytes(whole[64..68].try_into().unwrap()) as usize + 21;
    let list = &whole[..64 + frame];
    let count = || std::fs::read_dir(segments_folder(&path)).unwrap().count();
    let (segments, records) = (count(), told(&path).len());
    assert!(segments > 1);
    let cut = (64..list.len()).map(|len| list[..len].to_vec());
    let flipped = (64..list.len()).map(|at| {
        let mut bytes = list.to_vec();
        bytes[at] ^= 1;
        bytes
    });
    for (n, bytes) in cut.chain(flipped).enumerate() {
        std::fs::write(&path, bytes).unwrap();
        let e = JournalWriter::open(Arc::new(RealDisk), &path).unwrap_err();
        assert_eq!((e.kind(), count()), (ErrorKind::BadData, segments), "{n}: {e}");
        assert!(!survey(&RealDisk, &path).unwrap().is_sound(), "{n}");
    }
    salvage(&RealDisk, &path).unwrap();
    assert!(survey(&RealDisk, &path).unwrap().is_sound() && told(&path).len() > records / 2);
}

#[test]
fn where_sealing_fails_records_are_kept_and_it_is_tried_again() {
    for fault in [Fault::Full, Fault::Broken] {
        let dir = tempfile::tempdir().unwrap();
        let (path, lock) = (dir.path().join("journal.log"), dir.path().join("journal.lock"));
        let mut failed = 0;
        // Whatever operation of the sealing it is.
        for n in 0.. {
            let _ = std::fs::remove_dir_all(segments_folder(&path));
            let _ = std::fs::remove_file(&path);
            let prepared = |disk: FaultyDisk| {
                let mut journal = Journal::open(Arc::new(disk), &path, &lock, Duration::ZERO, 1).unwrap();
                journal.set_segment_size(SegmentSize { bytes: 4000, records: 1000 });
                journal
            };
            let mut journal = prepared(FaultyDisk::counting());
            while journal.writer().end() < 3950 {
                journal.record_interaction(1, StoredInput::Text("x".into()), vec![], 0).unwrap();
            }
            journal.flush().unwrap();
            let asked = journal.state().interactions();
            drop(journal);
            let counting = FaultyDisk::counting();
            drop(prepared(counting.clone()));
            let opened = counting.operations();
            let disk = FaultyDisk::new(opened + n, fault);
            let mut journal = prepared(disk.clone());
            let recorded = journal.record_interaction(1, StoredInput::Text("y".into()), vec![], 0);
            if disk.operations() <= opened + n {
                recorded.unwrap();
                assert_eq!(journal.state().segments().len(), 1);
                break;
            }
            failed += usize::from(recorded.is_ok() && journal.state().segments().is_empty());
            let least = asked + usize::from(recorded.is_ok());
            drop(journal);
            let mut journal = prepared(FaultyDisk::counting());
            assert!(journal.state().interactions() >= least, "{fault:?} {n}");
            journal.record_interaction(1, StoredInput::Text("z".into()), vec![], 0).unwrap();
            assert!(survey(&RealDisk, &path).unwrap().is_sound(), "{fault:?} {n}");
            assert_eq!(journal.state().segments().len(), 1, "{fault:?} {n}");
        }
        assert!(failed > 5, "{failed}");
    }
}
