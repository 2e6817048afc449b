//! Where a model ends, through the program and the library: one score, time before the batch, labels that do not fit,
//! outputs that are chosen by name, and models that are no classifiers. What is expected is computed here, from the
//! weights.
#![cfg(all(feature = "cli", feature = "train"))]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use acclimate::input::{ArrayData, LabelledSet, NamedArray, RawInput};
use acclimate::tools::simulate::{Options, simulate};
use acclimate::{Feedback, Home, InitOptions, Session};
use assert_cmd::cargo::cargo_bin;
use prost::Message;
use serde_json::Value;
use tempfile::TempDir;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::*;

const INPUTS: usize = 4;
const HIDDEN: usize = 6;

fn wave(n: usize, shift: f32) -> Vec<f32> {
    (0..n).map(|i| (1.7 * i as f32 + shift).sin()).collect()
}

fn stored(name: &str, dims: &[usize], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.iter().map(|d| *d as i64).collect(),
        data_type: tensor_proto::DataType::Float as i32,
        float_data: values.to_vec(),
        ..Default::default()
    }
}

/// An open dimension is −1.
fn port(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |d: &i64| match d {
        -1 => Dimension { value: Some(dimension::Value::DimParam("batch".into())), ..Default::default() },
        d => Dimension { value: Some(dimension::Value::DimValue(*d)), ..Default::default() },
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: tensor_proto::DataType::Float as i32, shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { value, ..Default::default() }), ..Default::default() }
}

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        name: output.into(),
        op_type: op.into(),
        input: inputs.iter().map(|s| s.to_string()).collect(),
        output: vec![output.into()],
        attribute,
        ..Default::default()
    }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: 2, i, ..Default::default() }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: 7, ints: ints.to_vec(), ..Default::default() }
}

/// A file of its own folder.
struct File(TempDir);

impl File {
    fn new(input: &[i64], nodes: Vec<NodeProto>, initializer: Vec<TensorProto>, output: Vec<ValueInfoProto>) -> File {
        let graph = GraphProto {
            name: "g".into(),
            node: nodes,
            initializer,
            input: vec![port("x", input)],
            output,
            ..Default::default()
        };
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 17 }];
        let model = ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..Default::default() };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.onnx"), model.encode_to_vec()).unwrap();
        File(folder)
    }
    fn path(&self) -> PathBuf {
        self.at("model.onnx")
    }
    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn text(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_string()
    }
    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.at(name), text).unwrap();
        self.text(name)
    }
}

fn layers(classes: usize) -> Vec<TensorProto> {
    vec![
        stored("w1", &[INPUTS, HIDDEN], &wave(INPUTS * HIDDEN, 0.3)),
        stored("b1", &[HIDDEN], &wave(HIDDEN, 1.1)),
        stored("w2", &[HIDDEN, classes], &wave(HIDDEN * classes, 2.2)),
        stored("b2", &[classes], &wave(classes, 0.7)),
        stored("t", &[], &[1.5]),
    ]
}

/// `h = relu(x·w1 + b1)`, and `z` with `classes` numbers.
fn body() -> Vec<NodeProto> {
    vec![
        node("Gemm", &["x", "w1", "b1"], "h0", vec![]),
        node("Relu", &["h0"], "h", vec![]),
        node("Gemm", &["h", "w2", "b2"], "z", vec![]),
    ]
}

/// `z` of one example, in double precision.
fn scores(x: &[f32], classes: usize) -> Vec<f64> {
    let layer = |x: &[f64], w: &[f32], b: &[f32]| -> Vec<f64> {
        let column = |j: usize| x.iter().enumerate().map(|(i, v)| v * f64::from(w[i * b.len() + j])).sum::<f64>();
        (0..b.len()).map(|j| column(j) + f64::from(b[j])).collect()
    };
    let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    let h = layer(&x, &wave(INPUTS * HIDDEN, 0.3), &wave(HIDDEN, 1.1));
    let h: Vec<f64> = h.into_iter().map(|v| v.max(0.0)).collect();
    layer(&h, &wave(HIDDEN * classes, 2.2), &wave(classes, 0.7))
}

fn classifier(end: Vec<NodeProto>, classes: usize, output: &[ValueInfoProto]) -> File {
    File::new(&[-1, INPUTS as i64], body().into_iter().chain(end).collect(), layers(classes), output.to_vec())
}

fn sigmoid() -> File {
    classifier(vec![node("Sigmoid", &["z"], "y", vec![])], 1, &[port("y", &[-1, 1])])
}

fn array(shape: &[usize], values: Vec<f32>) -> RawInput {
    RawInput::Arrays(vec![NamedArray::new("", shape.to_vec(), ArrayData::F32(values)).unwrap()])
}

fn run(args: &[&str]) -> Output {
    Command::new(cargo_bin("acclimate")).args(args).env("NO_COLOR", "1").output().unwrap()
}

#[track_caller]
fn json(args: &[&str]) -> (Value, String) {
    let output = run(&[args, &["--json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

#[track_caller]
fn refused(args: &[&str], code: i32, words: &[&str]) {
    let output = run(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    words.iter().for_each(|w| assert!(said.contains(w), "{w:?} is not in {said}"));
}

fn labelled(file: &File, labels: &str) -> Home {
    let options = InitOptions::new(file.path()).labels(file.write("labels.txt", labels));
    Home::init(file.at("home"), &options).unwrap()
}

#[test]
fn one_score_answers_no_and_yes_and_learns_a_third() {
    let file = sigmoid();
    let home = labelled(&file, "no\nyes\n");
    assert_eq!(home.config().task, "classification");
    let session = home.session("p").unwrap();
    for shift in 0..8 {
        let x = wave(INPUTS, shift as f32);
        let p = 1.0 / (1.0 + (-scores(&x, 1)[0]).exp());
        for found in session.predict(&array(&[INPUTS], x)).unwrap().top {
            let wanted = if found.label == "yes" { p } else { 1.0 - p };
            assert!((f64::from(found.p) - wanted).abs() < 1e-5, "{found:?}, not {wanted}");
        }
    }
    // A third class, far from what the model knows.
    let example = |i: usize| {
        let far = [6.0, 0.0][i % 2];
        array(&[INPUTS], wave(INPUTS, i as f32).into_iter().map(|v| v + far).collect())
    };
    for i in 0..48 {
        let answer = session.predict(&example(i)).unwrap();
        let said = if i % 2 == 0 { Feedback::NewLabel("maybe".into()) } else { Feedback::Accept };
        session.feedback(answer.id.unwrap(), said).unwrap();
    }
    support::train(&session, 2);
    let right = (48..64).step_by(2).filter(|i| session.predict(&example(*i)).unwrap().label() == Some("maybe")).count();
    assert!(right >= 7, "{right} of 8");
    let merged = exported(&session, &file);
    let inputs: Vec<RawInput> = (40..64).map(example).collect();
    let [a, b] = [&session, &merged].map(|s| s.evaluate(&inputs, false, 1).unwrap().unwrap());
    let b = support::at_temperature_of(&session, &b);
    assert!(support::apart(&a, &b) < 1e-4, "{}", support::apart(&a, &b));
    assert_eq!(merged.labels().len(), 3);
    // No label of its own is lost where they are set aside.
    let options = InitOptions::new(file.path()).task(acclimate::Task::Encoder);
    assert_eq!(Home::init(file.at("aside"), &options).unwrap().labels().len(), 0);
}

/// The active generation, written into one file and opened as a model of its own.
fn exported(session: &Session, file: &File) -> Session {
    let out = file.at("merged.onnx");
    acclimate::export::merged(session, &out).unwrap();
    Home::init(file.at("exported"), &InitOptions::new(out)).unwrap().session("p").unwrap()
}

/// Behind a temperature the scores are not the last layer's product: the head is added behind them.
#[test]
fn a_head_behind_a_temperature_is_merged_as_it_answers() {
    let file = classifier(vec![node("Div", &["z", "t"], "y", vec![])], 3, &[port("y", &[-1, 3])]);
    let home = Home::init(file.at("home"), &InitOptions::new(file.path())).unwrap();
    let session = home.session("p").unwrap();
    let example =
        |i: usize| array(&[INPUTS], wave(INPUTS, i as f32).into_iter().map(|v| v + (i % 2 * 6) as f32).collect());
    for i in 0..48 {
        let answer = session.predict(&example(i)).unwrap();
        let said = if i % 2 == 1 { Feedback::NewLabel("far".into()) } else { Feedback::Accept };
        session.feedback(answer.id.unwrap(), said).unwrap();
    }
    support::train(&session, 2);
    acclimate::export::merged(&session, &file.at("merged.onnx")).unwrap();
    let merged = Home::init(file.at("merged"), &InitOptions::new(file.at("merged.onnx"))).unwrap();
    let merged = merged.session("p").unwrap();
    for i in 0..8 {
        let [ours, theirs] = [&session, &merged].map(|s| s.predict(&example(i)).unwrap().top);
        assert_eq!((ours.len(), theirs.len()), (4, 4));
        let p = |top: &[acclimate::Scored]| {
            ndarray::Array2::from_shape_vec((1, 4), top.iter().map(|s| s.p).collect()).unwrap()
        };
        let theirs = support::at_temperature_of(&session, &p(&theirs));
        assert!(support::apart(&p(&ours), &theirs) < 1e-4, "{ours:?} {theirs:?}");
    }
}

#[test]
fn labels_that_do_not_fit_are_said_before_anything_is_stored() {
    let file = classifier(vec![], 4, &[port("z", &[-1, 4])]);
    let labels = file.write("labels.txt", "a\nb\nc\nd\ne\n");
    let model = file.text("model.onnx");
    let (data, said) = json(&["init", &file.text("home"), "--model", &model, "--labels", &labels]);
    let warning = data["warnings"][0].as_str().unwrap();
    assert!(warning.contains("set aside") && warning.contains("4 classes") && said.contains(warning), "{data} {said}");
    assert_eq!(data["task"], "encoder");
    // It is said before: here nothing can be stored, since another model lies in its place.
    std::fs::create_dir(file.at("taken")).unwrap();
    file.write("taken/base.onnx", "another model");
    let output = run(&["init", &file.text("taken"), "--model", &model, "--labels", &labels]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("set aside"), "{said}");
    assert!(!file.at("taken/acclimate.toml").exists());
    let four = file.write("four.txt", "a\nb\nc\nd\n");
    let (data, said) = json(&["init", &file.text("home4"), "--model", &model, "--labels", &four]);
    assert_eq!(
        (data["warnings"].as_array().unwrap().len(), data["task"].as_str().unwrap()),
        (0, "classification"),
        "{said}"
    );
}

#[test]
fn four_labels_for_four_outputs_are_a_classifier_whatever_its_last_operator() {
    let file = classifier(vec![node("Tanh", &["z"], "y", vec![])], 4, &[port("y", &[-1, 4])]);
    let home = labelled(&file, "a\nb\nc\nd\n");
    for home in [home, Home::open(file.at("home")).unwrap()] {
        let session = home.session("p").unwrap();
        for shift in 0..6 {
            let x = wave(INPUTS, shift as f32);
            let z = scores(&x, 4);
            let best = (0..4).max_by(|a, b| z[*a].total_cmp(&z[*b])).unwrap();
            assert_eq!(session.predict(&array(&[INPUTS], x)).unwrap().label(), Some(["a", "b", "c", "d"][best]));
        }
    }
}

/// `[batch, 12, 4] → tanh(x·w)`, with the batch where `perm` puts it.
fn steps(perm: Option<&[i64]>, output: &[i64]) -> File {
    let inner = if perm.is_some() { "t" } else { "y" };
    let mut nodes = vec![node("MatMul", &["x", "w"], "m", vec![]), node("Tanh", &["m"], inner, vec![])];
    nodes.extend(perm.map(|perm| node("Transpose", &["t"], "y", vec![ints("perm", perm)])));
    let w = stored("w", &[4, 8], &wave(32, 0.9));
    File::new(&[-1, 12, 4], nodes, vec![w], vec![port("y", output)])
}

#[test]
fn an_output_with_time_before_the_batch_learns_as_one_with_the_batch_first() {
    let rows = |from: usize, n: usize| {
        let x: Vec<f32> = (from..from + n)
            .flat_map(|i| (0..48).map(move |j| ((i % 3) * 2) as f32 - 2.0 + wave(1, (i * 48 + j) as f32)[0]))
            .collect();
        (x, (from..from + n).map(|i| (i % 3) as i64).collect::<Vec<_>>())
    };
    let folder = tempfile::tempdir().unwrap();
    let set = |name: &str, from, n| {
        let (x, y) = rows(from, n);
        let arrays = [
            NamedArray::new("x", vec![n, 12, 4], ArrayData::F32(x)).unwrap(),
            NamedArray::new("y", vec![n], ArrayData::I64(y)).unwrap(),
        ];
        acclimate::input::write_npz(&folder.path().join(name), &arrays).unwrap();
        LabelledSet::read(folder.path().join(name)).unwrap()
    };
    let (train, test) = (set("train.npz", 0, 60), set("test.npz", 300, 60));
    let mut learned = vec![];
    for file in [steps(None, &[-1, 12, 8]), steps(Some(&[1, 0, 2]), &[12, -1, 8])] {
        let options = Options { train_every: Some(1000), threads: 1, ..Options::default() };
        let init = InitOptions::new(file.path());
        let report = simulate(&init, train.clone(), Some(test.clone()), &options, &|_| {}).unwrap();
        learned.push((report.test.adapted, report.feedback));
    }
    assert!(learned[0].0 > 0.9 && learned[0] == learned[1], "{learned:?}");
    // What is exported answers as the active generation.
    let file = steps(Some(&[1, 0, 2]), &[12, -1, 8]);
    let session = Home::init(file.at("home"), &InitOptions::new(file.path())).unwrap().session("p").unwrap();
    for i in 0..train.len() {
        let id = session.predict(&train.input(i).unwrap()).unwrap().id.unwrap();
        session.feedback(id, Feedback::NewLabel(train.labels()[i].clone())).unwrap();
    }
    support::train(&session, 1);
    let merged = exported(&session, &file);
    let inputs = support::inputs(&test, 6);
    let [a, b] = [&session, &merged].map(|s| s.evaluate(&inputs, false, 1).unwrap().unwrap());
    let b = support::at_temperature_of(&session, &b);
    assert!(support::apart(&a, &b) < 1e-4, "{}", support::apart(&a, &b));
}

#[test]
fn the_output_that_is_named_answers_and_is_remembered() {
    let end = vec![node("Softmax", &["z"], "probabilities", vec![int("axis", 1)])];
    let outputs = [port("h", &[-1, HIDDEN as i64]), port("probabilities", &[-1, 3])];
    let file = classifier(end, 3, &outputs);
    let (model, home) = (file.text("model.onnx"), file.text("home"));
    // By its name, and by that of another one.
    let (data, said) = json(&["init", &home, "--model", &model]);
    assert_eq!((data["model_output"].as_str(), data["classes"].as_u64()), (Some("probabilities"), Some(3)), "{said}");
    assert!(data["warnings"][0].as_str().unwrap().contains("--model-output"), "{data}");
    let (data, _) =
        json(&["init", &file.text("vectors"), "--model", &model, "--model-output", "h", "--task", "encoder"]);
    assert_eq!((data["model_output"].as_str(), data["task"].as_str()), (Some("h"), Some("encoder")));
    for (home, name) in [("home", "probabilities"), ("vectors", "h")] {
        let settings = std::fs::read_to_string(file.at(home).join("acclimate.toml")).unwrap();
        assert!(settings.contains(&format!("model_output = \"{name}\"")), "{settings}");
    }
    let session = Home::open(file.at("home")).unwrap().session("p").unwrap();
    let x = wave(INPUTS, 0.5);
    let z = scores(&x, 3);
    let total: f64 = z.iter().map(|z| z.exp()).sum();
    for found in session.predict(&array(&[INPUTS], x)).unwrap().top {
        let wanted = z[found.label.parse::<usize>().unwrap()].exp() / total;
        assert!((f64::from(found.p) - wanted).abs() < 1e-5, "{found:?}, not {wanted}");
    }
    let (report, _) = json(&["inspect", &model]);
    assert_eq!((report["kind"].as_str(), report["features"].as_u64()), (Some("classes"), Some(HIDDEN as u64)));
    assert_eq!(report["end"]["scores"]["node"], "z", "{report}");
    assert_eq!(report["end"]["probabilities"]["form"], "softmax", "{report}");
    let (report, _) = json(&["inspect", &model, "--model-output", "h", "--model-input", "x"]);
    assert_eq!(report["model_output"], "h");
    for command in [&["gradcheck", &model][..], &["bench", &model, "--repeats", "1", "--batch", "2"]] {
        json(&[command, &["--model-output", "probabilities"]].concat());
    }
    refused(
        &["inspect", &model, "--model-output", "nothing"],
        2,
        &["no output \"nothing\"", "probabilities f32[batch, 3]"],
    );
    refused(&["inspect", &model, "--model-input", "nothing"], 2, &["no input \"nothing\"", "x f32[batch, 4]"]);
    // Pinned, it is the only one.
    json(&["pin", &model, "--model-output", "h", "--output", &file.text("pinned.onnx")]);
    let (report, _) = json(&["inspect", &file.text("pinned.onnx")]);
    assert_eq!(report["outputs"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["parameters"], INPUTS * HIDDEN + HIDDEN);
    refused(
        &["pin", &model, "--model-output", "x", "--output", &file.text("no.onnx")],
        2,
        &["there are: h, probabilities"],
    );
}

#[test]
fn what_is_no_classifier_is_refused_and_inspected() {
    let conv = || node("Conv", &["x", "k"], "c", vec![ints("kernel_shape", &[1, 1])]);
    let flat = || node("Flatten", &["c"], "y", vec![]);
    let k = || vec![stored("k", &[6, 3, 1, 1], &wave(18, 0.1))];
    let multi = classifier(vec![node("Sigmoid", &["z"], "y", vec![])], 3, &[port("y", &[-1, 3])]);
    let number = classifier(vec![], 1, &[port("z", &[-1, 1])]);
    let map = File::new(&[-1, 3, 32, 32], vec![conv(), flat()], k(), vec![port("y", &[-1, 6144])]);
    for (file, kind, words) in [
        (&map, "map", "map"),
        (&multi, "multi_label", "--task encoder"),
        (&number, "regression", "--task classification"),
    ] {
        let model = file.text("model.onnx");
        refused(&["init", &file.text("home"), "--model", &model], 69, &[words]);
        assert!(!Path::new(&file.text("home")).exists());
        let (report, said) = json(&["inspect", &model]);
        assert_eq!((report["kind"].as_str(), &report["task"]), (Some(kind), &Value::Null));
        assert!(report["warnings"][0].as_str().is_some_and(|w| said.contains(w)), "{report} {said}");
    }
    // What the message offers works.
    refused(
        &["init", &multi.text("home"), "--model", &multi.text("model.onnx"), "--task", "classification"],
        69,
        &["sigmoid"],
    );
    let (data, _) = json(&["init", &multi.text("home"), "--model", &multi.text("model.onnx"), "--task", "encoder"]);
    assert_eq!((data["task"].as_str(), data["classes"].as_u64()), (Some("encoder"), Some(0)));
    let (data, _) =
        json(&["init", &number.text("home"), "--model", &number.text("model.onnx"), "--task", "classification"]);
    assert_eq!(data["classes"], 2);
}
