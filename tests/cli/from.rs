//! `init --from`: what was said in an old home, on a new base.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use acclimate::journal::InteractionId;
use acclimate::{Feedback, Home, Session};
use serde_json::{Value, json};

use crate::program::{Bench, acclimate, asset, json, person, refused, run, says};

/// Another base of the same task: it was trained on other people.
fn other_base() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lives/har_fold0.onnx");
    file.to_str().unwrap().to_string()
}

/// Names and bytes of all files below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap()) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => drop(all.insert(entry.path(), std::fs::read(entry.path()).unwrap())),
            }
        }
    }
    all
}

/// Names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn session(home: &str, profile: &str) -> Session {
    Home::open(home).unwrap().session(profile).unwrap()
}

fn say(session: &Session, i: usize, feedback: impl FnOnce(&str) -> Feedback) -> InteractionId {
    let answer = session.predict(&person(23).input(i).unwrap()).unwrap();
    let id = answer.id.unwrap();
    session.feedback(id, feedback(answer.label().unwrap())).unwrap();
    id
}

fn label(label: &str) -> impl FnOnce(&str) -> Feedback + use<'_> {
    move |_| Feedback::NewLabel(label.into())
}

fn listed(home: &str) -> BTreeMap<String, Value> {
    let all = json(&["interactions", home]);
    all.as_array().unwrap().iter().map(|i| (i["id"].as_str().unwrap().to_string(), i.clone())).collect()
}

#[test]
fn each_sort_of_feedback_is_said_again_about_the_new_bases_answer() {
    let bench = Bench::new();
    let (old, new, plain) = (bench.home(), bench.at("new"), bench.at("plain"));
    let set = person(23);
    let ada = session(&old, "default");
    ada.predict(&set.input(0).unwrap()).unwrap();
    let labelled = say(&ada, 4, label("resting"));
    let (superseded, newer) = (say(&ada, 8, label("3")), say(&ada, 8, label("4")));
    let (ignored, replaced) = (say(&ada, 12, label("1")), say(&ada, 16, label("1")));
    ada.ignore_feedback(ignored).unwrap();
    ada.replace_feedback(replaced, Feedback::Label("2".into())).unwrap();
    let accepted: Vec<InteractionId> = (20..60).step_by(4).map(|i| say(&ada, i, |_| Feedback::Accept)).collect();
    let rejected: Vec<usize> = (60..set.len()).step_by(3).collect();
    let rejects: Vec<InteractionId> = rejected.iter().map(|&i| say(&ada, i, |_| Feedback::Reject)).collect();
    say(&session(&old, "ben"), 4, label("4"));
    session(&old, "cid").predict(&set.input(0).unwrap()).unwrap();
    drop(ada);
    let (before, said) = (files(Path::new(&old)), listed(&old));

    let made = json(&["init", &new, "--model", &other_base(), "--from", &old]);
    assert_eq!(files(Path::new(&old)), before, "the old home is only read");
    assert_eq!(names(Path::new(&old).parent().unwrap()), ["home", "new"], "nothing is left beside them");
    json(&["init", &plain, "--model", &other_base()]);
    let answer = |i: usize| {
        let answer = session(&plain, "default").predict(&set.input(i).unwrap()).unwrap();
        answer.label().unwrap().to_string()
    };
    let again = listed(&new);
    let of = |id: InteractionId| again.get(&id.to_string());
    assert!(of(superseded).is_none() && of(ignored).is_none());
    let feedback = |id: InteractionId| {
        let i = of(id).unwrap();
        let was = &said[&id.to_string()];
        assert_eq!((&i["at"], &i["input"], &i["generation"]), (&was["at"], &was["input"], &0.into()));
        assert_eq!(i["feedback"]["was"], Value::Null);
        (i["feedback"]["kind"].as_str().unwrap().to_string(), i["feedback"]["label"].clone())
    };
    for (id, right) in [(labelled, "resting"), (newer, "4"), (replaced, "2")] {
        assert_eq!(feedback(id), ("label".into(), right.into()));
    }
    for (id, i) in accepted.iter().zip((20..60).step_by(4)) {
        assert_eq!(feedback(*id), ("label".into(), said[&id.to_string()]["answer"]["label"].clone()));
        assert_eq!(of(*id).unwrap()["answer"]["label"], answer(i).as_str(), "it is the new base's answer");
        assert_eq!(of(*id).unwrap()["feedback"]["at"], said[&id.to_string()]["feedback"]["at"]);
    }
    let mut dropped = 0;
    for (id, &i) in rejects.iter().zip(&rejected) {
        if said[&id.to_string()]["answer"]["label"] == answer(i).as_str() {
            assert_eq!(feedback(*id), ("reject".into(), Value::Null));
        } else {
            dropped += 1;
            assert!(of(*id).is_none());
        }
    }
    assert!(dropped > 0 && dropped < rejects.len(), "{dropped} of {} tests both", rejects.len());
    let kept = 3 + accepted.len() + rejects.len() - dropped;
    let left_out = json!({ "ignored": 1, "superseded": 1, "rejected": dropped, "unfit": 0 });
    let profile = |name: &str, replayed: usize, dropped: Value| json!({ "profile": name, "replayed": replayed, "dropped": dropped, "damaged": 0, "orphaned": 0, "reason": null });
    let none = json!({ "ignored": 0, "superseded": 0, "rejected": 0, "unfit": 0 });
    assert_eq!(
        made["from"],
        json!({
            "replayed": kept + 1,
            "dropped": left_out,
            "damaged": 0,
            "orphaned": 0,
            "new_classes": ["resting"],
            "profiles": [profile("ben", 1, none.clone()), profile("cid", 0, none), profile("default", kept, left_out)],
        })
    );
    let status = json(&["status", &new]);
    assert_eq!((&status["profiles"], &status["waiting"]), (&json!(["ben", "default"]), &kept.into()));
    assert!(json(&["verify", &new])["ok"].as_bool().unwrap());
    // Ids go on after those of the old home.
    let next = session(&new, "default").predict(&set.input(0).unwrap()).unwrap().id.unwrap();
    assert!(next > *rejects.last().unwrap());
}

#[test]
fn the_new_base_learns_from_what_was_said_about_the_old_one() {
    let bench = Bench::new();
    let (old, new) = (bench.home(), bench.at("new"));
    let rows: Vec<usize> = (0..person(23).len()).step_by(4).collect();
    bench.teach(23, &rows);
    // The base model that has not met this person: there is something to learn.
    let stranger = other_base().replace("fold0", "fold3");
    let told = run(&["init", &new, "--model", &stranger, "--from", &old]);
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(text.contains(&format!("profile default: {} feedback items replayed\n", rows.len())), "{text}");
    assert!(text.ends_with(&format!("next: acclimate train {new}\n")), "{text}");
    let trained = run(&["train", &new, "--threads", "2"]);
    let text = String::from_utf8(trained.stdout).unwrap();
    assert!(text.contains(&format!(" of {} corrections hold", rows.len())), "{text}");
    assert_eq!(json(&["status", &new])["generation"], 1, "{text}");
    // Each is answered as was said, or named.
    let not_held: Vec<String> = listed(&new)
        .values()
        .filter(|i| i["flags"].as_array().unwrap().contains(&"not-held".into()))
        .map(|i| i["id"].as_str().unwrap().to_string())
        .collect();
    let (session, set) = (session(&new, "default"), person(23));
    for (n, &i) in rows.iter().enumerate() {
        let answer = session.predict(&set.input(i).unwrap()).unwrap();
        let named = not_held.contains(&InteractionId(n as u32).to_string());
        assert_eq!(answer.label() != Some(&set.labels()[i]), named, "{n}");
    }
    assert!(10 * not_held.len() < rows.len(), "{} of {}", not_held.len(), rows.len());
}

#[test]
fn what_cannot_be_replayed_makes_no_home() {
    let bench = Bench::new();
    let (old, new) = (bench.home(), bench.at("new"));
    bench.teach(23, &[0, 4, 8]);
    let base = other_base();
    let init = |to: &str, from: &str, code| refused(&["init", to, "--model", &base, "--from", from], code);
    says(&init(&new, &bench.at("nowhere"), 2), "error", "not a home");
    says(&init(&old, &old, 2), "error", "the same folder");
    says(&init(&format!("{old}/new"), &old, 2), "error", "inside of the other");
    std::fs::create_dir(bench.at("full")).unwrap();
    std::fs::write(bench.at("full/file"), "x").unwrap();
    says(&init(&bench.at("full"), &old, 2), "error", "not empty");
    let (text, tokenizer) = (asset("intents_encoder.onnx"), asset("intents_tokenizer.json"));
    let [text, tokenizer] = [text.to_str().unwrap(), tokenizer.to_str().unwrap()];
    let e = refused(&["init", &new, "--model", text, "--tokenizer", tokenizer, "--from", &old], 65);
    says(&e, "error", "not such as the new base takes");
    says(&e, "because", "arrays given; this model takes text");
    let digits = asset("digits_cnn.onnx");
    let e = refused(&["init", &new, "--model", digits.to_str().unwrap(), "--from", &old], 65);
    says(&e, "because", "an example has shape [6, 128]");
    says(&e, "next", "takes the same inputs");
    assert_eq!(names(Path::new(&old).parent().unwrap()), ["full", "home"], "nothing was made");
}

#[test]
fn what_is_read_of_a_damaged_journal_is_replayed_and_the_rest_is_counted() {
    let bench = Bench::new();
    let (old, new) = (bench.home(), bench.at("new"));
    let rows: Vec<usize> = (0..120).step_by(4).collect();
    bench.teach(23, &rows);
    let journal = bench.profile("journal.log");
    let mut bytes = std::fs::read(&journal).unwrap();
    // The input of an interaction in the middle, which takes 3072 bytes.
    let middle = bytes.len() / 2 + 1000;
    bytes[middle] ^= 0x10;
    std::fs::write(&journal, &bytes).unwrap();
    let from = json(&["init", &new, "--model", &other_base(), "--from", &old])["from"].clone();
    assert_eq!(
        (&from["replayed"], &from["damaged"], &from["orphaned"]),
        (&(rows.len() - 1).into(), &1.into(), &1.into()),
        "{from}"
    );
    assert_eq!(std::fs::read(&journal).unwrap(), bytes, "it is not repaired");
    assert_eq!(json(&["status", &new])["feedback"], rows.len() - 1);
    // A journal without its head is not read as one where nothing was said.
    std::fs::create_dir_all(bench.profile("journal.segments")).unwrap();
    std::fs::rename(&journal, bench.profile("journal.segments/000001.log")).unwrap();
    let e = refused(&["init", &bench.at("third"), "--model", &other_base(), "--from", &old], 65);
    says(&e, "next", "acclimate repair");
}

#[test]
fn what_was_encrypted_stays_so() {
    let bench = Bench::new();
    let (old, new, key) = (bench.at("old"), bench.at("new"), bench.at("key"));
    let model = asset("har_cnn.onnx");
    json(&["init", &old, "--model", model.to_str().unwrap(), "--encrypt", "--key-file", &key]);
    let secret = "nobody may read this";
    for i in 0..3 {
        say(&session(&old, "default"), i, label(secret));
    }
    let base = other_base();
    let args = ["init", &new, "--model", &base, "--from", &old];
    says(&refused(&args, 2), "next", "--encrypt");
    let other_key = bench.at("other key");
    let made = json(&[&args[..], &["--encrypt", "--key-file", &other_key]].concat());
    assert_eq!((&made["from"]["replayed"], &made["from"]["new_classes"]), (&3.into(), &json!([secret])));
    let open = |bytes: &Vec<u8>| bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
    assert!(!files(Path::new(&new)).values().any(open));
    assert_eq!(listed(&new).len(), 3);
    std::fs::rename(&key, bench.at("moved")).unwrap();
    let third = bench.at("third");
    refused(&["init", &third, "--model", &base, "--from", &old, "--encrypt", "--key-file", &other_key], 77);
    assert!(!Path::new(&third).exists());
}

#[test]
fn texts_are_replayed_on_an_encoder_that_knows_no_class_yet() {
    let bench = Bench::new();
    let (old, new) = (bench.at("old"), bench.at("new"));
    let [model, tokenizer] = ["intents_encoder.onnx", "intents_tokenizer.json"].map(asset);
    let [model, tokenizer] = [&model, &tokenizer].map(|file| file.to_str().unwrap());
    json(&["init", &old, "--model", model, "--tokenizer", tokenizer]);
    let ada = session(&old, "default");
    for (sentence, intent) in [("lights on", "light"), ("what time is it", "clock")] {
        let id = ada.predict(&acclimate::Input::text(sentence)).unwrap().id.unwrap();
        ada.feedback(id, Feedback::Label(intent.into())).unwrap();
    }
    drop(ada);
    let made = json(&["init", &new, "--model", model, "--tokenizer", tokenizer, "--rank", "4", "--from", &old]);
    assert_eq!((&made["from"]["replayed"], &made["from"]["new_classes"]), (&2.into(), &json!(["clock", "light"])));
    let texts: Vec<Value> = listed(&new).values().map(|i| i["input"]["text"].clone()).collect();
    assert_eq!(texts.len(), 2);
    assert!(texts.contains(&"lights on".into()), "{texts:?}");
}

#[test]
fn killed_at_any_moment_there_is_no_home_and_it_can_be_made_again() {
    let bench = Bench::new();
    let (old, new) = (bench.home(), bench.at("new"));
    bench.teach(23, &(0..160).step_by(2).collect::<Vec<_>>());
    let base = other_base();
    let args = ["init", &new, "--model", &base, "--from", &old, "--json"];
    let began = Instant::now();
    let whole = json(&args[..args.len() - 1])["from"].clone();
    let time = began.elapsed();
    assert_eq!(whole["replayed"], 80);
    let (mut cut_off, mut left) = (0, 0);
    for n in 0..12u32 {
        std::fs::remove_dir_all(&new).unwrap();
        let mut child =
            acclimate(&args).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(time.mul_f64(0.3 + 0.06 * f64::from(n)).max(Duration::from_millis(1)));
        child.kill().unwrap();
        child.wait().unwrap();
        left += usize::from(Path::new(&bench.at(".new.incoming")).exists());
        if !Path::new(&new).exists() {
            cut_off += 1;
            assert_eq!(json(&args[..args.len() - 1])["from"], whole);
        }
        assert_eq!(json(&["status", &new])["feedback"], 80, "what has the name is whole");
        assert!(!Path::new(&bench.at(".new.incoming")).exists());
    }
    eprintln!("{cut_off} of 12 were cut off, {left} of them while the home was made");
    assert!(cut_off > 0);
}
