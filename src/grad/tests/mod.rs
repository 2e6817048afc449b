//! Every rule against central differences of the forward graph, in dot-product form: along a random direction `v` of one
//! input, `(<c, f(x + hv)> - <c, f(x - hv)>) / 2h` must equal `<gradient, v>`. Fused and composed operators both.

use super::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tract_core::ops::array::{MultiBroadcastTo, Pad, PadMode, Slice, TypedConcat};
use tract_core::ops::cnn::{Conv, Deconv, KernelFormat, MaxPool, PaddingSpec, PoolSpec, SumPool};
use tract_core::ops::downsample::Downsample;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::logic::Iff;
use tract_core::ops::math;
use tract_core::ops::nn::{self, DataFormat, Reduce, Reducer, RmsNorm, Softmax, SoftmaxKind};

mod forms;
mod fourier;
mod index;
mod nodes;
mod recurrent;
mod resize;
mod saturated;

type Build<'a> = &'a dyn Fn(&mut TypedModel, &[OutletId]) -> TractResult<OutletId>;

/// Small enough that no two random values change places (the kinks of max and clip), large enough for single precision.
const STEP: f32 = 5e-4;

fn random(shape: &[usize], low: f32, high: f32, seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(low..high)).collect();
    Tensor::from_shape(shape, &values).unwrap()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (crate::ops::floats(a).unwrap(), crate::ops::floats(b).unwrap());
    a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum()
}

fn moved(x: &Tensor, v: &Tensor, h: f32) -> Tensor {
    let (xs, vs) = (crate::ops::floats(x).unwrap(), crate::ops::floats(v).unwrap());
    let values: Vec<f32> = xs.iter().zip(vs).map(|(x, v)| x + h * v).collect();
    Tensor::from_shape(x.shape(), &values).unwrap()
}

fn run(model: &TypedModel, inputs: Vec<Tensor>) -> TVec<TValue> {
    let plan = model.clone().into_optimized().unwrap().into_runnable().unwrap();
    plan.run(inputs.into_iter().map(|t| t.into_tvalue()).collect()).unwrap()
}

/// Checks the gradient of every input of the graph that `build` makes, with values between `low` and `high`.
fn check_in(name: &str, shapes: &[&[usize]], low: f32, high: f32, build: Build) {
    for fused in [false, true] {
        let mut model = TypedModel::default();
        let sources: Vec<OutletId> =
            shapes.iter().enumerate().map(|(i, s)| model.add_source(format!("x{i}"), f32::fact(*s)).unwrap()).collect();
        let out = build(&mut model, &sources).unwrap();
        model.select_output_outlets(&[out]).unwrap();
        let back = differentiate(&model, &[out], &sources, fused).unwrap();
        assert!(back.blocked.is_empty(), "{name}: {:?}", back.blocked);
        let xs: Vec<Tensor> = shapes.iter().enumerate().map(|(i, s)| random(s, low, high, i as u64)).collect();
        let out_shape = model.outlet_fact(out).unwrap().shape.as_concrete().unwrap().to_vec();
        let cotangent = random(&out_shape, -1.0, 1.0, 77);
        let mut tapped = model.clone();
        tapped.outputs.extend(&back.saved);
        let taps = run(&tapped, xs.clone());
        let mut inputs = vec![cotangent.clone()];
        inputs.extend(taps[1..].iter().map(|t| t.clone().into_tensor()));
        let grads = run(&back.model, inputs);
        for (slot, (x, grad)) in xs.iter().zip(&grads).enumerate() {
            assert_eq!(x.shape(), grad.shape(), "{name} input {slot}");
            let v = random(x.shape(), -1.0, 1.0, 1000 + slot as u64);
            let at = |h: f32| {
                let mut inputs = xs.clone();
                inputs[slot] = moved(x, &v, h);
                dot(&run(&model, inputs)[0], &cotangent)
            };
            let (slope, expected) = ((at(STEP) - at(-STEP)) / (2.0 * STEP as f64), dot(grad, &v));
            let scale = 1.0 + slope.abs().max(expected.abs());
            assert!(
                (slope - expected).abs() < 1e-2 * scale,
                "{name} (fused {fused}) input {slot}: finite difference {slope}, gradient {expected}"
            );
        }
    }
}

fn check(name: &str, shapes: &[&[usize]], build: Build) {
    check_in(name, shapes, -1.0, 1.0, build);
}

fn wire(m: &mut TypedModel, op: impl Into<Box<dyn TypedOp>>, inputs: &[OutletId]) -> TractResult<OutletId> {
    Ok(m.wire_node("op", op, inputs)?[0])
}

#[test]
fn remainders() {
    // 5.05 to 5.2 by 2.05 to 2.2, and by the same less than 0: no whole number between the quotients.
    for sign in [1f32, -1.0] {
        check_in("rem", &[&[2, 3], &[1, 3]], 0.5, 2.0, &|m, x| {
            let (tenth, five) = (m.add_const("k", tensor2(&[[0.1f32]]))?, m.add_const("five", tensor2(&[[5f32]]))?);
            let (signed, two) =
                (m.add_const("s", tensor2(&[[0.1 * sign]]))?, m.add_const("two", tensor2(&[[2.0 * sign]]))?);
            let a = m.wire_node("a", math::mul(), &[x[0], tenth])?[0];
            let a = m.wire_node("a5", math::add(), &[a, five])?[0];
            let b = m.wire_node("b", math::mul(), &[x[1], signed])?[0];
            let b = m.wire_node("b2", math::add(), &[b, two])?[0];
            wire(m, math::rem(), &[a, b])
        });
    }
}

#[test]
fn binary_with_every_broadcast() {
    let shapes: [[&[usize]; 2]; 4] =
        [[&[2, 3], &[2, 3]], [&[2, 3], &[1, 3]], [&[2, 1], &[2, 3]], [&[2, 1, 4], &[1, 3, 1]]];
    for s in shapes {
        check("add", &s, &|m, x| wire(m, math::add(), x));
        check("sub", &s, &|m, x| wire(m, math::sub(), x));
        check("mul", &s, &|m, x| wire(m, math::mul(), x));
        check_in("div", &s, 0.5, 2.0, &|m, x| wire(m, math::div(), x));
        check_in("pow", &s, 0.5, 2.0, &|m, x| wire(m, math::pow(), x));
        check("max", &s, &|m, x| wire(m, math::max(), x));
        check("min", &s, &|m, x| wire(m, math::min(), x));
    }
}

#[test]
fn a_value_used_twice_gets_both_gradients() {
    check("x·x", &[&[3, 4]], &|m, x| wire(m, math::mul(), &[x[0], x[0]]));
    check("x + sum x", &[&[3, 4]], &|m, x| {
        let total = m.wire_node("sum", Reduce::new(tvec!(1), Reducer::Sum), &[x[0]])?[0];
        wire(m, math::add(), &[x[0], total])
    });
    // A sum of a sum stays collapsed along the way and must still be counted once a copy.
    check("mean of a broadcast", &[&[3, 1], &[3, 4]], &|m, x| {
        let wide = m.wire_node("wide", math::add(), x)?[0];
        wire(m, Reduce::new(tvec!(1), Reducer::Sum), &[wide])
    });
}

#[test]
fn clips_against_constants() {
    for (bound, name) in [(0.0f32, "relu"), (0.4, "clip")] {
        let konst = move |m: &mut TypedModel| m.add_const("k", tensor2(&[[bound]]));
        check(name, &[&[3, 5]], &|m, x| {
            let k = konst(m)?;
            wire(m, math::max(), &[x[0], k])
        });
        check(name, &[&[3, 5]], &|m, x| {
            let k = konst(m)?;
            wire(m, math::min(), &[k, x[0]])
        });
    }
}

#[test]
fn elementwise() {
    check("exp", &[&[3, 4]], &|m, x| wire(m, math::exp(), x));
    check_in("ln", &[&[3, 4]], 0.5, 2.0, &|m, x| wire(m, math::ln(), x));
    check_in("sqrt", &[&[3, 4]], 0.5, 2.0, &|m, x| wire(m, math::sqrt(), x));
    check_in("rsqrt", &[&[3, 4]], 0.5, 2.0, &|m, x| wire(m, math::rsqrt(), x));
    check_in("recip", &[&[3, 4]], 0.5, 2.0, &|m, x| wire(m, math::recip(), x));
    check("square", &[&[3, 4]], &|m, x| wire(m, math::square(), x));
    check("abs", &[&[3, 4]], &|m, x| wire(m, math::abs(), x));
    check("sin", &[&[3, 4]], &|m, x| wire(m, math::sin(), x));
    check("cos", &[&[3, 4]], &|m, x| wire(m, math::cos(), x));
    check("tanh", &[&[3, 4]], &|m, x| wire(m, math::tanh(), x));
    check("erf", &[&[3, 4]], &|m, x| wire(m, math::erf(), x));
    check("neg", &[&[3, 4]], &|m, x| wire(m, math::neg(), x));
    check("tan", &[&[3, 4]], &|m, x| wire(m, math::tan(), x));
    check_in("asin", &[&[3, 4]], -0.8, 0.8, &|m, x| wire(m, math::asin(), x));
    check_in("acos", &[&[3, 4]], -0.8, 0.8, &|m, x| wire(m, math::acos(), x));
    check("atan", &[&[3, 4]], &|m, x| wire(m, math::atan(), x));
    check("sinh", &[&[3, 4]], &|m, x| wire(m, math::sinh(), x));
    check("cosh", &[&[3, 4]], &|m, x| wire(m, math::cosh(), x));
    check("asinh", &[&[3, 4]], &|m, x| wire(m, math::asinh(), x));
    check_in("acosh", &[&[3, 4]], 1.5, 3.0, &|m, x| wire(m, math::acosh(), x));
    check_in("atanh", &[&[3, 4]], -0.8, 0.8, &|m, x| wire(m, math::atanh(), x));
    check_in("pow_const", &[&[3, 4]], 0.5, 2.0, &|m, x| wire(m, math::pow_const(2.5), x));
}

#[test]
fn activations() {
    let s: &[&[usize]] = &[&[2, 3, 8]];
    check_in("sigmoid", s, -3.0, 3.0, &|m, x| wire(m, nn::sigmoid(), x));
    check_in("hard_swish", s, -4.0, 4.0, &|m, x| wire(m, nn::hard_swish(), x));
    check_in("leaky_relu", s, -2.0, 2.0, &|m, x| wire(m, nn::leaky_relu(0.1), x));
    check_in("softplus", s, -3.0, 3.0, &|m, x| wire(m, crate::ops::softplus(), x));
    check_in("mish", s, -3.0, 3.0, &|m, x| wire(m, crate::ops::mish(), x));
    check_in("silu", s, -3.0, 3.0, &|m, x| wire(m, nn::silu::silu(), x));
    check_in("gelu", s, -3.0, 3.0, &|m, x| wire(m, nn::gelu_exact::gelu_exact(), x));
    check_in("gelu_approximate", s, -3.0, 3.0, &|m, x| wire(m, nn::gelu_approximate::gelu_approximate(false), x));
    for axes in [tvec!(2), tvec!(1), tvec!(1, 2)] {
        for kind in [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax] {
            check_in("softmax", s, -2.0, 2.0, &|m, x| wire(m, Softmax::new(axes.clone(), None, kind), x));
        }
    }
}

#[test]
fn norms_and_reductions() {
    for axis in [0, 1, 2] {
        let op = RmsNorm { axis, eps: rctensor0(1e-3f32) };
        check("rms_norm", &[&[2, 3, 8]], &|m, x| wire(m, op.clone(), x));
    }
    for reducer in [Reducer::Sum, Reducer::MeanOfSquares, Reducer::Max, Reducer::Min, Reducer::Prod] {
        for axes in [tvec!(1), tvec!(0, 2)] {
            check("reduce", &[&[2, 3, 4]], &|m, x| wire(m, Reduce::new(axes.clone(), reducer), x));
        }
    }
}

#[test]
fn products_in_every_orientation() {
    for (expr, shapes) in [
        ("mk,kn->mn", [&[3, 4][..], &[4, 5]]),
        ("mk,nk->mn", [&[3, 4], &[5, 4]]),
        ("km,kn->nm", [&[4, 3], &[4, 5]]),
        ("bhik,bhjk->bhij", [&[2, 2, 3, 4], &[2, 2, 5, 4]]),
        ("bihd,bjhd->bhij", [&[2, 3, 2, 4], &[2, 5, 2, 4]]),
        ("bsi,bio->bso", [&[2, 3, 4], &[1, 4, 5]]),
    ] {
        check(expr, &shapes, &|m, x| wire(m, EinSum::new(expr.parse()?, f32::datum_type()), x));
    }
    for (expr, shapes) in [
        ("abc->ca", &[&[2usize, 3, 4][..]][..]),
        ("abc->b", &[&[2, 3, 4]]),
        ("ab,bc,cd->ad", &[&[2, 3], &[3, 4], &[4, 5]]),
        ("ab,cb,ad->acd", &[&[2, 3], &[4, 3], &[2, 5]]),
    ] {
        check(expr, shapes, &|m, x| wire(m, EinSum::new(expr.parse()?, f32::datum_type()), x));
    }
}

#[test]
fn layout() {
    let s: &[&[usize]] = &[&[2, 3, 4]];
    check("add axis", s, &|m, x| wire(m, AxisOp::Add(1), x));
    check("rm axis", &[&[2, 1, 4]], &|m, x| wire(m, AxisOp::Rm(1), x));
    check("move", s, &|m, x| wire(m, AxisOp::Move(0, 2), x));
    check("reshape", s, &|m, x| wire(m, AxisOp::Reshape(1, tvec!(3.to_dim(), 4.to_dim()), tvec!(12.to_dim())), x));
    check("slice", s, &|m, x| wire(m, Slice::new(2, 1, 3), x));
    check("concat", &[&[2, 3], &[2, 1], &[2, 2]], &|m, x| wire(m, TypedConcat { axis: 1 }, x));
    let pads = vec![(0, 0), (1, 2), (0, 1)];
    for mode in [PadMode::Constant(rctensor0(0f32)), PadMode::Edge, PadMode::Reflect] {
        check("pad", s, &|m, x| wire(m, Pad::new(pads.clone(), mode.clone()), x));
    }
    check("broadcast", &[&[2, 1, 4]], &|m, x| {
        wire(m, MultiBroadcastTo { shape: ShapeFact::from_dims([2.to_dim(), 3.to_dim(), 4.to_dim()]) }, x)
    });
    check("broadcast with a new axis", &[&[1, 4]], &|m, x| {
        wire(m, MultiBroadcastTo { shape: ShapeFact::from_dims([2.to_dim(), 3.to_dim(), 4.to_dim()]) }, x)
    });
    check("held", &[&[2, 7]], &|m, x| {
        let held = m.wire_node("hold", crate::ops::Hold, x)?;
        wire(m, Downsample { axis: 1, stride: 2, modulo: 1 }, &held)
    });
    check("downsample", &[&[2, 7]], &|m, x| wire(m, Downsample { axis: 1, stride: 2, modulo: 1 }, x));
    for stride in [-1, -2, -3, -7, -9] {
        check("backwards", &[&[2, 7, 3]], &|m, x| wire(m, Downsample { axis: 1, stride, modulo: 0 }, x));
    }
    check("iff", &[&[2, 3], &[1, 3]], &|m, x| {
        let condition = m.add_const("condition", tensor2(&[[true, false, true], [false, false, true]]))?;
        wire(m, Iff, &[condition, x[0], x[1]])
    });
}

fn conv_case(
    format: DataFormat,
    hw: &[usize],
    kernel: &[usize],
    strides: &[usize],
    dilations: &[usize],
    pads: (&[usize], &[usize]),
    channels: (usize, usize, usize),
) {
    let (ci, co, groups) = channels;
    let padding = PaddingSpec::Explicit(pads.0.into(), pads.1.into());
    let spec = PoolSpec::new(format, kernel.into(), padding, Some(dilations.into()), Some(strides.into()), ci, co);
    let mut shape: Vec<usize> = if format.has_n() { vec![2] } else { vec![] };
    shape.extend(hw);
    shape.insert(if format.c_is_last() { shape.len() } else { shape.len() - hw.len() }, ci);
    let weight = random(&[&[co, ci / groups][..], kernel].concat(), -1.0, 1.0, 5);
    let name = format!("conv {hw:?} k{kernel:?} s{strides:?} d{dilations:?} p{pads:?} c{channels:?} {format:?}");
    check(&name, &[&shape], &|m, x| {
        let w = m.add_const("w", weight.clone())?;
        let b = m.add_const("b", Tensor::zero::<f32>(&[co])?)?;
        wire(m, Conv::new(spec.clone(), KernelFormat::OIHW, groups, None), &[x[0], w, b])
    });
}

#[test]
fn frozen_convolutions() {
    use DataFormat::{CHW, HWC, NCHW, NHWC};
    for format in [NCHW, CHW, NHWC, HWC] {
        for channels in [(4, 6, 1), (4, 4, 4), (4, 8, 4), (4, 6, 2)] {
            conv_case(format, &[6, 7], &[3, 3], &[1, 1], &[1, 1], (&[1, 1], &[1, 1]), channels);
            conv_case(format, &[6, 7], &[3, 3], &[2, 2], &[1, 1], (&[1, 1], &[1, 1]), channels);
            conv_case(format, &[7, 6], &[3, 3], &[2, 2], &[1, 1], (&[0, 0], &[1, 1]), channels);
            conv_case(format, &[9, 9], &[3, 3], &[1, 1], &[2, 2], (&[2, 2], &[2, 2]), channels);
            conv_case(format, &[8, 8], &[1, 3], &[2, 1], &[1, 1], (&[0, 0], &[0, 2]), channels);
            conv_case(format, &[11], &[5], &[2], &[1], (&[2], &[2]), channels);
            conv_case(format, &[11], &[3], &[3], &[1], (&[0], &[0]), channels);
        }
    }
}

#[test]
fn transposed_convolutions() {
    for (hw, kernel, stride, dilation, pad, adjust, (ci, co, groups)) in [
        (&[4, 5][..], &[2, 2][..], 2, 1, 0, 0, (4, 3, 1)),
        (&[4, 5], &[3, 3], 2, 1, 1, 1, (4, 6, 1)),
        (&[4, 5], &[3, 3], 1, 2, 1, 0, (4, 6, 2)),
        (&[4, 5], &[3, 3], 2, 1, 1, 0, (4, 4, 4)),
        (&[7], &[4], 3, 1, 1, 2, (2, 5, 1)),
        (&[2, 3, 3], &[2, 2, 2], 2, 1, 0, 0, (4, 2, 1)),
    ] {
        let each = |v: usize| -> TVec<usize> { hw.iter().map(|_| v).collect() };
        let padding = PaddingSpec::Explicit(each(pad), each(pad));
        let format = DataFormat::NCHW;
        let spec = PoolSpec::new(format, kernel.into(), padding, Some(each(dilation)), Some(each(stride)), ci, co);
        let weight = random(&[&[co, ci / groups][..], kernel].concat(), -1.0, 1.0, 5);
        let shape = [&[2, ci][..], hw].concat();
        check(&format!("deconv {hw:?} k{kernel:?} s{stride} d{dilation} p{pad} a{adjust}"), &[&shape], &|m, x| {
            let w = m.add_const("w", weight.clone())?;
            let b = m.add_const("b", Tensor::zero::<f32>(&[co])?)?;
            wire(m, Deconv::new(spec.clone(), KernelFormat::OIHW, each(adjust), groups), &[x[0], w, b])
        });
    }
}

#[test]
fn pools() {
    for (hw, k, s, p) in
        [([6, 6], [2, 2], [2, 2], [0, 0]), ([7, 6], [3, 3], [2, 2], [1, 1]), ([5, 5], [3, 3], [1, 1], [1, 1])]
    {
        for format in [DataFormat::NCHW, DataFormat::CHW] {
            let (k, s, p): (TVec<usize>, TVec<usize>, TVec<usize>) = (k[..].into(), s[..].into(), p[..].into());
            let padding = PaddingSpec::Explicit(p.clone(), p);
            let spec = PoolSpec::new(format, k, padding, None, Some(s), 3, 3);
            let shape: Vec<usize> = if format.has_n() { vec![2, 3, hw[0], hw[1]] } else { vec![3, hw[0], hw[1]] };
            check("max_pool", &[&shape], &|m, x| wire(m, MaxPool::new(spec.clone(), None), x));
            for (count_include_pad, normalize) in [(false, true), (true, true), (true, false)] {
                let op = SumPool { pool_spec: spec.clone(), count_include_pad, normalize };
                check("sum_pool", &[&shape], &|m, x| wire(m, op.clone(), x));
            }
        }
    }
}

/// A rounding has no slope that a difference would show: the gradient is that of the clip alone.
#[test]
fn quantisations_pass_straight_through_where_they_do_not_clip() {
    let mut m = TypedModel::default();
    let x = m.add_source("x", f32::fact([11])).unwrap();
    let op = crate::ops::Quantise { scale: 0.5, unit: 1.0, zero: 3.0, low: -3.499, high: 4.499, codes: false };
    let y = m.wire_node("y", op, &[x]).unwrap()[0];
    m.select_output_outlets(&[y]).unwrap();
    let back = differentiate(&m, &[y], &[x], true).unwrap();
    let values = tensor1(&[-9.0f32, -1.7, -1.5, -0.26, 0.0, 0.24, 0.26, 1.2, 2.2, 2.3, 80.0]);
    m.outputs.extend(&back.saved);
    let mask = run(&m, vec![values])[1].clone().into_tensor();
    let dy = tensor1(&[1f32; 11]);
    let dx = run(&back.model, vec![dy, mask]);
    let inside = [0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0].map(|b| 2.0 * b as f32);
    assert_eq!(crate::ops::floats(&dx[0]).unwrap(), inside);
}

#[test]
fn local_response_normalisation() {
    for size in [1, 2, 3, 5] {
        let op = tract_onnx_opl::lrn::Lrn { alpha: 0.9, beta: 0.75, bias: 1.5, size };
        check("lrn", &[&[2, 6, 3, 2]], &|m, x| wire(m, op.clone(), x));
    }
}

#[test]
fn an_operator_without_a_rule_blocks_only_what_lies_before_it() {
    let mut m = TypedModel::default();
    let (x, z) = (m.add_source("x", f32::fact([4])).unwrap(), m.add_source("z", f32::fact([4])).unwrap());
    let bad = nn::clamped_swiglu::ClampedSwiGlu { alpha: 1.0, limit: 7.0 };
    let bad = m.wire_node("bad", bad, &[x, x]).unwrap()[0];
    let out = m.wire_node("out", math::mul(), &[bad, z]).unwrap()[0];
    m.select_output_outlets(&[out]).unwrap();
    let back = differentiate(&m, &[out], &[x, z], true).unwrap();
    assert_eq!([0, 1].map(|ix| back.is_incomplete(ix)), [true, false]);
    assert_eq!((back.blocked[0].node.as_str(), back.blocked[0].op.as_str()), ("bad", "ClampedSwiGlu"));
}

/// ONNX's ceil mode: the last window runs past the padding, and an average does not count what it reads there.
#[test]
fn averages_of_windows_that_run_past_the_padding() {
    for (padding, size) in [(1, 12), (0, 12), (1, 7)] {
        for count_include_pad in [false, true] {
            let pads = tvec!(padding; 2);
            let padding = PaddingSpec::ExplicitOnnxPool(pads.clone(), pads, true);
            let pool_spec = PoolSpec::new(DataFormat::NCHW, tvec!(3, 3), padding, None, Some(tvec!(2, 2)), 2, 2);
            let op = SumPool { pool_spec, count_include_pad, normalize: true };
            check("average", &[&[1, 2, size, size]], &|m, x| wire(m, op.clone(), x));
        }
    }
}

/// A frozen product whose result is averaged: the gradient of every row is the same, whether the weight is right or left.
#[test]
fn frozen_products_before_a_mean() {
    for (expr, x, w, axis) in [("bmk,kn->bmn", [2, 5, 4], [4, 3], 1), ("oc,bcs->bos", [2, 4, 5], [3, 4], 2)] {
        check("product before a mean", &[&x], &|m, inputs| {
            let weight = m.add_const("w", random(&w, -1.0, 1.0, 3))?;
            let op = EinSum::new(expr.parse()?, f32::datum_type());
            let operands = if axis == 1 { [inputs[0], weight] } else { [weight, inputs[0]] };
            let y = m.wire_node("product", op, &operands)?;
            let y = m.wire_node("mean", Reduce::new(tvec!(axis), Reducer::Sum), &y)?;
            wire(m, math::tanh(), &y)
        });
    }
}

/// A root has no slope at 0; a norm of zeros passes nothing back.
#[test]
fn a_norm_of_zeros_passes_nothing_back() {
    let mut m = TypedModel::default();
    let x = m.add_source("x", f32::fact([2, 3])).unwrap();
    let square = m.wire_node("square", math::square(), &[x]).unwrap();
    let sum = m.wire_node("sum", Reduce::new(tvec!(1), Reducer::Sum), &square).unwrap();
    let y = m.wire_node("norm", math::sqrt(), &sum).unwrap()[0];
    m.select_output_outlets(&[y]).unwrap();
    let back = differentiate(&m, &[y], &[x], true).unwrap();
    m.outputs.extend(&back.saved);
    let values = run(&m, vec![Tensor::from_shape(&[2, 3], &[0f32, 0.0, 0.0, 3.0, 0.0, 4.0]).unwrap()]);
    let saved = values[1..].iter().map(|v| v.clone().into_tensor());
    let dx = run(&back.model, std::iter::once(Tensor::from_shape(&[2, 1], &[1f32; 2]).unwrap()).chain(saved).collect());
    assert_eq!(crate::ops::floats(&dx[0]).unwrap(), [0.0, 0.0, 0.0, 0.6, 0.0, 0.8]);
}
