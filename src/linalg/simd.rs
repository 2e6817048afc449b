//! Plain loops compiled a second time for the vector registers that the CPU at hand has.

/// Runs `work`, a short loop over slices, with AVX2 where there is AVX2; elsewhere (NEON is part of every aarch64) as it is.
///
/// The crate is compiled for the oldest CPU of its target: on x86-64 that means four lanes, and loops over values in cache
/// run at half the speed or less.
#[inline(always)]
pub(crate) fn wide<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the CPU has the instructions that the function is compiled for.
        return unsafe { with_avx2(work) };
    }
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
    work()
}
