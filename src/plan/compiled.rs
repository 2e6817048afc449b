//! A compiled graph with its run states, timed operator by operator where somebody records ([`crate::profile`]).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tract_core::internal::*;
use tract_core::ops::konst::Const;
use tract_core::ops::source::TypedSource;
use tract_linalg::multithread::{Executor, multithread_tract_scope};

use super::declutter::{declutter, optimize};
use super::lowering;
use crate::base::{Base, guarded};
use crate::error::{ErrorKind, Result};
use crate::profile::{self, Place, Spent};
use crate::sync::{run_pass, times_shared};

/// Multiplications from which on cores share a pass: to hand one over takes some 20 µs. Tests share smaller ones.
const WORTH_SHARING: usize = if cfg!(test) { 1 << 14 } else { 1 << 21 };

/// A graph that tract has optimised and ordered; shared by threads.
pub(super) struct Compiled {
    plan: Arc<TypedSimplePlan>,
    results: Vec<Taken>,
    /// For nodes of the plan, the slots whose values are taken as soon as they are there, and which of those they are.
    early: HashMap<usize, Vec<(usize, usize)>>,
    /// See [`Compiled::bytes`].
    bytes: u64,
    /// About how many a pass takes.
    multiplications: usize,
    /// Where the plan was compiled while somebody recorded.
    profiled: Option<Profiled>,
}

/// How a result leaves the plan.
///
/// The runtime frees the values of a node all at once, and those of an output never. A gradient's node also makes the gradient that is passed
/// on, and one whose mask is kept also makes the activation: as outputs they would hold what is larger than themselves to the end of the run. So
/// only what nothing else waits for is an output.
#[derive(Clone, Copy)]
enum Taken {
    /// The output of this index, at the end.
    Last(usize),
    /// The early value of this index.
    Early(usize),
}

/// A run state; one a thread.
pub(super) struct State {
    plan: Arc<Compiled>,
    state: TypedSimpleState,
}

impl Compiled {
    /// `what` names the plan to people: forward or backward.
    pub fn new(base: &Base, mut model: TypedModel, what: &'static str) -> Result<Arc<Compiled>> {
        let plan = guarded(ErrorKind::UnsupportedModel, format!("cannot compile the {what} plan"), || {
            lowering::improve(&mut model, base.weights())?;
            declutter(&mut model)?;
            optimize(&mut model)?;
            let waited_for = waited_for(&model)?;
            let (mut results, mut last, mut early) = (vec![], vec![], HashMap::<usize, Vec<(usize, usize)>>::new());
            for outlet in &model.outputs {
                if waited_for.contains(&outlet.node) {
                    let ix = results.iter().filter(|t| matches!(t, Taken::Early(_))).count();
                    early.entry(outlet.node).or_default().push((outlet.slot, ix));
                    results.push(Taken::Early(ix));
                } else {
                    results.push(Taken::Last(last.len()));
                    last.push(*outlet);
                }
            }
            model.outputs = last;
            let (bytes, multiplications) = (laid_out(&model), lowering::multiplications(&model));
            let profiled = profile::is_on().then(|| Profiled::new(what, &model));
            Ok(Compiled { plan: model.into_runnable()?, results, early, bytes, multiplications, profiled })
        })?;
        Ok(Arc::new(plan))
    }

    /// Bytes of weights that are laid out for this plan alone; the others are read where the model has them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn state(self: &Arc<Self>) -> TractResult<State> {
        Ok(State { state: self.plan.spawn()?, plan: self.clone() })
    }
}

/// Bytes of the constants that tract has packed.
fn laid_out(model: &TypedModel) -> u64 {
    let packed = model.nodes().iter().filter_map(|node| node.op_as::<Const>()?.exotic_fact());
    packed.map(|fact| fact.mem_size().to_i64().map_or(0, |bytes| bytes.unsigned_abs())).sum()
}

/// The nodes with an output of `model` that other nodes with an output depend on; sources and constants are none of them, since they are not evaluated.
fn waited_for(model: &TypedModel) -> TractResult<HashSet<usize>> {
    let ends: HashSet<usize> = model.outputs.iter().map(|o| o.node).collect();
    let mut leads: HashSet<usize> = HashSet::new();
    for id in model.eval_order()?.into_iter().rev() {
        let mut next = model.node(id).outputs.iter().flat_map(|o| &o.successors);
        if next.any(|s| ends.contains(&s.node) || leads.contains(&s.node)) {
            leads.insert(id);
        }
    }
    let evaluated = |id: &usize| !model.node(*id).op_is::<TypedSource>() && !model.node(*id).op_is::<Const>();
    Ok(ends.into_iter().filter(|id| leads.contains(id) && evaluated(id)).collect())
}

impl State {
    /// One pass, on the cores that the caller has where that pays.
    pub fn run(&mut self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let worth = self.plan.multiplications >= WORTH_SHARING;
        let run = |pool: Option<&Arc<rayon::ThreadPool>>| match pool {
            Some(pool) => multithread_tract_scope(Executor::MultiThread(pool.clone()), || self.pass(inputs)),
            None => self.pass(inputs),
        };
        run_pass(worth, run).unwrap_or_else(|text| bail!("the model runtime gave up: {text}"))
    }

    fn pass(&mut self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let plan = &self.plan;
        let mut early: Vec<Option<TValue>> = vec![None; plan.results.len()];
        let last = self.state.run_plan_with_eval(inputs, |ctx, state, node, inputs| {
            let watch = plan.profiled.as_ref().filter(|_| profile::is_on()).map(|p| (p, Watch::begin(&inputs)));
            let outputs = tract_core::plan::eval(ctx, state, node, inputs)?;
            if let Some((profiled, watch)) = watch {
                profiled.add(node, watch, &outputs);
            }
            for (value, outlet) in outputs.iter().zip(&node.outputs) {
                if let Some(shape) = outlet.fact.shape.as_concrete().filter(|_| value.is_plain_ram()) {
                    ensure!(value.shape() == shape, "{node} gives {:?} where {shape:?} was planned", value.shape());
                }
            }
            for &(slot, ix) in plan.early.get(&node.id).into_iter().flatten() {
                early[ix] = outputs.get(slot).cloned();
            }
            TractResult::Ok(outputs)
        })?;
        let mut value = |taken: &Taken| match *taken {
            Taken::Last(ix) => last.get(ix).cloned(),
            Taken::Early(ix) => early[ix].take(),
        };
        plan.results.iter().map(&mut value).collect::<Option<_>>().context("a plan lost a result")
    }
}

/// Names of matrix products and convolutions, ours and the runtime's. Others have a cost, too, which is no product's.
const PRODUCTS: [&str; 15] = [
    "Product",
    "Depthwise",
    "Stem",
    "Convolve",
    "LowRank",
    "LowRankBackward",
    "EinSum",
    "OptMatMul",
    "Conv",
    "Deconv",
    "DepthWiseConv",
    "DirectSpatialConv",
    "BlockedConv",
    "conv_nhwc",
    "DepthwiseDeconv",
];

/// What is known of a plan's operators before they run.
struct Profiled {
    what: &'static str,
    /// Floating-point operations of each node.
    flop: HashMap<usize, f64>,
}

/// An operator that runs.
struct Watch {
    start: Instant,
    shared: u64,
    /// Bytes of the operands, and where they lie.
    read: u64,
    operands: TVec<*const u8>,
}

impl Watch {
    fn begin(inputs: &TVec<TValue>) -> Watch {
        let plain = || inputs.iter().filter(|value| value.is_plain_ram());
        let read = plain().map(|value| value.as_bytes().len() as u64).sum();
        let operands = plain().map(|value| value.as_bytes().as_ptr()).collect();
        Watch { shared: times_shared(), read, operands, start: Instant::now() }
    }
}

impl Profiled {
    fn new(what: &'static str, model: &TypedModel) -> Profiled {
        // An operator that cannot tell its cost is one without.
        let of_node = |node: &TypedNode| -> Option<(usize, f64)> {
            let costs = node.op.cost(&model.node_input_facts(node.id).ok()?).ok()?;
            let multiplications = costs.iter().filter(|(cost, _)| matches!(cost, Cost::FMA(_)));
            Some((node.id, 2.0 * multiplications.filter_map(|(_, n)| n.to_i64().ok()).sum::<i64>() as f64))
        };
        let products = model.nodes().iter().filter(|node| PRODUCTS.contains(&&*node.op.name()));
        Profiled { what, flop: products.filter_map(of_node).collect() }
    }

    fn add(&self, node: &TypedNode, watch: Watch, outputs: &TVec<TValue>) {
        let time = watch.start.elapsed();
        let plain = || outputs.iter().filter(|value| value.is_plain_ram());
        let bytes = |value: &TValue| value.as_bytes().len() as u64;
        let fresh = plain().filter(|value| !watch.operands.contains(&value.as_bytes().as_ptr()));
        let spent = Spent {
            calls: 1,
            time,
            flop: self.flop.get(&node.id).copied().unwrap_or(0.0),
            moved: watch.read + plain().map(bytes).sum::<u64>(),
            allocated: fresh.map(bytes).sum(),
            shared: (times_shared() > watch.shared) as u64,
        };
        let shape = outputs.first().map_or_else(String::new, |value| format!("{:?}", value.shape()));
        profile::add(Place { pass: self.what, operator: node.op.name().into(), shape }, &spent);
    }
}
