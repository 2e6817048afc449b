//! End to end through the program: the daily use, and everything that a user can hand it that is wrong. Each refusal has its
//! documented exit code, says what to do next, and leaves what is stored as it was.
#![cfg(all(feature = "cli", feature = "train"))]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use acclimate::input::{ArrayData, LabelledSet, NamedArray, RawInput, arrays, write_npz};
use assert_cmd::cargo::cargo_bin;
use prost::Message;
use serde_json::Value;
use tempfile::TempDir;

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

fn acclimate(args: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin("acclimate"));
    command.args(args).env_remove("ACCLIMATE_LOG").env("NO_COLOR", "1");
    command
}

fn run(args: &[&str]) -> Output {
    acclimate(args).output().unwrap()
}

/// Data of a command that must succeed.
fn json(args: &[&str]) -> Value {
    let output = run(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The error of a command that must fail with `code`: without `--json` for its looks, with it for its parts.
#[track_caller]
fn refused(args: &[&str], code: i32) -> Value {
    let plain = run(args);
    let text = String::from_utf8_lossy(&plain.stderr).into_owned();
    assert_eq!(plain.status.code(), Some(code), "{args:?}: {text}");
    assert!(plain.stdout.is_empty(), "{args:?} printed data");
    assert!(text.contains("error: ") && !text.contains("panicked"), "{args:?}: {text}");
    let output = run(&[args, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(code), "{args:?} with --json");
    let text = String::from_utf8(output.stderr).unwrap();
    let error: Value =
        serde_json::from_str(text.lines().last().unwrap_or("")).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"));
    assert_eq!(error["exit"], code, "{error}");
    error
}

fn says(error: &Value, part: &str, words: &str) {
    assert!(error[part].as_str().is_some_and(|t| t.contains(words)), "no {words:?} in {part:?} of {error}");
}

/// The windows of one person whose activity the model knows, in order of time.
fn person(user: i64) -> LabelledSet {
    let all = LabelledSet::read(asset("hapt_users_23_26.npz")).unwrap().filter_user(user).unwrap();
    let known: Vec<usize> = (0..all.len()).filter(|&i| all.labels()[i].parse::<usize>().unwrap() < 6).collect();
    all.select(&known).unwrap()
}

fn window(set: &LabelledSet, i: usize) -> NamedArray {
    let RawInput::Arrays(mut arrays) = set.input(i).unwrap() else { panic!("not an array") };
    arrays.remove(0)
}

fn values(array: &NamedArray) -> Vec<f32> {
    array.data.to_f32()
}

/// Windows `rows` of a set as one `[n, 6, 128]` array.
fn windows(set: &LabelledSet, rows: &[usize]) -> NamedArray {
    let all = rows.iter().flat_map(|&i| values(&window(set, i))).collect();
    NamedArray::new("x", vec![rows.len(), 6, 128], ArrayData::F32(all)).unwrap()
}

fn save(path: &Path, array: &NamedArray) {
    arrays::write_npy(path, array).unwrap();
}

fn save_labelled(path: &Path, set: &LabelledSet, rows: &[usize]) {
    let y = rows.iter().map(|&i| set.labels()[i].parse::<i64>().unwrap()).collect();
    write_npz(path, &[windows(set, rows), NamedArray::new("y", vec![rows.len()], ArrayData::I64(y)).unwrap()]).unwrap();
}

/// A home of the activity model, and a folder beside it for inputs.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench { dir: tempfile::tempdir().unwrap() };
        json(&["init", &bench.home(), "--model", asset("har_cnn.onnx").to_str().unwrap()]);
        bench
    }
    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_string()
    }
    fn home(&self) -> String {
        self.at("home")
    }
    fn profile(&self, name: &str) -> PathBuf {
        self.dir.path().join("home/profiles/default").join(name)
    }
    /// A window of zeros as a file.
    fn input(&self) -> String {
        let file = self.at("input.npy");
        save(Path::new(&file), &NamedArray::new("", vec![6, 128], ArrayData::F32(vec![0.1; 768])).unwrap());
        file
    }
    /// Predicts the window of zeros; the id.
    fn predict(&self) -> String {
        json(&["predict", &self.home(), &self.input()])[0]["id"].as_str().unwrap().to_string()
    }
    fn status(&self) -> Value {
        json(&["status", &self.home()])
    }
    /// Gives feedback on person `user`'s windows in `rows` through one library session: a process each would take long.
    fn teach(&self, user: i64, rows: &[usize]) {
        let home = acclimate::Home::open(self.home()).unwrap();
        let (session, set) = (home.session("default").unwrap(), person(user));
        for &i in rows {
            let answer = session.predict(&set.input(i).unwrap()).unwrap();
            session.feedback(answer.id.unwrap(), acclimate::Feedback::Label(set.labels()[i].clone())).unwrap();
        }
    }
}

/// A model from `x` to `y`, both of shape `[n, 4]`; a 4 × 4 weight `w` is at hand.
fn tiny_model(path: &Path, nodes: Vec<tract_onnx::pb::NodeProto>) {
    use tract_onnx::pb::*;
    let dim = |value| tensor_shape_proto::Dimension { value: Some(value), ..Default::default() };
    let port = |name: &str| ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: tensor_proto::DataType::Float as i32,
                shape: Some(TensorShapeProto {
                    dim: vec![
                        dim(tensor_shape_proto::dimension::Value::DimParam("n".into())),
                        dim(tensor_shape_proto::dimension::Value::DimValue(4)),
                    ],
                }),
            })),
            ..Default::default()
        }),
        ..Default::default()
    };
    let weight = TensorProto {
        name: "w".into(),
        dims: vec![4, 4],
        data_type: tensor_proto::DataType::Float as i32,
        float_data: (0..16).map(|i| ((i * 7) % 5) as f32 * 0.3 - 0.5).collect(),
        ..Default::default()
    };
    let graph = GraphProto {
        node: nodes,
        name: "g".into(),
        initializer: vec![weight],
        input: vec![port("x")],
        output: vec![port("y")],
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        ..Default::default()
    };
    std::fs::write(path, model.encode_to_vec()).unwrap();
}

fn node(op: &str) -> tract_onnx::pb::NodeProto {
    tract_onnx::pb::NodeProto {
        op_type: op.into(),
        name: format!("the_{op}"),
        input: vec!["x".into()],
        output: vec!["y".into()],
        ..Default::default()
    }
}

#[test]
fn the_daily_use_and_back_to_the_bit() {
    let bench = Bench::new();
    let home = bench.home();
    let set = person(23);
    // The third of the windows that teaches lies in the first half; the later half judges.
    let half = set.len() / 2;
    let teach: Vec<usize> = (0..half).step_by(3).collect();
    let judge: Vec<usize> = (half + 2..set.len()).collect();
    save(Path::new(&bench.at("many.npy")), &windows(&set, &teach));
    save_labelled(Path::new(&bench.at("judge.npz")), &set, &judge);

    let before = json(&["predict", &home, &bench.at("many.npy"), "--top", "6"]);
    let answers = before.as_array().unwrap();
    assert_eq!(answers.len(), teach.len(), "a leading batch dimension holds several inputs");
    assert!(answers.iter().all(|a| a["generation"] == 0 && a["top"].as_array().unwrap().len() == 6));
    for (n, (answer, &i)) in answers.iter().zip(&teach).enumerate() {
        let (id, label) = (answer["id"].as_str().unwrap(), &set.labels()[i]);
        let receipt = match answer["top"][0]["label"] == **label {
            true => json(&["feedback", &home, id, "--accept"]),
            false => json(&["feedback", &home, id, "--label", label]),
        };
        assert_eq!(
            (&receipt["durable"], &receipt["waiting"], &receipt["id"]),
            (&Value::Bool(true), &Value::from(n + 1), &answer["id"])
        );
    }
    assert_eq!(bench.status()["waiting"], teach.len());

    // Every answer was judged, so nothing uncorrected is left to forget.
    let trained = json(&["train", &home, "--threads", "2"]);
    assert_eq!((&trained["promoted"], &trained["generation"]), (&Value::Bool(true), &Value::from(1)), "{trained}");
    assert!(trained["validation"]["after"].as_f64() > trained["validation"]["before"].as_f64(), "{trained}");
    assert!(trained["loss"]["after"].as_f64().unwrap() < trained["loss"]["base"].as_f64().unwrap(), "{trained}");
    assert!(trained["tried"].as_array().is_some_and(|t| !t.is_empty()) && trained["p_value"].as_f64().unwrap() < 0.05);

    let eval = json(&["eval", &home, "--data", &bench.at("judge.npz")]);
    let (base, adapted) = (eval["base_accuracy"].as_f64().unwrap(), eval["adapted_accuracy"].as_f64().unwrap());
    assert_eq!(eval["n"], judge.len());
    assert!(adapted > base + 0.03, "no better on held-out windows: {eval}");

    let during = json(&["predict", &home, &bench.at("many.npy"), "--top", "6"]);
    assert_eq!(during[0]["generation"], 1);
    assert_ne!(during[0]["top"], before[0]["top"]);
    let history = json(&["history", &home]);
    assert_eq!(
        (&history["trainings"][0]["generation"], &history["generations"][0]["active"]),
        (&Value::from(1), &Value::Bool(true))
    );
    let merged = json(&["export", &home, "--merged", &bench.at("merged.onnx")]);
    assert_eq!(std::fs::metadata(bench.at("merged.onnx")).unwrap().len(), merged["bytes"].as_u64().unwrap());
    refused(&["export", &home, "--merged", &bench.at("merged.onnx")], 2);

    let back = json(&["rollback", &home]);
    assert_eq!((&back["generation"], &back["previous"]), (&Value::from(0), &Value::from(1)));
    let after = json(&["predict", &home, &bench.at("many.npy"), "--top", "6"]);
    for (a, b) in after.as_array().unwrap().iter().zip(answers) {
        assert_eq!((&a["top"], &a["generation"]), (&b["top"], &b["generation"]), "the base's answers, to the bit");
    }
    says(&refused(&["rollback", &home], 2), "error", "nothing to roll back");
    assert_eq!(json(&["rollback", &home, "--to", "1"])["generation"], 1);
}

#[test]
fn people_can_read_it() {
    let bench = Bench::new();
    let home = bench.home();
    let text = |args: &[&str]| String::from_utf8(run(args).stdout).unwrap();
    let line = text(&["predict", &home, &bench.input(), "--top", "2"]);
    let words: Vec<&str> = line.split_whitespace().collect();
    assert!(words.len() == 7 && words[3] == "%" && words[6] == "%", "{line:?}");
    assert_eq!(text(&["feedback", &home, words[0], "--label", "3"]).trim(), "saved. 7 more before the first training");
    assert!(text(&["status", &home]).contains("1 on 1 interactions"));
    assert!(text(&["train", &home]).contains("7 more before the first training"));
    assert!(text(&["history", &home]).contains("not promoted"));
    let inspect = text(&["inspect", asset("har_cnn.onnx").to_str().unwrap()]);
    assert!(inspect.contains("/3/Conv") && inspect.contains("adapts"), "{inspect}");
    assert!(text(&["completions", "bash"]).contains("acclimate"));
    // A reader that goes away is no error.
    let mut child = acclimate(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
}

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
fn an_operator_without_a_gradient_is_named_and_what_lies_behind_it_trains() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("odd.onnx");
    let link = |op: &str, from: &[&str], to: &str| tract_onnx::pb::NodeProto {
        input: from.iter().map(|s| s.to_string()).collect(),
        output: vec![to.into()],
        name: format!("{to}_of_{op}"),
        ..node(op)
    };
    let einsum = |equation: &str, from: &[&str], to: &str| {
        let mut node = link("Einsum", from, to);
        let s = equation.as_bytes().to_vec();
        node.attribute.push(tract_onnx::pb::AttributeProto {
            name: "equation".into(),
            r#type: 3,
            s,
            ..Default::default()
        });
        node
    };
    let (outer, rest) = (einsum("bi,bj->bij", &["a", "x"], "m"), einsum("bii->bi", &["m"], "b"));
    let (first, second) = (link("MatMul", &["x", "w"], "a"), link("MatMul", &["b", "w"], "c"));
    tiny_model(&file, vec![first, outer, rest, second, link("MatMul", &["c", "w"], "y")]);
    let model = file.to_str().unwrap();
    let report = json(&["inspect", model]);
    let adapts: Vec<bool> =
        report["sites"].as_array().unwrap().iter().map(|s| s["adapts"].as_bool().unwrap()).collect();
    assert_eq!(adapts, [false, true, false], "cut off, trains, classifier: {report}");
    says(&report["sites"][0], "reason", "b_of_Einsum");
    assert_eq!(json(&["gradcheck", model])["ok"], true);
    let e = refused(&["gradcheck", model, "--sites", "a_of_MatMul"], 69);
    says(&e, "because", "b_of_Einsum");
    says(&e, "next", "--sites");
}

#[test]
fn limits_choose_the_layers() {
    let dir = tempfile::tempdir().unwrap();
    let model = asset("har_cnn.onnx");
    let init = |name: &str, limits: &[&str]| {
        let home = dir.path().join(name);
        let arguments = ["init", home.to_str().unwrap(), "--model", model.to_str().unwrap()];
        json(&[&arguments[..], limits].concat())
    };
    let free = init("free", &[]);
    let (tight, wide) =
        (init("tight", &["--memory", "1MiB"]), init("wide", &["--memory", "64GiB", "--budget-seconds", "600"]));
    assert_eq!(tight["sites"], Value::Array(vec![]));
    says(&tight, "reason", "only a head is trained");
    assert_eq!(wide["sites"], free["sites"]);
    says(&wide, "reason", "layers fit 65536 MiB");
    assert_eq!(free["reason"], Value::Null);
    let settings = std::fs::read_to_string(dir.path().join("wide/acclimate.toml")).unwrap();
    assert!(settings.contains("[limits]\nmemory_bytes = 68719476736\nbudget_seconds = 600.0"), "{settings}");
}

#[test]
fn feedback_that_cannot_be_taken() {
    let bench = Bench::new();
    let (home, id) = (bench.home(), bench.predict());
    let e = refused(&["feedback", &home, &id, "--label", "walkin"], 2);
    says(&e, "error", "unknown label");
    says(&e, "next", "--new-class");
    says(&refused(&["feedback", &home, "zzzz", "--accept"], 2), "next", "predict printed");
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
    std::fs::write(&model, &changed).unwrap();
    for args in [&["predict", &home, &bench.input()][..], &["train", &home], &["status", &home]] {
        let e = refused(args, 65);
        says(&e, "because", &fingerprint);
        says(&e, "because", &acclimate::adapter::Fingerprint::of(&changed).to_string());
    }
    std::fs::write(&model, &whole).unwrap();
    assert_eq!(bench.status()["feedback"], 1);
}

#[test]
fn a_flipped_byte_in_an_adapter_never_answers_and_the_rest_is_kept() {
    let bench = Bench::new();
    let home = bench.home();
    let before = json(&["predict", &home, &bench.input()])[0]["top"].clone();
    bench.teach(23, &(0..90).step_by(3).collect::<Vec<_>>());
    assert_eq!(json(&["train", &home])["promoted"], true);
    let file = bench.profile("generations/000001.adapter");
    let whole = std::fs::read(&file).unwrap();
    for at in [9, 200, whole.len() / 2, whole.len() - 5] {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&file, &flipped).unwrap();
        let output = run(&["predict", &home, &bench.input(), "--json"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success() && text.contains("rolled back automatically") && text.contains("000001.adapter"),
            "{text}"
        );
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&answer[0]["generation"], &answer[0]["top"]), (&0.into(), &before));
        let rolled_back = &bench.status()["rolled_back"];
        assert_eq!(rolled_back["generation"], 1);
        says(rolled_back, "reason", "cannot be used");
        says(&json(&["history", &home])["generations"][0], "rolled_back", "cannot be used");
        // It is not chosen again while it is damaged.
        says(&refused(&["rollback", &home, "--to", "1"], 65), "at", "000001.adapter");
        std::fs::write(&file, &whole).unwrap();
        assert_eq!(json(&["rollback", &home, "--to", "1"])["generation"], 1);
    }
    let status = bench.status();
    assert_eq!((&status["generation"], &status["feedback"]), (&Value::from(1), &Value::from(30)));
    assert_eq!(status["rolled_back"], Value::Null);
}

/// A process that is killed while it tries a generation leaves it counted: the next one is back at the generation before.
#[test]
fn a_generation_whose_first_load_crashed_is_taken_back() {
    let bench = Bench::new();
    let home = bench.home();
    bench.teach(23, &(0..90).step_by(3).collect::<Vec<_>>());
    assert_eq!(json(&["train", &home])["promoted"], true);
    assert_eq!(bench.status()["probation_left"], 20);
    assert_eq!(json(&["predict", &home, &bench.input()])[0]["generation"], 1);
    assert_eq!(bench.status()["probation_left"], 19);
    let folder = acclimate::store::profile_folder(Path::new(&home), "default").unwrap();
    let store = acclimate::store::Store::open(std::sync::Arc::new(acclimate::disk::RealDisk), &folder).unwrap();
    drop(store.begin().unwrap());
    assert_eq!(json(&["predict", &home, &bench.input()])[0]["generation"], 0);
    says(&bench.status()["rolled_back"], "reason", "while it was tried");
    assert_eq!(json(&["rollback", &home, "--to", "1"])["generation"], 1);
    assert_eq!(json(&["predict", &home, &bench.input()])[0]["generation"], 1);
}

#[test]
fn what_is_forgotten_is_gone_and_what_it_taught_is_trained_again() {
    let bench = Bench::new();
    let home = bench.home();
    let first = bench.predict();
    bench.teach(23, &(0..120).step_by(3).collect::<Vec<_>>());
    assert_eq!(json(&["train", &home])["generation"], 1);
    for args in [&["forget", &home][..], &["forget", &home, &first, "--all"], &["forget", &home, "--before", "soon"]] {
        refused(args, 2);
    }
    says(&refused(&["forget", &home, &first, "eeee"], 2), "error", "eeee");
    assert_eq!((&bench.status()["generation"], &bench.status()["interactions"]), (&1.into(), &41.into()));
    let gone = json(&["forget", &home, &first]);
    assert_eq!((&gone["forgotten"], &gone["removed"]), (&1.into(), &serde_json::json!([1])));
    assert_eq!((&gone["training"]["promoted"], &gone["generation"]), (&true.into(), &2.into()), "{gone}");
    says(&refused(&["feedback", &home, &first, "--accept"], 2), "error", "no interaction");
    // Everything was recorded before the end of time, and after 1970.
    assert_eq!(json(&["forget", &home, "--before", "1970-01-02"])["forgotten"], 0);
    let gone = json(&["forget", &home, "--before", "9999-01-01", "--no-train"]);
    assert_eq!((&gone["forgotten"], &gone["generation"], &gone["training"]), (&40.into(), &0.into(), &Value::Null));
    assert_eq!(
        json(&["history", &home])["trainings"],
        Value::Array(vec![]),
        "figures of trainings that saw it go, too"
    );
    json(&["forget", &home, "--all"]);
    assert_ne!(bench.predict(), first, "an id is not given out again");
}

#[test]
fn damage_is_named_repaired_and_quarantined() {
    let bench = Bench::new();
    let home = bench.home();
    bench.teach(23, &(0..30).step_by(3).collect::<Vec<_>>());
    assert_eq!(json(&["verify", &home])["ok"], true);
    assert_eq!(json(&["repair", &home])["repaired"], Value::Array(vec![]));
    let journal = bench.profile("journal.log");
    let mut bytes = std::fs::read(&journal).unwrap();
    // Inside a window, whose 3 KiB are far longer than what is said about it.
    let middle = bytes.len() / 2 + 1000;
    bytes[middle] ^= 1;
    std::fs::write(&journal, &bytes).unwrap();
    says(&refused(&["status", &home], 65), "next", "acclimate repair");
    let output = run(&["verify", &home, "--json"]);
    assert_eq!(output.status.code(), Some(65));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let damaged: Vec<&Value> = found["files"].as_array().unwrap().iter().filter(|f| f["state"] == "damaged").collect();
    assert!(found["ok"] == false && damaged.len() == 1, "{found}");
    says(damaged[0], "file", "journal.log");
    assert!(std::fs::read(&journal).unwrap() == bytes, "looking changes nothing");
    let repaired = json(&["repair", &home]);
    assert_eq!((&repaired["ok"], &repaired["left"]), (&true.into(), &Value::Array(vec![])), "{repaired}");
    let kept_aside = repaired["repaired"][0]["quarantined"].as_str().unwrap();
    assert!(std::fs::read(kept_aside).unwrap() == bytes);
    let status = bench.status();
    assert_eq!(
        (&status["interactions"], &status["feedback"]),
        (&9.into(), &9.into()),
        "one window is lost, and its label"
    );
    // What no repair can help with is said.
    let settings = bench.at("home/acclimate.toml");
    let model = bench.at("home/base.onnx");
    std::fs::write(&model, b"another").unwrap();
    let output = run(&["repair", &home, "--json"]);
    assert_eq!(output.status.code(), Some(65));
    says(&serde_json::from_slice::<Value>(&output.stdout).unwrap()["left"][0], "what", "has changed");
    std::fs::write(&settings, b"format = 9").unwrap();
    assert_eq!(run(&["verify", &home]).status.code(), Some(65));
    refused(&["verify", &bench.at("elsewhere")], 2);
}

#[test]
fn the_second_training_is_told_who_holds_the_first() {
    let bench = Bench::new();
    let home = bench.home();
    let id = bench.predict();
    let folder = acclimate::store::profile_folder(Path::new(&home), "default").unwrap();
    let store = acclimate::store::Store::open(std::sync::Arc::new(acclimate::disk::RealDisk), &folder).unwrap();
    let held = store.lock_training(Duration::ZERO, "training").unwrap();
    says(&refused(&["train", &home], 75), "error", &format!("process {} (training)", std::process::id()));
    // Predictions and feedback go on meanwhile.
    bench.predict();
    json(&["feedback", &home, &id, "--accept"]);
    drop(held);
    json(&["train", &home]);
}

/// Waits until `path` names `process` as its holder.
fn wait_for_holder(path: &Path, process: &mut Child) {
    let started = Instant::now();
    let note = format!("process {} ", process.id());
    while !std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(&note)) {
        assert!(process.try_wait().unwrap().is_none(), "the training ended before it could be stopped");
        assert!(started.elapsed() < Duration::from_secs(30), "the training never began");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends SIGINT to a program that runs with `--json`, which ends with the exit code for it, an error, and no data.
#[cfg(unix)]
#[track_caller]
fn interrupt(child: Child) {
    let id = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(130), "{text}");
    assert!(ended.stdout.is_empty());
    assert_eq!(serde_json::from_str::<Value>(text.lines().last().unwrap()).unwrap()["exit"], 130);
}

#[cfg(unix)]
#[test]
fn a_signal_stops_a_demo_and_a_simulation_and_leaves_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let (files, plot) = (folder.path().join("tmp"), folder.path().join("curve.svg"));
    std::fs::create_dir(&files).unwrap();
    let (model, data) = (asset("har_cnn.onnx"), asset("hapt_users_23_26.npz"));
    let (model, data, plot) = (model.to_str().unwrap(), data.to_str().unwrap(), plot.to_str().unwrap());
    let simulate = ["simulate", "--model", model, "--data", data, "--train-every", "16", "--json"];
    for args in [&["demo", "--plot", plot, "--json"][..], &simulate[..]] {
        let mut command = acclimate(args);
        let mut child = command.env("TMPDIR", &files).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let started = Instant::now();
        while !files.read_dir().unwrap().flatten().any(|f| f.file_name().to_string_lossy().contains("simulation")) {
            assert!(child.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(30), "{args:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        interrupt(child);
        assert_eq!(files.read_dir().unwrap().count(), 0, "{args:?} left files behind");
        assert!(!Path::new(plot).exists());
    }
}

#[cfg(unix)]
#[test]
fn a_signal_stops_a_training_and_loses_nothing() {
    let bench = Bench::new();
    let home = bench.home();
    bench.teach(24, &(0..180).collect::<Vec<_>>());
    let mut child = acclimate(&["train", &home, "--threads", "1", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_holder(&bench.profile("train.lock"), &mut child);
    interrupt(child);
    let status = bench.status();
    assert_eq!((&status["generation"], &status["feedback"], &status["waiting"]), (&0.into(), &180.into(), &180.into()));
    assert_eq!(json(&["history", &home])["generations"], Value::Array(vec![]));
    assert_eq!(json(&["predict", &home, &bench.input()])[0]["generation"], 0);
}

/// A file system of 3 MiB; none where the tests may not mount one.
#[cfg(target_os = "linux")]
struct SmallDisk(TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn new() -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(dir.path()).output();
        match mounted {
            Ok(o) if o.status.success() => Some(SmallDisk(dir)),
            _ => {
                eprintln!("skipped: no file system of a fixed size can be mounted here");
                None
            }
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_full_disk_predictions_go_on_and_nothing_stored_is_lost() {
    let Some(disk) = SmallDisk::new() else { return };
    let home = disk.0.path().join("home").to_str().unwrap().to_string();
    let elsewhere = tempfile::tempdir().unwrap();
    let input = elsewhere.path().join("input.npy").to_str().unwrap().to_string();
    save(Path::new(&input), &NamedArray::new("", vec![6, 128], ArrayData::F32(vec![0.1; 768])).unwrap());
    json(&["init", &home, "--model", asset("har_cnn.onnx").to_str().unwrap()]);
    let first = json(&["predict", &home, &input]);
    json(&["feedback", &home, first[0]["id"].as_str().unwrap(), "--accept"]);
    let session = acclimate::Home::open(&home).unwrap().session("default").unwrap();
    let window = RawInput::from_argument(&input, session.home().intake()).unwrap();
    let ids: Vec<_> = (0..250).map(|_| session.predict(&window).unwrap().id.unwrap()).collect();

    let filler = disk.0.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let mut piece = 1 << 16;
    while piece > 0 {
        if std::io::Write::write_all(&mut file, &vec![1; piece]).is_err() {
            piece /= 2;
        }
    }
    let output = run(&["predict", &home, &input, "--json"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer[0]["id"], &answer[0]["top"]), (&Value::Null, &first[0]["top"]));
    assert!(text.contains("warning: not recorded"), "{text}");
    // A few small records still fit into the last page of the journal; each is acknowledged or refused, never half kept.
    let mut acknowledged = 1;
    let mut waiting = ids.iter();
    let e = loop {
        let id = waiting.next().expect("the disk never filled");
        match session.feedback(*id, acclimate::Feedback::Accept) {
            Ok(_) => acknowledged += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(e.kind(), acclimate::ErrorKind::Io, "{e:?}");
    drop(session);
    let next = waiting.next().unwrap().to_string();
    says(&refused(&["feedback", &home, &next, "--accept"], 74), "next", "free some space");
    let status = json(&["status", &home]);
    assert_eq!((&status["interactions"], &status["feedback"]), (&251.into(), &acknowledged.into()));

    drop(file);
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(json(&["feedback", &home, &next, "--accept"])["waiting"], acknowledged + 1);
    assert!(json(&["predict", &home, &input])[0]["id"].is_string());
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_read_only_disk_predictions_go_on() {
    let Some(disk) = SmallDisk::new() else { return };
    let home = disk.0.path().join("home").to_str().unwrap().to_string();
    let elsewhere = tempfile::tempdir().unwrap();
    let input = elsewhere.path().join("input.npy").to_str().unwrap().to_string();
    save(Path::new(&input), &NamedArray::new("", vec![6, 128], ArrayData::F32(vec![0.1; 768])).unwrap());
    json(&["init", &home, "--model", asset("har_cnn.onnx").to_str().unwrap()]);
    let first = json(&["predict", &home, &input]);
    let id = first[0]["id"].as_str().unwrap();
    let remount = |how: &str| {
        let done = Command::new("mount").args(["-o", how]).arg(disk.0.path()).status().unwrap();
        assert!(done.success());
    };
    remount("remount,ro");
    let output = run(&["predict", &home, &input, "--json"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && text.contains("warning: not recorded"), "{text}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer[0]["id"], &answer[0]["top"]), (&Value::Null, &first[0]["top"]));
    assert_eq!(json(&["status", &home])["interactions"], 1);
    assert_eq!(json(&["verify", &home])["ok"], true);
    refused(&["feedback", &home, id, "--accept"], 74);
    remount("remount,rw");
    assert_eq!(json(&["feedback", &home, id, "--accept"])["durable"], true);
}

#[test]
fn gradients_of_the_bundled_model_are_right_and_a_wrong_one_would_show() {
    let model = asset("har_cnn.onnx");
    let dump = tempfile::tempdir().unwrap();
    let into = dump.path().join("dump");
    let report = json(&["gradcheck", model.to_str().unwrap(), "--dump", into.to_str().unwrap()]);
    assert_eq!(report["ok"], true);
    assert!(report["sites"].as_array().is_some_and(|s| s.len() >= 4));
    for file in ["inputs.npz", "cotangent.npz", "adapter.safetensors", "outputs.npz", "gradients.safetensors"] {
        assert!(into.join(file).is_file(), "{file} is missing");
    }
    let strict = run(&["gradcheck", model.to_str().unwrap(), "--tolerance", "1e-12", "--json"]);
    assert_eq!(strict.status.code(), Some(65));
    assert_eq!(serde_json::from_slice::<Value>(&strict.stdout).unwrap()["ok"], false);
}

#[test]
fn a_gradcheck_that_measured_nothing_says_so() {
    let bench = Bench::new();
    let model = bench.at("coarse.onnx");
    let link = |op: &str, from: &[&str], to: &str| tract_onnx::pb::NodeProto {
        input: from.iter().map(|s| s.to_string()).collect(),
        output: vec![to.into()],
        name: format!("{to}_of_{op}"),
        ..node(op)
    };
    let mut scale = link("Constant", &[], "scale");
    let value = |f: f32| tract_onnx::pb::AttributeProto {
        name: "value_float".into(),
        r#type: tract_onnx::pb::attribute_proto::AttributeType::Float as i32,
        f,
        ..Default::default()
    };
    // Every answer is rounded to 0, whatever the layer before makes of it.
    scale.attribute.push(value(1e6));
    let rounded = [link("QuantizeLinear", &["a", "scale"], "q"), link("DequantizeLinear", &["q", "scale"], "y")];
    let [quantised, y] = rounded;
    tiny_model(Path::new(&model), vec![scale, link("MatMul", &["x", "w"], "a"), quantised, y]);
    let output = run(&["gradcheck", &model, "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], Value::Null, "{report}");
    assert_eq!((&report["verdict"], &report["checked"]), (&"unknown".into(), &1.into()), "{report}");
    let plain = String::from_utf8(run(&["gradcheck", &model]).stdout).unwrap();
    assert!(plain.contains("cannot tell"), "{plain}");
}

#[test]
fn a_gradcheck_keeps_to_its_time_and_says_what_it_left_out() {
    let model = asset("har_cnn.onnx");
    let model = model.to_str().unwrap();
    let all = json(&["gradcheck", model, "--budget-seconds", "0"]);
    let sites = all["sites"].as_array().unwrap().len();
    assert_eq!((&all["sampled"], &all["checked"]), (&false.into(), &sites.into()));
    let short = json(&["gradcheck", model, "--budget-seconds", "0.000001"]);
    assert_eq!((&short["sampled"], &short["checked"]), (&true.into(), &1.into()), "{short}");
    assert_eq!(short["unchecked"].as_array().unwrap().len(), sites - 1);
    // A site's differences do not depend on which others are checked.
    let same = all["sites"].as_array().unwrap().iter().find(|s| s["name"] == short["sites"][0]["name"]);
    assert_eq!(same, Some(&short["sites"][0]));
    let output = run(&["gradcheck", model, "--budget-seconds", "0.000001"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("1 of {sites} layers were checked")), "{said}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("were not"));
    refused(&["gradcheck", model, "--budget-seconds", "-1"], 2);
}

#[test]
fn a_simulation_gives_the_contract_s_fields() {
    let dir = tempfile::tempdir().unwrap();
    let (data, plot) = (dir.path().join("few.npz"), dir.path().join("curve.svg"));
    let set = person(23);
    save_labelled(&data, &set, &(0..set.len()).step_by(4).collect::<Vec<_>>());
    let args = [
        "simulate",
        "--model",
        asset("har_cnn.onnx").to_str().unwrap(),
        "--data",
        data.to_str().unwrap(),
        "--seed",
        "3",
    ]
    .map(String::from);
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--plot", plot.to_str().unwrap()]).collect();
    let mut once = json(&args);
    let mut again = json(&args);
    assert_eq!(once["curve"][0]["seen"], 0);
    assert_eq!(once["curve"][0]["base_accuracy"], once["test"]["base"]);
    assert!(once["test"]["n"].as_u64().unwrap() > 30 && once["peak_rss_bytes"].as_u64().unwrap() > 0);
    assert!(once["retention"].is_number() && once["generations"].is_number() && once["seconds"].is_number());
    assert!(std::fs::read_to_string(&plot).unwrap().contains("<svg"));
    for run in [&mut once, &mut again] {
        for clock in ["seconds", "train_seconds", "peak_rss_bytes"] {
            run[clock] = Value::Null;
        }
        run["trainings"].as_array_mut().unwrap().iter_mut().for_each(|t| t["seconds"] = Value::Null);
    }
    assert_eq!(once, again, "deterministic for a seed");
}
