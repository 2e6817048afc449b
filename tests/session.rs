//! A session in use: swaps under load, merged serving, strangers' adapters, and training that repeats itself.
#![cfg(feature = "train")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use acclimate::adapter::Depth;
use acclimate::input::LabelledSet;
use acclimate::journal::{FrameReader, Record};
use acclimate::store::{Cause, Selection};
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
    support::replace(&other.path().join(file), std::fs::read(home.path().join(file)).unwrap());

    let hashes = [home.base().fingerprint(), other.base().fingerprint()].map(|f| f.to_string());
    let e = session.rollback(Some(1)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::BadData);
    assert!(hashes.iter().all(|h| e.to_string().contains(h)), "{e}");
    assert!(std::fs::read(&head).unwrap() == names_none, "a refused rollback changes nothing");
    let after = session.predict(&window).unwrap();
    assert_eq!((after.generation, &after.top), (0, &before.top));

    // Where the head names it all the same, it never answers: it is rolled back automatically.
    std::fs::write(&head, &names_one).unwrap();
    let after = session.predict(&window).unwrap();
    assert_eq!((after.generation, &after.top), (0, &before.top));
    let rolled_back = session.status().unwrap().rolled_back.unwrap();
    assert_eq!((rolled_back.generation, rolled_back.cause), (1, Cause::Unusable));
    drop(session);
    std::fs::write(&head, &names_one).unwrap();
    let repair = other.session_for_repair("p").unwrap();
    assert_eq!(repair.current_generation().unwrap(), 1, "looked at, and left as it is");
    assert_eq!(repair.rollback(None).unwrap(), 0);
    assert_eq!(other.session("p").unwrap().predict(&window).unwrap().top, before.top);
}

/// Trains without a limit on how many uncorrected answers may change; the result must serve.
#[track_caller]
fn train_freely(session: &Session) -> u64 {
    let mut settings = acclimate::adapt::Settings { threads: 2, ..session.settings() };
    settings.limits.disagreement = 1.0;
    let options = acclimate::TrainOptions::default().settings(settings);
    let report = session.train(&options).unwrap();
    assert!(report.promoted, "{}: {:?}", report.verdict.reason, report.tried);
    report.generation
}

/// The adapter that serves, without its number's and its time's traces.
fn adapter_of(session: &Session) -> acclimate::adapter::Adapter {
    let mut adapter = session.adapter().unwrap().unwrap();
    (adapter.lineage.created_ms, adapter.lineage.parent) = (0, 0);
    adapter
}

/// Shows some windows; `extra` is what happens between them.
fn live(session: &Session, windows: &LabelledSet, rows: std::ops::Range<usize>, mut extra: impl FnMut(usize)) {
    for i in rows.step_by(5) {
        extra(i);
        let id = session.predict(&windows.input(i).unwrap()).unwrap().id.unwrap();
        // Every fourth answer is left as it is: those teach what is to be kept.
        if i % 4 != 0 {
            session.feedback(id, Feedback::NewLabel(windows.labels()[i].clone())).unwrap();
        }
    }
}

#[test]
fn training_after_forgetting_is_to_the_bit_as_if_it_had_never_been() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    let (mine, others) = (person(23), person(24));
    let half = mine.len() / 2;
    let with = home.session("with").unwrap();
    let mut forget = vec![];
    // Another person's windows, with labels of their own, some of them never judged, all through the first half.
    live(&with, &mine, 0..half, |i| {
        if i % 3 == 0 {
            let id = with.predict(&others.input(i).unwrap()).unwrap().id.unwrap();
            if i % 2 == 0 {
                with.feedback(id, Feedback::NewLabel(format!("secret {}", i % 5))).unwrap();
            }
            forget.push(id);
        }
    });
    let kept = train_freely(&with);
    let knew = adapter_of(&with);
    let forgotten = with.forget(&Selection::Ids(forget.clone())).unwrap();
    assert_eq!((forgotten.interactions, &forgotten.generations, forgotten.generation), (forget.len(), &vec![kept], 0));
    assert_eq!(with.predict(&mine.input(1).unwrap()).unwrap().generation, 0, "off at once");
    let last = with.predict(&mine.input(2).unwrap()).unwrap().id.unwrap();
    assert!(!forget.contains(&last), "an id is not given out again");
    live(&with, &mine, half..mine.len(), |_| ());
    train_freely(&with);

    let never = home.session("never").unwrap();
    live(&never, &mine, 0..half, |_| ());
    never.predict(&mine.input(1).unwrap()).unwrap();
    never.predict(&mine.input(2).unwrap()).unwrap();
    live(&never, &mine, half..mine.len(), |_| ());
    train_freely(&never);
    assert_eq!(adapter_of(&with), adapter_of(&never));
    assert!(knew.labels.iter().any(|l| l.starts_with("secret")), "the first one had learned it");
    assert_ne!(knew.head, adapter_of(&with).head);

    // Nothing of it is in the files: neither its labels nor its inputs.
    let window = match others.input(0).unwrap() {
        acclimate::input::RawInput::Arrays(arrays) => arrays[0].data.to_f32(),
        _ => panic!("not an array"),
    };
    let bytes: Vec<u8> = window.iter().take(16).flat_map(|v| v.to_le_bytes()).collect();
    let profile = home.path().join("profiles/with");
    for entry in walk(&profile) {
        let file = std::fs::read(&entry).unwrap();
        for needle in [&b"secret"[..], &bytes] {
            assert!(!file.windows(needle.len()).any(|w| w == needle), "{}", entry.display());
        }
    }
    let all = with.forget(&Selection::All).unwrap();
    assert!(all.interactions > 0 && all.generation == 0);
    let status = with.status().unwrap();
    assert_eq!((status.interactions, status.feedback, status.generation), (0, 0, 0));
    assert!(with.generations().unwrap().is_empty() && with.history().unwrap().is_empty());
}

/// All files below a folder.
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn forgetting_one_interaction_keeps_the_generations_that_never_saw_it() {
    let folder = tempfile::tempdir().unwrap();
    let session = learned(&home(&folder), "p");
    let windows = person(23);
    let seen = session.history().unwrap().len();
    let before = session.predict_top(&windows.input(3).unwrap(), 9).unwrap();
    let late = session.predict(&windows.input(4).unwrap()).unwrap().id.unwrap();
    let e = session.forget(&Selection::Ids(vec![late, acclimate::journal::InteractionId(u32::MAX)])).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Usage);
    assert_eq!(session.status().unwrap().interactions, 2 + windows.len().div_ceil(5), "all or nothing");
    let forgotten = session.forget(&Selection::Ids(vec![late])).unwrap();
    assert_eq!((forgotten.interactions, forgotten.generations, forgotten.generation), (1, vec![], 1));
    assert_eq!(session.predict_top(&windows.input(3).unwrap(), 9).unwrap().top, before.top);
    assert_eq!(session.history().unwrap().len(), seen);
    let forgotten = session.forget(&Selection::Before(u64::MAX)).unwrap();
    assert_eq!((forgotten.generations, forgotten.generation), (vec![1], 0));
}

#[test]
fn an_answer_that_nobody_speaks_about_is_on_the_medium_within_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let session = home(&folder).session("p").unwrap();
    session.predict(&person(23).input(0).unwrap()).unwrap();
    let journal = session.home().path().join("profiles/p/journal.log");
    let synced = || {
        let frames = FrameReader::open(&acclimate::disk::RealDisk, &journal).unwrap();
        frames.last().is_some_and(|last| last.unwrap().record == Record::Synced)
    };
    assert!(!synced(), "nobody waits for it");
    let asked = std::time::Instant::now();
    while !synced() {
        // 5 seconds, half a second until the session looks, and what a busy machine takes.
        assert!(asked.elapsed().as_secs() < 15);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Where adapters are read, whatever happens to the file while it serves and is loaded again: no answer but
/// generation 1's and the base's, and no signal.
#[test]
fn an_adapter_that_is_overwritten_and_cut_off_in_use_changes_no_answer_where_it_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    let settings = home.path().join("acclimate.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text + "\n[storage]\nadapters = \"read\"\n").unwrap();
    let session = learned(&Home::open(home.path()).unwrap(), "p");
    let input = person(23).input(50).unwrap();
    let one = session.predict_top(&input, 99).unwrap();
    session.rollback(Some(0)).unwrap();
    let zero = session.predict_top(&input, 99).unwrap();
    session.rollback(Some(1)).unwrap();
    let file = session.home().path().join("profiles/p/generations/000001.adapter");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let whole = std::fs::read(&file).unwrap();
    let (stop, ruined) = (AtomicBool::new(false), AtomicUsize::new(0));
    let answered = |answer: acclimate::Answer| {
        let expected = if answer.generation == 0 { &zero } else { &one };
        assert_eq!(answer.top, expected.top);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !stop.load(Relaxed) {
                let mut bytes = whole.clone();
                match round % 3 {
                    0 => bytes.truncate(whole.len() * (round % 7) / 7),
                    1 => bytes.iter_mut().skip(round % whole.len()).step_by(97).for_each(|b| *b ^= 0x55),
                    _ => {}
                }
                std::fs::write(&file, &bytes).unwrap();
                round += 1;
                ruined.store(round, Relaxed);
            }
        });
        for n in 0..10_000 {
            answered(session.predict_top(&input, 99).unwrap());
            if n % 50 == 0 {
                // Loaded anew, when it happens to be whole.
                let _ = session.rollback(Some(0));
                let _ = session.rollback(Some(1));
            }
        }
        stop.store(true, Relaxed);
    });
    assert!(ruined.load(Relaxed) > 100);
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
    let init = InitOptions::new(asset("har_cnn.onnx")).labels(file);
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

#[test]
fn a_home_holds_weights_that_lay_beside_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = pb::ModelProto::decode(&std::fs::read(asset("har_cnn.onnx")).unwrap()[..]).unwrap();
    let mut beside = vec![];
    let entry = |key: &str, value: String| pb::StringStringEntryProto { key: key.into(), value };
    for t in model.graph.as_mut().unwrap().initializer.iter_mut().filter(|t| t.raw_data.len() > 64) {
        let (offset, length) = (beside.len(), t.raw_data.len());
        beside.append(&mut t.raw_data);
        t.data_location = Some(1);
        t.external_data = vec![
            entry("location", "weights/all.bin".into()),
            entry("offset", offset.to_string()),
            entry("length", length.to_string()),
        ];
    }
    assert!(!beside.is_empty());
    let apart = folder.path().join("apart");
    std::fs::create_dir_all(apart.join("weights")).unwrap();
    std::fs::write(apart.join("model.onnx"), model.encode_to_vec()).unwrap();
    std::fs::write(apart.join("weights/all.bin"), &beside).unwrap();
    let of_two = Home::init(folder.path().join("of_two"), &InitOptions::new(apart.join("model.onnx"))).unwrap();
    let of_one = home(&folder);
    std::fs::remove_dir_all(&apart).unwrap();
    let input = person(23).input(50).unwrap();
    let answer = |home: &Home| home.session("p").unwrap().predict_top(&input, 6).unwrap().top;
    assert_eq!(answer(&Home::open(of_two.path()).unwrap()), answer(&of_one));
}

#[test]
fn a_home_asks_at_most_as_often_as_it_says_and_old_homes_open() {
    let folder = tempfile::tempdir().unwrap();
    let windows = person(23);
    let answers = |home: &Home, n: usize| -> Vec<bool> {
        // Each by a process of its own, as far as the profile can tell.
        (0..n).map(|i| home.session("p").unwrap().predict(&windows.input(i).unwrap()).unwrap().ask).collect()
    };
    let count = |asked: Vec<bool>| asked.into_iter().filter(|asked| *asked).count();
    let init = |name: &str, options: InitOptions| Home::init(folder.path().join(name), &options).unwrap();
    let plain = || InitOptions::new(asset("har_cnn.onnx"));
    assert_eq!(count(answers(&init("plain", plain()), 128)), 12);
    assert_eq!(count(answers(&init("often", plain().ask_rate(0.5)), 128)), 64);
    assert_eq!(count(answers(&init("never", plain().ask_rate(0.0)), 128)), 0);
    let e = Home::init(folder.path().join("wrong"), &plain().ask_rate(1.5)).unwrap_err();
    assert_eq!((e.kind(), folder.path().join("wrong").exists()), (ErrorKind::Usage, false));
    // A home that was made before homes asked, and one whose setting is nonsense.
    let settings = folder.path().join("often/acclimate.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text.replace("ask_rate = 0.5\n", "")).unwrap();
    assert_eq!(Home::open(folder.path().join("often")).unwrap().config().ask_rate, 0.1);
    std::fs::write(&settings, text.replace("ask_rate = 0.5", "ask_rate = nan")).unwrap();
    let e = Home::open(folder.path().join("often")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::BadData);
    assert!(e.to_string().contains("ask_rate"), "{e}");
}
