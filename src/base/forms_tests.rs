//! Forms of operators as exporters write them, from a file to an answer.

use prost::Message;
use tract_core::internal::*;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value;
use tract_onnx::pb::{AttributeProto, ModelProto, NodeProto, TensorProto};

use super::decompose::tests::{close, input, int, ints, model, node, ramp, stored};
use super::integers::float_tensor;
use super::{Base, Bucket};
use crate::error::{ErrorKind, Result};
use crate::sites::{SiteTable, find};

pub(super) fn text(name: &str, s: &str) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::String as i32,
        s: s.as_bytes().to_vec(),
        ..AttributeProto::default()
    }
}

pub(super) fn floats(name: &str, t: &Tensor) -> TensorProto {
    let dims: Vec<i64> = t.shape().iter().map(|d| *d as i64).collect();
    float_tensor(name.into(), crate::ops::floats(t).unwrap(), &dims)
}

pub(super) fn bytes(name: &str, kind: DataType, dims: &[i64], values: &[u8]) -> TensorProto {
    let (dims, raw_data) = (dims.to_vec(), values.to_vec());
    TensorProto { name: name.into(), dims, data_type: kind as i32, raw_data, ..TensorProto::default() }
}

/// A model of `nodes` whose inputs are `x`, floats, and `i`, integers, of these shapes.
pub(super) fn graph(x: &[usize], i: &[usize], initializers: Vec<TensorProto>, nodes: Vec<NodeProto>) -> ModelProto {
    let dims = |shape: &[usize]| shape.iter().map(|d| Value::DimValue(*d as i64)).collect::<Vec<_>>();
    let inputs = vec![input("x", DataType::Float, &dims(x)), input("i", DataType::Int64, &dims(i))];
    model(18, inputs, initializers, nodes)
}

pub(super) fn base(model: &ModelProto) -> Result<Base> {
    Base::from_bytes(&model.encode_to_vec(), std::path::Path::new("forms.onnx"))
}

/// What a model of [`graph`] answers, at the sizes that it fixes.
pub(super) fn answer(model: &ModelProto, x: &Tensor, i: &Tensor) -> Result<Tensor> {
    let typed = base(model)?.concrete(&Bucket { batch: 1, sequence: 1, past: 0 })?;
    crate::base::guarded(ErrorKind::UnsupportedModel, "cannot run it", || {
        let plan = typed.into_decluttered()?.into_optimized()?.into_runnable()?;
        Ok(plan.run(tvec!(x.clone().into_tvalue(), i.clone().into_tvalue()))?.remove(0).into_tensor())
    })
}

fn sites(model: &ModelProto) -> SiteTable {
    let base = base(model).unwrap();
    find(&base.concrete(&Bucket { batch: 1, sequence: 1, past: 0 }).unwrap(), base.onnx()).unwrap().1
}

fn to(input: &str, output: &str, kind: DataType) -> NodeProto {
    node("Cast", &[input], output, vec![int("to", kind as i64)])
}

/// As models of the RoBERTa family number their tokens.
#[test]
fn sums_of_integers_along_an_axis_that_is_a_vector() {
    let i = Tensor::from_shape(&[2, 4], &[7i64, 1, 5, 1, 1, 3, 3, 9]).unwrap();
    for axis in [stored("axis", &[], &[1]), stored("axis", &[1], &[-1])] {
        let nodes = vec![
            node("Equal", &["i", "pad"], "padded", vec![]),
            node("Not", &["padded"], "kept", vec![]),
            to("kept", "short", DataType::Int32),
            to("short", "ones", DataType::Int64),
            node("CumSum", &["ones", "axis"], "sums", vec![]),
            to("sums", "sums32", DataType::Int32),
            node("Mul", &["sums32", "short"], "places32", vec![]),
            to("places32", "places", DataType::Int64),
            node("Add", &["places", "pad"], "rows", vec![]),
            node("Gather", &["table", "rows"], "looked", vec![]),
            node("Add", &["looked", "x"], "y", vec![]),
        ];
        let initializers = vec![axis, stored("pad", &[], &[1]), floats("table", &ramp(&[9, 1]))];
        let model = graph(&[2, 4, 1], &[2, 4], initializers, nodes);
        let zeros = Tensor::zero::<f32>(&[2, 4, 1]).unwrap();
        let y = answer(&model, &zeros, &i).unwrap();
        let table = ramp(&[9, 1]);
        let table = crate::ops::floats(&table).unwrap();
        close(&y, &[2, 1, 3, 1, 1, 2, 3, 4].map(|row: usize| table[row]));
    }
}

#[test]
fn an_ellipsis_that_one_operand_has() {
    let (x, w) = (ramp(&[2, 3, 4]), ramp(&[4, 5]));
    let einsum = |equation: &str| {
        let nodes = vec![node("Einsum", &["x", "w"], "y", vec![text("equation", equation)])];
        graph(&[2, 3, 4], &[2], vec![floats("w", &w)], nodes)
    };
    let i = Tensor::zero::<i64>(&[2]).unwrap();
    let model = einsum("...i,ij->...j");
    let y = answer(&model, &x, &i).unwrap();
    assert_eq!(y.shape(), [2, 3, 5]);
    let (xs, ws) = (crate::ops::floats(&x).unwrap(), crate::ops::floats(&w).unwrap());
    let product = |at: usize| (0..4).map(|k| xs[at / 5 * 4 + k] * ws[k * 5 + at % 5]).sum();
    close(&y, &(0..30).map(product).collect::<Vec<f32>>());
    assert_eq!(sites(&model).sites[0].name, "y");
    assert_eq!(answer(&einsum("...i,ij"), &x, &i).unwrap(), y);
    assert!(answer(&einsum("...i,ij->j"), &x, &i).is_err());
}

#[test]
fn places_counted_from_the_end() {
    let (x, three) = (ramp(&[2, 3, 4]), floats("three", &Tensor::zero::<f32>(&[2, 4]).unwrap()));
    let i = Tensor::from_shape(&[2, 2], &[-2i64, -1, 0, -2]).unwrap();
    let xs = crate::ops::floats(&x).unwrap().to_vec();
    for index in ["i", "stored"] {
        let places = stored("stored", &[2, 2], &[-2, -1, 0, -2]);
        let nodes = vec![node("GatherND", &["x", index], "y", vec![])];
        let y = answer(&graph(&[2, 3, 4], &[2, 2], vec![places.clone()], nodes), &x, &i).unwrap();
        close(&y, &[&xs[8..12], &xs[4..8]].concat());
        let nodes = vec![node("ScatterND", &["x", index, "three"], "y", vec![])];
        let model = graph(&[2, 3, 4], &[2, 2], vec![places, three.clone()], nodes);
        let expected: Vec<f32> =
            xs.iter().enumerate().map(|(at, v)| if (4..12).contains(&at) { 0.0 } else { *v }).collect();
        close(&answer(&model, &x, &i).unwrap(), &expected);
    }
    let nodes = vec![node("GatherND", &["x", "stored"], "y", vec![])];
    let model = graph(&[2, 3, 4], &[2], vec![stored("stored", &[1, 2], &[-2, -4])], nodes);
    let refusal = base(&model).unwrap_err().to_string();
    assert!(refusal.contains("place -4 of an axis of length 3"), "{refusal}");
}

#[test]
fn borders_that_are_cut_off_or_wrapped() {
    let x = ramp(&[1, 2, 4]);
    let xs = crate::ops::floats(&x).unwrap().to_vec();
    let i = Tensor::from_shape(&[1, 3], &[5i64, 6, 7]).unwrap();
    let pad = |pads: &[i64], mode: &str| {
        let nodes = vec![node("Pad", &["x", "pads"], "y", vec![text("mode", mode)])];
        graph(&[1, 2, 4], &[1, 3], vec![stored("pads", &[6], pads)], nodes)
    };
    let rows = |places: &[Option<usize>]| -> Vec<f32> {
        let row = |row: usize| places.iter().map(move |at| (row, *at));
        (0..2).flat_map(row).map(|(row, at)| at.map_or(0.0, |at| xs[row * 4 + at])).collect()
    };
    let shifted = answer(&pad(&[0, 0, 1, 0, 0, -1], "constant"), &x, &i).unwrap();
    close(&shifted, &rows(&[None, Some(0), Some(1), Some(2)]));
    let back = answer(&pad(&[0, 0, -2, 0, 0, 1], "edge"), &x, &i).unwrap();
    close(&back, &rows(&[Some(2), Some(3), Some(3)]));
    let round = answer(&pad(&[0, 0, 1, 0, 0, 2], "wrap"), &x, &i).unwrap();
    close(&round, &rows(&[3, 0, 1, 2, 3, 0, 1].map(Some)));
    for (pads, mode) in [([0, 0, 5, 0, 0, 0], "wrap"), ([0, 0, 0, 0, 0, 4], "reflect"), ([0, 0, -3, 0, 0, -1], "edge")]
    {
        let refusal = answer(&pad(&pads, mode), &x, &i).unwrap_err().to_string();
        assert!(!refusal.contains("gave up") && !refusal.contains("18446744"), "{refusal}");
    }
    // Integers, and truth values.
    let nodes = vec![
        to("i", "whole", DataType::Int64),
        node("Pad", &["whole", "pads", "one"], "longer", vec![]),
        to("longer", "truth", DataType::Bool),
        node("Pad", &["truth", "pads"], "longest", vec![]),
        to("longer", "a", DataType::Float),
        node("Slice", &["longest", "zero", "four", "one_axis"], "b", vec![]),
        to("b", "c", DataType::Float),
        node("Mul", &["a", "c"], "d", vec![]),
        node("ReduceSum", &["x"], "sum", vec![int("keepdims", 0)]),
        node("Mul", &["sum", "nothing"], "none", vec![]),
        node("Add", &["d", "none"], "y", vec![]),
    ];
    let initializers = vec![
        stored("pads", &[4], &[0, 1, 0, 0]),
        stored("one", &[1], &[1]),
        stored("zero", &[1], &[0]),
        stored("four", &[1], &[4]),
        stored("one_axis", &[1], &[1]),
        floats("nothing", &tensor1(&[0f32])),
    ];
    close(&answer(&graph(&[1, 2, 4], &[1, 3], initializers, nodes), &x, &i).unwrap(), &[0.0, 5.0, 6.0, 7.0]);
}

/// As `nan_to_num` and `bucketize` are exported.
#[test]
fn comparisons_of_long_floats_and_of_truths() {
    let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3.0];
    let x = Tensor::from_shape(&[1, 4], &values).unwrap();
    let i = Tensor::from_shape(&[1, 4], &[0i64, 0, 1, 1]).unwrap();
    for kind in [DataType::Float, DataType::Double] {
        let no_minus = int("detect_negative", 0);
        let nodes = vec![
            to("x", "long", kind),
            node("IsNaN", &["long"], "nan", vec![]),
            node("IsInf", &["long"], "infinite", vec![]),
            node("IsInf", &["long"], "above", vec![no_minus]),
            to("i", "truth", DataType::Bool),
            node("Equal", &["infinite", "truth"], "same", vec![]),
            to("nan", "a", DataType::Float),
            to("infinite", "b", DataType::Float),
            to("above", "c", DataType::Float),
            to("same", "d", DataType::Float),
            node("Concat", &["a", "b", "c", "d"], "y", vec![int("axis", 0)]),
        ];
        let y = answer(&graph(&[1, 4], &[1, 4], vec![], nodes), &x, &i).unwrap();
        let expected = [1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1, 0, 1, 0].map(|v| v as f32);
        close(&y, &expected);
    }
}

/// A product with a weight in blocks, and the numbers that it stands for.
fn in_blocks(bits: i64, k: usize, n: usize, block: usize, zeros: bool) -> (ModelProto, Vec<f32>) {
    let (blocks, most) = (k.div_ceil(block), (1 << bits) - 1);
    let code = |row: usize, at: usize| ((row * 31 + at * 17 + row * at) % (most + 1)) as u8;
    let scale = |row: usize, at: usize| 0.01 + ((row * 5 + at * 3) % 7) as f32 / 100.0;
    let zero = |row: usize, at: usize| if zeros { ((row + 2 * at) % (most + 1)) as u8 } else { most.div_ceil(2) as u8 };
    // Rows of numbers, each row in whole bytes.
    let packed = |of: &dyn Fn(usize, usize) -> u8, count: usize| -> Vec<u8> {
        let row = |row: usize| -> Vec<u8> {
            let all: Vec<u8> = (0..count).map(|at| of(row, at)).collect();
            if bits == 8 { all } else { all.chunks(2).map(|p| p[0] | p.get(1).unwrap_or(&0) << 4).collect() }
        };
        (0..n).flat_map(row).collect()
    };
    let each = if bits == 4 { 2 } else { 1 };
    let scales: Vec<f32> = (0..n).flat_map(|row| (0..blocks).map(move |at| scale(row, at))).collect();
    let mut initializers = vec![
        bytes("w", DataType::Uint8, &[n as i64, blocks as i64, (block / each) as i64], &packed(&code, blocks * block)),
        float_tensor("scales".into(), &scales, &[(n * blocks) as i64]),
        floats("bias", &ramp(&[n])),
    ];
    if zeros {
        let zeros = packed(&zero, blocks);
        initializers.push(bytes("zeros", DataType::Uint8, &[zeros.len() as i64], &zeros));
    }
    let sizes = [("K", k as i64), ("N", n as i64), ("block_size", block as i64), ("bits", bits)];
    let attributes = sizes.map(|(name, i)| int(name, i)).to_vec();
    let inputs = ["x", "w", "scales", if zeros { "zeros" } else { "" }, "", "bias"];
    let product = NodeProto { domain: "com.microsoft".into(), ..node("MatMulNBits", &inputs, "y", attributes) };
    let value = |row: usize, at: usize| (code(row, at) as f32 - zero(row, at / block) as f32) * scale(row, at / block);
    let values = (0..n).flat_map(|row| (0..k).map(move |at| value(row, at))).collect();
    (graph(&[2, 3, k], &[2], initializers, vec![product]), values)
}

#[test]
fn products_with_weights_in_blocks() {
    let i = Tensor::zero::<i64>(&[2]).unwrap();
    // The last two are large enough to stay narrow; blocks that are not full, and rows of an odd length.
    for (bits, k, n, block) in [(4, 32, 5, 16), (8, 37, 3, 16), (4, 45, 7, 32), (4, 81, 64, 16), (8, 96, 48, 32)] {
        for zeros in [false, true] {
            let (model, weight) = in_blocks(bits, k, n, block, zeros);
            let x = ramp(&[2, 3, k]);
            let (xs, bias) = (crate::ops::floats(&x).unwrap(), ramp(&[n]));
            let bias = crate::ops::floats(&bias).unwrap();
            let product = |at: usize| {
                let (row, column) = (at / n, at % n);
                let sum: f32 = (0..k).map(|k_at| xs[row * k + k_at] * weight[column * k + k_at]).sum();
                sum + bias[column]
            };
            close(&answer(&model, &x, &i).unwrap(), &(0..6 * n).map(product).collect::<Vec<f32>>());
            let table = sites(&model);
            let site = &table.sites[0];
            assert_eq!((site.name.as_str(), site.inputs, site.outputs), ("y", k, n), "{:?}", table.skipped);
            if k * n >= 4096 {
                let bytes = base(&model).unwrap().weight_bytes();
                assert!(bytes < (k * n * 3) as u64, "{bytes} bytes");
            }
        }
    }
    let changed = |change: &dyn Fn(&mut NodeProto)| {
        let (mut model, _) = in_blocks(4, 32, 5, 16, true);
        change(&mut model.graph.as_mut().unwrap().node[0]);
        base(&model).unwrap_err().to_string()
    };
    let set = |name: &'static str, i: i64| {
        changed(&|n| n.attribute.iter_mut().filter(|a| a.name == name).for_each(|a| a.i = i))
    };
    assert!(set("bits", 2).contains("a MatMulNBits of 2 bits"));
    assert!(changed(&|n| n.input[4] = "w".into()).contains("a g_idx"));
    for (name, size) in [("K", i64::MAX), ("N", 6), ("N", i64::MIN), ("block_size", 0), ("block_size", 3)] {
        let refusal = set(name, size);
        assert!(refusal.contains("not stored tensors of the sizes"), "{refusal}");
    }
}

#[test]
fn a_quantised_softmax() {
    let (x, i) = (ramp(&[2, 3, 4]), Tensor::zero::<i64>(&[2]).unwrap());
    let softmax = |axis: i64, opset: i64| {
        let attributes = vec![int("axis", axis), int("opset", opset)];
        let inputs = ["q", "in", "in_zero", "out", "out_zero"];
        let nodes = vec![
            node("QuantizeLinear", &["x", "in", "in_zero"], "q", vec![]),
            NodeProto { domain: "com.microsoft".into(), ..node("QLinearSoftmax", &inputs, "r", attributes) },
            node("DequantizeLinear", &["r", "out", "out_zero"], "y", vec![]),
        ];
        let initializers = vec![
            float_tensor("in".into(), &[0.02], &[]),
            bytes("in_zero", DataType::Uint8, &[], &[128]),
            float_tensor("out".into(), &[1.0 / 256.0], &[]),
            bytes("out_zero", DataType::Uint8, &[], &[0]),
        ];
        graph(&[2, 3, 4], &[2], initializers, nodes)
    };
    let xs: Vec<f32> = crate::ops::floats(&x).unwrap().iter().map(|v| ((v / 0.02).round() * 0.02).exp()).collect();
    for (axis, step, long) in [(-1, 1, 4), (1, 4, 3)] {
        let share = |at: usize| {
            let first = at - at / step % long * step;
            let sum: f32 = (0..long).map(|k| xs[first + k * step]).sum();
            (xs[at] / sum * 256.0).round().min(255.0) / 256.0
        };
        close(&answer(&softmax(axis, 18), &x, &i).unwrap(), &(0..24).map(share).collect::<Vec<f32>>());
    }
    assert!(base(&softmax(1, 12)).is_err());
}

#[test]
fn what_is_no_site_is_called_what_it_is() {
    let nodes = vec![
        node("Einsum", &["x", "w", "w"], "three", vec![text("equation", "bik,kn,nm->bim")]),
        node("Shape", &["x"], "shape", vec![]),
        to("shape", "sizes", DataType::Float),
        node("MatMul", &["sizes", "m"], "folded", vec![]),
        node("Add", &["three", "folded"], "y", vec![]),
    ];
    let initializers = vec![floats("w", &ramp(&[4, 4])), floats("m", &ramp(&[3, 4]))];
    let table = sites(&graph(&[2, 3, 4], &[2], initializers, nodes));
    let reason = |name: &str| table.skipped.iter().find(|s| s.name == name).unwrap().reason.clone();
    assert!(reason("three").starts_with("a product of 3 operands"), "{}", reason("three"));
    assert_eq!(reason("folded"), "computed once from constants and sizes");
}

/// What a normalisation in training makes of an example depends on the others.
#[test]
fn a_normalisation_in_training_is_refused() {
    let nodes = vec![
        node("ReduceMean", &["x"], "mean", vec![ints("axes", &[0, 2]), int("keepdims", 0)]),
        node("BatchNormalization", &["x", "one", "one", "mean", "one"], "y", vec![]),
    ];
    let initializers = vec![floats("one", &Tensor::from_shape(&[3], &[1f32; 3]).unwrap())];
    let mut model = graph(&[2, 3, 4], &[2], initializers, nodes);
    model.opset_import[0].version = 17;
    let refusal = |model: &ModelProto| format!("{:?}", base(model).unwrap_err());
    assert!(refusal(&model).contains("switch the model to evaluation"), "{}", refusal(&model));
    // As opsets before 14 write it.
    let graph = model.graph.as_mut().unwrap();
    graph.node[1].input[3] = "one".into();
    graph.node[1].output.extend(["m", "v", "saved_m", "saved_v"].map(String::from));
    model.opset_import[0].version = 9;
    assert!(refusal(&model).contains("switch the model to evaluation"), "{}", refusal(&model));
}
