//! Settings, states and sizes that are pinned, and the branches that they decide: answers as ONNX Runtime's on the whole model
//! (`scripts/golden_branches.py`).
#![cfg(feature = "train")]

use std::path::{Path, PathBuf};

use acclimate::base::Base;
use acclimate::input::{ArrayData, NamedArray, RawInput};
use acclimate::tools::pin::{Pins, pin};
use acclimate::{ErrorKind, Feedback, Home, InitOptions};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn pins(dims: &[(&str, usize)], inputs: &[(&str, f64)]) -> Pins {
    Pins {
        dims: dims.iter().map(|(name, n)| (name.to_string(), *n)).collect(),
        inputs: inputs.iter().map(|(name, v)| (name.to_string(), *v)).collect(),
        output: None,
    }
}

fn sound(path: &Path) -> acclimate::Result<()> {
    Base::open(path).map(drop)
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn row(values: Vec<f32>) -> RawInput {
    RawInput::Arrays(vec![NamedArray::new("x", vec![values.len()], ArrayData::F32(values)).unwrap()])
}

#[test]
fn a_pinned_model_answers_as_the_whole_one_with_those_values() {
    let folder = tempfile::tempdir().unwrap();
    let golden: Value = serde_json::from_slice(&std::fs::read(fixture("branches.json")).unwrap()).unwrap();
    for (n, case) in golden["cases"].as_array().unwrap().iter().enumerate() {
        let out = folder.path().join(format!("{n}.onnx"));
        let (rate, state) = (case["rate"].as_f64().unwrap(), case["state"].as_f64().unwrap());
        let written =
            pin(&fixture("branches.onnx"), &pins(&[("length", 6)], &[("rate", rate), ("state", state)]), &out, &sound);
        assert_eq!(written.unwrap().bytes, std::fs::metadata(&out).unwrap().len());
        let session =
            Home::init(folder.path().join(format!("home{n}")), &InitOptions::new(&out)).unwrap().session("p").unwrap();
        for (x, logits) in golden["x"].as_array().unwrap().iter().zip(case["logits"].as_array().unwrap()) {
            let logits = floats(logits);
            let total: f32 = logits.iter().map(|z| z.exp()).sum();
            for found in session.predict(&row(floats(x))).unwrap().top {
                let wanted = logits[found.label.parse::<usize>().unwrap()].exp() / total;
                assert!((found.p - wanted).abs() < 1e-5, "case {n}: {found:?}, not {wanted}");
            }
        }
    }
}

#[test]
fn its_branches_adapt_and_merge() {
    let folder = tempfile::tempdir().unwrap();
    let (out, merged) = (folder.path().join("pinned.onnx"), folder.path().join("merged.onnx"));
    pin(&fixture("branches.onnx"), &pins(&[("length", 6)], &[("rate", 8000.0), ("state", 0.0)]), &out, &sound).unwrap();
    let session = Home::init(folder.path().join("home"), &InitOptions::new(&out)).unwrap().session("p").unwrap();
    let question =
        |n: usize| row((0..6).map(|i| if i == n % 3 { 2.0 } else { ((n * 7 + i * 3) % 11) as f32 / 11.0 }).collect());
    for n in 0..36 {
        let id = session.predict(&question(n)).unwrap().id.unwrap();
        session.feedback(id, Feedback::Label(((n + 1) % 3).to_string())).unwrap();
    }
    let report = session.train(&Default::default()).unwrap();
    assert!(report.promoted, "{:?}", report.verdict);
    acclimate::export::merged(&session, &merged).unwrap();
    let other = Home::init(folder.path().join("other"), &InitOptions::new(&merged)).unwrap().session("p").unwrap();
    for n in 40..50 {
        let (ours, theirs) = (session.predict(&question(n)).unwrap().top, other.predict(&question(n)).unwrap().top);
        assert_eq!(ours[0].label, theirs[0].label);
        assert!(ours.iter().zip(&theirs).all(|(a, b)| (a.p - b.p).abs() < 1e-4), "{ours:?} {theirs:?}");
    }
}

#[test]
fn what_is_open_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    let model = fixture("branches.onnx");
    let refused = |p: Pins, kind: ErrorKind, words: &[&str]| {
        let e = pin(&model, &p, &out, &sound).unwrap_err();
        let said = format!("{e} {}", e.next_step().unwrap_or_default());
        assert_eq!(e.kind(), kind, "{said}");
        words.iter().for_each(|w| assert!(said.contains(w), "{w:?} is not in {said:?}"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    };
    let usage = ErrorKind::Usage;
    refused(pins(&[("width", 6)], &[]), usage, &["\"width\"", "there are: batch, length"]);
    refused(pins(&[], &[("speed", 1.0)]), usage, &["\"speed\"", "there are: x, rate, state"]);
    refused(pins(&[], &[("state", f64::NAN)]), usage, &["\"state\"", "no number"]);
    refused(pins(&[], &[("rate", 0.5)]), usage, &["\"rate\"", "whole number"]);
    refused(pins(&[], &[("rate", 1.0), ("state", 0.0), ("x", 0.0)]), usage, &["\"x\"", "only input"]);
    // The branches hang on what is still open.
    let unsupported = ErrorKind::UnsupportedModel;
    refused(
        pins(&[("length", 6)], &[("state", 0.0)]),
        unsupported,
        &["branches.onnx", "--dim length=6 --input state=0 --input rate="],
    );
    refused(
        pins(&[], &[("rate", 8000.0), ("state", 0.0)]),
        unsupported,
        &["--input rate=8000 --input state=0 --dim length="],
    );
    std::fs::write(&out, "taken").unwrap();
    assert_eq!(pin(&model, &pins(&[("length", 6)], &[]), &out, &sound).unwrap_err().kind(), usage);
}
