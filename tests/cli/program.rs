//! The program, the bundled model with a person's windows, and small models for the tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use acclimate::chat::Message;
use acclimate::input::{ArrayData, LabelledSet, NamedArray, RawInput, arrays, write_npz};
use assert_cmd::cargo::cargo_bin;
use prost::Message as _;
use serde_json::Value;
use tempfile::TempDir;

pub fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

/// Published files are read-only: another file takes the name.
pub fn replace(file: &Path, bytes: &[u8]) {
    std::fs::remove_file(file).unwrap();
    std::fs::write(file, bytes).unwrap();
}

pub fn acclimate(args: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin("acclimate"));
    command.args(args).env_remove("ACCLIMATE_LOG").env("NO_COLOR", "1");
    command
}

pub fn run(args: &[&str]) -> Output {
    acclimate(args).output().unwrap()
}

/// Data of a command that must succeed.
pub fn json(args: &[&str]) -> Value {
    let output = run(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The error of a command that must fail with `code`: without `--json` for its looks, with it for its parts.
#[track_caller]
pub fn refused(args: &[&str], code: i32) -> Value {
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

pub fn says(error: &Value, part: &str, words: &str) {
    assert!(error[part].as_str().is_some_and(|t| t.contains(words)), "no {words:?} in {part:?} of {error}");
}

/// The windows of one person whose activity the model knows, in order of time.
pub fn person(user: i64) -> LabelledSet {
    let all = LabelledSet::read(asset("hapt_users_23_26.npz")).unwrap().filter_user(user).unwrap();
    let known: Vec<usize> = (0..all.len()).filter(|&i| all.labels()[i].parse::<usize>().unwrap() < 6).collect();
    all.select(&known).unwrap()
}

pub fn window(set: &LabelledSet, i: usize) -> NamedArray {
    let RawInput::Arrays(mut arrays) = set.input(i).unwrap() else { panic!("not an array") };
    arrays.remove(0)
}

pub fn values(array: &NamedArray) -> Vec<f32> {
    array.data.to_f32()
}

/// Windows `rows` of a set as one `[n, 6, 128]` array.
pub fn windows(set: &LabelledSet, rows: &[usize]) -> NamedArray {
    let all = rows.iter().flat_map(|&i| values(&window(set, i))).collect();
    NamedArray::new("x", vec![rows.len(), 6, 128], ArrayData::F32(all)).unwrap()
}

pub fn save(path: &Path, array: &NamedArray) {
    arrays::write_npy(path, array).unwrap();
}

pub fn save_labelled(path: &Path, set: &LabelledSet, rows: &[usize]) {
    let y = rows.iter().map(|&i| set.labels()[i].parse::<i64>().unwrap()).collect();
    write_npz(path, &[windows(set, rows), NamedArray::new("y", vec![rows.len()], ArrayData::I64(y)).unwrap()]).unwrap();
}

/// A home of the activity model, and a folder beside it for inputs.
pub struct Bench {
    dir: TempDir,
}

impl Bench {
    pub fn new() -> Bench {
        Bench::below(&std::env::temp_dir())
    }
    /// In a folder of its own in this one.
    pub fn below(folder: &Path) -> Bench {
        let bench = Bench { dir: tempfile::tempdir_in(folder).unwrap() };
        json(&["init", &bench.home(), "--model", asset("har_cnn.onnx").to_str().unwrap()]);
        bench
    }
    /// A home of the bundled language model, and 40 demonstrations of answers that nothing has learned from.
    pub fn of_texts() -> Bench {
        let bench = Bench { dir: tempfile::tempdir().unwrap() };
        let mut zip = zip::ZipArchive::new(std::fs::File::open(asset("tiny_chat.zip")).unwrap()).unwrap();
        zip.extract(bench.at("source")).unwrap();
        json(&["init", &bench.home(), "--model", &bench.at("source/model.onnx")]);
        let script = std::fs::read(bench.at("source/prompts.json")).unwrap();
        let script: Value = serde_json::from_slice(&script).unwrap();
        let text = |v: &Value| v.as_str().unwrap().to_string();
        let conversation = |edit: &Value| {
            vec![Message::new("user", text(&edit["prompt"])), Message::new("assistant", text(&edit["edited"]))]
        };
        let all: Vec<Vec<Message>> = script["edits"].as_array().unwrap().iter().map(conversation).collect();
        let session = acclimate::Home::open(bench.home()).unwrap().session("default").unwrap();
        assert_eq!(session.record_demonstrations(&all).unwrap().recorded, 40);
        bench
    }
    pub fn at(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_string()
    }
    pub fn home(&self) -> String {
        self.at("home")
    }
    pub fn profile(&self, name: &str) -> PathBuf {
        self.dir.path().join("home/profiles/default").join(name)
    }
    /// A window of zeros as a file.
    pub fn input(&self) -> String {
        let file = self.at("input.npy");
        save(Path::new(&file), &NamedArray::new("", vec![6, 128], ArrayData::F32(vec![0.1; 768])).unwrap());
        file
    }
    /// Predicts the window of zeros; the id.
    pub fn predict(&self) -> String {
        json(&["predict", &self.home(), &self.input()])[0]["id"].as_str().unwrap().to_string()
    }
    pub fn status(&self) -> Value {
        json(&["status", &self.home()])
    }
    /// Gives feedback on person `user`'s windows in `rows` through one library session: a process each would take long.
    pub fn teach(&self, user: i64, rows: &[usize]) {
        let home = acclimate::Home::open(self.home()).unwrap();
        let (session, set) = (home.session("default").unwrap(), person(user));
        for &i in rows {
            let answer = session.predict(&set.input(i).unwrap()).unwrap();
            session.feedback(answer.id.unwrap(), acclimate::Feedback::Label(set.labels()[i].clone())).unwrap();
        }
    }
}

/// A model from `x` to `y`, both of shape `[n, 4]`; a 4 × 4 weight `w` is at hand.
pub fn tiny_model(path: &Path, nodes: Vec<tract_onnx::pb::NodeProto>) {
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

pub fn node(op: &str) -> tract_onnx::pb::NodeProto {
    tract_onnx::pb::NodeProto {
        op_type: op.into(),
        name: format!("the_{op}"),
        input: vec!["x".into()],
        output: vec!["y".into()],
        ..Default::default()
    }
}
