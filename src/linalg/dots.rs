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

use super::eight::{Eight, Kernel, LANES, has_vectors, on_vectors, prefetch};
use super::{MatMut, MatRef};

/// Fewest rows for which other kernels are as fast.
const MANY_ROWS: usize = 128;
/// Shorter sums and fewer columns do not fill the registers.
const SHORTEST: usize = 32;
const NARROWEST: usize = 16;
/// Fewest rows for which columns are fetched ahead; fewer wait for memory as it is.
const FETCHED_FROM: usize = 3;
/// Bytes of the left operand that stay in the second-level cache.
const CACHED: usize = 256 << 10;

/// Whether a product is of this kind, and the processor has the instructions for it.
pub(super) fn suits(a: &MatRef<'_>, b: &MatRef<'_>) -> bool {
    let (m, k, n) = (a.shape.rows, a.shape.cols, b.shape.cols);
    let along = a.shape.cs == 1 && b.shape.rs == 1 && (n == 1 || b.shape.cs > 1);
    along && m.min(n) < MANY_ROWS && k >= SHORTEST && m.max(n) >= NARROWEST && has_vectors()
}

/// `C := alpha·A·B + beta·C` of a product that [`suits`], or of a part of one; shapes were checked. Each value is
/// summed in the same order wherever it lies.
pub(super) fn product(alpha: f32, a: MatRef<'_>, b: MatRef<'_>, beta: f32, c: MatMut<'_>) {
    debug_assert!(a.shape.cs == 1 && b.shape.rs == 1 && has_vectors());
    // C^T = B^T·A^T, whose sums are the same: the shorter side makes the rows.
    let (a, b, c) = if a.shape.rows > b.shape.cols { (b.t(), a.t(), c.t()) } else { (a, b, c) };
    on_vectors(Rows { alpha, a, b, beta, c });
}

struct Rows<'a> {
    alpha: f32,
    a: MatRef<'a>,
    b: MatRef<'a>,
    beta: f32,
    c: MatMut<'a>,
}

impl Kernel for Rows<'_> {
    type Result = ();
    #[inline(always)]
    fn run<V: Eight>(self) {
        rows::<V>(self.alpha, self.a, self.b, self.beta, self.c);
    }
}

/// As many rows at a time as stay in the cache.
#[inline(always)]
fn rows<V: Eight>(alpha: f32, a: MatRef<'_>, b: MatRef<'_>, beta: f32, c: MatMut<'_>) {
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
                panel::<V, 8>(&rows, (j, n), &line, &column, &put);
                j += 8;
            }
        }
        while j + 3 <= n {
            panel::<V, 3>(&rows, (j, n), &line, &column, &put);
            j += 3;
        }
        while j < n {
            panel::<V, 1>(&rows, (j, n), &line, &column, &put);
            j += 1;
        }
    }
}

/// `C` columns of the result from `j` on, of `last`.
#[inline(always)]
fn panel<'a, V: Eight, const C: usize>(
    rows: &std::ops::Range<usize>,
    (j, last): (usize, usize),
    line: &impl Fn(usize) -> &'a [f32],
    column: &impl Fn(usize) -> &'a [f32],
    put: &impl Fn(usize, usize, f32),
) {
    let b: [&[f32]; C] = std::array::from_fn(|c| column(j + c));
    // While these columns are in use, the next ones come from memory: of a model's weights, none are in the cache.
    let next = if rows.len() >= FETCHED_FROM { j + C..last.min(j + 2 * C) } else { 0..0 };
    let share = b[0].len().div_ceil(rows.len().div_ceil(4)).next_multiple_of(16);
    let mut fetched = 0;
    let mut fetch = || {
        next.clone().filter_map(|c| column(c).get(fetched..)).for_each(|c| prefetch(&c[..share.min(c.len())]));
        fetched += share;
    };
    let mut i = rows.start;
    while i + 4 <= rows.end {
        fetch();
        let a: [&[f32]; 4] = std::array::from_fn(|r| line(i + r));
        let sums = block::<V, 4, C>(&a, &b);
        sums.iter().enumerate().for_each(|(r, sums)| sums.iter().enumerate().for_each(|(c, s)| put(i + r, j + c, *s)));
        i += 4;
    }
    while i < rows.end {
        fetch();
        let sums = block::<V, 1, C>(&[line(i)], &b);
        sums[0].iter().enumerate().for_each(|(c, s)| put(i, j + c, *s));
        i += 1;
    }
}

/// `sum over i of a[r][i]·b[c][i]` for slices of one length.
#[inline(always)]
fn block<V: Eight, const R: usize, const C: usize>(a: &[&[f32]; R], b: &[&[f32]; C]) -> [[f32; C]; R] {
    let k = b[0].len();
    assert!(a.iter().chain(b).all(|line| line.len() == k), "lines of one length");
    let mut sums = [[V::splat(0.0); C]; R];
    let whole = k / LANES * LANES;
    let mut at = 0;
    while at < whole {
        let mut y = [V::splat(0.0); C];
        for c in 0..C {
            // SAFETY: eight values from `at` on lie within each line.
            y[c] = unsafe { V::read(b[c].as_ptr().add(at)) };
        }
        for r in 0..R {
            // SAFETY: as above.
            let x = unsafe { V::read(a[r].as_ptr().add(at)) };
            for c in 0..C {
                sums[r][c] = x.multiply_add(y[c], sums[r][c]);
            }
        }
        at += LANES;
    }
    let mut out = [[0.0; C]; R];
    for r in 0..R {
        for c in 0..C {
            let rest = a[r][whole..].iter().zip(&b[c][whole..]);
            out[r][c] = rest.fold(sums[r][c].sum(), |sum, (x, y)| sum + x * y);
        }
    }
    out
}
