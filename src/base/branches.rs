//! Constant control flow: an `If` whose condition does not depend on the data becomes the branch that it takes.
//!
//! Exporters leave such nodes where a program asked for a rank, a size, or a setting. The condition is worked out by the runtime, on
//! the part of the graph that it comes from; one that depends on the data stays, and the model is refused by its name.

use std::collections::{HashMap, HashSet};

use tract_core::internal::*;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value};
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};

use super::reload::{shape, shape_mut};
use super::{guarded, stored, typed};
use crate::error::ErrorKind;

/// Most nodes that are looked at. Each takes some readings of the part of the graph before it.
const MOST: usize = 256;

/// Folds what can be folded in `proto`, also in the branches that are taken; how many nodes went.
pub(super) fn fold(proto: &mut ModelProto) -> usize {
    let (mut folded, mut from) = (0, 0);
    for _ in 0..MOST {
        let Some(graph) = &proto.graph else { break };
        let Some(at) = graph.node.iter().skip(from).position(|n| n.op_type == "If").map(|n| n + from) else { break };
        match condition(proto, at) {
            // What comes in its place may hold others, so the search goes on from here.
            Some(taken) if proto.graph.as_mut().is_some_and(|g| inline(g, at, taken).is_some()) => {
                folded += 1;
                from = at;
            }
            _ => from = at + 1,
        }
    }
    folded
}

/// What the `If` at `position` decides, if it decides the same for every batch and length that is tried.
fn condition(proto: &ModelProto, position: usize) -> Option<bool> {
    let name = proto.graph.as_ref()?.node.get(position)?.input.first()?;
    known(proto, name).map(|n| n != 0)
}

/// The single whole number, or truth, that `value` is for every batch and length that is tried. The runtime takes a symbol for unequal to
/// any number, so it is asked with sizes.
pub(super) fn known(proto: &ModelProto, value: &str) -> Option<i64> {
    let mut part = part(proto.graph.as_ref()?, value);
    stored::inline_all(&mut part);
    let at = |batch: i64, other: i64| -> Option<i64> {
        let mut graph = part.clone();
        fix(&mut graph.input, batch, other);
        let (ir_version, opset_import) = (proto.ir_version, proto.opset_import.clone());
        let model = ModelProto { ir_version, opset_import, graph: Some(graph), ..Default::default() };
        let decided = guarded(ErrorKind::UnsupportedModel, "a value", || {
            let mut model = typed(&model).map_err(|e| format_err!("{e}"))?;
            model.prop_consts()?;
            let fact = model.output_fact(0)?;
            fact.konst.as_ref().filter(|k| k.len() == 1).map(|k| k.cast_to_scalar::<i64>()).transpose()
        });
        decided.ok().flatten()
    };
    let [one, three] = [at(1, 13)?, at(3, 29)?];
    // Not every model takes these.
    let extremes = [(1, 1), (64, 13), (2, 2000)];
    (one == three && extremes.iter().all(|(batch, other)| at(*batch, *other).is_none_or(|n| n == one))).then_some(one)
}

/// Gives every open dimension of the inputs a size: `batch` to those named like a leading one, `other` to the others.
fn fix(inputs: &mut [ValueInfoProto], batch: i64, other: i64) {
    let open = |d: &Dimension| !matches!(d.value, Some(Value::DimValue(n)) if n > 0);
    let leading: HashSet<String> = inputs
        .iter()
        .filter_map(|i| match &shape(i)?.dim.first()?.value {
            Some(Value::DimParam(name)) => Some(name.clone()),
            _ => None,
        })
        .collect();
    for dims in inputs.iter_mut().filter_map(shape_mut) {
        for (axis, dim) in dims.dim.iter_mut().enumerate().filter(|(_, d)| open(d)) {
            let leads = match &dim.value {
                Some(Value::DimParam(name)) => leading.contains(name),
                _ => axis == 0,
            };
            dim.value = Some(Value::DimValue(if leads { batch } else { other }));
        }
    }
}

/// The part of `graph` that `value` is made of, with `value` as its output.
fn part(graph: &GraphProto, value: &str) -> GraphProto {
    let writer: HashMap<&str, usize> = (graph.node.iter().enumerate())
        .flat_map(|(at, n)| n.output.iter().map(move |o| (o.as_str(), at)))
        .filter(|(name, _)| !name.is_empty())
        .collect();
    let (mut wanted, mut read, mut nodes) = (vec![value.to_string()], HashSet::new(), HashSet::new());
    while let Some(name) = wanted.pop() {
        if let Some(&at) = writer.get(name.as_str())
            && nodes.insert(at)
        {
            wanted.extend(reads(&graph.node[at]));
        }
        read.insert(name);
    }
    let node = graph.node.iter().enumerate().filter(|(at, _)| nodes.contains(at)).map(|(_, n)| n.clone()).collect();
    let initializer = graph.initializer.iter().filter(|t| read.contains(&t.name)).cloned().collect();
    let output = vec![ValueInfoProto { name: value.to_string(), ..Default::default() }];
    GraphProto { node, initializer, input: graph.input.clone(), output, name: graph.name.clone(), ..Default::default() }
}

/// Every value that a node reads, in its branches, too.
pub(super) fn reads(node: &NodeProto) -> Vec<String> {
    let inside = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
    let inner = inside.flat_map(|g| g.node.iter().flat_map(reads).chain(g.output.iter().map(|o| o.name.clone())));
    node.input.iter().cloned().chain(inner).filter(|name| !name.is_empty()).collect()
}

/// Puts a branch of the `If` at `position` in its place; `None` if it has no such branch.
fn inline(graph: &mut GraphProto, position: usize, taken: bool) -> Option<()> {
    let node = graph.node.get(position)?;
    let name = if taken { "then_branch" } else { "else_branch" };
    let mut branch = node.attribute.iter().find(|a| a.name == name)?.g.clone()?;
    if branch.output.len() < node.output.len() {
        return None;
    }
    let outputs = node.output.clone();
    let own =
        branch.node.iter().flat_map(|n| n.output.clone()).chain(branch.initializer.iter().map(|t| t.name.clone()));
    let used: HashSet<&str> = names(graph);
    let nodes: HashSet<&str> = graph.node.iter().map(|n| n.name.as_str()).collect();
    let within = super::node_name(position, node);
    let mut renamed: HashMap<String, String> =
        own.filter(|n| used.contains(n.as_str())).map(|n| (n.clone(), format!("{within}/{n}"))).collect();
    // What a node of the branch writes takes the name of the result at once.
    let written: HashSet<String> = branch.node.iter().flat_map(|n| n.output.clone()).collect();
    let mut direct = HashMap::new();
    for (own, output) in branch.output.iter().zip(&outputs) {
        if written.contains(&own.name) && !output.is_empty() {
            direct.entry(own.name.clone()).or_insert_with(|| output.clone());
        }
    }
    renamed.extend(direct);
    for n in branch.node.iter_mut().filter(|n| nodes.contains(n.name.as_str()) && !n.name.is_empty()) {
        n.name = format!("{within}/{}", n.name);
    }
    rename(&mut branch, &renamed);
    let gives = |(own, output): (&ValueInfoProto, &String)| NodeProto {
        name: format!("{output}/taken"),
        op_type: "Identity".into(),
        input: vec![own.name.clone()],
        output: vec![output.clone()],
        ..Default::default()
    };
    let ends: Vec<NodeProto> =
        branch.output.iter().zip(&outputs).filter(|(own, o)| !o.is_empty() && own.name != **o).map(gives).collect();
    graph.node.splice(position..=position, branch.node.into_iter().chain(ends));
    graph.initializer.extend(branch.initializer);
    Some(())
}

/// All values of a graph.
fn names(graph: &GraphProto) -> HashSet<&str> {
    let made = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
    let stored = graph.initializer.iter().map(|t| t.name.as_str());
    made.chain(stored).chain(graph.input.iter().map(|i| i.name.as_str())).filter(|n| !n.is_empty()).collect()
}

pub(super) fn rename(graph: &mut GraphProto, to: &HashMap<String, String>) {
    if to.is_empty() {
        return;
    }
    let change = |name: &mut String| {
        if let Some(new) = to.get(name) {
            name.clone_from(new);
        }
    };
    graph.initializer.iter_mut().for_each(|t| change(&mut t.name));
    graph.output.iter_mut().for_each(|o| change(&mut o.name));
    for node in &mut graph.node {
        node.input.iter_mut().chain(&mut node.output).for_each(change);
        let inside = node.attribute.iter_mut().flat_map(|a: &mut AttributeProto| a.g.iter_mut().chain(&mut a.graphs));
        inside.for_each(|g| rename(g, to));
    }
}
