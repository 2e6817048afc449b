//! What is taken for a causal language model.

use super::*;

const TOKENS: i64 = 20;
const WIDTH: i64 = 8;

/// `ids [batch, sequence] → e [batch, sequence, 8]`, then `end`, and scores of what it calls `h` by `w [8, scores]`.
fn scored_tokens(end: Vec<NodeProto>, scores: i64) -> Base {
    let start = [node("Gather", &["table", "ids"], "e", vec![])];
    let last = [node("MatMul", &["h", "w"], "logits", vec![])];
    let ids = input("ids", DataType::Int64, &["batch", "sequence"].map(|name| Value::DimParam(name.into())));
    let constants = vec![
        weight("table", &[TOKENS, WIDTH]),
        weight("w", &[WIDTH, scores]),
        stored("axis1", &[1], &[1]),
        number("two", 2.0),
    ];
    let nodes = start.into_iter().chain(end).chain(last).collect();
    base(&with_outputs(model(17, vec![ids], constants, nodes), &["logits"]))
}

/// Every position looks at all of them.
fn attention() -> Vec<NodeProto> {
    vec![
        node("Transpose", &["e"], "t", vec![ints("perm", &[0, 2, 1])]),
        node("MatMul", &["e", "t"], "s", vec![]),
        node("Softmax", &["s"], "p", vec![int("axis", -1)]),
        node("MatMul", &["p", "e"], "h", vec![]),
    ]
}

#[test]
fn scores_that_no_later_token_changes_are_those_of_the_next_one() {
    let n = |op: &str, inputs: &[&str], y: &str| node(op, inputs, y, vec![]);
    let mean = || node("ReduceMean", &["e"], "m", vec![ints("axes", &[1]), int("keepdims", 1)]);
    for (name, end, scores, task) in [
        ("each token alone", vec![n("Mul", &["e", "two"], "h")], TOKENS, Task::CausalLm),
        ("a sum of those before", vec![n("CumSum", &["e", "axis1"], "h")], TOKENS, Task::CausalLm),
        ("a mean of all", vec![mean(), n("Add", &["e", "m"], "h")], TOKENS, Task::Encoder),
        ("attention to all", attention(), TOKENS, Task::Encoder),
        ("tags", vec![n("CumSum", &["e", "axis1"], "h")], 5, Task::Encoder),
    ] {
        let base = scored_tokens(end, scores);
        assert_eq!(base.guess_task().unwrap(), task, "{name}");
        assert_eq!(base.output_kind().unwrap(), Kind::Tokens, "{name}");
        assert_eq!(base.task(Some(Task::CausalLm)).is_ok(), task == Task::CausalLm, "{name}");
        // A head over the mean of the positions can be asked for.
        assert!(base.task(Some(Task::Encoder)).is_ok(), "{name}");
        if task == Task::CausalLm {
            let mut graph = base.concrete(&base.bucket(2, 7)).unwrap();
            let tail = find_tail(&base, &mut graph, Task::CausalLm).unwrap();
            let shape = graph.outlet_fact(tail.features).unwrap().shape.as_concrete().unwrap().to_vec();
            assert_eq!((shape, tail.logits), (vec![2, 7, WIDTH as usize], None), "{name}");
            assert_eq!(graph.node(tail.classifier.unwrap()).name, "logits", "{name}");
        }
    }
}
