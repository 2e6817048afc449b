//! Models that decode and make no sense.

use prost::Message;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{ModelProto, tensor_shape_proto, type_proto};

/// Changes whole numbers, operators and edges of a model that still decodes: what forgers and faulty exporters write.
pub fn forge_model(bytes: &mut Vec<u8>) {
    let Ok(mut model) = ModelProto::decode(&bytes[..]) else { return };
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(crc32fast::hash(bytes)));
    let Some(graph) = model.graph.as_mut().filter(|graph| !graph.node.is_empty()) else { return };
    for _ in 0..rng.random_range(1..4) {
        let odd = [-1, 0, 1, 2, 3, 7, -2, 100, 5000, i64::MAX, i64::MIN, 1 << 31, 1 << 40, i64::from(u32::MAX)];
        let value = odd[rng.random_range(0..odd.len())];
        let (at, other) = (rng.random_range(0..graph.node.len()), rng.random_range(0..graph.node.len()));
        match rng.random_range(0..8) {
            0 => {
                let tensors = graph.initializer.iter_mut().filter(|t| t.data_type == DataType::Int64 as i32);
                let mut tensors: Vec<_> = tensors.filter(|t| t.raw_data.len() >= 8).collect();
                if !tensors.is_empty() {
                    let chosen = rng.random_range(0..tensors.len());
                    let raw = &mut tensors[chosen].raw_data;
                    let place = rng.random_range(0..raw.len() / 8) * 8;
                    raw[place..place + 8].copy_from_slice(&value.to_le_bytes());
                }
            }
            1 | 2 => {
                let attributes = &mut graph.node[at].attribute;
                if !attributes.is_empty() {
                    let chosen = rng.random_range(0..attributes.len());
                    let attribute = &mut attributes[chosen];
                    match attribute.ints.len() {
                        0 => (attribute.i, attribute.f) = (value, value as f32),
                        n => attribute.ints[rng.random_range(0..n)] = value,
                    }
                }
            }
            3 => graph.node[at].op_type = graph.node[other].op_type.clone(),
            4 => drop(graph.node[at].input.pop()),
            5 => {
                let from = graph.node[other].output.first().cloned().unwrap_or_default();
                if let Some(input) = graph.node[at].input.first_mut() {
                    *input = from;
                }
            }
            6 if graph.initializer.len() > 1 => {
                let (one, two) =
                    (rng.random_range(0..graph.initializer.len()), rng.random_range(0..graph.initializer.len()));
                let name = std::mem::take(&mut graph.initializer[one].name);
                graph.initializer[one].name = std::mem::replace(&mut graph.initializer[two].name, name);
            }
            _ => {
                let types = graph.input.iter_mut().filter_map(|i| i.r#type.as_mut()?.value.as_mut());
                let shapes = types.filter_map(|type_proto::Value::TensorType(tensor)| tensor.shape.as_mut());
                let mut dims: Vec<_> = shapes.flat_map(|shape| shape.dim.iter_mut()).collect();
                if !dims.is_empty() {
                    let chosen = rng.random_range(0..dims.len());
                    dims[chosen].value = Some(tensor_shape_proto::dimension::Value::DimValue(value));
                }
            }
        }
    }
    *bytes = model.encode_to_vec();
}
