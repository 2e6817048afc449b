//! Forms that the ONNX project's own tests of operators leave out, and sizes that no model may ask for.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value};
use tract_onnx::pb::{
    GraphProto, ModelProto, OperatorSetIdProto, TensorProto, TensorShapeProto, ValueInfoProto, type_proto,
};
use tract_onnx::prelude::*;

use super::*;
use crate::base::{Base, Bucket};
use crate::error::Result;
use crate::ops::floats;

pub(in crate::base) fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints as i32,
        ints: ints.to_vec(),
        ..AttributeProto::default()
    }
}

pub(in crate::base) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i, ..AttributeProto::default() }
}

pub(in crate::base) fn stored(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: DataType::Int64 as i32,
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

pub(in crate::base) fn input(name: &str, kind: DataType, dims: &[Value]) -> ValueInfoProto {
    let dim = dims.iter().map(|d| Dimension { value: Some(d.clone()), ..Dimension::default() }).collect();
    let tensor = type_proto::Tensor { elem_type: kind as i32, shape: Some(TensorShapeProto { dim }) };
    let r#type = Some(tract_onnx::pb::TypeProto {
        value: Some(type_proto::Value::TensorType(tensor)),
        ..tract_onnx::pb::TypeProto::default()
    });
    ValueInfoProto { name: name.into(), r#type, ..ValueInfoProto::default() }
}

pub(in crate::base) fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        name: output.into(),
        op_type: op.into(),
        input: inputs.iter().map(|i| i.to_string()).collect(),
        output: vec![output.into()],
        attribute,
        ..NodeProto::default()
    }
}

pub(in crate::base) fn model(
    opset: i64,
    input: Vec<ValueInfoProto>,
    initializer: Vec<TensorProto>,
    node: Vec<NodeProto>,
) -> ModelProto {
    let output = vec![ValueInfoProto { name: "y".into(), ..ValueInfoProto::default() }];
    let graph = GraphProto { node, initializer, input, output, ..GraphProto::default() };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: opset }];
    ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..ModelProto::default() }
}

/// What an operator makes of `x` and stored integers.
fn run(
    op: &str,
    opset: i64,
    attributes: Vec<AttributeProto>,
    x: &Tensor,
    settings: &[(&[i64], &[i64])],
) -> Result<Tensor> {
    let dims: Vec<Value> = x.shape().iter().map(|d| Value::DimValue(*d as i64)).collect();
    let initializers = settings.iter().enumerate().map(|(i, (dims, values))| stored(&format!("s{i}"), dims, values));
    let names: Vec<String> = (0..settings.len()).map(|i| format!("s{i}")).collect();
    let inputs: Vec<&str> = ["x"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let nodes = vec![node(op, &inputs, "y", attributes)];
    let proto = model(opset, vec![input("x", DataType::Float, &dims)], initializers.collect(), nodes);
    let typed = super::super::typed(&proto)?;
    crate::base::guarded(crate::error::ErrorKind::UnsupportedModel, "cannot run it", || {
        let plan = typed.into_optimized()?.into_runnable()?;
        Ok(plan.run(tvec!(x.clone().into_tvalue()))?.remove(0).into_tensor())
    })
}

pub(in crate::base) fn ramp(shape: &[usize]) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| ((i * 37 % 23) as f32 - 11.0) / 7.0).collect();
    Tensor::from_shape(shape, &values).unwrap()
}

pub(in crate::base) fn close(y: &Tensor, expected: &[f32]) {
    let y = floats(y).unwrap();
    assert_eq!(y.len(), expected.len());
    y.iter().zip(expected).for_each(|(y, e)| assert!((y - e).abs() < 1e-4 * e.abs().max(1.0), "{y}, not {e}"));
}

#[test]
fn norms_over_windows() {
    let x = ramp(&[1, 2, 7]);
    let rows = floats(&x).unwrap().chunks(7);
    for p in 1..=4 {
        let norm = |part: &[f32]| part.iter().map(|v| v.abs().powi(p)).sum::<f32>().powf(1.0 / p as f32);
        let all: Vec<f32> = rows.clone().map(norm).collect();
        let y = run("GlobalLpPool", 17, vec![int("p", p.into())], &x, &[]).unwrap();
        close(&y, &all);
        // The first window reaches over the border, and rounding up adds one that does so at the end.
        for (ceil, count) in [(0, 2), (1, 3)] {
            let attributes = vec![
                int("p", p.into()),
                ints("kernel_shape", &[3]),
                ints("strides", &[3]),
                ints("pads", &[1, 0]),
                int("ceil_mode", ceil),
            ];
            let window = |row: &[f32], at: usize| norm(&row[(3 * at).max(1) - 1..(3 * at + 2).min(7)]);
            let expected = rows.clone().flat_map(|row| (0..count).map(move |at| window(row, at)));
            close(&run("LpPool", 18, attributes, &x, &[]).unwrap(), &expected.collect::<Vec<f32>>());
        }
    }
}

#[test]
fn a_gate_with_a_factor() {
    let x = ramp(&[2, 5]);
    let alpha = AttributeProto { name: "alpha".into(), r#type: AttributeType::Float as i32, f: 1.7, ..int("", 0) };
    let expected: Vec<f32> = floats(&x).unwrap().iter().map(|x| x / (1.0 + (-1.7 * x).exp())).collect();
    close(&run("Swish", 24, vec![alpha], &x, &[]).unwrap(), &expected);
}

#[test]
fn transforms_of_other_lengths() {
    let x = ramp(&[2, 3, 5, 1]);
    let values = floats(&x).unwrap();
    // Along the last axis but one, unless an early opset says nothing: then it is the second.
    for length in [3usize, 5, 8] {
        for (opset, axis, have, inner) in [(20, 2, 5, 1), (17, 1, 3, 5)] {
            let mut expected = vec![];
            let places = if axis == 2 { (6, 1) } else { (2, 5) };
            for outer in 0..places.0 {
                let mut spectrum = vec![[0f32; 2]; length * places.1];
                for (k, bin) in spectrum.iter_mut().enumerate() {
                    let (k, at) = (k / places.1, k % places.1);
                    for n in 0..have.min(length) {
                        let v = values[(outer * have + n) * inner + at];
                        let angle = -std::f32::consts::TAU * (k * n) as f32 / length as f32;
                        (bin[0], bin[1]) = (bin[0] + v * angle.cos(), bin[1] + v * angle.sin());
                    }
                }
                expected.extend(spectrum.concat());
            }
            let y = run("DFT", opset, vec![], &x, &[(&[], &[length as i64])]).unwrap();
            close(&y, &expected);
        }
    }
}

#[test]
fn upsampling_by_an_attribute() {
    let scales = AttributeProto {
        name: "scales".into(),
        r#type: AttributeType::Floats as i32,
        floats: vec![1.0, 1.0, 2.0],
        ..AttributeProto::default()
    };
    let x = ramp(&[1, 2, 3]);
    let twice: Vec<f32> = floats(&x).unwrap().iter().flat_map(|v| [*v, *v]).collect();
    close(&run("Upsample", 7, vec![scales], &x, &[]).unwrap(), &twice);
}

#[test]
fn sizes_that_no_model_may_ask_for_are_refused() {
    const HUGE: i64 = 1 << 40;
    let x = ramp(&[1, 4, 6]);
    let scales = AttributeProto {
        name: "scales".into(),
        r#type: AttributeType::Floats as i32,
        floats: vec![1.0, 1.0, 1e12],
        ..AttributeProto::default()
    };
    let block: (&[i64], &[i64]) = (&[2], &[2, 2]);
    let kernel = |k: i64| vec![ints("kernel_shape", &[k])];
    type Case<'a> = (&'a str, i64, Vec<AttributeProto>, Vec<(&'a [i64], &'a [i64])>);
    let cases: Vec<Case> = vec![
        ("Upsample", 7, vec![scales], vec![]),
        ("AffineGrid", 20, vec![], vec![(&[4], &[1, 1, HUGE, HUGE])]),
        ("AffineGrid", 20, vec![], vec![(&[4], &[1, 1, -3, 4])]),
        ("CenterCropPad", 18, vec![], vec![(&[3], &[1, HUGE, 6])]),
        ("CenterCropPad", 18, vec![ints("axes", &[7])], vec![(&[1], &[2])]),
        ("Col2Im", 18, vec![], vec![(&[2], &[HUGE, HUGE]), block]),
        ("Col2Im", 18, vec![ints("dilations", &[HUGE, 1])], vec![(&[2], &[3, 3]), block]),
        ("Col2Im", 18, vec![ints("strides", &[0, 1])], vec![(&[2], &[3, 3]), block]),
        ("Col2Im", 18, vec![ints("pads", &[i64::MAX, 0, i64::MAX, 0])], vec![(&[2], &[3, 3]), block]),
        ("DFT", 17, vec![int("axis", 1)], vec![(&[], &[HUGE])]),
        ("DFT", 17, vec![int("axis", i64::MIN)], vec![]),
        ("LpPool", 18, kernel(0), vec![]),
        ("LpPool", 18, kernel(-2), vec![]),
        ("LpPool", 18, vec![int("p", 0), ints("kernel_shape", &[2])], vec![]),
        ("SpaceToDepth", 13, vec![int("blocksize", HUGE)], vec![]),
        ("ReverseSequence", 10, vec![int("time_axis", 5)], vec![(&[4], &[1, 2, 3, 4])]),
        ("Pad", 13, vec![], vec![(&[6], &[0, 0, 0, 0, HUGE, 0])]),
        ("Pad", 13, vec![], vec![(&[6], &[0, 0, i64::MIN, 0, 0, i64::MAX])]),
        ("Pad", 13, vec![], vec![(&[6], &[0, -3, 0, 0, -1, 0])]),
        ("Pad", 13, vec![], vec![(&[2], &[1, 1])]),
        ("Pad", 19, vec![], vec![(&[2], &[1, 1]), (&[], &[0]), (&[1], &[9])]),
        ("CumSum", 14, vec![], vec![(&[], &[3])]),
        ("CumSum", 14, vec![], vec![(&[2], &[0, 1])]),
        ("GatherND", 13, vec![], vec![(&[1, 2], &[0, -5])]),
        ("GatherND", 13, vec![], vec![(&[1, 4], &[0, 0, 0, 0])]),
        ("GatherND", 13, vec![int("batch_dims", -1)], vec![(&[1, 1], &[0])]),
        ("GatherND", 13, vec![int("batch_dims", 9)], vec![(&[1, 1], &[0])]),
        ("Attention", 23, vec![int("q_num_heads", HUGE)], vec![]),
    ];
    for (op, opset, attributes, settings) in cases {
        let error = run(op, opset, attributes, &x, &settings).unwrap_err().to_string();
        assert!(!error.contains("gave up"), "{op}: {error}");
    }
}

/// Causal self-attention over embedded tokens, three heads of which share one of keys and values, with a mask of the tokens.
fn attentive() -> ModelProto {
    let open = |name: &str| Value::DimParam(name.into());
    let tokens = [open("batch"), open("sequence")];
    let inputs = vec![input("ids", DataType::Int64, &tokens), input("mask", DataType::Int64, &tokens)];
    let table = |name: &str, columns: usize| {
        let values = ramp(&[10, columns]);
        let dims = vec![10, columns as i64];
        let float_data = floats(&values).unwrap().to_vec();
        TensorProto { name: name.into(), dims, data_type: DataType::Float as i32, float_data, ..TensorProto::default() }
    };
    let initializers = vec![table("wide", 12), table("narrow", 4), stored("axes", &[2], &[1, 2])];
    let heads = vec![int("q_num_heads", 3), int("kv_num_heads", 1), int("is_causal", 1)];
    let nodes = vec![
        node("Gather", &["wide", "ids"], "q", vec![]),
        node("Gather", &["narrow", "ids"], "kv", vec![]),
        node("Cast", &["mask"], "kept", vec![int("to", DataType::Bool as i64)]),
        node("Unsqueeze", &["kept", "axes"], "keys", vec![]),
        node("Attention", &["q", "kv", "kv", "keys"], "y", heads),
    ];
    model(23, inputs, initializers, nodes)
}

#[test]
fn attention_of_open_sizes() {
    use prost::Message;
    let base = Base::from_bytes(&attentive().encode_to_vec(), std::path::Path::new("attentive.onnx")).unwrap();
    let answer = |batch: usize, sequence: usize, ids: &[i64], mask: &[i64]| {
        let plan = base
            .concrete(&Bucket { batch, sequence, past: 0 })
            .unwrap()
            .into_optimized()
            .unwrap()
            .into_runnable()
            .unwrap();
        let inputs = [ids, mask].map(|v| Tensor::from_shape(&[batch, sequence], v).unwrap().into_tvalue());
        let y = plan.run(inputs.into_iter().collect()).unwrap().remove(0).into_tensor();
        assert_eq!(y.shape(), [batch, sequence, 12]);
        floats(&y).unwrap().to_vec()
    };
    let long = answer(2, 5, &[3, 1, 4, 1, 5, 9, 2, 6, 5, 3], &[1; 10]);
    // What comes later, or is masked, does not count.
    let short = answer(1, 3, &[9, 2, 6], &[1; 3]);
    let masked = answer(1, 4, &[9, 7, 2, 6], &[1, 0, 1, 1]);
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
    assert!(near(&long[60..96], &short));
    assert!(near(&masked[..12], &short[..12]) && near(&masked[24..], &short[12..]));
    // A query without a key, of a row that is masked throughout.
    assert!(answer(1, 2, &[1, 2], &[0, 0]).iter().all(|v| *v == 0.0));
}

/// ONNX Runtime's product of operands that are transposed, also by their first axis, beside Transpose, MatMul and Mul.
#[test]
fn fused_products_are_those_of_their_parts() {
    use prost::Message;
    let float = |name: &str, f: f32| AttributeProto { r#type: AttributeType::Float as i32, f, ..int(name, 0) };
    let (sizes, batch) = ([4, 5], 6);
    for (trans, first) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        // The operand is [batch, m, k] once its axes are moved so.
        let perm: &[i64] = match (trans, first) {
            (0, 0) => &[0, 1, 2],
            (_, 0) => &[0, 2, 1],
            (0, _) => &[1, 0, 2],
            _ => &[1, 2, 0],
        };
        let k = [batch, sizes[0], sizes[1]][perm[2] as usize];
        let values = ramp(&[1, k as usize, 3]);
        let table = TensorProto {
            name: "b".into(),
            dims: vec![1, k, 3],
            data_type: DataType::Float as i32,
            float_data: floats(&values).unwrap().to_vec(),
            ..TensorProto::default()
        };
        let half = TensorProto {
            name: "alpha".into(),
            data_type: DataType::Float as i32,
            float_data: vec![0.5],
            ..TensorProto::default()
        };
        let fused = vec![int("transA", trans), int("transBatchA", first), float("alpha", 0.5)];
        let nodes = vec![
            node("FusedMatMul", &["a", "b"], "fused", fused),
            node("Transpose", &["a"], "turned", vec![ints("perm", perm)]),
            node("MatMul", &["turned", "b"], "product", vec![]),
            node("Mul", &["product", "alpha"], "parts", vec![]),
            node("Sub", &["fused", "parts"], "y", vec![]),
        ];
        let dims = [Value::DimParam("batch".into()), Value::DimValue(sizes[0]), Value::DimValue(sizes[1])];
        let file = model(17, vec![input("a", DataType::Float, &dims)], vec![table, half], nodes);
        let base = Base::from_bytes(&file.encode_to_vec(), std::path::Path::new("fused.onnx")).unwrap();
        let graph = base.concrete(&Bucket { batch: batch as usize, sequence: 0, past: 0 }).unwrap();
        let plan = graph.into_optimized().unwrap().into_runnable().unwrap();
        let a = ramp(&[batch as usize, sizes[0] as usize, sizes[1] as usize]);
        let y = plan.run(tvec!(a.into_tvalue())).unwrap().remove(0).into_tensor();
        assert!(y.len() > 1 && floats(&y).unwrap().iter().all(|v| v.abs() < 1e-5), "{trans} {first}");
    }
}

/// Values of `mpmath`, from the definitions.
#[test]
fn activations_of_large_numbers() {
    let x = tensor1(&[-300f32, -20.0, -1.0, 0.0, 1.0, 20.0, 300.0]);
    let float = |name: &str, f: f32| AttributeProto { r#type: AttributeType::Float as i32, f, ..int(name, 0) };
    for (op, attributes, expected) in [
        ("Softplus", vec![], [0.0, 2.0611537e-9, 0.313_261_7, std::f32::consts::LN_2, 1.3132617, 20.0, 300.0]),
        ("Mish", vec![], [0.0, -4.122_307e-8, -0.30340146, 0.0, 0.865_098_4, 20.0, 300.0]),
        ("Elu", vec![float("alpha", 2.0)], [-2.0, -2.0, -1.2642411, 0.0, 1.0, 20.0, 300.0]),
        ("Selu", vec![], [-1.7580993, -1.7580993, -1.1113307, 0.0, 1.050701, 21.01402, 315.2103]),
    ] {
        let y = run(op, 18, attributes, &x, &[]).unwrap();
        for (y, e) in floats(&y).unwrap().iter().zip(expected) {
            assert!((y - e).abs() <= 1e-6 * e.abs(), "{op}: {y}, not {e}");
        }
    }
}
