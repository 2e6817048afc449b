//! Products with a short side whose operands both lie along the sum: they are read where they lie.
//!
//! Such is `x·Wᵀ` for a stored W of `[out, in]`, and `dy·Wᵀ` for one of `[in, out]`. Kernels that want rows of the
//! right operand turn all of it around for each product, which few rows do not repay. Here a register holds eight
//! products of each of 4×3 values until the end of the sum. Measured in GFLOP/s (AMD EPYC with AVX2, one thread, all
//! in one run, best of 15), *turned* being `gemm` with an operand that was turned around beforehand:
//!
//! | m x k x n | turned | gemm | matrixmultiply | dots |
//! |---|---|---|---|---|
//! | 1x576x1536; 1x1536x576 | 22; 20 | 26; 26 | 3; 3 | 25; 28 |
//! | 4x576x1536; 8x1536x576 | 45; 60 | 20; 31 | 17; 36 | 81; 78 |
//! | 16x576x1536; 32x384x384 | 55; 73 | 45; 64 | 47; 63 | 80; 84 |
//! | 32x1536x384; 64x768x768 | 69; 87 | 63; 79 | 64; 75 | 79; 87 |
//! | 128x576x1536; 512x384x1536 | 72; 71 | 62; 92 | 65; 82 | 58; 77 |

use super::{MatMut, MatRef};

/// Fewest rows for which other kernels are as fast.
const MANY_ROWS: usize = 128;
/// Shorter sums and fewer columns do not fill the registers.
const SHORTEST: usize = 32;
const NARROWEST: usize = 16;
/// Bytes of the left operand that stay in the second-level cache.
const CACHED: usize = 256 << 10;

/// Whether a product is of this kind, and the processor has the instructions for it.
pub(super) fn suits(a: &MatRef<'_>, b: &MatRef<'_>) -> bool {
    let (m, k, n) = (a.shape.rows, a.shape.cols, b.shape.cols);
    let along = a.shape.cs == 1 && b.shape.rs == 1 && (n == 1 || b.shape.cs > 1);
    along && m.min(n) < MANY_ROWS && k >= SHORTEST && m.max(n) >= NARROWEST && vector::is_there()
}

/// `C := alpha·A·B + beta·C` of a product that [`suits`], or of a part of one; shapes were checked. Each value is
/// summed in the same order wherever it lies.
pub(super) fn product(alpha: f32, a: MatRef<'_>, b: MatRef<'_>, beta: f32, c: MatMut<'_>) {
    debug_assert!(a.shape.cs == 1 && b.shape.rs == 1 && vector::is_there());
    // C^T = B^T·A^T, whose sums are the same: the shorter side makes the rows.
    let (a, b, c) = if a.shape.rows > b.shape.cols { (b.t(), a.t(), c.t()) } else { (a, b, c) };
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `suits` has seen that the processor has these instructions.
    unsafe {
        by_avx2(alpha, a, b, beta, c)
    };
    #[cfg(not(target_arch = "x86_64"))]
    rows(alpha, a, b, beta, c);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn by_avx2(alpha: f32, a: MatRef<'_>, b: MatRef<'_>, beta: f32, c: MatMut<'_>) {
    rows(alpha, a, b, beta, c);
}

/// As many rows at a time as stay in the cache.
#[inline(always)]
fn rows(alpha: f32, a: MatRef<'_>, b: MatRef<'_>, beta: f32, c: MatMut<'_>) {
    let (m, k, n) = (a.shape.rows, a.shape.cols, b.shape.cols);
    let at_once = (CACHED / (4 * k)).max(4) / 4 * 4;
    let put = |i: usize, j: usize, sum: f32| {
        // SAFETY: the element lies within the matrix, which is borrowed exclusively.
        let v = unsafe { &mut *c.data.add(i * c.shape.rs + j * c.shape.cs) };
        *v = if beta == 0.0 { alpha * sum } else { alpha * sum + beta * *v };
    };
    let line = |i: usize| &a.data[i * a.shape.rs..][..k];
    let column = |j: usize| &b.data[j * b.shape.cs..][..k];
    for first in (0..m).step_by(at_once) {
        let rows = first..m.min(first + at_once);
        let mut j = 0;
        if rows.len() == 1 {
            while j + 8 <= n {
                panel::<8>(&rows, j, &line, &column, &put);
                j += 8;
            }
        }
        while j + 3 <= n {
            panel::<3>(&rows, j, &line, &column, &put);
            j += 3;
        }
        while j < n {
            panel::<1>(&rows, j, &line, &column, &put);
            j += 1;
        }
    }
}

/// `C` columns of the result.
#[inline(always)]
fn panel<'a, const C: usize>(
    rows: &std::ops::Range<usize>,
    j: usize,
    line: &impl Fn(usize) -> &'a [f32],
    column: &impl Fn(usize) -> &'a [f32],
    put: &impl Fn(usize, usize, f32),
) {
    let b: [&[f32]; C] = std::array::from_fn(|c| column(j + c));
    let mut i = rows.start;
    while i + 4 <= rows.end {
        let a: [&[f32]; 4] = std::array::from_fn(|r| line(i + r));
        let sums = block(&a, &b);
        sums.iter().enumerate().for_each(|(r, sums)| sums.iter().enumerate().for_each(|(c, s)| put(i + r, j + c, *s)));
        i += 4;
    }
    while i < rows.end {
        let sums = block(&[line(i)], &b);
        sums[0].iter().enumerate().for_each(|(c, s)| put(i, j + c, *s));
        i += 1;
    }
}

/// `sum over i of a[r][i]·b[c][i]` for slices of one length.
#[inline(always)]
fn block<const R: usize, const C: usize>(a: &[&[f32]; R], b: &[&[f32]; C]) -> [[f32; C]; R] {
    let k = b[0].len();
    assert!(a.iter().chain(b).all(|line| line.len() == k), "lines of one length");
    let mut sums = [[vector::zero(); C]; R];
    let whole = k / vector::LANES * vector::LANES;
    let mut at = 0;
    while at < whole {
        // SAFETY: eight values from `at` on lie within each line.
        let y: [vector::Eight; C] = std::array::from_fn(|c| unsafe { vector::load(b[c].as_ptr().add(at)) });
        for r in 0..R {
            // SAFETY: as above.
            let x = unsafe { vector::load(a[r].as_ptr().add(at)) };
            for c in 0..C {
                sums[r][c] = vector::multiply_add(x, y[c], sums[r][c]);
            }
        }
        at += vector::LANES;
    }
    std::array::from_fn(|r| {
        std::array::from_fn(|c| {
            let rest = a[r][whole..].iter().zip(&b[c][whole..]);
            rest.fold(vector::sum(sums[r][c]), |sum, (x, y)| sum + x * y)
        })
    })
}

/// Eight floats in registers.
#[cfg(target_arch = "x86_64")]
mod vector {
    use std::arch::x86_64::*;

    pub type Eight = __m256;
    pub const LANES: usize = 8;

    pub fn is_there() -> bool {
        crate::linalg::simd::has_avx2()
    }

    // SAFETY of all below: they are inlined into `by_avx2`, which is called where the processor has the instructions.

    #[inline(always)]
    pub fn zero() -> Eight {
        unsafe { _mm256_setzero_ps() }
    }

    /// # Safety
    /// Eight floats can be read at `from`.
    #[inline(always)]
    pub unsafe fn load(from: *const f32) -> Eight {
        unsafe { _mm256_loadu_ps(from) }
    }

    /// `x·y + sum`, rounded once.
    #[inline(always)]
    pub fn multiply_add(x: Eight, y: Eight, sum: Eight) -> Eight {
        unsafe { _mm256_fmadd_ps(x, y, sum) }
    }

    #[inline(always)]
    pub fn sum(v: Eight) -> f32 {
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)))
        }
    }
}

/// Eight floats in registers.
#[cfg(target_arch = "aarch64")]
mod vector {
    use std::arch::aarch64::*;

    pub type Eight = float32x4x2_t;
    pub const LANES: usize = 8;

    pub fn is_there() -> bool {
        true
    }

    // SAFETY of all below: NEON is part of every aarch64 that the crate is compiled for.

    #[inline(always)]
    pub fn zero() -> Eight {
        unsafe { float32x4x2_t(vdupq_n_f32(0.0), vdupq_n_f32(0.0)) }
    }

    /// # Safety
    /// Eight floats can be read at `from`.
    #[inline(always)]
    pub unsafe fn load(from: *const f32) -> Eight {
        unsafe { float32x4x2_t(vld1q_f32(from), vld1q_f32(from.add(4))) }
    }

    /// `x·y + sum`, rounded once.
    #[inline(always)]
    pub fn multiply_add(x: Eight, y: Eight, sum: Eight) -> Eight {
        unsafe { float32x4x2_t(vfmaq_f32(sum.0, x.0, y.0), vfmaq_f32(sum.1, x.1, y.1)) }
    }

    #[inline(always)]
    pub fn sum(v: Eight) -> f32 {
        unsafe {
            let four = vaddq_f32(v.0, v.1);
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32(two, 0) + vget_lane_f32(two, 1)
        }
    }
}

/// Other processors use other kernels.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod vector {
    pub type Eight = [f32; 8];
    pub const LANES: usize = 8;

    pub fn is_there() -> bool {
        false
    }

    pub fn zero() -> Eight {
        [0.0; 8]
    }

    /// # Safety
    /// Eight floats can be read at `from`.
    pub unsafe fn load(from: *const f32) -> Eight {
        unsafe { from.cast::<Eight>().read_unaligned() }
    }

    pub fn multiply_add(x: Eight, y: Eight, sum: Eight) -> Eight {
        std::array::from_fn(|i| x[i] * y[i] + sum[i])
    }

    pub fn sum(v: Eight) -> f32 {
        v.iter().sum()
    }
}
