//! Tensors of an ONNX file, read and written in the float type that the file uses at their place.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, TensorProto, type_proto};

const FLOAT: i32 = DataType::Float as i32;
const HALF: i32 = DataType::Float16 as i32;
const BRAIN: i32 = DataType::Bfloat16 as i32;

/// A tensor of `values` in the float type `kind`, rounded where that is of 16 bits.
pub(super) fn tensor(name: String, dims: &[usize], values: &[f32], kind: i32) -> TensorProto {
    let raw_data = match kind {
        HALF => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        BRAIN => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    let dims = dims.iter().map(|&d| d as i64).collect();
    TensorProto { name, dims, data_type: kind, raw_data, ..TensorProto::default() }
}

/// The values of a stored tensor of floats.
pub(super) fn floats(t: &TensorProto) -> Option<Vec<f32>> {
    let bits = || -> Vec<u16> {
        match t.raw_data.is_empty() {
            true => t.int32_data.iter().map(|v| *v as u16).collect(),
            false => t.raw_data.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect(),
        }
    };
    match t.data_type {
        FLOAT if t.raw_data.is_empty() => Some(t.float_data.clone()),
        FLOAT => Some(t.raw_data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        HALF => Some(bits().into_iter().map(|b| half::f16::from_bits(b).to_f32()).collect()),
        BRAIN => Some(bits().into_iter().map(|b| half::bf16::from_bits(b).to_f32()).collect()),
        _ => None,
    }
}

/// The float type of a weight in the place called `name`: that of the stored tensor, or what it is cast or dequantised to.
pub(super) fn weight_type(graph: &GraphProto, name: &str) -> i32 {
    let mut name = name;
    // As many steps as there are nodes, should they go round.
    for _ in 0..=graph.node.len() {
        if let Some(t) = graph.initializer.iter().find(|t| t.name == name) {
            return float(t.data_type);
        }
        let Some(node) = graph.node.iter().find(|n| n.output.iter().any(|o| o == name)) else { return FLOAT };
        let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name);
        let from = match node.op_type.as_str() {
            "Cast" => return attribute("to").map_or(FLOAT, |a| float(a.i as i32)),
            "Constant" => return attribute("value").and_then(|a| a.t.as_ref()).map_or(FLOAT, |t| float(t.data_type)),
            "DequantizeLinear" => 1,
            _ => 0,
        };
        match node.input.get(from) {
            Some(input) => name = input,
            None => return FLOAT,
        }
    }
    FLOAT
}

fn float(kind: i32) -> i32 {
    if [HALF, BRAIN].contains(&kind) { kind } else { FLOAT }
}

/// Whether the first output is of floats of 16 bits.
pub(super) fn answers_half(graph: &GraphProto) -> bool {
    let value = graph.output.first().and_then(|o| o.r#type.as_ref()).and_then(|t| t.value.as_ref());
    matches!(value, Some(type_proto::Value::TensorType(t)) if float(t.elem_type) != FLOAT)
}
