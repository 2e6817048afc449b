//! What nobody confirmed does not teach: adapters that were trained after many predictions without feedback.
#![cfg(feature = "train")]

mod support;

use std::path::Path;

use acclimate::adapt::Settings;
use acclimate::adapter::{Adapter, Depth};
use acclimate::runtime::TrainOptions;
use acclimate::{Feedback, Home, InitOptions, Session};
use support::{RESTING, asset, inputs, person, teach};

fn home(folder: &Path, distillation: &str) -> Home {
    drop(Home::init(folder.join("home"), &InitOptions::new(asset("har_cnn.onnx"))).unwrap());
    let file = folder.join("home/acclimate.toml");
    let mut text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("distillation"), "the default is not written: {text}");
    text.insert_str(0, &format!("distillation = {distillation}\n"));
    std::fs::write(&file, text).unwrap();
    Home::open(folder.join("home")).unwrap()
}

/// Feedback of person 23 between so many predictions of others' windows that nobody says anything about.
fn lived(session: &Session, unconfirmed: usize) {
    let strangers = person(25);
    let ask = |n: usize| {
        for input in inputs(&strangers, n) {
            session.predict(&input).unwrap();
        }
    };
    ask(unconfirmed / 2);
    teach(session, &person(23), 6);
    ask(unconfirmed - unconfirmed / 2);
}

fn learned(session: &Session, deepest: Depth) -> Adapter {
    let settings = Settings { threads: 2, deepest, ..session.settings() };
    let report = session.train(&TrainOptions::default().settings(settings)).unwrap();
    assert!(report.promoted, "{}", report.verdict.reason);
    session.adapter().unwrap().unwrap()
}

/// Two adapters are the same but for when they were made.
fn assert_same(mut a: Adapter, b: &Adapter) {
    assert!(!a.sites.is_empty() || a.head.is_some());
    a.lineage.created_ms = b.lineage.created_ms;
    assert!(a == *b, "{:?} and {:?}", (&a.lineage, &a.verdict), (&b.lineage, &b.verdict));
}

#[test]
fn without_distillation_a_thousand_unconfirmed_predictions_leave_no_trace() {
    for depth in [Depth::HeadOnly, Depth::LastBlock] {
        let [plain, asked] = [0, 1000].map(|unconfirmed| {
            let folder = tempfile::tempdir().unwrap();
            let session = home(folder.path(), "false").session("p").unwrap();
            lived(&session, unconfirmed);
            learned(&session, depth)
        });
        assert_eq!(plain.verdict.retention_n, 0);
        assert_same(plain, &asked);
    }
}

#[test]
fn with_distillation_they_are_read_and_nothing_else_is_a_class_of_its_own() {
    let [plain, asked] = [0, 300].map(|unconfirmed| {
        let folder = tempfile::tempdir().unwrap();
        let session = home(folder.path(), "true").session("p").unwrap();
        lived(&session, unconfirmed);
        learned(&session, Depth::HeadOnly)
    });
    assert!(asked.verdict.retention_n > 100, "{:?}", asked.verdict);
    assert_eq!((&plain.labels, plain.lineage.examples), (&asked.labels, asked.lineage.examples));
    assert_ne!(plain.head, asked.head, "the switch switches something");
}

/// Class 5 has a name that the base model does not know.
fn named(label: &str) -> Feedback {
    match label {
        "5" => Feedback::NewLabel(RESTING.into()),
        label => Feedback::Label(label.into()),
    }
}

#[test]
fn what_is_replaced_ignored_or_superseded_does_not_teach() {
    let windows = person(23);
    let say = |session: &Session, i: usize, label: &str| {
        let id = session.predict(&windows.input(i).unwrap()).unwrap().id.unwrap();
        session.feedback(id, named(label)).unwrap();
        id
    };
    let rows: Vec<usize> = (0..windows.len()).step_by(4).collect();
    let wrong = |i: usize| if windows.labels()[i] == "0" { "1" } else { "0" };
    // How every seventh label comes to be right, or to be left out.
    let life = |how: &dyn Fn(&Session, usize)| {
        let folder = tempfile::tempdir().unwrap();
        let session = home(folder.path(), "false").session("p").unwrap();
        for (n, &i) in rows.iter().enumerate() {
            if n % 7 == 3 {
                how(&session, i);
            } else {
                say(&session, i, &windows.labels()[i]);
            }
        }
        let settings = Settings { threads: 2, deepest: Depth::HeadOnly, ..session.settings() };
        let report = session.train(&TrainOptions::default().settings(settings)).unwrap();
        assert!(report.promoted, "{}", report.verdict.reason);
        let adapter = session.adapter().unwrap().unwrap();
        (adapter.head.unwrap(), adapter.labels, report.superseded, report.ignored)
    };
    let marked = rows.iter().enumerate().filter(|(n, _)| n % 7 == 3).count();
    let right = life(&|s, i| {
        say(s, i, &windows.labels()[i]);
    });
    let replaced = life(&|s, i| {
        let id = say(s, i, wrong(i));
        s.replace_feedback(id, named(&windows.labels()[i])).unwrap();
    });
    assert_eq!(replaced, right);
    let superseded = life(&|s, i| {
        say(s, i, wrong(i));
        say(s, i, &windows.labels()[i]);
    });
    assert_eq!((&superseded.0, superseded.2), (&right.0, marked));
    let never = life(&|_, _| {});
    let ignored = life(&|s, i| {
        let id = say(s, i, wrong(i));
        s.ignore_feedback(id).unwrap();
    });
    assert_eq!((&ignored.0, &ignored.1, ignored.3), (&never.0, &never.1, marked));
    assert_ne!(ignored.0, right.0);
}
