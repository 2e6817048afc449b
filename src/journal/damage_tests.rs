//! What damage, power cuts and other processes do to a journal of segments, and what is kept.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::salvage::{salvage, survey};
use super::segment::{segment_path, segments_folder};
use super::*;
use crate::ErrorKind;
use crate::adapter::samples;
use crate::disk::faulty::{Fault, FaultyDisk};
use crate::disk::simulated::{SimulatedDisk, Step};
use crate::disk::storage::Storage;
use crate::disk::{DiskFile, RealDisk, passes_on};
use crate::store::Store;

fn q(n: u32, text: &str) -> Record {
    Record::Interaction {
        id: InteractionId(n),
        at_ms: 1,
        input: StoredInput::Text(text.into()),
        top: vec![],
        generation: 0,
    }
}
fn said(n: u32, label: &str) -> Record {
    Record::Feedback { id: InteractionId(n), at_ms: 2, kind: FeedbackKind::Label(label.into()) }
}
fn writer(path: &Path) -> JournalWriter {
    if !path.exists() {
        JournalWriter::create(&RealDisk, path, 5).unwrap();
    }
    JournalWriter::open(Arc::new(FaultyDisk::counting()), path).unwrap()
}

/// The real disk, on which somebody else acts just before a file is opened.
#[derive(Debug)]
struct Hooked {
    inner: RealDisk,
    hook: Mutex<Option<Hook>>,
}
/// End of the path, how often it is opened before, and what is done then.
struct Hook(String, usize, Box<dyn FnOnce() + Send>);
impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}
impl Disk for Hooked {
    passes_on!();
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let due = {
            let mut hook = self.hook.lock().unwrap();
            match hook.as_mut() {
                Some(h) if path.to_string_lossy().ends_with(&h.0) => {
                    if h.1 == 0 {
                        hook.take()
                    } else {
                        h.1 -= 1;
                        None
                    }
                }
                _ => None,
            }
        };
        if let Some(h) = due {
            (h.2)();
        }
        self.inner.open_read(path)
    }
}

#[test]
fn a_power_cut_during_the_first_seal_leaves_a_journal_that_opens() {
    let disk = SimulatedDisk::default();
    disk.create_dir_all(Path::new("home")).unwrap();
    disk.sync_dir(Path::new(".")).unwrap();
    let made = disk.log().len();
    let (path, lock) = (Path::new("home/journal.log"), Path::new("home/journal.lock"));
    let open = |disk: &SimulatedDisk| Journal::open(Arc::new(disk.clone()), path, lock, Duration::ZERO, 1);
    let mut journal = open(&disk).unwrap();
    journal.set_segment_size(SegmentSize { bytes: 4000, records: 1000 });
    // Nothing is synced before there is enough for a segment.
    for n in 0..3 {
        journal.record_interaction(n, StoredInput::Text("x".repeat(1500)), vec![], 0).unwrap();
    }
    assert_eq!(journal.state().segments().len(), 1);
    let mut storage = Storage::default();
    for (at, step) in disk.log().iter().enumerate().filter(|(_, step)| !matches!(step, Step::Said(_))) {
        storage.follow(step);
        for seed in (0..32).filter(|_| at >= made) {
            let opened = open(&SimulatedDisk::holding(storage.cut(at, seed)));
            assert!(opened.is_ok(), "step {at} ({step}) seed {seed}: {}", opened.unwrap_err());
        }
    }
}

/// Files of the profile in which `needle` stands.
fn holding(profile: &Path, needle: &[u8]) -> usize {
    let folders = [profile.to_owned(), profile.join("journal.segments"), profile.join("quarantine")];
    let files =
        folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten()).map(|f| f.unwrap().path());
    let holds = |file: &PathBuf| std::fs::read(file).unwrap().windows(needle.len()).any(|w| w == needle);
    files.filter(|file| file.is_file()).filter(holds).count()
}

#[test]
fn what_was_said_about_what_is_lost_goes_into_the_quarantine() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(Arc::new(FaultyDisk::counting()), dir.path()).unwrap();
    let path = store.journal_path();
    let mut w = writer(&path);
    (0..5).for_each(|n| w.append(q(n, "asked")).unwrap());
    w.seal().unwrap();
    (5..10).for_each(|n| w.append(q(n, "asked")).unwrap());
    (0..5).for_each(|n| w.append_durable(said(n, "PRECIOUS")).unwrap());
    w.seal().unwrap();
    drop(w);
    std::fs::remove_file(segment_path(&path, 1)).unwrap();
    let done = store.repair(&samples::adapter(0).base, 7).unwrap();
    assert!(done[0].what.contains("5 records, ") && done[0].what.contains("5 records about what is lost"), "{done:?}");
    assert_eq!(holding(dir.path(), b"PRECIOUS"), 1);
}

#[test]
fn a_segment_without_interactions_does_not_hide_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.log");
    let mut w = writer(&path);
    (0..100).for_each(|n| w.append(q(n, "asked")).unwrap());
    w.seal().unwrap();
    (0..50).for_each(|n| w.append(said(n, "a")).unwrap());
    w.seal().unwrap();
    w.append_durable(q(100, "later")).unwrap();
    drop(w);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[90] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let found = salvage(&RealDisk, &path).unwrap();
    assert_eq!((found.kept, found.orphaned), (151, 0), "{found:?}");
    assert_eq!(Journal::read(&RealDisk, &path).unwrap().count(), 151);
}

#[test]
fn old_segments_stay_until_the_new_list_is_durable() {
    let mut cases = 0;
    for n in 0..400 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.log");
        let mut w = writer(&path);
        (0..10).for_each(|i| w.append(q(i, "asked")).unwrap());
        w.append_durable(said(1, "kept")).unwrap();
        w.seal().unwrap();
        drop(w);
        let before = std::fs::read(&path).unwrap();
        let disk = FaultyDisk::new(n, Fault::Unsynced);
        let mut w = JournalWriter::open(Arc::new(disk.clone()), &path).unwrap();
        if w.is_poisoned() {
            continue;
        }
        let forgot = w.forget(&HashSet::from([InteractionId(0)]), false);
        if disk.operations() <= n {
            break;
        }
        let listed_anew = std::fs::read(&path).unwrap()[16..32] != before[16..32];
        let there = segment_path(&path, 1).exists();
        let _ = w.catch_up();
        if forgot.is_err() && listed_anew && there {
            cases += 1;
            assert!(segment_path(&path, 1).exists(), "operation {n}: removed, and the rename was never synced");
        }
    }
    assert!(cases > 0);
}

#[test]
fn noise_that_looks_encrypted_is_a_torn_tail_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.log");
    let mut w = writer(&path);
    w.append_durable(q(0, "asked")).unwrap();
    let end = w.end() as usize;
    w.append(q(1, "asked too")).unwrap();
    drop(w);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[end + 20] = 0xEE;
    std::fs::write(&path, &bytes).unwrap();
    let w = JournalWriter::open(Arc::new(RealDisk), &path).unwrap();
    assert_eq!(w.state().interactions(), 1);
}

#[test]
fn a_reader_does_not_judge_what_was_appended_since_it_began() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.log");
    let mut w = writer(&path);
    w.append_durable(q(0, "asked")).unwrap();
    let end = w.end() as usize;
    w.append_durable(q(1, "asked too")).unwrap();
    drop(w);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..end + 10]).unwrap();
    let mut reader = FrameReader::open(&RealDisk, &path).unwrap();
    std::fs::write(&path, &whole).unwrap();
    assert!(reader.all(|frame| frame.is_ok()));
    assert_eq!(reader.torn_tail().map(|torn| torn.bytes), Some(10));
}

#[test]
fn what_is_read_while_another_seals_is_whole() {
    for opens in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("journal.log");
        let mut w = writer(&path);
        (0..10).for_each(|i| w.append(q(i, "asked")).unwrap());
        w.sync().unwrap();
        let hook = Hook("journal.log".into(), opens, Box::new(move || w.seal().unwrap()));
        let disk = Hooked { inner: RealDisk, hook: Mutex::new(Some(hook)) };
        let told: Result<Vec<Record>> = Journal::read(&disk, &path).and_then(Iterator::collect);
        assert_eq!(told.map(|t| t.len()).unwrap(), 10, "sealed before open {opens}");
    }
}

#[test]
fn what_is_checked_while_another_forgets_is_sound() {
    for opens in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("journal.log");
        let mut w = writer(&path);
        for i in 0..10 {
            w.append(q(i, "asked")).unwrap();
            if i % 3 == 0 {
                w.seal().unwrap();
            }
        }
        w.sync().unwrap();
        let forget = move || w.forget(&HashSet::from([InteractionId(2)]), false).unwrap();
        let hook = Hook("000001.log".into(), opens, Box::new(forget));
        let disk = Hooked { inner: RealDisk, hook: Mutex::new(Some(hook)) };
        let found = survey(&disk, &path).unwrap();
        assert!(found.is_sound() && [9, 10].contains(&found.kept), "{found:?}");
    }
}

#[test]
fn segments_without_the_file_that_lists_them_are_damage_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(Arc::new(FaultyDisk::counting()), dir.path()).unwrap();
    let (path, lock) = (store.journal_path(), store.journal_lock_path());
    let mut w = writer(&path);
    (0..10).for_each(|i| w.append(q(i, "asked")).unwrap());
    w.seal().unwrap();
    drop(w);
    std::fs::remove_file(&path).unwrap();
    let open = || Journal::open(Arc::new(FaultyDisk::counting()), &path, &lock, Duration::ZERO, 1);
    assert_eq!(open().unwrap_err().kind(), ErrorKind::BadData);
    let base = samples::adapter(0).base;
    let damaged = |found: &crate::store::Finding| found.state == crate::store::State::Damaged;
    assert!(store.verify(&base).unwrap().iter().any(|f| damaged(f) && f.what.contains("lists its segments")));
    assert_eq!(store.repair(&base, 7).unwrap().len(), 1);
    assert!(!store.verify(&base).unwrap().iter().any(damaged));
    let journal = open().unwrap();
    assert_eq!((journal.state().interactions(), journal.state().next_id().unwrap()), (10, InteractionId(10)));
}

#[test]
fn an_older_format_on_a_full_disk_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.log");
    let id = [7u8; 16];
    let header = frame::FileHeader { version: 2, id, created_ms: 1, next_id: 0, segment: 0 };
    let mut bytes = header.encode().to_vec();
    for n in 0..300u32 {
        bytes.extend(frame::encode_frame(None, &id, u64::from(n) + 1, &q(n, &"x".repeat(100_000))).unwrap());
    }
    bytes.extend(frame::encode_frame(None, &id, 301, &Record::Synced).unwrap());
    std::fs::write(&path, &bytes).unwrap();
    // Full somewhere in the third segment.
    let w = JournalWriter::open(Arc::new(FaultyDisk::new(185, Fault::Full)), &path).unwrap();
    assert!(w.is_poisoned() && w.state().interactions() == 300);
    assert_eq!(
        std::fs::read_dir(segments_folder(&path))
            .unwrap()
            .filter(|f| f.as_ref().is_ok_and(|f| f.path().extension().is_some_and(|e| e == "log")))
            .count(),
        0
    );
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn an_older_copy_of_a_segment_brings_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.log");
    let mut w = writer(&path);
    (0..10).for_each(|i| w.append(q(i, "asked")).unwrap());
    w.seal().unwrap();
    let old = std::fs::read(segment_path(&path, 1)).unwrap();
    w.forget(&HashSet::from([InteractionId(4)]), false).unwrap();
    w.seal().unwrap();
    w.append_durable(q(10, "later")).unwrap();
    let number = w.state().segments()[0].number;
    drop(w);
    std::fs::write(segment_path(&path, number), &old).unwrap();
    assert_eq!(JournalWriter::open(Arc::new(RealDisk), &path).unwrap_err().kind(), ErrorKind::BadData);
    let found = salvage(&RealDisk, &path).unwrap();
    assert_eq!(found.damaged.len(), 1);
    let ids = Journal::read(&RealDisk, &path).unwrap().map(|r| r.unwrap().interaction().unwrap().0);
    assert_eq!(ids.collect::<Vec<_>>(), [10]);
}
