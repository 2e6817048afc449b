//! Features, kinds of ends, and the output that answers.

use super::*;

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
