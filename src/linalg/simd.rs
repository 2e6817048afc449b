//! Plain loops compiled a second time for the vector registers that the CPU at hand has.

/// Runs a loop over slices with AVX2 where there is AVX2; elsewhere (NEON is part of every aarch64) as it is.
/// The loop names the variables that it uses, with their types; a result's type comes last:
/// `wide!((a: &[f32], b: &[f32]) { … } -> f32)`.
///
/// The crate is compiled for the oldest CPU of its target: on x86-64 that means four lanes, and loops over
/// values in cache run at half the speed or less. A closure would not do: where the compiler calls it instead
/// of inlining it, it is compiled for the oldest CPU after all, at up to nine times the time.
macro_rules! wide {
    (($($name:ident: $type:ty),* $(,)?) $body:block $(-> $result:ty)?) => {{
        #[inline(always)]
        fn plain($($name: $type),*) $(-> $result)? $body
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn with_avx2($($name: $type),*) $(-> $result)? {
            plain($($name),*)
        }
        #[cfg(target_arch = "x86_64")]
        match $crate::linalg::simd::has_avx2() {
            // SAFETY: the CPU has the instructions that the function is compiled for.
            true => unsafe { with_avx2($($name),*) },
            false => plain($($name),*),
        }
        #[cfg(not(target_arch = "x86_64"))]
        plain($($name),*)
    }};
}

/// Whether the CPU has AVX2 and fused multiply-adds.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

pub(crate) use wide;
