//! Every pass against the graph without it.

use tract_core::internal::*;
use tract_core::ops::array::{Gather, Pad, PadMode};
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cnn::{Conv, Deconv, KernelFormat, PaddingSpec, PoolSpec};
use tract_core::ops::einsum::EinSum;
use tract_core::ops::math;
use tract_core::ops::nn::{DataFormat, Softmax, SoftmaxKind};
use tract_core::ops::source::TypedSource as Source;

use super::improve;
use super::product::Product;
use crate::ops::{Kind, Packed, Scales, Widen};

fn values(shape: &[usize], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|i| ((i * 37 + seed * 11 + i / 7) % 41) as f32 * 0.05 - 1.0).collect();
    Tensor::from_shape(shape, &data).unwrap()
}

/// Runs `model` plain and improved on the same values; both must agree, and the improved graph must hold `op`.
fn check(model: TypedModel, op: &str) {
    let inputs: TVec<TValue> = (0..model.inputs.len())
        .map(|ix| values(model.input_fact(ix).unwrap().shape.as_concrete().unwrap(), ix).into_tvalue())
        .collect();
    let mut improved = model.clone();
    improve(&mut improved, std::iter::empty()).unwrap();
    assert!(improved.eval_order().unwrap().iter().any(|id| improved.node(*id).op.name() == op), "no {op}");
    let run = |m: TypedModel| m.into_optimized().unwrap().into_runnable().unwrap().run(inputs.clone()).unwrap();
    let (want, have) = (run(model), run(improved));
    for (w, h) in want.iter().zip(&have) {
        h.close_enough(w, Approximation::Approximate).unwrap();
    }
}

fn einsum(expr: &str, a: &[usize], b: &[usize]) -> TypedModel {
    let mut model = TypedModel::default();
    let a = model.add_source("a", f32::fact(a)).unwrap();
    let b = model.add_source("b", f32::fact(b)).unwrap();
    let op = EinSum::new(expr.parse().unwrap(), f32::datum_type());
    let c = model.wire_node("c", op, &[a, b]).unwrap();
    model.select_output_outlets(&c).unwrap();
    model
}

#[test]
fn products_of_every_layout() {
    for (expr, a, b) in [
        ("amk,kn->amn", &[3, 5, 32][..], &[32, 40][..]),
        ("amn,kn->amk", &[3, 5, 32], &[40, 32]),
        ("ambk,bkn->amn", &[2, 5, 4, 16], &[4, 16, 33]),
        ("amn,bkn->ambk", &[2, 5, 33], &[4, 16, 33]),
        ("ambn,kbn->amk", &[2, 5, 4, 16], &[33, 4, 16]),
        ("ambk,anbk->abmn", &[2, 17, 3, 16], &[2, 18, 3, 16]),
        ("abmk,akbn->ambn", &[2, 3, 17, 16], &[2, 16, 3, 18]),
        ("ambn,abmk->akbn", &[2, 17, 3, 16], &[2, 3, 17, 18]),
        ("oc,nchw->nohw", &[24, 16], &[2, 16, 5, 7]),
        ("nchw,oc->nohw", &[2, 16, 5, 7], &[24, 16]),
        ("oc,nohw->nchw", &[24, 16], &[2, 24, 5, 7]),
        ("abmk,bkn->abmn", &[2, 1, 17, 16], &[1, 16, 18]),
    ] {
        check(einsum(expr, a, b), "Product");
    }
}

#[test]
fn other_einsums_are_left_alone() {
    for (expr, a, b) in [
        // Two summed axes that do not run on into each other.
        ("kml,knl->mn", &[8, 16, 9][..], &[8, 16, 9][..]),
        // Summed in one operand only.
        ("mkz,kn->mn", &[16, 32, 3], &[32, 16]),
        // Too small.
        ("mk,kn->mn", &[2, 3], &[3, 4]),
    ] {
        let mut model = einsum(expr, a, b);
        improve(&mut model, std::iter::empty()).unwrap();
        assert!(model.nodes().iter().any(|n| n.op_is::<EinSum>()), "{expr}");
    }
}

#[test]
fn a_sum_is_taken_by_the_product() {
    for swap in [false, true] {
        let mut model = einsum("mk,kn->mn", &[16, 32], &[32, 24]);
        let x = model.add_source("x", f32::fact([16, 24])).unwrap();
        let c = model.outputs[0];
        let inputs = if swap { [c, x] } else { [x, c] };
        let sum = model.wire_node("sum", math::add(), &inputs).unwrap();
        model.select_output_outlets(&sum).unwrap();
        check(model.clone(), "Product");
        improve(&mut model, std::iter::empty()).unwrap();
        let adds = |id: &&usize| model.node(**id).op_is::<TypedBinOp>();
        assert_eq!(model.eval_order().unwrap().iter().filter(adds).count(), 0);
    }
}

#[test]
fn masked_softmax() {
    for mask in [[2, 1, 1, 24], [1, 1, 8, 24], [2, 3, 8, 24], [1, 1, 1, 24]] {
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact([2, 3, 8, 24])).unwrap();
        let mask = model.add_source("mask", f32::fact(mask)).unwrap();
        let k = model.add_const("k", tensor0(0.3f32).broadcast_into_rank(4).unwrap()).unwrap();
        let scaled = model.wire_node("scaled", math::mul(), &[x, k]).unwrap()[0];
        let sum = model.wire_node("sum", math::add(), &[scaled, mask]).unwrap()[0];
        let op = Softmax { axes: tvec!(3), quant_output_dt: None, kind: SoftmaxKind::Softmax };
        let y = model.wire_node("y", op, &[sum]).unwrap();
        model.select_output_outlets(&y).unwrap();
        check(model, "MaskedSoftmax");
    }
}

#[test]
fn biases_and_clips_are_taken_by_the_product() {
    // Along columns, along rows, and in several blocks of each kind.
    for (expr, a, b, bias) in [
        ("amk,kn->amn", &[3, 5, 32][..], &[32, 40][..], &[1, 1, 40][..]),
        ("oc,nchw->nohw", &[24, 16], &[2, 16, 5, 7], &[1, 24, 1, 1]),
        ("mk,kn->mn", &[300, 8], &[8, 1500], &[1, 1500]),
        ("oc,cp->op", &[70, 4], &[4, 9000], &[70, 1]),
        ("mk,kn->nm", &[300, 8], &[8, 1500], &[1500, 1]),
    ] {
        let mut model = einsum(expr, a, b);
        let bias = model.add_const("bias", values(bias, 5)).unwrap();
        let c = model.outputs[0];
        let mut y = model.wire_node("sum", math::add(), &[c, bias]).unwrap()[0];
        for (name, op, k) in [("low", math::max(), 0f32), ("high", math::min(), 0.5)] {
            let rank = model.outlet_fact(y).unwrap().rank();
            let k = model.add_const(format!("{name}.k"), tensor0(k).broadcast_into_rank(rank).unwrap()).unwrap();
            y = model.wire_node(name, op, &[y, k]).unwrap()[0];
        }
        model.select_output_outlets(&[y]).unwrap();
        let plain = model.clone();
        crate::ops::fuse(&mut model).unwrap();
        improve(&mut model, std::iter::empty()).unwrap();
        assert_eq!(model.eval_order().unwrap().iter().filter(|id| !model.node(**id).op_is::<Source>()).count(), 2);
        let inputs: TVec<TValue> = [a, b].iter().enumerate().map(|(i, s)| values(s, i).into_tvalue()).collect();
        let run = |m: TypedModel| m.into_optimized().unwrap().into_runnable().unwrap().run(inputs.clone()).unwrap();
        run(model)[0].close_enough(&run(plain)[0], Approximation::Approximate).unwrap();
    }
}

#[test]
fn a_reshaped_weight_is_shared() {
    let original = values(&[40, 96], 3).into_arc_tensor();
    let mut model = TypedModel::default();
    let x = model.add_source("x", f32::fact([2, 8, 4, 10])).unwrap();
    let folded = (*original).clone().into_shape(&[4, 10, 96]).unwrap();
    let w = model.add_const("w", folded).unwrap();
    let op = EinSum::new("ambk,bkn->amn".parse().unwrap(), f32::datum_type());
    let y = model.wire_node("y", op, &[x, w]).unwrap();
    model.select_output_outlets(&y).unwrap();
    let plain = model.clone();
    improve(&mut model, [&original].into_iter()).unwrap();
    assert_eq!(Arc::strong_count(&original), 3, "the constant and its fact");
    let inputs = tvec!(values(&[2, 8, 4, 10], 1).into_tvalue());
    let run = |m: TypedModel| m.into_optimized().unwrap().into_runnable().unwrap().run(inputs.clone()).unwrap();
    run(model)[0].close_enough(&run(plain)[0], Approximation::Approximate).unwrap();
}

/// A product adds to a constant that the model keeps with an axis more: the result has the product's own shape.
#[test]
fn a_product_adds_to_a_reshaped_weight() {
    let original = values(&[1, 2, 17, 18], 3).into_arc_tensor();
    let mut model = TypedModel::default();
    let a = model.add_source("a", f32::fact([2, 17, 16])).unwrap();
    let b = model.add_source("b", f32::fact([2, 18, 16])).unwrap();
    let op = EinSum::new("amk,ank->amn".parse().unwrap(), f32::datum_type());
    let scores = model.wire_node("scores", op, &[a, b]).unwrap()[0];
    let table = model.add_const("table", (*original).clone().into_shape(&[2, 17, 18]).unwrap()).unwrap();
    let sum = model.wire_node("sum", math::add(), &[scores, table]).unwrap();
    let softmax = Softmax { axes: tvec!(2), quant_output_dt: None, kind: SoftmaxKind::Softmax };
    let y = model.wire_node("y", softmax, &sum).unwrap();
    model.select_output_outlets(&[sum[0], y[0]]).unwrap();
    let plain = model.clone();
    improve(&mut model, [&original].into_iter()).unwrap();
    assert!(model.nodes().iter().any(|n| n.op_as::<Product>().is_some_and(|p| p.accumulates)));
    assert_eq!(Arc::strong_count(&original), 3, "the constant and its fact");
    let inputs = tvec!(values(&[2, 17, 16], 1).into_tvalue(), values(&[2, 18, 16], 2).into_tvalue());
    let run = |m: TypedModel| m.into_optimized().unwrap().into_runnable().unwrap().run(inputs.clone()).unwrap();
    for (have, want) in run(model).iter().zip(run(plain)) {
        assert_eq!(have.shape(), want.shape());
        have.close_enough(&want, Approximation::Approximate).unwrap();
    }
}

#[test]
fn a_transposed_weight_is_read_where_it_lies() {
    let mut model = TypedModel::default();
    let x = model.add_source("x", f32::fact([2, 8, 96])).unwrap();
    let original = values(&[40, 96], 3).into_arc_tensor();
    let w = model.add_const("w", Arc::clone(&original)).unwrap();
    let op = EinSum::new("amk,nk->amn".parse().unwrap(), f32::datum_type());
    let y = model.wire_node("y", op, &[x, w]).unwrap();
    model.select_output_outlets(&y).unwrap();
    check(model.clone(), "Product");
    improve(&mut model, std::iter::empty()).unwrap();
    let held = |n: &TypedNode| n.outputs[0].fact.konst.clone();
    let weights: Vec<Arc<Tensor>> = model.eval_order().unwrap().iter().filter_map(|id| held(model.node(*id))).collect();
    assert!(weights.len() == 1 && Arc::ptr_eq(&weights[0], &original), "one copy of the weight");
}

/// Checks a convolution with one channel a group, or its transpose, against tract's.
fn check_depthwise(transposed: bool, from: [usize; 2], kernel: [usize; 2], stride: usize, pads: [usize; 2]) {
    let channels = 5;
    let spec = PoolSpec::new(
        DataFormat::NCHW,
        TVec::from_slice(&kernel),
        PaddingSpec::Explicit(tvec!(pads[0]; 2), tvec!(pads[1]; 2)),
        None,
        Some(tvec!(stride; 2)),
        channels,
        channels,
    );
    let mut model = TypedModel::default();
    let x = model.add_source("x", f32::fact([2, channels, from[0], from[1]])).unwrap();
    let w = model.add_const("w", values(&[channels, 1, kernel[0], kernel[1]], 3)).unwrap();
    let bias = model.add_const("bias", values(&[channels], 4)).unwrap();
    let y = if transposed {
        let op = Deconv::new(spec, KernelFormat::OIHW, tvec!(1, 0), channels);
        model.wire_node("y", op, &[x, w, bias]).unwrap()
    } else {
        model.wire_node("y", Conv::new(spec, KernelFormat::OIHW, channels, None), &[x, w, bias]).unwrap()
    };
    model.select_output_outlets(&y).unwrap();
    check(model, "Depthwise");
}

#[test]
fn convolutions_of_few_channels() {
    for (channels, sides, pads, padded) in
        [(3, [9, 12], [0, 1], true), (3, [9, 12], [1, 1], false), (1, [1, 40], [0, 0], true)]
    {
        let kernel = if sides[0] == 1 { [1, 5] } else { [3, 3] };
        let spec = PoolSpec::new(
            DataFormat::NCHW,
            TVec::from_slice(&kernel),
            PaddingSpec::Explicit(tvec!(0, pads[0]), tvec!(0, pads[1])),
            None,
            Some(tvec!(1, 2)),
            channels,
            12,
        );
        let mut model = TypedModel::default();
        let mut x = model.add_source("x", f32::fact([2, channels, sides[0], sides[1]])).unwrap();
        if padded {
            let pads = vec![(0, 0), (0, 0), (1, 0), (1, 2)];
            let pad = Pad::new(pads, PadMode::Constant(Arc::new(tensor0(0f32))));
            x = model.wire_node("pad", pad, &[x]).unwrap()[0];
        }
        let w = model.add_const("w", values(&[12, channels, kernel[0], kernel[1]], 3)).unwrap();
        let bias = model.add_const("bias", values(&[12], 4)).unwrap();
        let y = model.wire_node("y", Conv::new(spec, KernelFormat::OIHW, 1, None), &[x, w, bias]).unwrap();
        model.select_output_outlets(&y).unwrap();
        check(model, "Stem");
    }
}

#[test]
fn depthwise_convolutions() {
    for transposed in [false, true] {
        check_depthwise(transposed, [7, 7], [5, 5], 2, [2, 2]);
        check_depthwise(transposed, [9, 12], [3, 3], 2, [0, 1]);
    }
    check_depthwise(false, [14, 14], [3, 3], 1, [1, 1]);
}

/// A weight of `shape` in eight bits, with a scale for each place of its last axis.
fn narrow(shape: &[usize]) -> Widen {
    let (len, last): (usize, usize) = (shape.iter().product(), *shape.last().unwrap());
    let scales = (0..last).map(|i| 0.01 + i as f32 * 1e-4).collect();
    let zeros = (0..last).map(|i| (i % 5) as f32 - 2.0).collect();
    let scales = Scales { scales, zeros, length: last, inner: 1, each: 1, by_block: false };
    let bytes: Vec<u8> = (0..len).map(|i| (i * 37 % 251) as u8).collect();
    Widen { shape: shape.into(), weight: Arc::new(Packed::new(Kind::I8, len, bytes, Some(scales)).unwrap()) }
}

#[test]
fn products_read_narrow_weights_panel_by_panel() {
    // The weight right and left, cut along its sum and along its side, in one panel and in several, in loops and not.
    for (expr, a, b, left, bias) in [
        ("amk,kn->amn", &[3, 5, 32][..], &[32, 40][..], false, &[1, 1, 40][..]),
        ("amk,kn->amn", &[3, 5, 300], &[300, 200], false, &[1, 1, 200]),
        ("amk,nk->amn", &[3, 5, 300], &[200, 300], false, &[1, 1, 200]),
        ("oc,nchw->nohw", &[250, 160], &[2, 160, 5, 7], true, &[1, 250, 1, 1]),
        ("co,nchw->nohw", &[160, 250], &[2, 160, 5, 7], true, &[1, 250, 1, 1]),
        ("mk,kn->nm", &[3, 40000], &[40000, 2], false, &[1, 3]),
    ] {
        check_narrow(expr, a, b, left, bias, narrow(if left { a } else { b }));
    }
}

#[test]
fn few_rows_read_narrow_weights_in_registers() {
    let (n, k) = (1100, 96);
    let scales = Scales {
        scales: (0..n * 3).map(|i| 0.01 + (i % 17) as f32 * 1e-3).collect(),
        zeros: (0..n * 3).map(|i| (i % 16) as f32).collect(),
        length: k,
        inner: 1,
        each: 32,
        by_block: true,
    };
    for kind in [Kind::U4, Kind::I8] {
        let bytes: Vec<u8> = (0..kind.bytes(n * k)).map(|i| (i * 37 % 251) as u8).collect();
        let weight = Arc::new(Packed::new(kind, n * k, bytes, Some(scales.clone())).unwrap());
        let widen = Widen { shape: [n, k].as_slice().into(), weight };
        for m in [1, 2, 5, 12] {
            check_narrow("mk,nk->mn", &[m, k], &[n, k], false, &[1, n], widen.clone());
        }
        check_narrow("amk,nk->amn", &[2, 3, k], &[n, k], false, &[1, 1, n], widen.clone());
        check_narrow("mk,nk->nm", &[3, k], &[n, k], false, &[n, 1], widen);
    }
}

/// A product with a narrow weight, a bias and a sum is that of the floats.
fn check_narrow(expr: &str, a: &[usize], b: &[usize], left: bool, bias: &[usize], widen: Widen) {
    let mut model = TypedModel::default();
    let x = model.add_source("x", f32::fact(if left { b } else { a })).unwrap();
    let w = model.wire_node("w", widen.clone(), &[]).unwrap()[0];
    let wired = |model: &mut TypedModel, w: OutletId| {
        let op = EinSum::new(expr.parse().unwrap(), f32::datum_type());
        let c = model.wire_node("c", op, &if left { [w, x] } else { [x, w] }).unwrap()[0];
        let bias = model.add_const("bias", values(bias, 5)).unwrap();
        let sum = model.wire_node("sum", math::add(), &[c, bias]).unwrap()[0];
        let other = model.add_source("other", f32::fact(model.outlet_fact(sum).unwrap().shape.clone())).unwrap();
        let y = model.wire_node("y", math::add(), &[sum, other]).unwrap();
        model.select_output_outlets(&y).unwrap();
    };
    let mut plain = model.clone();
    let weight = plain.add_const("floats", widen.tensor().unwrap()).unwrap();
    wired(&mut plain, weight);
    wired(&mut model, w);
    improve(&mut model, std::iter::empty()).unwrap();
    let product = model.eval_order().unwrap().into_iter().find_map(|id| model.node(id).op_as::<Product>()).unwrap();
    assert!(product.weight.is_some(), "{expr}");
    assert!(!model.eval_order().unwrap().iter().any(|id| model.node(*id).op_is::<Widen>()), "{expr}");
    let shape = |ix: usize| plain.input_fact(ix).unwrap().shape.as_concrete().unwrap().to_vec();
    let inputs: TVec<TValue> = (0..2).map(|i| values(&shape(i), i).into_tvalue()).collect();
    let run = |m: TypedModel| m.into_optimized().unwrap().into_runnable().unwrap().run(inputs.clone()).unwrap();
    run(model)[0].close_enough(&run(plain.clone())[0], Approximation::Approximate).unwrap();
}

#[test]
fn rows_of_a_narrow_table_are_looked_up() {
    let mut model = TypedModel::default();
    let table = narrow(&[50, 8]);
    let index = model.add_source("index", i64::fact([2, 3])).unwrap();
    let w = model.wire_node("w", table.clone(), &[]).unwrap()[0];
    let y = model.wire_node("y", Gather { axis: 0, output_type: None }, &[w, index]).unwrap();
    model.select_output_outlets(&y).unwrap();
    let plain = model.clone();
    improve(&mut model, std::iter::empty()).unwrap();
    assert!(model.eval_order().unwrap().iter().any(|id| model.node(*id).op.name() == "Lookup"));
    let run = |m: &TypedModel, rows: [i64; 6]| {
        let index = Tensor::from_shape(&[2, 3], &rows).unwrap();
        m.clone().into_optimized().unwrap().into_runnable().unwrap().run(tvec!(index.into_tvalue()))
    };
    let rows = [0, 49, 7, 7, -1, 3];
    assert_eq!(run(&model, rows).unwrap()[0], run(&plain, rows).unwrap()[0]);
    assert!(run(&model, [0, 50, 0, 0, 0, 0]).is_err() && run(&model, [-51, 0, 0, 0, 0, 0]).is_err());
}

/// `x` through a convolution, or a transposed one, whose kernel is behind `kernel` as an ONNX file stores it.
fn convolution(model: &mut TypedModel, x: &[usize], kernel: OutletId, transposed: bool, groups: usize, stride: usize) {
    let sizes = model.outlet_fact(kernel).unwrap().shape.as_concrete().unwrap().to_vec();
    let (taps, axes) = (TVec::from_slice(&sizes[2..]), sizes.len() - 2);
    let (input, output) = if transposed { (sizes[0], sizes[1] * groups) } else { (sizes[1] * groups, sizes[0]) };
    let padding = PaddingSpec::Explicit(tvec!(1; axes), tvec!(0; axes));
    let (dilations, strides) = (tvec!(if stride == 1 { 2 } else { 1 }; axes), tvec!(stride; axes));
    let spec = PoolSpec::new(DataFormat::NCHW, taps, padding, Some(dilations), Some(strides), input, output);
    let source = model.add_source("x", f32::fact(x)).unwrap();
    let bias = model.add_const("bias", values(&[output], 5)).unwrap();
    let y = if transposed {
        let split = AxisOp::Reshape(0, tvec!(input.to_dim()), tvec!(groups.to_dim(), (input / groups).to_dim()));
        let merge = AxisOp::Reshape(0, tvec!(groups.to_dim(), sizes[1].to_dim()), tvec!(output.to_dim()));
        let kernel = model.wire_node("split", split, &[kernel]).unwrap();
        let kernel = model.wire_node("reorder", AxisOp::Move(1, 2), &kernel).unwrap();
        let kernel = model.wire_node("merge", merge, &kernel).unwrap()[0];
        let op = Deconv::new(spec, KernelFormat::OIHW, tvec!(0; axes), groups);
        model.wire_node("y", op, &[source, kernel, bias]).unwrap()
    } else {
        model.wire_node("y", Conv::new(spec, KernelFormat::OIHW, groups, None), &[source, kernel, bias]).unwrap()
    };
    model.select_output_outlets(&y).unwrap();
}

/// With the channels at the end: they move to the front, and back.
#[test]
fn convolutions_of_a_batch_with_channels_last() {
    let spec = PoolSpec::new(
        DataFormat::NHWC,
        tvec!(3, 3),
        PaddingSpec::Explicit(tvec!(1, 1), tvec!(1, 1)),
        None,
        Some(tvec!(2, 1)),
        8,
        12,
    );
    let mut model = TypedModel::default();
    let source = model.add_source("x", f32::fact([4, 90, 100, 8])).unwrap();
    let kernel = model.add_const("w", values(&[12, 4, 3, 3], 1)).unwrap();
    let bias = model.add_const("b", values(&[12], 2)).unwrap();
    let y = model.wire_node("y", Conv::new(spec, KernelFormat::OIHW, 2, None), &[source, kernel, bias]).unwrap();
    model.select_output_outlets(&y).unwrap();
    let mut blocks = model.clone();
    improve(&mut blocks, std::iter::empty()).unwrap();
    assert!(blocks.nodes().iter().any(|n| n.op.name() == "Convolve"));
    let input = values(&[4, 90, 100, 8], 3).into_tvalue();
    let run = |m: TypedModel| m.into_optimized().unwrap().into_runnable().unwrap().run(tvec!(input.clone())).unwrap();
    run(blocks)[0].close_enough(&run(model)[0], Approximation::Approximate).unwrap();
}

#[test]
fn convolutions_read_narrow_kernels_panel_by_panel_and_lay_out_a_batch_block_by_block() {
    // In one part and in several, of positions, of images and of channels; kernels of one panel and of several.
    for (x, kernel, groups, stride) in [
        (&[2, 16, 9, 8][..], &[32, 16, 3, 3][..], 1, 1),
        (&[3, 16, 9, 8], &[34, 8, 3, 2], 2, 2),
        (&[1, 64, 40, 40], &[70, 64, 3, 3], 1, 1),
        (&[5, 128, 9, 9], &[80, 128, 3, 3], 1, 2),
        (&[2, 64, 30], &[80, 64, 5], 1, 1),
        (&[2, 32, 3000], &[16, 16, 15], 2, 2),
        (&[2, 8, 5, 6, 7], &[24, 8, 3, 2, 3], 1, 2),
        (&[2, 64, 7, 7], &[96, 64, 1, 1], 1, 2),
        (&[2, 20, 50, 51], &[8, 20, 31, 20], 1, 2),
        (&[5, 64, 24, 24], &[24, 64, 3, 3], 1, 1),
    ] {
        for transposed in [false, true] {
            let mut sizes = x.to_vec();
            if transposed {
                // As many channels as the kernel takes the other way.
                sizes[1] = kernel[0];
            }
            let mut model = TypedModel::default();
            let widen = narrow(kernel);
            let mut plain = model.clone();
            let w = model.wire_node("w", widen.clone(), &[]).unwrap()[0];
            convolution(&mut model, &sizes, w, transposed, groups, stride);
            let w = plain.add_const("w", widen.tensor().unwrap()).unwrap();
            convolution(&mut plain, &sizes, w, transposed, groups, stride);
            improve(&mut model, std::iter::empty()).unwrap();
            let holds = |m: &TypedModel, op: &str| m.eval_order().unwrap().iter().any(|id| m.node(*id).op.name() == op);
            assert!(holds(&model, "Convolve") && !holds(&model, "Widen"), "{x:?} {kernel:?} {transposed}");
            let input = values(&sizes, 3).into_tvalue();
            let run = |m: TypedModel| m.into_optimized().unwrap().into_runnable().unwrap().run(tvec!(input.clone()));
            let mut blocks = plain.clone();
            blocks.declutter().unwrap();
            improve(&mut blocks, std::iter::empty()).unwrap();
            // Large ones only; one image is gathered as it goes.
            let large = [&[2, 32, 3000][..], &[2, 20, 50, 51], &[5, 64, 24, 24]].contains(&x);
            assert_eq!(holds(&blocks, "Convolve"), large, "{x:?} {kernel:?} {transposed}");
            let (have, blocks, want) = (run(model).unwrap(), run(blocks).unwrap(), run(plain).unwrap());
            have[0].close_enough(&want[0], Approximation::Approximate).unwrap();
            blocks[0].close_enough(&want[0], Approximation::Approximate).unwrap();
        }
    }
}
