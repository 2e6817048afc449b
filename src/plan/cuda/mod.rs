//! Plans on an NVIDIA GPU, by tract's CUDA runtime.
//!
//! It translates a graph of its own operators node by node. What it does not know stays on the processor, and it puts
//! copies between the memories where they are needed. So a graph must reach it before [`super::lowering`] puts
//! operators of ours in place of tract's, and [`graph`] takes those apart that came earlier.
//!
//! Each thread has a stream of the GPU, and the order of what two streams do is not kept. So a pass begins with values
//! in the processor's memory and ends with such, and never leaves its thread (see `Compiled`).

#[cfg(feature = "train")]
mod backward;
mod graph;
#[cfg(all(test, feature = "train"))]
mod tests;
#[cfg(not(feature = "train"))]
mod untrained;

use tract_core::internal::*;
use tract_core::ops::konst::Const;
use tract_core::ops::source::TypedSource;
use tract_gpu::fact::DeviceTypedFactExt;
use tract_gpu::sync::DeviceSync;

#[cfg(feature = "train")]
use backward::backward;
#[cfg(not(feature = "train"))]
use untrained::backward;

use super::declutter::declutter;
use super::on_gpu::OnGpu;

/// Prepares a graph. Its weights go to the GPU's memory, where every plan has its own.
pub(super) fn prepare(mut model: TypedModel) -> TractResult<OnGpu> {
    of_runtime(&mut model)?;
    declutter(&mut model)?;
    let runtime = runtime_for_name("cuda")?.context("the program was linked without the runtime of CUDA")?;
    let runnable = runtime.prepare(model)?;
    let plan = runnable.typed_plan().context("the runtime of CUDA made no plan of nodes")?.clone();
    let mut made = OnGpu { bytes: 0, on_gpu: 0, on_cpu: Default::default(), copies: 0, plan };
    let plan = made.plan.clone();
    for node in plan.model().nodes() {
        if let Some(constant) = node.op_as::<Const>() {
            let value = constant.val();
            made.bytes += (value.len() * value.datum_type().size_of()) as u64;
        } else if node.op_is::<DeviceSync>() {
            made.copies += 1;
        } else if is_on_gpu(node) {
            made.on_gpu += 1;
        } else if !node.op_is::<TypedSource>() {
            *made.on_cpu.entry(node.op.name().into_owned()).or_default() += 1;
        }
    }
    Ok(made)
}

/// Leaves as few operators of ours in `model` as can be.
fn of_runtime(model: &mut TypedModel) -> TractResult<()> {
    graph::forward(model)?;
    backward(model)
}

/// Whether the results of a node of a prepared graph are in the GPU's memory.
pub(super) fn is_on_gpu(node: &TypedNode) -> bool {
    node.outputs.first().is_some_and(|outlet| outlet.fact.as_device_fact().is_some())
}

/// Waits until the GPU has done what this thread asked of it.
pub(super) fn wait() -> TractResult<()> {
    tract_gpu::device::get_context()?.synchronize()
}
