//! Eight floats in registers, for kernels that are written once and compiled for AVX2, NEON and neither.
//!
//! A [`Kernel`] and all that it calls is `inline(always)`, and none of it passes vectors through closures: what the
//! compiler does not inline is compiled for the oldest processor.

/// Eight floats: one register of AVX2, two of NEON.
pub(crate) const LANES: usize = 8;
/// [`LANES`] floats in memory, anywhere.
pub(crate) type Lanes = [f32; LANES];

/// [`LANES`] floats that no two lines of the cache share.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(crate) struct Aligned(pub Lanes);

impl Aligned {
    pub const ZERO: Aligned = Aligned([0.0; LANES]);
}

/// Operations on each of eight floats.
pub(crate) trait Eight: Copy {
    fn splat(value: f32) -> Self;
    fn load(from: &Lanes) -> Self;
    /// # Safety
    /// Eight floats can be read at `from`.
    unsafe fn read(from: *const f32) -> Self;
    /// Eight whole numbers of a byte each.
    ///
    /// # Safety
    /// Eight bytes can be read at `from`.
    unsafe fn bytes<const SIGNED: bool>(from: *const u8) -> Self;
    /// The low four bits of each of eight bytes, and 16 times the high four, after `FLIP` has turned its bits of each.
    ///
    /// # Safety
    /// Eight bytes can be read at `from`.
    unsafe fn nibbles<const FLIP: u8>(from: *const u8) -> (Self, Self);
    fn store(self, to: &mut Lanes);
    /// `self·y + sum`, rounded once where the processor can.
    fn multiply_add(self, y: Self, sum: Self) -> Self;
    fn plus(self, y: Self) -> Self;
    /// The larger of both; `y` where `self` is no number.
    fn max(self, y: Self) -> Self;
    /// The smaller of both; `y` where `self` is no number.
    fn min(self, y: Self) -> Self;
    /// The sum of all eight.
    fn sum(self) -> f32;
    /// Row `i` of the result holds value `i` of each of `rows`.
    fn transpose(rows: [Self; LANES]) -> [Self; LANES];
}

/// A loop over vectors of any kind.
pub(crate) trait Kernel {
    type Result;
    fn run<V: Eight>(self) -> Self::Result;
}

/// Whether the processor has registers of eight floats, or two of four that the crate is compiled for.
pub(crate) fn has_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    return super::simd::has_avx2();
    #[cfg(not(target_arch = "x86_64"))]
    cfg!(target_arch = "aarch64")
}

/// Asks for the cache lines of `values`, which are read soon.
#[inline(always)]
pub(crate) fn prefetch<T>(values: &[T]) {
    for line in values.chunks(64 / size_of::<T>()) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a hint; every x86-64 has it.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
        #[cfg(all(target_arch = "aarch64", not(miri)))]
        // SAFETY: a hint that changes neither memory nor registers; every aarch64 has it.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{}]", in(reg) line.as_ptr(), options(nostack, preserves_flags, readonly));
        }
        #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
        let _ = line;
    }
}

/// Eight times eight floats.
#[inline(always)]
pub(crate) fn loaded<V: Eight>(rows: &[Aligned; LANES]) -> [V; LANES] {
    let mut loaded = [V::splat(0.0); LANES];
    for (to, row) in loaded.iter_mut().zip(rows) {
        *to = V::load(&row.0);
    }
    loaded
}

/// Runs `kernel` on the widest vectors that the processor has.
#[inline]
pub(crate) fn on_vectors<K: Kernel>(kernel: K) -> K::Result {
    #[cfg(target_arch = "x86_64")]
    match super::simd::has_avx2() {
        // SAFETY: the processor has the instructions that the function is compiled for.
        true => unsafe { with_avx2(kernel) },
        false => kernel.run::<Lanes>(),
    }
    #[cfg(target_arch = "aarch64")]
    return kernel.run::<neon::Vector>();
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    kernel.run::<Lanes>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2<K: Kernel>(kernel: K) -> K::Result {
    kernel.run::<avx2::Vector>()
}

/// What the compiler makes of plain loops.
impl Eight for Lanes {
    #[inline(always)]
    fn splat(value: f32) -> Lanes {
        [value; LANES]
    }
    #[inline(always)]
    fn load(from: &Lanes) -> Lanes {
        *from
    }
    #[inline(always)]
    unsafe fn read(from: *const f32) -> Lanes {
        // SAFETY: eight floats lie there; an array of floats needs no other alignment than a float.
        unsafe { *from.cast() }
    }
    #[inline(always)]
    unsafe fn bytes<const SIGNED: bool>(from: *const u8) -> Lanes {
        // SAFETY: eight bytes lie there.
        let bytes: [u8; LANES] = unsafe { *from.cast() };
        bytes.map(|b| if SIGNED { f32::from(b as i8) } else { f32::from(b) })
    }
    #[inline(always)]
    unsafe fn nibbles<const FLIP: u8>(from: *const u8) -> (Lanes, Lanes) {
        // SAFETY: eight bytes lie there.
        let bytes: [u8; LANES] = unsafe { *from.cast() };
        (bytes.map(|b| f32::from((b ^ FLIP) & 0x0F)), bytes.map(|b| f32::from((b ^ FLIP) & 0xF0)))
    }
    #[inline(always)]
    fn store(self, to: &mut Lanes) {
        *to = self;
    }
    #[inline(always)]
    fn multiply_add(self, y: Lanes, sum: Lanes) -> Lanes {
        std::array::from_fn(|i| self[i] * y[i] + sum[i])
    }
    #[inline(always)]
    fn plus(self, y: Lanes) -> Lanes {
        std::array::from_fn(|i| self[i] + y[i])
    }
    #[inline(always)]
    fn max(self, y: Lanes) -> Lanes {
        std::array::from_fn(|i| self[i].max(y[i]))
    }
    #[inline(always)]
    fn min(self, y: Lanes) -> Lanes {
        std::array::from_fn(|i| self[i].min(y[i]))
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        self.iter().sum()
    }
    #[inline(always)]
    fn transpose(rows: [Lanes; LANES]) -> [Lanes; LANES] {
        std::array::from_fn(|j| std::array::from_fn(|i| rows[i][j]))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Eight, LANES, Lanes};

    #[derive(Clone, Copy)]
    pub struct Vector(__m256);

    // SAFETY of the arithmetic below: it is inlined into functions that run where the processor has AVX2 and FMA.

    impl Eight for Vector {
        #[inline(always)]
        fn splat(value: f32) -> Vector {
            unsafe { Vector(_mm256_set1_ps(value)) }
        }
        #[inline(always)]
        fn load(from: &Lanes) -> Vector {
            // SAFETY: the array holds eight floats.
            unsafe { Vector::read(from.as_ptr()) }
        }
        #[inline(always)]
        unsafe fn read(from: *const f32) -> Vector {
            unsafe { Vector(_mm256_loadu_ps(from)) }
        }
        #[inline(always)]
        unsafe fn bytes<const SIGNED: bool>(from: *const u8) -> Vector {
            unsafe {
                let eight = _mm_loadl_epi64(from.cast());
                let wide = if SIGNED { _mm256_cvtepi8_epi32(eight) } else { _mm256_cvtepu8_epi32(eight) };
                Vector(_mm256_cvtepi32_ps(wide))
            }
        }
        #[inline(always)]
        unsafe fn nibbles<const FLIP: u8>(from: *const u8) -> (Vector, Vector) {
            unsafe {
                let eight = _mm_loadl_epi64(from.cast());
                let eight = if FLIP == 0 { eight } else { _mm_xor_si128(eight, _mm_set1_epi8(FLIP as i8)) };
                let wide = _mm256_cvtepu8_epi32(eight);
                let low = _mm256_and_si256(wide, _mm256_set1_epi32(0x0F));
                let high = _mm256_and_si256(wide, _mm256_set1_epi32(0xF0));
                (Vector(_mm256_cvtepi32_ps(low)), Vector(_mm256_cvtepi32_ps(high)))
            }
        }
        #[inline(always)]
        fn store(self, to: &mut Lanes) {
            // SAFETY: the array holds eight floats.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), self.0) }
        }
        #[inline(always)]
        fn multiply_add(self, y: Vector, sum: Vector) -> Vector {
            unsafe { Vector(_mm256_fmadd_ps(self.0, y.0, sum.0)) }
        }
        #[inline(always)]
        fn plus(self, y: Vector) -> Vector {
            unsafe { Vector(_mm256_add_ps(self.0, y.0)) }
        }
        #[inline(always)]
        fn max(self, y: Vector) -> Vector {
            unsafe { Vector(_mm256_max_ps(self.0, y.0)) }
        }
        #[inline(always)]
        fn min(self, y: Vector) -> Vector {
            unsafe { Vector(_mm256_min_ps(self.0, y.0)) }
        }
        #[inline(always)]
        fn sum(self) -> f32 {
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps(self.0, 1));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)))
            }
        }
        #[inline(always)]
        fn transpose(rows: [Vector; LANES]) -> [Vector; LANES] {
            let [Vector(a), Vector(b), Vector(c), Vector(d), Vector(e), Vector(f), Vector(g), Vector(h)] = rows;
            unsafe {
                let (ab0, ab1) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                let (cd0, cd1) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
                let (ef0, ef1) = (_mm256_unpacklo_ps(e, f), _mm256_unpackhi_ps(e, f));
                let (gh0, gh1) = (_mm256_unpacklo_ps(g, h), _mm256_unpackhi_ps(g, h));
                let (ad0, ad1) = (_mm256_shuffle_ps(ab0, cd0, 0x44), _mm256_shuffle_ps(ab0, cd0, 0xEE));
                let (ad2, ad3) = (_mm256_shuffle_ps(ab1, cd1, 0x44), _mm256_shuffle_ps(ab1, cd1, 0xEE));
                let (eh0, eh1) = (_mm256_shuffle_ps(ef0, gh0, 0x44), _mm256_shuffle_ps(ef0, gh0, 0xEE));
                let (eh2, eh3) = (_mm256_shuffle_ps(ef1, gh1, 0x44), _mm256_shuffle_ps(ef1, gh1, 0xEE));
                [
                    Vector(_mm256_permute2f128_ps(ad0, eh0, 0x20)),
                    Vector(_mm256_permute2f128_ps(ad1, eh1, 0x20)),
                    Vector(_mm256_permute2f128_ps(ad2, eh2, 0x20)),
                    Vector(_mm256_permute2f128_ps(ad3, eh3, 0x20)),
                    Vector(_mm256_permute2f128_ps(ad0, eh0, 0x31)),
                    Vector(_mm256_permute2f128_ps(ad1, eh1, 0x31)),
                    Vector(_mm256_permute2f128_ps(ad2, eh2, 0x31)),
                    Vector(_mm256_permute2f128_ps(ad3, eh3, 0x31)),
                ]
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    use super::{Eight, LANES, Lanes};

    #[derive(Clone, Copy)]
    pub struct Vector(float32x4_t, float32x4_t);

    // SAFETY of the arithmetic below: NEON is part of every aarch64 that the crate is compiled for.

    /// Row `i` of the result holds value `i` of each of `rows`.
    #[inline(always)]
    fn transpose4([a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
        unsafe {
            let (ab0, ab1) = (vreinterpretq_f64_f32(vtrn1q_f32(a, b)), vreinterpretq_f64_f32(vtrn2q_f32(a, b)));
            let (cd0, cd1) = (vreinterpretq_f64_f32(vtrn1q_f32(c, d)), vreinterpretq_f64_f32(vtrn2q_f32(c, d)));
            [
                vreinterpretq_f32_f64(vtrn1q_f64(ab0, cd0)),
                vreinterpretq_f32_f64(vtrn1q_f64(ab1, cd1)),
                vreinterpretq_f32_f64(vtrn2q_f64(ab0, cd0)),
                vreinterpretq_f32_f64(vtrn2q_f64(ab1, cd1)),
            ]
        }
    }

    #[inline(always)]
    fn widened(bytes: uint8x8_t) -> Vector {
        unsafe {
            let wide = vmovl_u8(bytes);
            let (low, high) = (vmovl_u16(vget_low_u16(wide)), vmovl_u16(vget_high_u16(wide)));
            Vector(vcvtq_f32_u32(low), vcvtq_f32_u32(high))
        }
    }

    impl Eight for Vector {
        #[inline(always)]
        fn splat(value: f32) -> Vector {
            unsafe { Vector(vdupq_n_f32(value), vdupq_n_f32(value)) }
        }
        #[inline(always)]
        fn load(from: &Lanes) -> Vector {
            // SAFETY: the array holds eight floats.
            unsafe { Vector::read(from.as_ptr()) }
        }
        #[inline(always)]
        unsafe fn read(from: *const f32) -> Vector {
            unsafe { Vector(vld1q_f32(from), vld1q_f32(from.add(4))) }
        }
        #[inline(always)]
        unsafe fn bytes<const SIGNED: bool>(from: *const u8) -> Vector {
            unsafe {
                if SIGNED {
                    let wide = vmovl_s8(vld1_s8(from.cast()));
                    let (low, high) = (vmovl_s16(vget_low_s16(wide)), vmovl_s16(vget_high_s16(wide)));
                    return Vector(vcvtq_f32_s32(low), vcvtq_f32_s32(high));
                }
                widened(vld1_u8(from))
            }
        }
        #[inline(always)]
        unsafe fn nibbles<const FLIP: u8>(from: *const u8) -> (Vector, Vector) {
            unsafe {
                let eight = veor_u8(vld1_u8(from), vdup_n_u8(FLIP));
                (widened(vand_u8(eight, vdup_n_u8(0x0F))), widened(vand_u8(eight, vdup_n_u8(0xF0))))
            }
        }
        #[inline(always)]
        fn store(self, to: &mut Lanes) {
            // SAFETY: the array holds eight floats.
            unsafe {
                vst1q_f32(to.as_mut_ptr(), self.0);
                vst1q_f32(to.as_mut_ptr().add(4), self.1);
            }
        }
        #[inline(always)]
        fn multiply_add(self, y: Vector, sum: Vector) -> Vector {
            unsafe { Vector(vfmaq_f32(sum.0, self.0, y.0), vfmaq_f32(sum.1, self.1, y.1)) }
        }
        #[inline(always)]
        fn plus(self, y: Vector) -> Vector {
            unsafe { Vector(vaddq_f32(self.0, y.0), vaddq_f32(self.1, y.1)) }
        }
        #[inline(always)]
        fn max(self, y: Vector) -> Vector {
            unsafe { Vector(vmaxnmq_f32(self.0, y.0), vmaxnmq_f32(self.1, y.1)) }
        }
        #[inline(always)]
        fn min(self, y: Vector) -> Vector {
            unsafe { Vector(vminnmq_f32(self.0, y.0), vminnmq_f32(self.1, y.1)) }
        }
        #[inline(always)]
        fn sum(self) -> f32 {
            unsafe {
                let four = vaddq_f32(self.0, self.1);
                let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
                vget_lane_f32(two, 0) + vget_lane_f32(two, 1)
            }
        }
        #[inline(always)]
        fn transpose([a, b, c, d, e, f, g, h]: [Vector; LANES]) -> [Vector; LANES] {
            let [a0, a1, a2, a3] = transpose4([a.0, b.0, c.0, d.0]);
            let [b0, b1, b2, b3] = transpose4([e.0, f.0, g.0, h.0]);
            let [a4, a5, a6, a7] = transpose4([a.1, b.1, c.1, d.1]);
            let [b4, b5, b6, b7] = transpose4([e.1, f.1, g.1, h.1]);
            [
                Vector(a0, b0),
                Vector(a1, b1),
                Vector(a2, b2),
                Vector(a3, b3),
                Vector(a4, b4),
                Vector(a5, b5),
                Vector(a6, b6),
                Vector(a7, b7),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Everything<'a>(&'a [Lanes; LANES]);

    impl Kernel for Everything<'_> {
        type Result = Vec<Lanes>;
        #[inline(always)]
        fn run<V: Eight>(self) -> Vec<Lanes> {
            let [a, b, c, ..] = self.0.map(|row| V::load(&row));
            let all = [a.multiply_add(b, c), a.plus(b), a.max(b), a.min(b), V::splat(a.sum())];
            let stored: [u8; LANES] = std::array::from_fn(|i| (i * 37 + 200) as u8);
            // SAFETY: eight bytes lie there.
            let numbers = unsafe {
                let (low, high) = V::nibbles::<0>(stored.as_ptr());
                let (low_flipped, high_flipped) = V::nibbles::<0x88>(stored.as_ptr());
                let (bytes, signed) = (V::bytes::<false>(stored.as_ptr()), V::bytes::<true>(stored.as_ptr()));
                [low, high, low_flipped, high_flipped, bytes, signed]
            };
            let turned = V::transpose(self.0.map(|row| V::load(&row)));
            let kept = |v: V| {
                let mut lanes = [0.0; LANES];
                v.store(&mut lanes);
                lanes
            };
            all.into_iter().chain(turned).chain(numbers).map(kept).collect()
        }
    }

    #[test]
    fn vectors_do_what_plain_loops_do() {
        // Small whole numbers: no operation rounds.
        let rows = std::array::from_fn(|i| std::array::from_fn(|j| ((i * 8 + j) * 37 % 61) as f32 - 30.0));
        let plain = Everything(&rows).run::<Lanes>();
        assert_eq!(on_vectors(Everything(&rows)), plain);
        for (i, j) in (0..LANES).flat_map(|i| (0..LANES).map(move |j| (i, j))) {
            assert_eq!(plain[5 + j][i], rows[i][j]);
        }
    }
}
