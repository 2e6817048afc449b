//! Files that people hand over: pictures of every form, damaged ones, many at once; lists of labels from every editor;
//! datasets with things in them that are none of theirs.
#![cfg(all(feature = "cli", feature = "train"))]

use std::path::Path;
use std::process::{Command, Output};

use acclimate::input::{ArrayData, NamedArray, arrays};
use assert_cmd::cargo::cargo_bin;
use prost::Message;
use serde_json::Value;
use tempfile::TempDir;
use tract_onnx::pb::*;

/// A folder with a home of a model of 8 × 8 pictures and two classes: a picture is `cat` where it is more red than
/// blue.
struct Bench(TempDir);

impl Bench {
    fn new(labels: &[u8]) -> Bench {
        let bench = Bench(tempfile::tempdir().unwrap());
        std::fs::write(bench.at("labels.txt"), labels).unwrap();
        picture_model(Path::new(&bench.at("model.onnx")));
        let output = bench.run(&[
            "init",
            &bench.at("home"),
            "--model",
            &bench.at("model.onnx"),
            "--labels",
            &bench.at("labels.txt"),
        ]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        bench
    }
    fn at(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_string()
    }
    fn put(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        self.at(name)
    }
    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(cargo_bin("acclimate"));
        command.args(args).env_remove("ACCLIMATE_LOG").env("NO_COLOR", "1").output().unwrap()
    }
    /// What a command prints with `--json`, its messages, and its exit code.
    fn json(&self, args: &[&str]) -> (Value, String, i32) {
        let output = self.run(&[&["--json"], args].concat());
        let data = match text(&output.stdout).as_str() {
            "" => Value::Null,
            data => serde_json::from_str(data).unwrap_or_else(|e| panic!("{args:?}: {e}: {data}")),
        };
        (data, text(&output.stderr), output.status.code().unwrap())
    }
    fn interactions(&self) -> u64 {
        self.json(&["status", &self.at("home")]).0["interactions"].as_u64().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `x` of shape `[n, 3, 8, 8]`; the scores are the means of red and of blue.
fn picture_model(path: &Path) {
    use tensor_shape_proto::dimension::Value::{DimParam, DimValue};
    let port = |name: &str, sizes: &[i64]| {
        let dims = std::iter::once(DimParam("n".into())).chain(sizes.iter().map(|&n| DimValue(n)));
        let dim =
            dims.map(|value| tensor_shape_proto::Dimension { value: Some(value), ..Default::default() }).collect();
        let elem_type = tensor_proto::DataType::Float as i32;
        let tensor = type_proto::Tensor { elem_type, shape: Some(TensorShapeProto { dim }) };
        let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() });
        ValueInfoProto { name: name.into(), r#type, ..Default::default() }
    };
    let node = |op: &str, inputs: &[&str], output: &str| NodeProto {
        name: op.to_lowercase(),
        op_type: op.into(),
        input: inputs.iter().map(|i| i.to_string()).collect(),
        output: vec![output.into()],
        ..Default::default()
    };
    let mut weights = vec![0.0; 192 * 2];
    for i in 0..64 {
        weights[2 * i] = 1.0 / 64.0;
        weights[2 * (i + 128) + 1] = 1.0 / 64.0;
    }
    let weight = TensorProto {
        name: "w".into(),
        dims: vec![192, 2],
        data_type: tensor_proto::DataType::Float as i32,
        float_data: weights,
        ..Default::default()
    };
    let graph = GraphProto {
        node: vec![node("Flatten", &["x"], "f"), node("Gemm", &["f", "w"], "y")],
        name: "g".into(),
        initializer: vec![weight],
        input: vec![port("x", &[3, 8, 8])],
        output: vec![port("y", &[2])],
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

fn png(width: u32, height: u32, color: [u8; 3]) -> Vec<u8> {
    let picture = acclimate::input::RgbImage::from_fn(width, height, |x, y| {
        color.map(|c| c.saturating_add(((x * 7 + y * 3) % 20) as u8))
    });
    acclimate::input::image::encode_png(&picture).unwrap()
}

/// A picture of `tests/fixtures/pictures.npz`.
fn form(name: &str) -> Vec<u8> {
    let forms = arrays::read(Path::new("tests/fixtures/pictures.npz")).unwrap();
    match forms.into_iter().find(|a| a.name == name).map(|a| a.data) {
        Some(ArrayData::U8(bytes)) => bytes,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn a_form_of_a_picture_does_not_change_its_answer() {
    let bench = Bench::new(b"cat\ndog\n");
    let p = |name: &str, extension: &str| {
        let file = bench.put(&format!("{name}.{extension}"), &form(name));
        let (answers, said, code) = bench.json(&["predict", &bench.at("home"), &file]);
        assert_eq!(code, 0, "{name}: {said}");
        answers[0]["top"].as_array().unwrap().iter().find(|t| t["label"] == "cat").unwrap()["p"].as_f64().unwrap()
    };
    let expected = p("png-rgb", "png");
    for name in
        ["jpeg-separate-2x2", "jpeg-separate-2x1", "jpeg-progressive-2x2", "jpeg-baseline-1x1", "jpeg-rgb-by-adobe"]
    {
        assert!((p(name, "jpg") - expected).abs() < 0.02, "{name}: {} and {expected}", p(name, "jpg"));
    }
    assert!((p("webp-lossless", "webp") - expected).abs() < 1e-9);
    assert!((p("webp-lossy", "webp") - expected).abs() < 0.02);
}

#[test]
fn a_damaged_picture_is_named_and_what_was_answered_before_it_is_kept() {
    let bench = Bench::new(b"cat\ndog\n");
    let whole = form("jpeg-baseline-2x2");
    let good = bench.put("good.jpg", &whole);
    let cut = bench.put("cut.jpg", &whole[..whole.len() - 40]);
    let home = bench.at("home");
    let (answers, said, code) = bench.json(&["predict", &home, &good, &good, &cut, &good]);
    assert_eq!((answers.as_array().unwrap().len(), code), (2, 65));
    let error: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let at = error["at"].as_str().unwrap();
    assert!(at.contains("cut.jpg: byte ") && error["because"].as_str().unwrap().contains("scan 1"), "{error}");
    assert!(error["next"].is_string(), "{error}");
    assert_eq!(bench.interactions(), 2);
    let output = bench.run(&["predict", &home, &good, &cut]);
    assert_eq!((text(&output.stdout).lines().count(), output.status.code()), (1, Some(65)));
    assert_eq!(bench.interactions(), 3);
    let arithmetic = bench.put("arithmetic.jpg", &form("refused-arithmetic"));
    let (answers, said, code) = bench.json(&["predict", &home, &arithmetic]);
    assert!(answers.is_null() && code == 65 && said.contains("arithmetic coding"), "{said}");
}

#[test]
fn rows_are_answered_up_to_the_bad_one() {
    let bench = Bench::new(b"cat\ndog\n");
    let mut data = vec![0.5f32; 5 * 3 * 8 * 8];
    data[3 * 192 + 7] = f32::NAN;
    let array = NamedArray { name: String::new(), shape: vec![5, 3, 8, 8], data: ArrayData::F32(data) };
    arrays::write_npy(Path::new(&bench.at("rows.npy")), &array).unwrap();
    let (answers, said, code) = bench.json(&["predict", &bench.at("home"), &bench.at("rows.npy"), "--tensor"]);
    assert_eq!((answers.as_array().unwrap().len(), code), (3, 65), "{said}");
    assert!(said.contains("[3, 0, 0, 7]") && said.contains("rows.npy"), "{said}");
    assert_eq!(bench.interactions(), 3);
}

/// The largest memory of any child so far, KiB.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn largest_child() -> i64 {
    // SAFETY: the call fills the structure that it is given.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage), 0);
        usage.ru_maxrss
    }
}

/// Each decoded picture takes 18 MB; fifteen of them were held at once.
#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn memory_does_not_grow_with_the_number_of_inputs() {
    let bench = Bench::new(b"cat\ndog\n");
    let (home, large) = (bench.at("home"), bench.put("large.png", &png(3000, 2000, [200, 30, 20])));
    let peak = |n: usize| {
        let mut args = vec!["predict", home.as_str()];
        args.resize(2 + n, large.as_str());
        assert_eq!(bench.json(&args).0.as_array().unwrap().len(), n);
        largest_child()
    };
    let (few, many) = (peak(2), peak(16));
    assert!(many < few + 16 * 1024, "{few} KiB for two pictures, {many} KiB for sixteen");
}

#[test]
fn a_label_is_one_word_from_every_reader() {
    let bench = Bench::new(b"\xef\xbb\xbfcat\r\ndog \r\n");
    let home = bench.at("home");
    let red = bench.put("red.png", &png(8, 8, [200, 30, 20]));
    let answer = bench.json(&["predict", &home, &red]).0;
    assert_eq!(answer[0]["top"][0]["label"], "cat");
    let id = answer[0]["id"].as_str().unwrap();
    let (receipt, said, _) = bench.json(&["feedback", &home, id, "--label", " \u{feff}cat\n"]);
    assert_eq!(receipt["durable"], true, "{said}");
    // What cannot be typed is refused wherever it comes from, with its place.
    let control = bench.put("control.txt", b"cat\x1b[31m\ndog\n");
    let (other, model) = (bench.at("other"), bench.at("model.onnx"));
    let (_, said, code) = bench.json(&["init", &other, "--model", &model, "--labels", &control]);
    assert!(code == 65 && said.contains("control.txt: line 1"), "{said}");
    let id = bench.json(&["predict", &home, &red]).0[0]["id"].as_str().unwrap().to_string();
    let (_, said, code) = bench.json(&["feedback", &home, &id, "--label", "cat\x1b[31m"]);
    assert!(code == 2 && said.contains("control characters"), "{said}");
}

#[test]
fn what_a_dataset_leaves_out_is_named_and_ends_nothing() {
    let bench = Bench::new(b"cat\ndog\n");
    for i in 0..8 {
        let (red, blue) = (png(9 + i, 8, [180, 40, 20]), png(8, 9 + i, [20, 40, 180]));
        bench.put(&format!("data/cat/{i}.png"), &red);
        bench.put(&format!("data/dog/{i}.png"), &blue);
    }
    let jpeg = form("jpeg-baseline-2x2");
    bench.put("data/cat/cut.jpg", &jpeg[..jpeg.len() - 30]);
    bench.put("data/dog/old.gif", b"GIF89a");
    bench.put("data/fish/notes.txt", b"none yet");
    let expected = ["cat/cut.jpg", "dog/old.gif", "data/fish", "fish/notes.txt"];
    let check = |data: &Value, said: &str| {
        let skipped = data["skipped"].as_array().unwrap();
        assert_eq!(skipped.len(), expected.len(), "{data}");
        for (s, file) in skipped.iter().zip(expected) {
            assert!(s["file"].as_str().unwrap().ends_with(file) && s["reason"].is_string(), "{s}");
            assert!(said.contains(file), "{said}");
        }
        assert!(said.contains("4 left out of the data"), "{said}");
    };
    let (data, said, code) = bench.json(&["eval", &bench.at("home"), "--data", &bench.at("data")]);
    assert_eq!((code, &data["n"], &data["base_accuracy"]), (0, &Value::from(16), &Value::from(1.0)), "{said}");
    check(&data, &said);
    let (model, labels, data) = (bench.at("model.onnx"), bench.at("labels.txt"), bench.at("data"));
    let (data, said, code) =
        bench.json(&["simulate", "--model", &model, "--labels", &labels, "--data", &data, "--threads", "1"]);
    assert_eq!(code, 0, "{said}");
    check(&data, &said);
}
