//! A merged file answers what its base answers with the deltas beside it, for every sort of site.

use std::path::Path;

use super::*;
use crate::adapter::samples::adapter;
use crate::error::Result;
use crate::input::Example;
use crate::plan::{Batch, Deltas, Ends, Factors, ForwardPlan, Padding};
use crate::tools::gradcheck::{Options, random_deltas};
use tract_onnx::pb::TensorProto;

fn answers(base: &Base, deltas: &[crate::adapter::SiteDelta], examples: &[Example]) -> Result<Vec<f32>> {
    let bucket = base.bucket(examples.len(), crate::plan::sequence_length(base, &examples[0]));
    let wanted: Vec<(String, usize)> = deltas.iter().map(|d| (d.name.clone(), d.rank as usize)).collect();
    let plan = ForwardPlan::new(base, Ends::Model, &bucket, &Deltas::Inputs(&wanted))?;
    let rows: Vec<&Example> = examples.iter().collect();
    let outputs = plan.run_all(&Batch::new(base, &bucket, &rows, Padding::Exact)?, &Factors::of(deltas)?)?;
    Ok(outputs.iter().flat_map(|o| o.iter().copied()).collect())
}

/// The base of a golden, merged with random deltas.
fn check(kind: &str, name: &str, tolerance: f64) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/goldens/{kind}/{name}.zip"));
    let folder = tempfile::tempdir().unwrap();
    zip::ZipArchive::new(std::fs::File::open(file).unwrap()).unwrap().extract(&folder).unwrap();
    let path = folder.path().join("model.onnx");
    let base = Base::open(&path).unwrap();
    // Which deltas fit does not depend on it.
    let task = base.guess_task().unwrap_or(Task::Encoder);
    let options = Options { batch: 2, sequence: 7, rank: 2, ..Options::default() };
    let (mut deltas, _) = random_deltas(&base, task, &options).unwrap();
    deltas.sort_by(|a, b| a.name.cmp(&b.name));
    let examples = base.random_examples(&base.bucket(2, 7), 1).unwrap();
    let wanted = answers(&base, &deltas, &examples).unwrap();
    let plain = answers(&base, &[], &examples).unwrap();
    let mut model = parse(&std::fs::read(&path).unwrap()).unwrap();
    let learned = Adapter { labels: vec![], sites: deltas, head: None, ..adapter(0) };
    write_in(&mut model, &base, task, &learned).unwrap();
    let merged = Base::from_bytes(&model.encode_to_vec(), &path).unwrap();
    let got = answers(&merged, &[], &examples).unwrap();
    let apart =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum::<f64>().sqrt();
    let size = wanted.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt();
    let (error, moved) = (apart(&got, &wanted) / size, apart(&plain, &wanted) / size);
    assert!(error < tolerance, "{name}: {error:.1e} apart");
    assert!(moved > 5.0 * tolerance, "{name}: the deltas change next to nothing: {moved:.1e}");
}

#[test]
fn recurrent_layers_of_one_and_of_both_directions() {
    for name in ["lstm", "gru", "rnn", "crnn", "crnn_bilstm", "crnn_lstm_dynamo"] {
        check("zoo", name, 1e-5);
    }
}

#[test]
fn transposed_and_other_convolutions() {
    for name in ["unet_transpose", "mobilenet_v3", "tcn"] {
        check("zoo", name, 1e-5);
    }
}

#[test]
fn weights_of_16_bits_are_rounded_again() {
    for name in ["bert_wide_f16", "ds_cnn_f16_whole", "vit_half"] {
        check("half", name, 2e-3);
    }
    check("half", "qwen2_bf16_dynamo", 2e-2);
}

/// A head that moves one class and adds another.
fn head() -> HeadDelta {
    let weight = crate::adapter::samples::tensor(&[24, 2], 0.1);
    let (columns, bias) = (vec![1, 5], vec![0.5, -0.25]);
    HeadDelta {
        features: 24,
        base_classes: 5,
        classes: 6,
        pooling: crate::adapter::Pooling::None,
        columns,
        normalised: false,
        weight,
        bias,
    }
}

/// `scripts/golden_weights.py`: initializers, also listed as inputs (as every file of IR version 3 has them), Constant
/// nodes, transposed, behind Identity, shared by two layers, in a file beside, of 16 bits.
#[test]
fn weights_however_they_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/weights.zip");
    zip::ZipArchive::new(std::fs::File::open(archive).unwrap()).unwrap().extract(&folder).unwrap();
    let names = [
        "initializers",
        "listed_ir3",
        "listed_ir8",
        "constants",
        "constants_matmul",
        "transposed",
        "identities",
        "shared",
        "external",
        "half",
        "half_listed_ir3",
    ];
    for name in names {
        let path = folder.path().join(format!("{name}.onnx"));
        let base = std::sync::Arc::new(Base::open(&path).unwrap());
        assert!(base.onnx().parameters >= 12 * 24 + 24 * 24 + 24 * 5, "{name}: {}", base.onnx().parameters);
        let options = Options { batch: 3, sequence: 1, rank: 2, ..Options::default() };
        let (mut deltas, _) = random_deltas(&base, Task::Classification, &options).unwrap();
        // The head corrects the classifier directly.
        deltas.retain(|d| d.name != "fc3");
        assert!(deltas.len() >= 2, "{name}");
        let learned = Adapter { labels: vec![], sites: deltas.clone(), head: Some(head()), ..adapter(0) };
        let bytes = in_one_file(&path, &std::fs::read(&path).unwrap()).unwrap();
        let mut model = parse(&bytes).unwrap();
        write_in(&mut model, &base, Task::Classification, &learned).unwrap();

        let graph = model.graph.as_ref().unwrap();
        let stored: Vec<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
        let fed: Vec<&str> = graph.input.iter().map(|i| i.name.as_str()).filter(|i| !stored.contains(i)).collect();
        assert_eq!(fed, ["x"], "{name}: no replaced weight is an input that must be fed");
        let listed = |name: &&str| graph.input.iter().any(|i| i.name == *name);
        assert!(model.ir_version >= 4 || stored.iter().all(listed), "{name}: {stored:?}");
        assert!(graph.initializer.iter().all(|t| t.external_data.is_empty()));

        let tolerance = if name.starts_with("half") { 1e-2 } else { 1e-4 };
        same_answers(name, &base, &deltas, &head(), &model, tolerance);
    }
}

#[test]
fn a_head_on_normalised_features_is_nodes_of_the_file() {
    use crate::plan::{Engine, Variant};
    let folder = tempfile::tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/weights.zip");
    zip::ZipArchive::new(std::fs::File::open(archive).unwrap()).unwrap().extract(&folder).unwrap();
    let path = folder.path().join("initializers.onnx");
    let base = std::sync::Arc::new(Base::open(&path).unwrap());
    let weight = crate::adapter::samples::tensor(&[5, 3], 0.1);
    let head = crate::head::Head {
        normalised: true,
        weight: ndarray::Array2::from_shape_vec((5, 3), weight.data.clone()).unwrap(),
        bias: vec![0.5, -0.25, 0.0].into(),
        ..crate::head::Head::new(5, 0, 3, false).unwrap()
    };
    let part = crate::adapt::head_delta(&head, crate::adapter::Pooling::None);
    let learned = Adapter { labels: vec![], sites: vec![], head: Some(part), confusions: None, ..adapter(0) };
    let mut model = parse(&in_one_file(&path, &std::fs::read(&path).unwrap()).unwrap()).unwrap();
    write_in(&mut model, &base, Task::Encoder, &learned).unwrap();
    let merged = std::sync::Arc::new(Base::from_bytes(&model.encode_to_vec(), Path::new("merged.onnx")).unwrap());
    let engine = |base, task| Engine::new(base, task, crate::adapter::Pooling::None);
    let (ours, theirs) = (engine(base.clone(), Task::Encoder), engine(merged, Task::Classification));
    for example in base.random_examples(&base.bucket(3, 1), 1).unwrap() {
        let features = ours.one(&Variant::Base, &example).unwrap().features;
        let wanted = head.forward(features.view(), None).unwrap();
        let got = theirs.one(&Variant::Base, &example).unwrap().logits.unwrap();
        super::super::verify::compare(&got, &wanted, 1e-5).unwrap_or_else(|why| panic!("{why}"));
    }
}

/// Compares `model`, written with `deltas` and `part` in it, with `base` and both beside it.
fn same_answers(
    name: &str,
    base: &std::sync::Arc<Base>,
    deltas: &[crate::adapter::SiteDelta],
    part: &HeadDelta,
    model: &ModelProto,
    tolerance: f64,
) {
    use crate::plan::{Engine, Variant};
    let merged = std::sync::Arc::new(Base::from_bytes(&model.encode_to_vec(), Path::new("merged.onnx")).unwrap());
    let engine = |base| Engine::new(base, Task::Classification, crate::adapter::Pooling::None);
    let (ours, theirs) = (engine(base.clone()), engine(merged));
    let sites = deltas.iter().map(|d| (d.name.clone(), d.rank as usize)).collect();
    let factors = Factors::of(deltas).unwrap();
    let weight = ndarray::Array2::from_shape_vec((part.features, part.columns.len()), part.weight.data.clone());
    let head = crate::head::Head {
        features: part.features,
        base_classes: part.base_classes,
        classes: part.classes,
        columns: part.columns.clone(),
        normalised: part.normalised,
        weight: weight.unwrap(),
        bias: part.bias.clone().into(),
    };
    for example in base.random_examples(&base.bucket(3, 1), 1).unwrap() {
        let rows = ours.one(&Variant::Adapted(&sites, &factors), &example).unwrap();
        let wanted = head.forward(rows.features.view(), rows.logits.as_ref().map(|z| z.view())).unwrap();
        let got = theirs.one(&Variant::Base, &example).unwrap().logits.unwrap();
        super::super::verify::compare(&got, &wanted, tolerance).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

/// Changes the golden whose last layer, `fc3`, gives five scores, and puts `nodes` behind it that make the output of
/// its value `last`.
fn ending(mut model: ModelProto, change: &dyn Fn(&mut GraphProto, usize), nodes: Vec<NodeProto>) -> ModelProto {
    let graph = model.graph.as_mut().unwrap();
    let at = position(graph, "fc3").unwrap();
    graph.node[at].output[0] = "last".into();
    change(graph, at);
    graph.node.extend(nodes);
    model
}

/// What stands between the last layer and the scores stays in the file; the head is added behind it.
#[test]
fn a_head_behind_scaled_and_reshaped_scores() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/weights.zip");
    zip::ZipArchive::new(std::fs::File::open(archive).unwrap()).unwrap().extract(&folder).unwrap();
    let golden = || parse(&std::fs::read(folder.path().join("initializers.onnx")).unwrap()).unwrap();
    let node = |op: &str, inputs: &[&str], output: &str, attribute: Vec<pb::AttributeProto>| NodeProto {
        name: format!("{output} node"),
        op_type: op.into(),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        attribute,
        ..Default::default()
    };
    let number = |name: &str, f: f32, i: i64| pb::AttributeProto {
        name: name.into(),
        f,
        i,
        r#type: if i == 0 { pb::attribute_proto::AttributeType::Float } else { pb::attribute_proto::AttributeType::Int }
            as i32,
        ..Default::default()
    };
    let store = |graph: &mut GraphProto, name: &str, dims: &[usize], values: &[f32]| {
        graph.initializer.push(tensor(name.into(), dims, values, 1));
    };
    let nothing = |_: &mut GraphProto, _: usize| {};
    let softmax = |of: &str| node("Softmax", &[of], "logits", vec![number("axis", 0.0, -1)]);
    let factors = |graph: &mut GraphProto, at: usize| {
        graph.node[at].attribute.extend([number("alpha", 0.5, 0), number("beta", 2.0, 0)]);
    };
    let temperature = |graph: &mut GraphProto, _: usize| store(graph, "t", &[], &[2.5]);
    let gains = |graph: &mut GraphProto, _: usize| store(graph, "t", &[5], &[0.5, 1.0, 1.5, 2.0, 3.0]);
    let pointwise = |graph: &mut GraphProto, at: usize| {
        let layer = graph.node[at].clone();
        let values = floats(stored(graph, &layer.input[1]).unwrap()).unwrap();
        let turned: Vec<f32> = (0..5 * 24).map(|at| values[at % 24 * 5 + at / 24]).collect();
        store(graph, "kernel", &[5, 24, 1, 1], &turned);
        graph.initializer.push(TensorProto {
            name: "axes".into(),
            dims: vec![2],
            data_type: 7,
            int64_data: vec![2, 3],
            ..Default::default()
        });
        let map = node("Unsqueeze", &[&layer.input[0], "axes"], "map", vec![]);
        let mut conv = node("Conv", &["map", "kernel", &layer.input[2]], "last", vec![]);
        conv.name = "fc3".into();
        graph.node.splice(at..at + 1, [map, conv]);
    };
    let flatten = || node("Flatten", &["last"], "flat", vec![]);
    let same = |of: &str| node("Identity", &[of], "logits", vec![]);
    type Change<'a> = &'a dyn Fn(&mut GraphProto, usize);
    let cases: [(&str, Change<'_>, Vec<NodeProto>); 9] = [
        ("nothing", &nothing, vec![same("last")]),
        ("alpha and beta", &factors, vec![same("last")]),
        ("alpha and beta, softmax", &factors, vec![softmax("last")]),
        ("divided", &temperature, vec![node("Div", &["last", "t"], "logits", vec![])]),
        ("divided, softmax", &temperature, vec![node("Div", &["last", "t"], "cool", vec![]), softmax("cool")]),
        ("gains, softmax", &gains, vec![node("Mul", &["t", "last"], "cool", vec![]), softmax("cool")]),
        ("squashed, softmax", &nothing, vec![node("Tanh", &["last"], "cool", vec![]), softmax("cool")]),
        ("one tap", &pointwise, vec![flatten(), same("flat")]),
        ("one tap, softmax", &pointwise, vec![flatten(), softmax("flat")]),
    ];
    for (name, change, nodes) in cases {
        let base_file = ending(golden(), change, nodes);
        let base = Base::from_bytes(&base_file.encode_to_vec(), Path::new("base.onnx"));
        let base = std::sync::Arc::new(base.unwrap_or_else(|e| panic!("{name}: {e}")));
        let options = Options { batch: 3, sequence: 1, rank: 2, ..Options::default() };
        let (mut deltas, _) = random_deltas(&base, Task::Classification, &options).unwrap();
        deltas.retain(|d| d.name != "fc3");
        let learned = Adapter { labels: vec![], sites: deltas.clone(), head: Some(head()), ..adapter(0) };
        let mut model = base_file;
        write_in(&mut model, &base, Task::Classification, &learned).unwrap_or_else(|e| panic!("{name}: {e}"));
        let output = &model.graph.as_ref().unwrap().output[0];
        assert_eq!(output.name, "logits", "{name}");
        same_answers(name, &base, &deltas, &head(), &model, 1e-4);
    }
}

/// One score over a temperature, behind a sigmoid: what is written answers with a score for no, one for yes, and a new
/// class.
#[test]
fn a_head_behind_one_scaled_score() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/weights.zip");
    zip::ZipArchive::new(std::fs::File::open(archive).unwrap()).unwrap().extract(&folder).unwrap();
    let mut file = parse(&std::fs::read(folder.path().join("initializers.onnx")).unwrap()).unwrap();
    let graph = file.graph.as_mut().unwrap();
    let at = position(graph, "fc3").unwrap();
    let five = floats(stored(graph, "W3").unwrap()).unwrap();
    graph.initializer.push(tensor("one".into(), &[24, 1], &five.into_iter().step_by(5).collect::<Vec<_>>(), 1));
    graph.initializer.push(tensor("own".into(), &[1], &[0.25], 1));
    graph.initializer.push(tensor("t".into(), &[], &[2.5], 1));
    graph.node[at].input[1..].clone_from_slice(&["one".into(), "own".into()]);
    graph.node[at].output[0] = "last".into();
    let node = |op: &str, inputs: &[&str], output: &str| NodeProto {
        name: format!("{output} node"),
        op_type: op.into(),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        ..Default::default()
    };
    graph.node.extend([node("Div", &["last", "t"], "cool"), node("Sigmoid", &["cool"], "p")]);
    graph.output[0] = pb::ValueInfoProto { name: "p".into(), ..Default::default() };
    let base = std::sync::Arc::new(Base::from_bytes(&file.encode_to_vec(), Path::new("base.onnx")).unwrap());
    let part = HeadDelta { base_classes: 2, classes: 3, columns: vec![1, 2], ..head() };
    let learned = Adapter { labels: vec![], sites: vec![], head: Some(part.clone()), ..adapter(0) };
    write_in(&mut file, &base, Task::Classification, &learned).unwrap();
    same_answers("one score", &base, &[], &part, &file, 1e-4);
}
