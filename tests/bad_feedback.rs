//! Feedback as people give it: all of one class, contradictory, in the wrong order, hardly any, and by people who
//! change their mind. What a training makes of it, and what it says.
#![cfg(all(feature = "cli", feature = "train"))]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use acclimate::adapter::Depth;
use acclimate::input::ArrayData;
use acclimate::journal::InteractionId;
use acclimate::runtime::{Filter, Flag};
use acclimate::{Feedback, Home, InitOptions, Input, Session, TrainOptions, TrainReport};
use assert_cmd::Command;
use serde_json::Value;
use support::{INTENTS, asset, home, inputs, intents, person, train, train_to};

fn program(args: &[&str]) -> String {
    let out = Command::cargo_bin("acclimate").unwrap().args(args).assert().success().get_output().stdout.clone();
    String::from_utf8(out).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&program(&[&["--json"], args].concat())).unwrap()
}

fn texts(folder: &Path) -> Home {
    let init = InitOptions::new(asset("intents_encoder.onnx")).tokenizer(asset("intents_tokenizer.json"));
    Home::init(folder.join("home"), &init).unwrap()
}

fn say(session: &Session, input: &Input, label: &str) -> InteractionId {
    let id = session.predict(input).unwrap().id.unwrap();
    session.feedback(id, Feedback::NewLabel(label.into())).unwrap();
    id
}

fn heads(session: &Session) -> TrainReport {
    let settings = acclimate::adapt::Settings { deepest: Depth::HeadOnly, ..session.settings() };
    session.train(&TrainOptions::default().settings(settings)).unwrap()
}

/// Share of `rows` that are answered as `means` says.
fn right(session: &Session, rows: &[(String, String)], means: impl Fn(&str) -> String) -> f64 {
    let answered = |text: &str| session.predict(&Input::Text(text.into())).unwrap().label().unwrap().to_string();
    let n = rows.iter().filter(|(label, text)| answered(text) == means(label)).count();
    n as f64 / rows.len() as f64
}

/// The first two of [`INTENTS`] the other way round.
fn turned(label: &str) -> String {
    let other = match INTENTS.iter().position(|i| *i == label) {
        Some(0) => INTENTS[1],
        Some(1) => INTENTS[0],
        _ => label,
    };
    other.into()
}

fn as_it_is(label: &str) -> String {
    label.into()
}

/// Sentences in the order of time: all intents in turn by chance.
#[allow(clippy::type_complexity)]
fn lived() -> (Vec<(String, String)>, Vec<(String, String)>) {
    let rows = intents("test", 44);
    let mut seen = std::collections::HashMap::new();
    rows.into_iter().partition(|(label, _)| {
        let n: &mut usize = seen.entry(label.clone()).or_default();
        *n += 1;
        *n <= 28
    })
}

#[test]
fn labels_that_swap_their_meaning_half_way_are_seen_and_the_newer_wins() {
    let folder = tempfile::tempdir().unwrap();
    let session = texts(folder.path()).session("default").unwrap();
    let (taught, judged) = lived();
    let half = taught.len() / 2;
    let ids: Vec<InteractionId> =
        taught[..half].iter().map(|(label, text)| say(&session, &Input::Text(text.clone()), label)).collect();
    let before = train_to(&session, Depth::HeadOnly);
    assert!(before.swaps().is_empty() && right(&session, &judged, as_it_is) > 0.9);
    // From now on the weather is what was a timer, and the other way round.
    let newer: Vec<InteractionId> =
        taught[half..].iter().map(|(label, text)| say(&session, &Input::Text(text.clone()), &turned(label))).collect();
    let report = train_to(&session, Depth::HeadOnly);
    let [swapped] = report.swaps() else { panic!("{:?}", report.swaps()) };
    let mut labels = [swapped.labels.0.as_str(), swapped.labels.1.as_str()];
    labels.sort_unstable();
    assert_eq!(labels, [INTENTS[0], INTENTS[1]]);
    // Since then, but for a few items at the border.
    assert!(swapped.since.0.abs_diff(newer[0].0) < 12, "{swapped:?}, {}", newer[0]);
    let of_them = |label: &str| label == INTENTS[0] || label == INTENTS[1];
    let older = taught[..half].iter().filter(|(label, _)| of_them(label)).count();
    assert!(swapped.left_out.len().abs_diff(older) < 6, "{} and {older}", swapped.left_out.len());
    assert_eq!(report.held().unwrap().1, taught.len() - swapped.left_out.len());
    let accuracy = right(&session, &judged, turned);
    assert!(accuracy > 0.9, "{accuracy}");

    // The program says so, and which feedback it is that teaches nothing.
    let filter = Filter { flags: vec![Flag::Superseded], ..Filter::default() };
    let mut listed: Vec<InteractionId> =
        session.interactions(&filter).unwrap().interactions.iter().map(|i| i.id).collect();
    listed.sort_unstable();
    assert_eq!(listed, swapped.left_out);
    assert!(ids.contains(&listed[0]));
    drop(session);
    let home = folder.path().join("home").display().to_string();
    let told = program(&["train", &home]);
    let line = told.lines().find(|l| l.contains("swap their meaning")).unwrap_or_else(|| panic!("{told}"));
    let left_out = format!("{} feedback items", swapped.left_out.len());
    assert!(INTENTS[..2].iter().all(|i| line.contains(i)) && line.contains(&left_out), "{line}");
    let told = json(&["train", &home]);
    assert_eq!(told["swapped"][0]["left_out"], swapped.left_out.len(), "{told}");
    assert_eq!(told["swapped"][0]["since"], swapped.since.to_string(), "{told}");
}

#[test]
fn nobody_who_kept_to_their_labels_is_said_to_have_swapped_them() {
    let folder = tempfile::tempdir().unwrap();
    let session = texts(folder.path()).session("default").unwrap();
    // One in five is wrong all the time.
    for (n, (label, text)) in lived().0.iter().enumerate() {
        let said = if n % 5 == 4 { turned(label) } else { label.clone() };
        say(&session, &Input::Text(text.clone()), &said);
    }
    assert!(heads(&session).swaps().is_empty());
}

#[test]
fn the_base_models_own_classes_may_swap_too() {
    // Windows of one person in an order without pattern: level walking and standing.
    let swap = |label: &str| match label {
        "0" => "4".to_string(),
        "4" => "0".to_string(),
        other => other.to_string(),
    };
    let set = person(23);
    let order: Vec<usize> = (0..set.len()).map(|i| i * 220 % set.len()).collect();
    let life = |swaps: bool| {
        let folder = tempfile::tempdir().unwrap();
        let session = home(&folder).session("p").unwrap();
        for (n, &i) in order[..180].iter().enumerate() {
            let label = &set.labels()[i];
            let said = if swaps && n >= 90 { swap(label) } else { label.clone() };
            let id = session.predict(&set.input(i).unwrap()).unwrap().id.unwrap();
            session.feedback(id, Feedback::Label(said)).unwrap();
        }
        let report = session.train(&TrainOptions::default()).unwrap();
        let mut agree = 0;
        for &i in &order[180..260] {
            let answer = session.predict(&set.input(i).unwrap()).unwrap();
            let means = if swaps { swap(&set.labels()[i]) } else { set.labels()[i].clone() };
            agree += usize::from(answer.label() == Some(&means));
        }
        (report, agree)
    };
    let (report, agree) = life(true);
    let [swapped] = report.swaps() else { panic!("{:?}", report.swaps()) };
    assert_eq!(swapped.labels, ("0".into(), "4".into()));
    assert!(report.promoted && agree >= 72, "{agree} of 80: {} {:?}", report.verdict.reason, report.tried);
    assert!(life(false).0.swaps().is_empty());
}

#[test]
fn feedback_of_one_class_only_is_said_to_show_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let session = texts(folder.path()).session("default").unwrap();
    let sentences = intents("train", 8);
    for (_, text) in sentences.iter().take(8) {
        say(&session, &Input::Text(text.clone()), "music");
    }
    assert_eq!(heads(&session).only_label.as_deref(), Some("music"));
    drop(session);
    let home = folder.path().join("home").display().to_string();
    let told = program(&["train", &home]);
    assert!(told.contains("all feedback says music: nothing shows what is not"), "{told}");
    assert_eq!(json(&["train", &home])["only_label"], "music");
    // One other, and it is no longer so.
    let session = Home::open(&home).unwrap().session("default").unwrap();
    say(&session, &Input::Text("what is the weather like".into()), "weather");
    assert_eq!(heads(&session).only_label, None);
}

#[test]
fn all_of_one_class_does_not_take_the_base_models_other_answers() {
    let folder = tempfile::tempdir().unwrap();
    let session = home(&folder).session("p").unwrap();
    let (set, others) = (person(23), person(25));
    for i in (0..set.len()).step_by(8) {
        let id = session.predict(&set.input(i).unwrap()).unwrap().id.unwrap();
        session.feedback(id, Feedback::Label("3".into())).unwrap();
    }
    let report = session.train(&TrainOptions::default()).unwrap();
    assert_eq!(report.only_label.as_deref(), Some("3"));
    let answer = |i: &Input| session.predict(i).unwrap().label().unwrap().to_string();
    let base = |i: &Input| session.evaluate(std::slice::from_ref(i), true, 1).unwrap().unwrap();
    let sure = inputs(&others, 40).into_iter().filter(|i| base(i).iter().any(|p| *p > 0.99));
    let changed = sure.filter(|i| answer(i) == "3" && base(i)[[0, 3]] < 0.5).count();
    assert!(!report.promoted || changed <= 4, "{changed}: {}", report.verdict.reason);
}

#[test]
fn contradicting_labels_of_one_input_count_once_and_of_nearly_one_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let session = home(&folder).session("default").unwrap();
    let set = person(23);
    let label = |i: usize, label: &str| {
        let id = session.predict(&set.input(i).unwrap()).unwrap().id.unwrap();
        session.feedback(id, Feedback::Label(label.into())).unwrap();
    };
    for i in (0..set.len()).step_by(6) {
        label(i, &set.labels()[i]);
    }
    // Window 0 is said to be three other things, and once more what it is; a hair beside it, a fourth thing.
    let (truth, others): (&str, Vec<&str>) = {
        let truth = set.labels()[0].as_str();
        (truth, ["0", "1", "2", "3", "4", "5"].into_iter().filter(|l| *l != truth).collect())
    };
    others[..3].iter().chain([&truth]).for_each(|l| label(0, l));
    let Input::Arrays(mut arrays) = set.input(0).unwrap() else { panic!("arrays") };
    let ArrayData::F32(values) = &mut arrays[0].data else { panic!("floats") };
    values.iter_mut().for_each(|v| *v *= 1.0001);
    let id = session.predict(&Input::Arrays(arrays)).unwrap().id.unwrap();
    session.feedback(id, Feedback::Label(others[3].into())).unwrap();
    let report = heads(&session);
    assert_eq!(report.superseded, 3, "what was said first agrees with what was said last");
    assert!((3..12).contains(&report.contradicting), "{}", report.contradicting);
    drop(session);
    let home = folder.path().join("home").display().to_string();
    let told = program(&["train", &home]);
    assert!(told.contains("newer feedback on the same input says otherwise (superseded)"), "{told}");
    assert!(told.contains("on nearly the same inputs say different classes"), "{told}");
    assert!(told.contains("--flag contradicts"), "{told}");
}

#[test]
fn the_last_word_counts_whatever_it_is_about_and_the_order_of_feedback_is_the_order_of_time() {
    let set = person(23);
    let rows: Vec<usize> = (0..set.len()).step_by(4).collect();
    let life = |backwards: bool| {
        let folder = tempfile::tempdir().unwrap();
        let session = home(&folder).session("p").unwrap();
        let ask = |i: usize| session.predict(&set.input(i).unwrap()).unwrap().id.unwrap();
        let mut asked: Vec<(usize, InteractionId)> = rows.iter().map(|&i| (i, ask(i))).collect();
        // The first window is asked again; what is said last is about the first time.
        let again = ask(rows[0]);
        session.feedback(again, Feedback::Label("5".into())).unwrap();
        if backwards {
            asked.reverse();
        }
        for &(i, id) in &asked {
            session.feedback(id, Feedback::Label(set.labels()[i].clone())).unwrap();
        }
        let report = train(&session, 2);
        assert_eq!((report.superseded, report.held().unwrap().1, report.swapped().count()), (1, rows.len(), 0));
        let filter = Filter { flags: vec![Flag::Superseded], ..Filter::default() };
        assert_eq!(session.interactions(&filter).unwrap().interactions[0].id, again);
        let right = |i: &usize| session.predict(&set.input(*i).unwrap()).unwrap().label() == Some(&set.labels()[*i]);
        let odd: Vec<usize> = (2..set.len()).step_by(4).collect();
        odd.iter().filter(|i| right(i)).count() as f64 / odd.len() as f64
    };
    let (forwards, backwards) = (life(false), life(true));
    assert!(forwards > 0.9 && backwards > 0.9, "{forwards} {backwards}");
}

#[test]
fn ten_thousand_interactions_and_one_correction() {
    let folder = tempfile::tempdir().unwrap();
    let session = home(&folder).session("default").unwrap();
    let windows: Vec<Input> = inputs(&person(25), 100);
    let mut seventh = None;
    for n in 0..10_000 {
        let id = session.predict(&windows[n % windows.len()]).unwrap().id;
        seventh = if n == 7000 { id } else { seventh };
    }
    session.flush().unwrap();
    drop(session);
    let home = folder.path().join("home").display().to_string();
    let within = |what: &str, args: &[&str]| {
        let started = Instant::now();
        let told = json(args);
        // Tens of milliseconds on an idle machine.
        assert!(started.elapsed() < Duration::from_secs(20), "{what} took {:?}", started.elapsed());
        told
    };
    let id = seventh.unwrap().to_string();
    assert_eq!(within("feedback", &["feedback", &home, &id, "--label", "3"])["waiting"], 1);
    let told = within("train", &["train", &home]);
    assert_eq!(told["promoted"], false);
    assert_eq!(told["reason"], "1 answer is known; 7 more before the first training");
    assert_eq!(within("status", &["status", &home])["interactions"], 10_000);
    let listed = within("interactions", &["interactions", &home, "--limit", "5"]);
    assert_eq!(listed.as_array().unwrap().len(), 5);
    let listed = within("interactions", &["interactions", &home, "--with-feedback"]);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["id"]), (1, &Value::from(id)));
}
