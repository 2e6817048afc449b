//! Inputs that are none of the classes: what is said about them, and what is learned from it.
#![cfg(feature = "train")]

mod support;

use std::path::Path;

use acclimate::adapter::Depth;
use acclimate::input::{LabelledSet, RawInput};
use acclimate::journal::FeedbackKind;
use acclimate::runtime::Filter;
use acclimate::{ErrorKind, Feedback, Home, InitOptions, InteractionId, Session};
use support::{asset, train_to};
use tempfile::TempDir;

/// Sentences of three intents that are taught, and of others that are none of them.
const TAUGHT: [&str; 3] = ["HassGetWeather", "HassStartTimer", "HassMediaNext"];
const OTHERS: [&str; 2] = ["HassBroadcast", "HassVacuumStart"];

fn sentences(part: &str, intent: &str, n: usize) -> Vec<RawInput> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("reference/intents/seed0_{part}.tsv"));
    let text = std::fs::read_to_string(file).unwrap();
    let of = text.lines().filter_map(|l| l.split_once('\t')).filter(|(label, _)| *label == intent);
    of.take(n).map(|(_, sentence)| RawInput::Text(sentence.into())).collect()
}

fn encoder(folder: &TempDir) -> Home {
    let options = InitOptions::new(asset("intents_encoder.onnx")).tokenizer(asset("intents_tokenizer.json"));
    Home::init(folder.path().join("home"), &options).unwrap()
}

fn say(session: &Session, input: &RawInput, said: Feedback) -> InteractionId {
    let id = session.predict(input).unwrap().id.unwrap();
    session.feedback(id, said).unwrap();
    id
}

/// Teaches the intents in turn, and of every round one sentence that is none of them, up to `nones`.
fn teach(session: &Session, nones: usize) {
    let taught = TAUGHT.map(|intent| sentences("train", intent, 8));
    let others: Vec<RawInput> = OTHERS.iter().flat_map(|intent| sentences("train", intent, 8)).collect();
    for round in 0..8 {
        for (intent, of) in TAUGHT.iter().zip(&taught) {
            say(session, &of[round], Feedback::NewLabel(intent.to_string()));
        }
        if round < nones {
            say(session, &others[2 * round], Feedback::NoneOfThese);
        }
    }
}

fn answered_none(session: &Session, intent: &str) -> usize {
    let none = |input: &RawInput| session.predict(input).unwrap().top[0].none;
    sentences("test", intent, 20).iter().filter(|i| none(i)).count()
}

#[test]
fn from_eight_on_they_are_a_class_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let session = encoder(&folder).session("p").unwrap();
    teach(&session, 8);
    train_to(&session, Depth::HeadOnly);
    assert_eq!(session.labels().iter().filter(|l| *l == "none of these").count(), 1);
    let (others, own) = (OTHERS.map(|i| answered_none(&session, i)), TAUGHT.map(|i| answered_none(&session, i)));
    assert!(others.iter().all(|n| *n >= 15), "{others:?} of 20 were none");
    assert!(own.iter().all(|n| *n <= 2), "{own:?} of 20 were none");

    // It is shown by a name, and it is not a class that somebody could name.
    let answer = session.predict(&sentences("test", OTHERS[0], 1)[0]).unwrap();
    assert_eq!((answer.label(), answer.top[0].none), (Some("none of these"), true));
    assert!(answer.top[1..].iter().all(|s| !s.none));
    assert!(!session.known_labels().iter().any(|l| l.contains("none of these")));
    // An answer that says so may be accepted: one more of them.
    session.feedback(answer.id.unwrap(), Feedback::Accept).unwrap();
    train_to(&session, Depth::HeadOnly);
    assert!(answered_none(&session, OTHERS[1]) >= 15);
}

#[test]
fn with_fewer_they_say_what_their_inputs_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let session = encoder(&folder).session("p").unwrap();
    teach(&session, 0);
    train_to(&session, Depth::HeadOnly);
    let odd = sentences("train", OTHERS[0], 7);
    let before: Vec<(String, f32)> = odd.iter().map(|i| session.predict(i).unwrap()).map(first).collect();
    for input in &odd {
        say(&session, input, Feedback::NoneOfThese);
    }
    // A training asks for something to compare with: one more label.
    say(&session, &sentences("test", TAUGHT[0], 1)[0], Feedback::Label(TAUGHT[0].into()));
    train_to(&session, Depth::HeadOnly);
    assert_eq!(session.labels().len(), 3, "{:?}", session.labels());
    let p = |input: &RawInput, label: &str| {
        let top = session.predict_top(input, 9).unwrap().top;
        top.iter().find(|s| s.label == label).map(|s| s.p).unwrap()
    };
    let less = odd.iter().zip(&before).filter(|(input, (label, before))| p(input, label) < *before).count();
    assert_eq!(less, 7, "what was answered is less probable for each");
    // The eighth makes them a class.
    say(&session, &sentences("train", OTHERS[1], 1)[0], Feedback::NoneOfThese);
    train_to(&session, Depth::HeadOnly);
    assert_eq!(session.labels().len(), 4);
}

fn first(answer: acclimate::Answer) -> (String, f32) {
    (answer.top[0].label.clone(), answer.top[0].p)
}

/// Beside a single class a rejection says nothing, and the loss refuses it.
#[test]
fn beside_a_single_class_they_are_the_other_one() {
    let folder = tempfile::tempdir().unwrap();
    let session = encoder(&folder).session("p").unwrap();
    let (yes, no) = (sentences("train", TAUGHT[0], 8), sentences("train", OTHERS[1], 5));
    for (i, input) in yes.iter().enumerate() {
        say(&session, input, Feedback::NewLabel("weather".into()));
        if let Some(input) = no.get(i) {
            say(&session, input, Feedback::NoneOfThese);
        }
    }
    session.train(&acclimate::TrainOptions::default()).unwrap();
    let settings = acclimate::adapt::Settings { deepest: Depth::HeadOnly, ..session.settings() };
    session.train(&acclimate::TrainOptions::default().settings(settings)).unwrap();
}

#[test]
fn a_class_that_a_person_calls_so_is_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let session = encoder(&folder).session("p").unwrap();
    teach(&session, 8);
    for input in sentences("train", "HassPauseTimer", 8) {
        say(&session, &input, Feedback::NewLabel("none of these".into()));
    }
    train_to(&session, Depth::HeadOnly);
    assert_eq!(session.labels().iter().filter(|l| *l == "none of these").count(), 2);
    let mine = session.predict(&sentences("train", "HassPauseTimer", 1)[0]).unwrap();
    let none = session.predict(&sentences("train", OTHERS[0], 1)[0]).unwrap();
    assert_eq!((mine.label(), mine.top[0].none), (Some("none of these"), false));
    assert_eq!((none.label(), none.top[0].none), (Some("none of these"), true));
    assert!(session.known_labels().iter().any(|l| l == "none of these"));
}

#[test]
fn they_can_be_listed_replaced_ignored_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let home = encoder(&folder);
    let session = home.session("p").unwrap();
    let input = sentences("train", OTHERS[0], 1).remove(0);
    let id = say(&session, &input, Feedback::NoneOfThese);
    let e = session.feedback(id, Feedback::NoneOfThese).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Usage);
    let kind = |session: &Session| {
        let listed = session.interactions(&Filter::default()).unwrap().interactions;
        listed.first().and_then(|i| i.feedback.clone()).map(|f| f.kind)
    };
    let by_label = Filter { label: Some("none of these".into()), ..Filter::default() };
    assert_eq!(kind(&session), Some(FeedbackKind::NoneOfThese));
    assert_eq!(session.interactions(&by_label).unwrap().interactions.len(), 1);
    session.replace_feedback(id, Feedback::NewLabel("broadcast".into())).unwrap();
    assert_eq!(kind(&session), Some(FeedbackKind::Label("broadcast".into())));
    session.replace_feedback(id, Feedback::NoneOfThese).unwrap();
    drop(session);
    let session = home.session("p").unwrap();
    assert_eq!(kind(&session), Some(FeedbackKind::NoneOfThese), "after it was read back");
    session.ignore_feedback(id).unwrap();
    assert_eq!(kind(&session), Some(FeedbackKind::Ignored));
    assert!(Home::verify(home.path()).unwrap().is_sound());
    session.forget(&acclimate::Selection::Ids(vec![id])).unwrap();
    assert_eq!(kind(&session), None);
}

/// The base's own classes are confirmed, and movements that are none of them come by.
#[test]
fn a_classifier_learns_what_is_none_of_its_classes() {
    let folder = tempfile::tempdir().unwrap();
    let session = support::home(&folder).session("p").unwrap();
    let known = support::person(23);
    let all = LabelledSet::read(asset("hapt_users_23_26.npz")).unwrap();
    let other: Vec<usize> = (0..all.len()).filter(|&i| all.labels()[i].parse::<usize>().unwrap() >= 6).collect();
    assert!(other.len() > 40, "{}", other.len());
    let mut movements = other.iter().step_by(2);
    for i in (0..known.len()).step_by(3) {
        say(&session, &known.input(i).unwrap(), Feedback::Label(known.labels()[i].clone()));
        if let Some(movement) = movements.next() {
            say(&session, &all.input(*movement).unwrap(), Feedback::NoneOfThese);
        }
    }
    train_to(&session, Depth::HeadOnly);
    let is_none = |input: RawInput| session.predict(&input).unwrap().none;
    let of = other.len() / 2;
    let found = other.iter().skip(1).step_by(2).filter(|i| is_none(all.input(**i).unwrap())).count();
    let asked = (1..known.len()).step_by(3);
    let (n, wrong) = (asked.len(), asked.filter(|&i| is_none(known.input(i).unwrap())).count());
    assert!(3 * found > 2 * of && 25 * wrong < n, "{found} of {of} found, {wrong} of {n} wrongly");
}

/// The same home with another rate.
fn at_rate(home: &Home, rate: &str) -> Home {
    let file = home.path().join("acclimate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let rest: Vec<&str> = text.lines().filter(|line| !line.starts_with("none_rate")).collect();
    std::fs::write(&file, format!("none_rate = {rate}\n{}\n", rest.join("\n"))).unwrap();
    Home::open(home.path()).unwrap()
}

#[test]
fn what_is_unlike_all_that_is_known_is_answered_so() {
    let folder = tempfile::tempdir().unwrap();
    let home = encoder(&folder);
    let session = home.session("p").unwrap();
    teach(&session, 0);
    train_to(&session, Depth::HeadOnly);
    let known = session.adapter().unwrap().unwrap().known.unwrap();
    assert_eq!((known.classes.len(), known.scores.len()), (3, 24));
    let odd = sentences("test", OTHERS[0], 1).remove(0);
    let usual = session.predict(&odd).unwrap();
    assert!(!usual.none && usual.familiarity.is_none(), "it is off unless a home asks for it: {usual:?}");
    drop(session);

    let session = at_rate(&home, "0.1").session("p").unwrap();
    let nones = |intent: &str| {
        let of = sentences("test", intent, 40);
        of.iter().filter(|input| session.predict(input).unwrap().none).count()
    };
    let others = ["HassBroadcast", "HassListAddItem", "HassMediaSearchAndPlay"].map(nones);
    let own = TAUGHT.map(nones);
    assert!(others.iter().all(|n| *n > 30), "{others:?} of 40 each were none");
    assert!(own.iter().sum::<usize>() < 24, "{own:?} of 40 each were none");
    let answer = session.predict(&odd).unwrap();
    assert_eq!((answer.none, &answer.top), (true, &usual.top), "what it would be otherwise stays");
    assert!(answer.familiarity.unwrap() <= 0.1 && !answer.top[0].none);

    // The base model has nothing to compare with.
    session.rollback(Some(0)).unwrap();
    let base = session.predict(&odd).unwrap();
    assert!(!base.none && base.familiarity.is_none());
    drop(session);
    let file = home.path().join("acclimate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("none_rate = 0.1", "none_rate = 0.7")).unwrap();
    assert_eq!(Home::open(home.path()).unwrap_err().kind(), ErrorKind::BadData);
}

#[test]
fn an_answer_of_none_may_be_accepted_or_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let session = encoder(&folder).session("p").unwrap();
    teach(&session, 0);
    train_to(&session, Depth::HeadOnly);
    drop(session);
    let home = at_rate(&Home::open(folder.path().join("home")).unwrap(), "0.1");
    let session = home.session("p").unwrap();
    let novel: Vec<InteractionId> = OTHERS
        .iter()
        .flat_map(|intent| sentences("test", intent, 40))
        .filter_map(|input| session.predict(&input).ok().filter(|a| a.none).and_then(|a| a.id))
        .take(10)
        .collect();
    assert_eq!(novel.len(), 10);
    // Read back by another session.
    drop(session);
    let session = home.session("p").unwrap();
    let (accepted, rejected) = novel.split_at(8);
    for id in accepted {
        session.feedback(*id, Feedback::Accept).unwrap();
    }
    for id in rejected {
        session.feedback(*id, Feedback::Reject).unwrap();
    }
    let by_label = Filter { label: Some("none of these".into()), ..Filter::default() };
    let listed = session.interactions(&by_label).unwrap().interactions;
    assert!(listed.iter().all(|i| i.none));
    assert_eq!(listed.iter().filter(|i| i.feedback.is_some()).count(), 8);
    // Eight that were accepted are a class.
    train_to(&session, Depth::HeadOnly);
    assert_eq!(session.labels().len(), 4);
    let known = session.adapter().unwrap().unwrap().known.unwrap();
    assert_eq!(known.classes.len(), 3, "what is none of the classes is not what is known");
}

#[test]
fn little_that_is_known_says_nothing_of_what_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let home = at_rate(&encoder(&folder), "0.2");
    let session = home.session("p").unwrap();
    for (intent, round) in [0, 1, 2, 3, 4].into_iter().flat_map(|r| TAUGHT.iter().map(move |i| (i, r))) {
        say(&session, &sentences("train", intent, 8)[round], Feedback::NewLabel(intent.to_string()));
    }
    train_to(&session, Depth::HeadOnly);
    assert_eq!(session.adapter().unwrap().unwrap().known, None, "15 are too few");
    let answer = session.predict(&sentences("test", OTHERS[0], 1)[0]).unwrap();
    assert!(!answer.none && answer.familiarity.is_none());
}
