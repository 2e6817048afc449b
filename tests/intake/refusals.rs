//! What `init` and the program refuse.

use std::path::{Path, PathBuf};

use acclimate::input::{ArrayData, NamedArray};
use acclimate::{Error, ErrorKind};
use tempfile::TempDir;
use tract_onnx::pb::{NodeProto, TensorProto};

use crate::models::{E, WORDS, answers, array, classifier, home, logits, one_input, table, tokenizer, wave};
use crate::support::onnx::*;

/// One row of whatever number of examples `x` has: the batch of 1 with which a model was traced, baked into a reshape.
fn one_row() -> Vec<NodeProto> {
    vec![
        node("Reshape", &["x", "shape"], &["all"], vec![]),
        node("Slice", &["all", "from", "to", "along"], &["h"], vec![]),
    ]
}

fn one_row_sizes() -> Vec<TensorProto> {
    vec![ints("shape", &[2], &[1, -1]), ints("from", &[1], &[0]), ints("to", &[1], &[4]), ints("along", &[1], &[1])]
}

#[track_caller]
fn refused(folder: &Path, model: PathBuf, tokenizer: Option<PathBuf>, words: &[&str]) -> Error {
    let name = format!("home-{}", model.file_stem().unwrap().to_string_lossy());
    let e = home(folder, model, tokenizer).err().unwrap_or_else(|| panic!("{name} was made"));
    let all = format!("{e} {}", e.next_step().unwrap_or_default());
    assert_eq!(e.kind(), ErrorKind::UnsupportedModel, "{all}");
    words.iter().for_each(|w| assert!(all.contains(w), "{name}: no {w:?} in {all}"));
    assert!(!folder.join(name).exists(), "something was written");
    e
}

#[test]
fn init_refuses_what_can_never_answer() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    let x = |dims: &[&str]| input("x", DataType::Float, dims);
    let same = || vec![node("Identity", &["x"], &["h"], vec![])];

    let nodes = one_row();
    let baked = one_input(at, "baked", x(&["examples", "4"]), one_row_sizes(), nodes);
    refused(at, baked.clone(), None, &["only one at a time", "pin MODEL --dim examples=1"]);
    // What the hint says works.
    let (fixed, pins) = (at.join("fixed.onnx"), vec![("examples".to_string(), 1)]);
    acclimate::tools::pin::pin(
        &baked,
        &acclimate::tools::pin::Pins { dims: pins, ..Default::default() },
        &fixed,
        &|_| Ok(()),
    )
    .unwrap();
    let session = home(at, fixed, None).unwrap().session("default").unwrap();
    answers(&session, &array(ArrayData::F32(vec![1.0, 2.0, 3.0, 4.0]), &[4]), &logits(&[1.0, 2.0, 3.0, 4.0]), "fixed");

    let nodes = vec![node("Mul", &["x", "zero"], &["z"], vec![]), node("Log", &["z"], &["h"], vec![])];
    let infinite = one_input(at, "infinite", x(&["batch", "4"]), vec![floats("zero", &[1], &[0.0])], nodes);
    refused(at, infinite, None, &["does not answer", "not a finite number"]);

    let mut broken = wave(E * E, 1.0);
    broken[5] = f32::NAN;
    let nodes = vec![node("MatMul", &["x", "N"], &["h"], vec![])];
    let nan = one_input(at, "nan", x(&["batch", "4"]), vec![floats("N", &[E as i64, E as i64], &broken)], nodes);
    refused(at, nan, None, &["not a number (NaN)", "N"]);

    let speed = |dims: &[&str]| {
        let inputs =
            vec![input("input_ids", DataType::Int64, &["batch", "sequence"]), input("speed", DataType::Float, dims)];
        let nodes = vec![
            node("Gather", &["table", "input_ids"], &["e"], vec![]),
            node("ReduceMean", &["e"], &["s"], vec![list("axes", &[1]), int("keepdims", 0)]),
            node("Mul", &["s", "speed"], &["h"], vec![]),
            node("MatMul", &["h", "W"], &["logits"], vec![]),
        ];
        save(at, "speed", inputs, vec![table(WORDS as i64), classifier()], nodes)
    };
    refused(
        at,
        speed(&["batch", "1"]),
        Some(tokenizer(at)),
        &["nothing in a text fills", "\"speed\"", "pin MODEL --input speed="],
    );

    // Numbers that only some models take say nothing against one: logarithms of a power, a number of something.
    let logarithm = one_input(at, "power", x(&["batch", "4"]), vec![], vec![node("Log", &["x"], &["h"], vec![])]);
    assert!(home(at, logarithm, None).is_ok());

    // A model of two rows an example.
    let nodes = vec![node("Concat", &["x", "x"], &["h"], vec![int("axis", 0)])];
    refused(
        at,
        one_input(at, "twice", x(&["1", "4"]), vec![], nodes),
        None,
        &["rows that do not belong to one example"],
    );
    assert!(home(at, one_input(at, "sound", x(&["batch", "4"]), vec![], same()), None).is_ok());
}

/// The same through the program: exit codes, what JSON says, and the flag.
#[cfg(feature = "cli")]
#[test]
fn the_program_says_what_is_wrong_with_an_input() {
    use acclimate::input::arrays::write_npy;
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("acclimate"));
        let output = command.args(args).arg("--json").env_remove("ACCLIMATE_LOG").output().unwrap();
        let (good, out, err) = (output.status.success(), output.stdout, output.stderr);
        let said = String::from_utf8(if good { out } else { err }).unwrap();
        let value = if good { said.as_str() } else { said.lines().last().unwrap_or_default() };
        let value: serde_json::Value = serde_json::from_str(value).unwrap_or_default();
        (output.status.code(), value, said)
    };
    let save = |name: &str, data: ArrayData, shape: &[usize]| {
        write_npy(Path::new(&at(name)), &NamedArray::new("", shape.to_vec(), data).unwrap()).unwrap();
        at(name)
    };

    let mean = node("ReduceMean", &["e"], &["h"], vec![list("axes", &[1]), int("keepdims", 0)]);
    let nodes = vec![node("Gather", &["table", "x"], &["e"], vec![]), mean];
    let x = input("x", DataType::Int64, &["batch", "3"]);
    let model = one_input(folder.path(), "ids", x, vec![table(9)], nodes);
    let (code, _, said) = run(&["init", &at("ids"), "--model", model.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let good = save("good.npy", ArrayData::I64(vec![0, 8, -9, 1, 2, 3]), &[2, 3]);
    assert_eq!(run(&["predict", &at("ids"), &good]).0, Some(0));
    let beyond = save("beyond.npy", ArrayData::I64(vec![0, 9, 1]), &[1, 3]);
    let (code, error, said) = run(&["predict", &at("ids"), &beyond]);
    assert_eq!(code, Some(65), "{said}");
    assert!(error["error"].as_str().unwrap().contains("the value 9 at [1] of the input \"x\""), "{said}");
    assert!(error["next"].as_str().unwrap().contains("0 to 8"), "{said}");
    assert_eq!(run(&["gradcheck", model.to_str().unwrap()]).0, Some(0));

    let nodes = one_row();
    let x = input("x", DataType::Float, &["examples", "4"]);
    let baked = one_input(folder.path(), "baked", x, one_row_sizes(), nodes);
    let (code, error, said) = run(&["init", &at("baked"), "--model", baked.to_str().unwrap()]);
    assert!(code == Some(69) && error["next"].as_str().unwrap().contains("--dim examples=1"), "{said}");
    assert!(!Path::new(&at("baked")).exists());

    let nodes = vec![
        node("ReduceMean", &["x"], &["mean"], vec![list("axes", &[2, 3]), int("keepdims", 0)]),
        node("Pad", &["mean", "pads"], &["h"], vec![]),
    ];
    let x = input("x", DataType::Float, &["batch", "3", "8", "8"]);
    let picture = one_input(folder.path(), "pictures", x, vec![ints("pads", &[4], &[0, 0, 0, 1])], nodes);
    let unit = save("unit.npy", ArrayData::F32(vec![0.5; 2 * 192]), &[2, 3, 8, 8]);
    assert_eq!(run(&["init", &at("pictures"), "--model", picture.to_str().unwrap()]).0, Some(0));
    let (code, error, said) = run(&["predict", &at("pictures"), &unit]);
    assert!(code == Some(65) && error["next"].as_str().unwrap().contains("--tensor"), "{said}");
    let (code, answers, said) = run(&["predict", &at("pictures"), &unit, "--tensor", "--top", "3"]);
    assert_eq!((code, answers.as_array().map(Vec::len)), (Some(0), Some(2)), "{said}");
    assert_eq!(run(&["init", &at("tensors"), "--model", picture.to_str().unwrap(), "--tensor"]).0, Some(0));
    let (_, same, said) = run(&["predict", &at("tensors"), &unit, "--top", "3"]);
    assert_eq!(answers[0]["top"], same[0]["top"], "{said}");
}
