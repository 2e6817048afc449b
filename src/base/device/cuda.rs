//! The first NVIDIA GPU, by the driver and the libraries that are on this machine.
//!
//! Nothing of CUDA is touched before its libraries are known to be there: the bindings panic where one is missing.
//! What they panic at later (headers that kernels are compiled with are missing, a GPU that is too old) is caught.

use std::sync::Mutex;

use tract_core::internal::*;
use tract_cuda::utils::ensure_cuda_runtime_dependencies;

use super::{Gpu, NoGpu};
use crate::process::caught;
use crate::sync::lock;

const NO_DRIVER: &str = "install NVIDIA's driver (on a Jetson it comes with JetPack; in a container, pass the GPU \
                         through), or use `--device cpu`";
const NOT_WORKING: &str =
    "install what is missing of CUDA 12.6 or a later 12 (docs/how-to/gpu.md), or use `--device cpu`";

/// Looks once; a GPU that is there later is found by the next process.
pub(super) fn find() -> Result<Gpu, NoGpu> {
    // The bindings compile kernels meanwhile: one thread does, and others wait.
    static FOUND: Mutex<Option<Result<Gpu, NoGpu>>> = Mutex::new(None);
    lock(&FOUND).get_or_insert_with(look).clone()
}

fn look() -> Result<Gpu, NoGpu> {
    let checked = caught(|| ensure_cuda_runtime_dependencies("no GPU"));
    if let Err(e) = said(checked) {
        // The driver is what the first of those libraries belongs to.
        let has_driver = !e.contains("driver library not found");
        return Err(NoGpu { why: e, next: if has_driver { NOT_WORKING } else { NO_DRIVER }, has_driver });
    }
    let started = caught(|| {
        tract_cuda::with_cuda_stream(|stream| {
            let context = stream.context();
            Ok(Gpu {
                name: context.name().map_err(|e| format_err!("the GPU has no name: {e:?}"))?,
                memory_bytes: context.total_mem().map_err(|e| format_err!("the GPU's memory is not known: {e:?}"))?
                    as u64,
                compute_capability: context
                    .compute_capability()
                    .map_err(|e| format_err!("what the GPU can do is not known: {e:?}"))?,
            })
        })
    });
    said(started).map_err(|why| NoGpu { why, next: NOT_WORKING, has_driver: true })
}

/// What an attempt came to, with all that its error says in one line.
fn said<T>(attempt: Result<TractResult<T>, String>) -> Result<T, String> {
    let text = match attempt {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(e)) => format!("{e:#}"),
        Err(panic) => panic,
    };
    Err(text.split_whitespace().collect::<Vec<_>>().join(" "))
}
