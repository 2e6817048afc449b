//! What is read straight from the ONNX file: node names and operators, initializer sizes, input and output names.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use prost::Message;
use tract_onnx::pb::{AttributeProto, ModelProto, NodeProto};

use crate::error::{Error, Result};

/// One ONNX node, named as the runtime names it: its own name, or its first output when it has none.
#[derive(Debug, Clone)]
pub struct OnnxNode {
    /// Name, unique enough to speak about the node.
    pub name: String,
    /// Operator type, for example `Conv`.
    pub op: String,
    /// Input value names; an absent optional input is empty.
    pub inputs: Vec<String>,
    /// Output value names.
    pub outputs: Vec<String>,
}

/// A summary of the ONNX file.
#[derive(Debug, Clone)]
pub struct OnnxGraph {
    /// Nodes in file order.
    pub nodes: Vec<OnnxNode>,
    /// Names of the inputs that are not initializers, in order.
    pub inputs: Vec<String>,
    /// Names of the outputs, in order.
    pub outputs: Vec<String>,
    /// Shapes of the initializers.
    pub initializers: HashMap<String, Vec<usize>>,
    /// Values that are constant: initializers, `Constant` nodes, and what is computed from nothing else.
    pub constants: HashSet<String>,
    /// Number of stored numbers, in initializers and in `Constant` nodes.
    pub parameters: u64,
    /// Default-domain opset.
    pub opset: i64,
    /// Of each node that holds several modules of the trained model: these.
    pub modules: HashMap<String, Vec<Module>>,
}

/// A module of the trained model that shares a node of the ONNX file with others, such as the queries of a packed
/// projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Name, as the node would have if it were the module's alone.
    pub name: String,
    /// Its output features among the node's.
    pub outputs: Range<usize>,
}

/// Name that the runtime gives to a node of the file.
pub fn node_name(position: usize, node: &NodeProto) -> String {
    match (node.name.as_str(), node.output.first()) {
        ("", Some(first)) if !first.is_empty() => first.clone(),
        ("", _) => format!("{position}-{}", node.op_type),
        (name, _) => name.to_string(),
    }
}

/// Parses the bytes of an ONNX file.
pub fn parse(bytes: &[u8]) -> Result<ModelProto> {
    let not_onnx = || {
        Error::bad_data("this is not a complete ONNX model")
            .hint("check that the file was copied whole; other formats must be exported to ONNX first")
    };
    let proto = ModelProto::decode(bytes).map_err(|e| not_onnx().because(e))?;
    match &proto.graph {
        Some(g) if !g.node.is_empty() && !g.output.is_empty() => Ok(proto),
        _ => Err(not_onnx().because("it holds no graph")),
    }
}

/// Summarises a parsed model.
pub fn summarise(proto: &ModelProto) -> OnnxGraph {
    let empty = Default::default();
    let graph = proto.graph.as_ref().unwrap_or(&empty);
    let mut initializers = HashMap::new();
    let mut parameters = 0u64;
    for t in &graph.initializer {
        let shape: Vec<usize> = t.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
        let count = shape.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
        parameters = parameters.saturating_add(count);
        initializers.insert(t.name.clone(), shape);
    }
    let stored = |a: &AttributeProto| match (a.name.as_str(), &a.t) {
        ("value", Some(t)) => t.dims.iter().fold(1u64, |n, d| n.saturating_mul(u64::try_from(*d).unwrap_or(0))),
        _ => a.floats.len() as u64,
    };
    for node in graph.node.iter().filter(|n| n.op_type == "Constant") {
        parameters = node.attribute.iter().map(stored).fold(parameters, u64::saturating_add);
    }
    let mut constants: HashSet<String> = initializers.keys().cloned().collect();
    let mut nodes = Vec::with_capacity(graph.node.len());
    for (position, n) in graph.node.iter().enumerate() {
        let reads_data = n.input.iter().any(|i| !i.is_empty() && !constants.contains(i));
        if !reads_data && !n.op_type.starts_with("Random") {
            constants.extend(n.output.iter().cloned());
        }
        nodes.push(OnnxNode {
            name: node_name(position, n),
            op: n.op_type.clone(),
            inputs: n.input.clone(),
            outputs: n.output.clone(),
        });
    }
    let inputs = graph.input.iter().map(|i| i.name.clone()).filter(|n| !initializers.contains_key(n)).collect();
    let outputs = graph.output.iter().map(|o| o.name.clone()).collect();
    let opset = proto.opset_import.iter().find(|o| o.domain.is_empty()).map_or(0, |o| o.version);
    OnnxGraph { nodes, inputs, outputs, initializers, constants, parameters, opset, modules: HashMap::new() }
}
