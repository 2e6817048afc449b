//! The plans of one training micro-batch: a forward plan that saves what the backward plan reads, or one of each for
//! every segment.

use std::collections::HashMap;
use std::sync::Arc;

use tract_core::internal::*;

use super::compiled::Compiled;
use super::declutter::declutter;
use super::graph::{Deltas, Ends, adapted, dependents};
use super::on_gpu::{fuse, is_fused};
use super::part::part;
use super::passing::{Feed, Plans, Segment};
use super::recompute::recompute;
use super::segments::segments;
use super::{Batch, Padding, footprint, frozen, tape};
use crate::base::{Base, Bucket, guarded};
use crate::error::{Error, ErrorKind, Result};
use crate::grad::{Backward, Blocked, differentiate};
use crate::input::Example;
use crate::ops::is_constant;
use crate::sites::Site;

/// Compiled plans for training; shared by the workers.
pub(crate) struct TrainPlan {
    pub(super) plans: Plans<Arc<Compiled>>,
    pub(super) logits: Option<usize>,
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
    plans: Plans<TypedModel>,
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

/// What is kept between a forward pass and its backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Keeps {
    /// All that the backward pass reads.
    #[default]
    Everything,
    /// Of that, what is not cheap to compute a second time.
    Selected,
    /// What enters each of several segments: gradient checkpointing. The rest is computed a second time.
    Checkpoints,
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
    (trains, keeps): (Trains, Keeps),
    form: Form,
) -> Result<Built> {
    let graph = adapted(base, ends, bucket, &Deltas::Inputs(sites))?;
    let mut model = graph.model;
    let what = format!("cannot differentiate {}", base.path().display());
    guarded(ErrorKind::UnsupportedModel, what, || {
        // Of tract's operators the GPU has more than of ours.
        let fused = form != Form::Composed && is_fused(base);
        if fused {
            crate::ops::fuse(&mut model)?;
        }
        let (mut prefix, mut entering) = (None, graph.own_inputs);
        if form == Form::Split
            && let Some(split) = frozen::split(&model, entering)?
        {
            (prefix, model, entering) = (Some(split.prefix), split.suffix, split.passed);
        }
        let skipped = 2 - trains.factors();
        let factors: Vec<usize> = (entering + skipped..model.inputs.len()).step_by(1 + skipped).collect();
        let built = match keeps {
            Keeps::Everything => Differentiated::whole(model, &factors, Made { fused, recomputed: false })?,
            Keeps::Selected => Differentiated::whole(model, &factors, Made { fused, recomputed: fused })?,
            Keeps::Checkpoints => Differentiated::in_segments(&model, &factors, Made { fused, recomputed: fused })?,
        };
        let Differentiated { segments, results, blocked, obstructed } = built;
        let plans = Plans { prefix, segments, entering, factors, results };
        Ok(Built { plans, logits: graph.logits, sites: graph.sites, blocked, obstructed, trains })
    })
}

/// How a backward graph is made.
#[derive(Clone, Copy)]
pub(super) struct Made {
    /// Of fused operators.
    pub fused: bool,
    /// Computes again what is cheap.
    pub recomputed: bool,
}

/// The segments of a graph with their backward graphs.
pub(super) struct Differentiated {
    pub segments: Vec<Segment<TypedModel>>,
    pub results: Vec<usize>,
    blocked: Vec<Blocked>,
    /// Of each factor: no gradient arrives at it, or not all of it.
    pub obstructed: Vec<bool>,
}

impl Differentiated {
    /// All of `model` as one segment.
    pub fn whole(model: TypedModel, factors: &[usize], made: Made) -> TractResult<Differentiated> {
        let (first, given) = (model.inputs.len(), model.outputs.len());
        let numbers = Numbers { reads: (0..first).collect(), gives: (first, given) };
        let all: Vec<usize> = (0..given).collect();
        let (segment, back) = differentiated(model, numbers, &all, factors, made)?;
        let obstructed = (0..factors.len()).map(|ix| back.is_incomplete(ix));
        Ok(Differentiated {
            segments: vec![segment],
            results: (first..first + given).collect(),
            obstructed: obstructed.collect(),
            blocked: back.blocked,
        })
    }

    /// `model` in several segments, where that saves memory.
    pub fn in_segments(model: &TypedModel, factors: &[usize], made: Made) -> TractResult<Differentiated> {
        let cut = Cut::new(model, factors)?;
        // Of each value: whether a gradient arrives at it, and whether a blocked node lies behind it.
        let mut reached = vec![false; cut.trained.len()];
        let mut obstructed = vec![false; cut.trained.len()];
        cut.results.iter().for_each(|&value| reached[value] = true);
        let (mut segments, mut blocked) = (vec![], vec![]);
        for Passing { graph, numbers } in cut.parts.into_iter().rev() {
            let (first, count) = numbers.gives;
            let given: Vec<usize> = (0..count).filter(|at| reached[first + at]).collect();
            let trained = |value: usize| cut.trained[value];
            let float = |at: usize| graph.input_fact(at).is_ok_and(|fact| fact.datum_type.is_float());
            let wanted: Vec<usize> =
                (0..numbers.reads.len()).filter(|&at| trained(numbers.reads[at]) && float(at)).collect();
            let bad = (0..count).filter(|at| obstructed[first + at]).map(|at| graph.outputs[at].node);
            let bad: Vec<usize> = bad.collect();
            let order = graph.eval_order()?;
            for &at in &wanted {
                let after = dependents(&graph, &order, &[graph.inputs[at]]);
                obstructed[numbers.reads[at]] |= bad.iter().any(|node| after.contains(node));
            }
            let (segment, back) = differentiated(graph, numbers, &given, &wanted, made)?;
            for (ix, &value) in segment.gradients.iter().enumerate() {
                reached[value] |= back.reached[ix];
                obstructed[value] |= back.obstructed[ix];
            }
            blocked.extend(back.blocked);
            segments.push(segment);
        }
        segments.reverse();
        let obstructed = factors.iter().map(|&f| obstructed[f] || !reached[f]).collect();
        Ok(Differentiated { segments, results: cut.results, blocked, obstructed })
    }
}

/// Which values a segment reads and gives.
struct Numbers {
    reads: Vec<usize>,
    gives: (usize, usize),
}

/// A segment's graph before it is differentiated.
struct Passing {
    graph: TypedModel,
    numbers: Numbers,
}

/// A graph in segments.
struct Cut {
    parts: Vec<Passing>,
    results: Vec<usize>,
    /// Of each value: whether a factor leads to it.
    trained: Vec<bool>,
}

impl Cut {
    fn new(model: &TypedModel, factors: &[usize]) -> TractResult<Cut> {
        let wrt: Vec<OutletId> = factors.iter().map(|&f| model.inputs[f]).collect();
        let segments = segments(model, &wrt)?;
        let of_node = |(at, nodes): (usize, &Vec<usize>)| nodes.iter().map(|id| (*id, at)).collect::<Vec<_>>();
        let segment_of: HashMap<usize, usize> = segments.iter().enumerate().flat_map(of_node).collect();
        let mut numbers: HashMap<OutletId, usize> = model.inputs.iter().enumerate().map(|(i, o)| (*o, i)).collect();
        let mut parts = vec![];
        for (at, nodes) in segments.iter().enumerate() {
            let (mut reads, mut gives): (Vec<OutletId>, Vec<OutletId>) = (vec![], vec![]);
            for &id in nodes {
                let node = model.node(id);
                for input in &node.inputs {
                    let passed = segment_of.get(&input.node) != Some(&at) && !is_constant(model, *input);
                    if passed && !reads.contains(input) {
                        reads.push(*input);
                    }
                }
                for (slot, outlet) in node.outputs.iter().enumerate() {
                    let own = OutletId::new(id, slot);
                    let elsewhere =
                        outlet.successors.iter().any(|s| segment_of.get(&s.node).is_some_and(|of| *of != at));
                    if elsewhere || model.outputs.contains(&own) {
                        gives.push(own);
                    }
                }
            }
            let first = numbers.len();
            let known = reads.iter().map(|o| numbers.get(o).copied().context("a value is read before it is given"));
            let known = known.collect::<TractResult<Vec<_>>>()?;
            numbers.extend(gives.iter().enumerate().map(|(i, o)| (*o, first + i)));
            let graph = part(model, nodes, &reads, &gives)?;
            parts.push(Passing { graph, numbers: Numbers { reads: known, gives: (first, gives.len()) } });
        }
        let results = model.outputs.iter().map(|o| numbers.get(o).copied().context("an output that no segment gives"));
        let results = results.collect::<TractResult<_>>()?;
        let after = dependents(model, &model.eval_order()?, &wrt);
        let mut trained = vec![false; numbers.len()];
        numbers.iter().for_each(|(outlet, &value)| trained[value] = after.contains(&outlet.node));
        Ok(Cut { parts, results, trained })
    }
}

/// A segment that is given the cotangents of those of its outputs, and gives gradients of those of its inputs.
fn differentiated(
    mut forward: TypedModel,
    numbers: Numbers,
    given: &[usize],
    wanted: &[usize],
    made: Made,
) -> TractResult<(Segment<TypedModel>, Backward)> {
    let outputs: Vec<OutletId> = given.iter().map(|&at| forward.outputs[at]).collect();
    let wrt: Vec<OutletId> = wanted.iter().map(|&at| forward.inputs[at]).collect();
    let mut back = differentiate(&forward, &outputs, &wrt, made.fused)?;
    if made.fused {
        tape::compress(&mut forward, &mut back.model, &mut back.saved)?;
    }
    if made.recomputed {
        recompute(&forward, &mut back.model, &mut back.saved)?;
    }
    let mut saved = vec![];
    for outlet in &back.saved {
        if let Some(ix) = forward.inputs.iter().position(|i| i == outlet) {
            saved.push(Feed::Input(ix));
            continue;
        }
        let ix = forward.outputs.iter().position(|o| o == outlet).unwrap_or_else(|| {
            forward.outputs.push(*outlet);
            forward.outputs.len() - 1
        });
        saved.push(Feed::Output(ix));
    }
    let mut backward = std::mem::take(&mut back.model);
    declutter(&mut backward)?;
    let Numbers { reads, gives } = numbers;
    let segment = Segment {
        backward: (!wanted.is_empty() && !given.is_empty()).then_some(backward),
        cotangents: given.iter().map(|at| gives.0 + at).collect(),
        gradients: wanted.iter().map(|&at| reads[at]).collect(),
        forward,
        reads,
        gives,
        saved,
    };
    Ok((segment, back))
}

impl TrainPlan {
    /// Differentiates without compiling: which of `sites` a gradient reaches, and what stands in the way of the
    /// others.
    pub fn reach(base: &Base, ends: Ends, bucket: &Bucket, sites: &[(String, usize)], keeps: Keeps) -> Result<Reach> {
        let built = build(base, ends, bucket, sites, (Trains::Both, keeps), Form::Split)?;
        let names =
            built.sites.iter().enumerate().filter(|(i, _)| !built.obstructed[2 * i]).map(|(_, (s, _))| s.name.clone());
        let reachable = names.collect();
        let peak_bytes =
            guarded(ErrorKind::Internal, "cannot order the plans", || footprint::of_training(built.plans, base))?;
        Ok(Reach { reachable, blocked: built.blocked, peak_bytes })
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
        way: (Trains, Keeps),
        fused: bool,
    ) -> Result<TrainPlan> {
        let form = if fused { Form::Split } else { Form::Composed };
        let plan = TrainPlan::of(base, build(base, ends, bucket, sites, way, form)?)?;
        if plan.prefix_is_by_rows(base, bucket).unwrap_or(false) {
            return Ok(plan);
        }
        TrainPlan::of(base, build(base, ends, bucket, sites, way, Form::Fused)?)
    }

    /// Compiles the plans of the layer from hidden states to scores over the vocabulary of a causal language model,
    /// `[1, rows, width]` → `[1, rows, vocabulary]`; what is trained are the hidden states.
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedModel`] where no gradient passes that layer.
    pub fn of_vocabulary(base: &Base, rows: usize) -> Result<TrainPlan> {
        let mut model = super::decode::vocabulary(base, rows)?;
        let built = guarded(ErrorKind::UnsupportedModel, "cannot differentiate the output layer", || {
            fuse(base, &mut model)?;
            let made = Made { fused: is_fused(base), recomputed: false };
            let Differentiated { segments, results, blocked, obstructed } = Differentiated::whole(model, &[0], made)?;
            let plans = Plans { prefix: None, segments, entering: 1, factors: vec![0], results };
            Ok(Built { plans, logits: None, sites: vec![], blocked, obstructed, trains: Trains::Both })
        })?;
        TrainPlan::of(base, built)
    }

    fn of(base: &Base, built: Built) -> Result<TrainPlan> {
        if let Some(at) = built.obstructed.iter().position(|o| *o) {
            let site = built.sites.get(at / built.trains.factors());
            let site = site.map_or("before the output layer", |(site, _)| &site.name);
            let first = built.blocked.first();
            let place = first.map_or_else(String::new, |b| format!("{} ({})", b.node, b.op));
            let reason = first.map_or_else(String::new, |b| b.reason.clone());
            return Err(Error::unsupported(format!("no gradient reaches the site {site}"))
                .at(place)
                .because(reason)
                .hint("sites after that node still train: choose them with --sites, or leave the choice to `acclimate init`"));
        }
        let Plans { prefix, segments, entering, factors, results } = built.plans;
        let compiled = |s: Segment<TypedModel>| -> Result<Segment<Arc<Compiled>>> {
            let Segment { forward, backward, reads, gives, saved, cotangents, gradients } = s;
            let forward = Compiled::new(base, forward, "training forward")?;
            let backward = backward.map(|b| Compiled::new(base, b, "backward")).transpose()?;
            Ok(Segment { forward, backward, reads, gives, saved, cotangents, gradients })
        };
        let prefix = prefix.map(|p| Compiled::new(base, p, "frozen")).transpose()?;
        let segments = segments.into_iter().map(compiled).collect::<Result<_>>()?;
        let plans = Plans { prefix, segments, entering, factors, results };
        Ok(TrainPlan { plans, logits: built.logits, sites: built.sites })
    }

    /// Bytes of weights that are laid out for these plans alone.
    pub fn bytes(&self) -> u64 {
        let both = |s: &Segment<Arc<Compiled>>| s.forward.bytes() + s.backward.iter().map(|b| b.bytes()).sum::<u64>();
        self.plans.prefix.iter().map(|p| p.bytes()).sum::<u64>() + self.plans.segments.iter().map(both).sum::<u64>()
    }

    /// Whether part of the forward pass is the same in every epoch (see `Worker::enter`).
    pub fn is_split(&self) -> bool {
        self.plans.prefix.is_some()
    }

    /// Whether what the prefix computes belongs to the examples of a batch one by one, bit for bit, tried on random
    /// ones: a model may mix or transpose its batch.
    fn prefix_is_by_rows(&self, base: &Base, bucket: &Bucket) -> Result<bool> {
        let Some(prefix) = &self.plans.prefix else { return Ok(true) };
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
}
