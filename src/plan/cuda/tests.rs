//! What of this a machine without a GPU can show, and beside it, where there is one, the answers of both.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::ArrayD;
use tract_core::model::translator::Translate;
use tract_core::ops::cnn::conv::rewrite_kernel_conv_in_oihw;
use tract_core::ops::cnn::rewrite_conv_with_n_axis;
use tract_core::ops::einsum::prefix_matmul::rewrite_einsum_to_prefix_matmul;
use tract_cuda::CudaTransform;

use super::*;
use crate::adapter::SiteDelta;
use crate::base::{Base, Placement, Task, find_gpu};
use crate::error::Result;
use crate::input::Example;
use crate::plan::compiled::Compiled;
use crate::plan::graph::adapted;
use crate::plan::{Batch, Deltas, Ends, Factors, ForwardPlan, Keeps, Padding, TrainPlan, Trains};
use crate::sites::{Geometry, LowRank, LowRankBackward, Onto};
use crate::tools::gradcheck::{Options, random_deltas};

const MODELS: [&str; 3] = ["har_cnn.onnx", "digits_cnn.onnx", "intents_encoder.onnx"];
const BATCH: usize = 2;
const LENGTH: usize = 16;

fn open(name: &str) -> Base {
    Base::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)).unwrap()
}

/// Random deltas of all sites, and examples.
fn sample(base: &Base) -> (Vec<SiteDelta>, Vec<Example>) {
    let options = Options { batch: BATCH, sequence: LENGTH, rank: 3, ..Options::default() };
    let (mut deltas, _) = random_deltas(base, base.guess_task().unwrap_or(Task::Encoder), &options).unwrap();
    deltas.sort_by(|a, b| a.name.cmp(&b.name));
    (deltas, base.random_examples(&base.bucket(BATCH, LENGTH), 1).unwrap())
}

fn wanted(deltas: &[SiteDelta]) -> Vec<(String, usize)> {
    deltas.iter().map(|d| (d.name.clone(), d.rank as usize)).collect()
}

fn batch(base: &Base, examples: &[Example]) -> Batch {
    let rows: Vec<&Example> = examples.iter().collect();
    Batch::new(base, &base.bucket(BATCH, LENGTH), &rows, Padding::Exact).unwrap()
}

fn flat(arrays: &[ArrayD<f32>]) -> Vec<f32> {
    arrays.iter().flatten().copied().collect()
}

/// Answers of the base, with deltas beside it, and with deltas merged.
fn answers(base: &Base, deltas: &[SiteDelta], examples: &[Example]) -> Result<[Vec<f32>; 3]> {
    let (bucket, named) = (base.bucket(BATCH, LENGTH), wanted(deltas));
    let run = |ways: &Deltas, factors: &Factors| -> Result<Vec<f32>> {
        let plan = ForwardPlan::new(base, Ends::Model, &bucket, ways)?;
        Ok(flat(&plan.run_all(&batch(base, examples), factors)?))
    };
    let none = Factors::default();
    Ok([
        run(&Deltas::Inputs(&[]), &none)?,
        run(&Deltas::Inputs(&named), &Factors::of(deltas)?)?,
        run(&Deltas::Merged(deltas), &none)?,
    ])
}

/// Gradients of all factors, from cotangents that depend on nothing but their place.
fn gradients(base: &Base, deltas: &[SiteDelta], examples: &[Example]) -> Result<Vec<f32>> {
    let bucket = base.bucket(BATCH, LENGTH);
    let way = (Trains::Both, Keeps::Everything);
    let plan = TrainPlan::of_factors(base, Ends::Model, &bucket, &wanted(deltas), way, true)?;
    let mut worker = Arc::new(plan).worker()?;
    let entered = worker.enter(batch(base, examples))?;
    let (outputs, tape) = worker.forward_all(&entered, &Factors::of(deltas)?)?;
    let mut at = 0.0f32;
    let mut next = || {
        at += 0.7;
        at.sin()
    };
    let cotangents = outputs.iter().map(|o| ArrayD::from_shape_fn(o.raw_dim(), |_| next())).collect();
    Ok(worker.backward_all(tape, cotangents)?.concat())
}

/// How far `a` is from `b`, of the size of `b`.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut b.iter().map(|b| f64::from(*b)))
}

/// Answers and gradients of every bundled model, placed on the GPU, beside those of the processor.
fn compare(tolerance: f64, placed: impl Fn(&str, &Placement)) {
    for name in MODELS {
        let (cpu, gpu) = (open(name), open(name).on(Placement::on_a_gpu()));
        let (deltas, examples) = sample(&cpu);
        let on_cpu = answers(&cpu, &deltas, &examples).unwrap();
        let on_gpu = answers(&gpu, &deltas, &examples).unwrap();
        for (way, (on_gpu, on_cpu)) in ["base", "adapted", "merged"].iter().zip(on_gpu.iter().zip(&on_cpu)) {
            let error = apart(on_gpu, on_cpu);
            eprintln!("{name}, {way}: {error:.1e} apart");
            assert!(error <= tolerance, "{name}, {way}: {error:.1e} apart");
        }
        let [plain, adapted, _] = &on_cpu;
        assert!(apart(adapted, plain) > 10.0 * tolerance, "{name}: the deltas change next to nothing");
        let error = apart(&gradients(&gpu, &deltas, &examples).unwrap(), &gradients(&cpu, &deltas, &examples).unwrap());
        eprintln!("{name}, gradients: {error:.1e} apart");
        assert!(error <= tolerance, "{name}, gradients: {error:.1e} apart");
        assert!(cpu.placement().plans().is_empty());
        placed(name, gpu.placement());
    }
}

#[test]
fn without_a_gpu_the_processor_runs_each_plan_and_the_reason_is_kept() {
    if find_gpu().is_ok() {
        eprintln!("skipped: there is a GPU");
        return;
    }
    compare(1e-5, |name, placement| {
        let plans = placement.plans();
        let names: Vec<&str> = plans.iter().map(|p| p.plan).collect();
        assert!(names.contains(&"training forward") && names.contains(&"backward"), "{name}: {names:?}");
        assert_eq!(names.iter().filter(|n| **n == "forward").count(), 3, "{name}: {names:?}");
        for plan in plans {
            assert!(plan.refused.as_ref().is_some_and(|why| why.contains("CUDA")), "{name}: {plan:?}");
        }
    });
}

/// cuDNN multiplies the operands of convolutions with 10 bits (TF32) unless NVIDIA_TF32_OVERRIDE is 0.
#[test]
fn a_gpu_answers_and_trains_as_the_processor() {
    if let Err(none) = find_gpu() {
        eprintln!("skipped: no GPU: {}", none.why);
        return;
    }
    let exact = std::env::var("NVIDIA_TF32_OVERRIDE").is_ok_and(|v| v == "0");
    compare(if exact { 1e-4 } else { 5e-3 }, |name, placement| {
        for plan in placement.plans() {
            assert_eq!(plan.refused, None, "{name}");
            assert!(plan.on_gpu > 0, "{name}: {plan:?}");
        }
    });
}

/// The adapted graph of a model, as a plan for the GPU gets it.
fn graph(base: &Base, deltas: &[SiteDelta]) -> TypedModel {
    let bucket = base.bucket(BATCH, LENGTH);
    adapted(base, Ends::Model, &bucket, &Deltas::Inputs(&wanted(deltas))).unwrap().model
}

#[test]
fn operators_taken_apart_answer_as_before() {
    for name in MODELS {
        let base = open(name);
        let (deltas, examples) = sample(&base);
        let whole = graph(&base, &deltas);
        let mut apart_graph = whole.clone();
        of_runtime(&mut apart_graph).unwrap();
        let linear = |node: &&TypedNode| {
            node.op_as::<LowRank>().is_some_and(|op| matches!(op.geometry, Geometry::Linear { inner: 1, .. }))
        };
        let reached = |model: &TypedModel| {
            let order = model.eval_order().unwrap();
            order.into_iter().filter(|id| linear(&model.node(*id))).count()
        };
        assert!(reached(&whole) > 0 && reached(&apart_graph) == 0, "{name}");
        let factors = Factors::of(&deltas).unwrap();
        let run = |model: TypedModel| -> Vec<f32> {
            let inputs = batch(&base, &examples).tensors.into_iter().chain(factors.0.iter().cloned());
            let values = Compiled::on_cpu(&base, model, "forward").unwrap().state().unwrap().run(inputs.collect());
            values.unwrap().iter().flat_map(|v| crate::ops::floats(v).unwrap().to_vec()).collect()
        };
        let error = apart(&run(apart_graph), &run(whole));
        assert!(error < 1e-6, "{name}: {error:.1e} apart");
    }
}

#[test]
fn the_gradient_of_a_low_rank_product_taken_apart_is_the_same() {
    let (rows, input, output, rank) = (6, 5, 4, 2);
    let values = |shape: &[usize], seed: usize| {
        let len: usize = shape.iter().product();
        let values: Vec<f32> = (0..len).map(|i| ((i * 29 + seed * 7) % 23) as f32 * 0.1 - 1.1).collect();
        Tensor::from_shape(shape, &values).unwrap()
    };
    for (need_a, need_x) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut model = TypedModel::default();
        let shapes: [&[usize]; 5] = [&[2, 3, input], &[rows * rank], &[input, rank], &[rank, output], &[2, 3, output]];
        let names = ["x", "saved", "a", "b", "dy"];
        let sources: Vec<OutletId> =
            names.iter().zip(shapes).map(|(n, s)| model.add_source(*n, f32::fact(s)).unwrap()).collect();
        let geometry = Geometry::Linear { outer: rows, input, output, inner: 1, rank };
        let op = LowRankBackward { geometry, x_shape: shapes[0].to_vec(), need_a, need_x, onto: Onto::Nothing };
        let outputs = model.wire_node("backward", op, &sources).unwrap();
        model.select_output_outlets(&outputs).unwrap();
        let mut taken_apart = model.clone();
        of_runtime(&mut taken_apart).unwrap();
        let left = taken_apart.eval_order().unwrap();
        assert!(!left.into_iter().any(|id| taken_apart.node(id).op_is::<LowRankBackward>()));
        let inputs: TVec<TValue> = shapes.iter().enumerate().map(|(i, s)| values(s, i).into_tvalue()).collect();
        let run = |model: TypedModel| model.into_runnable().unwrap().run(inputs.clone()).unwrap();
        let (got, expected) = (run(taken_apart), run(model));
        assert_eq!(got.len(), 2 + usize::from(need_x));
        for (got, expected) in got.iter().zip(&expected) {
            assert_eq!(got.shape(), expected.shape());
            let (got, expected) = (crate::ops::floats(got).unwrap(), crate::ops::floats(expected).unwrap());
            // A gradient that is not needed is a zero.
            assert!(got == expected || apart(got, expected) < 1e-6, "{got:?} and {expected:?}");
        }
    }
}

#[test]
fn the_runtime_of_cuda_is_linked() {
    // Without a driver it is there, and says so.
    match runtime_for_name("cuda") {
        Ok(found) => assert!(found.is_some(), "it is not among the runtimes"),
        Err(e) => assert!(find_gpu().is_err() && format!("{e:#}").contains("CUDA"), "{e:#}"),
    }
}

/// Operators of `model` that the runtime's translators leave on the processor, by name. They are asked without a GPU:
/// constants, which would be copied to it, are inputs here.
fn left_on_cpu(mut model: TypedModel) -> BTreeMap<String, usize> {
    of_runtime(&mut model).unwrap();
    declutter(&mut model).unwrap();
    rewrite_einsum_to_prefix_matmul(&mut model, false).unwrap();
    let rules = Rewriter::default().with_rule_for("kernel", rewrite_kernel_conv_in_oihw);
    rules.with_rule_for("batch", rewrite_conv_with_n_axis).rewrite(&(), &mut model).unwrap();
    model.compact().unwrap();
    for id in 0..model.nodes().len() {
        if model.node(id).op_is::<Const>() {
            let fact = model.outlet_fact(id.into()).unwrap().without_value();
            model.set_outlet_fact(id.into(), fact.clone()).unwrap();
            model.node_mut(id).op = Box::new(TypedSource::new(fact));
            model.inputs.push(id.into());
        }
    }
    let translated = CudaTransform.translate_model(&model).unwrap();
    let mut left = BTreeMap::new();
    for node in translated.nodes() {
        if !is_on_gpu(node) && !node.op_is::<DeviceSync>() && !node.op_is::<TypedSource>() {
            *left.entry(node.op.name().into_owned()).or_default() += 1;
        }
    }
    left
}

/// No frozen product, convolution or GELU, and no low-rank product of a linear layer.
#[test]
fn the_layers_of_the_bundled_models_are_not_left_on_the_processor() {
    for name in MODELS {
        let base = open(name);
        let (deltas, _) = sample(&base);
        let left = [left_on_cpu(graph(&base, &[])), left_on_cpu(graph(&base, &deltas))];
        eprintln!("{name} leaves {left:?} on the processor");
        for product in ["EinSum", "MatMul", "Conv", "Gelu"] {
            assert!(left.iter().flat_map(BTreeMap::keys).all(|op| !op.contains(product)), "{name}: {left:?}");
        }
        let convolutions = deltas.iter().filter(|d| d.a.shape.len() > 2).count();
        assert!(left[1].get("LowRank").is_none_or(|n| *n <= convolutions), "{name}: {left:?}");
        assert_eq!(left[0].get("LowRank"), None, "{name}");
    }
}
