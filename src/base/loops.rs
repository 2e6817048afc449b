//! Loops whose number of rounds does not depend on the data, written out: each round is a copy of the body.
//!
//! What counts the rounds, and what ends them early, is worked out by the runtime on the part of the graph that it comes from. A loop
//! that depends on the data stays, and the model is refused by its name.

use std::collections::HashMap;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

use super::branches::{known, rename};
use super::narrow::integer;
use super::onnx::node_name;

/// Most rounds of one loop.
const MOST_ROUNDS: i64 = 256;
/// Opset from which an Unsqueeze has its axes as an input.
const AXES_AS_INPUT: i64 = 13;
/// Most nodes that a graph may grow to.
const MOST_NODES: usize = 20_000;

/// Writes out what can be written out in `proto`; how many loops went.
pub(super) fn unroll(proto: &mut ModelProto) -> usize {
    let (mut gone, mut from) = (0, 0);
    loop {
        let nodes = proto.graph.as_ref().map_or(&[][..], |g| &g.node);
        let Some(at) = nodes.iter().skip(from).position(|n| n.op_type == "Loop").map(|n| n + from) else { return gone };
        if write_out(proto, at).is_some() { gone += 1 } else { from = at + 1 }
    }
}

/// What the node says.
struct Parts {
    opset: i64,
    name: String,
    body: GraphProto,
    /// Name of the count, if there is one, and of the first condition.
    count: Option<String>,
    condition: Option<String>,
    /// Values carried from round to round.
    carried: Vec<String>,
    outputs: Vec<String>,
}

fn parts(opset: i64, position: usize, node: &NodeProto) -> Option<Parts> {
    let body = node.attribute.iter().find(|a| a.name == "body")?.g.clone()?;
    let named = |slot: usize| node.input.get(slot).filter(|n| !n.is_empty()).cloned();
    let carried: Vec<String> = node.input.iter().skip(2).cloned().collect();
    let fits = body.input.len() == carried.len() + 2 && body.output.len() > carried.len();
    let name = node_name(position, node);
    let parts =
        Parts { opset, name, body, count: named(0), condition: named(1), carried, outputs: node.output.clone() };
    (fits && parts.outputs.len() < parts.body.output.len()).then_some(parts)
}

/// Replaces the loop at `position`; none, and the graph as it was, if its rounds are not known, or are too many.
fn write_out(proto: &mut ModelProto, position: usize) -> Option<()> {
    let opset = proto.opset_import.iter().find(|o| o.domain.is_empty()).map_or(0, |o| o.version);
    let graph = proto.graph.as_ref()?;
    let parts = parts(opset, position, &graph.node[position])?;
    let count = parts.count.as_ref().map_or(Some(i64::MAX), |name| known(proto, name))?;
    if parts.condition.as_ref().map_or(Some(1), |name| known(proto, name))? == 0 {
        return None;
    }
    let graph = proto.graph.as_mut()?;
    let (before, stored) = (graph.node.clone(), graph.initializer.len());
    let behind = graph.node.split_off(position).split_off(1);
    let done = rounds(proto, &parts, count);
    let graph = proto.graph.as_mut()?;
    graph.node.extend(behind);
    if done.is_none() || graph.node.len() > MOST_NODES {
        graph.node = before;
        graph.initializer.truncate(stored);
        return None;
    }
    Some(())
}

/// Adds all rounds at the end of the graph, and what the loop gives.
fn rounds(proto: &mut ModelProto, parts: &Parts, count: i64) -> Option<()> {
    let shared = parts.body.initializer.iter().cloned().map(|t| within(parts, t));
    proto.graph.as_mut()?.initializer.extend(shared);
    let mut carried = parts.carried.clone();
    let mut scanned: Vec<Vec<String>> = vec![vec![]; parts.body.output.len() - 1 - carried.len()];
    for round in 0..count {
        if round == MOST_ROUNDS {
            return None;
        }
        let outputs = add_round(proto.graph.as_mut()?, parts, round, &carried)?;
        let (goes_on, rest) = outputs.split_first()?;
        let (next, made) = rest.split_at(carried.len());
        carried = next.to_vec();
        scanned.iter_mut().zip(made).for_each(|(all, one)| all.push(one.clone()));
        if round + 1 < count && !goes_on_after(proto, parts, goes_on)? {
            break;
        }
    }
    add_results(proto.graph.as_mut()?, parts, &carried, &scanned)
}

/// A stored tensor of the body: all rounds share it.
fn within(parts: &Parts, mut t: TensorProto) -> TensorProto {
    t.name = format!("{}/{}", parts.name, t.name);
    t
}

/// Adds the nodes of a round; the names of the body's outputs in it.
fn add_round(graph: &mut GraphProto, parts: &Parts, round: i64, carried: &[String]) -> Option<Vec<String>> {
    if graph.node.len() + parts.body.node.len() > MOST_NODES {
        return None;
    }
    let mut body = parts.body.clone();
    let own = |name: &str| format!("{}/{round}/{name}", parts.name);
    let mut names: HashMap<String, String> = HashMap::new();
    names.extend(body.initializer.iter().map(|t| (t.name.clone(), format!("{}/{}", parts.name, t.name))));
    names.extend(body.node.iter().flat_map(|n| &n.output).filter(|o| !o.is_empty()).map(|o| (o.clone(), own(o))));
    let (counter, truth) = (own("round"), own("condition"));
    let given = [counter.clone(), truth.clone()].into_iter().chain(carried.iter().cloned());
    names.extend(body.input.iter().map(|i| i.name.clone()).zip(given));
    graph.initializer.push(scalar(counter, DataType::Int64, round.to_le_bytes().to_vec()));
    graph.initializer.push(scalar(truth, DataType::Bool, vec![1]));
    for (at, node) in body.node.iter_mut().enumerate() {
        node.name = own(&node_name(at, node));
    }
    rename(&mut body, &names);
    graph.node.extend(body.node);
    Some(body.output.into_iter().map(|o| o.name).collect())
}

fn scalar(name: String, kind: DataType, raw_data: Vec<u8>) -> TensorProto {
    TensorProto { name, data_type: kind as i32, raw_data, ..Default::default() }
}

/// Whether the condition called `name` lets another round follow; none if that depends on the data.
fn goes_on_after(model: &ModelProto, parts: &Parts, name: &str) -> Option<bool> {
    // A condition that is handed on, or is stored, needs no working out: what is handed in is true.
    let own = parts.body.output.first()?.name.as_str();
    let writer = parts.body.node.iter().find(|n| n.output.iter().any(|o| o == own));
    let handed =
        writer.map_or(own, |n| if n.op_type == "Identity" { n.input.first().map_or("", String::as_str) } else { "" });
    if parts.body.input.get(1).is_some_and(|i| i.name == handed) {
        return Some(true);
    }
    known(model, name).map(|n| n != 0)
}

/// Adds what the loop's outputs are: the values carried last, and those of all rounds one after the other.
fn add_results(graph: &mut GraphProto, parts: &Parts, carried: &[String], scanned: &[Vec<String>]) -> Option<()> {
    let node = |op: &str, name: String, input: Vec<String>, output: String| NodeProto {
        name,
        op_type: op.into(),
        input,
        output: vec![output],
        ..Default::default()
    };
    let named = |(slot, output): (usize, &String)| (!output.is_empty()).then(|| (slot, output.clone()));
    for (slot, output) in parts.outputs.iter().enumerate().filter_map(named) {
        if let Some(last) = carried.get(slot) {
            graph.node.push(node("Identity", format!("{output}/last"), vec![last.clone()], output));
            continue;
        }
        let (values, axes) = (scanned.get(slot - carried.len())?, format!("{output}/axes"));
        let mut rows = vec![];
        for (round, value) in values.iter().enumerate() {
            let row = format!("{output}/{round}/row");
            let mut input = vec![value.clone()];
            if parts.opset >= AXES_AS_INPUT {
                input.push(axes.clone());
            }
            let mut unsqueeze = node("Unsqueeze", row.clone(), input, row.clone());
            if parts.opset < AXES_AS_INPUT {
                unsqueeze.attribute.push(AttributeProto {
                    name: "axes".into(),
                    r#type: AttributeType::Ints as i32,
                    ints: vec![0],
                    ..Default::default()
                });
            }
            graph.node.push(unsqueeze);
            rows.push(row);
        }
        if rows.is_empty() {
            return None;
        }
        if parts.opset >= AXES_AS_INPUT {
            let (dims, data_type) = (vec![1], DataType::Int64 as i32);
            graph.initializer.push(TensorProto {
                name: axes,
                dims,
                data_type,
                int64_data: vec![0],
                ..Default::default()
            });
        }
        let mut all = node("Concat", format!("{output}/rounds"), rows, output);
        all.attribute.push(integer("axis", 0));
        graph.node.push(all);
    }
    Some(())
}
