//! Inputs that are none of the classes, as the journal keeps them.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::disk::RealDisk;

fn open(folder: &Path) -> Journal {
    let at = |name: &str| folder.join(name);
    let wait = Duration::from_secs(5);
    Journal::open(Arc::new(RealDisk), &at("journal.log"), &at("journal.lock"), wait, 1).unwrap()
}

#[test]
fn what_is_said_has_a_place_of_its_own_in_the_format() {
    let kinds = [FeedbackKind::Accept, FeedbackKind::Reject, FeedbackKind::Ignored, FeedbackKind::NoneOfThese];
    assert_eq!(kinds.map(|kind| postcard::to_stdvec(&kind).unwrap()), [[1], [2], [3], [4]]);
}

#[test]
fn answers_and_feedback_are_read_back_from_the_growing_file_and_from_segments() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(folder.path());
    journal.set_segment_size(SegmentSize { records: 20, ..SegmentSize::default() });
    let mut ids = vec![];
    for n in 0..50 {
        let mut top = vec![("cat".to_string(), 0.5)];
        if n % 3 == 0 {
            top.push((NOVEL.into(), 0.01));
        }
        if n % 9 == 0 {
            top.remove(0);
        }
        let id = journal.record_interaction(n, StoredInput::Text(n.to_string()), top, 1).unwrap();
        journal.record_feedback(id, n, FeedbackKind::NoneOfThese).unwrap();
        ids.push(id);
    }
    assert!(!journal.state().segments().is_empty());
    for journal in [journal, open(folder.path())] {
        let state = journal.state();
        for (n, id) in ids.iter().enumerate() {
            let entry = state.interaction(*id).unwrap().unwrap();
            assert_eq!((entry.novel, entry.answer.is_none()), (n % 3 == 0, n % 9 == 0), "{n}");
            assert_eq!(state.feedback_on(*id).unwrap().unwrap().kind, FeedbackKind::NoneOfThese);
        }
        assert_eq!((state.spoken(), state.rejected(), state.ignored()), (50, 0, 0));
        assert!(state.named_labels().is_empty());
    }
}
