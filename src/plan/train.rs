//! One training micro-batch: a forward plan that saves what the backward plan reads.

use std::sync::Arc;

use ndarray::{Array2, ArrayD};
use tract_core::internal::*;

use super::compiled::{Compiled, State};
use super::graph::{Deltas, Ends, adapted};
use super::{Batch, Factors, Outputs, Padding, array, footprint, frozen, lowering, tail_outputs, tape};
use crate::base::{Base, Bucket, guarded};
use crate::error::{Error, ErrorKind, Result};
use crate::grad::{Blocked, differentiate};
use crate::input::Example;
use crate::sites::Site;

/// Where an input of the backward plan comes from.
#[derive(Debug, Clone, Copy)]
enum Feed {
    Output(usize),
    Input(usize),
}

/// Cotangents of the outputs of one forward pass.
pub(crate) struct Cotangents {
    /// Shape of the features.
    pub features: ArrayD<f32>,
    /// Shape of the logits.
    pub logits: Option<Array2<f32>>,
}

/// Compiled plans for training at one bucket; shared by the workers.
pub(crate) struct TrainPlan {
    /// What no trained site changes, where that is worth a plan of its own.
    prefix: Option<Arc<Compiled>>,
    forward: Arc<Compiled>,
    backward: Arc<Compiled>,
    feed: Vec<Feed>,
    /// Number of leading outputs that are results; the rest is saved for the backward pass.
    ends: usize,
    logits: Option<usize>,
    /// Sites in plan order with their rank.
    pub sites: Vec<(Site, usize)>,
}

/// Result of taking gradients apart from compiling: which sites can be reached.
pub(crate) struct Reach {
    pub reachable: Vec<String>,
    pub blocked: Vec<Blocked>,
    /// Activations and gradients that one forward and backward pass holds at most at once.
    pub peak_bytes: u64,
}

struct Built {
    prefix: Option<TypedModel>,
    forward: TypedModel,
    backward: TypedModel,
    feed: Vec<Feed>,
    ends: usize,
    logits: Option<usize>,
    sites: Vec<(Site, usize)>,
    blocked: Vec<Blocked>,
    /// Of each trained factor, in order.
    obstructed: Vec<bool>,
    trains: Trains,
}

/// Of which factors gradients are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Trains {
    Both,
    /// `B` alone: `A` stays as it is.
    B,
}

impl Trains {
    /// Factors of a site that are trained.
    fn factors(self) -> usize {
        match self {
            Trains::Both => 2,
            Trains::B => 1,
        }
    }
}

/// How the plans are made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Of tract's operators alone where there is a choice: the reference.
    Composed,
    Fused,
    /// Fused, with what lies before the first trained site cut off.
    Split,
}

fn build(
    base: &Base,
    ends: Ends,
    bucket: &Bucket,
    sites: &[(String, usize)],
    trains: Trains,
    form: Form,
) -> Result<Built> {
    let graph = adapted(base, ends, bucket, &Deltas::Inputs(sites))?;
    let mut forward = graph.model;
    let what = format!("cannot differentiate {}", base.path().display());
    guarded(ErrorKind::UnsupportedModel, what, || {
        if form != Form::Composed {
            crate::ops::fuse(&mut forward)?;
        }
        let (mut prefix, mut own_inputs) = (None, graph.own_inputs);
        if form == Form::Split
            && let Some(split) = frozen::split(&forward, own_inputs)?
        {
            (prefix, forward, own_inputs) = (Some(split.prefix), split.suffix, split.passed);
        }
        let skipped = 2 - trains.factors();
        let wrt: Vec<OutletId> = forward.inputs[own_inputs + skipped..].iter().step_by(1 + skipped).copied().collect();
        let ends = forward.outputs.clone();
        let mut back = differentiate(&forward, &ends, &wrt, form != Form::Composed)?;
        if form != Form::Composed {
            tape::compress(&mut forward, &mut back.model, &mut back.saved)?;
        }
        let mut feed = vec![];
        for outlet in &back.saved {
            if let Some(ix) = forward.inputs.iter().position(|i| i == outlet) {
                feed.push(Feed::Input(ix));
                continue;
            }
            let ix = forward.outputs.iter().position(|o| o == outlet).unwrap_or_else(|| {
                forward.outputs.push(*outlet);
                forward.outputs.len() - 1
            });
            feed.push(Feed::Output(ix));
        }
        let mut backward = back.model;
        backward.declutter()?;
        Ok(Built {
            prefix,
            forward,
            backward,
            feed,
            ends: ends.len(),
            logits: graph.logits,
            sites: graph.sites,
            blocked: back.blocked,
            obstructed: back.obstructed,
            trains,
        })
    })
}

impl TrainPlan {
    /// Differentiates without compiling: which of `sites` a gradient reaches, and what stands in the way of the others.
    pub fn reach(base: &Base, ends: Ends, bucket: &Bucket, sites: &[(String, usize)]) -> Result<Reach> {
        let mut built = build(base, ends, bucket, sites, Trains::Both, Form::Split)?;
        let names =
            built.sites.iter().enumerate().filter(|(i, _)| !built.obstructed[2 * i]).map(|(_, (s, _))| s.name.clone());
        let reachable = names.collect();
        let peak_bytes = guarded(ErrorKind::Internal, "cannot order the plans", || {
            // The batch is held to the end, whether the backward plan reads it or not.
            let batch = built.forward.inputs.len() - 2 * built.sites.len();
            let read = |ix: &usize| built.feed.iter().any(|f| matches!(f, Feed::Input(at) if at == ix));
            let unread = (0..batch).filter(|ix| !read(ix)).map(|ix| built.forward.input_fact(ix).map(footprint::bytes));
            let beside = unread.sum::<TractResult<u64>>()?;
            let peak = |model: &mut TypedModel| {
                lowering::improve(model, base.weights())?;
                footprint::peak(model)
            };
            let prefix = built.prefix.as_mut().map(peak).transpose()?.unwrap_or(0);
            Ok(prefix.max(peak(&mut built.forward)?).max(peak(&mut built.backward)? + beside))
        })?;
        Ok(Reach { reachable, blocked: built.blocked, peak_bytes })
    }

    /// [`TrainPlan::of_factors`] for both factors.
    pub fn new(base: &Base, ends: Ends, bucket: &Bucket, sites: &[(String, usize)], fused: bool) -> Result<TrainPlan> {
        TrainPlan::of_factors(base, ends, bucket, sites, Trains::Both, fused)
    }

    /// Compiles the plans for `sites`; `fused` chooses the fused backward operators (the composed ones are the
    /// reference).
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedModel`] naming the first node between a site and the output that has no gradient.
    pub fn of_factors(
        base: &Base,
        ends: Ends,
        bucket: &Bucket,
        sites: &[(String, usize)],
        trains: Trains,
        fused: bool,
    ) -> Result<TrainPlan> {
        let form = if fused { Form::Split } else { Form::Composed };
        let plan = TrainPlan::of(base, build(base, ends, bucket, sites, trains, form)?)?;
        if plan.prefix_is_by_rows(base, bucket).unwrap_or(false) {
            return Ok(plan);
        }
        TrainPlan::of(base, build(base, ends, bucket, sites, trains, Form::Fused)?)
    }

    fn of(base: &Base, built: Built) -> Result<TrainPlan> {
        if let Some(at) = built.obstructed.iter().position(|o| *o) {
            let site = &built.sites[at / built.trains.factors()].0.name;
            let first = built.blocked.first();
            let place = first.map_or_else(String::new, |b| format!("{} ({})", b.node, b.op));
            let reason = first.map_or_else(String::new, |b| b.reason.clone());
            return Err(Error::unsupported(format!("no gradient reaches the site {site}"))
                .at(place)
                .because(reason)
                .hint("sites after that node still train: choose them with --sites, or leave the choice to `acclimate init`"));
        }
        Ok(TrainPlan {
            prefix: built.prefix.map(|p| Compiled::new(base, p, "frozen")).transpose()?,
            forward: Compiled::new(base, built.forward, "training forward")?,
            backward: Compiled::new(base, built.backward, "backward")?,
            feed: built.feed,
            ends: built.ends,
            logits: built.logits,
            sites: built.sites,
        })
    }

    /// Bytes of weights that are laid out for these plans alone.
    pub fn bytes(&self) -> u64 {
        self.prefix.iter().chain([&self.forward, &self.backward]).map(|plan| plan.bytes()).sum()
    }

    /// Whether part of the forward pass is the same in every epoch (see [`Worker::enter`]).
    pub fn is_split(&self) -> bool {
        self.prefix.is_some()
    }

    /// Whether what the prefix computes belongs to the examples of a batch one by one, bit for bit, tried on random
    /// ones: a model may mix or transpose its batch.
    fn prefix_is_by_rows(&self, base: &Base, bucket: &Bucket) -> Result<bool> {
        let Some(prefix) = &self.prefix else { return Ok(true) };
        let (mut examples, others) = (base.random_examples(bucket, 0)?, base.random_examples(bucket, 1)?);
        let run = |examples: &[Example]| {
            let batch = Batch::new(base, bucket, &examples.iter().collect::<Vec<_>>(), Padding::Exact)?;
            guarded(ErrorKind::Internal, "the frozen pass failed", || prefix.state()?.run(batch.tensors.into()))
        };
        let values = run(&examples)?;
        // All but the last in the next place, beside another one.
        examples.rotate_right(1);
        if let (Some(first), Some(other)) = (examples.first_mut(), others.into_iter().next()) {
            *first = other;
        }
        Ok(frozen::are_rows(&values, &run(&examples)?, examples.len()))
    }

    /// A worker with its own run states; one a thread.
    pub fn worker(self: &Arc<Self>) -> Result<Worker> {
        guarded(ErrorKind::Internal, "cannot start a worker", || {
            let prefix = self.prefix.as_ref().map(Compiled::state).transpose()?;
            Ok(Worker { prefix, forward: self.forward.state()?, backward: self.backward.state()?, plan: self.clone() })
        })
    }
}

/// Runs micro-batches on one thread.
pub(crate) struct Worker {
    plan: Arc<TrainPlan>,
    prefix: Option<State>,
    forward: State,
    backward: State,
}

/// What a forward pass left for its backward one.
pub(crate) struct Tape {
    saved: Vec<TValue>,
}

impl Worker {
    /// Whether part of the forward pass is the same in every epoch.
    pub fn is_split(&self) -> bool {
        self.plan.is_split()
    }

    /// What enters the trained part of the model: the values of a frozen prefix, or the batch itself. Each row depends
    /// on its example alone, so that it may be kept and put into other batches.
    pub fn enter(&mut self, batch: Batch) -> Result<Batch> {
        let Some(prefix) = &mut self.prefix else { return Ok(batch) };
        let values =
            guarded(ErrorKind::Internal, "the frozen pass failed", || prefix.run(batch.tensors.into_iter().collect()))?;
        Ok(Batch { tensors: values.into_vec(), mask: batch.mask })
    }

    /// Forward pass of one micro-batch that has entered.
    pub fn forward(&mut self, batch: &Batch, factors: &Factors) -> Result<(Outputs, Tape)> {
        let (values, tape) = self.forward_all(batch, factors)?;
        Ok((tail_outputs(values, self.plan.logits)?, tape))
    }

    /// [`Worker::forward`], with the outputs as they are.
    pub fn forward_all(&mut self, batch: &Batch, factors: &Factors) -> Result<(Vec<ArrayD<f32>>, Tape)> {
        let plan = &self.plan;
        guarded(ErrorKind::Internal, "the forward pass failed", || {
            let inputs: TVec<TValue> = batch.tensors.iter().chain(&factors.0).cloned().collect();
            let values = self.forward.run(inputs.clone())?;
            let ends = values[..plan.ends].iter().map(array).collect::<TractResult<_>>()?;
            let pick = |f: &Feed| match f {
                Feed::Output(ix) => values[*ix].clone(),
                Feed::Input(ix) => inputs[*ix].clone(),
            };
            Ok((ends, Tape { saved: plan.feed.iter().map(pick).collect() }))
        })
    }

    /// Gradients of `A` and `s·B` of every site, or of `s·B` alone, in plan order, from the cotangents of the outputs.
    pub fn backward(&mut self, tape: Tape, cotangents: Cotangents) -> Result<Vec<Vec<f32>>> {
        let features = cotangents.features;
        match (cotangents.logits, self.plan.logits) {
            // The features are the logits: one output carries both cotangents.
            (Some(l), Some(0)) => {
                let odd = || Error::internal("the cotangents of logits and features differ in size");
                let l = l.into_dyn().into_shape_with_order(features.shape()).map_err(|_| odd())?;
                self.backward_all(tape, vec![features + l])
            }
            (Some(l), Some(_)) => self.backward_all(tape, vec![features, l.into_dyn()]),
            _ => self.backward_all(tape, vec![features]),
        }
    }

    /// [`Worker::backward`], with one cotangent an output.
    pub fn backward_all(&mut self, tape: Tape, cotangents: Vec<ArrayD<f32>>) -> Result<Vec<Vec<f32>>> {
        let plan = &self.plan;
        guarded(ErrorKind::Internal, "the backward pass failed", || {
            ensure!(cotangents.len() == plan.ends, "{} cotangents for {} outputs", cotangents.len(), plan.ends);
            let mut inputs: TVec<TValue> = tvec!();
            for (ix, c) in cotangents.into_iter().enumerate() {
                let shape = self.backward.input_shape(ix)?;
                inputs.push(c.into_tensor().into_shape(&shape)?.into_tvalue());
            }
            inputs.extend(tape.saved);
            let values = self.backward.run(inputs)?;
            values.into_iter().map(|v| Ok(crate::ops::floats(&v)?.to_vec())).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use tract_core::internal::*;
    use tract_core::ops::cnn::{Conv, Deconv, KernelFormat, PaddingSpec, PoolSpec};
    use tract_core::ops::nn::DataFormat;

    use crate::ops::im2col::ConvShape;
    use crate::plan::lowering::improve;
    use crate::sites::{Geometry, LowRankBackward, Onto};

    const CHANNELS: usize = 6;
    const SIDES: [usize; 2] = [9, 8];

    fn values(shape: &[usize], seed: usize) -> Tensor {
        let len = shape.iter().product();
        let values: Vec<f32> = (0..len).map(|i| ((i * 29 + seed * 7 + i / 5) % 23) as f32 * 0.1 - 1.1).collect();
        Tensor::from_shape(shape, &values).unwrap()
    }

    /// The gradient of `x` through a 3×3 depthwise convolution's delta and through a frozen one of `dilation`, written
    /// as a transposed convolution or as the convolution that equals it at stride 1.
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
}
