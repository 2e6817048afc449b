//! Looking things up in the graph of a file.

use std::collections::HashSet;

use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value};
use tract_onnx::pb::{GraphProto, ModelProto, TensorProto, ValueInfoProto, type_proto};

use crate::base::{is_half, node_name};

/// Oldest IR version in which an initializer need not be an input as well.
const FREE_INITIALIZERS: i64 = 4;

/// The stored tensor that the value `name` is: an initializer or a Constant, by way of any Identity.
pub(super) fn stored<'a>(graph: &'a GraphProto, name: &'a str) -> Option<&'a TensorProto> {
    let mut name = name;
    // As many steps as there are nodes, should they go round.
    for _ in 0..=graph.node.len() {
        if let Some(t) = graph.initializer.iter().find(|t| t.name == name) {
            return Some(t);
        }
        let node = graph.node.iter().find(|n| n.output.first().is_some_and(|o| o == name))?;
        match node.op_type.as_str() {
            "Identity" => name = node.input.first()?,
            "Constant" => return node.attribute.iter().find(|a| a.name == "value")?.t.as_ref(),
            _ => return None,
        }
    }
    None
}

/// A name that starts with `wanted` and that no value and no node has.
pub(super) fn fresh(graph: &GraphProto, wanted: &str) -> String {
    let taken = |name: &str| {
        graph.initializer.iter().any(|t| t.name == name)
            || graph.input.iter().any(|i| i.name == name)
            || graph.node.iter().any(|n| n.name == name || n.output.iter().any(|o| o == name))
    };
    let numbered = (2..).map(|n| format!("{wanted}.{n}"));
    std::iter::once(wanted.to_string()).chain(numbered).find(|name| !taken(name)).unwrap_or_default()
}

/// Where the node called `name` stands.
pub(super) fn position(graph: &GraphProto, site: &str) -> Option<usize> {
    graph.node.iter().enumerate().position(|(i, n)| node_name(i, n) == site)
}

/// The declaration of the output `name` of scores, `[batch, classes]`.
pub(super) fn scores_output(name: String, classes: usize) -> ValueInfoProto {
    let dim = |value| Dimension { value: Some(value), ..Default::default() };
    let dim = vec![dim(Value::DimParam("batch".into())), dim(Value::DimValue(classes as i64))];
    let elem_type = tract_onnx::pb::tensor_proto::DataType::Float as i32;
    let tensor = type_proto::Tensor { elem_type, shape: Some(tract_onnx::pb::TensorShapeProto { dim }) };
    let value = Some(type_proto::Value::TensorType(tensor));
    let r#type = Some(tract_onnx::pb::TypeProto { value, ..Default::default() });
    ValueInfoProto { name, r#type, ..Default::default() }
}

/// Declares `new` classes on the output `name`, on the last axis that has had `old`, or on the last one.
pub(super) fn set_classes(graph: &mut GraphProto, name: &str, old: usize, new: usize) {
    let shape = graph.output.iter_mut().find(|o| o.name == name).and_then(|o| o.r#type.as_mut()).and_then(|t| {
        match &mut t.value {
            Some(type_proto::Value::TensorType(t)) => t.shape.as_mut(),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    });
    let Some(dims) = shape.map(|shape| &mut shape.dim) else { return };
    let had = |d: &Dimension| d.value == Some(Value::DimValue(old as i64));
    let at = dims.iter().skip(1).rposition(had).map_or(dims.len().saturating_sub(1), |at| at + 1);
    if let Some(dim) = dims.get_mut(at) {
        dim.value = Some(Value::DimValue(new as i64));
    }
}

/// Lists every stored tensor as an input where the file's version asks for it.
pub(super) fn list_initializers(model: &mut ModelProto) {
    let Some(graph) = model.graph.as_mut().filter(|_| model.ir_version < FREE_INITIALIZERS) else { return };
    let listed: HashSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
    let missing: Vec<ValueInfoProto> =
        graph.initializer.iter().filter(|t| !listed.contains(t.name.as_str())).map(declared).collect();
    graph.input.extend(missing);
}

/// The declaration of a stored tensor.
fn declared(t: &TensorProto) -> ValueInfoProto {
    let dim = |d: &i64| Dimension { value: Some(Value::DimValue(*d)), ..Dimension::default() };
    let shape = Some(tract_onnx::pb::TensorShapeProto { dim: t.dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: t.data_type, shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    let r#type = Some(tract_onnx::pb::TypeProto { value, ..Default::default() });
    ValueInfoProto { name: t.name.clone(), r#type, ..Default::default() }
}

/// Whether numbers of `graph` are rounded: weights of 16 bits when they are written, activations of a quantised model on their way.
pub(super) fn rounds(graph: &GraphProto) -> bool {
    let constant = |a: &tract_onnx::pb::AttributeProto| a.t.as_ref().is_some_and(|t| is_half(t.data_type));
    let half = graph.initializer.iter().any(|t| is_half(t.data_type));
    let quantises = |op: &str| op.contains("Quantize") || op.starts_with("QLinear") || op == "QGemm";
    half || graph.node.iter().any(|n| quantises(&n.op_type) || n.attribute.iter().any(constant))
}
