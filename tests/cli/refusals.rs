//! What a user can hand over that is wrong.

use std::path::Path;

use acclimate::input::{ArrayData, NamedArray};
use serde_json::Value;

use crate::program::{Bench, asset, json, node, refused, replace, run, save, says, tiny_model};

#[test]
fn calls_that_make_no_sense() {
    let bench = Bench::new();
    let home = bench.home();
    let id = bench.predict();
    for args in [
        &["feedback", &home, &id][..],
        &["feedback", &home, &id, "--accept", "--reject"],
        &["feedback", &home, &id, "--accept", "--new-class"],
        &["predict", &home],
        &["train", &home, "--steps", "0"],
        &["train", &home, "--budget-seconds=-1"],
        &["train", &home, "--disagreement-limit", "1.5"],
        &["no-such-command"],
    ] {
        refused(args, 2);
    }
    says(&refused(&["status", &home, "--profile", "nobody"], 2), "error", "there is no profile");
    says(
        &refused(&["predict", &home, &bench.input(), "--profile", "../up"], 2),
        "error",
        "cannot be the name of a profile",
    );
    says(&refused(&["status", &bench.at("elsewhere")], 2), "next", "acclimate init");
    says(&refused(&["init", &home, "--model", asset("har_cnn.onnx").to_str().unwrap()], 2), "error", "home already");
    assert_eq!(json(&["status", &home])["feedback"], 0);
    assert!(!Path::new(&bench.at("home/profiles/nobody")).exists(), "a slip in a name makes no profile");
}

#[test]
fn models_that_are_none() {
    let bench = Bench::new();
    let whole = std::fs::read(asset("har_cnn.onnx")).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(bench.at(name), bytes).unwrap();
        bench.at(name)
    };
    let missing = bench.at("missing.onnx");
    let bad = [
        write("truncated.onnx", &whole[..whole.len() / 2]),
        write("text.onnx", b"this is no model\n"),
        write("empty.onnx", b""),
    ];
    for command in ["inspect", "gradcheck", "bench"] {
        says(&refused(&[command, &missing], 74), "next", "path");
        for file in &bad {
            says(&refused(&[command, file], 65), "at", file);
        }
    }
    for file in &bad {
        refused(&["init", &bench.at("new"), "--model", file], 65);
        assert!(!Path::new(&bench.at("new")).exists(), "a home of a model that cannot be read");
    }
    refused(&["init", &bench.at("new"), "--model", &missing], 74);

    let (siteless, unknown) = (bench.at("siteless.onnx"), bench.at("unknown.onnx"));
    tiny_model(Path::new(&siteless), vec![node("Relu")]);
    tiny_model(Path::new(&unknown), vec![node("NobodyKnowsThis")]);
    says(&refused(&["gradcheck", &siteless], 69), "next", "inspect");
    assert_eq!(json(&["inspect", &siteless])["sites"], Value::Array(vec![]));
    assert_eq!(json(&["init", &bench.at("headless"), "--model", &siteless])["sites"], Value::Array(vec![]));
    says(&refused(&["inspect", &unknown], 69), "next", "operator");
    says(
        &refused(&["inspect", asset("har_cnn.onnx").to_str().unwrap(), "--sites", "no*such"], 2),
        "error",
        "no site matches",
    );
}

#[test]
fn feedback_that_cannot_be_taken() {
    let bench = Bench::new();
    let (home, id) = (bench.home(), bench.predict());
    let e = refused(&["feedback", &home, &id, "--label", "walkin"], 2);
    says(&e, "error", "unknown label");
    says(&e, "next", "--new-class");
    says(&refused(&["feedback", &home, "zzzz", "--accept"], 2), "next", "came with the answer");
    let other = acclimate::journal::InteractionId(7).to_string();
    says(&refused(&["feedback", &home, &other, "--accept"], 2), "error", &other);
    assert_eq!(bench.status()["feedback"], 0);
    assert_eq!(json(&["feedback", &home, &id, "--label", "swimming", "--new-class"])["durable"], true);
    refused(&["feedback", &home, &id, "--accept"], 2);
    assert_eq!(bench.status()["feedback"], 1, "a refusal records nothing");
}

/// The labels of the list are written with combining accents, as macOS names files; a person types composed letters.
#[test]
fn an_accented_label_is_the_same_class_however_it_is_written() {
    let bench = Bench::new();
    let list = bench.at("labels.txt");
    std::fs::write(&list, "cafe\u{301}\nsitting\nlaying\nwalking\nmonte\u{301}e\ndown\n").unwrap();
    let (home, model) = (bench.at("accents"), asset("har_cnn.onnx"));
    json(&["init", &home, "--model", model.to_str().unwrap(), "--labels", &list]);
    let answers = json(&["predict", &home, &bench.input(), "--top", "6"]);
    let id = answers[0]["id"].as_str().unwrap().to_owned();
    let top: Vec<&str> = answers[0]["top"].as_array().unwrap().iter().map(|t| t["label"].as_str().unwrap()).collect();
    assert!(top.contains(&"caf\u{e9}") && top.contains(&"mont\u{e9}e"), "{top:?}");
    assert_eq!(json(&["feedback", &home, &id, "--label", "caf\u{e9}"])["durable"], true, "it is no new class");
    let second = json(&["predict", &home, &bench.input()])[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(json(&["feedback", &home, &second, "--label", "monte\u{301}e"])["durable"], true);
    assert_eq!(json(&["status", &home])["classes"], 6);
}

#[test]
fn inputs_that_do_not_fit() {
    let bench = Bench::new();
    let home = bench.home();
    let array = |name: &str, shape: &[usize], data: ArrayData| {
        save(Path::new(&bench.at(name)), &NamedArray { name: String::new(), shape: shape.to_vec(), data });
        bench.at(name)
    };
    let mut odd = vec![0.0f32; 768];
    odd[5] = f32::NAN;
    let whole = std::fs::read(bench.input()).unwrap();
    std::fs::write(bench.at("torn.npy"), &whole[..whole.len() - 7]).unwrap();
    std::fs::write(bench.at("words.txt"), "walk on").unwrap();
    let cases = [
        (array("nan.npy", &[6, 128], ArrayData::F32(odd)), "finite"),
        (array("shape.npy", &[6, 127], ArrayData::F32(vec![0.0; 762])), "shape"),
        (array("flat.npy", &[768], ArrayData::F32(vec![0.0; 768])), "shape"),
        (array("none.npy", &[0, 6, 128], ArrayData::F32(vec![])), "without an example"),
        (bench.at("torn.npy"), ""),
        (bench.at("words.txt"), "this model takes arrays"),
        ("turn on the light".to_string(), "this model takes arrays"),
        (bench.at("absent.npy"), "no such file"),
    ];
    for (input, words) in &cases {
        says(&refused(&["predict", &home, input], 65), "error", words);
    }
    // An image model takes no text either.
    let pictures = bench.at("pictures");
    acclimate::Home::init(&pictures, &acclimate::InitOptions::new(asset("digits_cnn.onnx"))).unwrap();
    says(&refused(&["predict", &pictures, "a sunset"], 65), "error", "this model takes pictures");
    says(&refused(&["eval", &home, "--data", &bench.at("words.txt")], 65), "error", "malformed line");
    assert_eq!(bench.status()["interactions"], 0, "a refused input is not recorded");
    // What was answered before the bad one is shown and kept.
    let output = run(&["predict", &home, &bench.input(), &bench.at("shape.npy"), "--json"]);
    assert_eq!(output.status.code(), Some(65));
    let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((answers.as_array().unwrap().len(), &bench.status()["interactions"]), (1, &Value::from(1)));
}

#[test]
fn a_base_that_changed_is_refused_by_both_hashes() {
    let bench = Bench::new();
    let (home, id) = (bench.home(), bench.predict());
    json(&["feedback", &home, &id, "--accept"]);
    let model = bench.at("home/base.onnx");
    let whole = std::fs::read(&model).unwrap();
    let fingerprint = bench.status()["fingerprint"].as_str().unwrap().to_string();
    let mut changed = whole.clone();
    *changed.iter_mut().rev().nth(2000).unwrap() ^= 1;
    replace(model.as_ref(), &changed);
    for args in [&["predict", &home, &bench.input()][..], &["train", &home], &["status", &home]] {
        let e = refused(args, 65);
        says(&e, "because", &fingerprint);
        says(&e, "because", &acclimate::base::fingerprint(&changed).to_string());
    }
    replace(model.as_ref(), &whole);
    assert_eq!(bench.status()["feedback"], 1);
}
