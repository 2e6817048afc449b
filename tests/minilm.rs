//! A sentence encoder learns home-automation intents; needs the folder of larger models, `ACCLIMATE_MODELS`.
#![cfg(feature = "train")]

mod support;

use acclimate::adapt::Settings;
use acclimate::adapter::Depth;
use acclimate::base::{Base, Task};
use acclimate::input::RawInput;
use acclimate::sites::Pattern;
use acclimate::tools::gradcheck;
use acclimate::{Home, InitOptions, TrainOptions};
use support::{INTENTS, intents, large, teach_texts, train_to};

#[test]
fn four_intents_from_eight_sentences_each() {
    let (Some(model), Some(tokenizer)) = (large("minilm.onnx"), large("tokenizer.json")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let options = InitOptions::new(model).tokenizer(tokenizer);
    let session = Home::init(folder.path().join("home"), &options).unwrap().session("p").unwrap();
    let (taught, unseen) = (intents("train", 8), intents("test", 40));
    assert!(taught.len() == 32 && unseen.len() == 160 && taught.iter().all(|t| !unseen.contains(t)));

    let first = session.predict(&RawInput::Text(taught[0].1.clone())).unwrap();
    assert!(first.top.is_empty() && first.generation == 0, "an encoder knows no class at first: {first:?}");
    teach_texts(&session, &taught);
    let report = train_to(&session, Depth::LastBlock);
    println!("{:.1} s; {:?}", report.seconds, report.tried);

    let mut labels = session.labels();
    labels.sort();
    let mut expected = INTENTS.map(String::from);
    expected.sort();
    assert_eq!(labels, expected);
    let right = |(label, text): &&(String, String)| {
        session.predict_top(&RawInput::Text(text.clone()), 1).unwrap().label() == Some(label.as_str())
    };
    let right = unseen.iter().filter(right).count();
    println!("{right} of {} unseen sentences right", unseen.len());
    assert!(right * 10 >= unseen.len() * 9, "{right} of {}", unseen.len());

    assert_eq!(session.rollback(None).unwrap(), 0);
    let answer = session.predict(&RawInput::Text(unseen[0].1.clone())).unwrap();
    assert!(answer.top.is_empty() && session.labels().is_empty());
}

#[test]
fn gradients_of_the_last_attention() {
    let Some(model) = large("minilm.onnx") else { return };
    let base = Base::open(model).unwrap();
    let pattern = Pattern::new("*layer.5/attention/self/*");
    let options = gradcheck::Options { sites: pattern, sequence: 8, ..gradcheck::Options::default() };
    let report = gradcheck::check(&base, Task::Encoder, &options, None).unwrap();
    assert_eq!(report.sites.len(), 3, "{report:?}");
    assert_eq!(report.verdict(), gradcheck::Verdict::Right, "{report:?}");
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let (Some(model), Some(tokenizer)) = (large("minilm.onnx"), large("tokenizer.json")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let home = Home::init(folder.path().join("home"), &InitOptions::new(model).tokenizer(tokenizer)).unwrap();
    let taught = intents("train", 6);
    let inputs: Vec<RawInput> = taught.iter().map(|(_, text)| RawInput::Text(text.clone())).collect();
    let trained = |threads: usize| {
        let session = home.session(&format!("on-{threads}")).unwrap();
        teach_texts(&session, &taught);
        let settings = Settings { threads, deepest: Depth::LastBlock, steps: Some(6), ..session.settings() };
        let report = session.train(&TrainOptions::default().settings(settings)).unwrap();
        assert!(report.promoted, "{:?}", report.tried);
        let adapter = session.adapter().unwrap().unwrap();
        let answers = [&inputs[..1], &inputs[..]].map(|some| session.evaluate(some, false, threads).unwrap().unwrap());
        (report.tried, adapter.sites, adapter.head, answers)
    };
    let one = trained(1);
    for threads in [2, 3, 8] {
        assert_eq!(trained(threads), one, "{threads} threads");
    }
}
