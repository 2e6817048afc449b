//! Ends that answer a softmax, and those that do not.

use super::*;

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
