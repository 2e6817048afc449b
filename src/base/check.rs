//! What a graph must satisfy before the runtime reads it. Everything here names the node that is at fault: the runtime would
//! say less, give up, or ask for more memory than there is.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_shape_proto, type_proto,
};

use super::integers::{numbers, volume, whole_values};
use super::lower::refusal;
use super::onnx::node_name;
use super::stored;
use crate::error::{Error, Result};

/// Newest opset whose operators are known.
pub const MAX_OPSET: i64 = 25;
/// Largest tensor that a model may ask for, in bytes.
pub const MAX_TENSOR_BYTES: u64 = 4 << 30;
/// Largest tensor that a model may take or make out of constants, in bytes, as far as its shape is known before it is loaded.
pub const MAX_MADE_BYTES: u64 = 1 << 30;
/// Most axes that a tensor may have.
pub const MAX_RANK: i64 = 64;
/// Largest kernel, stride, dilation, padding, or number of groups or heads. The runtime counts up to some of these.
pub const MAX_EXTENT: i64 = 1 << 24;

/// Operators of two operands; the opsets before 7 say how they broadcast.
const BROADCAST: &[&str] = &["Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less"];

/// Operators of classical learning that the runtime lacks, and what they are made of.
const WITHOUT_GRADIENT: &[(&str, &str)] = &[
    ("SVMClassifier", "support vectors"),
    ("SVMRegressor", "support vectors"),
    ("TreeEnsemble", "decision trees"),
    ("TreeEnsembleRegressor", "decision trees"),
];
const DOMAINS: &[&str] = &["", "ai.onnx", "ai.onnx.ml", "com.microsoft"];

/// Checks the graph of `proto`; `known` tells which operators the runtime has.
pub(super) fn check(proto: &ModelProto, known: &dyn Fn(&str) -> bool) -> Result<()> {
    let Some(graph) = &proto.graph else { return Ok(()) };
    let opset = proto.opset_import.iter().find(|o| DOMAINS[..2].contains(&o.domain.as_str())).map_or(0, |o| o.version);
    if !(1..=MAX_OPSET).contains(&opset) {
        return Err(Error::unsupported(format!("the model is of opset {opset}; 1 to {MAX_OPSET} are known"))
            .hint("export it with opset 17"));
    }
    for tensor in &graph.initializer {
        stored(tensor).map_err(|e| e.at(format!("the initializer {:?}", tensor.name)))?;
    }
    for input in &graph.input {
        taken(input).map_err(|e| e.at(format!("the input {:?}", input.name)))?;
    }
    operators(graph, known)?;
    order(graph)?;
    sizes(graph)
}

/// Every node is of an operator that is known, in a form that is not read wrongly.
pub(super) fn operators(graph: &GraphProto, known: &dyn Fn(&str) -> bool) -> Result<()> {
    let mut nodes = graph.node.iter().enumerate();
    nodes.try_for_each(|(position, node)| operator(node, known).map_err(|e| e.at(node_name(position, node))))
}

/// An input is numbers, and as many of them as can be given.
fn taken(input: &ValueInfoProto) -> Result<()> {
    let Some(type_proto::Value::TensorType(t)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Ok(());
    };
    if t.elem_type == DataType::String as i32 {
        return Err(Error::unsupported("the model takes text as it is").hint(
            "export it from behind its text preprocessing, with token ids as inputs; a home has its own tokenizer",
        ));
    }
    let dims = t.shape.iter().flat_map(|shape| &shape.dim).filter_map(|dim| match dim.value {
        Some(tensor_shape_proto::dimension::Value::DimValue(n)) => Some(n),
        _ => None,
    });
    // Some exporters write 0 or -1 for an open dimension.
    let dims: Vec<i64> = dims.filter(|n| *n > 0).collect();
    within(&dims)
}

/// A tensor of `dims`, and of others that are not known, can be made.
fn within(dims: &[i64]) -> Result<()> {
    match volume(dims.iter().copied()) {
        Some(n) if n.saturating_mul(4) <= MAX_MADE_BYTES => Ok(()),
        _ => Err(Error::unsupported(format!("a tensor of shape {dims:?}"))
            .because(format!("a tensor that is not stored in the model may take up to {MAX_MADE_BYTES} bytes"))),
    }
}

fn operator(node: &NodeProto, known: &dyn Fn(&str) -> bool) -> Result<()> {
    if node.op_type == "Loop" && !known("Loop") {
        return Err(Error::unsupported(
            "a Loop whose number of rounds is not known before the data, or that is too long",
        )
        .hint("export the model with a fixed length, or the layer as an LSTM, GRU or RNN"));
    }
    if node.domain == "ai.onnx.ml"
        && !known(&node.op_type)
        && let Some((_, of)) = WITHOUT_GRADIENT.iter().find(|(op, _)| *op == node.op_type)
    {
        let what = format!("a {} is made of {of}: it holds no layer with a gradient that could adapt", node.op_type);
        return Err(Error::unsupported(what).hint(
            "where classes are answered, fit a LinearSVC, a LogisticRegression or an MLPClassifier and convert that: its \
             layers can adapt",
        ));
    }
    if let Some(unread) = refusal(node) {
        return Err(unread);
    }
    if !DOMAINS.contains(&node.domain.as_str()) || !known(&node.op_type) {
        let domain = if node.domain.is_empty() { String::new() } else { format!(" of {:?}", node.domain) };
        return Err(Error::unsupported(format!("the operator {}{domain} is not known", node.op_type))
            .hint("export the model with standard operators only, or cut it before this node"));
    }
    for tensor in node.attribute.iter().filter_map(|a| a.t.as_ref()) {
        stored(tensor)?;
    }
    node.attribute.iter().try_for_each(whole_numbers)?;
    let text = |name: &str| node.attribute.iter().find(|a| a.name == name);
    // The runtime reads neither of the two.
    if BROADCAST.contains(&node.op_type.as_str()) && text("axis").is_some() {
        return Err(Error::unsupported(format!("a {} that broadcasts along an axis, as before opset 7", node.op_type))
            .hint("export it with opset 17"));
    }
    // Early opsets say by the number of outputs that a model is being trained.
    let trains =
        || text("training_mode").is_some_and(|a| a.i != 0) || node.output.iter().skip(1).any(|o| !o.is_empty());
    if node.op_type == "BatchNormalization" && trains() {
        return Err(Error::unsupported("a BatchNormalization in training mode")
            .hint("switch the model to evaluation before it is exported"));
    }
    if ["LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"].contains(&node.op_type.as_str()) {
        // The runtime reads none of these.
        let usual: &[&[u8]] = match node.op_type.as_str() {
            "LSTM" | "DynamicQuantizeLSTM" => &[b"Sigmoid", b"Tanh", b"Tanh"],
            "GRU" => &[b"Sigmoid", b"Tanh"],
            _ => &[b"Tanh"],
        };
        let unusual =
            text("activations").is_some_and(|a| a.strings.iter().zip(usual.iter().cycle()).any(|(s, u)| s != u));
        let clipped = text("clip").is_some_and(|a| a.f != 0.0);
        let coupled = text("input_forget").is_some_and(|a| a.i != 0);
        if unusual || clipped || coupled {
            return Err(Error::unsupported(format!(
                "a {} with other activations, a clip, or coupled gates",
                node.op_type
            ))
            .hint("export the layer as plain operators"));
        }
    }
    Ok(())
}

/// Axes and extents in attributes are such as a tensor can have.
fn whole_numbers(attribute: &AttributeProto) -> Result<()> {
    let odd = |why: String| {
        let value = if attribute.ints.is_empty() { &[attribute.i][..] } else { &attribute.ints };
        let what = format!("its attribute {:?} is {value:?}", attribute.name);
        Err(Error::bad_data(what).because(why).hint("the file is damaged, or its exporter at fault"))
    };
    if attribute.name == "perm" && !(0..attribute.ints.len() as i64).all(|axis| attribute.ints.contains(&axis)) {
        return odd("it names every axis once".into());
    }
    let (most, of) = match attribute.name.as_str() {
        "axis" | "axes" | "perm" | "batch_dims" | "quantize_axis" | "gather_axis" | "batch_axis" | "time_axis"
        | "scan_input_axes" | "scan_output_axes" | "num_scan_inputs" => (MAX_RANK, "axes"),
        "kernel_shape" | "strides" | "dilations" | "pads" | "output_padding" | "group" | "num_groups" | "blocksize"
        | "block_size" | "size" | "hidden_size" | "num_heads" | "kv_num_heads" | "q_num_heads" => {
            (MAX_EXTENT, "positions")
        }
        _ => return Ok(()),
    };
    let numbers = attribute.ints.iter().chain([&attribute.i]);
    match numbers.into_iter().find(|v| v.unsigned_abs() > most.unsigned_abs()) {
        Some(value) => odd(format!("{value} is not among the {most} {of} that are read")),
        None => Ok(()),
    }
}

/// Every value is written once, and there is an order in which every node finds its inputs.
fn order(graph: &GraphProto) -> Result<()> {
    let given = graph.input.iter().map(|i| i.name.as_str()).chain(graph.initializer.iter().map(|t| t.name.as_str()));
    let mut ready: HashSet<&str> = given.collect();
    let mut writers: HashMap<&str, usize> = HashMap::new();
    for (position, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            if writers.insert(output, position).is_some() {
                return Err(Error::bad_data(format!("two nodes write the value {output:?}"))
                    .at(node_name(position, node))
                    .hint("the file is damaged, or its exporter at fault"));
            }
        }
    }
    let mut waiting: Vec<usize> = (0..graph.node.len()).collect();
    loop {
        let before = waiting.len();
        waiting.retain(|&position| {
            let node = &graph.node[position];
            let complete = node.input.iter().all(|i| i.is_empty() || ready.contains(i.as_str()));
            if complete {
                ready.extend(node.output.iter().map(String::as_str));
            }
            !complete
        });
        let Some(&position) = waiting.first() else { return Ok(()) };
        if waiting.len() < before {
            continue;
        }
        let node = &graph.node[position];
        let missing = node
            .input
            .iter()
            .find(|i| !i.is_empty() && !writers.contains_key(i.as_str()) && !ready.contains(i.as_str()));
        let why = match missing {
            Some(name) => format!("nothing writes its input {name:?}"),
            None => "it waits for a value that depends on its own".to_string(),
        };
        return Err(Error::bad_data("the graph cannot be put in order")
            .at(node_name(position, node))
            .because(why)
            .hint("the file is damaged, or its exporter at fault"));
    }
}

/// A stored tensor holds what its shape declares.
fn stored(t: &TensorProto) -> Result<()> {
    if t.data_type == DataType::String as i32 {
        return Err(Error::unsupported("it holds text").hint("export the model from behind its text preprocessing"));
    }
    let declared = volume(t.dims.iter().copied()).filter(|n| *n <= MAX_TENSOR_BYTES);
    let Some(declared) = declared else {
        return Err(Error::bad_data(format!("a tensor of shape {:?}", t.dims))
            .because(format!("a tensor may take up to {MAX_TENSOR_BYTES} bytes")));
    };
    let lists =
        t.float_data.len() + t.int32_data.len() + t.int64_data.len() + t.double_data.len() + t.uint64_data.len();
    // The shortest elements take half a byte.
    let raw = stored::raw_len(t);
    let held = if raw == 0 { lists as u64 * 2 } else { raw.saturating_mul(2) };
    if declared > held {
        return Err(Error::bad_data(format!("a tensor of shape {:?} holds {raw} bytes", t.dims))
            .hint("check that the file was copied whole"));
    }
    Ok(())
}

/// Shapes that the graph makes out of constants stay within the limit.
fn sizes(graph: &GraphProto) -> Result<()> {
    let mut constants: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    for node in graph.node.iter().filter(|n| n.op_type == "Constant") {
        if let (Some(t), Some(name)) = (node.attribute.iter().find_map(|a| a.t.as_ref()), node.output.first()) {
            constants.insert(name, t);
        }
    }
    for (position, node) in graph.node.iter().enumerate() {
        let made = made(node, &|slot| node.input.get(slot).and_then(|i| constants.get(i.as_str()).copied()));
        made.map_or(Ok(()), |dims| within(&dims)).map_err(|e| e.at(node_name(position, node)))?;
    }
    Ok(())
}

/// The shape of what `node` makes, as far as stored numbers tell: some of its axes, where the others follow the input.
/// `size_limits` sees to what only shows when the graph is read.
fn made<'a>(node: &NodeProto, constant: &dyn Fn(usize) -> Option<&'a TensorProto>) -> Option<Vec<i64>> {
    let positive = |dims: Vec<i64>| dims.into_iter().filter(|d| *d > 0).collect();
    let scales = || Some(numbers(constant(2)?)?.into_iter().map(|v| v.max(1.0) as i64).collect());
    match node.op_type.as_str() {
        "ConstantOfShape" => whole_values(constant(0)?).map(positive),
        // -1 and 0 of a Reshape stand for what is there.
        "Expand" | "Tile" | "Reshape" => whole_values(constant(1)?).map(positive),
        "Resize" => constant(3).and_then(whole_values).map(positive).or_else(scales),
        _ => None,
    }
}
