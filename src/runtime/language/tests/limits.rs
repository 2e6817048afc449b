//! Limits of memory and time, and what a model cannot be taught.

use super::*;
use crate::adapt::Settings;
use crate::adapt::fit::Recipe;
use crate::gate::Limits;
use crate::process::TrainLimits;

#[test]
fn a_training_keeps_to_its_limits() {
    let folder = TempDir::new().unwrap();
    let (home, script) = home(&folder);
    let (memory, time) = (home.session("memory").unwrap(), home.session("time").unwrap());
    for session in [&memory, &time] {
        edit_all(session, &script.edits[..20]);
    }
    let limit = crate::process::status_bytes("/proc/self/status", "VmRSS:") + (24 << 20);
    let options = TrainOptions::default().limits(TrainLimits::default().memory_bytes(limit));
    let report = memory.train(&options).unwrap();
    let choice = report.choice.as_ref().unwrap();
    assert!(choice.memory_bytes <= limit && !choice.sites.is_empty(), "{choice:?}");
    assert!(report.promoted, "{}: {:?}", report.verdict.reason, report.tried);
    // A tenth of the time that all fits take.
    let budget = report.seconds / 10.0;
    let options = TrainOptions::default().limits(TrainLimits::default().budget_seconds(budget));
    let short = time.train(&options).unwrap();
    assert!(short.steps < report.steps / 2, "{} of {} steps", short.steps, report.steps);
}

#[test]
fn an_edit_that_is_too_long_for_the_memory_does_not_stand_in_the_way_of_the_others() {
    let folder = TempDir::new().unwrap();
    let script = unpack(folder.path());
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let long = text.replace("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 16384");
    assert_ne!(text, long);
    std::fs::write(&config, long).unwrap();
    let home = Home::init(folder.path().join("home"), &InitOptions::new(folder.path().join("model.onnx"))).unwrap();
    let session = home.session("p").unwrap();
    let answer = ask(&session, &script.edits[0].prompt).id.unwrap();
    session.feedback(answer, Feedback::Edit("Switched on. ".repeat(800))).unwrap();
    edit_all(&session, &script.edits[1..20]);
    let limit = crate::process::status_bytes("/proc/self/status", "VmRSS:") + (64 << 20);
    let options = TrainOptions::default().limits(TrainLimits::default().memory_bytes(limit));
    let report = session.train(&options).unwrap();
    assert_eq!((report.too_long, report.verdict.n), (1, 19), "{}: {:?}", report.verdict.reason, report.choice);
    assert!(report.promoted, "{}: {:?}", report.verdict.reason, report.tried);
    assert_eq!(session.status().unwrap().feedback, 20, "it is kept");
}

#[test]
fn an_edit_with_a_token_that_the_model_does_not_have_is_refused() {
    let folder = TempDir::new().unwrap();
    let script = unpack(folder.path());
    let file = folder.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    // It becomes the last one, behind the rows of the embedding.
    let mut token = tokenizer["added_tokens"][0].clone();
    (token["id"], token["content"]) = (259.into(), "<far>".into());
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    std::fs::write(&file, serde_json::to_vec(&tokenizer).unwrap()).unwrap();
    let options = InitOptions::new(folder.path().join("model.onnx"));
    let mut warnings = vec![];
    let home = Home::init_telling(folder.path().join("home"), &options, &mut |w| warnings.push(w.to_string())).unwrap();
    assert!(warnings.iter().any(|w| w.contains("<far>") && w.contains("has 259 tokens")), "{warnings:?}");
    let session = home.session("p").unwrap();
    let id = ask(&session, &script.edits[0].prompt).id.unwrap();
    let error = session.feedback(id, Feedback::Edit("It is <far> away.".into())).unwrap_err();
    assert!(error.to_string().contains("the token 259"), "{error}");
    edit_all(&session, &script.edits[..12]);
    assert!(train(&session).promoted, "the others teach");
}

#[test]
fn a_training_that_goes_astray_is_a_verdict() {
    let folder = TempDir::new().unwrap();
    let (home, script) = home(&folder);
    let session = home.session("p").unwrap();
    edit_all(&session, &script.edits[..12]);
    let recipe = Recipe { lr: Some(1e30), ..session.settings().recipe };
    let report = session.train(&TrainOptions::default().settings(Settings { recipe, ..session.settings() })).unwrap();
    assert!(!report.promoted && report.verdict.reason.contains("finite"), "{}", report.verdict.reason);
    assert_eq!(ask(&session, &script.held_out[0].prompt).generation, 0);
    assert!(train(&session).promoted, "nothing is lost");
}

#[test]
fn a_weaker_adapter_serves_where_the_whole_one_changes_too_much() {
    let folder = TempDir::new().unwrap();
    let (home, script) = home(&folder);
    // Answers that nobody says anything about stand in for prose, which this model does not know.
    let (one, other) = (home.session("one").unwrap(), home.session("other").unwrap());
    for session in [&one, &other] {
        for asked in &script.held_out[..8] {
            ask(session, &asked.prompt);
        }
        edit_all(session, &script.edits[..20]);
    }
    let whole = train(&one);
    let found = whole.language.unwrap();
    assert!(whole.promoted && found.strength == 1.0, "{:?}", whole.tried);
    let retention = found.retention.unwrap();
    assert!(retention.kl > 0.0 && retention.tokens > 100, "{retention:?}");
    assert!(whole.verdict.reason.contains("of 20 answers come closer to what you said"), "{}", whole.verdict.reason);
    let disagreement = 1.0 - retention.share() - 1e-6;
    let limits = Limits { disagreement, ..other.settings().limits };
    let weaker = other.train(&TrainOptions::default().settings(Settings { limits, ..other.settings() })).unwrap();
    let found = weaker.language.unwrap();
    assert!(found.strength < 1.0, "{:?}", weaker.tried);
    assert!(weaker.tried[0].contains("may not serve") && weaker.tried[0].contains("disagreement_limit"));
    assert!(weaker.promoted, "{:?}", weaker.tried);
    let alpha = |session: &Session| session.adapter().unwrap().unwrap().sites[0].alpha;
    assert_eq!(alpha(&other), alpha(&one) * found.strength);
}
