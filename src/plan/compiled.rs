//! A compiled graph with its run states, timed operator by operator where somebody records ([`crate::profile`]).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tract_core::internal::*;
use tract_core::ops::konst::Const;
use tract_core::ops::source::TypedSource;
use tract_linalg::multithread::{Executor, multithread_tract_scope};

use super::agreement::Trial;
use super::declutter::{declutter, optimize};
use super::on_gpu::OnGpu;
use super::{gpu, lowering};
use crate::base::{Base, Device, PlacedPlan, guarded};
use crate::error::{ErrorKind, Result};
use crate::profile::{self, Place, Spent};
use crate::sites::{SharedFactor, factor};
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
    /// Whether it was prepared for the GPU. Its passes begin and end with values in the processor's memory.
    on_gpu: bool,
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
    /// `what` names the plan to people: forward or backward. Where the base is placed on the GPU, and the plan cannot
    /// be or answers otherwise there, the processor runs it.
    pub fn new(base: &Base, model: TypedModel, what: &'static str) -> Result<Arc<Compiled>> {
        if base.placement().device() == Device::Cpu {
            return Compiled::on_cpu(base, model, what);
        }
        let on_cpu = Compiled::on_cpu(base, model.clone(), what)?;
        Ok(Compiled::on_gpu(base, model, what, &on_cpu).unwrap_or(on_cpu))
    }

    /// None where the GPU cannot have it: the reason is kept with the base's placement.
    fn on_gpu(base: &Base, model: TypedModel, what: &'static str, trusted: &Arc<Compiled>) -> Option<Arc<Compiled>> {
        let mut placed = PlacedPlan { plan: what, on_gpu: 0, on_cpu: BTreeMap::new(), copies: 0, refused: None };
        let made = guarded(ErrorKind::UnsupportedModel, "no plan for the GPU", || {
            let trial = Trial::new(&model, |inputs| trusted.state()?.run(inputs))?;
            let results = (0..model.outputs.len()).map(Taken::Last).collect();
            let OnGpu { plan, bytes, on_gpu, on_cpu, copies } = gpu::prepare(model)?;
            let profiled = profile::is_on().then(|| Profiled::new(what, plan.model()));
            placed = PlacedPlan { on_gpu, on_cpu, copies, ..placed.clone() };
            let early = HashMap::new();
            let plan = Compiled { plan, results, early, bytes, multiplications: 0, on_gpu: true, profiled };
            let plan = Arc::new(plan);
            trial.confirms(&plan.state()?.run(trial.inputs.clone())?)?;
            Ok(plan)
        });
        if let Err(e) = &made {
            tracing::warn!(plan = what, reason = %e, "the processor runs a plan that was meant for the GPU");
            placed.refused = Some(e.to_string());
        }
        base.placement().remember(placed);
        made.ok()
    }

    pub(super) fn on_cpu(base: &Base, mut model: TypedModel, what: &'static str) -> Result<Arc<Compiled>> {
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
            let plan = model.into_runnable()?;
            Ok(Compiled { plan, results, early, bytes, multiplications, on_gpu: false, profiled })
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
        if self.plan.on_gpu {
            // On this thread: the GPU's stream is its own.
            let inputs = inputs.into_iter().map(in_memory).collect::<TractResult<_>>()?;
            return self.pass(inputs)?.into_iter().map(in_memory).collect();
        }
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
                if plan.on_gpu {
                    gpu::wait()?;
                }
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

/// The value in the processor's memory: factors that are read where they lie are copied, and results of the GPU
/// fetched, which leaves nothing of them there.
fn in_memory(value: TValue) -> TractResult<TValue> {
    if value.is_plain_ram() {
        return Ok(value);
    }
    if value.storage_as::<SharedFactor>().is_some() {
        return Ok(Tensor::from_shape(value.shape(), &factor(&value)?)?.into_tvalue());
    }
    let mut tensor = value.into_tensor();
    tensor.try_as_plain_ram_mut()?;
    Ok(tensor.into_tvalue())
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
    on_gpu: HashSet<usize>,
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
        let on_gpu = model.nodes().iter().filter(|node| gpu::is_on_gpu(node)).map(|node| node.id);
        Profiled { what, flop: products.filter_map(of_node).collect(), on_gpu: on_gpu.collect() }
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
        let device = if self.on_gpu.contains(&node.id) { Device::Cuda } else { Device::Cpu };
        let place = Place { pass: self.what, device: device.name(), operator: node.op.name().into(), shape };
        profile::add(place, &spent);
    }
}
