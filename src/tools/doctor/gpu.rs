//! The NVIDIA GPU that plans may run on.

use super::{Check, bytes};
use crate::base::{Gpu, NoGpu, find_gpu};

const NAME: &str = "gpu";

/// Looks for it, and starts it: that compiles its kernels the first time.
pub(super) fn check() -> Check {
    told(find_gpu())
}

/// A machine without a GPU has nothing wrong; one whose GPU cannot be used has.
fn told(found: Result<Gpu, NoGpu>) -> Check {
    match found {
        Ok(gpu) => {
            let (major, minor) = gpu.compute_capability;
            let memory = bytes(gpu.memory_bytes);
            Check::ok(NAME, format!("{}, {memory}, compute capability {major}.{minor}", gpu.name))
        }
        Err(none) if none.has_driver => Check::warn(NAME, format!("not used: {}", none.why), none.next),
        Err(none) => Check::ok(NAME, format!("not used: {}", none.why)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_gpu_is_described_and_one_that_cannot_be_used_is_a_warning() {
        let orin = Gpu { name: "Orin".into(), memory_bytes: 8 << 30, compute_capability: (8, 7) };
        assert_eq!(told(Ok(orin)), Check::ok(NAME, "Orin, 8.0 GiB, compute capability 8.7"));
        let none = |has_driver| NoGpu { why: "no nvrtc".into(), next: "install it", has_driver };
        let broken = told(Err(none(true)));
        assert_eq!((broken.state, broken.next.as_deref()), (State::Warn, Some("install it")));
        assert_eq!(told(Err(none(false))), Check::ok(NAME, "not used: no nvrtc"));
    }

    #[test]
    fn this_machine_answers() {
        let check = check();
        assert_ne!(check.state, State::Fail, "{check:?}");
        assert_eq!(check.next.is_some(), check.state == State::Warn, "{check:?}");
    }
}
