//! What a graph becomes on the GPU.

use std::collections::BTreeMap;

use tract_core::internal::*;

use crate::base::{Base, Device};

/// A plan that was prepared for the GPU.
pub(super) struct OnGpu {
    pub plan: Arc<TypedSimplePlan>,
    /// Of its constants, in the GPU's memory.
    pub bytes: u64,
    /// Operators there, and names and numbers of the others.
    pub on_gpu: usize,
    pub on_cpu: BTreeMap<String, usize>,
    /// Copies between the memories.
    pub copies: usize,
}

/// Whether graphs of `base` may hold operators of ours that the processor is faster with; the GPU's runtime knows none.
pub(super) fn is_fused(base: &Base) -> bool {
    base.placement().device() == Device::Cpu
}

/// [`crate::ops::fuse`] where that pays.
pub(super) fn fuse(base: &Base, model: &mut TypedModel) -> TractResult<()> {
    if is_fused(base) { crate::ops::fuse(model) } else { Ok(()) }
}
