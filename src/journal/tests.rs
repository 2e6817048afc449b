use super::*;
use crate::disk::RealDisk;
use crate::error::ErrorKind;

fn open(dir: &Path) -> Result<Journal> {
    let disk = Arc::new(RealDisk);
    Journal::open(disk, &dir.join("journal.log"), &dir.join("journal.lock"), Duration::from_millis(50), 1)
}

#[test]
fn two_handles_take_turns_and_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = open(dir.path()).unwrap();
    let mut b = open(dir.path()).unwrap();
    let mut ids = Vec::new();
    for i in 0..10 {
        let journal = if i % 3 == 0 { &mut a } else { &mut b };
        ids.push(journal.record_interaction(i, StoredInput::Text(format!("q{i}")), vec![], 0).unwrap());
    }
    assert_eq!(ids, (0..10).map(InteractionId).collect::<Vec<_>>());
    assert_eq!(a.record_feedback(ids[9], 20, FeedbackKind::Accept).unwrap(), 1);
    assert_eq!(b.record_feedback(ids[9], 21, FeedbackKind::Reject).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(b.record_feedback(ids[0], 22, FeedbackKind::Reject).unwrap(), 2);
    a.refresh().unwrap();
    assert_eq!(a.state(), b.state());
    assert_eq!(a.input(ids[4]).unwrap(), StoredInput::Text("q4".into()));
}

#[test]
fn a_journal_that_was_rewritten_is_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = open(dir.path()).unwrap();
    a.record_interaction(1, StoredInput::Text("x".into()), vec![], 0).unwrap();
    std::fs::remove_file(dir.path().join("journal.log")).unwrap();
    let mut b = open(dir.path()).unwrap();
    let id = b.record_interaction(2, StoredInput::Text("y".into()), vec![], 0).unwrap();
    a.refresh().unwrap();
    assert_eq!(a.state(), b.state());
    assert_eq!(a.input(id).unwrap(), StoredInput::Text("y".into()));
}

#[test]
fn questions_are_synced_together_or_one_by_one() {
    use crate::disk::simulated::{SimulatedDisk, Step};
    let (path, lock) = (Path::new("home/journal.log"), Path::new("home/journal.lock"));
    for (policy, asked, syncs) in
        [(SyncPolicy::Grouped, 31, 0), (SyncPolicy::Grouped, 70, 2), (SyncPolicy::Always, 5, 5)]
    {
        let disk = SimulatedDisk::default();
        disk.create_dir_all(Path::new("home")).unwrap();
        let counted = |from: usize| disk.log().iter().skip(from).filter(|step| matches!(step, Step::Sync(_))).count();
        let mut journal = Journal::open(Arc::new(disk.clone()), path, lock, Duration::ZERO, 1).unwrap();
        journal.set_policy(policy);
        let before = disk.log().len();
        for n in 0..asked {
            journal.record_interaction(n, StoredInput::Text("x".into()), vec![], 0).unwrap();
        }
        assert_eq!(counted(before), syncs, "{policy:?} {asked}");
        drop(journal);
        let left = usize::from(policy == SyncPolicy::Grouped);
        assert_eq!(counted(before), syncs + left, "closing syncs what is left");
    }
}

#[test]
fn beyond_its_limit_a_journal_drops_old_questions_that_nobody_spoke_about() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).unwrap();
    journal.set_limit(50_000);
    let mut spoken = vec![];
    let mut largest = 0;
    for n in 0..2000u64 {
        let id = journal.record_interaction(n, StoredInput::Text("x".repeat(60)), vec![], 0).unwrap();
        if n % 50 == 0 {
            journal.record_feedback(id, n, FeedbackKind::Accept).unwrap();
            spoken.push(id);
        }
        let all = [dir.path().to_owned(), dir.path().join("journal.segments")];
        let files = all.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten());
        largest = largest.max(files.map(|file| file.unwrap().metadata().unwrap().len()).sum());
    }
    // By as much as one record and its marks, the folder and the lock.
    assert!(largest < 50_000 + 5000, "{largest}");
    let state = journal.state();
    assert!(state.segments().len() <= 10, "{:?}", state.segments());
    assert_eq!(spoken.len(), state.feedback());
    assert!(
        spoken
            .iter()
            .all(|id| { state.feedback_on(*id).unwrap().is_some() && state.interaction(*id).unwrap().is_some() })
    );
    let ids: Vec<u32> = state.all_interactions().map(|i| i.unwrap().id.0).collect();
    assert!(ids.iter().rev().take(ALWAYS_KEPT).copied().eq((2000 - ALWAYS_KEPT as u32..2000).rev()), "the latest stay");
    assert!(ids.len() < 600 && state.interactions() == ids.len(), "the oldest are gone");
    drop(journal);
    let journal = open(dir.path()).unwrap();
    assert_eq!(journal.state().next_id().unwrap(), InteractionId(2000));
}

#[test]
fn a_held_lock_is_busy_and_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = open(dir.path()).unwrap();
    let lock = dir.path().join("journal.lock");
    let held = WriterLock::acquire(&RealDisk, &lock, Duration::ZERO, "a test").unwrap();
    let e = a.record_interaction(1, StoredInput::Text("x".into()), vec![], 0).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Busy);
    drop(held);
    a.record_interaction(1, StoredInput::Text("x".into()), vec![], 0).unwrap();
}
