//! Gradients of parts of graphs.

use std::collections::HashMap;

use tract_core::internal::*;
use tract_core::ops::cnn::{Conv, Deconv, KernelFormat, PaddingSpec, PoolSpec};
use tract_core::ops::math;
use tract_core::ops::nn::DataFormat;

use crate::ops::im2col::ConvShape;
use crate::plan::lowering::improve;
use crate::plan::passing::Feed;
use crate::plan::train::{Differentiated, Made};
use crate::sites::{Geometry, LowRankBackward, Onto};

const MADE: Made = Made { fused: true, recomputed: false };
const CHANNELS: usize = 6;
const SIDES: [usize; 2] = [9, 8];

fn values(shape: &[usize], seed: usize) -> Tensor {
    let len = shape.iter().product();
    let values: Vec<f32> = (0..len).map(|i| ((i * 29 + seed * 7 + i / 5) % 23) as f32 * 0.1 - 1.1).collect();
    Tensor::from_shape(shape, &values).unwrap()
}

/// The gradient of `x` through a 3×3 depthwise convolution's delta and through a frozen one of `dilation`,
/// written as a transposed convolution or as the convolution that equals it at stride 1.
fn gradient(dilation: usize, transposed: bool) -> TypedModel {
    let shape = [2, CHANNELS, SIDES[0], SIDES[1]];
    let conv = ConvShape {
        batch: 2,
        input: CHANNELS,
        output: CHANNELS,
        groups: CHANNELS,
        in_size: [1, SIDES[0], SIDES[1]],
        out_size: [1, SIDES[0], SIDES[1]],
        kernel: [1, 3, 3],
        stride: [1; 3],
        dilation: [1; 3],
        pad_before: [0, 1, 1],
    };
    let mut model = TypedModel::default();
    let mut source = |name: &str, shape: &[usize]| model.add_source(name, f32::fact(shape)).unwrap();
    let (x, saved) = (source("x", &shape), source("saved", &[1]));
    let (a, b, dy) = (source("a", &[2, 1, 3, 3]), source("b", &[CHANNELS, 2]), source("dy", &shape));
    let spec = PoolSpec::new(
        DataFormat::NCHW,
        tvec!(3, 3),
        PaddingSpec::Explicit(tvec!(dilation, dilation), tvec!(dilation, dilation)),
        Some(tvec!(dilation, dilation)),
        None,
        CHANNELS,
        CHANNELS,
    );
    let w = model.add_const("w", values(&[CHANNELS, 1, 3, 3], 3)).unwrap();
    let bias = model.add_const("bias", Tensor::zero::<f32>(&[CHANNELS]).unwrap()).unwrap();
    let other = match transposed {
        true => {
            let op = Deconv::new(spec, KernelFormat::OIHW, tvec!(0, 0), CHANNELS);
            model.wire_node("other", op, &[dy, w, bias]).unwrap()
        }
        false => {
            let op = Conv::new(spec, KernelFormat::OIHW, CHANNELS, None);
            model.wire_node("other", op, &[dy, w, bias]).unwrap()
        }
    };
    let op = LowRankBackward {
        geometry: Geometry::Conv { shape: conv, rank: 2 },
        x_shape: shape.to_vec(),
        need_a: true,
        need_x: true,
        onto: Onto::Sum,
    };
    let out = model.wire_node("gradient", op, &[x, saved, a, b, dy, other[0]]).unwrap();
    model.select_output_outlets(&out).unwrap();
    model
}

#[test]
fn a_frozen_kernel_joins_the_delta_of_its_own_convolution_only() {
    for (dilation, transposed) in [(1, true), (1, false), (2, true), (2, false)] {
        let model = gradient(dilation, transposed);
        let mut improved = model.clone();
        improve(&mut improved, std::iter::empty()).unwrap();
        let joined = |n: &TypedNode| n.op_as::<LowRankBackward>().is_some_and(|op| op.onto == Onto::Kernel);
        assert_eq!(improved.nodes().iter().any(joined), dilation == 1, "dilation {dilation}, {transposed}");
        let inputs: TVec<TValue> = (0..model.inputs.len())
            .map(|ix| values(model.input_fact(ix).unwrap().shape.as_concrete().unwrap(), ix).into_tvalue())
            .collect();
        let run = |m: TypedModel| m.into_optimized().unwrap().into_runnable().unwrap().run(inputs.clone()).unwrap();
        for (want, have) in run(model).iter().zip(&run(improved)) {
            have.close_enough(want, Approximation::Approximate).unwrap();
        }
    }
}

/// Layers that read a mask, which no factor changes, a value of the first layer, and the one before; a result is given
/// early.
fn layers() -> TypedModel {
    let mut model = TypedModel::default();
    let mut source = |name: &str| model.add_source(name, f32::fact([6])).unwrap();
    let (x, a, b) = (source("x"), source("a"), source("b"));
    let mut wire = |name: String, op: tract_core::ops::binary::TypedBinOp, inputs: [OutletId; 2]| {
        model.wire_node(name, op, &inputs).unwrap()[0]
    };
    let mask = wire("mask".into(), math::mul(), [x, x]);
    let (mut y, mut first) = (x, None);
    for layer in 0..6 {
        y = wire(format!("scaled.{layer}"), math::mul(), [y, if layer == 4 { b } else { a }]);
        for inner in 0..4 {
            y = wire(format!("{layer}.{inner}"), math::mul(), [y, mask]);
        }
        y = wire(format!("masked.{layer}"), math::add(), [y, mask]);
        let skipped = *first.get_or_insert(y);
        if layer > 0 {
            y = wire(format!("skipped.{layer}"), math::add(), [y, skipped]);
        }
    }
    model.select_output_outlets(&[first.unwrap(), y]).unwrap();
    model
}

/// Results, and gradients of the factors, run as a worker runs them.
fn run(of: Differentiated, inputs: &[Tensor], factors: &[usize]) -> (Vec<Tensor>, Vec<Tensor>) {
    let plain = |model: TypedModel, inputs: TVec<TValue>| {
        model.into_optimized().unwrap().into_runnable().unwrap().run(inputs).unwrap()
    };
    let mut values: Vec<TValue> = inputs.iter().map(|t| t.clone().into_tvalue()).collect();
    let mut passes = vec![];
    for s in of.segments {
        let reads: TVec<TValue> = s.reads.iter().map(|v| values[*v].clone()).collect();
        let out = plain(s.forward, reads.clone());
        values.extend(out[..s.gives.1].iter().cloned());
        let pick = |feed: &Feed| match feed {
            Feed::Output(ix) => out[*ix].clone(),
            Feed::Input(ix) => reads[*ix].clone(),
        };
        let saved: Vec<TValue> = s.saved.iter().map(pick).collect();
        passes.push((s.backward, s.cotangents, s.gradients, saved));
    }
    let results = of.results.iter().map(|v| (*values[*v]).clone()).collect();
    let cotangent = vec![1.0f32, 0.5, -1.0, 2.0, 0.1, 3.0];
    let mut sums: HashMap<usize, Vec<f32>> = of.results.iter().map(|v| (*v, cotangent.clone())).collect();
    for (backward, cotangents, gradients, saved) in passes.into_iter().rev() {
        let Some(backward) = backward else { continue };
        let given = cotangents.iter().map(|v| tensor1(&sums.remove(v).unwrap()).into_tvalue());
        let inputs: TVec<TValue> = given.chain(saved).collect();
        for (value, gradient) in gradients.iter().zip(plain(backward, inputs)) {
            let sum = sums.entry(*value).or_insert_with(|| vec![0.0; 6]);
            sum.iter_mut().zip(crate::ops::floats(&gradient).unwrap()).for_each(|(s, g)| *s += g);
        }
    }
    (results, factors.iter().map(|f| tensor1(&sums[f])).collect())
}

#[test]
fn segments_give_the_gradients_of_the_whole_and_none_of_what_no_factor_changes() {
    let (model, factors) = (layers(), [1, 2]);
    let whole = Differentiated::whole(model.clone(), &factors, MADE).unwrap();
    let segments = Differentiated::in_segments(&model, &factors, MADE).unwrap();
    assert!(segments.segments.len() > 2, "{}", segments.segments.len());
    assert_eq!(segments.obstructed, [false, false]);
    // The first value that a segment gives.
    let mask = 3;
    assert!(segments.segments.iter().filter(|s| s.reads.contains(&mask)).count() > 1, "the mask crosses cuts");
    for s in &segments.segments {
        assert!(!s.gradients.contains(&mask) && !s.gradients.contains(&0), "{:?}", s.gradients);
    }
    let again = Made { recomputed: true, ..MADE };
    let kept = |d: &Differentiated| d.segments.iter().map(|s| s.saved.len()).sum::<usize>();
    let selected = Differentiated::whole(model.clone(), &factors, again).unwrap();
    assert!(kept(&selected) < kept(&whole), "{} of {}", kept(&selected), kept(&whole));
    let both = Differentiated::in_segments(&model, &factors, again).unwrap();
    let inputs = [values(&[6], 1), values(&[6], 2), values(&[6], 3)];
    let want = run(whole, &inputs, &factors);
    for other in [segments, selected, both] {
        let have = run(other, &inputs, &factors);
        for (want, have) in want.0.iter().chain(&want.1).zip(have.0.iter().chain(&have.1)) {
            have.close_enough(want, Approximation::Approximate).unwrap();
        }
    }
}
