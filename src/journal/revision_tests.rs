//! Feedback that is replaced or ignored: what holds in the end, wherever its records stand.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::salvage::{salvage, survey};
use super::*;
use crate::disk::RealDisk;
use crate::error::ErrorKind;

fn question(n: u32) -> Record {
    let (input, top) = (StoredInput::Text(format!("question {n}")), vec![("a".into(), 0.5)]);
    Record::Interaction { id: InteractionId(n), at_ms: n.into(), input, top, generation: 1 }
}

fn label(text: &str) -> FeedbackKind {
    FeedbackKind::Label(text.into())
}

fn said(n: u32, kind: FeedbackKind) -> Record {
    Record::Feedback { id: InteractionId(n), at_ms: 100 + u64::from(n), kind }
}

fn revised(n: u32, kind: FeedbackKind, was: FeedbackKind) -> Record {
    Record::Revision { id: InteractionId(n), at_ms: 200 + u64::from(n), kind, was }
}

/// 0 ends as b, 1 as accepted, 2 rejected, 3 ignored, 4 as c after it was ignored, 5 as it was said.
fn story() -> Vec<Record> {
    let mut records: Vec<Record> = (0..6).map(question).collect();
    records.extend((0..6).map(|n| said(n, if n == 1 { FeedbackKind::Reject } else { label("a") })));
    records.extend([
        revised(0, label("b"), label("a")),
        revised(1, FeedbackKind::Accept, FeedbackKind::Reject),
        revised(4, FeedbackKind::Ignored, label("a")),
        revised(2, FeedbackKind::Reject, label("a")),
        revised(4, label("c"), FeedbackKind::Ignored),
        revised(3, FeedbackKind::Ignored, label("a")),
    ]);
    records
}

/// A journal of `records`, sealed after each of which `seals` is true.
fn written(dir: &Path, records: &[Record], seals: impl Fn(usize) -> bool) -> (PathBuf, JournalWriter) {
    let path = dir.join("journal.log");
    JournalWriter::create(&RealDisk, &path, 5).unwrap();
    let mut writer = JournalWriter::open(Arc::new(RealDisk), &path).unwrap();
    for (n, record) in records.iter().enumerate() {
        writer.append(record.clone()).unwrap();
        if seals(n) {
            writer.seal().unwrap();
        }
    }
    (path, writer)
}

fn check(state: &JournalState) {
    let kinds: Vec<FeedbackKind> = (0..6).map(|n| state.feedback_on(InteractionId(n)).unwrap().unwrap().kind).collect();
    let expected =
        [label("b"), FeedbackKind::Accept, FeedbackKind::Reject, FeedbackKind::Ignored, label("c"), label("a")];
    assert_eq!(kinds, expected);
    assert_eq!((state.feedback(), state.spoken(), state.rejected(), state.ignored()), (12, 6, 1, 1));
    let words = state.last_words(usize::MAX).unwrap();
    assert!(words.iter().map(|w| w.entry.kind.clone()).eq(expected));
    let places: Vec<(usize, usize, u64)> = words.iter().map(|w| (w.first, w.last, w.first_ms)).collect();
    assert_eq!(places, [(0, 6, 100), (1, 7, 101), (2, 9, 102), (3, 11, 103), (4, 10, 104), (5, 5, 105)]);
    let before = state.last_words(9).unwrap();
    assert_eq!((&before[2].entry.kind, &before[4].entry.kind), (&label("a"), &FeedbackKind::Ignored), "a cut");
    for (id, last) in [(0, 6), (4, 10), (5, 5)] {
        let within = |upto| state.was_said_within(InteractionId(id), upto).unwrap();
        assert_eq!((within(last), within(last + 1)), (false, true), "{id}");
    }
    let latest: Vec<(u32, FeedbackKind)> =
        state.latest_feedback_on(1, 4).unwrap().into_iter().map(|s| (s.interaction.id.0, s.kind)).collect();
    let expected = [(0, label("b")), (1, FeedbackKind::Accept), (2, FeedbackKind::Reject), (4, label("c"))];
    assert_eq!(latest, expected, "3 is ignored, and 5 was said before all these");
    assert!(state.latest_unspoken(9).unwrap().is_empty(), "who ignores has spoken");
}

#[test]
fn the_last_word_holds_whatever_the_segments() {
    for every in [usize::MAX, 9, 2, 1] {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut writer) = written(dir.path(), &story(), |n| n % every == every - 1);
        check(writer.state());
        writer.reopen().unwrap();
        check(writer.state());
        let told: Result<Vec<Record>> = Journal::read(&RealDisk, &path).unwrap().collect();
        assert_eq!(told.unwrap(), story());
        let found = survey(&RealDisk, &path).unwrap();
        assert!(found.is_sound(), "{found:?}");
        // All of it goes with its interaction.
        let ids = HashSet::from([InteractionId(1), InteractionId(3), InteractionId(4)]);
        writer.forget(&ids, false).unwrap();
        let state = writer.state();
        assert_eq!((state.feedback(), state.spoken(), state.rejected(), state.ignored()), (5, 3, 1, 0));
    }
}

#[test]
fn what_does_not_revise_what_was_said_last_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_path, mut writer) = written(dir.path(), &story(), |_| false);
    for bad in [
        revised(0, label("c"), label("a")),
        revised(7, label("c"), label("a")),
        said(0, label("b")),
        revised(3, label("c"), label("a")),
    ] {
        assert_eq!(writer.append(bad.clone()).unwrap_err().kind(), ErrorKind::Usage, "{bad:?}");
    }
    writer.reopen().unwrap();
    check(writer.state());
    writer.append(question(6)).unwrap();
    for bad in [said(6, FeedbackKind::Ignored), revised(6, label("a"), label("a"))] {
        assert_eq!(writer.append(bad.clone()).unwrap_err().kind(), ErrorKind::Usage, "{bad:?}");
    }
}

#[test]
fn revising_is_durable_and_says_what_was_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let (path, lock) = (dir.path().join("journal.log"), dir.path().join("journal.lock"));
        Journal::open(Arc::new(RealDisk), &path, &lock, Duration::ZERO, 1).unwrap()
    };
    let (mut one, mut other) = (open(), open());
    let id = one.record_interaction(1, StoredInput::Text("x".into()), vec![("a".into(), 1.0)], 1).unwrap();
    let refused = one.revise_feedback(id, 2, label("b")).unwrap_err();
    assert!(refused.to_string().contains("has no feedback yet"), "{refused}");
    one.record_feedback(id, 2, label("a")).unwrap();
    assert_eq!(one.latest_feedback(1, 64).unwrap().len(), 1);
    assert_eq!(other.revise_feedback(id, 3, label("b")).unwrap(), (label("a"), 2));
    one.refresh().unwrap();
    assert_eq!(one.latest_feedback(1, 64).unwrap()[0].kind, label("b"), "what was read before is read again");
    assert!(one.revise_feedback(id, 4, label("b")).unwrap_err().to_string().contains("says just that already"));
    assert_eq!(one.revise_feedback(id, 5, FeedbackKind::Ignored).unwrap().0, label("b"));
    assert!(one.latest_feedback(1, 64).unwrap().is_empty());
    assert!(one.revise_feedback(id, 6, FeedbackKind::Ignored).unwrap_err().to_string().contains("ignored already"));
    assert_eq!(open().state().feedback_on(id).unwrap().unwrap().was, Some(label("b")));
}

#[test]
fn a_revision_of_what_is_lost_is_kept_as_one_of_what_is_left() {
    // Which record of the story is damaged, and what is left of the feedback on interaction 4, and on 3.
    for (lost, fourth, third, orphaned, mended) in [
        (10, Some(label("c")), Some(FeedbackKind::Ignored), 1, 1),
        (14, Some(label("c")), Some(FeedbackKind::Ignored), 0, 1),
        (9, Some(label("c")), None, 1, 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut writer) = written(dir.path(), &story(), |_| false);
        writer.sync().unwrap();
        drop(writer);
        let frames = FrameReader::open(&RealDisk, &path).unwrap().map(Result::unwrap);
        let at = frames.filter(|f| f.record.is_told()).nth(lost).unwrap().offset as usize;
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at + 21] ^= 0x41;
        std::fs::write(&path, &bytes).unwrap();
        let found = salvage(&RealDisk, &path).unwrap();
        assert_eq!((found.orphaned, found.mended, found.is_sound()), (orphaned, mended, false), "{lost}: {found:?}");
        let state = Journal::load_state(&RealDisk, &path).unwrap();
        let kind = |n| state.feedback_on(InteractionId(n)).unwrap().map(|f| f.kind);
        assert_eq!((kind(4), kind(3)), (fourth, third), "{lost}");
        assert!(survey(&RealDisk, &path).unwrap().is_sound());
    }
}

#[test]
fn the_bytes_are_those_that_the_format_says() {
    let revision = revised(3, FeedbackKind::Ignored, label("on"));
    let bytes = postcard::to_allocvec(&revision).unwrap();
    assert_eq!(bytes, [8, 3, 203, 1, 3, 0, 2, b'o', b'n']);
    assert_eq!(Record::decode(&bytes), Some(revision));
    let revised = record_footer();
    assert_eq!(postcard::to_allocvec(&revised).unwrap().first(), Some(&9));
}

fn record_footer() -> Record {
    let revised = segment::Revised { revisions: 1, ..Default::default() };
    Record::RevisedFooter(Box::default(), revised)
}
