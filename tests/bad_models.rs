//! Models that cannot be used are refused with the node that is at fault, and the process lives.

use std::path::Path;

use acclimate::base::Base;
use acclimate::{Error, ErrorKind};
use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};

fn value(name: &str, kind: DataType, dims: &[i64]) -> ValueInfoProto {
    let dim = |d: &i64| Dimension { value: Some(Value::DimValue(*d)), ..Default::default() };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: kind as i32, shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { value, ..Default::default() }), ..Default::default() }
}

fn node(name: &str, op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let strings = |names: &[&str]| names.iter().map(|s| s.to_string()).collect();
    let (input, output) = (strings(inputs), strings(outputs));
    NodeProto { name: name.into(), op_type: op.into(), input, output, ..Default::default() }
}

fn shape(name: &str, dims: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![dims.len() as i64],
        data_type: DataType::Int64 as i32,
        int64_data: dims.to_vec(),
        ..Default::default()
    }
}

/// `x [2, 4] → … → y`.
fn model(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let (input, output) = (value("x", DataType::Float, &[2, 4]), value("y", DataType::Float, &[2, 4]));
    let graph = GraphProto { node: nodes, initializer, input: vec![input], output: vec![output], ..Default::default() };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 17 }];
    ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..Default::default() }
}

fn refusal(model: &ModelProto) -> Error {
    match Base::from_bytes(&model.encode_to_vec(), Path::new("bad.onnx")) {
        Ok(base) => panic!("{base:?} was loaded"),
        Err(e) => e,
    }
}

/// Refused as `kind`, with all of `words` in what is said.
fn refused(model: &ModelProto, kind: ErrorKind, words: &[&str]) {
    let error = refusal(model);
    let said = error.to_string();
    assert_eq!(error.kind(), kind, "{said}");
    words.iter().for_each(|w| assert!(said.contains(w), "{w:?} is not in {said:?}"));
    assert!(error.next_step().is_some() || said.contains("bytes"), "{said}: nothing says what to do next");
}

#[test]
fn a_sound_model_loads() {
    let sound = model(vec![node("relu", "Relu", &["x"], &["y"])], vec![]);
    assert!(Base::from_bytes(&sound.encode_to_vec(), Path::new("good.onnx")).is_ok());
}

#[test]
fn nodes_may_come_in_any_order() {
    let nodes = vec![node("second", "Relu", &["h"], &["y"]), node("first", "Neg", &["x"], &["h"])];
    assert!(Base::from_bytes(&model(nodes, vec![]).encode_to_vec(), Path::new("good.onnx")).is_ok());
}

#[test]
fn unknown_operators_and_domains() {
    let unknown = model(vec![node("here", "Frobnicate", &["x"], &["y"])], vec![]);
    refused(&unknown, ErrorKind::UnsupportedModel, &["here", "Frobnicate"]);
    // Of scikit-learn's models, those that hold nothing that could adapt; those of the hint do (`base::standard`).
    for op in ["SVMClassifier", "SVMRegressor", "TreeEnsembleRegressor"] {
        let mut fixed = node("here", op, &["x"], &["y"]);
        fixed.domain = "ai.onnx.ml".into();
        let fixed = model(vec![fixed], vec![]);
        refused(&fixed, ErrorKind::UnsupportedModel, &["here", op]);
        let hint = refusal(&fixed).next_step().unwrap_or_default().to_string();
        assert!(hint.contains("LogisticRegression") && hint.contains("LinearSVC"), "{hint}");
    }
    let mut custom = node("there", "Relu", &["x"], &["y"]);
    custom.domain = "my.company".into();
    refused(&model(vec![custom], vec![]), ErrorKind::UnsupportedModel, &["there", "my.company"]);
    let looped = model(vec![node("again", "Loop", &["x"], &["y"])], vec![]);
    refused(&looped, ErrorKind::UnsupportedModel, &["again", "Loop"]);
}

#[test]
fn unknown_opsets() {
    for version in [0, 26, i64::MAX] {
        let mut newer = model(vec![node("relu", "Relu", &["x"], &["y"])], vec![]);
        newer.opset_import[0].version = version;
        refused(&newer, ErrorKind::UnsupportedModel, &["opset", &version.to_string()]);
    }
}

#[test]
fn text() {
    let mut text = model(vec![node("same", "Identity", &["x"], &["y"])], vec![]);
    text.graph.as_mut().unwrap().input[0] = value("x", DataType::String, &[2]);
    refused(&text, ErrorKind::UnsupportedModel, &["\"x\"", "text"]);
    let words = TensorProto {
        name: "words".into(),
        dims: vec![1],
        data_type: DataType::String as i32,
        string_data: vec![b"word".to_vec()],
        ..Default::default()
    };
    let stored = model(vec![node("same", "Identity", &["words"], &["y"])], vec![words]);
    refused(&stored, ErrorKind::UnsupportedModel, &["words", "text"]);
}

#[test]
fn inputs_that_disagree_about_the_batch() {
    let with = |dims: &[i64]| {
        let mut two = model(vec![node("sum", "Add", &["x", "state"], &["y"])], vec![]);
        two.graph.as_mut().unwrap().input.push(value("state", DataType::Float, dims));
        two
    };
    assert!(Base::from_bytes(&with(&[2, 4]).encode_to_vec(), Path::new("good.onnx")).is_ok());
    refused(&with(&[1, 4]), ErrorKind::UnsupportedModel, &["\"state\"", "\"x\""]);
    refused(&with(&[]), ErrorKind::UnsupportedModel, &["\"state\"", "single number"]);
}

#[test]
fn malformed_graphs() {
    let cycle =
        vec![node("a", "Add", &["x", "v"], &["u"]), node("b", "Neg", &["u"], &["v"]), node("c", "Neg", &["v"], &["y"])];
    refused(&model(cycle, vec![]), ErrorKind::BadData, &["(bad.onnx: a)", "depends on its own"]);
    let dangling = vec![node("a", "Add", &["x", "nowhere"], &["y"])];
    refused(&model(dangling, vec![]), ErrorKind::BadData, &["(bad.onnx: a)", "\"nowhere\""]);
    let twice = vec![node("a", "Neg", &["x"], &["y"]), node("b", "Relu", &["x"], &["y"])];
    refused(&model(twice, vec![]), ErrorKind::BadData, &["(bad.onnx: b)", "\"y\""]);
    // An output that nothing writes, and nodes with too few inputs, reach the runtime: it refuses, or gives up.
    for odd in [node("a", "Add", &["x"], &["y"]), node("a", "Conv", &[], &["y"]), node("a", "Neg", &["x"], &["z"])] {
        assert_eq!(refusal(&model(vec![odd], vec![])).kind(), ErrorKind::UnsupportedModel);
    }
}

#[test]
fn sizes_beyond_memory() {
    let huge = [1 << 20, 1 << 20, 1 << 20, 1 << 20];
    for (op, inputs) in [("ConstantOfShape", &["s"][..]), ("Expand", &["x", "s"]), ("Tile", &["x", "s"])] {
        let makes = model(vec![node("big", op, inputs, &["y"])], vec![shape("s", &huge)]);
        refused(&makes, ErrorKind::UnsupportedModel, &["(bad.onnx: big)", "1048576"]);
    }
    let weight = |dims: &[i64]| TensorProto {
        name: "w".into(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        raw_data: vec![0; 64],
        ..Default::default()
    };
    for dims in [&[1 << 40, 1 << 40][..], &[-4, 4], &[4, 1 << 20]] {
        let stored = model(vec![node("product", "MatMul", &["x", "w"], &["y"])], vec![weight(dims)]);
        refused(&stored, ErrorKind::BadData, &["\"w\"", &dims[0].to_string()]);
    }
}

#[test]
fn recurrent_layers_that_the_runtime_would_read_wrongly() {
    let attribute = |name: &str, kind: AttributeType| AttributeProto {
        name: name.into(),
        r#type: kind as i32,
        ..Default::default()
    };
    let relu = AttributeProto {
        strings: vec![b"Sigmoid".to_vec(), b"Relu".to_vec(), b"Tanh".to_vec()],
        ..attribute("activations", AttributeType::Strings)
    };
    let clip = AttributeProto { f: 3.0, ..attribute("clip", AttributeType::Float) };
    for odd in [relu, clip] {
        let mut lstm = node("cell", "LSTM", &["x", "w", "r"], &["y"]);
        lstm.attribute.push(odd);
        let weights = ["w", "r"].map(|name| shape(name, &[1]));
        refused(&model(vec![lstm], weights.into()), ErrorKind::UnsupportedModel, &["(bad.onnx: cell)", "LSTM"]);
    }
}

#[test]
fn operators_that_the_runtime_would_read_wrongly() {
    let with = |mut node: NodeProto, name: &str, i: i64| {
        node.attribute.push(AttributeProto { name: name.into(), i, r#type: 2, ..Default::default() });
        node
    };
    let along = with(node("sum", "Add", &["x", "b"], &["y"]), "axis", 0);
    refused(&model(vec![along], vec![shape("b", &[1, 1])]), ErrorKind::UnsupportedModel, &["sum", "axis", "opset 7"]);
    let training = with(node("norm", "BatchNormalization", &["x", "x", "x", "x", "x"], &["y"]), "training_mode", 1);
    refused(&model(vec![training], vec![]), ErrorKind::UnsupportedModel, &["norm", "training mode"]);
    let other = NodeProto { domain: "com.microsoft".into(), ..node("heads", "Attention", &["x", "x", "x"], &["y"]) };
    refused(&model(vec![other], vec![]), ErrorKind::UnsupportedModel, &["Attention", "com.microsoft"]);
}

/// The first load in a child process: the program that is tested is the child.
#[cfg(feature = "cli")]
mod first_load {
    use super::*;
    use acclimate::runtime::sandbox::{Limits, Trial, Vetting};
    use std::path::PathBuf;

    fn vetting(mib: u64, seconds: u64) -> Vetting {
        let program = assert_cmd::cargo::cargo_bin("acclimate");
        Vetting { program, limits: Some(Limits { memory: mib << 20, seconds }) }
    }

    fn write(folder: &tempfile::TempDir, name: &str, model: &ModelProto) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, model.encode_to_vec()).unwrap();
        path
    }

    /// A column and a row of 2^16 each, and their products: 16 GiB, though no operator is told a size.
    fn multiplies() -> ModelProto {
        let nodes = vec![
            node("column", "ConstantOfShape", &["tall"], &["a"]),
            node("row", "ConstantOfShape", &["wide"], &["b"]),
            node("products", "Add", &["a", "b"], &["m"]),
            node("most", "ReduceMax", &["m"], &["c"]),
            node("end", "Add", &["x", "c"], &["y"]),
        ];
        model(nodes, vec![shape("tall", &[1 << 16, 1]), shape("wide", &[1, 1 << 16])])
    }

    #[test]
    fn an_operator_that_makes_too_much_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let nodes = vec![
            node("first", "Tile", &["x", "many"], &["a"]),
            node("second", "Tile", &["a", "more"], &["b"]),
            node("most", "ReduceMax", &["b"], &["c"]),
            node("end", "Add", &["x", "c"], &["y"]),
        ];
        let repeats = model(nodes, vec![shape("many", &[1, 1 << 20]), shape("more", &[1, 1 << 16])]);
        let e = Base::open(write(&folder, "repeats.onnx", &repeats)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::UnsupportedModel);
        assert!(e.to_string().contains("second") && e.to_string().contains("1073741824 bytes"), "{e}");
    }

    /// Products of large matrices that are known before anything is asked.
    fn computes() -> ModelProto {
        let mut nodes = vec![node("ones", "ConstantOfShape", &["size"], &["m0"])];
        nodes.extend((0..8).map(|n| {
            let name = |n: usize| format!("m{n}");
            node(&format!("product{n}"), "MatMul", &[&name(n), &name(n)], &[&name(n + 1)])
        }));
        nodes.push(node("most", "ReduceMax", &["m8"], &["c"]));
        nodes.push(node("end", "Add", &["x", "c"], &["y"]));
        model(nodes, vec![shape("size", &[3000, 3000])])
    }

    #[test]
    fn a_sound_model_is_good() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/har_cnn.onnx");
        let fingerprint = Base::open(&path).unwrap().fingerprint();
        assert_eq!(Vetting::new(vetting(1, 1).program).check(&path, &Trial::default()).unwrap(), fingerprint);
    }

    #[test]
    fn what_loading_it_says_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let unknown = model(vec![node("here", "Frobnicate", &["x"], &["y"])], vec![]);
        let path = write(&folder, "unknown.onnx", &unknown);
        let (said, own) =
            (vetting(2048, 20).check(&path, &Trial::default()).unwrap_err(), Base::open(&path).unwrap_err());
        assert_eq!((said.kind(), said.to_string(), said.next_step()), (own.kind(), own.to_string(), own.next_step()));
        let missing = vetting(2048, 20).check(&folder.path().join("absent.onnx"), &Trial::default()).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Io);
    }

    #[test]
    fn a_model_whose_sizes_multiply_past_memory_costs_a_child() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(&folder, "multiplies.onnx", &multiplies());
        let e = vetting(1024, 20).check(&path, &Trial::default()).unwrap_err();
        let said = e.to_string();
        assert_eq!(e.kind(), ErrorKind::UnsupportedModel, "{said}");
        assert!(said.contains("1024 MiB of memory") && said.contains("multiplies.onnx"), "{said}");
        assert!(e.next_step().unwrap().contains("--load-memory-mib"));

        // Through the program.
        let home = folder.path().join("home");
        let run = std::process::Command::new(assert_cmd::cargo::cargo_bin("acclimate"))
            .args(["init", home.to_str().unwrap(), "--model", path.to_str().unwrap(), "--load-memory-mib", "1024"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(69), "{said}");
        assert!(said.contains("1024 MiB of memory"), "{said}");
        assert!(!home.exists());
    }

    #[test]
    fn a_model_that_computes_without_end_costs_a_child() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(&folder, "computes.onnx", &computes());
        let e = vetting(4096, 1).check(&path, &Trial::default()).unwrap_err();
        let said = e.to_string();
        assert_eq!(e.kind(), ErrorKind::UnsupportedModel, "{said}");
        assert!(said.contains("1 seconds of processor time") && said.contains("computes.onnx"), "{said}");
    }
}
