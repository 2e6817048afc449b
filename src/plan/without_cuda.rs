//! What a build without the feature `cuda` has in the place of its plans. No model is placed on a GPU there.

use tract_core::internal::*;

use super::on_gpu::OnGpu;

pub(super) fn prepare(_: TypedModel) -> TractResult<OnGpu> {
    bail!("this program was built without the feature `cuda`")
}

pub(super) fn is_on_gpu(_: &TypedNode) -> bool {
    false
}

pub(super) fn wait() -> TractResult<()> {
    Ok(())
}
