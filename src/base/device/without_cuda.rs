//! What a build without the feature `cuda` says of GPUs.

use super::{Gpu, NoGpu};

pub(super) fn find() -> Result<Gpu, NoGpu> {
    Err(NoGpu {
        why: "this program was built without the feature `cuda`".into(),
        next: "build it with `cargo build --release --features bundles,cuda` (docs/how-to/gpu.md)",
        has_driver: false,
    })
}
