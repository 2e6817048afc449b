//! Floats of 16 bits: the graph becomes one of 32-bit floats. Its large matrices stay as they are stored and are widened where they are used
//! (`narrow`); everything else is converted here, and inputs, outputs and values in between are f32.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, TensorProto, ValueInfoProto, type_proto};

use super::integers::numbers;
use super::{narrow, stored};

const FLOAT: i32 = DataType::Float as i32;

/// Whether an element type is one of floats of 16 bits.
pub(crate) fn is_half(kind: i32) -> bool {
    kind == DataType::Float16 as i32 || kind == DataType::Bfloat16 as i32
}

/// Makes `graph` one of 32-bit floats.
pub(super) fn widen(graph: &mut GraphProto) {
    let listed = |name: &str| graph.input.iter().chain(&graph.output).any(|v| v.name == name);
    let (mut kept, mut weights) = (vec![], vec![]);
    for mut t in std::mem::take(&mut graph.initializer) {
        match narrow::half_weight(&t).filter(|_| !listed(&t.name)) {
            Some(node) => weights.push(node),
            None => {
                tensor(&mut t);
                kept.push(t);
            }
        }
    }
    graph.initializer = kept;
    graph.node.splice(0..0, weights);
    rest(graph);
}

/// What is not a stored tensor of the graph itself.
fn rest(graph: &mut GraphProto) {
    graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info).for_each(declared);
    for node in &mut graph.node {
        let names_type: &[&str] = match node.op_type.as_str() {
            narrow::WEIGHT => continue,
            "Cast" => &["to"],
            _ => &["dtype", "output_dtype"],
        };
        for a in &mut node.attribute {
            attribute(a, names_type.contains(&a.name.as_str()));
        }
    }
}

fn attribute(a: &mut AttributeProto, names_type: bool) {
    if names_type && i32::try_from(a.i).is_ok_and(is_half) {
        a.i = FLOAT.into();
    }
    a.t.iter_mut().chain(&mut a.tensors).for_each(tensor);
    for graph in a.g.iter_mut().chain(&mut a.graphs) {
        graph.initializer.iter_mut().for_each(tensor);
        rest(graph);
    }
}

fn tensor(t: &mut TensorProto) {
    if is_half(t.data_type)
        && let Some(values) = numbers(t)
    {
        stored::set_raw(t, values.iter().flat_map(|v| v.to_le_bytes()).collect());
        t.int32_data.clear();
        t.data_type = FLOAT;
    }
}

fn declared(value: &mut ValueInfoProto) {
    if let Some(type_proto::Value::TensorType(t)) = value.r#type.as_mut().and_then(|t| t.value.as_mut())
        && is_half(t.elem_type)
    {
        t.elem_type = FLOAT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::external;
    use crate::error::Result;
    use std::path::Path;
    use tract_onnx::pb::tensor_proto::DataLocation;
    use tract_onnx::pb::{ModelProto, StringStringEntryProto};

    fn stored(name: &str, kind: DataType, dims: &[i64]) -> TensorProto {
        let count: i64 = dims.iter().product();
        let raw_data = (0..count).flat_map(|i| half::bf16::from_f32(i as f32 * 0.5).to_le_bytes()).collect();
        TensorProto {
            name: name.into(),
            dims: dims.to_vec(),
            data_type: kind as i32,
            raw_data,
            ..TensorProto::default()
        }
    }

    /// The same tensor with its data at `offset` of `location`.
    fn outside(t: &TensorProto, location: &str, offset: usize) -> TensorProto {
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
        TensorProto {
            raw_data: vec![],
            data_location: Some(DataLocation::External as i32),
            external_data: vec![entry("location", location.into()), entry("offset", offset.to_string())],
            ..t.clone()
        }
    }

    fn widened(initializer: Vec<TensorProto>, folder: &Path) -> Result<GraphProto> {
        let graph = Some(GraphProto { initializer, ..GraphProto::default() });
        let mut model = ModelProto { graph, ..ModelProto::default() };
        external::bring_in(&mut model, folder, None)?;
        let mut graph = model.graph.unwrap();
        widen(&mut graph);
        Ok(graph)
    }

    #[test]
    fn data_beside_the_model_is_read_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let within = folder.path().join("model");
        std::fs::create_dir(&within).unwrap();
        let small = stored("small", DataType::Bfloat16, &[3, 4]);
        let large = stored("large", DataType::Bfloat16, &[64, 64]);
        let bytes = [&[7u8; 10][..], &small.raw_data, &large.raw_data].concat();
        std::fs::write(within.join("weights"), &bytes).unwrap();
        std::fs::write(folder.path().join("elsewhere"), &bytes).unwrap();
        let apart = vec![outside(&small, "weights", 10), outside(&large, "weights", 34)];
        let inline = widened(vec![small.clone(), large], &within).unwrap();
        assert_eq!(widened(apart, &within).unwrap(), inline);
        assert_eq!((inline.initializer.len(), inline.node.len()), (1, 1), "the large matrix stays narrow");
        assert_eq!(numbers(&inline.initializer[0]).unwrap()[..3], [0.0, 0.5, 1.0]);
        for (location, offset) in [("../elsewhere", 10), ("absent", 0), ("weights", bytes.len() - 20)] {
            let e = widened(vec![outside(&small, location, offset)], &within);
            assert!(e.is_err(), "{location} at {offset}");
        }
    }
}
