use proptest::prelude::*;

use super::super::frame::SYNCED_LEN;
use super::super::record::{Dtype, FeedbackKind, StoredArray};
use super::*;
use crate::adapter::samples;
use crate::disk::RealDisk;
use crate::disk::faulty::{Fault, FaultyDisk};

const FORMAT_1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/journal-v1.bin");
const FORMAT_2: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/journal-v2.bin");
const FORMAT_3: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/journal-v3/journal.log");

fn interaction(n: u32) -> Record {
    let input = match n % 3 {
        0 => StoredInput::Text(format!("turn on light {n}")),
        1 => {
            let data = (0..12u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
            StoredInput::Arrays(vec![StoredArray { name: "x".into(), dtype: Dtype::F32, shape: vec![1, 3, 4], data }])
        }
        _ => StoredInput::Image { width: 2, height: 1, png: vec![0x89, b'P', 0, 0, 0] },
    };
    let top = vec![("on".into(), 0.75), ("off".into(), 0.25)];
    Record::Interaction { id: InteractionId(n), at_ms: 1000 + u64::from(n), input, top, generation: 0 }
}

fn feedback(n: u32) -> Record {
    let kind = match n % 3 {
        0 => FeedbackKind::Label("off".into()),
        1 => FeedbackKind::Accept,
        _ => FeedbackKind::Reject,
    };
    Record::Feedback { id: InteractionId(n), at_ms: 2000 + u64::from(n), kind }
}

fn training() -> Record {
    let verdict = samples::adapter(0).verdict;
    Record::Training { at_ms: 3000, generation: Some(1), verdict, steps: 10, seconds: 1.5, unread: 0 }
}

fn story() -> Vec<Record> {
    vec![interaction(0), interaction(1), feedback(0), training(), interaction(2), feedback(2)]
}

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    Place { path: dir.path().join("journal.log"), _dir: dir }
}

fn open(path: &Path) -> Result<JournalWriter> {
    JournalWriter::open(Arc::new(FaultyDisk::counting()), path)
}

/// A journal with [`story`], not synced; where each frame ends.
fn written(path: &Path) -> Vec<usize> {
    JournalWriter::create(&FaultyDisk::counting(), path, 5).unwrap();
    let mut writer = open(path).unwrap();
    let mut ends = vec![writer.end as usize];
    for record in story() {
        writer.append(record).unwrap();
        ends.push(writer.end as usize);
    }
    ends
}

/// As [`written`], and synced: one more frame.
fn sealed(path: &Path) -> Vec<usize> {
    let ends = written(path);
    open(path).unwrap();
    assert_eq!(std::fs::metadata(path).unwrap().len() as usize, ends[6] + SYNCED_LEN);
    ends
}

/// What a journal tells, without its own marks.
fn records(path: &Path) -> Result<Vec<Record>> {
    let records: Result<Vec<Record>> = FrameReader::open(&RealDisk, path)?.map(|f| f.map(|f| f.record)).collect();
    Ok(records?.into_iter().filter(Record::is_told).collect())
}

#[test]
fn what_is_appended_is_read_back() {
    let place = place();
    written(&place.path);
    assert_eq!(records(&place.path).unwrap(), story());
    let writer = open(&place.path).unwrap();
    let state = writer.state();
    assert_eq!((state.interactions(), state.feedback(), state.trainings().len()), (3, 2, 1));
    assert_eq!((state.waiting(), state.rejected()), (1, 1));
    assert_eq!(state.named_labels(), ["off".into()]);
    assert_eq!(state.feedback_on(InteractionId(0)).unwrap().unwrap().kind, FeedbackKind::Label("off".into()));
    assert_eq!(state.feedback_on(InteractionId(1)).unwrap(), None);
    assert_eq!(state.interaction(InteractionId(2)).unwrap().unwrap().answer, Some(("on".into(), 0.75)));
    for n in 0..3 {
        let Record::Interaction { input, .. } = interaction(n) else { unreachable!() };
        assert_eq!(writer.input(InteractionId(n)).unwrap(), input);
    }
    assert_eq!(writer.input(InteractionId(9)).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn wrong_records_are_refused_and_harmless() {
    let place = place();
    written(&place.path);
    let mut writer = open(&place.path).unwrap();
    let mut unsound = interaction(10);
    if let Record::Interaction { input, .. } = &mut unsound {
        let array = StoredArray { name: "x".into(), dtype: Dtype::I64, shape: vec![u64::MAX, 2], data: vec![0] };
        *input = StoredInput::Arrays(vec![array]);
    }
    for (record, why) in [
        (feedback(0), "already has feedback"),
        (feedback(7), "no interaction"),
        (interaction(2), "not new"),
        (unsound, "do not fill"),
    ] {
        let e = writer.append_durable(record).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Usage);
        assert!(e.to_string().contains(why), "{e}");
    }
    writer.append_durable(feedback(1)).unwrap();
    assert_eq!(records(&place.path).unwrap().len(), 7);
}

#[test]
fn every_truncation_loses_only_the_torn_frame() {
    let place = place();
    let ends = written(&place.path);
    let whole = std::fs::read(&place.path).unwrap();
    for len in 0..=whole.len() {
        std::fs::write(&place.path, &whole[..len]).unwrap();
        if len < 64 {
            assert_eq!(open(&place.path).unwrap_err().kind(), ErrorKind::BadData);
            continue;
        }
        let whole_frames = ends.iter().filter(|end| **end <= len).count();
        let (kept, end) = whole_frames.checked_sub(1).map_or((0, 64), |kept| (kept, ends[kept]));
        let mut writer = open(&place.path).unwrap();
        assert_eq!(writer.repaired().map(|t| t.offset), (end != len).then_some(end as u64));
        assert_eq!(records(&place.path).unwrap(), story()[..kept]);
        let mark = if kept > 0 { SYNCED_LEN } else { 0 };
        assert_eq!(std::fs::metadata(&place.path).unwrap().len() as usize, end + mark);
        writer.append_durable(interaction(50)).unwrap();
        assert_eq!(records(&place.path).unwrap().len(), kept + 1);
    }
}

/// Overwrites `range` with zeros, as blocks are that were never written.
fn with_hole(whole: &[u8], range: std::ops::Range<usize>) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    bytes[range].fill(0);
    bytes
}

#[test]
fn a_hole_is_torn_until_the_file_is_known_to_be_on_the_medium() {
    let place = place();
    let ends = written(&place.path);
    let unsynced = std::fs::read(&place.path).unwrap();
    sealed_again(&place.path);
    let synced = std::fs::read(&place.path).unwrap();
    for from in ends[2]..ends[6] {
        // In one frame, and through two.
        for length in [1, 16, 90] {
            let hole = from..(from + length).min(ends[6]);
            if unsynced[hole.clone()].iter().all(|b| *b == 0) {
                continue;
            }
            let kept = ends.iter().filter(|end| **end <= first_change(&unsynced, hole.clone())).count() - 1;
            std::fs::write(&place.path, with_hole(&unsynced, hole.clone())).unwrap();
            let writer = open(&place.path).unwrap();
            assert_eq!(writer.repaired().map(|t| t.offset), Some(ends[kept] as u64), "{hole:?}");
            assert_eq!(records(&place.path).unwrap(), story()[..kept]);
            let damaged = with_hole(&synced, hole.clone());
            std::fs::write(&place.path, &damaged).unwrap();
            let e = open(&place.path).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::BadData, "{hole:?}");
            assert!(e.to_string().contains(&format!("at byte {} ", ends[kept])), "{hole:?}: {e}");
            assert!(std::fs::read(&place.path).unwrap() == damaged);
        }
    }
}

/// The first byte of `hole` that it changes.
fn first_change(bytes: &[u8], mut hole: std::ops::Range<usize>) -> usize {
    hole.find(|at| bytes[*at] != 0).unwrap()
}

fn sealed_again(path: &Path) {
    assert!(!open(path).unwrap().is_unsynced());
}

#[test]
fn every_flipped_bit_before_the_mark_is_damage_and_nothing_is_cut() {
    let place = place();
    let ends = sealed(&place.path);
    let mut bytes = std::fs::read(&place.path).unwrap();
    for bit in 0..bytes.len() * 8 {
        let at = bit / 8;
        bytes[at] ^= 1 << (bit % 8);
        std::fs::write(&place.path, &bytes).unwrap();
        if at < ends[6] {
            let e = open(&place.path).expect_err("a flipped bit went unseen");
            assert_eq!(e.kind(), ErrorKind::BadData);
            if at >= 64 {
                let frame = ends.iter().rfind(|end| **end <= at).unwrap_or(&64);
                assert!(e.to_string().contains(&format!("at byte {frame} ")), "{e}");
            }
            assert!(std::fs::read(&place.path).unwrap() == bytes);
        } else {
            // The mark itself: it is seen, and costs nothing else.
            let seen = open(&place.path).unwrap().repaired();
            assert_eq!(seen, Some(TornTail { offset: ends[6] as u64, bytes: SYNCED_LEN as u64 }));
            assert_eq!(records(&place.path).unwrap(), story());
        }
        bytes[at] ^= 1 << (bit % 8);
    }
}

#[test]
fn what_a_failed_sync_may_have_lost_is_written_again() {
    let place = place();
    JournalWriter::create(&FaultyDisk::counting(), &place.path, 5).unwrap();
    // The operations of opening an empty journal, of two appends, and of one more append; then its sync fails.
    let counting = FaultyDisk::counting();
    let mut writer = JournalWriter::open(Arc::new(counting.clone()), &place.path).unwrap();
    let opened = counting.operations();
    let mut broken = JournalWriter::open(Arc::new(FaultyDisk::new(opened + 3, Fault::Broken)), &place.path).unwrap();
    broken.append(interaction(0)).unwrap();
    broken.append(interaction(1)).unwrap();
    let unsynced = std::fs::read(&place.path).unwrap();
    assert!(broken.append_durable(feedback(0)).is_err());
    // What the kernel dropped: the pages are as they were on storage, which never got them.
    assert!(std::fs::read(&place.path).unwrap() == unsynced, "the feedback is undone");
    broken.reopen().unwrap();
    broken.append_durable(feedback(0)).unwrap();
    assert_eq!(records(&place.path).unwrap(), [interaction(0), interaction(1), feedback(0)]);
    assert!(writer.catch_up().is_ok() && writer.state() == broken.state());
}

#[test]
fn a_disk_that_takes_no_write_still_answers_reads() {
    let place = place();
    written(&place.path);
    let disk = FaultyDisk::counting();
    JournalWriter::open(Arc::new(disk.clone()), &place.path).unwrap();
    // Of the sync, the mark, the sync of the name, and the look for segments.
    let writes = 4;
    written_anew(&place.path);
    let disk = FaultyDisk::new(disk.operations() - writes, Fault::Full);
    let mut writer = JournalWriter::open(Arc::new(disk), &place.path).unwrap();
    assert!(writer.is_poisoned() && writer.state().interactions() == 3);
    assert_eq!(writer.append(interaction(3)).unwrap_err().kind(), ErrorKind::Io);
}

fn written_anew(path: &Path) {
    std::fs::remove_file(path).unwrap();
    written(path);
}

#[test]
fn a_failed_sync_poisons_until_reopened() {
    let place = place();
    JournalWriter::create(&FaultyDisk::counting(), &place.path, 5).unwrap();
    let counting = FaultyDisk::counting();
    let mut writer = JournalWriter::open(Arc::new(counting.clone()), &place.path).unwrap();
    writer.append(interaction(0)).unwrap();
    let sync = counting.operations() + 1;
    drop(writer);
    std::fs::remove_file(&place.path).unwrap();
    JournalWriter::create(&FaultyDisk::counting(), &place.path, 5).unwrap();
    let mut writer = JournalWriter::open(Arc::new(FaultyDisk::new(sync, Fault::Broken)), &place.path).unwrap();
    writer.append(interaction(0)).unwrap();
    let e = writer.append_durable(feedback(0)).unwrap_err();
    assert!(e.to_string().contains("durable"), "{e}");
    assert!(writer.is_poisoned());
    for _ in 0..2 {
        let e = writer.append(interaction(1)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Io);
        assert!(e.to_string().contains("takes no records") && e.next_step().is_some());
        assert!(writer.catch_up().is_err() && writer.sync().is_err());
    }
    assert_eq!(records(&place.path).unwrap(), [interaction(0)]);
    writer.reopen().unwrap();
    writer.append_durable(feedback(0)).unwrap();
    assert_eq!(records(&place.path).unwrap(), [interaction(0), feedback(0)]);
}

#[test]
fn whatever_fails_what_was_acknowledged_stays() {
    for fault in [Fault::Full, Fault::Broken, Fault::Dead] {
        for n in 0.. {
            let place = place();
            let disk = FaultyDisk::new(n, fault);
            let mut acknowledged = Vec::new();
            let run = |acknowledged: &mut Vec<Record>| -> Result<()> {
                JournalWriter::create(&disk, &place.path, 5)?;
                let mut writer = JournalWriter::open(Arc::new(disk.clone()), &place.path)?;
                for record in story() {
                    writer.catch_up()?;
                    writer.append_durable(record.clone())?;
                    acknowledged.push(record);
                }
                Ok(())
            };
            let outcome = run(&mut acknowledged);
            if disk.operations() <= n {
                outcome.unwrap();
                break;
            }
            match outcome {
                Err(e) => assert_eq!(e.kind(), ErrorKind::Io),
                // The failing operation was the last mark, which nobody waits for.
                Ok(()) => assert_eq!(acknowledged, story()),
            }
            if !place.path.exists() {
                assert!(acknowledged.is_empty());
                continue;
            }
            let mut writer = open(&place.path).unwrap();
            let found = records(&place.path).unwrap();
            assert!(found.starts_with(&acknowledged) && story().starts_with(&found), "{fault:?} {n}");
            if fault == Fault::Full {
                assert_eq!(found, acknowledged, "what failed is undone");
                assert_eq!(writer.repaired(), None, "{n}");
            }
            for record in story().split_off(found.len()) {
                writer.append_durable(record).unwrap();
            }
            assert_eq!(records(&place.path).unwrap(), story());
        }
    }
}

#[test]
fn all_formats_open_forever() {
    let told = |path: &Path| super::super::Journal::read(&RealDisk, path).unwrap().collect::<Result<Vec<_>>>().unwrap();
    for (version, fixture) in [(1, FORMAT_1), (2, FORMAT_2)] {
        assert_eq!(FrameReader::open(&RealDisk, Path::new(fixture)).unwrap().header().version, version);
        assert_eq!(told(Path::new(fixture)), story());
        let place = place();
        std::fs::copy(fixture, &place.path).unwrap();
        // A disk that has no room for the newer format still answers reads.
        let kept = JournalWriter::open(Arc::new(FaultyDisk::new(7, Fault::Full)), &place.path).unwrap();
        assert!(kept.is_poisoned() && kept.state().interactions() == 3);
        let mut writer = open(&place.path).unwrap();
        assert_eq!(FrameReader::open(&RealDisk, &place.path).unwrap().header().version, VERSION);
        writer.append_durable(feedback(1)).unwrap();
        assert_eq!(told(&place.path), [story(), vec![feedback(1)]].concat());
    }
    let place = place();
    std::fs::create_dir(place.path.with_extension("segments")).unwrap();
    for name in ["journal.log", "journal.segments/000001.log", "journal.segments/000002.log"] {
        let from = Path::new(FORMAT_3).with_file_name("").join(name);
        std::fs::copy(from, place.path.with_file_name("").join(name)).unwrap();
    }
    assert_eq!(told(&place.path), story());
    let mut writer = open(&place.path).unwrap();
    assert_eq!(writer.state().segments().len(), 2);
    writer.append_durable(feedback(1)).unwrap();
    assert_eq!(told(&place.path), [story(), vec![feedback(1)]].concat());
}

#[test]
fn format_1_tells_a_torn_tail_from_damage_by_its_looks() {
    let place = place();
    let whole = std::fs::read(FORMAT_1).unwrap();
    let last = FrameReader::open(&RealDisk, Path::new(FORMAT_1)).unwrap().last().unwrap().unwrap().offset as usize;
    let read = |bytes: &[u8]| {
        std::fs::write(&place.path, bytes).unwrap();
        records(&place.path)
    };
    let mut bytes = whole.clone();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(read(&bytes).expect_err("a flipped bit went unseen").kind(), ErrorKind::BadData);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    for at in last + 1..whole.len() {
        assert_eq!(read(&whole[..at]).unwrap(), story()[..5]);
        assert_eq!(read(&with_hole(&whole, at..whole.len())).unwrap(), story()[..5], "never written from {at} on");
    }
    assert_eq!(read(&with_hole(&whole, last..whole.len() - 1)).unwrap_err().kind(), ErrorKind::BadData);
    assert_eq!(read(&[whole, vec![0; 10_000]].concat()).unwrap(), story());
}

#[test]
fn what_a_killed_process_named_is_durable_before_anything_is_acknowledged() {
    use crate::disk::simulated::{SimulatedDisk, Step};
    use crate::disk::storage::Storage;
    let path = Path::new("home/journal.log");
    let disk = SimulatedDisk::default();
    disk.create_dir_all(Path::new("home")).unwrap();
    disk.sync_dir(Path::new(".")).unwrap();
    JournalWriter::create(&disk, path, 5).unwrap();
    let mut writer = JournalWriter::open(Arc::new(disk.clone()), path).unwrap();
    writer.append_durable(interaction(0)).unwrap();
    writer.append_durable(interaction(1)).unwrap();
    writer.forget(&HashSet::from([InteractionId(0)]), false).unwrap();
    // Killed when the new file had its name, and the folder was not synced; what the system has not written yet stays pending.
    let log = disk.log();
    let named = log.iter().rposition(|s| matches!(s, Step::Rename(_, to) if to == path)).unwrap();
    let mut storage = Storage::default();
    log[..=named].iter().for_each(|step| storage.follow(step));
    let next = SimulatedDisk::holding(storage.cut(named, 1));
    let mut writer = JournalWriter::open(Arc::new(next.clone()), path).unwrap();
    writer.append_durable(feedback(1)).unwrap();
    next.log().iter().for_each(|step| storage.follow(step));
    let left = SimulatedDisk::holding(storage.cut(named, 0));
    let told = super::super::Journal::read(&left, path).unwrap().collect::<Result<Vec<_>>>().unwrap();
    assert_eq!(told, [interaction(1), feedback(1)]);
}

#[test]
#[ignore = "writes the fixture of a new format version"]
fn write_the_fixture() {
    let path = Path::new(FORMAT_3);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    JournalWriter::create(&RealDisk, path, 5).unwrap();
    let mut writer = open(path).unwrap();
    for (n, record) in story().into_iter().enumerate() {
        writer.append(record).unwrap();
        if n == 1 || n == 3 {
            writer.seal().unwrap();
        }
    }
    writer.sync().unwrap();
}

fn any_input() -> impl Strategy<Value = StoredInput> {
    prop_oneof![
        ".{0,40}".prop_map(StoredInput::Text),
        (0u64..5, 0u64..5, ".{0,5}").prop_map(|(a, b, name)| {
            let data = vec![7; (a * b * 8) as usize];
            StoredInput::Arrays(vec![StoredArray { name, dtype: Dtype::I64, shape: vec![a, b], data }])
        }),
        (any::<u32>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(width, height, png)| StoredInput::Image { width, height, png }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_interactions_survive(
        rows in prop::collection::vec((any_input(), prop::collection::vec((".{0,8}", 0f32..1.0), 0..4), any::<u64>(),
            prop::option::of(".{0,8}")), 0..12)
    ) {
        let place = place();
        JournalWriter::create(&FaultyDisk::counting(), &place.path, 5).unwrap();
        let mut writer = open(&place.path).unwrap();
        let mut expected = Vec::new();
        for (n, (input, top, generation, label)) in rows.into_iter().enumerate() {
            let id = InteractionId(n as u32);
            expected.push(Record::Interaction { id, at_ms: generation ^ 3, input, top, generation });
            if let Some(label) = label {
                expected.push(Record::Feedback { id, at_ms: 1, kind: FeedbackKind::Label(label) });
            }
        }
        for record in &expected {
            writer.append(record.clone()).unwrap();
        }
        prop_assert_eq!(records(&place.path).unwrap(), expected);
        let reopened = open(&place.path).unwrap();
        prop_assert_eq!(reopened.state(), writer.state());
    }

    #[test]
    fn no_bytes_after_the_header_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let place = place();
        written(&place.path);
        let mut whole = std::fs::read(&place.path).unwrap();
        whole.extend(&bytes);
        std::fs::write(&place.path, &whole).unwrap();
        match open(&place.path) {
            Ok(writer) => prop_assert_eq!(writer.state().interactions(), 3),
            Err(e) => prop_assert_eq!(e.kind(), ErrorKind::BadData),
        }
    }
}
