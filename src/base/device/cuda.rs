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

/// What errors of the check begin with.
const CHECKED: &str = "libraries of CUDA";

const NO_DRIVER: &str =
    "install NVIDIA's driver (on a Jetson it comes with JetPack; in a container, pass the GPU through)";
const DRIVER: &str = "see whether `nvidia-smi` lists a GPU, and whether its driver is of CUDA 12.6 or newer (on a \
                      Jetson: JetPack 6.1)";
const NOT_WORKING: &str = "install what is missing of CUDA 12.6 or a later 12 (docs/how-to/gpu.md)";

/// Looks once; a GPU that is there later is found by the next process.
pub(super) fn find() -> Result<Gpu, NoGpu> {
    // The bindings compile kernels meanwhile: one thread does, and others wait.
    static FOUND: Mutex<Option<Result<Gpu, NoGpu>>> = Mutex::new(None);
    lock(&FOUND).get_or_insert_with(look).clone()
}

fn look() -> Result<Gpu, NoGpu> {
    if let Err(e) = said(caught(|| ensure_cuda_runtime_dependencies(CHECKED))) {
        return Err(missing(&e));
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

/// What the check of the libraries says, in words of ours where they are about other programs.
fn missing(said: &str) -> NoGpu {
    let said = said.trim_start_matches(CHECKED).trim_start_matches(": ");
    if said.contains("driver library not found") {
        let why = "NVIDIA's driver was not found (libcuda.so.1)".into();
        return NoGpu { why, next: NO_DRIVER, has_driver: false };
    }
    if said.starts_with("CUDA driver validation failed") {
        return NoGpu { why: said.into(), next: DRIVER, has_driver: true };
    }
    // What comes after the first sentence is about variables that this program does not read.
    let why = said.split(". ").next().unwrap_or(said).into();
    NoGpu { why, next: NOT_WORKING, has_driver: true }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// In the words of tract-cuda 0.23.9.
    #[test]
    fn what_is_missing_decides_what_to_do() {
        let driver = format!("{CHECKED}: CUDA driver validation failed: CUDA driver ");
        let none = missing(&format!("{driver}library not found. Tried: [\"libcuda.so.1\", \"libcuda.so\"]. Is one?"));
        assert_eq!((none.next, none.has_driver), (NO_DRIVER, false));
        assert!(none.why.contains("libcuda.so.1"), "{}", none.why);
        let old = missing(&format!("{driver}too old. Found driver API 12.2. Fix: upgrade"));
        assert_eq!((old.next, old.has_driver), (DRIVER, true));
        assert!(old.why.contains("API 12.2"), "{}", old.why);
        let library = missing(&format!("{CHECKED}: CUDA runtime sub-library \"nvrtc\" is not there. Enable RUST_LOG."));
        assert_eq!((library.next, library.has_driver), (NOT_WORKING, true));
        assert_eq!(library.why, "CUDA runtime sub-library \"nvrtc\" is not there");
    }
}
