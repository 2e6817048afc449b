//! Corrections hold: after every promotion each input that somebody spoke about is answered as was said, or the report
//! of the training names it and says why; also after a rollback, a rollback forward, and the next promotion.
#![cfg(feature = "train")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use acclimate::journal::InteractionId;
use acclimate::runtime::{Filter, Flag, TrainReport};
use acclimate::{Feedback, Input, LabelledSet, Session};
use support::{home, person, train};

/// What was said about an input.
struct Said {
    input: Input,
    feedback: Feedback,
    /// The answer that it was said about.
    about: String,
}

impl Said {
    fn agrees(&self, answer: &str) -> bool {
        match &self.feedback {
            Feedback::Label(label) | Feedback::NewLabel(label) => label == answer,
            Feedback::Accept => self.about == answer,
            Feedback::Reject => self.about != answer,
            other => panic!("{other:?}"),
        }
    }
}

type AllSaid = BTreeMap<InteractionId, Said>;

/// Speaks about windows `rows`: every seventh is called something else, as a slip; of the others a right answer is
/// accepted, and of two wrong ones one is only rejected.
fn speak(session: &Session, set: &LabelledSet, rows: impl Iterator<Item = usize>, said: &mut AllSaid) {
    for i in rows {
        let input = set.input(i).unwrap();
        let answer = session.predict(&input).unwrap();
        let (id, about) = (answer.id.unwrap(), answer.label().unwrap().to_string());
        let truth = set.labels()[i].as_str();
        let feedback = match said.len() {
            n if n % 7 == 6 => Feedback::Label(if truth == "0" { "4" } else { "0" }.into()),
            n if about != truth && n % 2 == 0 => Feedback::Reject,
            _ if about == truth => Feedback::Accept,
            _ => Feedback::Label(truth.into()),
        };
        session.feedback(id, feedback.clone()).unwrap();
        said.insert(id, Said { input, feedback, about });
    }
}

/// Predicts everything again: what `report` calls held is, and what it names is answered as it says.
#[track_caller]
fn assert_held(session: &Session, said: &AllSaid, report: &TrainReport) {
    let found = report.corrections().unwrap();
    let named: BTreeMap<InteractionId, _> = found.not_held.iter().map(|n| (n.id, n)).collect();
    assert_eq!((found.of, found.held + named.len()), (said.len(), said.len()));
    for (id, said) in said {
        let answer = session.predict(&said.input).unwrap();
        assert_eq!(answer.generation, report.generation);
        let label = answer.label().unwrap();
        match named.get(id) {
            None => assert!(said.agrees(label), "{id}: {:?} of {}, answered {label}", said.feedback, said.about),
            Some(n) => {
                assert!(!said.agrees(label) && n.answer.label == label, "{n:?}, answered {label}");
                assert!((n.answer.p - answer.top[0].p).abs() < 1e-5 && !n.reason.is_empty(), "{n:?}");
            }
        }
    }
    let plain: Vec<InteractionId> = report.not_held().map(|(id, _)| id).collect();
    assert_eq!((report.held(), plain), (Some((found.held, found.of)), named.into_keys().collect()));
}

fn flagged(session: &Session) -> BTreeSet<InteractionId> {
    let filter = Filter { flags: vec![Flag::NotHeld], ..Filter::default() };
    session.interactions(&filter).unwrap().interactions.iter().map(|i| i.id).collect()
}

fn named(report: &TrainReport) -> BTreeSet<InteractionId> {
    report.not_held().map(|(id, _)| id).collect()
}

/// [`AllSaid`] up to now, without what came after.
fn before(said: &AllSaid, end: InteractionId) -> AllSaid {
    let copy = |s: &Said| Said { input: s.input.clone(), feedback: s.feedback.clone(), about: s.about.clone() };
    said.iter().filter(|(id, _)| **id < end).map(|(id, s)| (*id, copy(s))).collect()
}

#[test]
fn corrections_survive_retraining_rollback_and_the_next_promotion() {
    let folder = tempfile::tempdir().unwrap();
    let session = home(&folder).session("p").unwrap();
    let set = person(23);
    let mut said = AllSaid::new();

    speak(&session, &set, (0..set.len()).step_by(4), &mut said);
    let first = train(&session, 2);
    let first_end = session.flush().unwrap();
    eprintln!("{} of {} hold: {:?}", first.held().unwrap().0, said.len(), first.not_held().collect::<Vec<_>>());
    assert_held(&session, &said, &first);
    assert_eq!(flagged(&session), named(&first));

    speak(&session, &set, (2..set.len()).step_by(8), &mut said);
    let second = train(&session, 2);
    eprintln!("{} of {} hold: {:?}", second.held().unwrap().0, said.len(), second.not_held().collect::<Vec<_>>());
    assert!(!named(&second).is_empty(), "the slips are too odd to be learned, so this tests something");
    assert_held(&session, &said, &second);
    assert_eq!(flagged(&session), named(&second));

    // Back: what the first generation learned holds as it did.
    assert_eq!(session.rollback(Some(1)).unwrap(), 1);
    assert_held(&session, &before(&said, first_end), &first);
    assert!(flagged(&session).is_empty(), "that was about another generation");
    // Forward, and back again.
    session.rollback(Some(2)).unwrap();
    assert_held(&session, &said, &second);
    assert_eq!(flagged(&session), named(&second));
    session.rollback(Some(1)).unwrap();

    // The next promotion has everything that was said, also while another generation was active.
    speak(&session, &set, (1..set.len()).step_by(8), &mut said);
    let third = train(&session, 2);
    assert_eq!(third.generation, 3);
    eprintln!("{} of {} hold: {:?}", third.held().unwrap().0, said.len(), third.not_held().collect::<Vec<_>>());
    assert_held(&session, &said, &third);
    assert_eq!(flagged(&session), named(&third));

    // What is not said any more is not flagged.
    let id = *named(&third).first().unwrap();
    session.ignore_feedback(id).unwrap();
    assert!(!flagged(&session).contains(&id));
}

#[test]
fn what_is_superseded_or_ignored_is_no_correction_and_nothing_is_said_without_a_promotion() {
    let folder = tempfile::tempdir().unwrap();
    let session = home(&folder).session("p").unwrap();
    let set = person(23);
    let say = |i: usize, label: &str| {
        let id = session.predict(&set.input(i).unwrap()).unwrap().id.unwrap();
        session.feedback(id, Feedback::Label(label.into())).unwrap();
        id
    };
    let rows: Vec<usize> = (0..set.len()).step_by(4).collect();
    let (superseded, ignored) = (say(rows[3], "5"), say(1, "5"));
    session.ignore_feedback(ignored).unwrap();
    let early = session.train(&Default::default()).unwrap();
    assert_eq!((early.promoted, early.held(), early.not_held().count()), (false, None, 0));
    for &i in &rows {
        say(i, &set.labels()[i]);
    }
    let report = train(&session, 2);
    let of = report.held().unwrap().1;
    assert_eq!((of, report.superseded, report.ignored), (rows.len(), 1, 1));
    assert!(!named(&report).contains(&superseded) && !named(&report).contains(&ignored));
}
