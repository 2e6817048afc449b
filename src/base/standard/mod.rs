//! The graph of a file in the form that everything else reads: scores as outputs, standard operators, no control flow that is decided.

use std::collections::HashSet;

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, ModelProto, OperatorSetIdProto, TypeProto, ValueInfoProto, type_proto};

use super::branches::{self, reads};
use super::{learn, loops};

/// Opset of what is written into a file that imports no standard operators.
const OPSET: i64 = 13;
/// Names of the domain of the standard operators.
const STANDARD: [&str; 2] = ["", "ai.onnx"];
/// Most rounds of control flow within control flow.
const DEEPEST: usize = 16;

/// Operators that are gone afterwards, unless they are in a form that stays.
pub(super) const REWRITTEN: &[&str] =
    &["Loop", "Scaler", "LinearClassifier", "Imputer", "Binarizer", "FeatureVectorizer"];

/// Brings `proto` into that form. What it answers in floats stays as it is.
pub(crate) fn standardise(proto: &mut ModelProto) {
    outputs_as_scores(proto);
    let opset = proto.opset_import.iter().find(|o| STANDARD.contains(&o.domain.as_str())).map_or(0, |o| o.version);
    if let Some(graph) = &mut proto.graph {
        learn::lower(graph, opset);
    }
    for _ in 0..DEEPEST {
        if branches::fold(proto) + loops::unroll(proto) == 0 {
            break;
        }
    }
}

/// Leaves only what scores may be as outputs, and what they are made of. A file without any standard operator gets an opset for those that
/// are written into it.
pub(super) fn outputs_as_scores(proto: &mut ModelProto) {
    let Some(graph) = &mut proto.graph else { return };
    let foreign = graph.node.iter().all(|n| !STANDARD.contains(&n.domain.as_str()));
    if foreign && !proto.opset_import.iter().any(|o| STANDARD.contains(&o.domain.as_str())) {
        proto.opset_import.push(OperatorSetIdProto { domain: String::new(), version: OPSET });
    }
    trim(graph);
    maps_as_tensors(graph);
    if drop_labels(graph) {
        prune(graph);
    }
}

/// Leaves out names of inputs and outputs that are empty and the last: some readers go by their number.
fn trim(graph: &mut GraphProto) {
    let empty = |names: &[String]| names.last().is_some_and(String::is_empty);
    for node in &mut graph.node {
        while empty(&node.input) {
            node.input.pop();
        }
        while empty(&node.output) {
            node.output.pop();
        }
        node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)).for_each(trim);
    }
}

/// A ZipMap only puts names beside probabilities: its result becomes the probabilities themselves.
fn maps_as_tensors(graph: &mut GraphProto) {
    for node in graph.node.iter_mut().filter(|n| n.op_type == "ZipMap") {
        let (Some(output), Some(_)) = (node.output.first().cloned(), node.input.first()) else { continue };
        (node.op_type, node.domain) = ("Identity".into(), String::new());
        node.attribute.clear();
        let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, shape: None };
        let value = Some(type_proto::Value::TensorType(tensor));
        for declared in graph.output.iter_mut().filter(|o| o.name == output) {
            declared.r#type = Some(TypeProto { value: value.clone(), ..Default::default() });
        }
    }
}

/// Where some outputs are of floats, those of labels go, as scikit-learn's converter writes them first; whether there were any.
fn drop_labels(graph: &mut GraphProto) -> bool {
    let kind = |o: &ValueInfoProto| match o.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(t)) => DataType::try_from(t.elem_type).unwrap_or(DataType::Undefined),
        #[allow(unreachable_patterns)]
        _ => DataType::Undefined,
    };
    let floats = [DataType::Float, DataType::Double, DataType::Float16, DataType::Bfloat16];
    let labels = [DataType::String, DataType::Int64, DataType::Int32];
    if !graph.output.iter().any(|o| floats.contains(&kind(o))) {
        return false;
    }
    let before = graph.output.len();
    graph.output.retain(|o| !labels.contains(&kind(o)));
    graph.output.len() < before
}

/// Leaves out nodes and stored tensors that no output needs, and the inputs that such tensors were listed as.
pub(crate) fn prune(graph: &mut GraphProto) {
    let mut needed: HashSet<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    let mut keep = vec![false; graph.node.len()];
    // Nodes need not be in order: until nothing more is needed.
    loop {
        let waits = |at: &usize| !keep[*at] && graph.node[*at].output.iter().any(|o| needed.contains(o));
        let more: Vec<usize> = (0..keep.len()).rev().filter(waits).collect();
        if more.is_empty() {
            break;
        }
        for at in more {
            keep[at] = true;
            needed.extend(reads(&graph.node[at]));
        }
    }
    let mut flags = keep.into_iter();
    graph.node.retain(|_| flags.next().unwrap_or(true));
    let stored = graph.initializer.iter().map(|t| t.name.clone());
    let gone: HashSet<String> = stored.filter(|name| !needed.contains(name)).collect();
    graph.initializer.retain(|t| !gone.contains(&t.name));
    graph.input.retain(|i| !gone.contains(&i.name));
}

#[cfg(test)]
mod tests;
