//! Members of every kind of end, as small files: what they are taken for, and that the softmax of their scores is
//! what they answer.

mod kinds;
mod softmax;
mod vocabulary;

use std::path::Path;

use prost::Message;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value;
use tract_onnx::pb::{AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

use super::*;
use crate::base::Bucket;
use crate::base::decompose::tests::{input, int, ints, model, node, ramp, stored};
use crate::base::integers::float_tensor;
use crate::sites::floats;

const INPUTS: usize = 8;
const HIDDEN: usize = 16;
const CLASSES: usize = 4;

fn weight(name: &str, dims: &[i64]) -> TensorProto {
    let shape: Vec<usize> = dims.iter().map(|d| *d as usize).collect();
    float_tensor(name.into(), floats(&ramp(&shape)).unwrap(), dims)
}

fn number(name: &str, value: f32) -> TensorProto {
    float_tensor(name.into(), &[value], &[])
}

fn float(name: &str, f: f32) -> AttributeProto {
    use tract_onnx::pb::attribute_proto::AttributeType;
    AttributeProto { name: name.into(), r#type: AttributeType::Float as i32, f, ..AttributeProto::default() }
}

fn gemm(x: &str, w: &str, b: &str, y: &str) -> NodeProto {
    node("Gemm", &[x, w, b], y, vec![])
}

/// `x [batch, 8] → h [batch, 16]`, then `end`, whose output is `y`.
fn file(opset: i64, end: Vec<NodeProto>, more: Vec<TensorProto>) -> ModelProto {
    let body = vec![gemm("x", "w1", "b1", "h0"), node("Relu", &["h0"], "h", vec![])];
    let constants = [
        weight("w1", &[8, 16]),
        weight("b1", &[16]),
        weight("w2", &[16, 4]),
        weight("b2", &[4]),
        weight("w3", &[16, 1]),
        weight("b3", &[1]),
        number("two", 2.0),
        number("one", 1.0),
        number("tiny", 1e-7),
        stored("axis1", &[1], &[1]),
        stored("axes23", &[2], &[2, 3]),
    ];
    let x = input("x", DataType::Float, &[Value::DimParam("batch".into()), Value::DimValue(INPUTS as i64)]);
    model(opset, vec![x], constants.into_iter().chain(more).collect(), body.into_iter().chain(end).collect())
}

/// The same, with `z [batch, 4]` before the end.
fn scored(opset: i64, end: Vec<NodeProto>, more: Vec<TensorProto>) -> ModelProto {
    let z = [gemm("h", "w2", "b2", "z")];
    file(opset, z.into_iter().chain(end).collect(), more)
}

fn base(model: &ModelProto) -> Base {
    Base::from_bytes(&model.encode_to_vec(), Path::new("end.onnx")).unwrap()
}

fn with_outputs(mut model: ModelProto, names: &[&str]) -> ModelProto {
    let output = |name: &&str| ValueInfoProto { name: name.to_string(), ..ValueInfoProto::default() };
    model.graph.as_mut().unwrap().output = names.iter().map(output).collect();
    model
}

/// What a classifier's end makes of some examples: its scores, what the file answers, and the width of the features.
fn ran(base: &Base, batch: usize) -> (Vec<Vec<f32>>, Vec<Vec<f32>>, usize) {
    let mut graph = base.concrete(&Bucket { batch, sequence: 0, past: 0 }).unwrap();
    let tail = find_tail(base, &mut graph, Task::Classification).unwrap();
    let output = graph.outputs[base.ending().unwrap().output];
    let features = graph.outlet_fact(tail.features).unwrap().shape.as_concrete().unwrap().to_vec();
    assert_eq!((features.len(), features[0]), (2, batch), "{features:?}");
    graph.select_output_outlets(&[tail.logits.unwrap(), output]).unwrap();
    let values = graph
        .into_optimized()
        .unwrap()
        .into_runnable()
        .unwrap()
        .run(tvec!(ramp(&[batch, INPUTS]).into_tvalue()))
        .unwrap();
    let rows = |v: &Tensor| {
        let all = floats(v).unwrap().to_vec();
        all.chunks(all.len() / batch).map(<[f32]>::to_vec).collect::<Vec<_>>()
    };
    (rows(&values[0]), rows(&values[1]), features[1])
}

fn softmax(row: &[f32]) -> Vec<f32> {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f32> = row.iter().map(|z| (z - top).exp()).collect();
    let sum: f32 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}

#[track_caller]
fn near(a: &[f32], b: &[f32], tolerance: f32, name: &str) {
    assert_eq!(a.len(), b.len(), "{name}");
    a.iter().zip(b).for_each(|(a, b)| assert!((a - b).abs() <= tolerance, "{name}: {a}, not {b}"));
}

fn sum(of: &str, y: &str, keep: i64) -> NodeProto {
    node("ReduceSum", &[of, "axis1"], y, vec![int("keepdims", keep)])
}
