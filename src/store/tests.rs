use super::*;
use crate::adapter::samples::adapter;
use crate::disk::RealDisk;
use crate::disk::faulty::{Fault, FaultyDisk};

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
    let mapped = store.open_generation(3, None).unwrap();
    store.commit(&adapter(5)).unwrap();
    assert_eq!(mapped.to_adapter(), adapter(2), "a mapped generation outlives its file");
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

#[test]
fn a_trial_is_counted_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let first = store.commit(&adapter(0)).unwrap();
    assert_eq!(store.head().unwrap().trial_left, TRIAL);
    assert_eq!(store.served(first, 5).unwrap(), 15);
    assert_eq!(store.served(99, 5).unwrap(), 0, "not the one on trial");
    assert_eq!(store.served(first, 50).unwrap(), 0);
    let sequence = store.head().unwrap().sequence;
    store.served(first, 1).unwrap();
    assert_eq!(store.head().unwrap().sequence, sequence, "a trusted generation costs no write");
    let second = store.commit(&adapter(1)).unwrap();
    store.bless(second).unwrap();
    assert_eq!(store.head().unwrap().trial_left, 0);
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
