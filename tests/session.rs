//! A session in use: swaps under load, merged serving, strangers' adapters, and training that repeats itself.
#![cfg(feature = "train")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use acclimate::adapter::Depth;
use acclimate::{ErrorKind, Feedback, Home, InitOptions, Session};
use prost::Message;
use support::{RESTING, apart, asset, home, inputs, learned, person, teach, train, train_to};
use tract_onnx::pb;

const fn shared_by_threads<T: Send + Sync>() {}
const _: () = shared_by_threads::<Session>();
const _: () = shared_by_threads::<Home>();

#[test]
fn a_swap_under_load_never_mixes_generations() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = learned(&home(&folder), "p");
    let input = person(23).input(50).unwrap();
    for merged in [false, true] {
        if merged {
            session.rollback(Some(1)).unwrap();
            session = session.merged().unwrap();
        }
        let one = session.predict_top(&input, 99).unwrap();
        session.rollback(Some(0)).unwrap();
        let zero = session.predict_top(&input, 99).unwrap();
        assert_eq!((zero.generation, one.generation), (0, 1));
        assert_eq!((zero.top.len(), one.top.len()), (6, 7));
        let (stop, seen) = (AtomicBool::new(false), [AtomicUsize::new(0), AtomicUsize::new(0)]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        let answer = session.predict_top(&input, 99).unwrap();
                        let expected = if answer.generation == 0 { &zero } else { &one };
                        assert_eq!((answer.generation, &answer.top), (expected.generation, &expected.top));
                        seen[answer.generation as usize].fetch_add(1, Relaxed);
                    }
                });
            }
            for round in 0..30 {
                let to = (round + 1) % 2;
                let before = seen[to as usize].load(Relaxed);
                let now = session.rollback(Some(to)).unwrap();
                assert_eq!(now, to);
                // Until somebody was answered by it; a thread that panicked is reported by the scope.
                let asked = std::time::Instant::now();
                while seen[to as usize].load(Relaxed) == before && asked.elapsed().as_secs() < 10 {
                    std::thread::yield_now();
                }
            }
            stop.store(true, Relaxed);
        });
        assert!(seen.iter().all(|n| n.load(Relaxed) >= 15), "both generations answered: {seen:?}");
    }
}

#[test]
fn merged_weights_answer_as_low_rank_inputs_do() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    let windows = inputs(&person(23), 20);
    let session = learned(&home, "p");
    let plain = session.evaluate(&windows, false, 1).unwrap().unwrap();
    let merged = session.merged().unwrap().evaluate(&windows, false, 1).unwrap().unwrap();
    assert!(apart(&plain, &merged) < 1e-4, "{}", apart(&plain, &merged));
}

/// Two people of one home, both at generation 1, both served from merged weights.
#[test]
fn merged_weights_belong_to_one_profile() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    let people = [23, 25].map(|user| {
        let session = home.session(&format!("p{user}")).unwrap();
        teach(&session, &person(user), 5);
        assert_eq!(train(&session, 2).generation, 1);
        session
    });
    let sites = people.iter().map(|s| s.adapter().unwrap().unwrap().sites.len()).collect::<Vec<_>>();
    let windows = inputs(&person(23), 20);
    let expected = people.each_ref().map(|s| s.evaluate(&windows, false, 1).unwrap().unwrap());
    let merged = people.map(|s| s.merged().unwrap());
    for (session, expected) in merged.iter().zip(&expected) {
        let got = session.evaluate(&windows, false, 1).unwrap().unwrap();
        assert!(apart(&got, expected) < 1e-4, "{} apart; sites {sites:?}", apart(&got, expected));
    }
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    drop(learned(&home, "p"));
    let mut model = pb::ModelProto::decode(&*std::fs::read(asset("har_cnn.onnx")).unwrap()).unwrap();
    model.metadata_props.push(pb::StringStringEntryProto { key: "version".into(), value: "2".into() });
    let file = folder.path().join("other.onnx");
    std::fs::write(&file, model.encode_to_vec()).unwrap();
    let other = Home::init(folder.path().join("other"), &InitOptions::new(&file)).unwrap();
    let window = person(23).input(0).unwrap();
    // A home with a generation of its own, so that its head may name generation 1.
    let session = learned(&other, "p");
    let (head, file) = (other.path().join("profiles/p/head"), "profiles/p/generations/000001.adapter");
    let names_one = std::fs::read(&head).unwrap();
    session.rollback(Some(0)).unwrap();
    let before = session.predict(&window).unwrap();
    let names_none = std::fs::read(&head).unwrap();
    std::fs::copy(home.path().join(file), other.path().join(file)).unwrap();

    let hashes = [home.base().fingerprint(), other.base().fingerprint()].map(|f| f.to_string());
    let e = session.rollback(Some(1)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::BadData);
    assert!(hashes.iter().all(|h| e.to_string().contains(h)), "{e}");
    assert!(std::fs::read(&head).unwrap() == names_none, "a refused rollback changes nothing");
    let after = session.predict(&window).unwrap();
    assert_eq!((after.generation, &after.top), (0, &before.top));

    // Where the head names it all the same, it never answers, and a rollback gets away from it.
    std::fs::write(&head, &names_one).unwrap();
    assert_eq!(session.predict(&window).unwrap_err().kind(), ErrorKind::BadData);
    drop(session);
    assert_eq!(other.session("p").map(drop).unwrap_err().kind(), ErrorKind::BadData);
    assert_eq!(other.session_for_repair("p").unwrap().rollback(None).unwrap(), 0);
    assert_eq!(other.session("p").unwrap().predict(&window).unwrap().top, before.top);
}

#[test]
fn training_repeats_itself_on_any_number_of_threads() {
    let adapters = [1, 2, 2].map(|threads| {
        let folder = tempfile::tempdir().unwrap();
        let session = home(&folder).session("p").unwrap();
        teach(&session, &person(23), 5);
        train(&session, threads);
        session.adapter().unwrap().unwrap()
    });
    let [first, rest @ ..] = &adapters;
    for other in rest {
        assert_eq!(first.sites, other.sites);
        assert_eq!(first.head, other.head);
        assert_eq!((&first.labels, &first.verdict), (&other.labels, &other.verdict));
    }
}

#[test]
fn a_rejected_class_loses_probability() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    let windows = person(23);
    // Nobody names sitting (3) or standing (4), which the base mixes up: only the rejections speak about them.
    let named: Vec<usize> =
        (0..windows.len()).filter(|&i| !["3", "4"].contains(&windows.labels()[i].as_str())).collect();
    let named = windows.select(&named).unwrap();
    let [without, with] = [("without", false), ("with", true)].map(|(profile, reject)| {
        let session = home.session(profile).unwrap();
        teach(&session, &named, 6);
        let mut rejected = vec![];
        for i in (0..windows.len()).filter(|i| ["3", "4"].contains(&windows.labels()[*i].as_str())) {
            let input = windows.input(i).unwrap();
            let p = session.evaluate(std::slice::from_ref(&input), true, 1).unwrap().unwrap();
            let class = (0..6).max_by(|&a, &b| p[[0, a]].total_cmp(&p[[0, b]])).unwrap();
            if class.to_string() == windows.labels()[i] || rejected.len() == 24 {
                continue;
            }
            if reject {
                let answer = session.predict(&input).unwrap();
                assert_eq!(answer.label(), Some(class.to_string().as_str()));
                session.feedback(answer.id.unwrap(), Feedback::Reject).unwrap();
            }
            rejected.push((input, class, p[[0, class]]));
        }
        train(&session, 2);
        assert!(session.labels().contains(&RESTING.to_string()));
        let (inputs, classes): (Vec<_>, Vec<_>) = rejected.into_iter().map(|(i, c, p)| (i, (c, p))).unzip();
        let after = session.evaluate(&inputs, false, 1).unwrap().unwrap();
        classes.iter().enumerate().map(|(row, &(class, before))| (before, after[[row, class]])).collect::<Vec<_>>()
    });
    assert!(with.len() >= 10 && with.len() == without.len(), "{} wrong answers to reject", with.len());
    let mean = |v: &mut dyn Iterator<Item = f32>| v.sum::<f32>() / with.len() as f32;
    let before = mean(&mut with.iter().map(|(before, _)| *before));
    let (taught, told) = (mean(&mut without.iter().map(|w| w.1)), mean(&mut with.iter().map(|w| w.1)));
    assert!(told < before && told < taught, "{before} before, {taught} by the labels, {told} with the rejections");
    let fell = with.iter().filter(|(before, after)| after < before).count();
    assert!(fell * 10 >= with.len() * 9, "fell on {fell} of {}", with.len());
}

/// A list of labels of another length than the model's sets its classes aside; every depth trains on what its classifier reads.
#[test]
fn classes_of_the_users_own_replace_those_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("labels.txt");
    std::fs::write(&file, "moving\nresting\n").unwrap();
    let init = InitOptions { labels: Some(file), ..InitOptions::new(asset("har_cnn.onnx")) };
    let windows = person(24);
    let name = |i: usize| if windows.labels()[i].as_str() < "3" { "moving" } else { "resting" };
    for deepest in [Depth::HeadOnly, Depth::AllSites] {
        let home = Home::init(folder.path().join(format!("{deepest:?}")), &init).unwrap();
        assert_eq!(home.labels(), ["moving", "resting"]);
        let session = home.session("p").unwrap();
        for i in (0..windows.len()).step_by(6) {
            let id = session.predict(&windows.input(i).unwrap()).unwrap().id.unwrap();
            session.feedback(id, Feedback::Label(name(i).into())).unwrap();
        }
        let report = train_to(&session, deepest);
        let depths = if deepest == Depth::HeadOnly { 1 } else { 3 };
        assert_eq!(report.tried.len(), depths, "{:?}", report.tried);
        let asked: Vec<usize> = (0..windows.len()).skip(3).step_by(6).collect();
        let right =
            asked.iter().filter(|&&i| session.predict(&windows.input(i).unwrap()).unwrap().label() == Some(name(i)));
        assert!(right.count() * 10 > asked.len() * 9);
    }
}
