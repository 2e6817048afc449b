//! Merged ONNX files answer as the session that they were written from.
#![cfg(feature = "train")]

mod support;

use std::path::Path;

use acclimate::adapter::Fingerprint;
use acclimate::base::Task;
use acclimate::export::merged;
use acclimate::input::RawInput;
use acclimate::{ErrorKind, Home, InitOptions, Session};
use support::{RESTING, apart, at_temperature_of, home, inputs, large, learned, person};

fn hash(file: &Path) -> Fingerprint {
    Fingerprint::of(&std::fs::read(file).unwrap())
}

/// Exports, opens the file as a model of its own, and compares what both answer to `inputs`.
fn round_trip(session: &Session, tokenizer: Option<&Path>, inputs: &[RawInput]) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged.onnx");
    let base = session.home().base().path().to_path_buf();
    let before = hash(&base);
    let written = merged(session, &out).unwrap();
    assert_eq!((written.path.as_path(), written.bytes), (out.as_path(), std::fs::metadata(&out).unwrap().len()));
    assert_eq!(hash(&base), before, "the base is as it was");

    let refusal = merged(session, &out).unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::Usage);
    assert!(refusal.to_string().contains("exists"), "{refusal}");
    assert_eq!(std::fs::metadata(&out).unwrap().len(), written.bytes);

    let options = tokenizer.into_iter().fold(InitOptions::new(&out), InitOptions::tokenizer);
    let exported = Home::init(folder.path().join("exported"), &options).unwrap();
    assert_eq!(exported.base().guess_task().unwrap(), Task::Classification);
    assert_eq!(exported.labels().len(), session.labels().len());
    let expected = session.evaluate(inputs, false, 1).unwrap().unwrap();
    let got = exported.session("p").unwrap().evaluate(inputs, false, 1).unwrap().unwrap();
    let got = at_temperature_of(session, &got);
    assert!(apart(&got, &expected) < 1e-4, "{} apart", apart(&got, &expected));
    assert_eq!(written.temperature, session.adapter().unwrap().unwrap().calibrated.temperature);
    // One at a time as well: other shapes are other plans.
    let one = exported.session("p").unwrap().predict_top(&inputs[3], 99).unwrap();
    let answered = session.predict_top(&inputs[3], 99).unwrap();
    let p = |answer: &acclimate::Answer| {
        let p: Vec<f32> = answer.top.iter().map(|s| s.p).collect();
        ndarray::Array2::from_shape_vec((1, p.len()), p).unwrap()
    };
    assert!(apart(&at_temperature_of(session, &p(&one)), &p(&answered)) < 1e-4, "{one:?} {answered:?}");
}

#[test]
fn a_classifier_with_a_new_class() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    let untaught = home.session("untaught").unwrap();
    let refusal = merged(&untaught, &folder.path().join("none.onnx")).unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::Usage);
    assert!(!folder.path().join("none.onnx").exists());

    let session = learned(&home, "p");
    assert_eq!(session.labels().last().map(String::as_str), Some(RESTING));
    round_trip(&session, None, &inputs(&person(23), 20));
}

#[test]
fn an_encoder_with_a_head() {
    let (Some(model), Some(tokenizer)) = (large("minilm.onnx"), large("tokenizer.json")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let options = InitOptions::new(model).tokenizer(&tokenizer);
    let session = Home::init(folder.path().join("home"), &options).unwrap().session("p").unwrap();
    let (taught, unseen) = (support::intents("train", 8), support::intents("test", 6));
    support::teach_texts(&session, &taught);
    support::train_to(&session, acclimate::adapter::Depth::LastBlock);
    let texts: Vec<RawInput> = unseen.iter().take(21).map(|(_, text)| RawInput::Text(text.clone())).collect();
    round_trip(&session, Some(&tokenizer), &texts);
}
