//! Small ONNX models, written node by node.

use std::path::{Path, PathBuf};

use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
pub use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};

/// An input; a dimension is a number or a name.
pub fn input(name: &str, kind: DataType, dims: &[&str]) -> ValueInfoProto {
    let dim = |d: &&str| {
        let value = d.parse().map_or_else(|_| Value::DimParam(d.to_string()), Value::DimValue);
        Dimension { value: Some(value), ..Default::default() }
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: kind as i32, shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { value, ..Default::default() }), ..Default::default() }
}

pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    let data_type = DataType::Float as i32;
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type, float_data: values.to_vec(), ..Default::default() }
}

pub fn ints(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    let data_type = DataType::Int64 as i32;
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type, int64_data: values.to_vec(), ..Default::default() }
}

pub fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i, ..Default::default() }
}

pub fn list(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Ints as i32, ints: ints.to_vec(), ..Default::default() }
}

/// A node of these outputs; it has the name of the last one.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let strings = |names: &[&str]| names.iter().map(|s| s.to_string()).collect();
    let (input, output, name) = (strings(inputs), strings(outputs), outputs.last().unwrap().to_string());
    NodeProto { name, op_type: op.into(), input, output, attribute, ..Default::default() }
}

pub fn cast(from: &str, to: &str, kind: DataType) -> NodeProto {
    node("Cast", &[from], &[to], vec![int("to", kind as i64)])
}

/// Writes a model of opset 13 whose output is `logits`.
pub fn save(
    folder: &Path,
    name: &str,
    input: Vec<ValueInfoProto>,
    initializer: Vec<TensorProto>,
    node: Vec<NodeProto>,
) -> PathBuf {
    let output = vec![ValueInfoProto { name: "logits".into(), ..Default::default() }];
    let graph = GraphProto { name: name.into(), node, initializer, input, output, ..Default::default() };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 13 }];
    let model = ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..Default::default() };
    let path = folder.join(format!("{name}.onnx"));
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    path
}
