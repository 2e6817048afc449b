use std::collections::HashSet;

use super::*;
use crate::adapter::samples::adapter;
use crate::disk::RealDisk;
use crate::disk::faulty::{Fault, FaultyDisk};
use crate::journal::{InteractionId, Journal};

fn create(folder: &Path) -> Store {
    Store::create(Arc::new(FaultyDisk::counting()), folder).unwrap().waiting(Duration::from_millis(50))
}

fn numbers(store: &Store) -> Vec<u64> {
    store.list().unwrap().iter().map(|g| g.number).collect()
}

#[test]
fn commit_roll_back_and_forward() {
    let dir = tempfile::tempdir().unwrap();
    let folder = profile_folder(dir.path(), "default").unwrap();
    assert_eq!(Store::open(Arc::new(RealDisk), &folder).unwrap_err().kind(), ErrorKind::Usage);
    let store = create(&folder);
    assert_eq!(store.rollback(None).unwrap_err().kind(), ErrorKind::Usage);
    for n in 0..3 {
        assert_eq!(store.commit(&adapter(n)).unwrap(), n + 1);
    }
    assert_eq!((store.current().unwrap(), numbers(&store)), (3, vec![1, 2, 3]));
    let base = adapter(0).base;
    assert_eq!(store.open_generation(2, Some(&base)).unwrap().to_adapter(), adapter(1));
    assert_eq!(store.open_generation(0, None).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(store.open_generation(9, None).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(store.rollback(Some(3)).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(store.rollback(Some(9)).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!([2, 1, 0].map(|_| store.rollback(None).unwrap()), [2, 1, 0]);
    assert_eq!(store.rollback(None).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(store.rollback(Some(3)).unwrap(), 3);
    assert_eq!(store.head().unwrap().previous, 2);
    assert_eq!(store.rollback(Some(0)).unwrap(), 0);
    assert_eq!(store.commit(&adapter(0)).unwrap(), 4, "a number is never used twice");
    let reopened = Store::open(Arc::new(RealDisk), &folder).unwrap();
    assert_eq!((reopened.current().unwrap(), numbers(&reopened)), (4, vec![1, 2, 3, 4]));
    assert_eq!(reopened.rollback(None).unwrap(), 0);
}

#[test]
fn a_candidate_of_another_parent_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    store.commit(&adapter(0)).unwrap();
    store.rollback(None).unwrap();
    let e = store.commit(&adapter(1)).unwrap_err();
    assert!(e.kind() == ErrorKind::Busy && e.to_string().contains("serves now"), "{e}");
    assert_eq!(numbers(&store), [1]);
    assert_eq!(std::fs::read_dir(dir.path().join("generations")).unwrap().count(), 1);
}

#[test]
fn the_oldest_go_but_never_those_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path()).keeping(3);
    for n in 0..5 {
        store.commit(&adapter(n)).unwrap();
    }
    assert_eq!(numbers(&store), [3, 4, 5]);
    let loaded = store.open_generation(3, None).unwrap();
    store.commit(&adapter(5)).unwrap();
    assert_eq!(loaded.to_adapter(), adapter(2), "a loaded generation outlives its file");
    assert_eq!(store.rollback(Some(4)).unwrap(), 4);
    assert_eq!(store.head().unwrap().previous, 0, "3 is gone, and so are its ancestors");
    let store = store.keeping(1);
    assert_eq!(store.commit(&adapter(4)).unwrap(), 7);
    assert_eq!(numbers(&store), [4, 7], "previous and current stay beyond the limit");
}

#[test]
fn a_damaged_generation_is_listed_and_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    store.commit(&adapter(0)).unwrap();
    store.commit(&adapter(1)).unwrap();
    let path = dir.path().join("generations/000001.adapter");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[70] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let list = store.list().unwrap();
    assert!(list[0].header.is_err() && list[0].previous && list[1].header.is_ok() && list[1].current);
    assert_eq!(store.rollback(None).unwrap_err().kind(), ErrorKind::BadData);
    assert_eq!(store.current().unwrap(), 2);
    assert_eq!(store.rollback(Some(0)).unwrap(), 0);
}

/// One try of the active generation that ends well, with `predictions` answers.
fn pass(store: &Store, predictions: u32) -> u32 {
    store.begin().unwrap().1.unwrap().passed(predictions).unwrap()
}

#[test]
fn a_trial_is_counted_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    assert!(store.begin().unwrap().1.is_none(), "the base is never on probation");
    let first = store.commit(&adapter(0)).unwrap();
    assert_eq!((store.head().unwrap().probation_left, store.head().unwrap().tries_left), (PROBATION, TRIES));
    assert_eq!((pass(&store, 0), pass(&store, 5)), (20, 15));
    assert_eq!(store.head().unwrap().tries_left, TRIES);
    let (generation, probation) = store.begin().unwrap();
    assert_eq!((generation, store.head().unwrap().tries_left), (first, TRIES - 1));
    assert!(matches!(store.begin().unwrap(), (1, None)), "tried elsewhere at this moment: not a failure");
    assert_eq!(probation.unwrap().passed(50).unwrap(), 0);
    let sequence = store.head().unwrap().sequence;
    assert!(matches!(store.begin().unwrap(), (1, None)));
    assert_eq!(store.head().unwrap().sequence, sequence, "a trusted generation costs no write");
}

#[test]
fn a_try_that_never_ended_takes_the_generation_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let first = store.commit(&adapter(0)).unwrap();
    pass(&store, PROBATION);
    let second = store.commit(&adapter(1)).unwrap();
    drop(store.begin().unwrap());
    assert_eq!(store.begin().unwrap().0, first);
    let head = store.head().unwrap();
    assert_eq!(head.rolled_back, Some(RolledBack { generation: second, cause: Cause::Crash }));
    assert_eq!((head.current, head.previous, head.probation_left), (1, 0, 0));
    assert_eq!(store.rollback(Some(second)).unwrap(), second, "it can be rolled forward to");
    assert_eq!(store.head().unwrap().rolled_back, None);
    let third = store.commit(&adapter(2)).unwrap();
    drop(store.begin().unwrap());
    assert_eq!(store.rollback(None).unwrap(), second, "or left by hand");
    assert_eq!(store.begin().unwrap().0, second);
    assert_eq!(third, 3);
}

#[test]
fn what_cannot_be_used_is_left_for_the_nearest_that_can() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    for parent in 0..3 {
        store.commit(&adapter(parent)).unwrap();
    }
    assert_eq!(store.roll_back_automatically(2, Cause::Unusable).unwrap(), 3, "not the one that serves");
    std::fs::write(dir.path().join("generations/000002.adapter"), b"damaged").unwrap();
    assert_eq!(
        store.roll_back_automatically(3, Cause::Unusable).unwrap(),
        0,
        "2 is damaged, so its parent is not known"
    );
    let (dir, base) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = create(dir.path());
    for parent in 0..3 {
        store.commit(&adapter(parent)).unwrap();
    }
    std::fs::remove_file(dir.path().join("generations/000002.adapter")).unwrap();
    assert_eq!(store.rollback(Some(1)).unwrap(), 1);
    assert_eq!(store.rollback(Some(3)).unwrap(), 3);
    assert_eq!(
        store.roll_back_automatically(3, Cause::BadAnswer).unwrap(),
        0,
        "an ancestor that has no file ends the line"
    );
    assert_eq!(create(base.path()).roll_back_automatically(0, Cause::Unusable).unwrap(), 0);
}

#[test]
fn finished_files_that_the_head_never_named_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    store.commit(&adapter(0)).unwrap();
    let orphan = dir.path().join("generations/000002.adapter");
    let head = dir.path().join("head");
    let whole = std::fs::read(&head).unwrap();
    let mut torn = whole.clone();
    torn[20] ^= 1;
    for (bytes, swept) in [(&torn, false), (&whole, true)] {
        std::fs::write(&head, bytes).unwrap();
        std::fs::write(&orphan, b"an adapter").unwrap();
        drop(store.lock_training(Duration::ZERO, "training").unwrap());
        assert_eq!(!orphan.exists(), swept, "only where the head surely never named it");
        assert!(dir.path().join("generations/000001.adapter").exists());
    }
}

#[test]
fn locks_keep_others_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let training = store.lock_training(Duration::ZERO, "training").unwrap();
    let e = store.lock_training(Duration::ZERO, "training").unwrap_err();
    assert!(e.kind() == ErrorKind::Busy && e.to_string().contains("(training)"), "{e}");
    store.commit(&adapter(0)).unwrap();
    store.rollback(None).unwrap();
    drop(training);
    let short = WriterLock::acquire(&RealDisk, &store.journal_lock_path(), Duration::ZERO, "a test").unwrap();
    assert_eq!(store.commit(&adapter(0)).unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(store.rollback(Some(1)).unwrap_err().kind(), ErrorKind::Busy);
    drop(short);
    std::fs::write(dir.path().join("generations/.1-2.tmp"), b"left over").unwrap();
    store.lock_training(Duration::ZERO, "training").unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("generations")).unwrap().count(), 1);
}

#[test]
fn whatever_fails_a_whole_generation_serves() {
    for fault in [Fault::Full, Fault::Broken, Fault::Dead] {
        for n in 0.. {
            let dir = tempfile::tempdir().unwrap();
            create(dir.path()).commit(&adapter(0)).unwrap();
            let disk = FaultyDisk::new(n, fault);
            let run = || -> Result<u64> {
                let store = Store::create(Arc::new(disk.clone()), dir.path())?.keeping(1);
                let _held = store.lock_training(Duration::ZERO, "training")?;
                store.commit(&adapter(1))
            };
            let outcome = run();
            let store = create(dir.path());
            let current = store.current().unwrap();
            match outcome {
                Ok(number) => assert_eq!((number, current), (2, 2)),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Io, "{e}");
                    assert!(current == 1 || (fault == Fault::Dead && current == 2), "{fault:?} {n}: {current}");
                }
            }
            assert_eq!(store.open_generation(current, None).unwrap().to_adapter(), adapter(current - 1));
            let held = store.lock_training(Duration::ZERO, "training").unwrap();
            let next = store.commit(&adapter(current)).unwrap();
            assert!(next > current);
            drop(held);
            assert_eq!(store.rollback(None).unwrap(), current);
            if disk.operations() <= n {
                break;
            }
        }
    }
}

#[test]
fn names_of_profiles() {
    let home = Path::new("/h");
    assert_eq!(profile_folder(home, "ana-2.b_c").unwrap(), Path::new("/h/profiles/ana-2.b_c"));
    for bad in ["", ".", "..", ".x", "-x", "a/b", "a b", "é", &"x".repeat(65)] {
        assert_eq!(profile_folder(home, bad).unwrap_err().kind(), ErrorKind::Usage);
    }
}

/// A profile with two generations and a journal of one answered question.
fn busy_profile(folder: &Path) -> (Store, Journal) {
    let store = create(folder);
    store.commit(&adapter(0)).unwrap();
    store.commit(&adapter(1)).unwrap();
    let disk = Arc::new(FaultyDisk::counting());
    let (path, lock) = (store.journal_path(), store.journal_lock_path());
    let mut journal = Journal::open(disk, &path, &lock, Duration::ZERO, 1).unwrap();
    for n in 0..3 {
        let text = crate::journal::StoredInput::Text(format!("question {n}"));
        let id = journal.record_interaction(n, text, vec![("a".into(), 0.5)], 0).unwrap();
        journal.record_feedback(id, n, crate::journal::FeedbackKind::Accept).unwrap();
    }
    (store, journal)
}

fn states(store: &Store) -> Vec<State> {
    store.verify(&adapter(0).base).unwrap().iter().map(|f| f.state).collect()
}

#[test]
fn a_sound_profile_is_sound_and_repairing_it_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _journal) = busy_profile(dir.path());
    assert_eq!(states(&store), [State::Sound; 4], "head, two generations, journal");
    assert_eq!(store.repair(&adapter(0).base, 5).unwrap(), []);
    assert!(!store.quarantine_path().exists());
}

#[test]
fn whatever_file_is_damaged_the_rest_is_kept_and_the_damaged_one_quarantined() {
    let base = adapter(0).base;
    for name in ["head", "generations/000001.adapter", "generations/000002.adapter", "journal.log"] {
        let dir = tempfile::tempdir().unwrap();
        let (store, journal) = busy_profile(dir.path());
        drop(journal);
        let file = dir.path().join(name);
        let whole = std::fs::read(&file).unwrap();
        let mut damaged = whole.clone();
        // A byte in each half, as both slots of the head are to be hit.
        for at in [30, whole.len() - 25] {
            damaged[at] ^= 0x40;
        }
        std::fs::write(&file, &damaged).unwrap();
        let before = store.verify(&base).unwrap();
        assert!(before.iter().any(|f| f.state == State::Damaged && f.file == file.display().to_string()), "{before:?}");
        assert_eq!(std::fs::read(&file).unwrap(), damaged, "looking changes nothing");
        let done = store.repair(&base, 5).unwrap();
        assert_eq!(done.len(), 1, "{name}: {done:?}");
        assert_eq!(std::fs::read(&done[0].quarantined).unwrap(), damaged, "{name}");
        assert!(states(&store).iter().all(|s| *s == State::Sound), "{name}: {:?}", store.verify(&base));
        let current = store.current().unwrap();
        assert_eq!(current, if name.ends_with("2.adapter") { 1 } else { 2 }, "{name}");
        assert_eq!(store.open_generation(current, Some(&base)).unwrap().to_adapter(), adapter(current - 1));
        // Of the journal it is its name, and the payload of the third feedback.
        let disk = Arc::new(FaultyDisk::counting());
        let (path, lock) = (store.journal_path(), store.journal_lock_path());
        let journal = Journal::open(disk, &path, &lock, Duration::ZERO, 1).unwrap();
        let kept = (journal.state().interactions(), journal.state().feedback());
        assert_eq!(kept, if name == "journal.log" { (3, 2) } else { (3, 3) }, "{name}");
    }
}

#[test]
fn what_an_interrupted_program_left_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _journal) = busy_profile(dir.path());
    std::fs::write(dir.path().join("generations/.1-2.tmp"), b"left over").unwrap();
    std::fs::copy(dir.path().join("generations/000001.adapter"), dir.path().join("generations/000003.adapter"))
        .unwrap();
    let states = states(&store);
    assert_eq!(states.iter().filter(|s| **s == State::Leftover).count(), 2);
    assert!(!states.contains(&State::Damaged));
    assert_eq!(store.repair(&adapter(0).base, 5).unwrap(), []);
}

#[test]
fn where_every_sync_fails_nothing_is_acknowledged_and_what_served_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let (_, journal) = busy_profile(dir.path());
    let before = (journal.state().interactions(), journal.state().feedback());
    drop(journal);
    let disk = Arc::new(FaultyDisk::new(0, Fault::Unsynced));
    let store = Store::open(disk.clone(), dir.path()).unwrap();
    let (path, lock) = (store.journal_path(), store.journal_lock_path());
    let open = || Journal::open(disk.clone(), &path, &lock, Duration::ZERO, 1);
    let text = || crate::journal::StoredInput::Text("asked of a broken disk".into());
    let mut refused = 0;
    for n in 0..50 {
        let mut journal = open().unwrap();
        journal.set_policy(crate::journal::SyncPolicy::Always);
        refused += usize::from(journal.record_interaction(n, text(), vec![], 0).is_err());
        let id = InteractionId(0);
        refused += usize::from(journal.forget(&HashSet::from([id]), false).is_err());
        let _ = journal.reopen();
        refused += usize::from(journal.record_training(n, None, adapter(0).verdict, 1, 1.0, 0).is_err());
        refused += usize::from(store.commit(&adapter(2)).is_err());
        refused += usize::from(store.rollback(Some(1)).is_err());
        // The active generation is read as before, by whoever asks.
        let (current, _) = store.begin().unwrap_or((store.current().unwrap(), None));
        store.open_generation(current, None).unwrap();
    }
    assert_eq!(refused, 250, "0 false acknowledgements");
    // The disk is sound again: what was acknowledged before is there, and life goes on.
    let store = Store::open(Arc::new(FaultyDisk::counting()), dir.path()).unwrap();
    let mut journal = Journal::open(Arc::new(FaultyDisk::counting()), &path, &lock, Duration::ZERO, 1).unwrap();
    assert!(journal.state().interactions() >= before.0 && journal.state().feedback() >= before.1);
    let id = journal.record_interaction(9, text(), vec![("a".into(), 0.5)], 0).unwrap();
    journal.record_feedback(id, 9, crate::journal::FeedbackKind::Accept).unwrap();
    let current = store.current().unwrap();
    store.commit(&adapter(current)).unwrap();
}

#[test]
fn on_a_full_disk_forgetting_says_what_is_off_and_what_is_not_forgotten() {
    let full = |at: usize| {
        let dir = tempfile::tempdir().unwrap();
        let (store, journal) = busy_profile(dir.path());
        let (path, lock) = (store.journal_path(), store.journal_lock_path());
        drop(journal);
        let disk = Arc::new(FaultyDisk::new(at, Fault::Full));
        let outcome = Store::open(disk.clone(), dir.path()).and_then(|store| {
            let mut journal = Journal::open(disk.clone(), &path, &lock, Duration::ZERO, 1)?;
            store.forget(&mut journal, &Selection::Ids(vec![InteractionId(0)]))
        });
        let left = Journal::read(&RealDisk, &path)
            .unwrap()
            .filter(|r| r.as_ref().is_ok_and(|r| r.interaction() == Some(InteractionId(0))));
        (outcome, numbers(&store), left.count(), store.current().unwrap(), disk.operations())
    };
    let (done, generations, left, serves, operations) = full(usize::MAX);
    assert!(done.is_ok() && generations.is_empty() && left == 0 && serves == 0);
    let mut half = 0;
    for at in 0..operations {
        let (outcome, generations, left, serves, _) = full(at);
        let Err(e) = outcome else { continue };
        assert_eq!(e.kind(), ErrorKind::Io, "{at}: {e:?}");
        let hint = e.next_step().unwrap_or_default();
        if generations.is_empty() {
            half += 1;
            assert_eq!(serves, 0, "{at}");
            assert!(!hint.contains("nothing already stored was changed"), "{at}: {hint}");
        }
        assert!(
            left == 0 || hint.contains("not everything is forgotten yet") || !generations.is_empty(),
            "{at}: {hint}"
        );
    }
    assert!(half > 3, "{half} times the generations were gone and the records were not");
}
