//! Members of every kind of end, as small files: what they are taken for, and that the softmax of their scores is
//! what they answer.

use std::path::Path;

use prost::Message;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value;
use tract_onnx::pb::{AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

use super::*;
use crate::base::Bucket;
use crate::base::decompose::tests::{input, int, ints, model, node, ramp, stored};
use crate::base::integers::float_tensor;
use crate::sites::floats;

const INPUTS: usize = 8;
const HIDDEN: usize = 16;
const CLASSES: usize = 4;

fn weight(name: &str, dims: &[i64]) -> TensorProto {
    let shape: Vec<usize> = dims.iter().map(|d| *d as usize).collect();
    float_tensor(name.into(), floats(&ramp(&shape)).unwrap(), dims)
}

fn number(name: &str, value: f32) -> TensorProto {
    float_tensor(name.into(), &[value], &[])
}

fn float(name: &str, f: f32) -> AttributeProto {
    use tract_onnx::pb::attribute_proto::AttributeType;
    AttributeProto { name: name.into(), r#type: AttributeType::Float as i32, f, ..AttributeProto::default() }
}

fn gemm(x: &str, w: &str, b: &str, y: &str) -> NodeProto {
    node("Gemm", &[x, w, b], y, vec![])
}

/// `x [batch, 8] → h [batch, 16]`, then `end`, whose output is `y`.
fn file(opset: i64, end: Vec<NodeProto>, more: Vec<TensorProto>) -> ModelProto {
    let body = vec![gemm("x", "w1", "b1", "h0"), node("Relu", &["h0"], "h", vec![])];
    let constants = [
        weight("w1", &[8, 16]),
        weight("b1", &[16]),
        weight("w2", &[16, 4]),
        weight("b2", &[4]),
        weight("w3", &[16, 1]),
        weight("b3", &[1]),
        number("two", 2.0),
        number("one", 1.0),
        number("tiny", 1e-7),
        stored("axis1", &[1], &[1]),
        stored("axes23", &[2], &[2, 3]),
    ];
    let x = input("x", DataType::Float, &[Value::DimParam("batch".into()), Value::DimValue(INPUTS as i64)]);
    model(opset, vec![x], constants.into_iter().chain(more).collect(), body.into_iter().chain(end).collect())
}

/// The same, with `z [batch, 4]` before the end.
fn scored(opset: i64, end: Vec<NodeProto>, more: Vec<TensorProto>) -> ModelProto {
    let z = [gemm("h", "w2", "b2", "z")];
    file(opset, z.into_iter().chain(end).collect(), more)
}

fn base(model: &ModelProto) -> Base {
    Base::from_bytes(&model.encode_to_vec(), Path::new("end.onnx")).unwrap()
}

fn with_outputs(mut model: ModelProto, names: &[&str]) -> ModelProto {
    let output = |name: &&str| ValueInfoProto { name: name.to_string(), ..ValueInfoProto::default() };
    model.graph.as_mut().unwrap().output = names.iter().map(output).collect();
    model
}

/// What a classifier's end makes of some examples: its scores, what the file answers, and the width of the features.
fn ran(base: &Base, batch: usize) -> (Vec<Vec<f32>>, Vec<Vec<f32>>, usize) {
    let mut graph = base.concrete(&Bucket { batch, sequence: 0 }).unwrap();
    let tail = find_tail(base, &mut graph, Task::Classification).unwrap();
    let output = graph.outputs[base.ending().unwrap().output];
    let features = graph.outlet_fact(tail.features).unwrap().shape.as_concrete().unwrap().to_vec();
    assert_eq!((features.len(), features[0]), (2, batch), "{features:?}");
    graph.select_output_outlets(&[tail.logits.unwrap(), output]).unwrap();
    let values = graph
        .into_optimized()
        .unwrap()
        .into_runnable()
        .unwrap()
        .run(tvec!(ramp(&[batch, INPUTS]).into_tvalue()))
        .unwrap();
    let rows = |v: &Tensor| {
        let all = floats(v).unwrap().to_vec();
        all.chunks(all.len() / batch).map(<[f32]>::to_vec).collect::<Vec<_>>()
    };
    (rows(&values[0]), rows(&values[1]), features[1])
}

fn softmax(row: &[f32]) -> Vec<f32> {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f32> = row.iter().map(|z| (z - top).exp()).collect();
    let sum: f32 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}

#[track_caller]
fn near(a: &[f32], b: &[f32], tolerance: f32, name: &str) {
    assert_eq!(a.len(), b.len(), "{name}");
    a.iter().zip(b).for_each(|(a, b)| assert!((a - b).abs() <= tolerance, "{name}: {a}, not {b}"));
}

fn sum(of: &str, y: &str, keep: i64) -> NodeProto {
    node("ReduceSum", &[of, "axis1"], y, vec![int("keepdims", keep)])
}

/// Ends that answer the softmax of `z`, or its logarithm.
fn softmaxes() -> Vec<(&'static str, i64, Vec<NodeProto>, Vec<TensorProto>)> {
    let n = |op: &str, inputs: &[&str], y: &str| node(op, inputs, y, vec![]);
    let last = |y: &str| node("Softmax", &["z"], y, vec![int("axis", -1)]);
    let to = |x: &str, kind: DataType, y: &str| node("Cast", &[x], y, vec![int("to", kind as i64)]);
    let centred = || {
        let top = node("ReduceMax", &["z"], "m", vec![ints("axes", &[1]), int("keepdims", 1)]);
        vec![top, n("Sub", &["z", "m"], "c"), n("Exp", &["c"], "e"), sum("e", "t", 1)]
    };
    vec![
        ("softmax", 17, vec![last("y")], vec![]),
        ("softmax of opset 11", 11, vec![node("Softmax", &["z"], "y", vec![int("axis", 1)])], vec![]),
        ("identity", 17, vec![last("s"), n("Identity", &["s"], "y")], vec![]),
        ("cast", 17, vec![last("s"), to("s", DataType::Float16, "c"), to("c", DataType::Float, "y")], vec![]),
        ("clip", 17, vec![last("s"), n("Clip", &["s", "tiny", "one"], "y")], vec![]),
        (
            "quantised",
            17,
            vec![
                last("s"),
                n("QuantizeLinear", &["s", "scale", "zero"], "q"),
                n("DequantizeLinear", &["q", "scale", "zero"], "y"),
            ],
            vec![
                number("scale", 1.0 / 256.0),
                TensorProto {
                    name: "zero".into(),
                    data_type: DataType::Uint8 as i32,
                    raw_data: vec![0],
                    ..TensorProto::default()
                },
            ],
        ),
        ("flatten", 17, vec![last("s"), n("Unsqueeze", &["s", "axes23"], "u"), n("Flatten", &["u"], "y")], vec![]),
        ("reshape", 17, vec![last("s"), n("Reshape", &["s", "shape"], "y")], vec![stored("shape", &[2], &[-1, 4])]),
        (
            "before a squeeze",
            17,
            vec![
                n("Unsqueeze", &["z", "axis1"], "u"),
                node("Softmax", &["u"], "s", vec![int("axis", 2)]),
                n("Squeeze", &["s", "axis1"], "y"),
            ],
            vec![],
        ),
        (
            "over channels",
            17,
            vec![n("Unsqueeze", &["z", "axes23"], "u"), node("Softmax", &["u"], "y", vec![int("axis", 1)])],
            vec![],
        ),
        ("written out", 17, vec![n("Exp", &["z"], "e"), sum("e", "t", 1), n("Div", &["e", "t"], "y")], vec![]),
        ("less the maximum", 17, centred().into_iter().chain([n("Div", &["e", "t"], "y")]).collect(), vec![]),
        (
            "times the reciprocal",
            17,
            centred().into_iter().chain([n("Reciprocal", &["t"], "r"), n("Mul", &["r", "e"], "y")]).collect(),
            vec![],
        ),
        (
            "over a sum without its axis",
            17,
            vec![
                n("Exp", &["z"], "e"),
                sum("e", "t", 0),
                n("Unsqueeze", &["t", "axis1"], "u"),
                n("Add", &["u", "tiny"], "v"),
                n("Div", &["e", "v"], "y"),
            ],
            vec![],
        ),
        ("log-softmax", 17, vec![node("LogSoftmax", &["z"], "y", vec![int("axis", 1)])], vec![]),
        ("log of a softmax", 17, vec![last("s"), n("Log", &["s"], "y")], vec![]),
        (
            "log-softmax written out",
            17,
            vec![n("Exp", &["z"], "e"), sum("e", "t", 1), n("Log", &["t"], "l"), n("Sub", &["z", "l"], "y")],
            vec![],
        ),
    ]
}

#[test]
fn softmaxes_in_all_forms_are_found() {
    for (name, opset, end, more) in softmaxes() {
        let base = base(&scored(opset, end, more));
        let report = base.end_report().unwrap();
        assert_eq!(report.kind, Kind::Classes, "{name}");
        let scores = report.scores.unwrap();
        assert!(["z", "u"].contains(&scores.node.as_str()), "{name}: {scores:?}");
        assert!(report.probabilities.is_some(), "{name}");
        for batch in [1, 4] {
            let (logits, answers, width) = ran(&base, batch);
            assert_eq!(width, HIDDEN, "{name}");
            for (z, y) in logits.iter().zip(&answers) {
                let p: Vec<f32> = if name.starts_with("log") { y.iter().map(|l| l.exp()).collect() } else { y.clone() };
                near(&softmax(z), &p, if name == "quantised" { 1.0 / 256.0 } else { 1e-3 }, name);
            }
        }
    }
}

#[test]
fn what_is_no_softmax_over_the_classes_is_none() {
    let n = |op: &str, inputs: &[&str], y: &str| node(op, inputs, y, vec![]);
    let last = |y: &str| node("Softmax", &["z"], y, vec![int("axis", -1)]);
    let half = || number("half", 0.3);
    for (name, end) in [
        ("over the batch", vec![node("Softmax", &["z"], "y", vec![int("axis", 0)])]),
        ("bounds that bite", vec![last("s"), n("Clip", &["s", "tiny", "half"], "y")]),
        ("turned around", vec![last("s"), n("Sub", &["one", "s"], "y")]),
        ("moved", vec![last("s"), n("Add", &["s", "half"], "y")]),
        (
            "squared exponentials",
            vec![n("Exp", &["z"], "e"), n("Mul", &["e", "e"], "q"), sum("e", "t", 1), n("Div", &["q", "t"], "y")],
        ),
        ("the sum of another", vec![n("Exp", &["z"], "e"), sum("z", "t", 1), n("Div", &["e", "t"], "y")]),
    ] {
        let base = base(&scored(17, end, vec![half()]));
        assert_eq!(base.end_report().unwrap().probabilities, None, "{name}");
    }
}

#[test]
fn features_are_what_the_last_linear_layer_reads() {
    let n = |op: &str, inputs: &[&str], y: &str| node(op, inputs, y, vec![]);
    let unsqueezed = || n("Unsqueeze", &["h", "axes23"], "u");
    let conv = |y: &str| node("Conv", &["u", "kernel", "b2"], y, vec![ints("kernel_shape", &[1, 1])]);
    let columns =
        || vec![weight("kernel", &[4, 16, 1, 1]), weight("gain", &[4]), weight("w9", &[16, 1]), number("eps", 1e-6)];
    for (name, end) in [
        ("plain", vec![gemm("h", "w2", "b2", "y")]),
        ("alpha and beta", vec![node("Gemm", &["h", "w2", "b2"], "y", vec![float("alpha", 2.0), float("beta", 0.5)])]),
        ("a temperature", vec![gemm("h", "w2", "b2", "z"), n("Div", &["z", "two"], "y")]),
        (
            "a gain for each class",
            vec![gemm("h", "w2", "b2", "z"), n("Mul", &["z", "gain"], "g"), n("Add", &["g", "b2"], "y")],
        ),
        ("a convolution, flattened", vec![unsqueezed(), conv("c"), n("Flatten", &["c"], "y")]),
        ("a convolution as it is", vec![unsqueezed(), conv("y")]),
        (
            "a product of three axes",
            vec![
                n("Unsqueeze", &["h", "axis1"], "u"),
                n("MatMul", &["u", "w2"], "m"),
                n("Add", &["m", "b2"], "a"),
                n("Squeeze", &["a", "axis1"], "y"),
            ],
        ),
        ("a tanh", vec![gemm("h", "w2", "b2", "z"), n("Tanh", &["z"], "y")]),
        (
            "a gate for each example",
            vec![
                gemm("h", "w2", "b2", "z"),
                n("MatMul", &["h", "w9"], "g"),
                n("Sigmoid", &["g"], "s"),
                n("Mul", &["z", "s"], "y"),
            ],
        ),
        (
            "over a norm",
            vec![
                gemm("h", "w2", "b2", "z"),
                node("ReduceL2", &["h"], "n", vec![ints("axes", &[1])]),
                n("Add", &["n", "eps"], "ne"),
                n("Div", &["z", "ne"], "y"),
            ],
        ),
    ] {
        // As many labels as outputs: a classifier, whatever its last operator.
        let base = base(&file(17, end, columns())).answering(None, Some(CLASSES)).unwrap();
        assert_eq!(base.guess_task().unwrap(), Task::Classification, "{name}");
        for batch in [1, 3] {
            let (logits, answers, width) = ran(&base, batch);
            assert_eq!(width, HIDDEN, "{name}");
            logits.iter().zip(&answers).for_each(|(z, y)| near(z, y, 1e-5, name));
        }
    }
}

#[test]
fn rows_that_sum_to_one_are_probabilities_whatever_made_them() {
    let n = |op: &str, inputs: &[&str], y: &str| node(op, inputs, y, vec![]);
    let shares = vec![n("Sigmoid", &["z"], "s"), sum("s", "t", 1), n("Div", &["s", "t"], "y")];
    let mut pair = vec![gemm("h", "w3", "b3", "z1"), n("Sigmoid", &["z1"], "p"), n("Sub", &["one", "p"], "q")];
    pair.push(node("Concat", &["q", "p"], "y", vec![int("axis", 1)]));
    for (name, model) in [("shares", scored(17, shares, vec![])), ("1 - p and p", file(17, pair, vec![]))] {
        let base = base(&model);
        let report = base.end_report().unwrap();
        assert_eq!(report.kind, Kind::Classes, "{name}");
        assert!(report.scores.unwrap().form.contains("logarithms"), "{name}");
        let (logits, answers, _) = ran(&base, 3);
        logits.iter().zip(&answers).for_each(|(z, y)| near(&softmax(z), y, 1e-5, name));
    }
}

#[test]
fn one_score_is_two_classes() {
    let n = |op: &str, inputs: &[&str], y: &str| node(op, inputs, y, vec![]);
    let z = || gemm("h", "w3", "b3", "z1");
    for (name, end) in [
        ("sigmoid", vec![z(), n("Sigmoid", &["z1"], "y")]),
        ("sigmoid, squeezed", vec![z(), n("Sigmoid", &["z1"], "s"), n("Squeeze", &["s", "axis1"], "y")]),
        (
            "written out",
            vec![
                z(),
                n("Neg", &["z1"], "m"),
                n("Exp", &["m"], "e"),
                n("Add", &["e", "one"], "d"),
                n("Reciprocal", &["d"], "y"),
            ],
        ),
        (
            "one over",
            vec![
                z(),
                n("Neg", &["z1"], "m"),
                n("Exp", &["m"], "e"),
                n("Add", &["one", "e"], "d"),
                n("Div", &["one", "d"], "y"),
            ],
        ),
    ] {
        let base = base(&file(17, end, vec![]));
        assert_eq!(
            (base.output_kind().unwrap(), base.guess_task().unwrap()),
            (Kind::TwoClasses, Task::Classification),
            "{name}"
        );
        let (logits, answers, width) = ran(&base, 3);
        assert_eq!(width, HIDDEN, "{name}");
        logits.iter().zip(&answers).for_each(|(z, p)| near(&softmax(z), &[1.0 - p[0], p[0]], 1e-5, name));
    }
    // A raw score, and a probability that no sigmoid made, are two classes where two labels say so.
    let raw = file(17, vec![gemm("h", "w3", "b3", "y")], vec![]);
    assert_eq!(base(&raw).output_kind().unwrap(), Kind::Regression);
    let refused = base(&raw).guess_task().unwrap_err();
    assert!(
        refused.to_string().contains("regression") && refused.next_step().unwrap().contains("--labels"),
        "{refused}"
    );
    let said = base(&raw).answering(None, Some(2)).unwrap();
    let (logits, answers, _) = ran(&said, 3);
    logits.iter().zip(&answers).for_each(|(z, y)| near(z, &[0.0, y[0]], 1e-5, "raw"));
    let hard = file(17, vec![z(), n("HardSigmoid", &["z1"], "y")], vec![]);
    let (logits, answers, _) = ran(&base(&hard).answering(None, Some(2)).unwrap(), 3);
    logits.iter().zip(&answers).for_each(|(z, p)| near(&softmax(z), &[1.0 - p[0], p[0]], 1e-5, "hard sigmoid"));
}

/// The kind of a model of one float input of this shape.
fn kind(
    shape: &[Value],
    nodes: Vec<NodeProto>,
    more: Vec<TensorProto>,
    outputs: &[&str],
) -> (Kind, usize, Option<Error>) {
    let file = with_outputs(model(17, vec![input("x", DataType::Float, shape)], more, nodes), outputs);
    let base = base(&file);
    let report = base.end_report().unwrap();
    (report.kind, report.batch_axis, base.guess_task().err())
}

#[test]
fn what_is_no_classifier_is_named() {
    let n = |op: &str, inputs: &[&str], y: &str| node(op, inputs, y, vec![]);
    let open = || Value::DimParam("n".into());
    let fixed = |d: i64| Value::DimValue(d);
    let picture = [open(), fixed(3), fixed(8), fixed(8)];
    let row = [open(), fixed(8)];
    let steps = [open(), fixed(12), fixed(8)];
    let conv = |y: &str| node("Conv", &["x", "k"], y, vec![ints("kernel_shape", &[1, 1])]);
    let k = || {
        vec![
            weight("k", &[8, 3, 1, 1]),
            weight("w", &[8, 16]),
            weight("w4", &[4, 21]),
            weight("lw", &[1, 16, 8]),
            weight("lr", &[1, 16, 4]),
            stored("four", &[3], &[0, -1, 4]),
            stored("loose", &[2], &[-1, 4]),
        ]
    };
    let moved =
        |perm: &[i64]| vec![n("MatMul", &["x", "w"], "m"), node("Transpose", &["m"], "y", vec![ints("perm", perm)])];
    let recurrent = || {
        let lstm = node("LSTM", &["t", "lw", "lr"], "y", vec![int("hidden_size", 4)]);
        let output = vec![String::new(), "y".to_string()];
        vec![node("Transpose", &["x"], "t", vec![ints("perm", &[1, 0, 2])]), NodeProto { output, ..lstm }]
    };
    let cases = [
        ("a map", &picture[..], vec![conv("y")], "y", Kind::Map, 0),
        ("a map laid flat", &picture, vec![conv("c"), n("Flatten", &["c"], "y")], "y", Kind::Map, 0),
        ("boxes of anchors", &picture, vec![conv("c"), n("Reshape", &["c", "four"], "y")], "y", Kind::Boxes, 0),
        ("rows of boxes", &picture, vec![conv("c"), n("Reshape", &["c", "loose"], "y")], "y", Kind::Boxes, 0),
        ("boxes by name", &row, vec![n("MatMul", &["x", "w"], "bbox_pred")], "bbox_pred", Kind::Boxes, 0),
        (
            "several labels",
            &row,
            vec![n("MatMul", &["x", "w"], "m"), n("Sigmoid", &["m"], "y")],
            "y",
            Kind::MultiLabel,
            0,
        ),
        (
            "classes",
            &row,
            vec![n("MatMul", &["x", "w"], "m"), node("ArgMax", &["m"], "y", vec![int("axis", 1)])],
            "y",
            Kind::Integers,
            0,
        ),
        ("a sequence", &steps, vec![n("MatMul", &["x", "w"], "y")], "y", Kind::Sequence, 0),
        ("tags", &steps, vec![n("MatMul", &["x", "w"], "logits")], "logits", Kind::Tokens, 0),
        (
            "tags, squashed",
            &steps,
            vec![n("MatMul", &["x", "w"], "m"), node("Softmax", &["m"], "y", vec![int("axis", -1)])],
            "y",
            Kind::Tokens,
            0,
        ),
        (
            "scores of anchors",
            &picture,
            vec![conv("c"), n("Reshape", &["c", "four"], "v"), n("MatMul", &["v", "w4"], "scores")],
            "scores",
            Kind::Boxes,
            0,
        ),
        ("the state of a recurrent layer", &steps, recurrent(), "y", Kind::Vector, 1),
        ("time first", &steps, moved(&[1, 0, 2]), "y", Kind::Sequence, 1),
        ("time last, the batch in between", &steps, moved(&[2, 0, 1]), "y", Kind::Sequence, 1),
    ];
    for (name, shape, nodes, output, expected, axis) in cases {
        let (found, at, refused) = kind(shape, nodes, k(), &[output]);
        assert_eq!((found, at), (expected, axis), "{name}");
        assert_eq!(refused.is_some(), ![Kind::Vector, Kind::Sequence, Kind::Tokens].contains(&expected), "{name}");
        if let Some(e) = refused {
            assert!(e.to_string().contains(expected.describe()) && e.next_step().is_some(), "{name}: {e}");
        }
    }
}

#[test]
fn the_output_that_looks_like_the_answer_is_taken() {
    let n = |op: &str, inputs: &[&str], y: &str| node(op, inputs, y, vec![]);
    let label = || node("ArgMax", &["z"], "label", vec![int("axis", 1), int("keepdims", 0)]);
    let two =
        |first: &str, second: &str, nodes: Vec<NodeProto>| with_outputs(scored(17, nodes, vec![]), &[first, second]);
    let labelled =
        || two("label", "probabilities", vec![label(), node("Softmax", &["z"], "probabilities", vec![int("axis", 1)])]);
    let named = || two("hidden", "logits", vec![n("Identity", &["h"], "hidden"), n("Identity", &["z"], "logits")]);
    let unnamed = || two("a", "b", vec![n("Identity", &["h"], "a"), n("Identity", &["z"], "b")]);
    let pooled = || {
        two(
            "last_hidden",
            "pooler_output",
            vec![n("Unsqueeze", &["h", "axis1"], "last_hidden"), n("Tanh", &["z"], "pooler_output")],
        )
    };
    for (name, model, labels, expected) in [
        ("labels before probabilities", labelled(), None, "probabilities"),
        ("by its name", named(), None, "logits"),
        ("the first of two that may be it", unnamed(), None, "a"),
        ("by its width", unnamed(), Some(CLASSES), "b"),
        ("an encoder's first", pooled(), None, "last_hidden"),
    ] {
        let base = base(&model).answering(None, labels).unwrap();
        assert_eq!(base.output_name().unwrap(), expected, "{name}");
    }
    let chosen = base(&named()).answering(Some("hidden"), None).unwrap();
    assert_eq!((chosen.output_name().unwrap().as_str(), chosen.guess_task().unwrap()), ("hidden", Task::Encoder));
    let e = base(&named()).answering(Some("nothing"), None).unwrap_err();
    assert!(e.next_step().unwrap().contains("logits f32[batch, 4]"), "{e}");
    // What would work instead is named.
    let e = base(&labelled()).answering(Some("label"), None).unwrap().guess_task().unwrap_err();
    assert!(e.next_step().unwrap().contains("--model-output probabilities"), "{e}");
}

/// A model of one input whose end is wired by `end`.
fn typed(end: impl Fn(&mut TypedModel, OutletId) -> TractResult<TVec<OutletId>>) -> TypedModel {
    let mut model = TypedModel::default();
    let x = model.add_source("x", f32::fact([2, 3, 4])).unwrap();
    let outputs = end(&mut model, x).unwrap();
    model.select_output_outlets(&outputs).unwrap();
    model
}

#[test]
fn vectors_and_scores_are_told_apart() {
    use tract_core::ops::einsum::EinSum;
    use tract_core::ops::math;
    use tract_core::ops::nn::{Reduce, Reducer};
    let mean = |m: &mut TypedModel, x: OutletId| -> TractResult<TVec<OutletId>> {
        let sum = m.wire_node("sum", Reduce::new(tvec!(1), Reducer::Sum), &[x])?;
        m.wire_node("row", AxisOp::Rm(1), &sum)
    };
    let linear = |m: &mut TypedModel, x: OutletId| -> TractResult<TVec<OutletId>> {
        let row = mean(m, x)?[0];
        let w = m.add_const("w", Tensor::zero::<f32>(&[4, 5])?)?;
        m.wire_node("linear", EinSum::new("bi,ij->bj".parse()?, f32::datum_type()), &[row, w])
    };
    let normed = typed(|m, x| {
        let row = mean(m, x)?;
        let square = m.wire_node("square", math::square(), &row)?;
        let total = m.wire_node("total", Reduce::new(tvec!(1), Reducer::Sum), &square)?;
        let size = m.wire_node("size", math::sqrt(), &total)?;
        m.wire_node("unit", math::div(), &[row[0], size[0]])
    });
    let pooler = typed(|m, x| {
        let z = linear(m, x)?;
        m.wire_node("tanh", math::tanh(), &z)
    });
    let scores = typed(|m, x| {
        let z = linear(m, x)?[0];
        let bias = m.add_const("bias", Tensor::zero::<f32>(&[1, 5])?)?;
        m.wire_node("biased", math::add(), &[z, bias])
    });
    let pooled_scores = typed(mean);
    let hidden = typed(|m, x| m.wire_node("tanh", math::tanh(), &[x]));
    for (model, name, expected) in [
        (&normed, "output", Kind::Vector),
        (&pooler, "output", Kind::Vector),
        (&hidden, "output", Kind::Sequence),
        (&scores, "output", Kind::Classes),
        (&pooled_scores, "output", Kind::Classes),
        (&pooled_scores, "sentence_embedding", Kind::Vector),
        (&pooler, "logits", Kind::Classes),
    ] {
        let context = Context { batch: 2, map_input: false, labels: None };
        assert_eq!(kind::kind_of(model, model.outputs[0], Some(0), name, &context), expected, "{name}");
    }
}
