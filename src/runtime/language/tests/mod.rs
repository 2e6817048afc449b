//! A person edits a small language model's answers (`scripts/make_tiny_chat.py`), and it learns how they want them.

mod limits;
mod private;
mod serving;

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::adapt::Progress;
use crate::chat::Message;
use crate::disk::KeySource;
use crate::journal::InteractionId;
use crate::runtime::{Checkpoints, Feedback, Generated, Home, InitOptions, Session, TrainOptions, TrainReport};
use crate::store::{Cause, Selection};
use crate::{Error, ErrorKind};

/// A prompt, and what the person wants as its answer.
struct Asked {
    prompt: String,
    wanted: String,
}

struct Script {
    edits: Vec<Asked>,
    held_out: Vec<Asked>,
}

/// The bundled model in a folder, and what is said to it.
fn unpack(folder: &Path) -> Script {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny_chat.zip");
    let mut zip = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut read = |name: &str| {
        let mut bytes = vec![];
        zip.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    for name in ["model.onnx", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"] {
        std::fs::write(folder.join(name), read(name)).unwrap();
    }
    let script: Value = serde_json::from_slice(&read("prompts.json")).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_string();
    let asked = |v: &Value| Asked { prompt: text(&v["prompt"]), wanted: text(&v["edited"]) };
    let all = |name: &str| script[name].as_array().unwrap().iter().map(asked).collect();
    Script { edits: all("edits"), held_out: all("held_out") }
}

/// A home of the bundled model.
fn home(folder: &TempDir) -> (Home, Script) {
    let script = unpack(folder.path());
    let options = InitOptions::new(folder.path().join("model.onnx"));
    (Home::init(folder.path().join("home"), &options).unwrap(), script)
}

/// The most likely answer.
fn ask(session: &Session, prompt: &str) -> Generated {
    let mut conversation = session.conversation().unwrap();
    let mut config = conversation.defaults().unwrap();
    (config.do_sample, config.max_new_tokens) = (false, Some(160));
    conversation.push(Message::new("user", prompt));
    conversation.answer(&config, &mut |_| true).unwrap()
}

fn edit(session: &Session, asked: &Asked) -> InteractionId {
    let id = ask(session, &asked.prompt).id.unwrap();
    session.feedback(id, Feedback::Edit(asked.wanted.clone())).unwrap();
    id
}

fn edit_all(session: &Session, all: &[Asked]) {
    for asked in all {
        edit(session, asked);
    }
}

fn train(session: &Session) -> TrainReport {
    session.train(&TrainOptions::default()).unwrap()
}

fn as_wanted(session: &Session, asked: &[Asked]) -> usize {
    asked.iter().filter(|a| ask(session, &a.prompt).text.trim() == a.wanted).count()
}

fn bits(session: &Session) -> Vec<u32> {
    let adapter = session.adapter().unwrap().unwrap();
    adapter.sites.iter().flat_map(|s| s.a.data.iter().chain(&s.b.data)).map(|v| v.to_bits()).collect()
}

#[test]
fn what_is_edited_is_learned_taken_back_and_forgotten() {
    let folder = TempDir::new().unwrap();
    let (home, script) = home(&folder);
    let session = home.session("p").unwrap();
    let first = edit(&session, &script.edits[0]);
    let early = train(&session);
    assert!(!early.promoted && early.verdict.reason.contains("7 more"), "{}", early.verdict.reason);
    edit_all(&session, &script.edits[1..20]);
    let before = ask(&session, &script.held_out[0].prompt);
    let report = train(&session);
    assert!(report.promoted, "{}: {:?}", report.verdict.reason, report.tried);
    assert!(report.verdict.after > report.verdict.before && report.verdict.n == 20);
    assert_eq!((report.generation, session.status().unwrap().generation), (1, 1));
    let wanted = as_wanted(&session, &script.held_out[..15]);
    assert!(wanted >= 12, "{wanted} of 15");
    let merged = home.session("p").unwrap().merged().unwrap();
    for asked in &script.held_out[..3] {
        assert_eq!(ask(&merged, &asked.prompt).text, ask(&session, &asked.prompt).text, "{}", asked.prompt);
    }
    // Rolled back, the base answers as before. Chosen again, the adapter does.
    assert_eq!(session.rollback(None).unwrap(), 0);
    let back = ask(&session, &script.held_out[0].prompt);
    assert_eq!((back.generation, &back.text), (0, &before.text));
    session.rollback(Some(1)).unwrap();
    assert_eq!(ask(&session, &script.held_out[0].prompt).generation, 1);
    // What it learned from is forgotten, and so is it.
    let forgotten = session.forget(&Selection::Ids(vec![first])).unwrap();
    assert_eq!((forgotten.interactions, forgotten.generations, forgotten.generation), (1, vec![1], 0));
    let error = session.feedback(first, Feedback::Reject).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
}

#[test]
fn a_person_who_contradicts_themselves_teaches_nothing() {
    let folder = TempDir::new().unwrap();
    let (home, script) = home(&folder);
    let session = home.session("p").unwrap();
    for (at, asked) in script.edits[..20].iter().enumerate() {
        let answer = ask(&session, &asked.prompt);
        let wanted = match at % 2 {
            0 => asked.wanted.clone(),
            _ => {
                format!("Of course, dear friend! {} It was a pleasure for me, and I wish you a nice day.", answer.text)
            }
        };
        session.feedback(answer.id.unwrap(), Feedback::Edit(wanted)).unwrap();
    }
    let report = train(&session);
    assert!(!report.promoted, "{:?}", report.tried);
    assert_eq!(ask(&session, &script.held_out[0].prompt).generation, 0);
}

#[test]
fn a_habit_that_is_called_bad_goes() {
    let folder = TempDir::new().unwrap();
    let (home, script) = home(&folder);
    let session = home.session("p").unwrap();
    let habit = |text: &str| text.starts_with("Sure, I can help you with that.");
    let count = |session: &Session| script.held_out.iter().filter(|a| habit(&ask(session, &a.prompt).text)).count();
    let before = count(&session);
    for asked in &script.edits[..20] {
        let answer = ask(&session, &asked.prompt);
        let said = if habit(&answer.text) { Feedback::Reject } else { Feedback::Accept };
        session.feedback(answer.id.unwrap(), said).unwrap();
    }
    let report = train(&session);
    let after = count(&session);
    assert!(before >= 10 && (!report.promoted || 2 * after <= before), "{before} to {after}: {:?}", report.tried);
    assert!(report.promoted, "{:?}", report.tried);
}

#[test]
fn of_two_answers_the_one_that_was_chosen_becomes_likelier() {
    let folder = TempDir::new().unwrap();
    let (home, script) = home(&folder);
    let session = home.session("p").unwrap();
    let drawn = |prompt: &str, seed: u64| {
        let mut conversation = session.conversation().unwrap();
        let mut config = conversation.defaults().unwrap();
        (config.do_sample, config.temperature, config.max_new_tokens) = (true, 1.3, Some(160));
        config.seed = Some(seed);
        conversation.push(Message::new("user", prompt));
        conversation.answer(&config, &mut |_| true).unwrap()
    };
    let length = |session: &Session| script.held_out.iter().map(|a| ask(session, &a.prompt).text.len()).sum::<usize>();
    let before = length(&session);
    let mut chosen = 0;
    for asked in &script.edits[..20] {
        let mut pair = [drawn(&asked.prompt, 1), drawn(&asked.prompt, 2)];
        pair.sort_by_key(|answer| answer.text.len());
        if pair[0].text.len() + 10 < pair[1].text.len() && pair[0].finish_reason.is_some() {
            let [shorter, longer] = pair.map(|answer| answer.id.unwrap());
            session.feedback(shorter, Feedback::PreferredOver(longer)).unwrap();
            chosen += 1;
        }
    }
    assert!(chosen >= 10, "{chosen}");
    let report = train(&session);
    assert!(report.promoted, "{}: {:?}", report.verdict.reason, report.tried);
    let after = length(&session);
    assert!(after < before, "{before} to {after} bytes: {:?}", report.tried);
}

#[test]
fn a_training_that_is_stopped_goes_on_to_the_same_bits() {
    let folder = TempDir::new().unwrap();
    let (home, script) = home(&folder);
    let (one, other) = (home.session("one").unwrap(), home.session("other").unwrap());
    // Times are part of a conversation's rendering, and of an example's name, not of its gradient.
    for session in [&one, &other] {
        edit_all(session, &script.edits[..12]);
    }
    let whole = train(&one);
    assert!(whole.promoted, "{:?}", whole.tried);
    let (stop, told) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut resumed = 0;
    let report = loop {
        told.store(0, Ordering::Relaxed);
        stop.store(false, Ordering::Relaxed);
        let tell = |p: Progress| {
            // After some steps of each run.
            if p.stage.starts_with("training") && told.fetch_add(1, Ordering::Relaxed) == 12 {
                stop.store(true, Ordering::Relaxed);
            }
        };
        let options = TrainOptions::default().stop(&stop).progress(&tell).checkpoints(Checkpoints::default());
        match other.train(&options) {
            Ok(report) => break report,
            Err(e) => assert_eq!(e.kind(), ErrorKind::Interrupted, "{e}"),
        }
        resumed += 1;
        assert!(resumed < 60);
    };
    assert!(resumed > 1 && report.resumed_steps > 0, "{resumed} {}", report.resumed_steps);
    assert_eq!((report.promoted, report.verdict.after), (true, whole.verdict.after));
    assert!(bits(&one) == bits(&other));
}

#[test]
fn what_cannot_be_said_about_a_text_is_refused() {
    let folder = TempDir::new().unwrap();
    let (home, script) = home(&folder);
    let session = home.session("p").unwrap();
    let answer = ask(&session, &script.edits[0].prompt);
    let id = answer.id.unwrap();
    let other = ask(&session, &script.edits[1].prompt).id.unwrap();
    let again = ask(&session, &script.edits[0].prompt).id.unwrap();
    let says = |feedback: Feedback, words: &str| {
        let error: Error = session.feedback(id, feedback.clone()).unwrap_err();
        assert!(error.to_string().contains(words), "{feedback:?}: {error}");
    };
    says(Feedback::Edit("  \n".into()), "an edit to nothing");
    says(Feedback::Edit(answer.text.clone()), "the answer itself");
    says(Feedback::Edit("far too long. ".repeat(200)), "of a context of 512");
    says(Feedback::Edit("It is done.<|im_end|>".into()), "end token");
    says(Feedback::Label("lamp".into()), "answers with text");
    says(Feedback::NoneOfThese, "answers with text");
    says(Feedback::PreferredOver(id), "better than itself");
    says(Feedback::PreferredOver(other), "other messages");
    assert_eq!(session.status().unwrap().feedback, 0, "nothing of it was recorded");
    session.feedback(id, Feedback::PreferredOver(again)).unwrap();
    session.replace_feedback(id, Feedback::Edit("Done.".into())).unwrap();
    let error = session.predict(&crate::Input::text("lamp")).unwrap_err();
    assert!(error.to_string().contains("generates text"), "{error}");
}

#[test]
fn a_choice_whose_other_answer_was_forgotten_teaches_nothing() {
    let folder = TempDir::new().unwrap();
    let (home, script) = home(&folder);
    let session = home.session("p").unwrap();
    let pair: Vec<InteractionId> = (0..2).map(|_| ask(&session, &script.edits[0].prompt).id.unwrap()).collect();
    session.feedback(pair[1], Feedback::PreferredOver(pair[0])).unwrap();
    session.forget(&Selection::Ids(vec![pair[0]])).unwrap();
    let report = train(&session);
    assert!(report.verdict.reason.starts_with("0 answers have feedback"), "{}", report.verdict.reason);
}

#[test]
fn a_second_training_is_judged_on_what_is_new() {
    let folder = TempDir::new().unwrap();
    let (home, script) = home(&folder);
    let session = home.session("p").unwrap();
    edit_all(&session, &script.edits[..12]);
    let first = train(&session);
    assert!(first.promoted, "{}", first.verdict.reason);
    let again = train(&session);
    assert!(!again.promoted && again.steps == 0, "{}", again.verdict.reason);
    assert!(again.verdict.reason.contains("no feedback since"), "{}", again.verdict.reason);
    // The active generation has an advantage on the first twelve only.
    let more = || script.edits[12..].iter().chain(&script.held_out);
    let wrong = more().filter(|asked| ask(&session, &asked.prompt).text.trim() != asked.wanted).take(8);
    let edited: Vec<InteractionId> = wrong.map(|asked| edit(&session, asked)).collect();
    assert_eq!(edited.len(), 8);
    let second = train(&session);
    assert!(second.promoted, "{}: {:?}", second.verdict.reason, second.tried);
    assert_eq!((second.generation, second.verdict.n), (2, 20));
    // What is no longer said is taken out, although nothing is new.
    session.ignore_feedback(InteractionId(0)).unwrap();
    let third = train(&session);
    assert!(third.steps > 0, "{}", third.verdict.reason);
}

#[test]
fn demonstrations_are_no_answers() {
    let folder = TempDir::new().unwrap();
    let (home, script) = home(&folder);
    let session = home.session("p").unwrap();
    let asked = ask(&session, &script.edits[0].prompt).id.unwrap();
    let turn = |role: &str, text: &str| Message::new(role, text);
    let two =
        vec![turn("user", "hello"), turn("assistant", "Secret. \n"), turn("user", "more"), turn("assistant", "Yes.")];
    let found = session.record_demonstrations(std::slice::from_ref(&two)).unwrap();
    assert_eq!((found.recorded, found.known, found.unfit), (2, 0, 0));
    assert_eq!(session.latest().unwrap(), Some(asked), "nobody was asked since");
    let first = InteractionId(asked.0 + 1);
    for said in [Feedback::Accept, Feedback::Reject] {
        let error = session.replace_feedback(first, said).unwrap_err();
        assert!(error.to_string().contains("no token"), "{error}");
    }
    // The second turn holds the answer of the first one.
    let forgotten = session.forget(&Selection::Ids(vec![first])).unwrap();
    assert_eq!(forgotten.interactions, 2);
    assert_eq!(session.record_demonstrations(&[two]).unwrap().recorded, 2);
}
